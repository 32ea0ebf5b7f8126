//! Ignore files of any bytes on any names: reading and matching end, and a line that is named as
//! the reason is one that says so on its own.

use std::path::Path;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::files::walk::rules::{Case, Rules};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    names: Vec<&'a str>,
    is_dir: bool,
    text: &'a [u8],
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let rules = Arc::new(Rules::parse(Path::new("r"), input.text.to_vec()));
    let lines: Vec<&[u8]> = input.text.split(|&byte| byte == b'\n').collect();
    for name in input.names.iter().filter(|name| !name.starts_with('/')) {
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let find = |rules: &Arc<Rules>| {
            rules.last_match(name.as_bytes(), last, input.is_dir, Case::Sensitive)
        };
        let Some(found) = find(&rules) else { continue };
        assert!((1..=lines.len()).contains(&found.number()));
        let mut alone = lines[found.number() - 1].to_vec();
        if found.number() == 1 {
            alone = alone
                .strip_prefix(b"\xef\xbb\xbf")
                .unwrap_or(&alone)
                .to_vec();
        }
        let again = find(&Arc::new(Rules::parse(Path::new("r"), alone)));
        let again = again.unwrap_or_else(|| panic!("`{found}` matches {name:?} in company only"));
        assert_eq!(again.takes_back(), found.takes_back());
        assert_eq!(again.to_string(), found.to_string());
    }
}
