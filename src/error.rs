//! What can go wrong, as a closed list.
//!
//! A [`Code`] is contract: stable text `area.reason` that scripts may match on. Its [`Family`]
//! alone decides the Python exception, the exit status of the command line and the HTTP status of
//! the gateway, each in one exhaustive match. Every module keeps its own `enum Error`; what they
//! share is [`Diagnostic`]: the code, the hints and whether trying again can help. Messages hold
//! facts and may change; hints hold advice and stand apart from the message.

use std::fmt;

/// Whether the same call may succeed when it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same input fails the same way.
    Never,
    /// Nothing was wrong with the request; a later try may succeed.
    Maybe,
    /// It was tried until the budget was spent.
    Exhausted,
}

/// Groups of codes that are told to the outside in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The caller's input or configuration is wrong.
    Config,
    /// A named thing does not exist.
    NotFound,
    /// The state of a thing does not permit the operation.
    Conflict,
    /// Credentials are missing, wrong or not sufficient.
    Auth,
    /// An image or a code bundle could not be made.
    Build,
    /// The user's app did not come up, or stopped.
    App,
    /// The control plane cannot be reached.
    Unavailable,
    /// A bounded wait ended.
    Timeout,
    /// A defect of ours.
    Internal,
}

impl Family {
    /// Name of the exception in `flyte.errors`.
    pub fn exception(self) -> &'static str {
        match self {
            Self::Config => "ConfigError",
            Self::NotFound => "NotFoundError",
            Self::Conflict => "ConflictError",
            Self::Auth => "AuthError",
            Self::Build => "BuildError",
            Self::App => "AppError",
            Self::Unavailable => "UnavailableError",
            Self::Timeout => "TimeoutError",
            Self::Internal => "InternalError",
        }
    }

    /// Exit status of the command line.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Config => 2,
            Self::NotFound
            | Self::Conflict
            | Self::Auth
            | Self::Build
            | Self::App
            | Self::Unavailable
            | Self::Timeout => 1,
            Self::Internal => 70,
        }
    }
}

macro_rules! codes {
    ($($variant:ident = $text:literal, $family:ident, $meaning:literal;)*) => {
        /// Stable name of a failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            /// All codes, in the order of the table in `ARCHITECTURE.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text, `area.reason`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The group that decides how the failure is told.
            pub fn family(self) -> Family {
                match self { $(Self::$variant => Family::$family,)* }
            }

            /// Name of the exception in `flyte.errors`: the family's, or a subclass of it.
            pub fn exception(self) -> &'static str {
                if self == Self::ConfigUnsupported {
                    "UnsupportedError"
                } else {
                    self.family().exception()
                }
            }

            /// The page that `flyte explain` prints, and the documentation shows. A code without a
            /// page does not compile.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!(
                        env!("CARGO_MANIFEST_DIR"), "/docs/errors/", $text, ".md"
                    )),)*
                }
            }

            /// The code of this text, if it is one.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }

            /// One line on what the code means.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    ConfigInvalid = "config.invalid", Config, "a setting, argument or file has a value that cannot be used";
    ConfigUnknownName = "config.unknown_name", Config, "an override names an app or a parameter that is not declared";
    ConfigUnsupported = "config.unsupported", Config, "what is asked for does not exist on this platform";
    GraphCycle = "graph.cycle", Config, "apps depend on each other in a circle";
    BundleEmpty = "bundle.empty", Build, "no file was found to bundle";
    BundleMissing = "bundle.include_missing", Config, "an `include` entry names nothing";
    BundleOutsideRoot = "bundle.outside_root", Config, "a file to bundle lies outside the root folder";
    BundleIo = "bundle.io", Build, "a file could not be read, packed or unpacked";
    BundleTooLarge = "bundle.too_large", Build, "the bundle holds more than replicas unpack";
    BundleUnpicklable = "bundle.unpicklable", Config, "an app that was made without a file uses something that cannot be pickled";
    BundleUnsafe = "bundle.unsafe", Build, "an archive holds entries that would leave its folder, or is larger than allowed";
    ImageInvalid = "image.invalid", Config, "an image declaration cannot be used";
    ImageNeedsContainer = "image.needs_container", Build, "a layer needs a container engine";
    ImageNoPython = "image.no_python", Build, "no Python interpreter fits the request";
    ImageBuildFailed = "image.build_failed", Build, "an installer ended with an error";
    ImagePullFailed = "image.pull_failed", Build, "a container image could not be fetched";
    EngineFailed = "engine.failed", Build, "the container engine refused or broke off what was asked of it";
    ImageRegistry = "image.registry", Unavailable, "a registry could not be reached, or did not do as asked";
    ImageDenied = "image.denied", Auth, "a registry does not know the caller, or the caller may not do this";
    ClientUnavailable = "client.unavailable", Unavailable, "the control plane does not answer";
    ClientUnauthenticated = "client.unauthenticated", Auth, "the control plane does not know the caller";
    ClientDenied = "client.denied", Auth, "the caller may not do this";
    ClientRejected = "client.rejected", Config, "the control plane refused the request";
    ClientConflict = "client.conflict", Conflict, "the app was changed by somebody else meanwhile";
    ClientUpload = "client.upload_failed", Unavailable, "the code bundle could not be sent";
    ClientProtocol = "client.protocol", Internal, "an answer could not be understood";
    LocalStart = "local.start_failed", Unavailable, "the local platform did not start";
    LocalStore = "local.store", Internal, "the local platform's database failed";
    LocalTrust = "local.trust", Unavailable, "the authority for TLS could not be made, or nothing could be made to trust it";
    LocalPort = "local.port_taken", Conflict, "an app's port is used by another program";
    AppNotFound = "app.not_found", NotFound, "there is no app of that name";
    AppExited = "app.exited", App, "the app's process ended before it served";
    AppNotListening = "app.not_listening", App, "the app runs but listens on no port";
    AppWrongPort = "app.wrong_port", App, "the app listens on another port than it declares";
    AppUnhealthy = "app.unhealthy", App, "the health path answers with an error";
    AppMissingModule = "app.missing_module", App, "the app imports a module that is not there";
    AppMissingFile = "app.missing_file", App, "the app opens a file that is not there";
    AppMissingCommand = "app.missing_command", App, "the app's command is not there";
    AppOutOfMemory = "app.out_of_memory", App, "the app took more memory than it declares";
    AppFailed = "app.failed", App, "the platform reports that the app failed";
    AppImportFailed = "app.import_failed", App, "the file that declares the app could not be imported";
    AppDeactivated = "app.deactivated", Conflict, "the app was deactivated while it was waited for";
    AppTimeout = "app.timeout", Timeout, "the app did not come up in the time given";
    AppStarting = "app.starting", Unavailable, "a request came while the app was not up yet";
    AppOverloaded = "app.overloaded", Unavailable, "the app has as many requests as it may";
    AppUnreachable = "app.unreachable", Unavailable, "the app took no connection for a request";
    AppBrokenOff = "app.broken_off", Unavailable, "the app ended the connection without a usable answer";
    AppResponseTimeout = "app.response_timeout", Timeout, "the app did not answer a request in the time given";
    AppBadRequest = "app.bad_request", Config, "a request cannot be passed on to the app";
    SecretNotFound = "secret.not_found", NotFound, "a secret that an app needs does not exist";
    SecretExists = "secret.exists", Conflict, "there is a secret of that name already";
    SecretStore = "secret.store", Unavailable, "the secrets of this machine cannot be read or written";
    RuntimeParameter = "runtime.parameter", App, "a parameter could not be made available to the app";
    RuntimeLoad = "runtime.load", App, "the app's environment could not be loaded";
    Internal = "internal", Internal, "a defect of ours";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What every module's error can say beyond its message.
pub trait Diagnostic: std::error::Error + Send + Sync + 'static {
    /// Stable name of this failure.
    fn code(&self) -> Code;

    /// What to try next, one sentence each; never a repetition of the message.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the same call may succeed later.
    fn retry(&self) -> Retry {
        Retry::Never
    }

    /// What the control plane knows the failed request by, if it took part.
    fn request_id(&self) -> Option<String> {
        None
    }

    /// Last lines of what a build or an app wrote, oldest first.
    fn log_tail(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The candidate closest to `given`, where one is close enough to be a slip of the hand.
pub fn did_you_mean<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(given, candidate), candidate))
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The message of an error followed by those of its sources, one line each.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        if !text.ends_with(&line) {
            text.push_str("\nCaused by: ");
            text.push_str(&line);
        }
        source = cause.source();
    }
    printable(text)
}

/// A message without what commands a terminal, or turns the direction of text: parts of it may be a
/// server's, and Python prints it as it is.
fn printable(mut text: String) -> String {
    text.retain(|c| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !turns && (!c.is_control() || c == '\n' || c == '\t')
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(
                code.as_str()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'),
                "{code}"
            );
        }
    }

    #[test]
    fn what_a_server_said_commands_no_terminal() {
        let error = std::io::Error::other("no\u{1b}]52;c;ZWNobw==\u{7} such\r\n\tapp\u{202e}");
        assert_eq!(with_causes(&error), "no]52;c;ZWNobw== such\n\tapp");
    }

    #[test]
    fn did_you_mean_finds_slips_and_nothing_else() {
        assert_eq!(
            did_you_mean("modle_path", ["model_path", "port"]),
            Some("model_path")
        );
        assert_eq!(did_you_mean("zzz", ["model_path", "port"]), None);
    }
}
