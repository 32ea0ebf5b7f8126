//! Builds and pushes one image without a container engine, for `benches/image.py` to time.
//!
//! Prints one JSON object: the digest, and how many bytes were sent.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::path::PathBuf;

use flyte_native::image::env::{SdkPayload, Toolchain};
use flyte_native::image::oci::{Order, Packing, build};
use flyte_native::spec::image::Base;
use flyte_native::spec::{Image, InstallOptions, Layer, PythonVersion};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [home, uv, python, minor, base, reference, packages @ ..] = &arguments[..] else {
        // `cargo bench` and `cargo test --benches` run it without arguments.
        println!("usage: image HOME UV PYTHON MINOR BASE REFERENCE PACKAGE...");
        return Ok(());
    };
    let python_version = PythonVersion {
        major: 3,
        minor: minor.parse()?,
    };
    let toolchain = Toolchain {
        home: PathBuf::from(home),
        uv: PathBuf::from(uv),
        python: PathBuf::from(python),
        python_version,
        sdk: SdkPayload {
            entries: Vec::new(),
            identity: String::new(),
        },
    };
    let image = Image {
        name: None,
        registry: None,
        base: Base::Debian {
            install_flyte: false,
        },
        python: python_version,
        python_is_explicit: true,
        platforms: Vec::new(),
        layers: vec![Layer::PipPackages {
            packages: packages.to_vec(),
            options: InstallOptions::default(),
        }],
    };
    let order = Order {
        content: None,
        reference: reference.clone(),
        platforms: Vec::new(),
        base: Some(base.clone()),
        layout: None,
        push: true,
        force: false,
        packing: Packing::Gzip,
    };
    let built = build(&toolchain, &image, &order, &|_| ()).await?;
    let answer = serde_json::json!({
        "digest": built.digest, "sent": built.bytes_sent, "layers": built.layers,
    });
    println!("{answer}");
    Ok(())
}
