//! Which files are chosen from projects as they are found in the wild, and what is said of each.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::tests::{Project, names};
use super::*;

/// The answer for one file, as it is shown.
fn why(selection: &Selection, name: &str) -> String {
    let path = selection.root.join(name);
    let answer = explain(selection, &path).unwrap();
    assert_eq!(answer.name, name);
    answer.to_string()
}

#[test]
fn namespace_packages_and_src_layouts_are_followed() {
    let project = Project::new(&["src/company/tools/clean.py", "src/company/unused.py"]);
    project.put(
        "src/company/api.py",
        "def f():\n    from company import tools\n    import company.tools.clean\n",
    );
    project.put("main.py", "import company.api\n");
    let mut selection = project.selection(CopyStyle::LoadedModules);
    let loaded = ["main.py", "src/company/api.py"];
    selection.modules = loaded.iter().map(|name| project.root.join(name)).collect();
    selection.source_roots = vec![project.root.join("src")];
    let expected = [
        "main.py",
        "src/company/api.py",
        "src/company/tools/clean.py",
    ];
    assert_eq!(names(&choose(&selection).unwrap()), expected);
    assert_eq!(why(&selection, "main.py"), "taken: Python has loaded it");
    assert_eq!(
        why(&selection, "src/company/api.py"),
        "taken: imported by `main.py`, line 1"
    );
    assert_eq!(
        why(&selection, "src/company/tools/clean.py"),
        "taken: imported by `src/company/api.py`, line 3"
    );
    assert_eq!(
        why(&selection, "src/company/unused.py"),
        "left out: no module of the bundle imports it, and no `include` entry names it"
    );
    assert_eq!(why(&selection, "src/company"), "taken: 2 files in it");
}

#[test]
fn a_package_in_editable_form_is_taken_below_the_root_and_named_beside_it() {
    let project = Project::new(&[
        "libs/inner/src/inner/__init__.py",
        "libs/inner/src/inner/lazy.py",
    ]);
    project.put(
        "app/main.py",
        "import inner.lazy\n\nimport outer\nimport json\n",
    );
    let outer = project.beside.join("outer/__init__.py");
    fs::create_dir_all(outer.parent().unwrap()).unwrap();
    fs::write(&outer, "").unwrap();
    let mut selection = project.selection(CopyStyle::LoadedModules);
    // As a `.pth` file in site-packages names them.
    selection.source_roots = vec![project.root.join("libs/inner/src"), project.beside.clone()];
    selection.modules = vec![project.root.join("app/main.py"), outer, "/etc/hosts".into()];
    let list = choose(&selection).unwrap();
    let expected = [
        "app/main.py",
        "libs/inner/src/inner/__init__.py",
        "libs/inner/src/inner/lazy.py",
    ];
    assert_eq!(names(&list), expected);
    assert_eq!(list.warnings().len(), 1, "{:?}", list.warnings());
    let warning = &list.warnings()[0];
    assert!(
        warning.starts_with("`outer`, which `app/main.py` imports in line 3"),
        "{warning}"
    );
    assert!(
        warning.contains("outer/__init__.py` lies outside the root"),
        "{warning}"
    );
}

#[test]
fn modules_of_a_virtualenv_stay_out_however_they_are_reached() {
    let project = Project::new(&["main.py", "env/pyvenv.cfg", "env/lib/dep/__init__.py"]);
    let foreign = project.beside.join("venv");
    fs::create_dir_all(foreign.join("lib/far")).unwrap();
    fs::write(foreign.join("pyvenv.cfg"), "").unwrap();
    fs::write(foreign.join("lib/far/__init__.py"), "").unwrap();
    symlink("env/lib/dep", project.root.join("dep")).unwrap();
    symlink(foreign.join("lib/far"), project.root.join("far")).unwrap();
    project.put("main.py", "import dep, far\n");
    let mut selection = project.selection(CopyStyle::LoadedModules);
    let modules = [
        "main.py",
        "dep/__init__.py",
        "far/__init__.py",
        "env/lib/dep/__init__.py",
    ];
    selection.modules = modules.iter().map(|name| project.root.join(name)).collect();
    let list = choose(&selection).unwrap();
    assert_eq!(names(&list), ["main.py"]);
    assert!(list.warnings().is_empty(), "{:?}", list.warnings());
    let left_out = "left out: in the virtualenv `env`";
    assert_eq!(why(&selection, "env/lib/dep/__init__.py"), left_out);
    let list = project.included(&["../env"]).unwrap();
    assert!(list.is_empty());
    let expected = "`include` entry `../env` takes nothing: in the virtualenv `env`";
    assert_eq!(list.warnings(), [expected]);
}

#[test]
fn a_monorepo_is_bundled_from_the_root_that_holds_it() {
    let project = Project::new(&[
        "services/api/static/x.css",
        "services/other/y.py",
        "libs/common/util.py",
    ]);
    project.put("services/api/app.py", "from libs.common import util\n");
    let mut selection = project.selection(CopyStyle::LoadedModules);
    selection.modules = vec![project.root.join("services/api/app.py")];
    let include = |pattern: &str| Include {
        pattern: pattern.to_owned(),
        base: project.root.join("services/api"),
    };
    selection.include = vec![include("static"), include("../../libs/**/*.py")];
    let expected = [
        "libs/common/util.py",
        "services/api/app.py",
        "services/api/static/x.css",
    ];
    assert_eq!(names(&choose(&selection).unwrap()), expected);
    assert_eq!(
        why(&selection, "services/api/static/x.css"),
        "taken: `include` entry `static`"
    );
    selection.root = project.root.join("services/api");
    let error = choose(&selection).unwrap_err();
    assert_eq!(error.code(), Code::BundleOutsideRoot);
    let hint = format!("`{}`", project.root.display());
    assert!(error.hints()[0].contains(&hint), "{:?}", error.hints());
}

#[test]
fn a_name_in_another_unicode_form_is_explained() {
    let project = Project::new(&["app/gro\u{308}ße.txt", "größe.py"]);
    project.put("main.py", "def f():\n    import gro\u{308}ße\n");
    assert_eq!(project.loaded(&["main.py"]), ["größe.py", "main.py"]);
    let error = project.included(&["größe.txt"]).unwrap_err();
    assert!(
        error.hints()[0].contains("another sequence of Unicode"),
        "{:?}",
        error.hints()
    );
    let list = project.included(&["gro\u{308}ße.txt"]).unwrap();
    assert_eq!(names(&list), ["app/gro\u{308}ße.txt"]);
}

#[test]
fn what_is_no_file_is_refused_when_named_and_passed_over_otherwise() {
    let project = Project::new(&["app/x.txt"]);
    let _socket = UnixListener::bind(project.root.join("app/socket")).unwrap();
    let pipe = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    );
    rustix::fs::mknodat(
        rustix::fs::CWD,
        project.root.join("app/pipe"),
        pipe.0,
        pipe.1,
        0,
    )
    .unwrap();
    for (name, kind) in [
        ("socket", "a socket"),
        ("pipe", "a named pipe"),
        ("/dev/null", "outside"),
    ] {
        let error = project.included(&[name]).unwrap_err();
        assert!(error.to_string().contains(kind), "{error}");
    }
    let list = project.included(&["*"]).unwrap();
    assert_eq!(names(&list), ["app/x.txt"]);
    assert_eq!(list.warnings().len(), 2, "{:?}", list.warnings());
}

/// Runs as a user who may not read everything. Credentials belong to threads on Linux, and all work
/// that is started inside a pool stays in it.
#[cfg(target_os = "linux")]
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .start_handler(|_| {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
        })
        .build()
        .unwrap();
    pool.install(work)
}

#[cfg(target_os = "linux")]
#[test]
fn what_may_not_be_read_is_refused_when_needed_and_passed_over_otherwise() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new(&["main.py", "app/locked.txt", "closed/x.py", "listed/y.py"]);
    project.put("main.py", "def f():\n    import locked\n");
    project.put("locked.py", "");
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&project.beside, 0o755);
    for (name, mode) in [
        ("app/locked.txt", 0o000),
        ("locked.py", 0o200),
        ("closed", 0o311),
        ("listed", 0o644),
    ] {
        set(&project.root.join(name), mode);
    }
    as_nobody(|| {
        let list = project.all();
        assert_eq!(names(&list), ["main.py"]);
        assert_eq!(list.warnings().len(), 4, "{:?}", list.warnings());
        assert!(
            list.warnings()
                .iter()
                .all(|warning| warning.ends_with("this user may not read it"))
        );
        let error = project.included(&["locked.txt"]).unwrap_err();
        assert_eq!(error.code(), Code::BundleIo);
        assert!(error.to_string().contains("app/locked.txt`"), "{error}");
        assert!(error.hints()[0].contains("access"), "{:?}", error.hints());
        let error = project.included(&["../closed"]).unwrap_err();
        assert!(error.to_string().contains("closed`"), "{error}");
        let mut loaded = project.selection(CopyStyle::LoadedModules);
        loaded.modules = vec![project.root.join("main.py")];
        let error = choose(&loaded).unwrap_err();
        assert!(error.to_string().contains("locked.py`"), "{error}");
        let all = project.selection(CopyStyle::All);
        assert_eq!(
            why(&all, "locked.py"),
            "left out: this user may not read it"
        );
    });
    for name in ["closed", "listed"] {
        set(&project.root.join(name), 0o755);
    }
}

#[test]
fn answers_name_rules_entries_and_styles() {
    let project = Project::new(&[
        "app/static/x.css",
        "app/static/x.map",
        "app/data/a.csv",
        "app/.env",
    ]);
    project.put(".gitignore", "*.map\n\n/app/data\n");
    let include = |pattern: &str| Include {
        pattern: pattern.to_owned(),
        base: project.root.join("app"),
    };
    let mut selection = project.selection(CopyStyle::None);
    selection.include = vec![include(".env"), include("static/"), include("dat*/*.csv")];
    // A glob that finds nothing is an error, so it is asked for alone.
    let glob = Selection {
        include: vec![selection.include.pop().unwrap()],
        ..selection.clone()
    };
    assert_eq!(why(&selection, "app/.env"), "taken: `include` entry `.env`");
    assert_eq!(
        why(&selection, "app/static/x.map"),
        "left out: `*.map` in `.gitignore`, line 1 (though `include` entry `static/` is around it)"
    );
    assert_eq!(
        why(&selection, "app/data/a.csv"),
        "left out: copy style `none` takes only what an `include` entry names"
    );
    let error = explain(&glob, &project.root.join("app/data/a.csv")).unwrap_err();
    assert_eq!(error.code(), Code::BundleMissing);
    let all = project.selection(CopyStyle::All);
    assert_eq!(
        why(&all, "app/data"),
        "left out: `/app/data` in `.gitignore`, line 3"
    );
    assert_eq!(
        why(&all, "app/data/a.csv"),
        "left out: `/app/data` in `.gitignore`, line 3 (of the folder `app/data`)"
    );
    assert_eq!(
        why(&all, "app/.env"),
        "left out: the standard list has `.env`"
    );
    assert_eq!(
        why(&all, "app/static/x.css"),
        "taken: no rule leaves it out"
    );
    assert_eq!(why(&all, "app"), "taken: 1 file in it");
    let outside = explain(&all, Path::new("/etc/hosts")).unwrap();
    assert!(
        outside
            .to_string()
            .starts_with("left out: it lies outside the root folder"),
        "{outside}"
    );
    let error = explain(&all, &project.root.join("app/statik/x.css")).unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    let expected = format!(
        "did you mean `{}`?",
        project.root.join("app/static").display()
    );
    assert_eq!(error.hints(), [expected]);
}
