//! What no project ships on purpose, whatever its own rules say.

/// Version control, caches, editors' files, secrets of the developer.
const ANYWHERE: &[&str] = &[
    ".git",
    "__pycache__",
    ".cache",
    ".ruff_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".venv",
    ".idea",
    ".vscode",
    "node_modules",
    ".DS_Store",
    ".env",
];
const ENDINGS: &[&str] = &["*.pyc", "*.egg-info", "*.egg"];
/// At the root also the output of tools.
const AT_TOP: &[&str] = &["dist", "build", ".flyte", ".tox", ".nox"];
const ENDINGS_AT_TOP: &[&str] = &["*.log"];

/// The entry of the list that a file or folder of that name falls under.
pub fn entry(name: &str, at_top: bool) -> Option<&'static str> {
    let find = |names: &'static [&'static str], endings: &'static [&'static str]| {
        let same = names.iter().find(|entry| **entry == name);
        same.or_else(|| endings.iter().find(|ending| name.ends_with(&ending[1..])))
    };
    find(ANYWHERE, ENDINGS)
        .or_else(|| at_top.then(|| find(AT_TOP, ENDINGS_AT_TOP)).flatten())
        .copied()
}
