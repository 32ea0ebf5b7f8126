//! What a registry says: manifests, indexes, challenges, and references to them. Whatever it is, it is
//! read or refused, and what was read says the same once it was written again.

use flyte_native::image::registry::{Document, Platform, challenge, reference};

pub fn run(data: &[u8]) {
    let Some((&form, data)) = data.split_first() else {
        return;
    };
    match form % 3 {
        0 => document(data),
        1 => named(&String::from_utf8_lossy(data)),
        _ => asked(&String::from_utf8_lossy(data)),
    }
}

fn document(bytes: &[u8]) {
    let document = match Document::parse(bytes) {
        Ok(document) => document,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    let written = match &document {
        Document::Manifest(manifest) => serde_json::to_vec(manifest),
        Document::Index(index) => {
            for entry in &index.manifests {
                let Some(platform) = &entry.platform else {
                    continue;
                };
                assert!(
                    index.entry(platform).is_some(),
                    "{platform:?} does not serve itself"
                );
            }
            serde_json::to_vec(index)
        }
    };
    let again = Document::parse(&written.expect("memory can be written"));
    assert_eq!(again, Ok(document));
}

fn named(text: &str) {
    if let Some(platform) = Platform::parse(text) {
        assert!(platform.serves(&platform));
    }
    if let Ok(found) = reference(text) {
        let written = found.whole();
        let again = reference(&written).expect("what was written can be read");
        assert_eq!(again.whole(), written);
    }
}

fn asked(text: &str) {
    if let Some(fields) = challenge(text) {
        assert!(fields.values().all(|value| text.contains(value.as_str())));
    }
}
