//! `flyte init`: a small app that works, to be changed into one's own.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::args::{Init, Template};
use crate::cli::printer::Printer;
use crate::cli::{Error, Failure};

/// Stands in a template where the app's name belongs.
const NAME: &str = "APP_NAME";

impl Template {
    fn text(self) -> &'static str {
        match self {
            Self::Fastapi => include_str!("../templates/fastapi.py"),
            Self::Streamlit => include_str!("../templates/streamlit.py"),
            Self::Gradio => include_str!("../templates/gradio.py"),
            Self::Flask => include_str!("../templates/flask.py"),
            Self::Plain => include_str!("../templates/plain.py"),
        }
    }

    /// What has to be installed where `flyte serve` is run: all else is in the image.
    fn needs(self) -> Option<&'static str> {
        match self {
            Self::Fastapi => Some("fastapi"),
            Self::Streamlit | Self::Gradio | Self::Flask | Self::Plain => None,
        }
    }
}

pub fn run(printer: &Printer, init: Init) -> Result<(), Failure> {
    let folder = std::path::absolute(&init.folder).unwrap_or_else(|_| init.folder.clone());
    let name = app_name(&folder);
    let path = init.folder.join("app.py");
    write(&path, &init.template.text().replace(NAME, &name))?;
    if printer.is_json() {
        printer.json(&json!({"name": name, "files": [path]}));
        return Ok(());
    }
    printer.line(&format!("wrote `{}`, the app `{name}`", path.display()));
    printer.note("");
    if init.folder != Path::new(".") {
        next_step(printer, &format!("cd {}", init.folder.display()), "");
    }
    if let Some(package) = init.template.needs() {
        next_step(
            printer,
            &format!("pip install {package}"),
            "the file imports it",
        );
    }
    next_step(
        printer,
        "flyte serve",
        "serves it, and prints where it answers",
    );
    next_step(
        printer,
        "flyte serve --watch",
        "serves again whenever a file changes",
    );
    Ok(())
}

fn next_step(printer: &Printer, command: &str, what_for: &str) {
    let what_for = if what_for.is_empty() {
        String::new()
    } else {
        format!("# {what_for}")
    };
    printer.note(format!("  {command:<22} {what_for}").trim_end());
}

fn write(path: &PathBuf, text: &str) -> Result<(), Error> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
        _ => Error::Write {
            path: path.clone(),
            source,
        },
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// The folder's name in the form that apps' names have, `hello` where nothing of it is left.
fn app_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let letter = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(letter).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(30).collect();
    let name = name.trim_matches('-');
    if name.starts_with(|first: char| first.is_ascii_lowercase()) {
        name.to_owned()
    } else {
        "hello".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_name_apps() {
        for (folder, expected) in [
            ("/x/My App", "my-app"),
            ("/x/web_2", "web-2"),
            ("/x/2048", "hello"),
            ("/", "hello"),
            ("/x/äpp", "pp"),
        ] {
            assert_eq!(app_name(Path::new(folder)), expected);
        }
    }
}
