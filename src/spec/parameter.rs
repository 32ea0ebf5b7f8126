//! The values that an app is given when it starts.

use serde::{Deserialize, Serialize};

/// One declared parameter, with the value that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    /// `None` is an error at serve time unless an override gives a value.
    pub value: Option<ParameterValue>,
    /// An explicit `type=` of the declaration.
    pub kind: Option<ParameterKind>,
    pub env_var: Option<String>,
    pub download: bool,
    /// Where a file or folder is put; a trailing `/` means "into this folder".
    pub mount: Option<String>,
    pub ignore_patterns: Vec<String>,
}

/// How the runtime treats a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterKind {
    String,
    File,
    Directory,
    AppEndpoint,
}

/// What may be passed as the value of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ParameterValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    File(String),
    Dir(String),
    /// Something of this machine, which is sent with the code.
    Local {
        path: String,
        is_folder: bool,
    },
    AppEndpoint {
        app_name: String,
        public: bool,
    },
    /// JSON of a `RunOutput`, resolved by a cluster only.
    RunOutput(String),
    /// JSON of an `ArtifactValue`, resolved by a cluster only.
    Artifact(String),
}

impl ParameterValue {
    /// What the output of a run, or an artifact, is declared to be.
    pub fn looked_up_as(&self) -> Option<ParameterKind> {
        let (Self::RunOutput(json) | Self::Artifact(json)) = self else {
            return None;
        };
        let fields: serde_json::Value = serde_json::from_str(json).ok()?;
        match fields.get("type")?.as_str()? {
            "string" => Some(ParameterKind::String),
            "file" => Some(ParameterKind::File),
            "directory" => Some(ParameterKind::Directory),
            _ => None,
        }
    }
}
