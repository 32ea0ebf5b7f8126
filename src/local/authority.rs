//! The authority that vouches for the names of this machine, so that apps answer over TLS as well.
//!
//! Its key and certificate are files of the home; there is none until somebody asks for it
//! (`flyte local trust`). Certificates of hosts are made when they are asked for and live in memory.
//! What the authority may vouch for is part of its own certificate: names below `localhost`, loopback
//! addresses and the domains that were named when it was made. So a key that was stolen opens nothing
//! else. Who trusts it is not known here.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::ToSpan;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Code, Diagnostic};
use crate::files::{self, write_atomic};
use crate::tls;

/// Lifetime of the authority, in days.
const AUTHORITY_DAYS: i64 = 3650;
/// Lifetime of a host's certificate, in days; some clients believe none of more than 398.
const HOST_DAYS: i64 = 90;
/// After this time a host's certificate is made anew. Calendars count, as for those who look at its
/// dates: a machine that sleeps grows older too.
const RENEWED_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);
/// Hosts that certificates are kept for; a client may ask for any number below `localhost`.
const MOST_HOSTS: usize = 500;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Write(#[from] files::Error),
    #[error("`{name}` is not the name of a domain")]
    BadDomain { name: String },
    #[error("no certificate can be made")]
    Make(#[from] rcgen::Error),
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::BadDomain { .. } => Code::ConfigInvalid,
            Self::Io { .. } | Self::Write(_) | Self::Make(_) | Self::Setup(_) => Code::LocalTrust,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::BadDomain { .. } => {
                vec!["a domain looks like `shop.example`, without scheme, port or `*`".into()]
            }
            Self::Make(_) => vec!["`flyte local trust --remove` removes what is there".into()],
            Self::Io { .. } | Self::Write(_) | Self::Setup(_) => Vec::new(),
        }
    }
}

/// The authority of one home.
pub struct Authority {
    folder: PathBuf,
    loaded: Mutex<Option<Loaded>>,
}

/// What was read of it, and when it was written.
struct Loaded {
    since: SystemTime,
    acceptor: TlsAcceptor,
}

impl Authority {
    /// That of a folder, whether or not there is one.
    pub fn at(folder: PathBuf) -> Self {
        Self {
            folder,
            loaded: Mutex::default(),
        }
    }

    /// Its certificate, for those who shall trust it.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("authority.key")
    }

    fn domains_note(&self) -> PathBuf {
        self.folder.join("domains")
    }

    pub fn exists(&self) -> bool {
        self.key().exists() && self.certificate().exists()
    }

    /// Domains outside of `localhost` that it may vouch for.
    pub fn domains(&self) -> Vec<String> {
        let text = fs::read_to_string(self.domains_note()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Makes one, unless there is one for all of `domains`; tells whether it did.
    pub fn ensure(&self, domains: &[String]) -> Result<bool, Error> {
        let mut all = self.domains();
        let before = all.len();
        for name in domains {
            let name = domain(name)?;
            if !all.contains(&name) {
                all.push(name);
            }
        }
        if self.exists() && all.len() == before {
            return Ok(false);
        }
        self.make(&all)?;
        Ok(true)
    }

    fn make(&self, domains: &[String]) -> Result<(), Error> {
        let key = KeyPair::generate()?;
        let certificate = params(&key, domains)?.self_signed(&key)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(io(&self.folder))?;
        let write = |path: &Path, text: &str, mode| write_atomic(path, text.as_bytes(), mode);
        write(&self.domains_note(), &domains.join("\n"), 0o600)?;
        write(&self.certificate(), &certificate.pem(), 0o644)?;
        write(&self.key(), &key.serialize_pem(), 0o600)?;
        Ok(())
    }

    /// Deletes it; tells whether there was one.
    pub fn remove(&self) -> Result<bool, Error> {
        match fs::remove_dir_all(&self.folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io(&self.folder)(source)),
        }
    }

    /// What takes TLS connections in; nothing while there is no authority.
    pub fn acceptor(&self) -> Result<Option<TlsAcceptor>, Error> {
        let path = self.key();
        let since = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(since) => since,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(&path)(source)),
        };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.since == since) {
            return Ok(Some(loaded.acceptor.clone()));
        }
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        let acceptor = acceptor(&text, self.domains())?;
        *loaded = Some(Loaded {
            since,
            acceptor: acceptor.clone(),
        });
        Ok(Some(acceptor))
    }
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

fn domain(text: &str) -> Result<String, Error> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_one = name.contains('.') && name.len() <= 253 && name.split('.').all(label);
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    if is_one && !is_address {
        Ok(name)
    } else {
        Err(Error::BadDomain {
            name: text.to_owned(),
        })
    }
}

/// What the authority's certificate says; follows from its key and domains, so only those are kept.
fn params(key: &KeyPair, domains: &[String]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let hash = blake3::hash(key.public_key_raw()).to_hex();
    let name = format!("flyte apps of this machine {}", &hash[..8]);
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "flyte local trust");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = std::iter::once("localhost").chain(domains.iter().map(String::as_str));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names
            .map(|name| GeneralSubtree::DnsName(name.to_owned()))
            .chain([
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                    std::net::Ipv6Addr::LOCALHOST.octets(),
                    128,
                )),
            ])
            .collect(),
        excluded_subtrees: Vec::new(),
    });
    lasts(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

/// From yesterday on, for clocks that differ.
fn lasts(params: &mut CertificateParams, days: i64) {
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let day = |date: jiff::civil::Date| {
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(days.days()));
}

fn acceptor(key: &str, domains: Vec<String>) -> Result<TlsAcceptor, Error> {
    let provider = tls::install();
    let key = KeyPair::from_pem(key)?;
    let own = KeyPair::generate()?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let hosts = Hosts {
        signing: provider.key_provider.load_private_key(der)?,
        issuer: Issuer::new(params(&key, &domains)?, key),
        own,
        domains,
        made: Mutex::default(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(hosts));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates of hosts, all for one key.
struct Hosts {
    issuer: Issuer<'static, KeyPair>,
    own: KeyPair,
    signing: Arc<dyn rustls::sign::SigningKey>,
    domains: Vec<String>,
    made: Mutex<HashMap<String, (SystemTime, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosts")
            .field("domains", &self.domains)
            .finish_non_exhaustive()
    }
}

impl Hosts {
    fn may_be(&self, host: &str) -> bool {
        let below = |domain: &str| {
            host.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        below("localhost") || self.domains.iter().any(|domain| below(domain))
    }

    /// The certificate of a host; of this machine's addresses where none is named.
    fn certificate(&self, host: Option<&str>) -> Result<Arc<CertifiedKey>, rcgen::Error> {
        let key = host.unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // One of a time to come is not valid yet.
        if let Some((_, known)) = made
            .get(key)
            .filter(|(since, _)| since.elapsed().is_ok_and(|age| age < RENEWED_AFTER))
        {
            return Ok(Arc::clone(known));
        }
        let names: Vec<String> = match host {
            Some(host) => vec![host.to_owned()],
            None => ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        lasts(&mut params, HOST_DAYS);
        let certificate: CertificateDer<'static> =
            params.signed_by(&self.own, &self.issuer)?.der().clone();
        let certified = Arc::new(CertifiedKey::new(
            vec![certificate],
            Arc::clone(&self.signing),
        ));
        if made.len() >= MOST_HOSTS {
            made.clear();
        }
        made.insert(key.to_owned(), (SystemTime::now(), Arc::clone(&certified)));
        Ok(certified)
    }
}

impl ResolvesServerCert for Hosts {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name();
        if let Some(host) = host.filter(|host| !self.may_be(host)) {
            tracing::warn!(
                host,
                "asked for over TLS, but the authority may not vouch for it; \
                 `flyte local trust --domain` makes one that may"
            );
            return None;
        }
        match self.certificate(host) {
            Ok(certified) => Some(certified),
            Err(error) => {
                tracing::error!(host, %error, "no certificate");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    fn made(domains: &[&str]) -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::at(folder.path().join("tls"));
        let domains: Vec<String> = domains.iter().map(|name| (*name).to_owned()).collect();
        assert!(authority.ensure(&domains).unwrap());
        (folder, authority)
    }

    fn hosts(authority: &Authority, domains: &[String]) -> Hosts {
        let key = KeyPair::from_pem(&fs::read_to_string(authority.key()).unwrap()).unwrap();
        let own = KeyPair::generate().unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
        Hosts {
            signing: tls::install().key_provider.load_private_key(der).unwrap(),
            issuer: Issuer::new(params(&key, domains).unwrap(), key),
            own,
            domains: domains.to_vec(),
            made: Mutex::default(),
        }
    }

    /// Whether somebody who trusts the authority believes the certificate for `host`.
    fn is_believed(authority: &Authority, hosts: &Hosts, host: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        let own = CertificateDer::from_pem_file(authority.certificate()).unwrap();
        roots.add(own).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::install())
            .build()
            .unwrap();
        let name = host.parse::<std::net::IpAddr>().is_err().then_some(host);
        let certified = hosts.certificate(name).unwrap();
        let server = ServerName::try_from(host.to_owned()).unwrap();
        verifier
            .verify_server_cert(&certified.cert[0], &[], &server, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn it_is_believed_for_this_machine_and_for_nobody_else() {
        let (_folder, authority) = made(&["shop.example"]);
        let hosts = hosts(&authority, &authority.domains());
        for host in [
            "localhost",
            "web-local-development.localhost",
            "127.0.0.1",
            "::1",
            "shop.example",
            "www.shop.example",
        ] {
            assert!(is_believed(&authority, &hosts, host), "{host}");
        }
        for host in ["bank.example", "example", "myshop.example", "localhost.com"] {
            assert!(!hosts.may_be(host), "{host}");
            // Even a certificate that somebody made with the key.
            assert!(!is_believed(&authority, &hosts, host), "{host}");
        }
    }

    #[test]
    fn the_key_is_for_its_owner_alone() {
        let (_folder, authority) = made(&[]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&authority.key()), 0o600);
        assert_eq!(mode(&authority.folder), 0o700);
    }

    #[test]
    fn it_stays_the_same_until_another_domain_is_asked_for() {
        let (_folder, authority) = made(&[]);
        let read = || fs::read_to_string(authority.certificate()).unwrap();
        let first = read();
        assert!(!authority.ensure(&[]).unwrap());
        assert_eq!(read(), first);
        assert!(authority.ensure(&["Shop.Example.".into()]).unwrap());
        assert_eq!(authority.domains(), ["shop.example"]);
        assert_ne!(read(), first);
        assert!(!authority.ensure(&["shop.example".into()]).unwrap());
        assert!(authority.remove().unwrap());
        assert!(!authority.remove().unwrap());
        assert!(authority.acceptor().unwrap().is_none());
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::at(folder.path().join("tls"));
        for name in [
            "",
            "example",
            "*.example.com",
            "https://a.example",
            "10.0.0.1",
        ] {
            let error = authority.ensure(&[name.to_owned()]).unwrap_err();
            assert!(matches!(error, Error::BadDomain { .. }), "{name}");
        }
        assert!(!authority.exists());
    }

    #[test]
    fn a_certificate_is_renewed_by_the_calendar() {
        let (_folder, authority) = made(&[]);
        let hosts = hosts(&authority, &[]);
        let mut before = hosts.certificate(Some("a.localhost")).unwrap();
        let made_at = |time| {
            let mut made = hosts.made.lock().unwrap();
            made.get_mut("a.localhost").unwrap().0 = time;
        };
        let now = SystemTime::now();
        for time in [now - RENEWED_AFTER, now + RENEWED_AFTER] {
            made_at(time);
            let anew = hosts.certificate(Some("a.localhost")).unwrap();
            assert!(!Arc::ptr_eq(&before, &anew));
            before = anew;
        }
    }

    #[test]
    fn certificates_are_kept_within_bounds() {
        let (_folder, authority) = made(&[]);
        let hosts = hosts(&authority, &[]);
        let first = hosts.certificate(Some("a.localhost")).unwrap();
        let again = hosts.certificate(Some("a.localhost")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        for number in 0..MOST_HOSTS {
            hosts
                .certificate(Some(&format!("{number}.localhost")))
                .unwrap();
        }
        assert!(hosts.made.lock().unwrap().len() <= MOST_HOSTS);
    }
}
