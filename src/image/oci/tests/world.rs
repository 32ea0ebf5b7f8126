//! A registry that runs, a base image in it, and builds against both.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use serde_json::json;

use crate::image::Error;
use crate::image::env::{Progress, SdkPayload, Toolchain};
use crate::image::oci::cache::Cache;
use crate::image::oci::layer::{Layer as Files, Node, Owner, Packed, Packing};
use crate::image::oci::{Built, Order, build};
use crate::image::registry::{
    self, CONFIG, Content, Descriptor, INDEX, Index, MANIFEST, Manifest, Mounted, Platform,
    Registry,
};
use crate::spec::image::Base;
use crate::spec::{Image, InstallOptions, Layer, PythonVersion};

/// The bcrypt form of [`PASSWORD`], which is all that the registry reads.
const HTPASSWD: &str = "tester:$2b$04$4py6Qigsfmsx.spb/DWT/O0Jv4TwJqZ04mKtW0ozus9w4D9k.hAxO\n";
pub const PASSWORD: &str = "hunter2-right";

/// An image on our own base.
pub fn image(install_flyte: bool, layers: Vec<Layer>) -> Image {
    Image {
        name: None,
        registry: None,
        base: Base::Debian { install_flyte },
        python: PythonVersion {
            major: 3,
            minor: 11,
        },
        python_is_explicit: false,
        platforms: vec![],
        layers,
    }
}

pub fn pip(packages: &[&str]) -> Layer {
    Layer::PipPackages {
        packages: packages.iter().map(|text| (*text).to_owned()).collect(),
        options: InstallOptions::default(),
    }
}

/// A program that a test needs; without it only continuous integration fails.
pub fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".venv/bin")
        .join(name);
    let found = std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| crate::image::system::find_on_path(name))
        .or_else(|| here.is_file().then_some(here));
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "`{name}` is needed: set {variable}"
        );
        eprintln!("skipped: no `{name}` on PATH or in {variable}");
    }
    found
}

/// Debian's `docker-registry` on a port of its own, ended when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    /// The certificate authority, where it speaks TLS and wants a password.
    pub authority: Option<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    pub fn plain() -> Option<Self> {
        Self::start(false)
    }

    pub fn guarded() -> Option<Self> {
        Self::start(true)
    }

    fn start(is_guarded: bool) -> Option<Self> {
        let program = program("docker-registry", "FLYTE_TEST_REGISTRY")?;
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        let mut authority = None;
        if is_guarded {
            authority = Some(certificates(dir.path()));
            let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
            config["http"]["tls"] = json!({"certificate": cert, "key": key});
            let passwords = dir.path().join("htpasswd");
            std::fs::write(&passwords, HTPASSWD).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": passwords}});
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap(); // JSON is YAML
        let mut child = Command::new(program)
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            })
            .expect("the registry starts");
        // Its log goes on, and must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self {
            child,
            port,
            authority,
            _dir: dir,
        })
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

fn certificates(dir: &Path) -> PathBuf {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let own = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let cert = rcgen::CertificateParams::new(names).unwrap();
    let cert = cert.signed_by(&own, &authority).unwrap();
    std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), own.serialize_pem()).unwrap();
    let path = dir.join("authority.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    path
}

/// A place to build in, and a registry with a base image for two platforms.
pub struct World {
    pub dir: tempfile::TempDir,
    pub server: Server,
    pub uv: PathBuf,
}

impl World {
    pub async fn new() -> Option<Self> {
        let uv = program("uv", "FLYTE_TEST_UV")?;
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            server: Server::plain()?,
            uv,
        };
        world.push_base("base").await;
        Some(world)
    }

    pub fn toolchain(&self, home: &str) -> Toolchain {
        let package = self.dir.path().join("payload/flyte");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(
            package.join("_runtime.py"),
            "def main():\n    print('runs')\n",
        )
        .unwrap();
        toolchain(&self.dir.path().join(home), &self.uv, package)
    }

    pub fn order(&self, name: &str) -> Order {
        order(&self.server.host(), name)
    }

    pub async fn build(&self, home: &str, image: &Image, order: &Order) -> Result<Built, Error> {
        let print = |progress: Progress<'_>| println!("{progress:?}");
        build(&self.toolchain(home), image, order, &print).await
    }

    /// The manifest behind a name, and the configuration that it points to.
    pub async fn read(&self, name: &str) -> (Manifest, serde_json::Value) {
        let reference = format!("{}/{name}", self.server.host());
        let reference = registry::reference(&reference).unwrap();
        let registry = Registry::open(&reference).await.unwrap();
        let found = registry.document(&reference).await.unwrap().unwrap();
        let registry::Document::Manifest(manifest) = found.document else {
            panic!("an index");
        };
        let config = registry
            .small_blob(&reference, &manifest.config)
            .await
            .unwrap();
        (manifest, serde_json::from_slice(&config).unwrap())
    }

    /// Debian's accounts and the name of an interpreter: all that a build looks at.
    async fn push_base(&self, name: &str) {
        let reference = format!("{}/{name}:1", self.server.host());
        let reference = registry::reference(&reference).unwrap();
        let registry = Registry::open(&reference).await.unwrap();
        let cache = Cache::open(&self.dir.path().join("base")).unwrap();
        let mut manifests = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let mut files = Files::default();
            let mut add = |path: &str, text: &str| {
                let node = Node::Text(text.as_bytes().to_vec());
                files.add(path, 0o644, Owner::default(), node);
            };
            add("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
            add("/etc/group", "root:x:0:\n");
            add("/usr/bin/python3.11", architecture);
            let packed = Packed::make(&cache, architecture, Packing::Gzip, &files).unwrap();
            let path = cache.blob(&packed.blob.digest);
            send(&registry, &reference, &packed.blob, &Content::File(&path)).await;
            let config = json!({
                "architecture": architecture, "os": "linux", "docker_version": "1",
                "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"]},
                "rootfs": {"type": "layers", "diff_ids": [packed.diff_id]},
                "history": [{"created_by": "base"}],
            });
            let config = Bytes::from(config.to_string());
            let config_blob = blob(CONFIG, &config);
            send(
                &registry,
                &reference,
                &config_blob,
                &Content::Memory(config),
            )
            .await;
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(MANIFEST.to_owned()),
                config: config_blob,
                layers: vec![packed.blob],
            };
            let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
            let mut own = blob(MANIFEST, &bytes);
            let exact = reference.clone_with_digest(own.digest.clone());
            registry
                .put_manifest(&exact, MANIFEST, bytes)
                .await
                .unwrap();
            own.platform = Platform::parse(&format!("linux/{architecture}"));
            manifests.push(own);
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests,
        };
        let bytes = Bytes::from(serde_json::to_vec(&index).unwrap());
        registry
            .put_manifest(&reference, INDEX, bytes)
            .await
            .unwrap();
    }
}

pub fn toolchain(home: &Path, uv: &Path, package: PathBuf) -> Toolchain {
    Toolchain {
        home: home.to_path_buf(),
        uv: uv.to_path_buf(),
        python: crate::image::system::find_on_path("python3").unwrap(),
        python_version: PythonVersion {
            major: 3,
            minor: 11,
        },
        sdk: SdkPayload {
            entries: vec![package],
            identity: "1".into(),
        },
    }
}

pub fn order(host: &str, name: &str) -> Order {
    Order {
        reference: format!("{host}/{name}"),
        content: None,
        platforms: vec![],
        base: Some(format!("{host}/base:1")),
        layout: None,
        push: true,
        force: false,
        packing: Packing::Gzip,
    }
}

fn blob(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: registry::digest(bytes),
        size: bytes.len() as u64,
        platform: None,
    }
}

async fn send(
    registry: &Registry,
    reference: &registry::Reference,
    blob: &Descriptor,
    content: &Content<'_>,
) {
    let opened = registry.mount(reference, &blob.digest, None).await.unwrap();
    let Mounted::Upload(location) = opened else {
        panic!("nothing to mount from");
    };
    let sent = Arc::new(AtomicU64::new(0));
    registry
        .upload(reference, blob, content, location, &sent)
        .await
        .unwrap();
}
