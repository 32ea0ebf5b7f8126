//! Who asks: what the usual variables and files say of credentials and endpoints.
//!
//! Variables of Flyte's own come first, then those of the store's own tools, then the file that
//! those write. Where none of it says anything and the machine is none of the provider's, which
//! would vouch for its programs, the request is anonymous: asking a metadata service that is not
//! there takes a minute to fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables of the process, by name.
pub type Variables = BTreeMap<String, String>;

/// Variables of Flyte and the AWS settings they stand for.
const FLYTE_AWS: &[(&str, &str)] = &[
    ("FLYTE_AWS_ENDPOINT", "aws_endpoint_url"),
    ("FLYTE_AWS_ACCESS_KEY_ID", "aws_access_key_id"),
    ("FLYTE_AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
    ("FLYTE_AWS_SESSION_TOKEN", "aws_session_token"),
];

/// Settings of a store, under the names that `object_store` knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub values: BTreeMap<String, String>,
    /// Nothing was found that says who asks.
    pub anonymous: bool,
    /// A profile gets its credentials in a way that is not followed here.
    pub elsewhere: bool,
}

impl Settings {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.values.contains_key(*name))
    }
}

fn given<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

fn with_prefix(variables: &Variables, prefix: &str) -> BTreeMap<String, String> {
    variables
        .iter()
        .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect()
}

/// Entries of a profile whose credentials come from a login, a role or a program.
const OF_OTHERS: &[&str] = &[
    "credential_process",
    "role_arn",
    "sso_account_id",
    "sso_session",
    "sso_start_url",
];

/// What is set for S3.
pub fn aws(variables: &Variables) -> Settings {
    let mut settings = Settings {
        values: with_prefix(variables, "AWS_"),
        ..Settings::default()
    };
    // A session's token is good beside the key of that session, and refused beside another one.
    let session_key = given(variables, "AWS_ACCESS_KEY_ID");
    let key = given(variables, "FLYTE_AWS_ACCESS_KEY_ID").or(session_key);
    if session_key.is_some() && key != session_key {
        settings.values.remove("aws_session_token");
    }
    for (name, setting) in FLYTE_AWS {
        if let Some(value) = given(variables, name) {
            settings
                .values
                .insert((*setting).to_owned(), value.to_owned());
        }
    }
    if given(variables, "FLYTE_AWS_S3_ADDRESSING_STYLE") == Some("virtual") {
        let name = "aws_virtual_hosted_style_request".to_owned();
        settings.values.insert(name, "true".to_owned());
    }
    // Where the variables hold one half of a pair, a file must not supply the other.
    if !settings.has(&["aws_access_key_id", "aws_secret_access_key"]) {
        let profile = aws_profile(variables);
        settings.elsewhere = profile.iter().any(|(name, _)| OF_OTHERS.contains(&&**name));
        for (name, value) in profile.into_iter().filter_map(setting) {
            settings.values.entry(name).or_insert(value);
        }
    }
    let vouched = settings.has(&[
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_web_identity_token_file",
        "aws_container_credentials_relative_uri",
        "aws_container_credentials_full_uri",
    ]);
    settings.anonymous = !vouched && !is_machine_of("Amazon EC2");
    settings
}

/// The profile in the files of the AWS command line.
fn aws_profile(variables: &Variables) -> Vec<(String, String)> {
    let profile = given(variables, "AWS_PROFILE").unwrap_or("default");
    let file = |variable: &str, name: &str| {
        given(variables, variable)
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(given(variables, "HOME")?).join(".aws").join(name)))
            .and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default()
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let headings = [profile.to_owned(), format!("profile {profile}")];
    let mut found = section(&credentials, &headings);
    found.extend(section(&config, &headings));
    found
}

/// An entry of a profile under the name that `object_store` knows.
fn setting((name, value): (String, String)) -> Option<(String, String)> {
    let setting = match name.as_str() {
        "aws_access_key_id" | "aws_secret_access_key" | "aws_session_token" => name,
        "region" => "aws_region".to_owned(),
        "endpoint_url" => "aws_endpoint_url".to_owned(),
        _ => return None,
    };
    Some((setting, value))
}

/// The entries below any of the headings of an INI file.
fn section(text: &str, headings: &[String]) -> Vec<(String, String)> {
    let mut inside = false;
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(heading) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            inside = headings.iter().any(|wanted| wanted == heading.trim());
        } else if let Some((name, value)) = line.split_once('=')
            && inside
            && !line.starts_with(['#', ';'])
        {
            entries.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

/// What is set for Google's store.
pub fn google(variables: &Variables) -> Settings {
    let mut settings = Settings {
        values: with_prefix(variables, "GOOGLE_"),
        ..Settings::default()
    };
    if let Some(host) = given(variables, "STORAGE_EMULATOR_HOST") {
        let url = if host.contains("://") {
            host.to_owned()
        } else {
            format!("http://{host}")
        };
        settings.values.insert("google_base_url".to_owned(), url);
        settings.anonymous = true;
        return settings;
    }
    let vouched = settings.has(&[
        "google_service_account",
        "google_service_account_path",
        "google_service_account_key",
        "google_application_credentials",
    ]);
    let default = given(variables, "HOME")
        .map(|home| Path::new(home).join(".config/gcloud/application_default_credentials.json"));
    let logged_in = default.is_some_and(|path| path.is_file());
    settings.anonymous = !vouched && !logged_in && !is_machine_of("Google");
    settings
}

/// What is set for Azure's store.
pub fn azure(variables: &Variables) -> Settings {
    let mut settings = Settings {
        values: with_prefix(variables, "AZURE_"),
        ..Settings::default()
    };
    for entry in given(variables, "AZURE_STORAGE_CONNECTION_STRING")
        .unwrap_or_default()
        .split(';')
    {
        // Keys are base64 and end in `=`.
        let Some((name, value)) = entry.split_once('=') else {
            continue;
        };
        let setting = match name.trim() {
            "AccountName" => "azure_storage_account_name",
            "AccountKey" => "azure_storage_account_key",
            "SharedAccessSignature" => "azure_storage_sas_token",
            "BlobEndpoint" => "azure_storage_endpoint",
            _ => continue,
        };
        settings.values.insert(setting.to_owned(), value.to_owned());
    }
    let vouched = settings.has(&[
        "azure_storage_account_key",
        "azure_storage_access_key",
        "azure_storage_master_key",
        "azure_storage_sas_token",
        "azure_storage_sas_key",
        "azure_storage_token",
        "azure_client_id",
        "azure_storage_client_id",
        "azure_federated_token_file",
        "azure_use_azure_cli",
    ]);
    settings.anonymous = !vouched && !is_machine_of("Microsoft Corporation");
    settings
}

/// Whether this machine is of a provider that vouches for the programs on it.
fn is_machine_of(vendor: &str) -> bool {
    std::fs::read_to_string("/sys/class/dmi/id/sys_vendor")
        .is_ok_and(|found| found.trim() == vendor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn flytes_own_variables_come_first() {
        let settings = aws(&variables(&[
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("FLYTE_AWS_ACCESS_KEY_ID", "f"),
            ("FLYTE_AWS_ENDPOINT", "http://h:1"),
            ("AWS_REGION", ""),
        ]));
        assert_eq!(settings.get("aws_access_key_id"), Some("f"));
        assert_eq!(settings.get("aws_endpoint_url"), Some("http://h:1"));
        assert_eq!(settings.get("aws_region"), None);
        assert!(!settings.anonymous);
    }

    #[test]
    fn a_token_of_another_session_is_not_taken() {
        let token = |more: &[(&str, &str)]| {
            let mut given = variables(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SESSION_TOKEN", "t")]);
            given.extend(variables(more));
            aws(&given).values.remove("aws_session_token")
        };
        assert_eq!(token(&[]).as_deref(), Some("t"));
        let same = token(&[("FLYTE_AWS_ACCESS_KEY_ID", "a")]);
        assert_eq!(same.as_deref(), Some("t"));
        let other = ("FLYTE_AWS_ACCESS_KEY_ID", "f");
        assert_eq!(token(&[other]), None);
        let own = token(&[other, ("FLYTE_AWS_SESSION_TOKEN", "o")]);
        assert_eq!(own.as_deref(), Some("o"));
        // One that stands beside no other key is meant for this one.
        let alone = token(&[other, ("AWS_ACCESS_KEY_ID", "")]);
        assert_eq!(alone.as_deref(), Some("t"));
    }

    #[test]
    fn the_files_of_the_command_line_are_read_for_the_profile() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("credentials"),
            "[default]\naws_access_key_id = d\n[work]\n# no\naws_access_key_id=w\naws_secret_access_key = x=y\n",
        )
        .unwrap();
        std::fs::write(
            folder.join("config"),
            "[profile work]\nregion = eu-west-1\n",
        )
        .unwrap();
        let home = home.path().to_str().unwrap();
        let settings = aws(&variables(&[("HOME", home), ("AWS_PROFILE", "work")]));
        assert_eq!(settings.get("aws_access_key_id"), Some("w"));
        assert_eq!(settings.get("aws_secret_access_key"), Some("x=y"));
        assert_eq!(settings.get("aws_region"), Some("eu-west-1"));
        assert!(!settings.elsewhere);
        // A pair is never put together from two places.
        let settings = aws(&variables(&[("HOME", home), ("AWS_ACCESS_KEY_ID", "v")]));
        assert_eq!(settings.get("aws_secret_access_key"), None);
    }

    #[test]
    fn a_profile_that_logs_in_is_known() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let text = "[profile work]\nsso_session = acme\nregion = eu-west-1\n";
        std::fs::write(home.path().join(".aws/config"), text).unwrap();
        let home = home.path().to_str().unwrap();
        let settings = aws(&variables(&[("HOME", home), ("AWS_PROFILE", "work")]));
        assert!(settings.elsewhere);
        assert_eq!(settings.get("aws_region"), Some("eu-west-1"));
        assert!(!aws(&variables(&[("HOME", home)])).elsewhere);
    }

    #[test]
    fn an_emulator_and_a_connection_string_are_understood() {
        let settings = google(&variables(&[("STORAGE_EMULATOR_HOST", "localhost:4443")]));
        assert_eq!(
            settings.get("google_base_url"),
            Some("http://localhost:4443")
        );
        assert!(settings.anonymous);
        let text = "AccountName=dev;AccountKey=a2V5==;BlobEndpoint=http://127.0.0.1:1/dev";
        let settings = azure(&variables(&[("AZURE_STORAGE_CONNECTION_STRING", text)]));
        assert_eq!(settings.get("azure_storage_account_key"), Some("a2V5=="));
        assert_eq!(
            settings.get("azure_storage_endpoint"),
            Some("http://127.0.0.1:1/dev")
        );
        assert!(!settings.anonymous);
    }
}
