//! The rules of the bundle on real trees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A project folder, with room for other folders beside it.
pub(super) struct Project {
    _folder: tempfile::TempDir,
    pub beside: PathBuf,
    pub root: PathBuf,
}

impl Project {
    pub fn new(files: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let beside = fs::canonicalize(folder.path()).unwrap();
        let root = beside.join("project");
        fs::create_dir(&root).unwrap();
        let project = Self {
            _folder: folder,
            beside,
            root,
        };
        for name in files {
            project.put(name, name);
        }
        project
    }

    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn selection(&self, style: CopyStyle) -> Selection {
        Selection {
            root: self.root.clone(),
            style,
            modules: Vec::new(),
            installed: Vec::new(),
            source_roots: Vec::new(),
            include: Vec::new(),
        }
    }

    /// The bundle of these loaded modules.
    pub fn loaded(&self, modules: &[&str]) -> Vec<String> {
        let mut selection = self.selection(CopyStyle::LoadedModules);
        selection.modules = modules.iter().map(|name| self.root.join(name)).collect();
        names(&choose(&selection).unwrap())
    }

    pub fn included(&self, patterns: &[&str]) -> Result<FileList, Error> {
        let mut selection = self.selection(CopyStyle::None);
        selection.include = patterns
            .iter()
            .map(|pattern| Include {
                pattern: (*pattern).to_owned(),
                base: self.root.join("app"),
            })
            .collect();
        choose(&selection)
    }

    pub fn all(&self) -> FileList {
        choose(&self.selection(CopyStyle::All)).unwrap()
    }
}

pub(super) fn names(list: &FileList) -> Vec<String> {
    list.files()
        .iter()
        .map(|file| file.name.to_string())
        .collect()
}

#[test]
fn loaded_modules_come_with_their_packages_and_lazy_imports() {
    let project = Project::new(&["a/__init__.py", "a/b/__init__.py", "unused.py", "lazy/x.py"]);
    project.put(
        "a/b/main.py",
        "def f():\n    from ..other import thing\n    import ns.leaf\n",
    );
    project.put("a/other.py", "if TYPE_CHECKING:\n    from . import third\n");
    project.put("a/third.py", "import json, os.path, a.b.nothing\n");
    project.put(
        "ns/leaf.py",
        "from deep import (\n    inner,\n    VALUE,\n)\n",
    );
    project.put("deep/__init__.py", "");
    project.put("deep/inner.py", "from lazy import *\n");
    assert_eq!(
        project.loaded(&["a/b/main.py"]),
        [
            "a/__init__.py",
            "a/b/__init__.py",
            "a/b/main.py",
            "a/other.py",
            "a/third.py",
            "deep/__init__.py",
            "deep/inner.py",
            "ns/leaf.py"
        ]
    );
}

#[test]
fn absolute_imports_follow_source_roots_then_root_then_the_own_folder() {
    let project = Project::new(&["src/one.py", "one.py", "two.py", "scripts/three.py"]);
    project.put("scripts/run.py", "import one, two, three");
    let mut selection = project.selection(CopyStyle::LoadedModules);
    selection.modules = vec![project.root.join("scripts/run.py")];
    selection.source_roots = vec!["/usr/lib".into(), project.root.join("src")];
    assert_eq!(
        names(&choose(&selection).unwrap()),
        ["scripts/run.py", "scripts/three.py", "src/one.py", "two.py"]
    );
}

#[test]
fn imports_in_a_circle_end() {
    let project = Project::new(&[]);
    project.put("a.py", "import b");
    project.put("b.py", "import a, b");
    assert_eq!(project.loaded(&["a.py"]), ["a.py", "b.py"]);
}

#[test]
fn installed_code_virtualenvs_and_foreign_files_stay_out() {
    let project = Project::new(&[
        "app.py",
        "lib/site-packages/dep.py",
        "my/pyvenv.cfg",
        "my/bin/serve",
        ".gitignore",
        "native.so",
    ]);
    project.put(".gitignore", "native.so\n");
    fs::write(project.beside.join("cached.py"), "").unwrap();
    let site = project.root.join("lib/site-packages");
    symlink(project.beside.join("cached.py"), site.join("linked.py")).unwrap();
    let mut selection = project.selection(CopyStyle::LoadedModules);
    selection.modules = [
        "app.py",
        "native.so",
        "gone.py",
        "lib",
        "lib/site-packages/dep.py",
        "lib/site-packages/linked.py",
        "my/bin/serve",
        "../cached.py",
    ]
    .iter()
    .map(|name| project.root.join(name))
    .collect();
    selection.installed = vec![site];
    assert_eq!(names(&choose(&selection).unwrap()), ["app.py", "native.so"]);
    selection.style = CopyStyle::All;
    assert_eq!(
        names(&choose(&selection).unwrap()),
        [".gitignore", "app.py"]
    );
}

#[test]
fn a_root_and_modules_reached_through_links_agree() {
    let project = Project::new(&["app.py", ".env", ".venv/x", "pkg/real.py"]);
    let alias = project.beside.join("alias");
    let third = project.beside.join("third");
    symlink(&project.root, &alias).unwrap();
    symlink(&project.root, &third).unwrap();
    fs::write(project.beside.join("shared.py"), "").unwrap();
    symlink("../shared.py", project.root.join("shared.py")).unwrap();
    symlink("real.py", project.root.join("pkg/link.py")).unwrap();
    let mut selection = project.selection(CopyStyle::LoadedModules);
    selection.root = alias.clone();
    selection.modules = vec![
        project.root.join("app.py"),
        alias.join("pkg/link.py"),
        third.join("shared.py"),
    ];
    let expected = ["app.py", "pkg/link.py", "shared.py"];
    assert_eq!(names(&choose(&selection).unwrap()), expected);
    selection.style = CopyStyle::All;
    let expected = ["app.py", "pkg/link.py", "pkg/real.py", "shared.py"];
    assert_eq!(names(&choose(&selection).unwrap()), expected);
}

#[test]
fn finding_nothing_is_an_error_but_for_style_none() {
    let project = Project::new(&[".env"]);
    for style in [CopyStyle::LoadedModules, CopyStyle::All] {
        let mut selection = project.selection(style);
        let error = choose(&selection).unwrap_err();
        assert_eq!(error.code(), Code::BundleEmpty);
        assert!(!error.hints().is_empty());
        selection.include.push(Include {
            pattern: ".env".to_owned(),
            base: project.root.clone(),
        });
        assert_eq!(names(&choose(&selection).unwrap()), [".env"]);
    }
    let list = choose(&project.selection(CopyStyle::None)).unwrap();
    assert!(list.is_empty());
    let mut gone = project.selection(CopyStyle::None);
    gone.root = project.root.join("gone");
    let error = choose(&gone).unwrap_err();
    assert!(error.to_string().contains("project/gone`"), "{error}");
}

#[test]
fn include_takes_files_folders_and_globs() {
    let project = Project::new(&[
        "app/.env",
        "app/a[1].txt",
        "app/static/x.css",
        "app/static/in/y.css",
        "app/static/in/z.map",
        "app/static/__pycache__/p.pyc",
        "shared/m.json",
        "shared/in/n.json",
    ]);
    project.put(".gitignore", "*.map\n");
    let included = |pattern: &str| names(&project.included(&[pattern]).unwrap());
    assert_eq!(included(".env"), ["app/.env"]);
    assert_eq!(included("static/in/z.map"), ["app/static/in/z.map"]);
    assert_eq!(included("a[1].txt"), ["app/a[1].txt"]);
    assert_eq!(
        included("static"),
        ["app/static/in/y.css", "app/static/x.css"]
    );
    assert_eq!(included("static/*"), ["app/static/x.css"]);
    assert_eq!(included("**/y.*"), ["app/static/in/y.css"]);
    assert_eq!(included("../shared/*.json"), ["shared/m.json"]);
    assert_eq!(
        included("../shared/**/*.json"),
        ["shared/in/n.json", "shared/m.json"]
    );
    let absolute = project.root.join("shared/m.json");
    assert_eq!(included(absolute.to_str().unwrap()), ["shared/m.json"]);
    let twice = project
        .included(&["static", "static/*.css", "static/x.css"])
        .unwrap();
    assert_eq!(twice.files().len(), 2);
}

#[test]
fn a_folder_with_the_characters_of_a_glob_is_no_glob() {
    let project = Project::new(&[
        "app/data/a.txt",
        "app/data/a.map",
        "app/[1] {x}*?/b.txt",
        "app/[1] {x}*?/c.md",
    ]);
    project.put(".gitignore", "*.map\n");
    // As the project's own folder may be called.
    let moved = Project {
        root: project.beside.join("{my} [project]"),
        ..project
    };
    fs::rename(moved.beside.join("project"), &moved.root).unwrap();
    let included = |pattern: &str| names(&moved.included(&[pattern]).unwrap());
    assert_eq!(included("data/*.txt"), ["app/data/a.txt"]);
    assert_eq!(included("[1] {x}*?/*.txt"), ["app/[1] {x}*?/b.txt"]);
    let both = ["app/[1] {x}*?/b.txt", "app/data/a.txt"];
    assert_eq!(included("**/*.txt"), both);
    let include = |pattern: &str| Include {
        pattern: pattern.to_owned(),
        base: moved.root.join("app"),
    };
    let selection = Selection {
        include: vec![include("data/*")],
        ..moved.selection(CopyStyle::None)
    };
    let answer = explain(&selection, &moved.root.join("app/data/a.map")).unwrap();
    assert_eq!(
        answer.to_string(),
        "left out: `*.map` in `.gitignore`, line 1 (though `include` entry `data/*` is around it)"
    );
}

#[test]
fn a_linked_include_keeps_its_name() {
    let project = Project::new(&["app/real/a.txt"]);
    fs::write(project.beside.join("weights.bin"), "1").unwrap();
    symlink("real", project.root.join("app/alias")).unwrap();
    symlink("../../weights.bin", project.root.join("app/model.bin")).unwrap();
    let list = project.included(&["alias", "model.bin"]).unwrap();
    assert_eq!(names(&list), ["app/alias/a.txt", "app/model.bin"]);
}

#[test]
fn include_says_what_is_missing_and_what_is_outside() {
    let project = Project::new(&["app/config.yaml", "app/hidden.map"]);
    project.put(".gitignore", "*.map\n");
    let error = project.included(&["confg.yaml"]).unwrap_err();
    assert_eq!(error.code(), Code::BundleMissing);
    assert!(
        error
            .to_string()
            .contains("`confg.yaml` matches nothing in"),
        "{error}"
    );
    assert!(error.to_string().ends_with("project/app`"), "{error}");
    assert_eq!(error.hints()[0], "did you mean `config.yaml`?");
    for pattern in ["*.map", "*.nothing", "gone/*.txt", "[", "app/**"] {
        let error = project.included(&[pattern]).unwrap_err();
        assert_eq!(error.code(), Code::BundleMissing, "{pattern}");
    }
    fs::write(project.beside.join("other.txt"), "").unwrap();
    for pattern in ["../../other.txt", "../../*.txt", "../.."] {
        let error = project.included(&[pattern]).unwrap_err();
        assert_eq!(error.code(), Code::BundleOutsideRoot, "{pattern}");
        let wanted = format!("`{}`", project.beside.display());
        assert!(error.hints()[0].contains(&wanted), "{:?}", error.hints());
    }
}
