//! The two blobs on the command line of `fserve`: `--parameters` and `--image-cache`.
//!
//! Both are base64 of gzip of JSON, and other implementations read and write them, so key order,
//! nulls and the gzip header are fixed. One addition of ours: `kind` tells that a string stands
//! for a number or a boolean; readers that do not know it see the text. Nothing here touches a
//! file.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Deserializer, Serialize};

use super::Error;
use super::error::BoxError;
use crate::spec::{Parameter, ParameterKind, ParameterValue};

/// A blob that unpacks to more than this was not written by a client of ours.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// How the value of a parameter is treated inside the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireType {
    #[default]
    String,
    File,
    Directory,
    AppEndpoint,
}

/// What the text of a `string` parameter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScalarKind {
    Int,
    Float,
    Bool,
}

/// One parameter as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerializedParameter {
    pub name: String,
    pub value: String,
    #[serde(deserialize_with = "lenient_bool")]
    pub download: bool,
    #[serde(rename = "type", default)]
    pub wire_type: WireType,
    #[serde(default)]
    pub env_var: Option<String>,
    #[serde(default)]
    pub dest: Option<String>,
    #[serde(default)]
    pub ignore_patterns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ScalarKind>,
}

#[derive(Serialize)]
struct Written<'a> {
    parameters: &'a [SerializedParameter],
}

#[derive(Deserialize)]
struct ReadBack {
    #[serde(default)]
    parameters: Vec<SerializedParameter>,
}

#[derive(Serialize)]
struct ImageCache<'a> {
    image_lookup: &'a BTreeMap<String, String>,
    build_run_ids: BTreeMap<String, String>,
}

/// The JSON of an `AppEndpoint`, the value of a parameter of that type.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndpointValue {
    #[serde(rename = "type", default)]
    wire_type: WireType,
    pub app_name: String,
    #[serde(default)]
    pub public: bool,
}

/// Other writers say `"yes"` or `1` where we say `true`.
fn lenient_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let text = match &value {
        serde_json::Value::Bool(flag) => return Ok(*flag),
        serde_json::Value::String(text) => text.to_ascii_lowercase(),
        other => other.to_string(),
    };
    match text.as_str() {
        "true" | "yes" | "on" | "t" | "y" | "1" => Ok(true),
        "false" | "no" | "off" | "f" | "n" | "0" => Ok(false),
        _ => Err(serde::de::Error::custom(format!("`{value}` is no boolean"))),
    }
}

/// The value of `--parameters`.
pub fn encode(parameters: &[SerializedParameter]) -> Result<String, Error> {
    pack("--parameters", &Written { parameters })
}

/// Reads the value of `--parameters`.
///
/// # Errors
/// `config.invalid` when any of the layers is not what it should be.
pub fn decode(text: &str) -> Result<Vec<SerializedParameter>, Error> {
    unpack(text)
        .map(|read: ReadBack| read.parameters)
        .map_err(|source| Error::Payload {
            option: "--parameters",
            source,
        })
}

/// The value of `--image-cache`: which image each environment runs in.
pub fn encode_image_cache(images: &BTreeMap<String, String>) -> Result<String, Error> {
    let cache = ImageCache {
        image_lookup: images,
        build_run_ids: BTreeMap::new(),
    };
    pack("--image-cache", &cache)
}

fn pack(option: &'static str, value: &impl Serialize) -> Result<String, Error> {
    let write = || -> Result<Vec<u8>, BoxError> {
        let json = serde_json::to_vec(value)?;
        let mut gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(Vec::new(), Compression::best());
        gzip.write_all(&json)?;
        Ok(gzip.finish()?)
    };
    write()
        .map(|bytes| STANDARD.encode(bytes))
        .map_err(|source| Error::Payload { option, source })
}

fn unpack<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, BoxError> {
    let bytes = STANDARD.decode(text.trim())?;
    let mut json = Vec::new();
    MultiGzDecoder::new(bytes.as_slice())
        .take(MAX_JSON_BYTES + 1)
        .read_to_end(&mut json)?;
    if json.len() as u64 > MAX_JSON_BYTES {
        return Err(format!("it unpacks to more than {MAX_JSON_BYTES} bytes").into());
    }
    Ok(serde_json::from_slice(&json)?)
}

/// Shapes a declared parameter for the wire.
///
/// # Errors
/// `config.invalid` naming the parameter, when it has no value or its value, `type` and `mount`
/// contradict each other.
pub fn from_spec(parameter: &Parameter) -> Result<SerializedParameter, Error> {
    let wrong = |reason: &str| Error::Declaration {
        name: parameter.name.clone(),
        reason: reason.to_owned(),
    };
    let given = parameter.value.as_ref().ok_or_else(|| Error::NoValue {
        name: parameter.name.clone(),
    })?;
    let (value, natural, kind) = parts_of(given).map_err(|reason| wrong(&reason))?;
    let wire_type = match (parameter.kind.map(wire_type_of), natural) {
        (Some(explicit), Some(natural)) if explicit == natural => explicit,
        (Some(WireType::AppEndpoint), _) => {
            return Err(wrong(
                "is declared as an app endpoint but holds another value",
            ));
        }
        (Some(_), Some(WireType::AppEndpoint)) => {
            return Err(wrong(
                "holds an app endpoint but is declared as something else",
            ));
        }
        (Some(WireType::File | WireType::Directory), _) if kind.is_some() => {
            return Err(wrong(
                "holds a number or boolean but is declared as a file or folder",
            ));
        }
        (Some(explicit), _) => explicit,
        (None, Some(natural)) => natural,
        (None, None) => {
            return Err(wrong(
                "takes its value from a run or an artifact and needs a `type`",
            ));
        }
    };
    let on_disk = matches!(wire_type, WireType::File | WireType::Directory);
    if !on_disk && parameter.mount.is_some() {
        return Err(wrong(
            "has a `mount`, but only files and folders can be mounted",
        ));
    }
    Ok(SerializedParameter {
        name: parameter.name.clone(),
        value,
        download: on_disk && (parameter.download || parameter.mount.is_some()),
        wire_type,
        env_var: parameter.env_var.clone(),
        dest: parameter.mount.clone(),
        ignore_patterns: parameter.ignore_patterns.clone(),
        // `type="string"` beside a number asks for its text.
        kind: kind.filter(|_| parameter.kind.is_none()),
    })
}

fn wire_type_of(kind: ParameterKind) -> WireType {
    match kind {
        ParameterKind::String => WireType::String,
        ParameterKind::File => WireType::File,
        ParameterKind::Directory => WireType::Directory,
        ParameterKind::AppEndpoint => WireType::AppEndpoint,
    }
}

/// Text, type by itself (`None`: only a declaration can tell), and what the text stands for.
type Parts = (String, Option<WireType>, Option<ScalarKind>);

fn parts_of(value: &ParameterValue) -> Result<Parts, String> {
    let string = Some(WireType::String);
    Ok(match value {
        ParameterValue::Text(text) => (text.clone(), string, None),
        ParameterValue::Integer(number) => (number.to_string(), string, Some(ScalarKind::Int)),
        ParameterValue::Float(number) => {
            let number = serde_json::Number::from_f64(*number)
                .ok_or_else(|| format!("holds `{number}`, which JSON cannot carry"))?;
            (number.to_string(), string, Some(ScalarKind::Float))
        }
        ParameterValue::Boolean(flag) => (flag.to_string(), string, Some(ScalarKind::Bool)),
        ParameterValue::File(path) => (path.clone(), Some(WireType::File), None),
        ParameterValue::Dir(path) => (path.clone(), Some(WireType::Directory), None),
        // Told as it lies here where nothing is sent, as in a rehearsal.
        ParameterValue::Local { path, is_folder } => {
            let kind = if *is_folder {
                WireType::Directory
            } else {
                WireType::File
            };
            (path.clone(), Some(kind), None)
        }
        ParameterValue::AppEndpoint { app_name, public } => {
            let json = serde_json::to_string(&EndpointValue {
                wire_type: WireType::String,
                app_name: app_name.clone(),
                public: *public,
            });
            let json = json.map_err(|error| error.to_string())?;
            (json, Some(WireType::AppEndpoint), None)
        }
        ParameterValue::RunOutput(json) | ParameterValue::Artifact(json) => {
            (json.clone(), declared_type(json), None)
        }
    })
}

/// The `type` that a `RunOutput` or `ArtifactValue` carries in its own JSON.
fn declared_type(json: &str) -> Option<WireType> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        wire_type: Option<WireType>,
    }
    serde_json::from_str::<Typed>(json).ok()?.wire_type
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};

    fn parameter(value: ParameterValue) -> Parameter {
        Parameter {
            name: "p".to_owned(),
            value: Some(value),
            kind: None,
            env_var: None,
            download: true,
            mount: None,
            ignore_patterns: Vec::new(),
        }
    }

    fn json_of(blob: &str) -> (Vec<u8>, String) {
        let bytes = STANDARD.decode(blob).unwrap();
        let mut json = String::new();
        MultiGzDecoder::new(bytes.as_slice())
            .read_to_string(&mut json)
            .unwrap();
        (bytes, json)
    }

    #[test]
    fn the_writing_is_exactly_the_agreed_one() {
        let mut file = from_spec(&parameter(ParameterValue::File("s3://b/m".to_owned()))).unwrap();
        file.dest = Some("models/".to_owned());
        let (bytes, json) = json_of(&encode(&[file]).unwrap());
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff]);
        assert_eq!(
            json,
            r#"{"parameters":[{"name":"p","value":"s3://b/m","download":true,"type":"file","env_var":null,"dest":"models/","ignore_patterns":[]}]}"#
        );
    }

    #[test]
    fn numbers_and_booleans_travel_as_text_with_their_kind() {
        let values = [
            (ParameterValue::Integer(-3), "-3", ScalarKind::Int),
            (ParameterValue::Float(1.0), "1.0", ScalarKind::Float),
            (ParameterValue::Boolean(true), "true", ScalarKind::Bool),
        ];
        for (value, text, kind) in values {
            let sent = from_spec(&parameter(value)).unwrap();
            assert_eq!((sent.value.as_str(), sent.kind), (text, Some(kind)));
            assert_eq!(sent.wire_type, WireType::String);
            assert!(!sent.download);
            let (_, json) = json_of(&encode(std::slice::from_ref(&sent)).unwrap());
            assert!(json.contains(r#""ignore_patterns":[],"kind":""#), "{json}");
            assert_eq!(
                decode(&encode(std::slice::from_ref(&sent)).unwrap()).unwrap(),
                [sent]
            );
        }
        let not_finite = from_spec(&parameter(ParameterValue::Float(f64::NAN))).unwrap_err();
        assert_eq!(not_finite.code(), Code::ConfigInvalid);
    }

    #[test]
    fn reads_what_other_writers_write() {
        let json = br#"{"parameters":[{"name":"a","value":"x","download":"yes","new":1}],"v":2}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(json).unwrap();
        let read = decode(&STANDARD.encode(gzip.finish().unwrap())).unwrap();
        assert!(read[0].download);
        assert_eq!(read[0].wire_type, WireType::String);
        assert_eq!((&read[0].env_var, &read[0].dest), (&None, &None));
    }

    #[test]
    fn broken_blobs_are_refused() {
        for blob in ["%", "aGVsbG8=", ""] {
            let error = decode(blob).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid, "{blob}");
        }
    }

    #[test]
    fn a_missing_value_says_how_to_give_one() {
        let mut declared = parameter(ParameterValue::Text(String::new()));
        declared.value = None;
        let error = from_spec(&declared).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.to_string().contains("`p`"));
        assert!(error.hints()[0].contains("input_values"));
    }

    #[test]
    fn files_are_fetched_on_request_or_when_mounted() {
        let mut declared = parameter(ParameterValue::Dir("/d".to_owned()));
        declared.download = false;
        assert!(!from_spec(&declared).unwrap().download);
        declared.mount = Some("x/".to_owned());
        let sent = from_spec(&declared).unwrap();
        assert!(sent.download);
        assert_eq!(sent.wire_type, WireType::Directory);
        assert_eq!(sent.dest.as_deref(), Some("x/"));
    }

    #[test]
    fn text_declared_as_a_file_is_fetched() {
        let mut declared = parameter(ParameterValue::Text("/f".to_owned()));
        assert!(!from_spec(&declared).unwrap().download);
        declared.kind = Some(ParameterKind::File);
        let sent = from_spec(&declared).unwrap();
        assert!(sent.download);
        assert_eq!(sent.wire_type, WireType::File);
    }

    #[test]
    fn a_file_declared_as_a_string_is_handed_over_as_its_path() {
        let mut declared = parameter(ParameterValue::File("s3://b/f".to_owned()));
        declared.kind = Some(ParameterKind::String);
        let sent = from_spec(&declared).unwrap();
        assert_eq!((sent.wire_type, sent.download), (WireType::String, false));
    }

    #[test]
    fn endpoints_travel_as_json() {
        let declared = parameter(ParameterValue::AppEndpoint {
            app_name: "api".to_owned(),
            public: true,
        });
        let sent = from_spec(&declared).unwrap();
        assert_eq!(
            sent.value,
            r#"{"type":"string","app_name":"api","public":true}"#
        );
        assert_eq!(
            (sent.wire_type, sent.download),
            (WireType::AppEndpoint, false)
        );
    }

    #[test]
    fn outputs_of_runs_keep_their_declared_type() {
        let json = r#"{"type":"directory","run_name":"r"}"#.to_owned();
        let sent = from_spec(&parameter(ParameterValue::RunOutput(json.clone()))).unwrap();
        assert_eq!((sent.value, sent.wire_type), (json, WireType::Directory));
        let untyped = r#"{"type":null,"name":"weights"}"#.to_owned();
        let error = from_spec(&parameter(ParameterValue::Artifact(untyped))).unwrap_err();
        assert!(error.to_string().contains("needs a `type`"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        let mut number = parameter(ParameterValue::Integer(1));
        number.kind = Some(ParameterKind::File);
        assert!(from_spec(&number).is_err());
        let mut text = parameter(ParameterValue::Text("x".to_owned()));
        text.kind = Some(ParameterKind::AppEndpoint);
        assert!(from_spec(&text).is_err());
        text.kind = None;
        text.mount = Some("m".to_owned());
        let error = from_spec(&text).unwrap_err();
        assert!(error.to_string().contains("`mount`"), "{error}");
    }

    #[test]
    fn the_image_cache_has_both_tables() {
        let images = BTreeMap::from([("env".to_owned(), "repo/img:1".to_owned())]);
        let (_, json) = json_of(&encode_image_cache(&images).unwrap());
        assert_eq!(
            json,
            r#"{"image_lookup":{"env":"repo/img:1"},"build_run_ids":{}}"#
        );
    }
}
