//! The index of a git repository, as any bytes and as well-formed entries: reading ends without a
//! panic, and what was written into it is found.

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::files::walk::git::{Known, Tracked};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    entries: BTreeMap<String, u16>,
    extensions: &'a [u8],
}

/// Version 2 of the format, without a checksum.
fn index_of(entries: &BTreeMap<String, u16>, extensions: &[u8]) -> Vec<u8> {
    let mut bytes = b"DIRC\0\0\0\x02".to_vec();
    bytes.extend((entries.len() as u32).to_be_bytes());
    for (name, mode) in entries {
        let begin = bytes.len();
        bytes.extend([0; 24]);
        bytes.extend(mode_of(*mode).to_be_bytes());
        bytes.extend([0; 12 + 20]);
        bytes.extend((name.len().min(0xfff) as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        // At least one zero, up to a multiple of eight.
        let length = bytes.len() - begin;
        bytes.resize(begin + (length / 8 + 1) * 8, 0);
    }
    bytes.extend(extensions);
    bytes.extend([0; 20]);
    bytes
}

fn mode_of(choice: u16) -> u32 {
    [0o100_644, 0o100_755, 0o120_000, 0o160_000][usize::from(choice % 4)]
}

fn read(bytes: &[u8]) -> Result<Tracked, String> {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    };
    let file = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a file can be written");
    Tracked::read(file.path(), gix_index::hash::Kind::Sha1)
}

pub fn run(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    if form == 0 {
        if let Ok(tracked) = read(rest) {
            for name in [&b"a"[..], b"a/b", b"", rest.get(74..80).unwrap_or_default()] {
                tracked.known(name, true);
                tracked.known(name, false);
            }
        }
        return;
    }
    let Ok(mut input) = Input::arbitrary_take_rest(Unstructured::new(rest)) else {
        return;
    };
    input
        .entries
        .retain(|name, _| !name.is_empty() && name.len() < 300 && !name.contains('\0'));
    let read = read(&index_of(&input.entries, input.extensions));
    match read {
        Ok(tracked) => {
            for (name, mode) in &input.entries {
                let is_submodule = mode_of(*mode) == 0o160_000;
                assert_eq!(
                    tracked.known(name.as_bytes(), is_submodule),
                    Known::Itself,
                    "{name:?}"
                );
            }
        }
        Err(reason) => assert!(!input.extensions.is_empty(), "{reason}"),
    }
}
