//! What is declared now, as a fresh interpreter reads it.
//!
//! A roll takes the declaration that is known, because importing the user's code again may take
//! longer than all the rest. Whether the declaration has changed as well is found out afterwards:
//! the command that began the watch is run a second time, and where it would watch it hands over
//! what it has read, and ends. Nothing is served in there.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use crate::serve::Request;

/// Tells a process that it was started to read: who asks, which call, and where to put it.
pub const VARIABLE: &str = "_FLYTE_WATCH";

/// Lines of a traceback that are worth showing.
const LINES: usize = 30;

/// What a process has read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Declaration {
    pub request: Request,
    /// Where apps go, in words; a watch cannot follow them elsewhere.
    pub scope: String,
}

/// The command that began the watch.
#[derive(Clone, Debug)]
pub struct Loader {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Which of the calls that watch in that program it was, from 0.
    pub call: usize,
}

/// Why the declaration is not known.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("the program could not be run again: {0}")]
    Io(#[from] std::io::Error),
    #[error("the program failed when it was run again ({status})")]
    Failed {
        status: std::process::ExitStatus,
        output: Vec<String>,
    },
    #[error("the program, run again, ended without serving the app")]
    Silent,
    #[error("what the program, run again, has read cannot be understood: {0}")]
    Garbled(#[from] serde_json::Error),
}

impl Unread {
    /// What the program wrote before it failed.
    pub fn output(&self) -> &[String] {
        match self {
            Self::Failed { output, .. } => output,
            Self::Io(_) | Self::Silent | Self::Garbled(_) => &[],
        }
    }
}

impl Loader {
    /// Runs the command; it ends with this future.
    pub async fn load(&self) -> Result<Declaration, Unread> {
        let place = tempfile::NamedTempFile::new()?;
        let mut asking = OsString::from(format!("{}:{}:", std::process::id(), self.call));
        asking.push(place.path());
        let done = tokio::process::Command::new(&self.program)
            .args(&self.args)
            .env(VARIABLE, asking)
            // What is saved twice within a second would be taken for the same.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let read = std::fs::read(place.path())?;
        if !read.is_empty() {
            return Ok(serde_json::from_slice(&read)?);
        }
        if done.status.success() {
            return Err(Unread::Silent);
        }
        let written = if done.stderr.is_empty() {
            &done.stdout
        } else {
            &done.stderr
        };
        let text = String::from_utf8_lossy(written);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Err(Unread::Failed {
            status: done.status,
            output: lines[lines.len().saturating_sub(LINES)..].to_vec(),
        })
    }
}

/// What another process wants of this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The call that is asked about.
    pub call: usize,
    path: PathBuf,
}

impl Asked {
    /// Reads the variable. A grandchild that inherited it was not meant.
    pub fn of(variable: Option<OsString>, parent: u32) -> Option<Self> {
        let text = variable?.into_string().ok()?;
        let (asking, rest) = text.split_once(':')?;
        let (call, path) = rest.split_once(':')?;
        (asking.parse() == Ok(parent)).then_some(Self {
            call: call.parse().ok()?,
            path: path.into(),
        })
    }

    /// The same for this process.
    pub fn here() -> Option<Self> {
        Self::of(
            std::env::var_os(VARIABLE),
            std::os::unix::process::parent_id(),
        )
    }

    /// Hands over what was read.
    pub fn answer(&self, declaration: &Declaration) -> std::io::Result<()> {
        let text = serde_json::to_vec(declaration)?;
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_child_that_was_meant_is_asked() {
        let variable = || Some(OsString::from("17:2:/tmp/a:b"));
        assert_eq!(
            Asked::of(variable(), 17),
            Some(Asked {
                call: 2,
                path: "/tmp/a:b".into()
            })
        );
        assert_eq!(Asked::of(variable(), 18), None);
        assert_eq!(Asked::of(None, 17), None);
        assert_eq!(Asked::of(Some("17".into()), 17), None);
    }

    #[tokio::test]
    async fn a_program_that_fails_tells_why() {
        let run = async |script: &str| {
            let loader = Loader {
                program: "/bin/sh".into(),
                args: ["-c", script].map(OsString::from).into(),
                call: 0,
            };
            loader.load().await.unwrap_err()
        };
        let failed = run("echo told; echo why >&2; exit 3").await;
        assert_eq!(failed.output(), ["why"]);
        assert!(failed.to_string().contains("exit status: 3"), "{failed}");
        assert!(matches!(run("true").await, Unread::Silent));
    }
}
