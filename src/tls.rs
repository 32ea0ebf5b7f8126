//! Whom a TLS connection trusts, as one configuration that all clients of this crate share.
//!
//! Calls, logins, uploads and registries differ in what they send and must not differ in whom they
//! believe. Nothing here opens a connection, and nothing here knows where a setting came from.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::{Code, Diagnostic};

/// Which servers are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// A PEM bundle that is believed instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Believe anybody. Wins over `ca_file`.
    pub skip_verify: bool,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the CA certificates in `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("`{}` holds no certificate that can be used", path.display())]
    Empty { path: PathBuf },
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. } | Self::Empty { .. } => Code::ConfigInvalid,
            Self::Setup(_) => Code::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } | Self::Empty { .. } => {
                vec!["`admin.caCertFilePath` names a file of PEM certificates".into()]
            }
            Self::Setup(_) => Vec::new(),
        }
    }
}

/// The client configuration for `trust`; offers HTTP/2 and HTTP/1.1.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, Error> {
    let provider = install();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let mut config = if trust.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth()
    } else {
        let roots = match &trust.ca_file {
            Some(path) => Arc::new(read_bundle(path)?),
            None => system_roots(),
        };
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Makes ring the provider of this process, for libraries that ask for the default one.
pub fn install() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        // Where the host program has chosen one already, that one stays the default.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Arc::new(rustls::crypto::ring::default_provider())
    });
    Arc::clone(provider)
}

fn read_bundle(path: &Path) -> Result<RootCertStore, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    for certificate in certificates {
        // One that is of no use does not spoil the others.
        let _ = roots.add(certificate.map_err(unreadable)?);
    }
    if roots.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

/// The system's authorities, read once: they are some hundred files on some systems.
///
/// A machine without any is no error here: plain HTTP needs none, and a server that cannot be
/// believed is told as such when it is met.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "this machine has no CA certificates");
        }
        Arc::new(roots)
    });
    Arc::clone(roots)
}

/// Believes every certificate; signatures are still checked, so that the connection is sound.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let trust = Trust {
            ca_file: Some(file.path().to_owned()),
            skip_verify: false,
        };
        let error = client_config(&trust).unwrap_err();
        assert!(matches!(error, Error::Empty { .. }));
        assert!(
            error
                .to_string()
                .contains(&file.path().display().to_string())
        );
        let missing = Trust {
            ca_file: Some("/no/such.pem".into()),
            skip_verify: false,
        };
        assert!(matches!(
            client_config(&missing).unwrap_err(),
            Error::Unreadable { .. }
        ));
    }

    #[test]
    fn a_certificate_is_taken_and_both_protocols_are_offered() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let trust = Trust {
            ca_file: Some(file.path().to_owned()),
            skip_verify: false,
        };
        let config = client_config(&trust).unwrap();
        assert_eq!(
            config.alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
    }
}
