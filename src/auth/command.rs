//! A token from a program of the user's.

use std::process::Stdio;
use std::time::Duration;

use super::Error;
use crate::config::Secret;

/// How long the program may take; it may ask somebody something.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the program; what it prints is the token.
pub(super) async fn run(words: &[String]) -> Result<Secret, Error> {
    let [program, args @ ..] = words else {
        return Err(Error::NotAsked);
    };
    let failed = |reason: String| Error::Command {
        program: program.clone(),
        reason,
    };
    let child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = match ended {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = zeroize::Zeroizing::new(
        String::from_utf8(output.stdout).map_err(|_| failed("it printed no text".into()))?,
    );
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(failed("it printed no token, which is one word".into()));
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<Secret, Error> {
        run(&["sh", "-c", script].map(str::to_owned)).await
    }

    #[tokio::test]
    async fn a_token_is_one_word() {
        assert_eq!(shell("echo '  abc '").await.unwrap().reveal(), "abc");
        for (script, reason) in [
            ("exit 3", "exit status: 3"),
            ("true", "no token"),
            ("echo a b", "no token"),
        ] {
            let error = shell(script).await.unwrap_err().to_string();
            assert!(error.contains("`sh`") && error.contains(reason), "{error}");
        }
        let error = run(&["/no/such".to_owned()]).await.unwrap_err();
        assert!(error.to_string().contains("/no/such"));
    }
}
