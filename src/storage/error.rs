//! Why something that is stored elsewhere did not arrive.
//!
//! Addresses stand here without user, password and query, which may be credentials.

use std::path::PathBuf;

use crate::error::{Code, Diagnostic, Retry};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{url}` has the scheme `{scheme}`, which cannot be read")]
    Scheme {
        url: String,
        scheme: String,
        close: Option<String>,
    },
    #[error("`{url}` is no usable address: {reason}")]
    Address { url: String, reason: String },
    #[error("`{url}` does not exist")]
    NotFound {
        url: String,
        /// What lies beside it under a similar name.
        close: Option<String>,
        /// Whether other things lie below it, as in a folder.
        is_folder: bool,
    },
    #[error("`{url}` may not be read{}", because(.reason))]
    Denied {
        url: String,
        reason: String,
        /// What to do, where nothing was found that says who is asking.
        advice: Option<&'static str>,
    },
    #[error("`{url}` was refused: {reason}")]
    Refused { url: String, reason: String },
    #[error(
        "`{url}` broke off after {received} bytes, and so did {attempts} attempts to go on: {reason}"
    )]
    Broken {
        url: String,
        received: u64,
        attempts: u32,
        reason: String,
    },
    #[error("`{url}` was changed while it was read")]
    Changed { url: String },
    #[error("`{url}` arrived damaged twice: its {kind} is {found}, the server says {expected}")]
    Checksum {
        url: String,
        kind: &'static str,
        expected: String,
        found: String,
    },
    #[error("`{url}` cannot be listed: plain web servers tell nothing of their folders")]
    NoListing { url: String },
    #[error("`{url}` cannot be written: {reason}")]
    NotWritable {
        url: String,
        reason: &'static str,
        advice: &'static str,
    },
    #[error("`{url}` holds `{name}`, which cannot be the name of a file here")]
    Name { url: String, name: String },
    #[error("cannot use `{}`", path.display())]
    Local {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{url}` was given up, since something else failed")]
    Stopped { url: String },
    #[error("cannot make a connection: {reason}")]
    Setup { reason: String },
}

fn because(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Scheme { .. } | Self::Address { .. } | Self::NotWritable { .. } => {
                Code::ConfigInvalid
            }
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Broken { .. }
            | Self::Changed { .. }
            | Self::Checksum { .. }
            | Self::NoListing { .. }
            | Self::Name { .. }
            | Self::Local { .. }
            | Self::Stopped { .. }
            | Self::Setup { .. } => Code::RuntimeParameter,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Scheme { close, .. } => vec![match close {
                Some(close) => format!("did you mean `{close}://`?"),
                None => "`file`, `s3`, `gs`, `abfs`, `http` and `https` can be read".to_owned(),
            }],
            Self::NotFound {
                is_folder: true, ..
            } => {
                vec!["it is a folder: declare it as `Dir` or with `type=\"directory\"`".to_owned()]
            }
            Self::NotFound { close, .. } => close
                .iter()
                .map(|close| format!("did you mean `{close}`?"))
                .collect(),
            Self::Denied {
                advice: Some(advice),
                ..
            }
            | Self::NotWritable { advice, .. } => vec![(*advice).to_owned()],
            Self::Denied { .. } => {
                vec!["credentials were sent; they lack the right to read it".to_owned()]
            }
            Self::Broken { .. } => {
                vec![
                    "the network or the server is at fault; starting the app again may help"
                        .to_owned(),
                ]
            }
            Self::NoListing { .. } => vec![
                "name each file as a `File`, or put the folder into an object store".to_owned(),
            ],
            Self::Changed { .. } => {
                vec!["start the app again when nobody writes to it any more".to_owned()]
            }
            Self::Local { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                vec!["the disk is full".to_owned()]
            }
            Self::Address { .. }
            | Self::Refused { .. }
            | Self::Checksum { .. }
            | Self::Name { .. }
            | Self::Local { .. }
            | Self::Stopped { .. }
            | Self::Setup { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Broken { .. } | Self::Changed { .. } => Retry::Exhausted,
            Self::Scheme { .. }
            | Self::Address { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Checksum { .. }
            | Self::NoListing { .. }
            | Self::NotWritable { .. }
            | Self::Name { .. }
            | Self::Local { .. }
            | Self::Stopped { .. }
            | Self::Setup { .. } => Retry::Never,
        }
    }
}
