//! Running installers: a clean environment, output line by line, and no process left behind.
//!
//! What the caller's shell happens to hold must not decide what is installed; only settings that
//! say *how to reach* packages pass through.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::private;
use super::secret::Secrets;

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

/// A program to run, as data until it starts: who may see its words is settled in one place.
pub(super) struct Call {
    program: PathBuf,
    words: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    folder: PathBuf,
    stdin: Stdio,
    stdout: Stdio,
    /// What no line that is shown may hold.
    hidden: Secrets,
}

/// A call with nothing of the caller's environment but what leads to packages.
pub(super) fn clean(program: &Path) -> Call {
    Call {
        program: program.to_path_buf(),
        words: Vec::new(),
        variables: std::env::vars_os()
            .filter(|(name, _)| is_passed(name))
            .collect(),
        // A project that happens to be around must not lend its settings.
        folder: "/".into(),
        stdin: Stdio::null(),
        stdout: Stdio::piped(),
        hidden: Secrets::default(),
    }
}

/// `uv`, told to be plain and to leave everything but its task alone.
pub(super) fn uv(program: &Path, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Call {
    let mut call = clean(program);
    call.args(arguments.into_iter().map(Into::into))
        .env("UV_NO_PROGRESS", "1")
        .env("NO_COLOR", "1")
        .env("UV_LINK_MODE", "hardlink")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("UV_PYTHON_INSTALL_BIN", "0");
    call
}

impl Call {
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn arg(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    pub(super) fn args(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.words.extend(words);
        self
    }

    pub(super) fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let value = value.as_ref().to_owned();
        self.variables.insert(name.as_ref().to_owned(), value);
        self
    }

    pub(super) fn current_dir(&mut self, folder: impl AsRef<Path>) -> &mut Self {
        self.folder = folder.as_ref().to_path_buf();
        self
    }

    pub(super) fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.stdin = stdin.into();
        self
    }

    #[cfg(test)]
    fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.stdout = stdout.into();
        self
    }

    /// Gives values as variables, and keeps them out of what is shown.
    pub(super) fn secrets(&mut self, secrets: &Secrets) -> &mut Self {
        for (name, value) in secrets.iter() {
            // A line break at the end of a file is not part of the value.
            let end = value
                .iter()
                .rposition(|byte| !matches!(byte, b'\r' | b'\n'));
            let value = &value[..end.map_or(0, |end| end + 1)];
            self.env(name, OsString::from_vec(value.to_vec()));
        }
        self.hidden.add(secrets);
        self
    }

    /// Keeps a value out of what is shown.
    pub(super) fn hide(&mut self, value: &str) {
        self.hidden.hide_too(value);
    }

    /// Every user of the machine sees command lines, and nobody else's environment.
    fn settle(&mut self) {
        let words = std::mem::take(&mut self.words);
        let (words, variables) = without_passwords(words.into_iter());
        self.words = words;
        let is_index = |word: &OsString| word == "--index-url" || word == "-i";
        let names_index = self.words.iter().any(is_index)
            || variables.iter().any(|(name, _)| *name == "UV_INDEX_URL");
        if names_index {
            // The caller's default would win over the index that the image names.
            self.variables.remove(OsStr::new("UV_DEFAULT_INDEX"));
        }
        for (name, value) in variables {
            private::passwords(&value).for_each(|password| self.hide(password));
            self.env(name, value);
        }
    }

    fn command(mut self) -> (Command, Secrets) {
        self.settle();
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.variables)
            .args(self.words)
            .current_dir(self.folder)
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        (command, self.hidden)
    }
}

/// Options of `uv` that name indexes, the variable that says the same, and what stands between
/// several of its values.
const INDEXES: [(&[&str], &str, &str); 5] = [
    (&["--index-url", "-i"], "UV_INDEX_URL", " "),
    (&["--extra-index-url"], "UV_EXTRA_INDEX_URL", " "),
    (&["--default-index"], "UV_DEFAULT_INDEX", " "),
    (&["--index"], "UV_INDEX", " "),
    (&["--find-links", "-f"], "UV_FIND_LINKS", ","),
];

/// Indexes whose address holds a password become variables, with those beside them, for an option
/// wins over its variable.
pub(super) fn without_passwords(
    arguments: impl Iterator<Item = OsString>,
) -> (Vec<OsString>, Vec<(&'static str, String)>) {
    let mut plain: Vec<OsString> = arguments.flat_map(in_two).collect();
    let mut secret = Vec::new();
    for (options, variable, between) in INDEXES {
        let places = plain.iter().zip(plain.iter().skip(1)).enumerate();
        let urls: Vec<(usize, String)> = places
            .filter(|(_, (word, _))| options.iter().any(|option| *word == option))
            .filter_map(|(place, (_, url))| Some((place, url.to_str()?.to_owned())))
            .collect();
        if urls.iter().any(|(_, url)| private::is_private(url)) {
            for (place, _) in urls.iter().rev() {
                plain.drain(*place..*place + 2);
            }
            let urls: Vec<String> = urls.into_iter().map(|(_, url)| url).collect();
            secret.push((variable, urls.join(between)));
        }
    }
    (plain, secret)
}

/// `--option=value` of an index, as two words.
fn in_two(word: OsString) -> Vec<OsString> {
    let halves = word.to_str().and_then(|text| text.split_once('='));
    match halves {
        Some((option, value)) if INDEXES.iter().any(|(names, ..)| names.contains(&option)) => {
            vec![option.into(), value.into()]
        }
        Some(_) | None => vec![word],
    }
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
///
/// What the call hides is unreadable in its lines.
pub(super) async fn run(call: Call, mut on_line: impl FnMut(&str)) -> io::Result<Outcome> {
    let (mut command, hidden) = call.command();
    let on_line = |line: &str| {
        let line = hidden.hide(line);
        on_line(&line);
        line
    };
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
    mut on_line: impl FnMut(&str) -> String,
) -> io::Result<Vec<String>> {
    let Some(pipe) = pipe else {
        return Ok(Vec::new());
    };
    let mut reader = BufReader::new(pipe);
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).await? > 0 {
        let line = on_line(String::from_utf8_lossy(&bytes).trim_end());
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

    #[test]
    fn every_way_of_naming_an_index_is_known() {
        for (word, variable) in [
            ("-i", "UV_INDEX_URL"),
            ("--index", "UV_INDEX"),
            ("--default-index", "UV_DEFAULT_INDEX"),
            ("-f", "UV_FIND_LINKS"),
        ] {
            let url = "https://:tok@h/simple";
            let apart = [OsString::from(word), url.into()];
            let joined = [OsString::from(format!("{word}={url}"))];
            let expected = (vec![], vec![(variable, url.to_owned())]);
            assert_eq!(without_passwords(apart.into_iter()), expected);
            assert_eq!(without_passwords(joined.into_iter()), expected);
        }
        let named = ["--index", "own=https://me:tok@h/s"].map(OsString::from);
        assert_eq!(
            without_passwords(named.into_iter()).0,
            Vec::<OsString>::new()
        );
    }

    /// What a program is started with, whatever was added to the call after it was made.
    #[tokio::test]
    async fn a_call_starts_without_passwords_in_its_words() {
        let mut call = uv(Path::new("/bin/sh"), ["-c", "echo \"$*|$UV_INDEX_URL\""]);
        call.args(["x", "--index-url", "https://me:hunter2@h/simple"]);
        let outcome = run(call, |_| ()).await.unwrap();
        assert_eq!(outcome.stdout, "|https://me:hunter2@h/simple\n");
    }

    #[tokio::test]
    async fn what_is_hidden_is_unreadable_in_lines() {
        let mut call = shell("echo with $KEY >&2; exit 1");
        call.secrets(&Secrets::of("KEY", "s3cret"));
        let mut seen = Vec::new();
        let outcome = run(call, |line| seen.push(line.to_owned())).await.unwrap();
        assert_eq!(
            (seen, outcome.tail),
            (vec!["with ***".into()], vec!["with ***".into()])
        );
    }

    fn shell(script: &str) -> Call {
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
