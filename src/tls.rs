//! Whom a TLS connection trusts, as one configuration that all clients of this crate share.
//!
//! Calls, logins, uploads and registries differ in what they send and must not differ in whom they
//! believe. Nothing here opens a connection, and nothing here knows where a setting came from.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
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
    let mut config = match &trust.ca_file {
        _ if trust.skip_verify => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Checked {
                provider,
                whom: Whom::Anybody,
            }))
            .with_no_client_auth(),
        Some(path) => builder
            .with_root_certificates(read_bundle(path)?)
            .with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Checked {
                provider,
                whom: Whom::TheSystems,
            }))
            .with_no_client_auth(),
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

/// Those whom the system's authorities vouch for. They are read when the first server is met: they
/// are some hundred files on some systems, and most commands meet none.
fn system_verifier(
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    static VERIFIER: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
    if let Some(verifier) = VERIFIER.get() {
        return Ok(Arc::clone(verifier));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let made = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_| {
            rustls::Error::General(
                "this machine has no certificates of authorities (package `ca-certificates`)"
                    .into(),
            )
        })?;
    Ok(Arc::clone(VERIFIER.get_or_init(|| made)))
}

/// Who is believed.
#[derive(Clone, Copy, Debug)]
enum Whom {
    Anybody,
    TheSystems,
}

/// Looks at certificates as `whom` says; signatures are checked in any case, so that the connection
/// is with whoever showed the certificate.
#[derive(Debug)]
struct Checked {
    provider: Arc<CryptoProvider>,
    whom: Whom,
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.whom {
            Whom::Anybody => Ok(ServerCertVerified::assertion()),
            Whom::TheSystems => system_verifier(&self.provider)?.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
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
    fn nobody_is_believed_by_accident() {
        assert!(!Trust::default().skip_verify);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let judge = |whom| {
            let provider = install();
            let checked = Checked { provider, whom };
            checked.verify_server_cert(made.cert.der(), &[], &name, &[], UnixTime::now())
        };
        assert!(judge(Whom::TheSystems).is_err());
        assert!(judge(Whom::Anybody).is_ok());
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
