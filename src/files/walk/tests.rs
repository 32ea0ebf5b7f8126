//! The rules of the walk on real trees.

use super::*;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

/// A folder that holds the named files, each with its own name as content.
fn tree(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap().join("root");
    fs::create_dir(&root).unwrap();
    for name in names {
        put(&root, name, name);
    }
    (folder, root)
}

fn put(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn walk_from(root: &Path, start: &str) -> Walked {
    let mut walked = Walk {
        root,
        start,
        skip: &[],
        max_depth: usize::MAX,
    }
    .run()
    .unwrap();
    walked.files.sort_by(|a, b| a.name.cmp(&b.name));
    let unusable = walked.unusable.iter().map(ToString::to_string);
    walked.warnings.extend(unusable);
    walked
}

fn names(walked: &Walked) -> Vec<&str> {
    walked.files.iter().map(|file| &*file.name).collect()
}

fn found(root: &Path) -> Vec<String> {
    names(&walk_from(root, ""))
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_standard_list_holds_at_any_depth_or_at_the_top_only() {
    let (_guard, root) = tree(&[
        ".git/config",
        ".env",
        "a/.env",
        "a/__pycache__/x",
        "a/x.pyc",
        "a/node_modules/x",
        "a/.DS_Store",
        "a/p.egg-info/x",
        "a/.vscode/x",
        "a/.cache/x",
        "a/sub/.git",
        "dist/x",
        "build/x",
        "run.log",
        ".flyte/config.yaml",
        ".tox/x",
        "a/dist/x",
        "a/build/x",
        "a/run.log",
        ".hidden",
        "env/kept",
        "main.py",
    ]);
    assert_eq!(
        found(&root),
        [
            ".hidden",
            "a/build/x",
            "a/dist/x",
            "a/run.log",
            "env/kept",
            "main.py"
        ]
    );
}

#[test]
fn a_virtualenv_is_left_out_by_what_it_holds_but_not_as_the_root() {
    let (_guard, root) = tree(&["tools/my/pyvenv.cfg", "tools/my/bin/python", "x.py"]);
    assert_eq!(found(&root), ["x.py"]);
    put(&root, "pyvenv.cfg", "");
    assert_eq!(found(&root), ["pyvenv.cfg", "x.py"]);
}

#[test]
fn nested_gitignore_anchors_negates_and_prunes_without_a_repository() {
    let (_guard, root) = tree(&[
        "a.csv",
        "keep.csv",
        "sub/a.csv",
        "sub/b.csv",
        "sub/top.txt",
        "sub/in/top.txt",
        "out/deep/keep.csv",
        "größe.tmp",
    ]);
    put(&root, ".gitignore", "*.csv\n!keep.csv\nout/\n*.tmp\n");
    put(&root, "sub/.gitignore", "!b.csv\n/top.txt\n");
    assert_eq!(
        found(&root),
        [
            ".gitignore",
            "keep.csv",
            "sub/.gitignore",
            "sub/b.csv",
            "sub/in/top.txt"
        ]
    );
}

#[test]
fn flyteignore_is_stronger_than_gitignore_and_sees_case() {
    let (_guard, root) = tree(&["data.bin", "made.py", "Data.bin", "sub/x.md"]);
    put(&root, ".gitignore", "made.py\n");
    put(&root, ".flyteignore", "data.bin\n!made.py\n.gitignore\n");
    put(&root, "sub/.flyteignore", "*.md\n.flyteignore\n");
    assert_eq!(found(&root), [".flyteignore", "Data.bin", "made.py"]);
}

#[test]
fn rules_above_the_root_count_inside_its_repository_only() {
    let (_guard, root) = tree(&["a.tmp", "b.py", "nested/.git/HEAD", "nested/c.tmp"]);
    put(root.parent().unwrap(), ".gitignore", "*.tmp\n");
    assert_eq!(found(&root), ["a.tmp", "b.py", "nested/c.tmp"]);
    put(root.parent().unwrap(), ".git/HEAD", "");
    assert_eq!(found(&root), ["b.py", "nested/c.tmp"]);
}

#[test]
fn a_start_is_walked_though_excluded_and_rules_hold_in_it() {
    let (_guard, root) = tree(&["dist/a.js", "dist/a.map", "dist/.env", "dist/in/b.js"]);
    put(&root, ".gitignore", "dist/\n*.map\n");
    assert_eq!(
        names(&walk_from(&root, "dist")),
        ["dist/a.js", "dist/in/b.js"]
    );
    let shallow = Walk {
        root: &root,
        start: "dist",
        skip: &[],
        max_depth: 1,
    };
    assert_eq!(names(&shallow.run().unwrap()), ["dist/a.js"]);
}

#[test]
fn links_are_taken_by_their_own_name() {
    let (_guard, root) = tree(&["data/a.csv", "main.py"]);
    put(root.parent().unwrap(), "outside/secret.txt", "1234567");
    symlink("data", root.join("alias")).unwrap();
    symlink("../outside/secret.txt", root.join("one.txt")).unwrap();
    let walked = walk_from(&root, "");
    assert_eq!(
        names(&walked),
        ["alias/a.csv", "data/a.csv", "main.py", "one.txt"]
    );
    assert_eq!(walked.files[3].size, 7);
    assert!(walked.warnings.is_empty(), "{:?}", walked.warnings);
}

#[test]
fn what_cannot_be_shipped_is_named() {
    let (_guard, root) = tree(&["main.py", "sub/x"]);
    fs::create_dir(root.parent().unwrap().join("elsewhere")).unwrap();
    symlink("../elsewhere", root.join("escape")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("circle", root.join("circle")).unwrap();
    symlink("..", root.join("sub/loop")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), pipe, mode, 0).unwrap();
    let mut walked = walk_from(&root, "");
    assert_eq!(names(&walked), ["main.py", "sub/x"]);
    walked.warnings.sort();
    let expected = [
        ("circle", "leads nowhere"),
        ("dangling", "leads nowhere"),
        ("escape", "outside the root"),
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
        ("sub/loop", "a folder that holds it"),
    ];
    assert_eq!(walked.warnings.len(), expected.len());
    for (warning, (name, why)) in walked.warnings.iter().zip(expected) {
        assert!(warning.contains(&format!("root/{name}`")), "{warning}");
        assert!(warning.contains(why), "{warning}");
    }
}

#[test]
fn a_name_that_is_not_utf8_is_warned_of_and_a_bad_rule_matches_nothing() {
    let (_guard, root) = tree(&["ok"]);
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    put(&root, ".flyteignore", "ok\n[z-a]\n[\n");
    let walked = walk_from(&root, "");
    assert_eq!(names(&walked), [".flyteignore"]);
    assert_eq!(walked.warnings.len(), 1);
    let text = walked.warnings.join("\n");
    assert!(text.contains("not UTF-8"), "{text}");
}

#[test]
fn skipped_folders_and_missing_starts() {
    let (_guard, root) = tree(&["lib/site-packages/x.py", "app.py"]);
    let skip = [root.join("lib/site-packages")];
    let walk = Walk {
        root: &root,
        start: "",
        skip: &skip,
        max_depth: usize::MAX,
    };
    assert_eq!(names(&walk.run().unwrap()), ["app.py"]);
    let error = Walk {
        start: "gone",
        ..walk
    }
    .run()
    .unwrap_err();
    assert!(error.to_string().contains("root/gone`"), "{error}");
}

/// Runs git in a folder, without the settings of the machine.
fn git(folder: &Path, arguments: &[&str]) {
    let done = std::process::Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// A repository in which all is ignored but some files are tracked.
fn ignored_but_tracked() -> (tempfile::TempDir, PathBuf) {
    let (guard, root) = tree(&[
        "a.bin",
        "b.bin",
        "out/deep/c.py",
        "out/d.py",
        "src/e.py",
        ".env",
    ]);
    put(&root, ".gitignore", "*.bin\nout/\n");
    git(&root, &["init", "-q"]);
    let tracked = ["a.bin", "out/deep/c.py", ".env"];
    git(&root, &[&["add", "-f"], &tracked[..]].concat());
    (guard, root)
}

const TRACKED: [&str; 4] = [".gitignore", "a.bin", "out/deep/c.py", "src/e.py"];

#[test]
fn tracked_files_stay_but_for_our_own_rules() {
    let (_guard, root) = ignored_but_tracked();
    assert_eq!(found(&root), TRACKED);
    put(&root, "out/.flyteignore", "!d.py\n");
    assert_eq!(
        found(&root),
        TRACKED,
        "nothing comes back from an ignored folder"
    );
    put(&root, ".flyteignore", "a.bin\n!b.bin\n!out\n");
    let expected = [
        ".flyteignore",
        ".gitignore",
        "b.bin",
        "out/.flyteignore",
        "out/d.py",
        "out/deep/c.py",
        "src/e.py",
    ];
    assert_eq!(found(&root), expected, "but for the folder itself");
    let inner = root.join("out");
    assert_eq!(found(&inner), [".flyteignore", "d.py", "deep/c.py"]);
}

#[test]
fn every_form_of_the_index_is_read() {
    let (_guard, root) = ignored_but_tracked();
    for form in [
        &["update-index", "--index-version", "4"][..],
        &["update-index", "--split-index"],
        &["add", "-f", "a.bin"],
        &["update-index", "--no-split-index", "--untracked-cache"],
    ] {
        git(&root, form);
        assert_eq!(found(&root), TRACKED, "{form:?}");
    }
    let (_guard, root) = tree(&["a.bin"]);
    put(&root, ".gitignore", "*.bin\n");
    git(&root, &["init", "-q", "--object-format=sha256"]);
    git(&root, &["add", "-f", "a.bin"]);
    assert_eq!(found(&root), [".gitignore", "a.bin"]);
}

#[test]
fn a_broken_index_is_named_and_only_when_it_matters() {
    let (_guard, root) = ignored_but_tracked();
    for broken in ["", "DIRC\0\0\0\u{2}\0\0\0\u{9}"] {
        fs::write(root.join(".git/index"), broken).unwrap();
        let walked = walk_from(&root, "");
        assert_eq!(names(&walked), [".gitignore", "src/e.py"]);
        assert_eq!(walked.warnings.len(), 1, "{:?}", walked.warnings);
        assert!(
            walked.warnings[0].contains(".git/index` cannot be read"),
            "{:?}",
            walked.warnings
        );
    }
    fs::remove_file(root.join(".gitignore")).unwrap();
    let walked = walk_from(&root, "");
    assert!(walked.warnings.is_empty(), "{:?}", walked.warnings);
}

#[test]
fn excludes_beside_the_tree_count_and_gitignore_is_stronger() {
    let (_guard, root) = tree(&["a.tmp", "b.tmp", "c.log2", "d.log2", "e.py"]);
    git(&root, &["init", "-q"]);
    put(&root, "../mine", "*.log2\n");
    git(&root, &["config", "core.excludesFile", "../mine"]);
    put(&root, ".git/info/exclude", "*.tmp\n!d.log2\n");
    assert_eq!(found(&root), ["d.log2", "e.py"]);
    put(&root, ".gitignore", "!b.tmp\n");
    assert_eq!(found(&root), [".gitignore", "b.tmp", "d.log2", "e.py"]);
    // Included from the configuration, with a path from home.
    put(
        &root,
        "../more.config",
        "[core]\nexcludesFile = ~/no/such\nignoreCase = true\n",
    );
    put(
        &root,
        ".git/config",
        "[include]\npath = ../../more.config\n",
    );
    put(&root, ".gitignore", "*.TMP\n");
    assert_eq!(found(&root), [".gitignore", "c.log2", "d.log2", "e.py"]);
    put(&root, ".git/config", "[broken");
    let walked = walk_from(&root, "");
    assert!(
        walked.warnings[0].contains("git configuration"),
        "{:?}",
        walked.warnings
    );
}

#[test]
fn worktrees_submodules_and_nested_repositories_have_rules_of_their_own() {
    let (_guard, root) = ignored_but_tracked();
    git(&root, &["commit", "-qm", "x"]);
    put(&root, ".git/info/exclude", "*.py\n");
    let beside = root.parent().unwrap();
    git(&root, &["worktree", "add", "-q", "../tree"]);
    let tree = beside.join("tree");
    put(&tree, "out/new.py", "");
    put(&tree, "also.py", "");
    assert_eq!(found(&tree), ["a.bin", "out/deep/c.py"]);

    let outer = beside.join("outer");
    put(&outer, ".gitignore", "*\n!.gitignore\n");
    git(&outer, &["init", "-q"]);
    git(
        &outer,
        &["submodule", "--quiet", "add", "-f", "../root", "sub"],
    );
    assert!(outer.join("sub/.git").is_file());
    put(&outer, "sub/.gitignore", "*.bin\nout/\n");
    put(&outer, "sub/own.py", "");
    put(&outer, "nested/x.py", "");
    let expected = [
        ".gitignore",
        ".gitmodules",
        "sub/.gitignore",
        "sub/a.bin",
        "sub/out/deep/c.py",
        "sub/own.py",
    ];
    assert_eq!(found(&outer), expected);
    // A repository that the outer one does not know is left out by the outer one's rules.
    git(&outer.join("nested"), &["init", "-q"]);
    assert_eq!(found(&outer), expected);
    put(&outer, ".gitignore", "*.bin\n");
    assert!(found(&outer).contains(&"nested/x.py".to_owned()));
}

#[test]
fn a_stale_link_to_a_repository_is_none() {
    let (_guard, root) = tree(&["a.tmp", "b.py"]);
    put(&root, ".gitignore", "*.tmp\n");
    put(&root, ".git", "gitdir: /no/such/place\n");
    assert_eq!(found(&root), [".gitignore", "b.py"]);
    put(&root, ".git", "nonsense");
    assert_eq!(found(&root), [".gitignore", "b.py"]);
}

#[test]
fn rules_behind_a_link_or_a_folder_of_that_name_are_none() {
    let (_guard, root) = tree(&["a.tmp", "rules", ".flyteignore/x"]);
    put(&root, "rules", "*.tmp\n");
    symlink("rules", root.join(".gitignore")).unwrap();
    let walked = walk_from(&root, "");
    assert_eq!(
        names(&walked),
        [".flyteignore/x", ".gitignore", "a.tmp", "rules"]
    );
    assert!(
        walked.warnings[0].contains("it is a link"),
        "{:?}",
        walked.warnings
    );
}

#[test]
fn a_virtualenv_is_left_out_however_it_is_reached() {
    let (_guard, root) = tree(&["tools/my/pyvenv.cfg", "tools/my/lib/x/y.py", "a.py"]);
    symlink("tools/my", root.join("direct")).unwrap();
    symlink("tools/my/lib/x", root.join("inner")).unwrap();
    assert_eq!(found(&root), ["a.py"]);
    for start in ["tools/my", "tools/my/lib"] {
        assert!(names(&walk_from(&root, start)).is_empty(), "{start}");
    }
}

#[test]
fn names_that_differ_in_case_or_unicode_form_only_are_two_files() {
    let both = ["Data.csv", "data.csv", "größe", "gro\u{308}ße"];
    let (_guard, root) = tree(&both);
    assert_eq!(found(&root).len(), 4);
    put(&root, ".flyteignore", "data.csv\ngröße\n.flyteignore\n");
    assert_eq!(found(&root), ["Data.csv", "gro\u{308}ße"]);
}

/// That a path is explained with these words.
fn explains(root: &Path, name: &str, words: &str) {
    let walk = Walk {
        root,
        start: "",
        skip: &[],
        max_depth: usize::MAX,
    };
    let answer = walk.explain(name).unwrap().unwrap();
    assert_eq!(answer.clause(name, root), words, "{name}");
}

#[test]
fn explanations_name_the_rule_and_its_place() {
    let (_guard, root) = ignored_but_tracked();
    put(&root, "data/.flyteignore", "# big\n\n*.csv\n!keep.csv\n");
    for name in [
        "data/a.csv",
        "data/keep.csv",
        "tools/env/pyvenv.cfg",
        "tools/env/bin/x",
        "p/__pycache__/q.pyc",
    ] {
        put(&root, name, "");
    }
    put(&root, ".git/info/exclude", "*.note\n");
    put(&root, "my.note", "");
    symlink("nowhere", root.join("dangling")).unwrap();
    for (name, words) in [
        ("src/e.py", "no rule leaves it out"),
        ("data/a.csv", "`*.csv` in `data/.flyteignore`, line 3"),
        (
            "data/keep.csv",
            "`!keep.csv` in `data/.flyteignore`, line 4 takes it back",
        ),
        (
            "a.bin",
            "tracked by git although `*.bin` in `.gitignore`, line 1 matches",
        ),
        (
            "out/deep/c.py",
            "tracked by git although `out/` in `.gitignore`, line 2 matches",
        ),
        ("out/d.py", "`out/` in `.gitignore`, line 2"),
        ("my.note", "`*.note` in `.git/info/exclude`, line 1"),
        ("tools/env/bin/x", "in the virtualenv `tools/env`"),
        (
            "p/__pycache__/q.pyc",
            "the standard list has `__pycache__` (of the folder `p/__pycache__`)",
        ),
        ("dangling", "it is a link that leads nowhere"),
    ] {
        explains(&root, name, words);
    }
    let walk = Walk {
        root: &root,
        start: "src",
        skip: &[],
        max_depth: 1,
    };
    assert!(walk.explain("data/a.csv").unwrap().is_none());
    assert!(walk.explain("src/gone").unwrap().is_none());
    assert!(walk.explain("src/e.py/below").unwrap().is_none());
}
