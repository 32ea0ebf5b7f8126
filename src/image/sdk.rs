//! Placing our own package into an environment, with the two programs that start it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::digest::{Kind, Sight};
use super::env::SdkPayload;
use super::error::Error;

/// The kernel cuts longer `#!` lines (`BINPRM_BUF_SIZE` before Linux 5.1).
const SHEBANG_MAX_BYTES: usize = 127;

/// The programs of this SDK, and the modules whose `main` they run.
pub(super) const PROGRAMS: [(&str, &str); 2] =
    [("fserve", "flyte._runtime"), ("flyte", "flyte._cli")];

/// The `site-packages` of an environment.
pub(super) fn site_packages(env: &Path) -> Result<PathBuf, Error> {
    let lib = env.join("lib");
    let listing = std::fs::read_dir(&lib).map_err(Error::store("read", &lib))?;
    listing
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")))
        .find(|path| path.is_dir())
        .ok_or_else(|| Error::Store {
            action: "find `site-packages` in",
            path: lib,
            source: std::io::ErrorKind::NotFound.into(),
        })
}

/// Copies the SDK in and writes `fserve` and `flyte`.
pub(super) fn place(payload: &SdkPayload, env: &Path) -> Result<(), Error> {
    let site = site_packages(env)?;
    for entry in &payload.entries {
        let name = entry.file_name().unwrap_or_default();
        let target = site.join(name);
        if target.exists() && !is_ours(name) {
            continue; // a version that the user chose
        }
        place_entry(entry, &target)?;
    }
    PROGRAMS
        .iter()
        .try_for_each(|(name, module)| write_launcher(env, name, module))
}

/// Ours replace what an installer left; what we merely need yields to it.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name == "flyte" || name.to_string_lossy().starts_with("flyte_rs-")
}

fn place_entry(entry: &Path, target: &Path) -> Result<(), Error> {
    if !entry.is_dir() {
        return link_or_copy(entry, target);
    }
    if target.exists() {
        std::fs::remove_dir_all(target).map_err(Error::store("replace", target))?;
    }
    std::fs::create_dir_all(target).map_err(Error::store("create", target))?;
    for found in Sight::default().walk(entry)? {
        let to = target.join(&found.path);
        match found.kind {
            Kind::Folder => std::fs::create_dir_all(&to).map_err(Error::store("create", &to))?,
            Kind::File { .. } | Kind::Link { .. } => link_or_copy(&entry.join(&found.path), &to)?,
        }
    }
    Ok(())
}

/// Libraries are big, and installers replace rather than rewrite them: these are shared. Sources
/// are what a developer edits in place: these are copied, so that an environment never changes.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), Error> {
    let is_library = from.extension().is_some_and(|extension| extension == "so");
    if is_library && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)
        .map(drop)
        .map_err(Error::store("write", to))
}

fn write_launcher(env: &Path, name: &str, module: &str) -> Result<(), Error> {
    let path = env.join("bin").join(name);
    let text = launcher(&env.join("bin/python"), module);
    std::fs::write(&path, text).map_err(Error::store("write", &path))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).map_err(Error::store("write", &path))
}

/// The program drops its own folder from `sys.path`, so that what lies in `bin` is no module.
pub(super) fn launcher(python: &Path, module: &str) -> String {
    let head = first_lines(&python.to_string_lossy());
    format!(
        "{head}import sys\n\
         if sys.path and sys.path[0] == __file__.rpartition(\"/\")[0]:\n    del sys.path[0]\n\
         from {module} import main\n\
         sys.exit(main())\n"
    )
}

/// A `#!` line, or, where the kernel would cut or split it, lines that are shell *and* Python.
fn first_lines(python: &str) -> String {
    if python.len() + "#!".len() <= SHEBANG_MAX_BYTES && !python.contains(char::is_whitespace) {
        return format!("#!{python}\n");
    }
    let quoted = python.replace('\'', r"'\''");
    format!("#!/bin/sh\n'''exec' '{quoted}' \"$0\" \"$@\"\n' '''\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    /// An environment of `/bin` links: enough to place files in.
    fn env(dir: &Path) -> PathBuf {
        let env = dir.join("env");
        fs::create_dir_all(env.join("lib/python3.11/site-packages/cloudpickle")).unwrap();
        fs::create_dir_all(env.join("bin")).unwrap();
        env
    }

    #[test]
    fn ours_replaces_and_what_we_need_yields() {
        let dir = tempfile::tempdir().unwrap();
        let env = env(dir.path());
        let site = site_packages(&env).unwrap();
        let from = dir.path().join("from");
        for (path, text) in [
            ("flyte/__init__.py", "new"),
            ("flyte/_native.abi3.so", "lib"),
            ("cloudpickle/x.py", "ours"),
        ] {
            let path = from.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(site.join("flyte")).unwrap();
        fs::write(site.join("flyte/stale.py"), "old").unwrap();
        let payload = SdkPayload {
            entries: vec![from.join("flyte"), from.join("cloudpickle")],
            identity: "1".into(),
        };
        place(&payload, &env).unwrap();
        assert_eq!(
            fs::read_to_string(site.join("flyte/__init__.py")).unwrap(),
            "new"
        );
        assert!(!site.join("flyte/stale.py").exists());
        assert!(!site.join("cloudpickle/x.py").exists());
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_eq!(
            inode(site.join("flyte/_native.abi3.so")),
            inode(from.join("flyte/_native.abi3.so"))
        );
        assert_ne!(
            inode(site.join("flyte/__init__.py")),
            inode(from.join("flyte/__init__.py"))
        );
    }

    #[test]
    fn long_and_spaced_paths_avoid_the_shebang() {
        assert_eq!(first_lines("/e/bin/python"), "#!/e/bin/python\n");
        for path in [
            "/with space/python".to_owned(),
            format!("/{}/python", "x".repeat(130)),
        ] {
            assert!(
                first_lines(&path).starts_with("#!/bin/sh\n'''exec' '/"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_launcher_behind_a_long_path_still_runs() {
        let Some(python) = super::super::system::find_on_path("python3") else {
            assert!(std::env::var_os("CI").is_none(), "no python3");
            eprintln!("skipped: no python3 on PATH");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let env = env(&dir.path().join(format!("it's {}", "x".repeat(130))));
        std::os::unix::fs::symlink(python, env.join("bin/python")).unwrap();
        let library = dir.path().join("lib");
        fs::create_dir(&library).unwrap();
        fs::write(library.join("app.py"), "import sys\ndef main():\n    print(sys.argv[1], any(p.endswith('/bin') for p in sys.path))\n    return 7\n").unwrap();
        write_launcher(&env, "fserve", "app").unwrap();
        // `sh` reads the file, so that this process's own writing of it cannot make it "busy".
        let output = std::process::Command::new("/bin/sh")
            .arg(env.join("bin/fserve"))
            .arg("a b")
            .env("PYTHONPATH", &library)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a b False\n");
    }
}
