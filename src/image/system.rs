//! System packages: this builder can only say whether they are here already.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::uv;

/// Commands of packages that have another name, for machines whose packages Debian does not name.
const COMMANDS: [(&str, &str); 16] = [
    ("build-essential", "cc"),
    ("default-mysql-client", "mysql"),
    ("dnsutils", "dig"),
    ("gnupg", "gpg"),
    ("graphviz", "dot"),
    ("iproute2", "ip"),
    ("iputils-ping", "ping"),
    ("netcat-openbsd", "nc"),
    ("nodejs", "node"),
    ("openjdk-17-jre-headless", "java"),
    ("openssh-client", "ssh"),
    ("poppler-utils", "pdftotext"),
    ("postgresql-client", "psql"),
    ("procps", "ps"),
    ("tesseract-ocr", "tesseract"),
    ("xz-utils", "xz"),
];

/// The command by which a package is known to be here.
fn command_of(package: &str) -> &str {
    let found = COMMANDS.iter().find(|(name, _)| *name == package);
    found.map_or(package, |(_, command)| command)
}

/// The program of that name on `PATH`.
pub(super) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && super::digest::is_executable(file).unwrap_or(false))
}

/// Refuses unless each package is installed, or is the name of a command that is.
pub(super) async fn require(packages: &[String]) -> Result<Option<String>, Error> {
    let mut missing = Vec::new();
    for package in packages {
        let name = bare_name(package);
        if find_on_path(command_of(name)).is_none() && !is_installed(name).await {
            missing.push(package.as_str());
        }
    }
    if missing.is_empty() {
        return Ok((!packages.is_empty()).then(|| {
            format!(
                "with_apt_packages: {} found on this machine",
                packages.join(", ")
            )
        }));
    }
    Err(Error::NeedsContainer {
        what: format!(
            "`with_apt_packages('{}')` cannot be installed without a container",
            missing.join("', '")
        ),
        hint: format!(
            "install it on this machine (`sudo apt-get install {}`), or use a container builder",
            missing.join(" ")
        ),
    })
}

/// The package without version and architecture.
fn bare_name(package: &str) -> &str {
    let end = package.find(['=', ':', '/']).unwrap_or(package.len());
    &package[..end]
}

async fn is_installed(package: &str) -> bool {
    let mut command = uv::clean(Path::new("dpkg-query"));
    command.args(["-W", "-f=${Status}\n", "--", package]);
    match uv::run(command, |_| ()).await {
        Ok(outcome) => outcome
            .stdout
            .lines()
            .any(|line| line == "install ok installed"),
        Err(_) => false, // not a Debian
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_here_satisfies_and_the_rest_is_named() {
        let note = require(&["sh".to_owned()]).await.unwrap();
        assert_eq!(
            note.as_deref(),
            Some("with_apt_packages: sh found on this machine")
        );
        let asked = ["sh".to_owned(), "no-such-package=1.0".to_owned()];
        let message = require(&asked).await.unwrap_err().to_string();
        assert!(
            message.contains("'no-such-package=1.0'") && !message.contains("'sh'"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn dpkg_is_asked_for_what_is_no_command() {
        if find_on_path("dpkg-query").is_none() {
            eprintln!("skipped: not a Debian");
            return;
        }
        assert!(is_installed("base-files").await);
        assert!(!is_installed("no-such-package").await);
    }

    #[test]
    fn commands_stand_for_packages_of_another_name() {
        assert_eq!(command_of("openssh-client"), "ssh");
        assert_eq!(command_of("git"), "git");
    }

    #[test]
    fn versions_and_architectures_are_cut() {
        assert_eq!(bare_name("git=1:2.3"), "git");
        assert_eq!(bare_name("libc6:amd64"), "libc6");
        assert_eq!(bare_name("git"), "git");
    }
}
