//! A Dockerfile as data, and its text.
//!
//! Whoever writes a recipe says what shall happen; quoting and the syntax of mounts are settled
//! here. Only what the frontend inside an old engine knows is used, because a `# syntax=` line would
//! have every build pull a frontend from Docker Hub.

use std::fmt::Write as _;

/// What is mounted while one command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mount {
    /// Kept by the engine from build to build, for builders that run at the same time too.
    Cache { id: String, target: String },
    /// A part of the context; what is written to it is thrown away.
    Context { source: String, target: String },
    /// A file of another image.
    Image {
        image: String,
        source: String,
        target: String,
    },
    /// A secret of the session: a variable of this name, or a file at `target`.
    Secret { id: String, target: Option<String> },
    /// A setting that nobody else shall see, as a variable; its value is in the session too.
    Setting { id: String, variable: String },
}

/// One line of a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    From(String),
    User(String),
    Workdir(String),
    /// The value may use variables: `$NAME`; `\$` is a dollar.
    Env(String, String),
    Copy {
        /// In the context; its content, where it ends with a slash.
        source: String,
        target: String,
        owner: Option<String>,
    },
    Run {
        mounts: Vec<Mount>,
        script: String,
    },
}

/// An instruction, and what the user wrote that made us need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub instruction: Instruction,
    /// Such as `with_commands('make')`.
    pub origin: Option<String>,
}

impl Instruction {
    /// Whether the engine counts it when it says "step 2 of 5".
    pub(super) fn is_numbered(&self) -> bool {
        match self {
            Self::From(_) | Self::Workdir(_) | Self::Copy { .. } | Self::Run { .. } => true,
            Self::User(_) | Self::Env(..) => false,
        }
    }
}

/// The Dockerfile of a recipe.
pub(super) fn render(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match &step.instruction {
            Instruction::From(image) => line(&mut text, format_args!("FROM {image}")),
            Instruction::User(user) => line(&mut text, format_args!("USER {user}")),
            Instruction::Workdir(path) => line(&mut text, format_args!("WORKDIR {path}")),
            Instruction::Env(name, value) => {
                line(&mut text, format_args!("ENV {name}={}", quoted(value)));
            }
            Instruction::Copy {
                source,
                target,
                owner,
            } => {
                let owner = owner
                    .as_ref()
                    .map(|owner| format!("--chown={owner} "))
                    .unwrap_or_default();
                let places = json(&[&literal(source), target]);
                line(&mut text, format_args!("COPY {owner}{places}"));
            }
            Instruction::Run { mounts, script } => run(&mut text, mounts, script),
        }
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{content}");
}

fn run(text: &mut String, mounts: &[Mount], script: &str) {
    text.push_str("RUN ");
    for mount in mounts {
        let _ = write!(text, "--mount={} ", options(mount));
    }
    let script = with_secrets(mounts, script);
    // The shell form reads better in the engine's own messages, but ends with the line.
    let is_plain = !script.contains(['\n', '\r'])
        && !script.starts_with(['-', '['])
        && !script.trim_end().ends_with('\\')
        && !script.contains("<<");
    if is_plain {
        line(text, format_args!("{script}"));
    } else {
        let words = json(&["/bin/sh", "-c", &script]);
        line(text, format_args!("{words}"));
    }
}

fn options(mount: &Mount) -> String {
    match mount {
        Mount::Cache { id, target } => format!("type=cache,id={id},target={target},sharing=shared"),
        Mount::Context { source, target } => {
            format!("type=bind,source={source},target={target},rw")
        }
        Mount::Image {
            image,
            source,
            target,
        } => format!("type=bind,from={image},source={source},target={target}"),
        Mount::Secret { id, target: None } | Mount::Setting { id, .. } => {
            format!("type=secret,id={id},required=true")
        }
        Mount::Secret {
            id,
            target: Some(target),
        } => format!("type=secret,id={id},target={target},required=true"),
    }
}

/// Old frontends cannot make a variable of a secret; a shell reads it from the file.
fn with_secrets(mounts: &[Mount], script: &str) -> String {
    let mut prefix = String::new();
    for mount in mounts {
        let (id, variable) = match mount {
            Mount::Secret { id, target: None } => (id, id),
            Mount::Setting { id, variable } => (id, variable),
            Mount::Secret { .. }
            | Mount::Cache { .. }
            | Mount::Context { .. }
            | Mount::Image { .. } => continue,
        };
        let _ = write!(
            prefix,
            "{variable}=\"$(cat /run/secrets/{id})\" && export {variable} && "
        );
    }
    match prefix.as_str() {
        "" => script.to_owned(),
        // Braces keep `a || b` of the user's together; a line break ends a comment of theirs.
        prefix if script.contains(['\n', '#']) => format!("{prefix}{{ {script}\n}}"),
        prefix => format!("{prefix}{{ {script}; }}"),
    }
}

/// A value of `ENV`: whole with its spaces, and `$NAME` still means a variable.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.peek() == Some(&'$') => {
                rest.next();
                out.push_str("\\$");
            }
            '\\' | '"' => {
                out.push('\\');
                out.push(c);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A name in the context that stands for itself: engines take it for a pattern, and before that for
/// a word of a shell, even where it is quoted.
fn literal(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '[' | '*' | '?' => out.extend(['[', c, ']']),
            '\\' => out.push_str(r"[\\\\]"),
            '$' | '\'' | '"' => out.extend(['\\', c]),
            other => out.push(other),
        }
    }
    out
}

fn json(words: &[&str]) -> String {
    serde_json::Value::from(words).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(instruction: Instruction) -> String {
        let step = Step {
            instruction,
            origin: None,
        };
        render(&[step]).trim_end().to_owned()
    }

    fn script(script: &str, mounts: Vec<Mount>) -> String {
        text(Instruction::Run {
            mounts,
            script: script.into(),
        })
    }

    #[test]
    fn values_keep_their_spaces_quotes_and_variables() {
        let env = |value: &str| text(Instruction::Env("A".into(), value.into()));
        assert_eq!(env("one two"), r#"ENV A="one two""#);
        assert_eq!(env("/x:$PATH"), r#"ENV A="/x:$PATH""#);
        assert_eq!(env(r#"say "hi""#), r#"ENV A="say \"hi\"""#);
        assert_eq!(env(r"\$5 c:\dir"), r#"ENV A="\$5 c:\\dir""#);
    }

    #[test]
    fn commands_of_several_lines_are_one_instruction() {
        assert_eq!(script("make all", vec![]), "RUN make all");
        for odd in ["a\nb", "[ -d x ]", "-x", "a \\", "cat <<E"] {
            let text = script(odd, vec![]);
            assert!(text.starts_with(r#"RUN ["/bin/sh","-c","#), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn mounts_are_what_old_frontends_know() {
        let mounts = vec![
            Mount::Cache {
                id: "uv".into(),
                target: "/c".into(),
            },
            Mount::Context {
                source: "s".into(),
                target: "/t".into(),
            },
            Mount::Image {
                image: "i:1".into(),
                source: "/uv".into(),
                target: "/bin/uv".into(),
            },
            Mount::Secret {
                id: "KEY".into(),
                target: Some("/etc/k".into()),
            },
        ];
        assert_eq!(
            script("x", mounts),
            "RUN --mount=type=cache,id=uv,target=/c,sharing=shared \
             --mount=type=bind,source=s,target=/t,rw \
             --mount=type=bind,from=i:1,source=/uv,target=/bin/uv \
             --mount=type=secret,id=KEY,target=/etc/k,required=true x"
        );
    }

    #[test]
    fn a_secret_becomes_a_variable_of_the_whole_command() {
        let secret = || {
            vec![Mount::Secret {
                id: "KEY".into(),
                target: None,
            }]
        };
        let text = script("a || b", secret());
        assert!(
            text.ends_with(r#"KEY="$(cat /run/secrets/KEY)" && export KEY && { a || b; }"#),
            "{text}"
        );
        let setting = Mount::Setting {
            id: "own-1".into(),
            variable: "UV_INDEX".into(),
        };
        let text = script("a", vec![setting]);
        let start = "RUN --mount=type=secret,id=own-1,required=true UV_INDEX=\"$(cat /run/secrets/own-1)\" && export";
        assert!(text.starts_with(start), "{text}");
        let text = script("a # why", secret());
        assert!(text.ends_with(r#"{ a # why\n}"]"#), "{text}");
    }

    #[test]
    fn copies_and_places_are_quoted() {
        let copy = Instruction::Copy {
            source: "a b/".into(),
            target: "./x".into(),
            owner: Some("1000:1000".into()),
        };
        assert_eq!(text(copy), r#"COPY --chown=1000:1000 ["a b/","./x"]"#);
        for (name, expected) in [
            ("0/[id].tsx", r#"COPY ["0/[[]id].tsx","x"]"#),
            ("0/a*?", r#"COPY ["0/a[*][?]","x"]"#),
            ("0/it's $5", r#"COPY ["0/it\\'s \\$5","x"]"#),
            (r"0/a\b", r#"COPY ["0/a[\\\\\\\\]b","x"]"#),
        ] {
            let copy = Instruction::Copy {
                source: name.into(),
                target: "x".into(),
                owner: None,
            };
            assert_eq!(text(copy), expected);
        }
        let rest = [
            (Instruction::From("i:1".into()), "FROM i:1", true),
            (Instruction::User("1000".into()), "USER 1000", false),
            (Instruction::Workdir("/a b".into()), "WORKDIR /a b", true),
        ];
        for (instruction, expected, counted) in rest {
            assert_eq!(instruction.is_numbered(), counted, "{expected}");
            assert_eq!(text(instruction), expected);
        }
    }
}
