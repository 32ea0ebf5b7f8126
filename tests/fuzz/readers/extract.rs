//! Archives of any bytes and of well-formed but hostile entries: nothing appears outside the
//! folder, nothing in it leads out, it does not outgrow its limits, and a refused archive leaves
//! nothing behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::files::archive::{Limits, extract};

const LIMITS: Limits = Limits {
    max_bytes: 1 << 18,
    max_entries: 40,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    gzip: bool,
    /// Whether the folder is there before, with files of its own.
    exists: bool,
    content: Content<'a>,
}

#[derive(Arbitrary, Debug)]
enum Content<'a> {
    Archive(&'a [u8]),
    Tar(&'a [u8]),
    Entries(Vec<Entry<'a>>),
}

#[derive(Arbitrary, Debug)]
struct Entry<'a> {
    kind: u8,
    mode: u32,
    name: Vec<u8>,
    link: Vec<u8>,
    content: &'a [u8],
    /// The size that the header claims, where it is to lie.
    claimed: Option<u32>,
}

/// Names from few parts, so that entries meet.
fn name(parts: &[u8]) -> String {
    const PARTS: &[&str] = &[
        "a",
        "b",
        "own",
        "..",
        ".",
        "",
        "/",
        "c.py",
        ".code.extracted",
    ];
    let parts: Vec<&str> = parts
        .iter()
        .take(6)
        .map(|&part| PARTS[usize::from(part) % PARTS.len()])
        .collect();
    parts.join("/")
}

fn tar_of(entries: &[Entry]) -> Vec<u8> {
    const KINDS: &[u8] = b"00005522211L xg67";
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let (name, link) = (name(&entry.name), name(&entry.link));
        let Some(fields) = header.as_ustar_mut() else {
            return Vec::new();
        };
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(
            KINDS[usize::from(entry.kind) % KINDS.len()],
        ));
        header.set_mode(entry.mode);
        let size = entry.claimed.map_or(entry.content.len() as u64, u64::from);
        header.set_size(size);
        header.set_cksum();
        tar.append(&header, entry.content)
            .expect("memory can be written");
    }
    tar.into_inner().expect("memory can be written")
}

fn compressed(gzip: bool, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    if gzip {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).expect("memory can be written");
        out.finish().expect("memory can be written")
    } else {
        zstd::encode_all(bytes, 1).expect("memory can be written")
    }
}

/// In memory where there is such a place: thousands of trees a second come and go.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(folder).expect("a temporary folder")
}

/// Every path below `folder`, links not followed.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            if fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let bytes = match &input.content {
        Content::Archive(bytes) => bytes.to_vec(),
        Content::Tar(bytes) => compressed(input.gzip, bytes),
        Content::Entries(entries) => compressed(input.gzip, &tar_of(entries)),
    };
    let scratch = scratch();
    let base = fs::canonicalize(scratch.path()).expect("it is there");
    let (archive, around) = (base.join("code"), base.join("box"));
    let dest = around.join("dest");
    fs::write(&archive, &bytes).expect("a file can be written");
    fs::write(base.join("a"), "secret").expect("a file can be written");
    fs::create_dir(&around).expect("a folder can be made");
    if input.exists {
        fs::create_dir_all(dest.join("own")).expect("a folder can be made");
        fs::write(dest.join("own/c.py"), "mine").expect("a file can be written");
    }

    let outcome = extract(&archive, &dest, LIMITS);

    let mut top: Vec<_> = below(&base)
        .into_iter()
        .filter(|path| !path.starts_with(&dest))
        .map(|path| path.strip_prefix(&base).expect("below").to_path_buf())
        .collect();
    top.sort();
    assert_eq!(top, ["a", "box", "code"].map(PathBuf::from), "{outcome:?}");
    assert_eq!(fs::read(base.join("a")).expect("it is there"), b"secret");
    let inside = if dest.exists() {
        below(&dest)
    } else {
        Vec::new()
    };
    if outcome.is_err() {
        let before = if input.exists { 2 } else { 0 };
        let whole = inside.iter().all(|path| path.starts_with(dest.join("own")));
        // A folder in the way is found while files are put into place, when some are already.
        let in_the_way = matches!(outcome, Err(flyte_native::files::Error::InTheWay { .. }));
        assert!(
            in_the_way || (inside.len() == before && whole),
            "{outcome:?} left {inside:?}"
        );
    }
    let mut size = 0;
    for path in &inside {
        let metadata = fs::symlink_metadata(path).expect("it is there");
        if metadata.is_symlink() {
            let leads_out = fs::canonicalize(path).is_ok_and(|end| !end.starts_with(&dest));
            assert!(!leads_out, "{path:?} leads out");
        } else if metadata.is_file() {
            assert_eq!(metadata.mode() & 0o7000, 0, "{path:?}");
            size += metadata.len();
        } else {
            assert!(metadata.is_dir(), "{path:?}");
        }
    }
    // A hard link is counted once by the archive and twice here.
    assert!(
        size <= LIMITS.max_bytes * LIMITS.max_entries,
        "{size} bytes"
    );
}
