//! Configuration files of any bytes, and API keys of any text: they are read in full or refused with
//! a reason.

use std::path::Path;

use flyte_native::config::{Given, Secret, Settings};
use flyte_native::error::with_causes;

const KEYS: &[&str] = &[
    "endpoint",
    "insecure",
    "insecureSkipVerify",
    "caCertFilePath",
    "authType",
    "command",
    "proxyCommand",
    "clientId",
    "scopes",
    "httpProxyURL",
    "disableKeyring",
];

/// A section whose names are not left to chance; each line of `values` is a value.
fn section(values: &[u8]) -> Vec<u8> {
    let mut text = b"admin:\n".to_vec();
    for line in values.split(|&byte| byte == b'\n') {
        if let Some((key, value)) = line.split_first() {
            let key = KEYS[usize::from(*key) % KEYS.len()];
            text.extend([b"  ", key.as_bytes(), b": ", value, b"\n"].concat());
        }
    }
    text
}

pub fn run(data: &[u8]) {
    let Some((&form, data)) = data.split_first() else {
        return;
    };
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    };
    let file = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
    let (text, api_key) = match form % 3 {
        0 => (data.to_vec(), None),
        1 => (section(data), None),
        _ => (Vec::new(), Some(Secret::new(String::from_utf8_lossy(data)))),
    };
    std::fs::write(file.path(), text).expect("a file can be written");
    let given = Given {
        config_path: Some(file.path().to_owned()),
        home: Some(folder.join("nowhere")),
        api_key,
        ..Given::default()
    };
    match Settings::resolve(&given) {
        Ok(settings) => {
            let _ = (
                settings.describe(),
                settings.warnings(),
                format!("{settings:?}"),
            );
        }
        Err(error) => assert!(!with_causes(&error).is_empty()),
    }
}
