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
    if let Some(name) = missing_variable(lines) {
        return Failure::new(
            Code::AppExited,
            format!("the process {ending}: no environment variable `{name}`"),
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

/// The line that says why a program ended: the last exception that Python tells of, or what the
/// interpreter says before it has run anything. Exceptions above it were handled or led to it.
fn ending(lines: &[String]) -> Option<&str> {
    (0..lines.len()).rev().find_map(|at| {
        let line = plain(&lines[at]);
        let above = at.checked_sub(1).map(|above| plain(&lines[above]));
        let follows_code = above.is_some_and(|above| above.starts_with(' '));
        (is_exception(line, follows_code) || is_interpreter(line)).then_some(line)
    })
}

/// A line of an exception group without its frame.
fn plain(line: &str) -> &str {
    let framed = line.trim_start().strip_prefix("| ");
    framed.unwrap_or(line).trim_end()
}

/// `package.Class: text` or `package.Class`. What stands below a line of code may be called as it
/// likes; elsewhere only a name that says so is one, since logs write `INFO: text` as well.
fn is_exception(line: &str, follows_code: bool) -> bool {
    let name = line.split(": ").next().unwrap_or_default();
    let is_path = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "._<>".contains(c));
    let says_so = ["Error", "Exception", "Exit", "Interrupt", "Warning"]
        .iter()
        .any(|end| name.ends_with(end));
    is_path && (follows_code || says_so)
}

/// `/env/bin/python: No module named uvicorn`, and what else it says of its own command line.
fn is_interpreter(line: &str) -> bool {
    line.split_once(": ").is_some_and(|(program, said)| {
        let program = program.rsplit('/').next().unwrap_or_default();
        program.to_ascii_lowercase().starts_with("python")
            && [
                "No module named ",
                "can't open file ",
                "Error while finding ",
            ]
            .iter()
            .any(|start| said.starts_with(start))
    })
}

/// The module that Python did not find, if that ended the process.
pub fn missing_module(lines: &[String]) -> Option<String> {
    let (_, rest) = ending(lines)?.split_once("No module named ")?;
    let name = rest.trim().trim_matches(|c| "'\"`.;".contains(c));
    let name = name.split(['\'', ';', ' ']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The file that was not found, if that ended the process.
pub fn missing_file(lines: &[String]) -> Option<String> {
    let line = ending(lines)?;
    let quoted = |after: &str| {
        let (_, rest) = line.split_once(after)?;
        let rest = rest.trim_start_matches([' ', ':']);
        let quote = rest.chars().next().filter(|c| "'\"".contains(*c))?;
        rest[1..].split(quote).next().map(str::to_owned)
    };
    quoted("No such file or directory").or_else(|| quoted("can't open file"))
}

/// The environment variable that a program looked up in `os.environ` and did not find, if that
/// ended it: the traceback's last line of code says where the key was looked for.
pub fn missing_variable(lines: &[String]) -> Option<String> {
    let line = ending(lines)?;
    let name = line.strip_prefix("KeyError: '")?.strip_suffix('\'')?;
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let looked_up = lines.iter().any(|line| line.contains("environ["));
    (is_name && looked_up).then(|| name.to_owned())
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
            (
                "  File \"/app/server.py\", line 3, in <module>\n    os.environ[\"API_KEY\"]\n\
                 KeyError: 'API_KEY'",
                Code::AppExited,
                "no environment variable `API_KEY`",
            ),
            (
                "    import a\nModuleNotFoundError: No module named 'a'\n[INFO] Worker exiting (pid: 7)",
                Code::AppMissingModule,
                "`a`",
            ),
        ];
        for (text, code, part) in cases {
            let failure = explain(Ending::Exited(1), &lines(text), 8080);
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.contains(part), "{}", failure.message);
            assert!(failure.message.contains("exited with code 1"));
        }
    }
    #[test]
    fn what_was_handled_is_not_what_ended_it() {
        let cases = [
            "ModuleNotFoundError: No module named 'uvloop'\n\nDuring handling of the above exception, \
             another exception occurred:\n\nTraceback (most recent call last):\n    start()\n\
             ValueError: no",
            "WARNING: No module named 'uvloop', going on without\n    start()\nmy.package.Oops: no",
            "FileNotFoundError: [Errno 2] No such file or directory: 'cache'\nsqlite3.OperationalError: no",
            "no data.csv: No such file or directory: 'data.csv'",
            "    config[\"KEY\"]\nKeyError: 'KEY'",
        ];
        for text in cases {
            let failure = explain(Ending::Exited(1), &lines(text), 8080);
            assert_eq!(failure.code, Code::AppExited, "{text}");
            assert!(!failure.message.contains('`'), "{}", failure.message);
        }
    }
}
