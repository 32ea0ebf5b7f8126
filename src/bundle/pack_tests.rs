//! Archives of real trees: what is in them, and what is not made twice.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use md5::{Digest as _, Md5};

use super::tests::Project;
use super::*;
use crate::files::Digest;
use crate::files::archive::extract;

impl Project {
    /// A tree of several frames: many small files and one in pieces.
    fn large() -> Self {
        let project = Self::new(&[]);
        for number in 0..600_u32 {
            let line = format!("value_{number} = {}\n", number.wrapping_mul(2_654_435_761));
            let name = format!("pkg{}/f{number}.py", number / 50);
            project.put(&name, line.repeat(100).as_bytes());
        }
        let pieces: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        project.put("weights.bin", &pieces[..(2 << 20) + 12_345]);
        project
    }

    fn list(&self) -> FileList {
        all_below(&self.root)
    }

    fn store(&self) -> Store {
        self.store_of("all")
    }

    fn store_of(&self, scope: &str) -> Store {
        Store::open(&self.beside.join("cache"), &self.root, scope).unwrap()
    }

    /// Packs with what is kept of earlier archives.
    fn pack(&self) -> Archive {
        pack(&self.list(), Format::TarZst, &self.store()).unwrap()
    }

    /// Packs until everything is old enough to be remembered.
    fn settle(&self) -> Archive {
        loop {
            let archive = self.pack();
            let fingerprint = pack::fingerprint(&self.list(), Format::TarZst);
            if self.store().note(&fingerprint, Format::TarZst).is_some() {
                return archive;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn all_below(root: &Path) -> FileList {
    choose(&Selection {
        root: root.to_path_buf(),
        style: CopyStyle::All,
        modules: Vec::new(),
        installed: Vec::new(),
        source_roots: Vec::new(),
        include: Vec::new(),
    })
    .unwrap()
}

/// The archive as if nothing was ever made before.
fn fresh(list: &FileList, format: Format) -> (Archive, Vec<u8>) {
    let store = Store::temporary().unwrap();
    let archive = pack(list, format, &store).unwrap();
    let bytes = bytes_of(&archive);
    (archive, bytes)
}

fn bytes_of(archive: &Archive) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).unwrap();
    assert_eq!(archive.bytes, bytes.len() as u64);
    assert_eq!(archive.md5, <[u8; 16]>::from(Md5::digest(&bytes)));
    bytes
}

fn digest(project: &Project) -> Digest {
    fresh(&project.list(), Format::TarZst).0.digest
}

fn names(list: &FileList) -> Vec<&str> {
    list.files().iter().map(|file| &*file.name).collect()
}

#[test]
fn the_digest_is_that_of_names_modes_and_contents_only() {
    let order = ["a.txt", "b/c.txt", "ab/c.py", "d"];
    let one = Project::new(&order);
    let other = Project::new(&order.iter().rev().copied().collect::<Vec<_>>());
    let expected = digest(&one);
    assert_eq!(digest(&other), expected);
    let gz = fresh(&one.list(), Format::TarGz).0;
    assert_eq!(gz.digest, expected, "of the content, not of the archive");
    let set_mode = |mode| {
        fs::set_permissions(other.root.join("d"), fs::Permissions::from_mode(mode)).unwrap();
        digest(&other)
    };
    assert_eq!(set_mode(0o600), expected, "who may read does not count");
    assert_ne!(set_mode(0o700), expected);
    assert_eq!(set_mode(0o644), expected);
    other.put("d", b"x");
    assert_ne!(digest(&other), expected);
    other.put("d", b"d");
    fs::create_dir(other.root.join("a")).unwrap();
    assert_eq!(digest(&other), expected, "empty folders do not count");
    fs::rename(other.root.join("ab/c.py"), other.root.join("a/bc.py")).unwrap();
    assert_ne!(digest(&other), expected, "nor is a slash nothing");
}

/// A project with everything that is hard to put into a tar.
fn awkward() -> Project {
    let project = Project::new(&["main.py", "größe/ü.txt"]);
    project.put("empty", b"");
    project.put(&format!("{}/f", vec!["folder"; 50].join("/")), b"deep");
    project.put(&"n".repeat(200), b"long");
    project.put("big.bin", b"0123456789abcdef".repeat(400_000));
    project.put("one-piece.bin", vec![7; 2 << 20]);
    project.put("run.sh", b"#!/bin/sh");
    let executable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(project.root.join("run.sh"), executable).unwrap();
    symlink("main.py", project.root.join("link.py")).unwrap();
    project
}

#[test]
fn what_is_packed_is_what_is_unpacked() {
    let project = awkward();
    let list = project.list();
    for format in [Format::TarZst, Format::TarGz] {
        let (archive, bytes) = fresh(&list, format);
        let file = project.beside.join(format!("code.{}", format.extension()));
        fs::write(&file, bytes).unwrap();
        let copy = project.beside.join(format.extension());
        extract(&file, &copy, Limits::default()).unwrap();
        let marker = format!(".code.{}.extracted", format.extension());
        fs::remove_file(copy.join(marker)).unwrap();
        let copied = all_below(&copy);
        assert_eq!(names(&copied), names(&list));
        assert_eq!(fresh(&copied, format).0.digest, archive.digest);
    }
}

#[test]
fn equal_lists_have_equal_archives_whatever_the_number_of_processors() {
    let (project, other) = (Project::large(), Project::large());
    let (list, other_list) = (project.list(), other.list());
    for format in [Format::TarZst, Format::TarGz] {
        let (_, bytes) = fresh(&list, format);
        for threads in [1, 2, 5] {
            let store = Store::temporary().unwrap();
            let again = pack::pack_on(threads, &other_list, format, &store).unwrap();
            assert!(
                bytes_of(&again) == bytes,
                "{format:?} with {threads} threads"
            );
        }
    }
}

/// The names that GNU tar sees, if the program that it needs is there.
fn listed_by_tar(archive: &Path, option: &str, program: &str) -> Option<Vec<String>> {
    Command::new(program).arg("--version").output().ok()?;
    let listed = Command::new("tar")
        .args([option, "--quoting-style=literal", "-tf"])
        .arg(archive)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .ok()?;
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    Some(names)
}

#[test]
fn gnu_tar_reads_the_archives() {
    let project = awkward();
    let list = project.list();
    for (format, option, program) in [
        (Format::TarGz, "--gzip", "gzip"),
        (Format::TarZst, "--zstd", "zstd"),
    ] {
        let file = project.beside.join("code");
        fs::write(&file, fresh(&list, format).1).unwrap();
        if let Some(listed) = listed_by_tar(&file, option, program) {
            assert_eq!(listed, names(&list), "{format:?}");
        }
    }
}

#[test]
fn an_unchanged_list_is_not_read_again() {
    let project = Project::large();
    let first = project.settle();
    let list = project.list();
    fs::remove_dir_all(&project.root).unwrap();
    let again = pack(&list, Format::TarZst, &project.store()).unwrap();
    assert_eq!((again.digest, again.md5), (first.digest, first.md5));
    assert_eq!(again.made_bytes, 0);
    assert!(again.is_intact());
}

#[test]
fn a_change_makes_what_it_touches_and_nothing_else() {
    let project = Project::large();
    let first = project.settle();
    assert!(first.parts.len() > 4, "{}", first.parts.len());
    let edits: [&dyn Fn(); 5] = [
        &|| project.put("pkg5/f270.py", b"changed = True\n"),
        &|| project.put("pkg5/new.py", b"new = True\n"),
        &|| fs::remove_file(project.root.join("pkg5/new.py")).unwrap(),
        &|| fs::rename(project.root.join("pkg1"), project.root.join("pkg1b")).unwrap(),
        &|| {
            let mut weights = fs::read(project.root.join("weights.bin")).unwrap();
            *weights.last_mut().unwrap() ^= 1;
            project.put("weights.bin", &weights);
        },
    ];
    for (number, edit) in edits.iter().enumerate() {
        edit();
        let archive = project.pack();
        let (expected, bytes) = fresh(&project.list(), Format::TarZst);
        assert_eq!(archive.digest, expected.digest, "edit {number}");
        assert!(bytes_of(&archive) == bytes, "edit {number}");
        assert!(
            archive.made_bytes < archive.bytes / 2,
            "edit {number}: {} of {}",
            archive.made_bytes,
            archive.bytes
        );
        project.settle();
    }
}

/// Git's racy case: the same size and, within a tick of the clock, the same time.
#[test]
fn a_change_in_the_moment_of_packing_is_not_missed() {
    let project = Project::new(&["other.py"]);
    for number in 100..300 {
        project.put("main.py", format!("x = {number}").as_bytes());
        let archive = project.pack();
        assert_eq!(archive.digest, digest(&project), "change {number}");
    }
}

#[test]
fn files_that_change_or_vanish_after_they_were_chosen_are_named() {
    let project = Project::new(&["a.py", "b.py"]);
    let store = Store::temporary().unwrap();
    for content in ["longer than before", "-", "b.PY"] {
        let list = project.list();
        project.put("b.py", content.as_bytes());
        let error = pack(&list, Format::TarZst, &store).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(error.to_string().contains("b.py`"), "{error}");
    }
    let list = project.list();
    let path = project.root.join("b.py");
    fs::remove_file(&path).unwrap();
    let error = pack(&list, Format::TarZst, &store).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    // Opening it would wait for a writer.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = pack(&list, Format::TarZst, &store).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[test]
fn damage_to_what_is_kept_is_mended_or_found() {
    let project = Project::large();
    let whole = project.settle();
    let part = &whole.parts[1].path;
    let bytes = fs::read(part).unwrap();
    // Cut short: it is made again.
    fs::write(part, &bytes[..bytes.len() / 2]).unwrap();
    assert!(project.pack().is_intact());
    fs::remove_file(part).unwrap();
    assert!(project.pack().is_intact());
    // Of the right length: found by whoever sends it, who then begins anew.
    fs::write(part, vec![0; bytes.len()]).unwrap();
    let damaged = project.pack();
    assert!(!damaged.is_intact());
    let store = project.store();
    store.clear().unwrap();
    let again = pack(&project.list(), Format::TarZst, &store).unwrap();
    assert!(again.is_intact());
    assert_eq!(again.md5, whole.md5);
}

#[test]
fn a_cache_that_cannot_be_written_does_not_matter() {
    let project = Project::new(&["a.py", "file"]);
    let store = Store::open(&project.root.join("file"), &project.root, "all").unwrap();
    let archive = pack(&project.list(), Format::TarZst, &store).unwrap();
    assert!(archive.is_intact());
    let place = store.folder().to_path_buf();
    drop(store);
    assert!(!place.exists());
}

#[test]
fn only_the_last_archives_are_kept() {
    let project = Project::new(&["a.py"]);
    for number in 0..7 {
        project.put("a.py", format!("version {number}").as_bytes());
        let before = project.settle();
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        for part in &before.parts {
            let file = fs::File::options().append(true).open(&part.path).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        // Only then is the next one newer for certain.
        std::thread::sleep(Duration::from_millis(30));
    }
    let folder = project.store().folder().to_path_buf();
    let count = |name: &str| fs::read_dir(folder.join(name)).unwrap().count();
    assert_eq!(count("notes"), 4);
    assert_eq!(
        count("frames"),
        5,
        "those of four archives, and the end that all share"
    );
    assert_eq!(project.pack().made_bytes, 0);
}

#[test]
fn a_store_that_was_long_unused_is_swept_unless_it_is_opened() {
    let project = Project::new(&["a.py"]);
    project.settle();
    let (used, unused) = (project.store(), project.store_of("unused"));
    let long_ago = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    let age = |path: &Path| {
        let file = fs::File::open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    for note in fs::read_dir(used.folder().join("notes")).unwrap() {
        age(&note.unwrap().path());
    }
    age(used.folder());
    age(unused.folder());
    // The next one to be opened sweeps again.
    fs::remove_file(used.folder().with_file_name(".swept")).unwrap();
    assert_eq!(project.pack().made_bytes, 0);
    assert!(!unused.folder().exists());
}

#[test]
fn a_bundle_that_no_replica_would_unpack_is_refused() {
    let list = Project::new(&["small", "models/heavy.bin"]).list();
    let limits = |max_bytes, max_entries| Limits {
        max_bytes,
        max_entries,
    };
    assert!(list.check_limits(limits(100, 2)).is_ok());
    let error = list.check_limits(limits(10, 2)).unwrap_err();
    assert_eq!(error.code(), Code::BundleTooLarge);
    assert!(error.to_string().contains("21 bytes"), "{error}");
    assert!(error.hints()[0].contains("`models/heavy.bin`, `small`"));
    let error = list.check_limits(limits(100, 1)).unwrap_err();
    assert!(error.to_string().contains("2 files"), "{error}");
}

#[test]
fn a_sink_that_fails_is_an_error() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let project = Project::new(&["a.py"]);
    let error = project.pack().write_to(Full).unwrap_err();
    assert!(matches!(error, Error::Output(_)), "{error}");
}
