//! Making programs of this machine trust the authority of its apps, and undoing it.
//!
//! There is no one place: the system has its certificates, and browsers have databases of their own.
//! Each is changed by the program that owns it, and each is told of by itself: some need the rights of
//! root, which are never asked for here. What the authority is and may vouch for is `local`'s.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::Home;
use crate::error::{Code, Diagnostic};
use crate::local::authority::{self, Authority};

/// Where systems keep certificates that were added by hand, and what takes them up from there.
const SYSTEMS: [(&str, &str); 3] = [
    ("/usr/local/share/ca-certificates", "update-ca-certificates"),
    ("/etc/pki/ca-trust/source/anchors", "update-ca-trust"),
    (
        "/etc/ca-certificates/trust-source/anchors",
        "update-ca-trust",
    ),
];

/// The authority could not be made, or is trusted by nobody.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error("no program could be made to trust `{}`", certificate.display())]
    Nobody {
        certificate: PathBuf,
        steps: Vec<String>,
    },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Authority(error) => error.code(),
            Self::Nobody { .. } => Code::LocalTrust,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Authority(error) => error.hints(),
            Self::Nobody { steps, .. } => steps.clone(),
        }
    }
}

/// What became of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// For people: which programs look there, and where it is.
    pub name: String,
    pub outcome: Outcome,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Why not, and what to do about it.
    Failed {
        reason: String,
        step: String,
    },
}

/// The authority of a home, and the places where it may be trusted.
pub struct Trust {
    authority: Authority,
    /// Tells the authorities of several homes apart.
    label: String,
    user: Option<PathBuf>,
}

impl Trust {
    pub fn of(home: &Home) -> Self {
        let hash = blake3::hash(home.path().as_os_str().as_encoded_bytes()).to_hex();
        Self {
            authority: Authority::at(home.tls()),
            label: format!("flyte-local-trust-{}", &hash[..8]),
            user: std::env::home_dir(),
        }
    }

    /// Where the certificate is, which is made if need be.
    pub fn certificate(&self, domains: &[String]) -> Result<PathBuf, Error> {
        self.renew(domains)?;
        Ok(self.authority.certificate())
    }

    /// An authority for further domains is another one: who trusted the old one shall not any more.
    fn renew(&self, domains: &[String]) -> Result<(), Error> {
        let old = self.authority.exists().then(|| self.authority.domains());
        if self.authority.ensure(domains)? && old.is_some() {
            self.forget();
        }
        Ok(())
    }

    /// Makes what there is on this machine trust it, or only the browsers.
    pub fn install(&self, domains: &[String], browsers: bool) -> Result<Vec<Place>, Error> {
        self.renew(domains)?;
        let certificate = self.authority.certificate();
        let mut places: Vec<Place> = self
            .databases()
            .into_iter()
            .map(|folder| self.add_to_database(&folder, &certificate))
            .collect();
        if !browsers {
            places.extend(self.add_to_system(&certificate));
        }
        let steps = places.iter().filter_map(|place| match &place.outcome {
            Outcome::Done => None,
            Outcome::Failed { step, .. } => Some(format!("{}: {step}", place.name)),
        });
        let steps: Vec<String> = steps.collect();
        if steps.len() == places.len() {
            return Err(Error::Nobody { certificate, steps });
        }
        Ok(places)
    }

    /// Takes it out of all places and deletes it; nothing where there was none.
    pub fn remove(&self) -> Result<Option<Vec<Place>>, Error> {
        let places = self.forget();
        Ok(self.authority.remove()?.then_some(places))
    }

    fn forget(&self) -> Vec<Place> {
        let databases = self.databases().into_iter();
        let mut places: Vec<Place> = databases
            .filter_map(|folder| self.take_from_database(&folder))
            .collect();
        places.extend(self.take_from_system());
        places
    }

    /// The databases of Chromium and of each profile of Firefox.
    fn databases(&self) -> Vec<PathBuf> {
        let Some(user) = &self.user else {
            return Vec::new();
        };
        let profiles = [
            ".mozilla/firefox",
            "snap/firefox/common/.mozilla/firefox",
            "Library/Application Support/Firefox/Profiles",
        ];
        let profiles = profiles
            .iter()
            .filter_map(|folder| std::fs::read_dir(user.join(folder)).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()));
        std::iter::once(user.join(".pki/nssdb"))
            .chain(profiles)
            .filter(|folder| folder.join("cert9.db").exists())
            .collect()
    }

    fn add_to_database(&self, folder: &Path, certificate: &Path) -> Place {
        // Another one of the same name would stay beside it.
        let _ = self.certutil(folder, &["-D"]);
        let added = self.certutil(
            folder,
            &["-A", "-t", "C,,", "-i", &certificate.to_string_lossy()],
        );
        browsers(folder, added)
    }

    fn take_from_database(&self, folder: &Path) -> Option<Place> {
        self.certutil(folder, &["-L"]).ok()?;
        Some(browsers(folder, self.certutil(folder, &["-D"])))
    }

    fn certutil(&self, folder: &Path, what: &[&str]) -> Result<(), String> {
        let database = format!("sql:{}", folder.display());
        let mut command = Command::new("certutil");
        command
            .args(["-d", &database, "-n", &self.label])
            .args(what);
        run(command)
    }

    fn add_to_system(&self, certificate: &Path) -> Option<Place> {
        if cfg!(target_os = "macos") {
            return Some(self.add_to_keychain(certificate));
        }
        let (target, update) = self.system()?;
        let copied = std::fs::copy(certificate, &target)
            .map(drop)
            .map_err(|error| error.to_string());
        let step = format!(
            "sudo cp {} {} && sudo {update}",
            certificate.display(),
            target.display()
        );
        let done = copied.and_then(|()| run(Command::new(update)));
        Some(system(&target, done, step))
    }

    fn take_from_system(&self) -> Option<Place> {
        if cfg!(target_os = "macos") {
            return self.take_from_keychain();
        }
        let (target, update) = self.system().filter(|(target, _)| target.exists())?;
        let removed = std::fs::remove_file(&target).map_err(|error| error.to_string());
        let step = format!("sudo rm {} && sudo {update}", target.display());
        let done = removed.and_then(|()| run(Command::new(update)));
        Some(system(&target, done, step))
    }

    /// Our file among the system's certificates, and the program that takes it up.
    fn system(&self) -> Option<(PathBuf, &'static str)> {
        let (folder, update) = SYSTEMS
            .into_iter()
            .find(|(folder, _)| Path::new(folder).is_dir())?;
        let name = format!("{}.crt", self.label);
        Some((Path::new(folder).join(name), update))
    }

    fn keychain(&self) -> PathBuf {
        let user = self.user.clone().unwrap_or_default();
        user.join("Library/Keychains/login.keychain-db")
    }

    fn add_to_keychain(&self, certificate: &Path) -> Place {
        let mut command = Command::new("security");
        command
            .args(["add-trusted-cert", "-r", "trustRoot", "-k"])
            .arg(self.keychain())
            .arg(certificate);
        let step = format!(
            "open {} in Keychain Access and trust it",
            certificate.display()
        );
        system(&self.keychain(), run(command), step)
    }

    fn take_from_keychain(&self) -> Option<Place> {
        let certificate = self.authority.certificate();
        if !certificate.exists() {
            return None;
        }
        let mut command = Command::new("security");
        command.arg("remove-trusted-cert").arg(&certificate);
        let step = "delete it in Keychain Access".to_owned();
        Some(system(&self.keychain(), run(command), step))
    }
}

fn browsers(folder: &Path, done: Result<(), String>) -> Place {
    place(
        format!("browsers ({})", folder.display()),
        done,
        "install certutil (Debian: `apt-get install libnss3-tools`) and run this again".to_owned(),
    )
}

fn system(target: &Path, done: Result<(), String>, step: String) -> Place {
    place(format!("the system ({})", target.display()), done, step)
}

fn place(name: String, done: Result<(), String>, step: String) -> Place {
    let outcome = match done {
        Ok(()) => Outcome::Done,
        Err(reason) => Outcome::Failed { reason, step },
    };
    Place { name, outcome }
}

/// Runs a program to its end; what it wrote last is why it failed.
fn run(mut command: Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| format!("`{program}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    Err(format!("`{program}`: {}", last.unwrap_or("it failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(folder: &Path) -> Trust {
        Trust {
            authority: Authority::at(folder.join("tls")),
            label: "flyte-local-trust-test".into(),
            user: Some(folder.to_owned()),
        }
    }

    #[test]
    fn only_folders_with_a_database_are_browsers() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join(".mozilla/firefox/one.default");
        std::fs::create_dir_all(&profile).unwrap();
        std::fs::create_dir_all(folder.path().join(".pki/nssdb")).unwrap();
        let trust = trust(folder.path());
        assert!(trust.databases().is_empty());
        std::fs::write(profile.join("cert9.db"), "").unwrap();
        assert_eq!(trust.databases(), [profile]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_the_next_step() {
        let done = run(Command::new("/no/such/certutil"));
        let place = browsers(Path::new("/db"), done);
        let Outcome::Failed { reason, step } = place.outcome else {
            panic!("it cannot have worked");
        };
        assert!(reason.starts_with("`/no/such/certutil`: "), "{reason}");
        assert!(step.contains("libnss3-tools"), "{step}");
    }

    #[test]
    fn the_path_is_known_without_anybody_trusting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = trust(folder.path()).certificate(&[]).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!text.contains("PRIVATE"));
    }
}
