//! The platform's socket: who finds it, and who is listened to.
//!
//! There is no login behind it. The folder that it lies in admits its user alone, and so does each
//! connection, should the folder ever have been open: the kernel says whose the other end is.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use crate::files;

/// Takes connections of this user, and of the one who may do everything anyway.
pub struct OwnSocket(UnixListener);

impl OwnSocket {
    /// Listens at `path`. What lies there is nobody's: the caller is the one platform of the home.
    pub fn bind(path: &Path) -> Result<Self, files::Error> {
        let failed = |source| files::Error::io("listen at", path)(source);
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(failed)?;
        // The folder admits nobody else, so there is no moment in which others could connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self(listener))
    }
}

impl axum::serve::Listener for OwnSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
            let other = stream.peer_cred().map(|other| other.uid());
            match other {
                Ok(user) if is_admitted(user) => return (stream, address),
                Ok(user) => tracing::warn!(user, "hung up on another user"),
                Err(error) => tracing::debug!(%error, "hung up on nobody"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn is_admitted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_not_admitted() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_admitted(own) && is_admitted(0));
        assert!(!is_admitted(own.wrapping_add(1)));
    }
}
