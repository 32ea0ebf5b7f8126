//! The words of a command: variables filled in, and the program found.
//!
//! The result is executed as a list. No shell is ever involved, so quoting survives and a
//! secret that holds `;` stays one word.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Error;
use crate::error::did_you_mean;

/// Where programs are looked for when `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Fills `$NAME` and `${NAME}` in every word; `$$` is a dollar sign, a lone `$` stays.
///
/// # Errors
/// `config.invalid` naming the variable that is not set, or the `${` that names none.
pub fn expand(words: &[String], env: &BTreeMap<String, String>) -> Result<Vec<String>, Error> {
    words.iter().map(|word| expand_word(word, env)).collect()
}

fn expand_word(word: &str, env: &BTreeMap<String, String>) -> Result<String, Error> {
    let mut filled = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            filled.push('$');
            rest = tail;
            continue;
        }
        let (name, tail) = match after.strip_prefix('{') {
            Some(braced) => braced_name(word, braced)?,
            None => after.split_at(name_length(after)),
        };
        if name.is_empty() {
            filled.push('$');
        } else {
            filled.push_str(env.get(name).ok_or_else(|| unset(word, name, env))?);
        }
        rest = tail;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// How many bytes of `text` are a variable's name.
fn name_length(text: &str) -> usize {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// Splits `NAME}tail`.
fn braced_name<'a>(word: &str, braced: &'a str) -> Result<(&'a str, &'a str), Error> {
    let closed = braced.split_once('}');
    match closed {
        Some((name, tail)) if !name.is_empty() && name_length(name) == name.len() => {
            Ok((name, tail))
        }
        _ => Err(Error::VariableSyntax {
            item: word.to_owned(),
            found: closed.map_or_else(
                || format!("${{{braced}"),
                |(inside, _)| format!("${{{inside}}}"),
            ),
        }),
    }
}

fn unset(word: &str, name: &str, env: &BTreeMap<String, String>) -> Error {
    Error::Variable {
        item: word.to_owned(),
        variable: name.to_owned(),
        close: did_you_mean(name, env.keys().map(String::as_str)).map(str::to_owned),
    }
}

/// Makes sure that the program can be executed, so that its absence gets a good message.
///
/// # Errors
/// `app.missing_command` naming the program.
pub fn check_program(program: &str, path: Option<&str>, cwd: &Path) -> Result<(), Error> {
    let program_name = || program.to_owned();
    if program.contains('/') {
        return match cwd.join(program) {
            file if is_executable(&file) => Ok(()),
            file if file.exists() => Err(Error::CommandNotExecutable {
                program: program_name(),
            }),
            _ => Err(Error::CommandMissing {
                program: program_name(),
            }),
        };
    }
    let found = !program.is_empty()
        && path
            .unwrap_or(DEFAULT_PATH)
            .split(':')
            .any(|folder| is_executable(&cwd.join(folder).join(program)));
    if found {
        Ok(())
    } else {
        Err(Error::CommandMissing {
            program: program_name(),
        })
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};

    fn expanded(word: &str) -> Result<String, Error> {
        let env = [("MODEL", "/m x;rm"), ("EMPTY", ""), ("A1_b", "ab")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        expand_word(word, &env)
    }

    #[test]
    fn variables_are_filled_anywhere_in_a_word() {
        for (word, expected) in [
            ("plain", "plain"),
            ("$MODEL", "/m x;rm"),
            ("--path=$MODEL/sub", "--path=/m x;rm/sub"),
            ("${A1_b}c$A1_b", "abcab"),
            ("[$EMPTY]", "[]"),
            ("$$MODEL", "$MODEL"),
            ("cost: 5$", "cost: 5$"),
            ("$1 $(x) $-", "$1 $(x) $-"),
            ("é$A1_b é", "éab é"),
            ("$$$A1_b", "$ab"),
        ] {
            assert_eq!(expanded(word).unwrap(), expected, "{word}");
        }
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_closest_one() {
        let error = expanded("--m=$MODLE").unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.to_string().contains("`MODLE`"), "{error}");
        assert_eq!(error.hints()[0], "did you mean `$MODEL`?");
    }

    #[test]
    fn braces_hold_exactly_a_name() {
        for word in ["${", "${MODEL", "${}", "${MODEL:-x}", "${1}"] {
            let error = expanded(word).unwrap_err();
            assert!(
                matches!(error, Error::VariableSyntax { .. }),
                "{word}: {error}"
            );
        }
    }

    #[test]
    fn programs_are_found_on_path_or_by_path() {
        let scratch = tempfile::tempdir().unwrap();
        let cwd = scratch.path();
        std::fs::create_dir(cwd.join("bin")).unwrap();
        let tool = cwd.join("bin/tool");
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        let path = cwd.join("bin").display().to_string();
        let path = Some(path.as_str());
        assert!(matches!(
            check_program("./bin/tool", path, cwd),
            Err(Error::CommandNotExecutable { .. })
        ));
        assert!(check_program("tool", path, cwd).is_err());
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(check_program("tool", path, cwd).is_ok());
        assert!(check_program("bin/tool", path, cwd).is_ok());
        assert!(check_program(&tool.display().to_string(), None, cwd).is_ok());
        for missing in ["tols", "./no/tool", "bin", ""] {
            let error = check_program(missing, path, cwd).unwrap_err();
            assert_eq!(error.code(), Code::AppMissingCommand, "{missing}");
        }
    }
}
