//! The way from containers to the apps of this machine.
//!
//! Apps listen on loopback, which for a container is its own. Where the engine gives this machine an
//! address that containers see, connections to it are passed on. Engines in a virtual machine pass
//! on by themselves; there the address is not ours, and nothing is to be done.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// Open ways, by the address that containers use.
#[derive(Default)]
pub(super) struct Relay {
    open: Mutex<HashMap<IpAddr, Option<AbortOnDropHandle<()>>>>,
}

impl Relay {
    /// Passes connections to `port` of `gateway` on to the same port of loopback.
    pub(super) async fn open(&self, gateway: IpAddr, port: u16) {
        let mut open = self.open.lock().await;
        if open.contains_key(&gateway) {
            return;
        }
        let accepting = match TcpListener::bind((gateway, port)).await {
            Ok(listener) => Some(AbortOnDropHandle::new(tokio::spawn(accept(listener, port)))),
            Err(error) => {
                tracing::debug!(%error, %gateway, "no way for containers is opened");
                None
            }
        };
        open.insert(gateway, accepting);
    }
}

async fn accept(listener: TcpListener, port: u16) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(pass_on(stream, port));
            }
            // Such as too many open files: whoever connects waits meanwhile.
            Err(error) => {
                tracing::warn!(%error, "a connection of a container is not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn pass_on(mut stream: TcpStream, port: u16) {
    let passed = async {
        let mut inner = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        copy_bidirectional(&mut stream, &mut inner).await
    };
    if let Err(error) = passed.await {
        tracing::debug!(%error, "a connection of a container ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_comes_to_the_gateway_is_passed_on_to_loopback() {
        let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = inner.local_addr().unwrap().port();
        let gateway: IpAddr = [127, 0, 0, 9].into();
        let relay = Relay::default();
        relay.open(gateway, port).await;
        // An address that is not this machine's is no reason to fail.
        relay.open([192, 0, 2, 1].into(), port).await;
        let mut outside = TcpStream::connect((gateway, port)).await.unwrap();
        outside.write_all(b"ping").await.unwrap();
        let (mut served, _) = inner.accept().await.unwrap();
        let mut word = [0; 4];
        served.read_exact(&mut word).await.unwrap();
        served.write_all(&word).await.unwrap();
        outside.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
    }
}
