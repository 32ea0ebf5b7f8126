//! Chooses and packs one folder as `flyte serve` does, for `benches/bundle.py` to time.
//!
//! Prints one JSON object: seconds of each part, sizes, and the peak of its memory.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use flyte_native::bundle::{Format, Selection, Store, choose, pack};
use flyte_native::spec::CopyStyle;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [root, cache, format, rest @ ..] = &arguments[..] else {
        // `cargo bench` and `cargo test --benches` run it without a folder.
        println!("usage: bundle ROOT CACHE zst|gz [COPY]");
        return Ok(());
    };
    let format = match &**format {
        "gz" => Format::TarGz,
        _ => Format::TarZst,
    };
    let started = Instant::now();
    let list = choose(&Selection {
        root: PathBuf::from(root),
        style: CopyStyle::All,
        modules: Vec::new(),
        installed: Vec::new(),
        source_roots: Vec::new(),
        include: Vec::new(),
    })?;
    let chosen = started.elapsed();
    let store = Store::open(Path::new(cache), list.root(), "bench")?;
    let archive = pack(&list, format, &store)?;
    let packed = started.elapsed();
    if let Some(copy) = rest.first() {
        archive.write_to(std::fs::File::create(copy)?)?;
    }
    let result = serde_json::json!({
        "files": list.files().len(),
        "input_bytes": list.total_bytes(),
        "bytes": archive.bytes,
        "made_bytes": archive.made_bytes,
        "parts": archive.parts.len(),
        "digest": archive.digest.to_string(),
        "choose_seconds": chosen.as_secs_f64(),
        "seconds": packed.as_secs_f64(),
        "peak_kb": peak_kb(),
    });
    println!("{result}");
    Ok(())
}

/// `VmHWM` of this process.
fn peak_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
