//! What to do about an app that failed, as far as it can be told without the project.
//!
//! The command line knows more: it sees the files that the app was made of. Where there is nothing
//! of this place to say, the page of the code says it.

use super::explained;
use super::html::{Html, html};
use super::words;
use crate::error::Code;

const ADVICE: &[(Code, &str)] = &[
    (
        Code::AppExited,
        "The last lines of its log say why the process ended.",
    ),
    (
        Code::AppNotListening,
        "Let the app listen on the declared port: `env.get_port().port`, or the variable `$PORT`.",
    ),
    (
        Code::AppWrongPort,
        "Declare the port that the app uses (`port=...`), or let it listen on the declared one: \
         `env.get_port().port`, or the variable `$PORT`.",
    ),
    (
        Code::AppUnhealthy,
        "Ask the health path yourself at the endpoint; it has to answer with a status below 400.",
    ),
    (
        Code::AppMissingModule,
        "A package belongs into the image (`.with_pip_packages(...)`); a module of the project into \
         the bundle (`include=[...]`). `flyte bundle why PATH` tells why a file was left out.",
    ),
    (
        Code::AppMissingFile,
        "An app sees the files of its bundle only; name what it needs in `include=[...]`.",
    ),
    (
        Code::AppMissingCommand,
        "Add the package that brings the command: `.with_pip_packages(...)`.",
    ),
    (
        Code::AppOutOfMemory,
        "Declare more memory, `resources=flyte.Resources(memory=...)`, or take less.",
    ),
    (
        Code::LocalPort,
        "Another program listens on the app's port; end it, then start the app again.",
    ),
    (
        Code::ImageNeedsContainer,
        "Serve the app again, so that its environment is built on this machine.",
    ),
    (
        Code::RuntimeParameter,
        "Check the parameter's value; a file or folder has to be where it says.",
    ),
    (
        Code::RuntimeLoad,
        "The file that declares the app could not be imported in the replica; its log says why.",
    ),
];

/// Advice on a failure.
pub fn on(code: Code) -> Html {
    let known = ADVICE.iter().find(|(known, _)| *known == code);
    known.map_or_else(
        || explained::advice(code),
        |(_, advice)| html!("<p class=\"hint\"><b>Hint</b> {}</p>", words::prose(advice)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_advice_on_every_code() {
        for code in Code::ALL.iter().copied() {
            assert!(!on(code).is_empty(), "{code}");
        }
        assert!(on(Code::SecretNotFound).into_string().contains("<li>"));
    }
}
