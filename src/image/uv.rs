//! Running installers: a clean environment, output line by line, and no process left behind.
//!
//! What the caller's shell happens to hold must not decide what is installed; only settings that
//! say *how to reach* packages pass through.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Lines of an installer's output that are kept for its error.
const TAIL_LINES: usize = 40;

const PASSED: [&str; 34] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "NETRC",
    "SSH_AUTH_SOCK",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_OFFLINE",
    "UV_HTTP_TIMEOUT",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_INSECURE_HOST",
    "UV_FIND_LINKS",
    "UV_PYTHON_INSTALL_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GIT_SSH_COMMAND",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
];
const PASSED_PREFIXES: [&str; 2] = ["UV_INDEX", "PIP_INDEX"];

fn is_passed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let upper = name.to_ascii_uppercase();
    PASSED.contains(&name)
        || (upper.ends_with("_PROXY") && PASSED.contains(&upper.as_str()))
        || PASSED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// A command with nothing of the caller's environment but what leads to packages.
pub(super) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_passed(name)))
        // A project that happens to be around must not lend its settings.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// `uv`, told to be plain and to leave everything but its task alone.
pub(super) fn uv(
    program: &Path,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Command {
    let mut command = clean(program);
    let (arguments, secret) = without_passwords(arguments.into_iter().map(Into::into));
    command
        .args(arguments)
        .envs(secret)
        .env("UV_NO_PROGRESS", "1")
        .env("NO_COLOR", "1")
        .env("UV_LINK_MODE", "hardlink")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("UV_PYTHON_INSTALL_BIN", "0");
    command
}

/// Every user of the machine sees command lines, and nobody else's environment: indexes whose address
/// holds a password go there, with those beside them, for an option wins over its variable.
fn without_passwords(
    arguments: impl Iterator<Item = OsString>,
) -> (Vec<OsString>, Vec<(&'static str, String)>) {
    let mut plain: Vec<OsString> = arguments.collect();
    let mut secret = Vec::new();
    for (option, variable) in INDEXES {
        let places = plain.iter().zip(plain.iter().skip(1)).enumerate();
        let urls: Vec<(usize, String)> = places
            .filter(|(_, (word, _))| *word == option)
            .filter_map(|(place, (_, url))| Some((place, url.to_str()?.to_owned())))
            .collect();
        if urls.iter().any(|(_, url)| has_password(url)) {
            for (place, _) in urls.iter().rev() {
                plain.drain(*place..*place + 2);
            }
            let urls: Vec<String> = urls.into_iter().map(|(_, url)| url).collect();
            secret.push((variable, urls.join(" ")));
        }
    }
    (plain, secret)
}

/// Options of `uv` that name indexes, and the variables that say the same.
const INDEXES: [(&str, &str); 2] = [
    ("--index-url", "UV_INDEX_URL"),
    ("--extra-index-url", "UV_EXTRA_INDEX_URL"),
];

fn has_password(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| url.password().is_some() || !url.username().is_empty())
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub success: bool,
    pub status: String,
    pub stdout: String,
    /// The last lines of its standard error, oldest first.
    pub tail: Vec<String>,
}

/// Ends a program *and the build backends it started* when the future that waits is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when it has ended just now, which is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs to the end, handing each line of standard error to `on_line` as it comes.
pub(super) async fn run(mut command: Command, on_line: impl FnMut(&str)) -> io::Result<Outcome> {
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(pid.and_then(Pid::from_raw));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, tail) = tokio::try_join!(read_all(stdout), read_lines(stderr, on_line))?;
    let status = child.wait().await?;
    group.0 = None;
    Ok(Outcome {
        success: status.success(),
        status: status.to_string(),
        stdout,
        tail,
    })
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn read_lines(
    pipe: Option<impl AsyncRead + Unpin>,
    mut on_line: impl FnMut(&str),
) -> io::Result<Vec<String>> {
    let Some(pipe) = pipe else {
        return Ok(Vec::new());
    };
    let mut reader = BufReader::new(pipe);
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).await? > 0 {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        on_line(&line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
        bytes.clear();
    }
    Ok(tail.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_with_a_password_stay_out_of_the_command_line() {
        let words = [
            "pip",
            "install",
            "--index-url",
            "https://plain/simple",
            "--extra-index-url",
            "https://me:hunter2@b/simple",
            "six",
            "--extra-index-url",
            "https://c/simple",
        ];
        let (plain, secret) = without_passwords(words.into_iter().map(OsString::from));
        let expected = [
            "pip",
            "install",
            "--index-url",
            "https://plain/simple",
            "six",
        ];
        assert_eq!(plain, expected);
        let extra = "https://me:hunter2@b/simple https://c/simple".to_owned();
        assert_eq!(secret, [("UV_EXTRA_INDEX_URL", extra)]);
    }

    fn shell(script: &str) -> Command {
        let mut command = clean(Path::new("/bin/sh"));
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn lines_are_handed_on_and_the_last_are_kept() {
        let mut seen = 0;
        let script =
            "i=0; while [ $i -lt 60 ]; do echo line $i >&2; i=$((i+1)); done; echo out; exit 3";
        let outcome = run(shell(script), |_| seen += 1).await.unwrap();
        assert_eq!(seen, 60);
        assert!(!outcome.success);
        assert_eq!(outcome.stdout, "out\n");
        assert_eq!(outcome.tail.len(), TAIL_LINES);
        assert_eq!(outcome.tail[TAIL_LINES - 1], "line 59");
    }

    #[test]
    fn only_what_leads_to_packages_passes() {
        for name in [
            "PATH",
            "https_proxy",
            "UV_INDEX_PRIVATE_PASSWORD",
            "PIP_INDEX_URL",
            "SSL_CERT_FILE",
        ] {
            assert!(is_passed(OsStr::new(name)), "{name}");
        }
        for name in [
            "PYTHONPATH",
            "VIRTUAL_ENV",
            "UV_PRERELEASE",
            "CONDA_PREFIX",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(!is_passed(OsStr::new(name)), "{name}");
        }
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_program_and_its_children() {
        // The pipe's write end is held by the shell and its child; it closes when both are gone.
        let (writer, mut reader) = tokio::net::unix::pipe::pipe().unwrap();
        let mut command = shell("sleep 600 & echo up >&2; wait");
        command.stdout(writer.into_blocking_fd().unwrap());
        let (up, mut is_up) = tokio::sync::mpsc::unbounded_channel();
        let task =
            tokio::spawn(
                async move { run(command, |line| up.send(line.to_owned()).unwrap()).await },
            );
        assert_eq!(is_up.recv().await.as_deref(), Some("up"));
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
