//! Advice on a failure, from what the project on this side looks like.

use std::path::{Path, PathBuf};

use super::Source;
use crate::error::Code;
use crate::spec::AppSpec;

/// Import names whose package is named otherwise.
const PACKAGES: &[(&str, &str)] = &[
    ("PIL", "pillow"),
    ("bs4", "beautifulsoup4"),
    ("cv2", "opencv-python"),
    ("dateutil", "python-dateutil"),
    ("dotenv", "python-dotenv"),
    ("jwt", "pyjwt"),
    ("sklearn", "scikit-learn"),
    ("yaml", "pyyaml"),
];

/// What to try, given a failure's code and message.
pub fn for_failure(code: Code, message: &str, app: &AppSpec, source: &Source) -> Vec<String> {
    let named = quoted(message);
    match (code, named) {
        (Code::AppMissingModule, Some(module)) => vec![missing_module(module, app, source)],
        (Code::AppMissingFile, Some(file)) => missing_file(file, app, source),
        (Code::AppMissingCommand, Some(command)) if !command.contains('/') => vec![format!(
            "add the package that brings it: image=flyte.Image.from_debian_base().with_pip_packages(\"{command}\")"
        )],
        (Code::AppWrongPort, _) => vec![format!(
            "declare the port that the app uses, or let the app listen on {} (`env.get_port().port`, `$PORT`)",
            app.port.number
        )],
        (Code::AppNotListening, _) => vec![format!(
            "the app has to listen on port {} (`env.get_port().port`, `$PORT`)",
            app.port.number
        )],
        (Code::AppExited, Some(name)) if message.contains("no environment variable `") => vec![
            format!(
                "set it for this serve with `flyte serve -e {name}=VALUE`, or for all in the \
                 environment: env_vars={{\"{name}\": \"...\"}}"
            ),
            format!(
                "for what nobody may read: `flyte create secret {name}`, and secrets=\"{name}\" in \
                 the environment"
            ),
        ],
        (Code::AppExited | Code::AppFailed, _) => {
            vec![format!("`flyte get logs {}` shows all it wrote", app.name)]
        }
        (Code::AppOutOfMemory, _) => {
            vec!["declare more: resources=flyte.Resources(memory=\"4Gi\")".to_owned()]
        }
        (Code::AppUnhealthy, _) => vec![format!(
            "`flyte get logs {}` shows what it answers; without a health path, listening is enough",
            app.name
        )],
        _ => Vec::new(),
    }
}

/// The last literal of a message.
fn quoted(message: &str) -> Option<&str> {
    let end = message.rfind('`')?;
    let start = message[..end].rfind('`')?;
    Some(&message[start + 1..end])
}

fn missing_module(module: &str, app: &AppSpec, source: &Source) -> String {
    if let Some(path) = find_module(module, app, source) {
        return format!(
            "`{}` is in the project but was not bundled; add include=[\"{}\"] to the environment `{}`",
            path.display(),
            relative(&path, app, source).display(),
            app.name
        );
    }
    let top = module.split('.').next().unwrap_or(module);
    if top == "flyte" {
        return "the environment has lost its SDK; `flyte local reset` removes all environments"
            .to_owned();
    }
    let package = PACKAGES
        .iter()
        .find(|(import, _)| *import == top)
        .map_or(top, |(_, package)| *package);
    format!(
        "the image does not have it; add it with image=flyte.Image.from_debian_base().with_pip_packages(\"{package}\")"
    )
}

fn missing_file(file: &str, app: &AppSpec, source: &Source) -> Vec<String> {
    let name = Path::new(file);
    let candidates = folders(app, source).into_iter().flat_map(|folder| {
        let relative = name.strip_prefix("/").unwrap_or(name);
        [
            folder.join(relative),
            folder.join(name.file_name().unwrap_or_default()),
        ]
    });
    let found = candidates.into_iter().find(|path| path.is_file());
    vec![match found {
        Some(path) => format!(
            "`{}` is in the project but was not bundled; add include=[\"{}\"] to the environment `{}`",
            path.display(),
            relative(&path, app, source).display(),
            app.name
        ),
        None => format!(
            "`{}` is not in the project (`{}`) either; an app looks in its working folder, which holds its bundle",
            name.file_name().unwrap_or_default().display(),
            source.root.display()
        ),
    }]
}

fn find_module(module: &str, app: &AppSpec, source: &Source) -> Option<PathBuf> {
    let whole = module.replace('.', "/");
    let top = module.split('.').next().unwrap_or(module);
    folders(app, source).into_iter().find_map(|folder| {
        [
            format!("{whole}.py"),
            format!("{whole}/__init__.py"),
            format!("{top}.py"),
            top.to_owned(),
        ]
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file() || (path.is_dir() && holds_python(path)))
        .map(|path| {
            if path.ends_with("__init__.py") {
                path.parent().map(Path::to_path_buf).unwrap_or(path)
            } else {
                path
            }
        })
    })
}

fn holds_python(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|kind| kind == "py"))
    })
}

fn folders(app: &AppSpec, source: &Source) -> Vec<PathBuf> {
    [source.folder_of(app).to_path_buf(), source.root.clone()]
        .into_iter()
        .chain(source.source_roots.iter().cloned())
        .collect()
}

/// As `include` wants it: relative to the folder of the declaring file.
fn relative(path: &Path, app: &AppSpec, source: &Source) -> PathBuf {
    for folder in [source.folder_of(app), source.root.as_path()] {
        if let Ok(relative) = path.strip_prefix(folder) {
            return relative.to_path_buf();
        }
    }
    path.to_path_buf()
}
