//! How `fserve` is started in an environment.
//!
//! Its script starts Python as users want it. Where a command takes the process over at once, Python
//! is only passed through, and what it would look for and import before (`site`, `.pth` files,
//! variables) is left out: that is a third of its start, and a request may be waiting.

use std::path::{Path, PathBuf};

/// Adds the folder named first to the path, then runs the rest as `fserve` does.
const ENTRY: &str = "import sys; sys.path.append(sys.argv.pop(1)); \
                     from flyte._runtime import main; main()";

/// The program and its arguments that run our `fserve` of `environment`.
pub fn command(environment: &Path, arguments: Vec<String>) -> (PathBuf, Vec<String>) {
    let packages = packages(environment).filter(|_| runs_a_command(&arguments));
    let Some(packages) = packages else {
        return (environment.join("bin/fserve"), arguments);
    };
    let mut all = ["-I", "-S", "-c", ENTRY].map(str::to_owned).to_vec();
    all.push(packages.to_string_lossy().into_owned());
    all.extend(arguments);
    (environment.join("bin/python"), all)
}

/// Whether something stands behind `--`; a server function is run by Python itself.
fn runs_a_command(arguments: &[String]) -> bool {
    let end = arguments.iter().position(|word| word == "--");
    end.is_some_and(|end| end + 1 < arguments.len())
}

/// Where the environment has our package.
fn packages(environment: &Path) -> Option<PathBuf> {
    std::fs::read_dir(environment.join("lib"))
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("site-packages"))
        .find(|folder| folder.join("flyte/_runtime.py").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_commands_take_the_short_way() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("lib/python3.12/site-packages/flyte");
        let line = words("--version v -- python app.py");
        let script = folder.path().join("bin/fserve");
        let (program, arguments) = command(folder.path(), line.clone());
        assert_eq!((program, arguments), (script.clone(), line.clone()));

        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("_runtime.py"), "").unwrap();
        let (program, arguments) = command(folder.path(), line.clone());
        assert_eq!(program, folder.path().join("bin/python"));
        assert_eq!(arguments[..2], ["-I", "-S"]);
        assert_eq!(Path::new(&arguments[4]), package.parent().unwrap());
        assert_eq!(arguments[5..], line);

        for function in ["--version v --resolver-args app:env --", "--version v"] {
            let (program, arguments) = command(folder.path(), words(function));
            assert_eq!((program, arguments), (script.clone(), words(function)));
        }
    }
}
