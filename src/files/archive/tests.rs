//! Archives, well-formed and hostile, and what they leave on the disk.

use super::*;
use crate::error::{Code, Diagnostic};
use std::io::Write;
use tar::EntryType as Kind;

/// One entry as raw as a hostile archive may hold it.
struct Raw<'a> {
    name: &'a str,
    kind: Kind,
    link: &'a str,
    content: &'a [u8],
    mode: u32,
}

fn file<'a>(name: &'a str, content: &'a str) -> Raw<'a> {
    Raw {
        name,
        kind: Kind::Regular,
        link: "",
        content: content.as_bytes(),
        mode: 0o644,
    }
}

fn special<'a>(name: &'a str, kind: Kind, link: &'a str) -> Raw<'a> {
    Raw {
        kind,
        link,
        ..file(name, "")
    }
}

fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_ustar_mut().unwrap();
        bytes.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        bytes.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.content.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn dest(&self) -> PathBuf {
        self.folder.path().join("box/dest")
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("code.tar.zst")
    }

    fn extract(&self, entries: &[Raw]) -> Result<(), Error> {
        self.extract_bytes(&zstd::encode_all(&*tar_of(entries), 1).unwrap())
    }

    fn extract_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        fs::write(self.archive(), bytes).unwrap();
        extract(&self.archive(), &self.dest(), Limits::default())
    }

    /// That the archive is refused with this reason and has left nothing behind.
    fn refuses(entries: &[Raw], reason: &str) {
        for dest_exists in [false, true] {
            let scene = Self::new();
            if dest_exists {
                fs::create_dir_all(scene.dest()).unwrap();
            }
            let error = scene.extract(entries).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.code(), Code::BundleUnsafe, "{error}");
            let around = scene.folder.path().join("box");
            assert_eq!(count(&around), usize::from(dest_exists));
            assert!(!dest_exists || count(&scene.dest()) == 0);
            assert!(!scene.folder.path().join("evil").exists());
        }
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn unpacks_files_folders_links_and_modes() {
    let scene = Scene::new();
    let script = Raw {
        mode: 0o104_755,
        ..file("bin/run", "#!")
    };
    scene
        .extract(&[
            file("./a/b.txt", "hello"),
            script,
            special("empty", Kind::Directory, ""),
            special("a/up", Kind::Symlink, "../bin/run"),
            special("same", Kind::Link, "a/b.txt"),
        ])
        .unwrap();
    let dest = scene.dest();
    assert_eq!(read(dest.join("a/b.txt")), "hello");
    assert_eq!(read(dest.join("a/up")), "#!");
    assert_eq!(read(dest.join("same")), "hello");
    assert!(dest.join("empty").is_dir());
    let mode = fs::metadata(dest.join("bin/run")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o755);
    assert!(dest.join(".code.tar.zst.extracted").exists());
    assert_eq!(count(&scene.folder.path().join("box")), 1);
}

#[test]
fn a_second_call_does_nothing() {
    let scene = Scene::new();
    scene.extract(&[file("a", "1")]).unwrap();
    fs::write(scene.dest().join("a"), "mine").unwrap();
    fs::write(scene.archive(), "garbage").unwrap();
    extract(&scene.archive(), &scene.dest(), Limits::default()).unwrap();
    assert_eq!(read(scene.dest().join("a")), "mine");
}

#[test]
fn merges_into_a_folder_with_other_files() {
    let scene = Scene::new();
    let dest = scene.dest();
    fs::create_dir_all(dest.join("pkg")).unwrap();
    fs::write(dest.join("pkg/own.txt"), "own").unwrap();
    fs::write(dest.join("pkg/main.py"), "old").unwrap();
    symlink("/nowhere", dest.join("link")).unwrap();
    scene
        .extract(&[
            file("pkg/main.py", "new"),
            file("pkg/in/x", "x"),
            file("link/y", "y"),
        ])
        .unwrap();
    assert_eq!(read(dest.join("pkg/own.txt")), "own");
    assert_eq!(read(dest.join("pkg/main.py")), "new");
    assert_eq!(read(dest.join("pkg/in/x")), "x");
    assert_eq!(read(dest.join("link/y")), "y");
    assert_eq!(count(&dest), 3, "no temporary folder stays");
}

#[test]
fn a_folder_in_the_way_is_not_removed_and_leaves_no_marker() {
    let scene = Scene::new();
    fs::create_dir_all(scene.dest().join("a/b")).unwrap();
    let error = scene.extract(&[file("a", "1")]).unwrap_err();
    assert!(matches!(error, Error::InTheWay { .. }), "{error}");
    assert!(scene.dest().join("a/b").is_dir());
    assert_eq!(count(&scene.dest()), 1);
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
    let scene = Scene::new();
    let parent = scene.folder.path().join("box");
    for (folder, dest_exists) in [(parent.clone(), false), (scene.dest(), true)] {
        fs::create_dir_all(folder.join(".flyte-unpack-left/sub")).unwrap();
        fs::create_dir_all(folder.join(".flyte-unpack-used")).unwrap();
        let _in_use = lock_exclusive(&folder.join(".flyte-unpack-used")).unwrap();
        assert_eq!(scene.dest().exists(), dest_exists);
        scene.extract(&[file("a", "1")]).unwrap();
        assert!(!folder.join(".flyte-unpack-left").exists(), "{folder:?}");
        assert!(folder.join(".flyte-unpack-used").exists(), "{folder:?}");
        fs::remove_file(scene.dest().join(".code.tar.zst.extracted")).unwrap();
    }
}

#[test]
fn a_marker_holds_until_the_machine_is_started_again() {
    let scene = Scene::new();
    let archive = [file("a", "1"), file("b", "2")];
    scene.extract(&archive).unwrap();
    let marker = scene.dest().join(".code.tar.zst.extracted");
    // What a crash may leave: the marker of before, and a file without its content.
    for before in ["", "6f1c0e7e-0000-4000-8000-000000000000\n"] {
        fs::write(scene.dest().join("a"), "").unwrap();
        fs::write(&marker, before).unwrap();
        if before.as_bytes() != machine_start() {
            scene.extract(&archive).unwrap();
            assert_eq!(read(scene.dest().join("a")), "1");
        }
    }
}

#[test]
fn many_files_are_flushed_and_there() {
    let scene = Scene::new();
    let names: Vec<String> = (0..200).map(|i| format!("d{}/f{i}", i % 7)).collect();
    let raws: Vec<Raw> = names.iter().map(|name| file(name, name)).collect();
    scene.extract(&raws).unwrap();
    for name in &names {
        assert_eq!(read(scene.dest().join(name)), *name);
    }
    let written: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    for few_or_all in [3, 200] {
        flush(&scene.dest(), &written[..few_or_all]).unwrap();
    }
    let gone = [PathBuf::from("gone")];
    let error = flush(&scene.dest(), &gone).unwrap_err();
    assert!(error.to_string().contains("gone`"), "{error}");
}

#[test]
fn concurrent_calls_agree() {
    let scene = Scene::new();
    let entries: Vec<String> = (0..50).map(|i| format!("d{i}/f")).collect();
    let raws: Vec<Raw> = entries.iter().map(|name| file(name, name)).collect();
    fs::write(
        scene.archive(),
        zstd::encode_all(&*tar_of(&raws), 1).unwrap(),
    )
    .unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| extract(&scene.archive(), &scene.dest(), Limits::default())))
            .collect();
        for call in calls {
            call.join().unwrap().unwrap();
        }
    });
    assert_eq!(count(&scene.dest()), 51);
}

#[test]
fn hostile_names_are_refused() {
    Scene::refuses(&[file("../evil", "x")], "`..`");
    Scene::refuses(&[file("a/../../../evil", "x")], "`..`");
    Scene::refuses(&[file("/tmp/evil", "x")], "absolute");
    Scene::refuses(&[file(".code.tar.zst.extracted", "")], "not allowed");
    Scene::refuses(&[file(".code.tar.zst.extracted/x", "")], "not allowed");
    Scene::refuses(&[file(".", "")], "not allowed");
}

#[test]
fn hostile_links_are_refused() {
    let link = |name, to| special(name, Kind::Symlink, to);
    Scene::refuses(&[link("l", "/etc/passwd")], "leaves the folder");
    Scene::refuses(&[link("l", "../../evil")], "leaves the folder");
    Scene::refuses(&[link("a/l", "../../x")], "leaves the folder");
    // By its text `l` stays inside, but `d/e` leads to the top and `..` from there leaves.
    let climbing = [link("d/e", ".."), link("l", "d/e/../x")];
    Scene::refuses(&climbing, "leaves the folder");
    Scene::refuses(&[link("l", "sub"), file("l/x", "x")], "another entry");
    Scene::refuses(&[special("h", Kind::Link, "../evil")], "`..`");
    Scene::refuses(&[special("h", Kind::Link, "gone")], "no earlier file");
    let through = [link("l", "sub"), special("h", Kind::Link, "l")];
    Scene::refuses(&through, "no earlier file");
}

#[test]
fn devices_and_pipes_are_refused() {
    for kind in [Kind::Char, Kind::Block, Kind::Fifo] {
        Scene::refuses(&[special("x", kind, "")], "a device, a pipe");
    }
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let scene = Scene::new();
    let entries = [
        special("a", Kind::Symlink, "b"),
        file("a", "1"),
        file("a", "2"),
    ];
    scene.extract(&entries).unwrap();
    assert_eq!(read(scene.dest().join("a")), "2");
    Scene::refuses(&[file("d/x", ""), file("d", "")], "a folder in the same");
}

#[test]
fn limits_hold() {
    let scene = Scene::new();
    let tar = tar_of(&[file("a", "12345"), file("b", "12345")]);
    fs::write(scene.archive(), zstd::encode_all(&*tar, 1).unwrap()).unwrap();
    let limited = |max_bytes, max_entries| {
        let limits = Limits {
            max_bytes,
            max_entries,
        };
        extract(&scene.archive(), &scene.dest(), limits)
    };
    let error = limited(9, 2).unwrap_err();
    assert!(error.to_string().ends_with("more than 9 bytes"), "{error}");
    let error = limited(10, 1).unwrap_err();
    assert!(
        error.to_string().ends_with("more than 1 entries"),
        "{error}"
    );
    assert!(!scene.dest().exists());
    limited(10, 2).unwrap();
}

#[test]
fn a_bomb_in_a_header_or_behind_the_end_is_refused() {
    let name = "x".repeat(2 << 20);
    let long = Raw {
        kind: Kind::GNULongName,
        ..file("n", &name)
    };
    Scene::refuses(&[long, file("a", "")], "headers or padding");
    let mut tar = tar_of(&[file("a", "")]);
    tar.resize(tar.len() + (2 << 20), 0);
    let scene = Scene::new();
    let error = scene
        .extract_bytes(&zstd::encode_all(&*tar, 1).unwrap())
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn gzip_of_several_members_is_read_to_its_end() {
    let scene = Scene::new();
    let tar = tar_of(&[file("a", "1"), file("b", "2")]);
    let mut bytes = Vec::new();
    for part in tar.chunks(700) {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    scene.extract_bytes(&bytes).unwrap();
    assert_eq!(read(scene.dest().join("b")), "2");
}

#[test]
fn every_cut_and_every_foreign_format_is_an_error() {
    let tar = tar_of(&[file("a", "1"), file("b", "2")]);
    let scene = Scene::new();
    let whole = zstd::encode_all(&*tar, 1).unwrap();
    let uncompressed_cuts = (0..=2048).step_by(256);
    let cuts = uncompressed_cuts.map(|cut| zstd::encode_all(&tar[..cut], 1).unwrap());
    for bytes in cuts.chain((4..whole.len()).map(|cut| whole[..cut].to_vec())) {
        let error = scene.extract_bytes(&bytes).unwrap_err();
        assert_eq!(error.code(), Code::BundleIo, "{error}");
        assert!(!scene.dest().exists());
    }
    for bytes in [&tar[..], b"", b"PK\x03\x04"] {
        let error = scene.extract_bytes(bytes).unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { .. }), "{error}");
    }
}
