//! The import scanner on any bytes: it ends, and what it finds could stand in a Python file.

use flyte_native::bundle::imports::scan;

pub fn run(source: &[u8]) {
    let lines = source.split(|&byte| byte == b'\n').count();
    let imports = scan(source);
    for import in &imports {
        assert!(import.level > 0 || !import.module.is_empty());
        for name in import.module.iter().chain(&import.names) {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
            assert!(!name.is_empty() && name.chars().all(plain), "{name:?}");
        }
        assert!((1..=lines).contains(&import.line), "line {}", import.line);
    }
    assert!(imports.is_sorted_by_key(|import| import.line));
}
