//! How the commands are presented: in groups, with examples, coloured on a terminal.
//!
//! `args` owns what may be typed and one line on each word. Here is what makes a page of it; the
//! completion and the reference read the same tree.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::args::{Arguments, EVERYWHERE};
use super::printer::hanging;

/// Commands under the heading that says what one wants of them.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Serve apps",
        &["init", "serve", "deploy", "build", "bundle"],
    ),
    ("Look after apps", &["get", "update", "delete", "create"]),
    ("A cluster", &["login", "logout", "whoami"]),
    (
        "This machine",
        &["local", "doctor", "explain", "completion"],
    ),
];

/// Examples by the words that lead to a command; those without stand in `args`.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("init", &["flyte init", "flyte init fastapi my-app"]),
    (
        "serve",
        &[
            "flyte serve",
            "flyte serve app.py",
            "flyte serve app.py env --param greeting=hi -e LOG_LEVEL=DEBUG",
            "flyte serve --watch app.py",
            "curl $(flyte serve app.py)",
        ],
    ),
    (
        "deploy",
        &[
            "flyte deploy app.py",
            "flyte deploy app.py env --version v7",
            "flyte deploy app.py --all",
            "flyte deploy apps --recursive --ignore-load-errors",
        ],
    ),
    (
        "build",
        &[
            "flyte build app.py",
            "flyte build app.py env --force",
            "flyte build apps --recursive",
            "flyte build app.py --dry-run --output json",
        ],
    ),
    (
        "get app",
        &[
            "flyte get app",
            "flyte get app web --output json",
            "flyte get app web --revisions",
        ],
    ),
    (
        "get logs",
        &[
            "flyte get logs web --tail 50",
            "flyte get logs web --follow",
            "flyte get logs web --pretty -l 20",
        ],
    ),
    (
        "get config",
        &["flyte get config", "flyte get config --output json"],
    ),
    (
        "create config",
        &["flyte create config --endpoint https://flyte.example.com -p demo -d development"],
    ),
    (
        "login",
        &[
            "flyte login",
            "flyte login --endpoint https://flyte.example.com",
        ],
    ),
    ("logout", &["flyte logout"]),
    ("whoami", &["flyte whoami", "flyte whoami --output json"]),
    (
        "update app",
        &[
            "flyte update app web --deactivate --wait",
            "flyte update app web --rollback",
            "flyte update app web --rollback 3",
        ],
    ),
    ("delete app", &["flyte delete app web"]),
    (
        "create secret",
        &[
            "flyte create secret api-key",
            "flyte create secret api-key --from-file key.txt --replace",
        ],
    ),
    ("get secret", &["flyte get secret"]),
    ("delete secret", &["flyte delete secret api-key"]),
    (
        "bundle ls",
        &[
            "flyte bundle ls app.py",
            "flyte bundle ls app.py --copy-style all",
        ],
    ),
    (
        "bundle why",
        &[
            "flyte bundle why data/x.csv",
            "flyte bundle why static/app.css app.py env",
        ],
    ),
    (
        "local start",
        &[
            "flyte local start",
            "flyte local start --listen 127.0.0.1:8090",
            "flyte local start --listen off",
        ],
    ),
    ("local stop", &["flyte local stop"]),
    (
        "local status",
        &["flyte local status", "flyte local status --output json"],
    ),
    ("local logs", &["flyte local logs --tail 200"]),
    (
        "local trust",
        &[
            "flyte local trust",
            "flyte local trust --domain shop.example",
            "flyte local trust --browsers",
            "flyte local trust --print",
            "flyte local trust --remove",
        ],
    ),
    (
        "local prune",
        &["flyte local prune --dry-run", "flyte local prune --all"],
    ),
    ("local reset", &["flyte local reset --yes"]),
    ("doctor", &["flyte doctor", "flyte doctor --output json"]),
    (
        "explain",
        &["flyte explain", "flyte explain app.wrong_port"],
    ),
    (
        "completion",
        &[
            "flyte completion bash >> ~/.bashrc",
            "flyte completion zsh > ~/.zfunc/_flyte",
            "flyte completion fish > ~/.config/fish/completions/flyte.fish",
        ],
    ),
];

/// Options of `serve` that `deploy` knows only to say where they belong.
const OVERRIDES: &[&str] = &[
    "param",
    "port",
    "env_var",
    "name",
    "service_account",
    "cluster_pool",
    "watch",
];

const STATUS: &str = "Exit status: 0 done, 1 failed, 2 wrong input, 70 a defect of ours, 130 Ctrl-C \
    (0 where Ctrl-C is how a watch ends).\n\
    A code such as `app.wrong_port` is explained by `flyte explain CODE`.";

/// Where the words on a command begin.
const NAME_COLUMNS: usize = 14;

const HEADING: Style = AnsiColor::Green.on_default().bold();
const WORD: Style = AnsiColor::Cyan.on_default().bold();

/// All commands, ready to be parsed and shown.
pub fn command() -> Command {
    let styles = Styles::styled()
        .header(HEADING)
        .usage(HEADING)
        .literal(WORD)
        .placeholder(AnsiColor::Cyan.on_default())
        .error(AnsiColor::Red.on_default().bold())
        .valid(AnsiColor::Green.on_default())
        .invalid(AnsiColor::Yellow.on_default());
    // One form of help: clap's long one puts a blank line behind each option.
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .global(true)
        .action(ArgAction::HelpShort)
        .help("Print help")
        .help_heading(EVERYWHERE);
    let command = Arguments::command()
        .styles(styles)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .arg(help);
    let command = with_examples(command, "").mut_subcommand("deploy", |deploy| {
        deploy.mut_args(|arg| {
            let is_override = OVERRIDES.contains(&arg.get_id().as_str());
            if is_override { arg.hide(true) } else { arg }
        })
    });
    let template = first_page(&command);
    command.help_template(template)
}

/// The page of `flyte --help`, where the commands stand in groups.
fn first_page(command: &Command) -> StyledStr {
    let mut page = StyledStr::new();
    let _ = write!(page, "{{about}}\n\n{{usage-heading}} {{usage}}\n");
    for (heading, names) in groups(command) {
        let _ = write!(page, "\n{HEADING}{heading}:{HEADING:#}\n");
        for name in names {
            let about = command
                .find_subcommand(name)
                .and_then(Command::get_about)
                .map(ToString::to_string)
                .unwrap_or_default();
            let about = hanging(&about, NAME_COLUMNS);
            let _ = writeln!(page, "  {WORD}{name:<12}{WORD:#}{about}");
        }
    }
    let _ = write!(
        page,
        "\n{HEADING}{EVERYWHERE}:{HEADING:#}\n{{options}}\n\n{}",
        hanging(STATUS, 0)
    );
    page
}

/// Groups with the commands that exist; whatever stands in none comes last.
fn groups(command: &Command) -> Vec<(&'static str, Vec<&str>)> {
    let visible: Vec<&str> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(Command::get_name)
        .collect();
    let mut groups: Vec<(&str, Vec<&str>)> = GROUPS
        .iter()
        .map(|(heading, names)| {
            let known = names.iter().copied();
            (
                *heading,
                known.filter(|name| visible.contains(name)).collect(),
            )
        })
        .collect();
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let rest: Vec<&str> = visible
        .into_iter()
        .filter(|name| !is_grouped(name))
        .collect();
    groups.push(("More", rest));
    groups.retain(|(_, names)| !names.is_empty());
    groups
}

fn with_examples(command: Command, path: &str) -> Command {
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        let path = path.trim_start();
        let sub = match examples(path) {
            Some(lines) => sub.after_help(lines),
            None => sub,
        };
        with_examples(sub, path)
    })
}

fn examples(path: &str) -> Option<StyledStr> {
    let (_, lines) = EXAMPLES.iter().find(|(known, _)| *known == path)?;
    let mut text = StyledStr::new();
    let _ = write!(text, "{HEADING}Examples:{HEADING:#}");
    for line in *lines {
        let _ = write!(text, "\n  {line}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that do something, by the words that lead there.
    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, bool)>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            if sub.has_subcommands() {
                leaves(sub, &path, found);
            } else {
                found.push((path, sub.get_after_help().is_some()));
            }
        }
    }

    #[test]
    fn every_command_has_examples_and_every_example_a_command() {
        let mut found = Vec::new();
        leaves(&command(), "", &mut found);
        for (path, has_examples) in &found {
            assert!(has_examples, "`flyte {path}` has no example");
        }
        for (path, lines) in EXAMPLES {
            assert!(found.iter().any(|(known, _)| known == path), "{path}");
            for line in *lines {
                let words = line.split(['|', '>']).next().unwrap_or_default();
                let words = words.trim_start_matches("curl $(").trim_end_matches(')');
                let words = shlex::split(words).unwrap();
                let parsed = command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "`{line}`: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn every_command_stands_in_a_group() {
        assert!(
            groups(&command())
                .iter()
                .all(|(heading, _)| *heading != "More")
        );
    }
}
