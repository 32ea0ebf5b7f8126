//! The folder in which this machine keeps apps, environments and the platform's own files.

use std::path::{Path, PathBuf};

use super::Error;

/// `FLYTE_HOME`, and the names of what lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The folder at `path`, which need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// `$FLYTE_HOME`, else `~/.flyte`.
    pub fn from_environment() -> Result<Self, Error> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("FLYTE_HOME") {
            let path = PathBuf::from(path);
            return Ok(Self(std::path::absolute(&path).unwrap_or(path)));
        }
        let user = variable("HOME").ok_or(Error::NoHome)?;
        Ok(Self(PathBuf::from(user).join(".flyte")))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Holds the socket and the locks; mode 0700.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Where the platform listens.
    ///
    /// A socket path is limited to about 100 bytes, so a deep home gets one in the temporary
    /// folder, named by a hash of the home.
    pub fn socket(&self) -> PathBuf {
        let path = self.run().join("platform.sock");
        if path.as_os_str().len() < 100 {
            return path;
        }
        let name = blake3::hash(self.0.as_os_str().as_encoded_bytes()).to_hex();
        let user = rustix::process::getuid().as_raw();
        std::env::temp_dir()
            .join(format!("flyte-{user}-{}", &name[..16]))
            .join("platform.sock")
    }

    /// Held by the one platform process of this home.
    pub fn platform_lock(&self) -> PathBuf {
        self.run().join("platform.lock")
    }

    /// Held by a client while it starts the platform.
    pub fn start_lock(&self) -> PathBuf {
        self.run().join("start.lock")
    }

    /// Where the platform listens for other clients, while it does.
    pub fn listen_note(&self) -> PathBuf {
        self.run().join("listen")
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("platform.db")
    }

    pub fn platform_log(&self) -> PathBuf {
        self.0.join("logs").join("platform.log")
    }

    /// Code bundles, by digest.
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// Sealed, and the key to them; mode 0700.
    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }

    /// The authority that vouches for apps over TLS, if there is one; mode 0700.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// Run folders and logs of each app.
    pub fn apps(&self) -> PathBuf {
        self.0.join("apps")
    }

    /// What clients remember between calls; may be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Where things are moved to that are about to be removed: nobody finds them there.
    pub fn trash(&self) -> PathBuf {
        self.0.join("trash")
    }

    /// Where commands make things on the way to others.
    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Python environments.
    pub fn envs(&self) -> PathBuf {
        self.0.join("envs")
    }

    /// Where apps may write results that outlive a replica.
    pub fn raw_data(&self) -> PathBuf {
        self.0.join("raw-data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_home_still_has_a_short_socket_path() {
        let deep = Home::at(PathBuf::from(format!("/tmp/{}", "x".repeat(150))));
        assert!(deep.socket().as_os_str().len() < 100);
        let other = Home::at(PathBuf::from(format!("/tmp/{}", "y".repeat(150))));
        assert_ne!(deep.socket(), other.socket());
    }
}
