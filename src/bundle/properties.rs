//! Properties of bundles of random projects.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::tests::{Project, names};
use super::*;
use crate::files::archive::{Limits, extract};

fn path(ending: &'static str) -> impl Strategy<Value = String> {
    let part = select(vec!["a", "b", "pkg", "data", "ü", "a b", "__init__", "env"]);
    vec(part, 1..4).prop_map(move |parts| format!("{}{ending}", parts.join("/")))
}

fn source() -> impl Strategy<Value = String> {
    let import = select(vec![
        "import a",
        "import a.b, pkg",
        "from . import a",
        "from .. import pkg",
        "from pkg import a, b",
        "def f():\n    import data.a",
        "from .data.b import *",
        "import ü",
        "# import b",
        "x = 'import a'",
    ]);
    vec(import, 0..4).prop_map(|lines| lines.join("\n"))
}

/// Where a file stands in the way of a folder, the file is left away.
fn put(project: &Project, name: &str, content: &[u8]) -> bool {
    let path = project.root.join(name);
    path.parent()
        .is_some_and(|folder| fs::create_dir_all(folder).is_ok())
        && !path.is_dir()
        && fs::write(path, content).is_ok()
}

fn files_of(root: &Path) -> Vec<String> {
    let below = |path: &Path| {
        path.strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let entries = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| below(entry.path()))
        .collect()
}

/// The archive and its digest, as if nothing was ever made before.
fn packed(list: &FileList, format: Format) -> (Vec<u8>, files::Digest) {
    let store = Store::temporary().unwrap();
    let archive = pack(list, format, &store).unwrap();
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).unwrap();
    (bytes, archive.digest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn explanations_agree_with_the_bundle(
        sources in btree_map(path(".py"), source(), 1..10),
        data in btree_map(path(".csv"), Just(String::new()), 0..8),
        ignore in vec(select(vec!["*.csv", "!a.csv", "data/", "/a", "b.*", "ü"]), 0..3),
        include in vec(select(vec!["a", "data", "a/*.csv", "**/*.csv", "b.csv", "pkg/data", "env"]), 0..3),
        is_venv in any::<bool>(),
        style in select(vec![CopyStyle::LoadedModules, CopyStyle::All, CopyStyle::None]),
    ) {
        let project = Project::new(&[]);
        for (name, content) in sources.iter().chain(&data) {
            put(&project, name, content.as_bytes());
        }
        put(&project, ".gitignore", ignore.join("\n").as_bytes());
        if is_venv {
            put(&project, "env/pyvenv.cfg", b"");
        }
        let files = files_of(&project.root);
        let mut selection = project.selection(style);
        selection.modules = sources.keys().take(2).map(|name| project.root.join(name)).collect();
        let root = &project.root;
        selection.include = include
            .iter()
            .map(|pattern| Include { pattern: (*pattern).to_owned(), base: root.clone() })
            .collect();
        // An entry that means nothing is an error in both.
        match choose(&selection) {
            Ok(list) => {
                let listed = names(&list);
                for name in files {
                    let answer = explain(&selection, &root.join(&name)).unwrap();
                    prop_assert_eq!(answer.is_taken(), listed.contains(&name), "{}: {}", name, answer);
                }
            }
            Err(Error::Empty { .. }) => {
                for name in files {
                    prop_assert!(!explain(&selection, &root.join(&name)).unwrap().is_taken());
                }
            }
            Err(_) => prop_assert!(explain(&selection, &root.join(".gitignore")).is_err()),
        }
    }

    #[test]
    fn a_bundle_is_its_content_and_nothing_else(
        files in btree_map(path(".bin"), (vec(any::<u8>(), 0..300), any::<bool>()), 1..12),
        seconds in vec(0..2_000_000_000u64, 12),
    ) {
        let (one, other) = (Project::new(&[]), Project::new(&[]));
        let forward: Vec<_> = files.iter().collect();
        let kept: BTreeMap<_, _> = forward.iter().copied().filter(|(name, (bytes, _))| put(&one, name, bytes)).collect();
        // What one could hold, the other can in any order.
        for (name, (bytes, _)) in kept.iter().rev() {
            prop_assert!(put(&other, name, bytes));
        }
        for (project, seconds) in [(&one, None), (&other, Some(&seconds))] {
            for (index, (name, (_, executable))) in kept.iter().enumerate() {
                let path = project.root.join(name);
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                if let Some(seconds) = seconds {
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds[index % seconds.len()]);
                    fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
                }
            }
        }
        let (list, same) = (one.all(), other.all());
        for format in [Format::TarZst, Format::TarGz] {
            let (bytes, digest) = packed(&list, format);
            prop_assert_eq!(&packed(&same, format), &(bytes.clone(), digest));
            let archive = one.beside.join("code");
            fs::write(&archive, &bytes).unwrap();
            let copy = one.beside.join(format.extension());
            extract(&archive, &copy, Limits::default()).unwrap();
            fs::remove_file(copy.join(".code.extracted")).unwrap();
            for (name, (bytes, executable)) in &kept {
                let path = copy.join(name);
                prop_assert_eq!(&fs::read(&path).unwrap(), bytes);
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                prop_assert_eq!(mode & 0o111 != 0, *executable);
            }
            prop_assert_eq!(files_of(&copy).len(), kept.len());
        }
    }
}
