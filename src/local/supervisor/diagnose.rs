//! Why a replica did not come up, read from how it ended and what it wrote.

use crate::error::Code;
use crate::wire::app::status::Substate;

/// Why a revision did not come up.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub substate: Substate,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            substate: Substate::SUBSTATE_UNSPECIFIED,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    Signalled(i32),
    /// Killed, by the platform or the kernel, for it held more memory than it may.
    OutOfMemory {
        used: u64,
        limit: u64,
    },
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(signal) => write!(f, "was killed by signal {signal}"),
            // A kernel lets it have all that it may, and no more.
            Self::OutOfMemory { used, limit } if used <= limit => write!(
                f,
                "was killed, for it wanted more memory than the {} MiB that it may have",
                limit >> 20
            ),
            Self::OutOfMemory { used, limit } => write!(
                f,
                "was killed, for it held {} MiB of memory and may have {} MiB",
                used >> 20,
                limit >> 20
            ),
        }
    }
}

/// Explains the end of a process that had served.
pub fn explain_crash(ending: Ending, lines: &[String], port: u16) -> Failure {
    let failure = explain(ending, lines, port);
    if failure.code == Code::AppExited {
        return Failure::new(failure.code, format!("the process {ending}{}", last(lines)));
    }
    failure
}

/// Explains the end of a process that never served, from its last lines.
pub fn explain(ending: Ending, lines: &[String], port: u16) -> Failure {
    if let Ending::OutOfMemory { .. } = ending {
        return Failure {
            code: Code::AppOutOfMemory,
            message: format!("the process {ending}"),
            substate: Substate::OOM_KILLED,
        };
    }
    if let Some(module) = missing_module(lines) {
        return Failure::new(
            Code::AppMissingModule,
            format!("the process {ending}: no module named `{module}`"),
        );
    }
    if let Some(file) = missing_file(lines) {
        return Failure::new(
            Code::AppMissingFile,
            format!("the process {ending}: no file `{file}`"),
        );
    }
    Failure::new(
        Code::AppExited,
        format!(
            "the process {ending} before it listened on port {port}{}",
            last(lines)
        ),
    )
}

/// The last line that says anything, as the end of a sentence.
fn last(lines: &[String]) -> String {
    lines
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(|line| format!(": {}", line.trim()))
        .unwrap_or_default()
}

/// The module that Python did not find, if that ended the process.
pub fn missing_module(lines: &[String]) -> Option<String> {
    lines.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once("No module named ")?;
        let name = rest.trim().trim_matches(|c| "'\"`.;".contains(c));
        let name = name.split(['\'', ';', ' ']).next()?;
        (!name.is_empty()).then(|| name.to_owned())
    })
}

/// The file that was not found, if that ended the process.
pub fn missing_file(lines: &[String]) -> Option<String> {
    lines.iter().rev().find_map(|line| {
        let quoted = |after: &str| {
            let (_, rest) = line.split_once(after)?;
            let rest = rest.trim_start_matches([' ', ':']);
            let quote = rest.chars().next().filter(|c| "'\"".contains(*c))?;
            rest[1..].split(quote).next().map(str::to_owned)
        };
        quoted("No such file or directory").or_else(|| quoted("can't open file"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn names_what_is_missing() {
        let cases = [
            (
                "Traceback\nModuleNotFoundError: No module named 'helpers'",
                Code::AppMissingModule,
                "`helpers`",
            ),
            (
                "/env/bin/python: No module named uvicorn",
                Code::AppMissingModule,
                "`uvicorn`",
            ),
            (
                "ModuleNotFoundError: No module named 'a.b'; 'a' is not a package",
                Code::AppMissingModule,
                "`a.b`",
            ),
            (
                "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
                Code::AppMissingFile,
                "`data.csv`",
            ),
            (
                "/env/bin/python: can't open file '/run/server.py': [Errno 2] No such file or directory",
                Code::AppMissingFile,
                "`/run/server.py`",
            ),
            ("ValueError: no", Code::AppExited, "ValueError: no"),
        ];
        for (text, code, part) in cases {
            let failure = explain(Ending::Exited(1), &lines(text), 8080);
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.contains(part), "{}", failure.message);
            assert!(failure.message.contains("exited with code 1"));
        }
    }
}
