//! The walk against the real `git` on random trees, and its explanations against itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::explain::Taken;
use super::{Reason, Walk, standard};

/// A tree, the rules in it, and what of it git knows.
#[derive(Clone, Debug)]
struct Scene {
    /// Content does not matter here; the flag tells which are tracked.
    files: BTreeMap<String, bool>,
    links: Vec<String>,
    git: BTreeMap<String, String>,
    flyte: BTreeMap<String, String>,
    exclude: String,
    excludes_file: String,
    /// Which folder is the root: the top of the repository for most.
    root: Option<Index>,
}

/// Names that rules are likely to hit, and such as are hard to spell in rules.
const PARTS: &[&str] = &[
    "a",
    "b",
    "aa",
    "ab",
    "data",
    "keep",
    "a.csv",
    "b.csv",
    "x.py",
    "a.b.csv",
    "ü",
    "u\u{308}.csv",
    "a b",
    "end ",
    "#h",
    "!n",
    "[x]",
    "*",
    "q?",
    "{a,b}",
    "back\\slash",
    "A.CSV",
    "-dash",
    "dist",
    "__pycache__",
    "env",
    "größe.txt",
    "\u{1f40d}",
    "tab\t",
];

fn part() -> impl Strategy<Value = String> {
    select(PARTS).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    vec(part(), 1..5).prop_map(|parts| parts.join("/"))
}

/// One part of a pattern: a name as it is, or something that stands for names.
fn piece() -> impl Strategy<Value = String> {
    const GLOBS: &[&str] = &[
        "*",
        "**",
        "?",
        "??",
        "*.csv",
        "a*",
        "*b*",
        "[ab]",
        "[!a]",
        "[^a]*",
        "[a-c]*",
        "[]x]*",
        "[z-a]",
        "[[:alpha:]]",
        "[[:upper:]]*",
        "[[:space:]]",
        "a[",
        "{a,b}",
        "\\a",
        "\\*",
        "\\#h",
        "\\!n",
        "\\[x\\]",
        "[[]x]",
        "q\\?",
        "end\\ ",
        "a**b",
        "***",
        "ü*",
        "\\",
        "back\\\\slash",
        "k[e]*p",
        "[a-",
        "[\\]]*",
        "*.c[s]v",
        "\u{fc}",
        "[ü]",
        "*\u{308}*",
        "$a",
        "a.*",
    ];
    prop_oneof![2 => part(), 3 => select(GLOBS).prop_map(str::to_owned)]
}

fn line() -> impl Strategy<Value = String> {
    let begin = select(vec!["", "", "", "/", "!", "!", "!/", "**/", "#", " "]);
    let end = select(vec![
        "", "", "", "/", "/", "/**", "/*", " ", "  ", "\t", "\r", "\\ ", "//",
    ]);
    (begin, vec(piece(), 1..4), end)
        .prop_map(|(begin, pieces, end)| format!("{begin}{}{end}", pieces.join("/")))
}

fn rules() -> impl Strategy<Value = String> {
    (vec(line(), 1..6), any::<bool>()).prop_map(|(lines, closed)| {
        let mut text = lines.join("\n");
        text.push_str(if closed { "\n" } else { "" });
        text
    })
}

fn without_negation(rules: BTreeMap<String, String>) -> BTreeMap<String, String> {
    rules
        .into_iter()
        .map(|(folder, text)| {
            let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with('!')).collect();
            (folder, plain.join("\n"))
        })
        .collect()
}

prop_compose! {
    fn scene()(
        files in btree_map(path(), any::<bool>(), 1..25),
        links in vec(path(), 0..3),
        git in btree_map(prop_oneof![Just(String::new()), path()], rules(), 0..4),
        flyte in btree_map(prop_oneof![Just(String::new()), path()], rules(), 0..3),
        alone in proptest::bool::weighted(0.2),
        exclude in prop_oneof![3 => Just(String::new()), 1 => rules()],
        excludes_file in prop_oneof![3 => Just(String::new()), 1 => rules()],
        root in proptest::option::weighted(0.3, any::<Index>()),
    ) -> Scene {
        // What `.flyteignore` takes back from git has no counterpart in git.
        let (git, flyte) = if alone { (BTreeMap::new(), flyte) } else { (git, without_negation(flyte)) };
        let nothing = |text: String| if alone { String::new() } else { text };
        Scene { files, links, git, flyte, root, exclude: nothing(exclude), excludes_file: nothing(excludes_file) }
    }
}

/// A scene on disk. What does not fit (a file where a folder is) is left away.
struct Stage {
    _guard: tempfile::TempDir,
    top: PathBuf,
}

impl Stage {
    fn set(scene: &Scene) -> Self {
        let guard = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(guard.path()).unwrap();
        let stage = Self {
            top: base.join("top"),
            _guard: guard,
        };
        for (folder, excludes) in [("top/.git", scene.exclude.as_str()), ("other.git", "")] {
            let folder = base.join(folder);
            for inner in ["objects", "refs", "info"] {
                fs::create_dir_all(folder.join(inner)).unwrap();
            }
            fs::write(folder.join("HEAD"), "ref: refs/heads/main\n").unwrap();
            fs::write(folder.join("info/exclude"), excludes).unwrap();
            let user = base.join("excludes").display().to_string();
            let config = format!("[core]\nbare = false\nexcludesFile = {user}\n");
            fs::write(folder.join("config"), config).unwrap();
        }
        fs::write(base.join("excludes"), &scene.excludes_file).unwrap();
        fs::write(base.join("target"), "").unwrap();
        let tracked: Vec<&String> = scene
            .files
            .iter()
            .filter(|(name, tracked)| stage.put(name, "") && **tracked)
            .map(|(name, _)| name)
            .collect();
        stage.track(&tracked);
        for link in &scene.links {
            let path = stage.top.join(link);
            if path
                .parent()
                .is_some_and(|parent| fs::create_dir_all(parent).is_ok())
            {
                let _ = symlink(base.join("target"), path);
            }
        }
        for (rules, file) in [(&scene.git, ".gitignore"), (&scene.flyte, ".flyteignore")] {
            for (folder, text) in rules {
                stage.put(&super::join(folder, file), text);
            }
        }
        stage
    }

    fn put(&self, name: &str, content: &str) -> bool {
        let path = self.top.join(name);
        path.parent()
            .is_some_and(|parent| fs::create_dir_all(parent).is_ok())
            && !path.is_dir()
            && fs::write(path, content).is_ok()
    }

    fn track(&self, names: &[&String]) {
        if !names.is_empty() {
            let mut add = self.git(&self.top, "top/.git");
            let literal = names.iter().map(|name| format!(":(literal){name}"));
            let added = add
                .args(["add", "--force", "--"])
                .args(literal)
                .output()
                .unwrap();
            assert!(added.status.success(), "{added:?}");
        }
    }

    /// `git` without the settings of the machine.
    fn git(&self, folder: &Path, git_dir: &str) -> Command {
        let base = self.top.parent().unwrap();
        let mut git = Command::new("git");
        git.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", base)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", base.join(git_dir))
            .env("GIT_WORK_TREE", &self.top)
            .current_dir(folder);
        git
    }

    /// What git lists in a folder, one name each.
    fn listed(&self, folder: &Path, git_dir: &str, options: &[&str]) -> BTreeSet<String> {
        let mut git = self.git(folder, git_dir);
        let listed = git.args(["ls-files", "-z"]).args(options).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        let text = String::from_utf8(listed.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    /// Every folder of the tree, relative to the top.
    fn folders(&self) -> Vec<PathBuf> {
        walkdir::WalkDir::new(&self.top)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| entry.file_name() != ".git")
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_dir())
            .map(walkdir::DirEntry::into_path)
            .collect()
    }

    /// Whether a rule leaves out the folder or one around it. Git lists nothing there, while the
    /// root that a user asks for is walked all the same.
    fn leaves_out(&self, folder: &Path) -> bool {
        let walk = Walk {
            root: &self.top,
            start: "",
            skip: &[],
            max_depth: usize::MAX,
        };
        let name = folder.strip_prefix(&self.top).unwrap().to_str().unwrap();
        let answer = walk.explain(name).unwrap().unwrap();
        matches!(answer.taken, Taken::No) || matches!(answer.reason, Reason::Tracked(_))
    }
}

fn is_standard(name: &str) -> bool {
    let mut parts = name.split('/').enumerate();
    parts.any(|(depth, part)| standard::entry(part, depth == 0).is_some())
}

fn run(root: &Path) -> BTreeSet<String> {
    let walk = Walk {
        root,
        start: "",
        skip: &[],
        max_depth: usize::MAX,
    };
    let walked = walk.run().unwrap();
    let names: BTreeSet<String> = walked
        .files
        .iter()
        .map(|file| file.name.to_string())
        .collect();
    assert_eq!(names.len(), walked.files.len(), "a name is listed twice");
    names
}

/// What the explanation of each path says, as a list of files.
fn explained(root: &Path) -> BTreeSet<String> {
    let walk = Walk {
        root,
        start: "",
        skip: &[],
        max_depth: usize::MAX,
    };
    walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter_map(|path| {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let answer = walk.explain(&name).unwrap().unwrap();
            assert!(Path::new(&name).starts_with(&answer.decided_at));
            match answer.taken {
                Taken::File(file) => {
                    assert_eq!(&*file.name, name);
                    Some(name)
                }
                Taken::Folder => {
                    assert!(path.is_dir());
                    None
                }
                Taken::No => None,
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_list_is_that_of_git_and_our_rules(scene in scene()) {
        let stage = Stage::set(&scene);
        let folders = stage.folders();
        let root = scene.root.map_or(&stage.top, |index| index.get(&folders));
        prop_assume!(!stage.leaves_out(root));
        let standard = stage.listed(root, "top/.git", &["--cached", "--others", "--exclude-standard"]);
        let flyte = stage.listed(root, "other.git", &["--others", "--exclude-per-directory=.flyteignore"]);
        let expected: BTreeSet<String> = standard
            .intersection(&flyte)
            .filter(|name| !is_standard(name) && root.join(name).is_file())
            .cloned()
            .collect();
        prop_assert_eq!(run(root), expected);
    }

    #[test]
    fn explanations_agree_with_the_list(scene in scene(), venv in proptest::option::of(any::<Index>())) {
        let stage = Stage::set(&scene);
        let folders = stage.folders();
        if let Some(index) = venv {
            fs::write(index.get(&folders).join("pyvenv.cfg"), "").unwrap();
        }
        let root = scene.root.map_or(&stage.top, |index| index.get(&folders));
        prop_assert_eq!(explained(root), run(root));
    }
}
