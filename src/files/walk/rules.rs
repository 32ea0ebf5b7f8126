//! One file of ignore rules, read and matched as git does it, byte for byte.
//!
//! Which files of rules there are and which is stronger is not known here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix_ignore::glob::Pattern;
use gix_ignore::glob::wildmatch::Mode;

pub use gix_ignore::glob::pattern::Case;

/// The patterns of one file, in its order.
#[derive(Debug)]
pub struct Rules {
    source: PathBuf,
    lines: Vec<(Pattern, usize)>,
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
        Self {
            source: source.to_path_buf(),
            lines: gix_ignore::parse(&bytes, false)
                .map(|(pattern, line, _)| (pattern, line))
                .collect(),
        }
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
        let name_at = (name_at > 0).then_some(name_at);
        let matches = |pattern: &Pattern| {
            let mode = Mode::NO_MATCH_SLASH_LITERAL;
            pattern.matches_repo_relative_path(path.into(), name_at, Some(is_dir), case, mode)
        };
        let index = self.lines.iter().rposition(|(line, _)| matches(line))?;
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
