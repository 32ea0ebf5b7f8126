//! Compiles the `.proto` subset without `protoc`: `protox` parses it in this process and
//! `connectrpc-build` turns the descriptors into messages, clients and service traits.

use std::error::Error;
use std::path::{Path, PathBuf};

/// One file per package; imports among them resolve below `proto/`.
const PACKAGES: [&str; 15] = [
    "buildkit/control",
    "buildkit/filesync",
    "buildkit/health",
    "buildkit/secrets",
    "flyteidl2/app",
    "flyteidl2/auth",
    "flyteidl2/cluster",
    "flyteidl2/common",
    "flyteidl2/core",
    "flyteidl2/dataproxy",
    "flyteidl2/imagebuilder",
    "flyteidl2/logs_dataplane",
    "flyteidl2/project",
    "flyteidl2/secret",
    "flyteidl2/task",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files: Vec<String> = PACKAGES
        .iter()
        .map(|package| format!("{package}.proto"))
        .collect();
    let descriptors = prost::Message::encode_to_vec(&protox::compile(&files, ["proto"])?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptor_set = out.join("messages.bin");
    std::fs::write(&descriptor_set, descriptors)?;
    connectrpc_build::Config::new()
        .files(&files.iter().map(Path::new).collect::<Vec<_>>())
        .descriptor_set(descriptor_set)
        .emit_rerun_directives(false)
        .include_file("_connectrpc.rs")
        .compile()?;
    Ok(())
}
