//! One file of ignore rules, read and matched as git does it, byte for byte.
//!
//! Which files of rules there are and which is stronger is not known here.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix_ignore::glob::Pattern;
use gix_ignore::glob::pattern::Mode as Kind;
use gix_ignore::glob::wildmatch::Mode;

pub use gix_ignore::glob::pattern::Case;

/// The patterns of one file, in its order.
#[derive(Debug, Default)]
pub struct Rules {
    source: PathBuf,
    lines: Vec<(Pattern, usize)>,
    // Most patterns are a plain name or an ending, and most names fall under none of them. Each of
    // these holds indexes of `lines`, ascending; together they hold all.
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    by_last_byte: HashMap<u8, Vec<usize>>,
    others: Vec<usize>,
}

/// One pattern, and where it stands.
#[derive(Clone, Debug)]
pub struct Line {
    rules: Arc<Rules>,
    index: usize,
}

impl Rules {
    /// Never fails: what is no pattern matches nothing, as in git.
    pub fn parse(source: &Path, mut bytes: Vec<u8>) -> Self {
        if !bytes.ends_with(b"\n") {
            // Only then is a `\r` before it taken for a part of the line's end.
            bytes.push(b'\n');
        }
        let mut rules = Self {
            source: source.to_path_buf(),
            ..Self::default()
        };
        for (index, (pattern, line, _)) in gix_ignore::parse(&bytes, false).enumerate() {
            let ending = pattern.text.last().copied();
            let is_of_last_part =
                pattern.mode.contains(Kind::NO_SUB_DIR) && !pattern.mode.contains(Kind::ABSOLUTE);
            let indexes = match (pattern.first_wildcard_pos, ending) {
                (None, _) if is_of_last_part => {
                    rules.by_name.entry(pattern.text.to_vec()).or_default()
                }
                (Some(_), Some(byte))
                    if is_of_last_part
                        && pattern.mode.contains(Kind::ENDS_WITH)
                        && pattern.text.len() > 1 =>
                {
                    rules.by_last_byte.entry(byte).or_default()
                }
                (None | Some(_), None | Some(_)) => &mut rules.others,
            };
            indexes.push(index);
            rules.lines.push((pattern, line));
        }
        rules
    }

    /// The last line that matches. `path` is relative to the folder that the rules hold in, and its
    /// last part begins at `name_at`.
    pub fn last_match(
        self: &Arc<Self>,
        path: &[u8],
        name_at: usize,
        is_dir: bool,
        case: Case,
    ) -> Option<Line> {
        let last_part = path.get(name_at..).unwrap_or_default();
        let name_at = (name_at > 0).then_some(name_at);
        let matches = |index: &usize| {
            let mode = Mode::NO_MATCH_SLASH_LITERAL;
            let (pattern, _) = &self.lines[*index];
            pattern.matches_repo_relative_path(path.into(), name_at, Some(is_dir), case, mode)
        };
        let index = match case {
            Case::Fold => (0..self.lines.len()).rfind(matches),
            Case::Sensitive => {
                let by_name = self.by_name.get(last_part);
                let by_last_byte = last_part
                    .last()
                    .and_then(|byte| self.by_last_byte.get(byte));
                let lists = [by_name, by_last_byte, Some(&self.others)]
                    .into_iter()
                    .flatten();
                let found = lists.filter_map(|list| list.iter().rfind(|index| matches(index)));
                found.max().copied()
            }
        }?;
        Some(Line {
            rules: Arc::clone(self),
            index,
        })
    }
}

impl Line {
    /// Whether it takes back what another line leaves out.
    pub fn takes_back(&self) -> bool {
        self.pattern().is_negative()
    }

    /// The file that it stands in.
    pub fn source(&self) -> &Path {
        &self.rules.source
    }

    /// Counted from 1.
    pub fn number(&self) -> usize {
        self.rules.lines[self.index].1
    }

    fn pattern(&self) -> &Pattern {
        &self.rules.lines[self.index].0
    }
}

/// The pattern as it would be written.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern().fmt(f)
    }
}
