//! From an address and the variables of an app to a connection.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::Error;
use super::credentials::{self, Settings, Variables};
use super::location::{Location, Scheme};
use super::remote::Remote;
use super::wire::Shared;

/// What to do where a store refuses whoever says nothing of himself.
macro_rules! give {
    ($variables:literal) => {
        concat!(
            "it was asked for without credentials, since none were found: give the app ",
            $variables,
            ", for example as `secrets`"
        )
    };
}
const AWS: &str = give!("`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`");
const AWS_ELSEWHERE: &str = "the AWS profile gets its credentials from a login, a role or a program, which is \
                             not followed here: give the app what `aws configure export-credentials --format \
                             env-no-export` prints";
const GOOGLE: &str = give!("`GOOGLE_SERVICE_ACCOUNT_KEY` or `GOOGLE_APPLICATION_CREDENTIALS`");
const AZURE: &str = give!("`AZURE_STORAGE_ACCOUNT_KEY` or `AZURE_STORAGE_SAS_TOKEN`");

/// Few, since what was begun goes on from where it stood with attempts of its own.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: Duration::from_secs(60),
        ..RetryConfig::default()
    }
}

/// Opens the place that `location` is in.
///
/// # Errors
/// What is missing or wrong among the settings, with the address.
pub async fn open(
    location: &Location,
    variables: &Variables,
    client: &reqwest::Client,
) -> Result<Remote, Error> {
    let wrong = |error: object_store::Error| Error::Address {
        url: location.shown(),
        reason: error.to_string(),
    };
    match location.scheme {
        Scheme::Http => Ok(Remote::Web {
            client: client.clone(),
        }),
        Scheme::S3 => s3(location, credentials::aws(variables), client)
            .await
            .map_err(wrong),
        Scheme::Gcs => google(location, &credentials::google(variables), client).map_err(wrong),
        Scheme::Azure => {
            let settings = credentials::azure(variables);
            if settings.get("azure_storage_account_name").is_none()
                && !location.bucket.contains('@')
            {
                return Err(Error::Address {
                    url: location.shown(),
                    reason: "it names no account, and `AZURE_STORAGE_ACCOUNT_NAME` is not set"
                        .to_owned(),
                });
            }
            azure(location, &settings, client).map_err(wrong)
        }
    }
}

fn remote(
    store: impl ObjectStore,
    location: &Location,
    service: Option<&str>,
    anonymous: Option<&'static str>,
) -> Remote {
    Remote::Store {
        store: Arc::new(store),
        scheme: location.scheme,
        service: service.unwrap_or_default().to_owned(),
        anonymous,
    }
}

async fn s3(
    location: &Location,
    settings: Settings,
    client: &reqwest::Client,
) -> object_store::Result<Remote> {
    let mut builder = AmazonS3Builder::new().with_client_options(asking_for_checksums());
    for (name, value) in &settings.values {
        if let Ok(setting) = name.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(setting, value);
        }
    }
    let endpoint = settings
        .get("aws_endpoint_url_s3")
        .or(settings.get("aws_endpoint_url"));
    let has_region = ["aws_region", "aws_default_region"]
        .iter()
        .any(|name| settings.get(name).is_some());
    if !has_region
        && endpoint.is_none()
        && let Some(region) = region_of(&location.bucket, client).await
    {
        builder = builder.with_region(region);
    }
    let store = builder
        .with_bucket_name(&location.bucket)
        .with_skip_signature(settings.anonymous)
        .with_retry(retries())
        .with_http_connector(Shared(client.clone()))
        .build()?;
    let advice = if settings.elsewhere {
        AWS_ELSEWHERE
    } else {
        AWS
    };
    let anonymous = settings.anonymous.then_some(advice);
    Ok(remote(store, location, endpoint, anonymous))
}

/// S3 keeps checksums of most objects, cheaper ones than MD5, and tells them when asked.
fn asking_for_checksums() -> ClientOptions {
    let name = HeaderName::from_static("x-amz-checksum-mode");
    let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("ENABLED"))]);
    ClientOptions::new().with_default_headers(headers)
}

/// S3 tells anybody where a bucket is.
async fn region_of(bucket: &str, client: &reqwest::Client) -> Option<String> {
    let url = format!("https://s3.amazonaws.com/{bucket}");
    let answer = client
        .head(url)
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .ok()?;
    let region = answer.headers().get("x-amz-bucket-region")?;
    region.to_str().ok().map(str::to_owned)
}

fn google(
    location: &Location,
    settings: &Settings,
    client: &reqwest::Client,
) -> object_store::Result<Remote> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in &settings.values {
        if let Ok(setting) = name.parse::<GoogleConfigKey>() {
            builder = builder.with_config(setting, value);
        }
    }
    let store = builder
        .with_bucket_name(&location.bucket)
        .with_skip_signature(settings.anonymous)
        .with_retry(retries())
        .with_http_connector(Shared(client.clone()))
        .build()?;
    let anonymous = settings.anonymous.then_some(GOOGLE);
    Ok(remote(
        store,
        location,
        settings.get("google_base_url"),
        anonymous,
    ))
}

fn azure(
    location: &Location,
    settings: &Settings,
    client: &reqwest::Client,
) -> object_store::Result<Remote> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in &settings.values {
        if let Ok(setting) = name.parse::<AzureConfigKey>() {
            builder = builder.with_config(setting, value);
        }
    }
    builder = match location.bucket.split_once('@') {
        None => builder.with_container_name(&location.bucket),
        // An emulator has no domain of its own: the account is all that is said.
        Some((container, account)) if !account.contains('.') => {
            builder.with_container_name(container).with_account(account)
        }
        Some(_) => builder.with_url(&location.url),
    };
    let store = builder
        .with_skip_signature(settings.anonymous)
        .with_retry(retries())
        .with_http_connector(Shared(client.clone()))
        .build()?;
    let anonymous = settings.anonymous.then_some(AZURE);
    let account = settings
        .get("azure_storage_endpoint")
        .or(settings.get("azure_storage_account_name"));
    Ok(remote(store, location, account, anonymous))
}
