//! The command line of `fserve`, as every Flyte control plane writes it.
//!
//! Resolved once: after [`Args::parse`] an empty string means nothing was said, and nobody reads
//! the environment for a setting again. Does not know what the settings are used for. Options
//! that this version has never heard of are dropped, since a newer client may talk to an older
//! image.

use std::collections::BTreeMap;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::Error;

#[derive(Debug, Parser)]
#[command(name = "fserve", disable_version_flag = true)]
struct Given {
    #[arg(long, allow_hyphen_values = true)]
    version: String,
    #[arg(long, allow_hyphen_values = true)]
    project: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    domain: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    org: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    image_cache: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    tgz: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pkl: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    dest: Option<String>,
    #[arg(long, short = 'p', allow_hyphen_values = true)]
    parameters: Option<String>,
    #[arg(long, short = 'r', allow_hyphen_values = true)]
    raw_data_path: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    resolver: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    resolver_args: Option<String>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What a replica was told to run; `None` means neither option nor environment said anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub version: String,
    pub project: Option<String>,
    pub domain: Option<String>,
    pub org: Option<String>,
    pub image_cache: Option<String>,
    pub tgz: Option<String>,
    pub pkl: Option<String>,
    /// Folder into which the bundle is unpacked; `.` unless given.
    pub dest: String,
    /// Still encoded; see [`super::payload::decode`].
    pub parameters: Option<String>,
    pub raw_data_path: Option<String>,
    pub resolver: Option<String>,
    /// `module:variable`
    pub resolver_args: Option<String>,
    pub command: Vec<String>,
}

impl Args {
    /// Reads the arguments after the program's own name.
    ///
    /// # Errors
    /// `config.invalid` when `--version` is missing, an option has no value or stands twice.
    pub fn parse(argv: &[String], env: &BTreeMap<String, String>) -> Result<Self, Error> {
        let known = without_unknown_options(argv);
        let given = Given::command()
            .no_binary_name(true)
            .try_get_matches_from(known)
            .and_then(|mut matches| Given::from_arg_matches_mut(&mut matches))
            .map_err(|error| Error::Arguments {
                reason: first_line(&error.to_string()),
            })?;
        let or_env = |option: Option<String>, name: &str| {
            filled(option).or_else(|| filled(env.get(name).cloned()))
        };
        Ok(Self {
            version: given.version,
            project: or_env(given.project, "FLYTE_INTERNAL_EXECUTION_PROJECT"),
            domain: or_env(given.domain, "FLYTE_INTERNAL_EXECUTION_DOMAIN"),
            org: or_env(given.org, "_U_ORG_NAME"),
            image_cache: filled(given.image_cache),
            tgz: filled(given.tgz),
            pkl: filled(given.pkl),
            dest: filled(given.dest).unwrap_or_else(|| ".".to_owned()),
            parameters: filled(given.parameters),
            raw_data_path: filled(given.raw_data_path),
            resolver: filled(given.resolver),
            resolver_args: filled(given.resolver_args),
            command: given.command,
        })
    }
}

fn filled(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// Drops options of other versions, up to the command.
fn without_unknown_options(argv: &[String]) -> Vec<String> {
    let definition = Given::command();
    let is_known = |item: &str| {
        let name = item.split('=').next().unwrap_or_default();
        definition.get_arguments().any(|argument| {
            argument
                .get_long()
                .is_some_and(|long| name.strip_prefix("--") == Some(long))
                || argument
                    .get_short()
                    .is_some_and(|short| name.starts_with(&format!("-{short}")))
        })
    };
    let end = argv.iter().position(|item| item == "--");
    let mut kept = Vec::with_capacity(argv.len());
    let mut rest = argv.iter().enumerate().peekable();
    while let Some((index, item)) = rest.next() {
        if !item.starts_with('-') || item == "--" || item == "-" {
            kept.extend_from_slice(&argv[index..]);
            break;
        }
        let takes_next = !item.contains('=')
            && (!item.starts_with('-') || item.starts_with("--") || item.len() == 2);
        if is_known(item) {
            if item.starts_with("--") || item.len() == 2 {
                kept.push(item.clone());
            } else {
                // As one word with its value, clap may take it for the command.
                let value = item[2..].strip_prefix('=').unwrap_or(&item[2..]);
                kept.extend([item[..2].to_owned(), value.to_owned()]);
            }
            if takes_next {
                kept.extend(rest.next().map(|(_, value)| value.clone()));
            }
            continue;
        }
        tracing::warn!(option = %item, "an option is not known to this version and is left out");
        // Only with a `--` further on is it certain that the next word is not the command.
        let before_end = end.is_some_and(|end| index + 1 < end);
        let value_follows = rest.peek().is_some_and(|(_, next)| !next.starts_with('-'));
        if takes_next && before_end && value_follows {
            rest.next();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, Error> {
        parse_in(line, &[])
    }

    fn parse_in(line: &[&str], env: &[(&str, &str)]) -> Result<Args, Error> {
        let argv: Vec<String> = line.iter().map(|item| (*item).to_owned()).collect();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Args::parse(&argv, &env)
    }

    #[test]
    fn reads_the_line_that_a_control_plane_writes() {
        let args = parse(&[
            "--version",
            "v1",
            "--project",
            "",
            "--domain",
            "",
            "--org",
            "",
            "--image-cache",
            "abc=",
            "--tgz",
            "file:///b.tar.gz",
            "--dest",
            ".",
            "--parameters",
            "H4s=",
            "--raw-data-path",
            "/tmp/raw",
            "--resolver",
            "a.B",
            "--resolver-args",
            "m:v",
            "--",
            "streamlit",
            "run",
            "--server.port",
            "80",
            "--",
            "-x",
        ])
        .unwrap();
        assert_eq!(args.version, "v1");
        assert_eq!((args.project, args.domain, args.org), (None, None, None));
        assert_eq!(args.tgz.as_deref(), Some("file:///b.tar.gz"));
        assert_eq!(args.parameters.as_deref(), Some("H4s="));
        assert_eq!(args.raw_data_path.as_deref(), Some("/tmp/raw"));
        assert_eq!(args.resolver_args.as_deref(), Some("m:v"));
        assert_eq!(
            args.command,
            ["streamlit", "run", "--server.port", "80", "--", "-x"]
        );
    }

    #[test]
    fn an_empty_option_falls_back_to_the_environment() {
        let env = [
            ("FLYTE_INTERNAL_EXECUTION_PROJECT", "p"),
            ("FLYTE_INTERNAL_EXECUTION_DOMAIN", "d"),
            ("_U_ORG_NAME", "o"),
        ];
        let args = parse_in(&["--version", "", "--project", "", "--domain", "x"], &env).unwrap();
        assert_eq!(args.version, "");
        assert_eq!(args.project.as_deref(), Some("p"));
        assert_eq!(args.domain.as_deref(), Some("x"));
        assert_eq!(args.org.as_deref(), Some("o"));
        assert_eq!(args.dest, ".");
    }

    #[test]
    fn the_version_is_required() {
        let error = parse(&["--project", "p"]).unwrap_err();
        assert!(
            error.to_string().contains("--version") || error.to_string().contains("required"),
            "{error}"
        );
    }

    #[test]
    fn options_of_another_version_are_left_out() {
        let args = parse(&[
            "--future",
            "thing",
            "--version",
            "v",
            "--flag",
            "--also=x",
            "-p",
            "blob",
            "--",
            "run",
            "--future",
            "stays",
        ])
        .unwrap();
        assert_eq!(args.version, "v");
        assert_eq!(args.parameters.as_deref(), Some("blob"));
        assert_eq!(args.command, ["run", "--future", "stays"]);
    }

    #[test]
    fn a_command_needs_no_separator() {
        let args = parse(&["--version=v", "python", "-m", "app"]).unwrap();
        assert_eq!(args.command, ["python", "-m", "app"]);
    }

    #[test]
    fn short_options_in_one_word_and_a_lone_dash_are_told_apart() {
        let args = parse(&["--version=1", "-p=", "-", "x"]).unwrap();
        assert_eq!(args.parameters, None);
        assert_eq!(args.command, ["-", "x"]);
        let args = parse(&["--version=1", "-pH4s=", "-r=--", "x"]).unwrap();
        assert_eq!(args.parameters.as_deref(), Some("H4s="));
        assert_eq!(args.raw_data_path.as_deref(), Some("--"));
        assert_eq!(args.command, ["x"]);
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        let args = parse(&["--version", "--", "--dest", "-d", "--", "x"]).unwrap();
        assert_eq!(args.version, "--");
        assert_eq!(args.dest, "-d");
        assert_eq!(args.command, ["x"]);
    }
}
