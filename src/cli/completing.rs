//! What may stand at the end of a command line that is being typed.
//!
//! The tree of commands says what belongs where. Names that it cannot know (apps, environments) are
//! asked of a [`World`], and files are left to the shell, which knows best.

use clap::{Arg, Command, ValueHint};

/// Which control plane the words that were typed so far mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    options: Vec<(String, String)>,
}

impl Typed {
    /// The last value that an option was given, by the name of its field.
    pub fn get(&self, id: &str) -> Option<&str> {
        let named = self.options.iter().rev().find(|(known, _)| known == id);
        named.map(|(_, value)| value.as_str())
    }
}

/// Knows what exists, and finds out fast or not at all.
pub trait World {
    /// Names of the apps that there are, with what is known of each.
    fn apps(&self, typed: &Typed) -> Vec<(String, String)>;
    /// Names of the secrets that there are.
    fn secrets(&self, typed: &Typed) -> Vec<(String, String)>;
    /// Variables of the environments that a file seems to declare, with their names.
    fn environments(&self, file: &str) -> Vec<(String, String)>;
}

/// What may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    Word {
        text: String,
        help: String,
    },
    /// Whatever files are there.
    Files,
    Folders,
}

impl Candidate {
    fn word(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Word {
            text: text.into(),
            help: help.into(),
        }
    }
}

/// Where the words so far have led.
struct Place<'a> {
    path: Vec<&'a Command>,
    positionals: Vec<&'a str>,
    /// The option whose value comes next.
    pending: Option<&'a Arg>,
    typed: Typed,
}

impl<'a> Place<'a> {
    fn command(&self) -> &'a Command {
        // The root is always there.
        self.path[self.path.len() - 1]
    }

    /// An option of this command, or a global one of those above.
    fn option(&self, word: &str) -> Option<&'a Arg> {
        let options = self
            .path
            .iter()
            .rev()
            .flat_map(|command| command.get_arguments());
        let mut options = options.filter(|arg| !arg.is_positional());
        if let Some(long) = word.strip_prefix("--") {
            return options.find(|arg| {
                arg.get_long() == Some(long)
                    || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
            });
        }
        let short = word.strip_prefix('-')?.chars().last()?;
        options.find(|arg| arg.get_short() == Some(short))
    }

    fn take(&mut self, word: &'a str) {
        if let Some(arg) = self.pending.take() {
            self.note(arg, word);
            return;
        }
        if word.starts_with('-') && word.len() > 1 {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            let arg = self.option(option);
            match (arg, value) {
                (Some(arg), Some(value)) => self.note(arg, value),
                (Some(arg), None) if takes_value(arg) => self.pending = Some(arg),
                // A flag counts as its own value.
                (Some(arg), None) => self.note(arg, option),
                (None, _) => {}
            }
        } else if let Some(sub) = self.command().find_subcommand(word) {
            self.path.push(sub);
            self.positionals.clear();
        } else {
            self.positionals.push(word);
        }
    }

    fn note(&mut self, arg: &Arg, value: &str) {
        let id = arg.get_id().as_str().to_owned();
        self.typed.options.push((id, value.to_owned()));
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Candidates for the last of `words`; the program's name is not among them.
pub fn candidates(root: &Command, words: &[String], world: &impl World) -> Vec<Candidate> {
    let (typed, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    // bash takes `--option=value` apart.
    let typed = if typed == "=" { "" } else { typed };
    let mut place = Place {
        path: vec![root],
        positionals: Vec::new(),
        pending: None,
        typed: Typed::default(),
    };
    for word in before.iter().filter(|word| *word != "=") {
        place.take(word);
    }
    if let Some(arg) = place.pending {
        return matching(values(arg, &place, world), typed);
    }
    if let Some((option, typed)) = typed.split_once('=')
        && option.starts_with("--")
    {
        let found = place.option(option).map(|arg| values(arg, &place, world));
        return matching(found.unwrap_or_default(), typed)
            .into_iter()
            .map(|one| match one {
                Candidate::Word { text, help } => Candidate::word(format!("{option}={text}"), help),
                Candidate::Files | Candidate::Folders => one,
            })
            .collect();
    }
    if typed.starts_with('-') {
        return matching(options(&place), typed);
    }
    matching(words_here(&place, world), typed)
}

/// Subcommands, or values of the positional argument that comes next.
fn words_here(place: &Place<'_>, world: &impl World) -> Vec<Candidate> {
    let command = place.command();
    if command.has_subcommands() {
        return command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| Candidate::word(sub.get_name(), about(sub.get_about())))
            .collect();
    }
    command
        .get_positionals()
        .nth(place.positionals.len())
        .map(|arg| values(arg, place, world))
        .unwrap_or_default()
}

fn options(place: &Place<'_>) -> Vec<Candidate> {
    let here = place.command().get_arguments();
    let above = place.path[..place.path.len() - 1]
        .iter()
        .flat_map(|command| command.get_arguments())
        .filter(|arg| arg.is_global_set());
    here.chain(above)
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| {
            let long = arg.get_long()?;
            Some(Candidate::word(format!("--{long}"), about(arg.get_help())))
        })
        .collect()
}

fn values(arg: &Arg, place: &Place<'_>, world: &impl World) -> Vec<Candidate> {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        return possible
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| Candidate::word(value.get_name(), about(value.get_help())))
            .collect();
    }
    let pairs = |pairs: Vec<(String, String)>| {
        let word = |(text, help)| Candidate::Word { text, help };
        pairs.into_iter().map(word).collect()
    };
    let above: Vec<&str> = place
        .path
        .iter()
        .map(|command| command.get_name())
        .collect();
    match (above.as_slice(), arg.get_id().as_str()) {
        ([.., "app" | "logs"], "name") => pairs(world.apps(&place.typed)),
        ([.., "get" | "delete", "secret"], "name") => pairs(world.secrets(&place.typed)),
        (_, "environment") => {
            // `bundle why` takes a file to explain in front of the one that declares the app.
            let file = place.positionals.iter().rev().find(|word| is_python(word));
            pairs(
                file.map(|file| world.environments(file))
                    .unwrap_or_default(),
            )
        }
        ([.., "explain"], "code") => crate::error::Code::ALL
            .iter()
            .map(|code| Candidate::word(code.as_str(), code.meaning()))
            .collect(),
        _ => match arg.get_value_hint() {
            ValueHint::DirPath => vec![Candidate::Folders],
            ValueHint::AnyPath | ValueHint::FilePath => vec![Candidate::Files],
            _ => Vec::new(),
        },
    }
}

fn is_python(word: &str) -> bool {
    std::path::Path::new(word)
        .extension()
        .is_some_and(|kind| kind == "py")
}

fn matching(candidates: Vec<Candidate>, typed: &str) -> Vec<Candidate> {
    let fits = |one: &Candidate| match one {
        Candidate::Word { text, .. } => text.starts_with(typed),
        Candidate::Files | Candidate::Folders => true,
    };
    candidates.into_iter().filter(fits).collect()
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl World for Known {
        fn secrets(&self, _: &Typed) -> Vec<(String, String)> {
            vec![("api-key".into(), String::new())]
        }

        fn apps(&self, typed: &Typed) -> Vec<(String, String)> {
            if let Some(project) = typed.get("project") {
                let endpoint = typed.get("endpoint").unwrap_or("configured");
                return vec![(format!("{project}-app"), endpoint.to_owned())];
            }
            vec![
                ("web".into(), "ACTIVE".into()),
                ("worker".into(), "STOPPED".into()),
            ]
        }

        fn environments(&self, file: &str) -> Vec<(String, String)> {
            // The file that is explained declares nothing.
            if file == "lazy.py" {
                return Vec::new();
            }
            vec![("env".into(), format!("of {file}"))]
        }
    }

    /// The candidates behind a line whose last word is being typed.
    fn behind(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        candidates(&crate::cli::help::command(), &words, &Known)
            .into_iter()
            .map(|one| match one {
                Candidate::Word { text, .. } => text,
                Candidate::Files => ":files".into(),
                Candidate::Folders => ":folders".into(),
            })
            .collect()
    }

    #[test]
    fn words_are_completed_where_they_stand() {
        for (line, expected) in [
            ("ser", &["serve"][..]),
            ("get ", &["app", "logs"]),
            ("get app w", &["web", "worker"]),
            ("get logs we", &["web"]),
            ("--output json update app wo", &["worker"]),
            ("serve app.py ", &["env"]),
            ("serve ", &[":files"]),
            ("serve --root-dir ", &[":files"]),
            ("serve --copy-style l", &["loaded_modules"]),
            ("serve --copy-style=l", &["--copy-style=loaded_modules"]),
            ("serve --copy-style = l", &["loaded_modules"]),
            ("serve --watc", &["--watch"]),
            ("get app --out", &["--output"]),
            ("-o y", &["yaml"]),
            ("explain app.wr", &["app.wrong_port"]),
            ("init s", &["streamlit"]),
            ("completion ", &["bash", "zsh", "fish"]),
            ("local st", &["start", "stop", "status"]),
            ("get app web ", &[]),
            ("get app -p other ", &["other-app"]),
            (
                "--endpoint http://c get app --project=other ",
                &["other-app"],
            ),
            ("delete secret ", &["api-key"]),
            ("bundle why lazy.py app.py ", &["env"]),
            ("deploy app.py --wat", &[]),
            ("__", &[]),
        ] {
            // Other commands may come to those named here.
            let found = behind(line);
            for one in expected {
                assert!(
                    found.iter().any(|known| known == one),
                    "`{line}`: {found:?}"
                );
            }
            assert!(
                expected.len() <= found.len() && (found.is_empty() == expected.is_empty()),
                "`{line}`: {found:?}"
            );
        }
    }
}
