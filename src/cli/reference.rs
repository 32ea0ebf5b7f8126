//! The reference of all commands as Markdown, for the documentation: what `--help` says, once.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// A section for each command that does something.
pub fn markdown(root: &Command) -> String {
    let mut text = String::from(
        "# Command line\n\nGenerated from the command line itself by `make docs`.\n\n\
         Results go to standard output, everything else to standard error. Every command takes the\n\
         [options of all commands](#all-commands).\n\n\
         | Exit status | Meaning |\n|---|---|\n| 0 | done |\n| 1 | failed |\n| 2 | wrong input |\n\
         | 70 | a defect of ours |\n| 130 | Ctrl-C; 0 where Ctrl-C is how a watch ends |\n",
    );
    section(root, "flyte", &mut text);
    text.push_str("\n## All commands\n\n");
    options(root, &mut text);
    text
}

fn section(command: &Command, path: &str, text: &mut String) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            section(sub, &path, text);
            continue;
        }
        let positionals: String = sub.get_positionals().map(placeholder).collect();
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(
            text,
            "\n## {path}\n\n{about}.\n\n```console\n$ {path}{positionals}\n```\n\n"
        );
        for arg in sub.get_positionals() {
            let _ = writeln!(
                text,
                "- `{}`: {}",
                arg.get_id().as_str().to_uppercase(),
                help(arg)
            );
        }
        options(sub, text);
        examples(sub, text);
    }
}

fn placeholder(arg: &Arg) -> String {
    let name = arg.get_id().as_str().to_uppercase();
    if arg.is_required_set() {
        format!(" {name}")
    } else {
        format!(" [{name}]")
    }
}

fn options(command: &Command, text: &mut String) {
    for arg in command.get_opts().filter(|arg| !arg.is_hide_set()) {
        let Some(long) = arg.get_long() else { continue };
        let short = arg
            .get_short()
            .map(|short| format!("-{short}, "))
            .unwrap_or_default();
        let _ = writeln!(text, "- `{short}--{long}{}`: {}", value(arg), help(arg));
    }
}

fn value(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let names = arg.get_value_names().unwrap_or_default();
    let name = names
        .first()
        .map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string);
    format!(" {name}")
}

fn help(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let possible: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !possible.is_empty() {
        let _ = write!(text, " ({})", possible.join(", "));
    }
    let default: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if !default.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, "; default `{}`", default.join(" "));
    }
    text
}

fn examples(command: &Command, text: &mut String) {
    let Some(help) = command.get_after_help() else {
        return;
    };
    let help = help.to_string();
    let lines: Vec<&str> = help.lines().skip(1).map(str::trim).collect();
    let _ = write!(text, "\n```console\n");
    for line in lines {
        let _ = writeln!(text, "$ {line}");
    }
    text.push_str("```\n");
}
