//! What the user may type.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Given;
use crate::wire::app::status::DeploymentStatus;
use crate::wire::status;

/// Serve apps: on this machine, or on a Flyte 2 cluster.
#[derive(Debug, Parser)]
#[command(
    name = "flyte",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The heading of what every command takes.
pub const EVERYWHERE: &str = "Options of all commands";

#[derive(Debug, Args)]
#[command(next_help_heading = EVERYWHERE)]
pub struct Global {
    /// Configuration file; without one the local platform is used
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Control plane to use instead of the configured one
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// Use plain HTTP with an endpoint that names no scheme
    #[arg(long, global = true)]
    insecure: bool,
    /// Organization
    #[arg(long, global = true)]
    org: Option<String>,
    /// How one logs in at the endpoint
    #[arg(long, global = true, value_name = "TYPE")]
    auth_type: Option<String>,
    /// How images are built: `auto`, `environment`, `oci` or `docker`
    #[arg(long, global = true, value_name = "BUILDER", alias = "builder")]
    image_builder: Option<String>,
    /// Show whole tracebacks and the log of what is done; more of it when given twice or three times
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Form of the log of `-v`
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    /// Tell each step when it is over, in lines that do not move
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Form of what is printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t = Output::Table,
        alias = "output-format"
    )]
    pub output: Output,
}

impl Global {
    pub fn given(&self) -> Given {
        Given {
            config_path: self.config.clone(),
            endpoint: self.endpoint.clone(),
            insecure: self.insecure.then_some(true),
            org: self.org.clone(),
            auth_type: self.auth_type.clone(),
            image_builder: self.image_builder.clone(),
            ..Given::default()
        }
    }
}

impl Global {
    /// `LOG_FORMAT` is other programs' variable too, so a word that is not known here says nothing.
    pub fn log_format(&self) -> LogFormat {
        let named = || match std::env::var("LOG_FORMAT").as_deref() {
            Ok("json") => LogFormat::Json,
            Ok(_) | Err(_) => LogFormat::Console,
        };
        self.log_format.unwrap_or_else(named)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// Tables as they are: not cut to the terminal, and without colours
    TableSimple,
    /// One JSON document in one line
    JsonRaw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Console,
    /// One JSON document a line
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bundle, build, deploy and activate an app, and print where it answers
    Serve(Serve),
    /// Deploy an app as it is declared, without overrides
    Deploy(Deploy),
    /// Make the images of a file's apps, or of a folder's, where they are missing
    Build(Build),
    /// Create a secret, or write a configuration file
    Create(Create),
    /// Show apps, their logs, and secrets
    Get(Get),
    /// Activate or deactivate an app, or go back to an earlier revision
    Update(Update),
    /// Delete an app or a secret
    Delete(Delete),
    /// Show who the control plane takes you for
    Whoami,
    /// Log in at the control plane
    Login,
    /// Forget the login that is kept on this machine
    Logout,
    /// Show what a code bundle holds, and why
    Bundle(Bundle),
    /// Control the local platform
    Local(Local),
    /// Write a small app that works
    Init(Init),
    /// Look for what serving needs, and tell what is missing
    Doctor,
    /// Tell what a code of an error means, why it happens and what to do
    Explain(Explain),
    /// Print what makes a shell complete words
    Completion(Completion),
    /// What may stand at the end of these words; called by the shell
    #[command(name = "__complete", hide = true)]
    Complete(Words),
    /// The reference of all commands as Markdown
    #[command(name = "__reference", hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub struct Init {
    /// What the app is made with
    #[arg(value_enum, default_value_t = Template::Plain)]
    pub template: Template,
    /// Where to write it; made if need be
    #[arg(default_value = ".")]
    pub folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A FastAPI app
    Fastapi,
    /// A Streamlit page
    Streamlit,
    /// A Gradio demo
    Gradio,
    /// A Flask app
    Flask,
    /// Nothing but the standard library
    Plain,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The code, such as `app.wrong_port`; all codes are listed when left out
    pub code: Option<String>,
}

#[derive(Debug, Args)]
pub struct Completion {
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Words of a command line that is being typed, the unfinished one last.
#[derive(Debug, Args)]
pub struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Which project and domain.
#[derive(Clone, Debug, Default, Args)]
pub struct Scope {
    /// Project
    #[arg(short, long)]
    pub project: Option<String>,
    /// Domain
    #[arg(short, long)]
    pub domain: Option<String>,
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Serve {
    /// Python file that declares the app; may be left out where one file of the folder does
    pub file: Option<PathBuf>,
    /// Variable or name of the environment; may be left out when the file declares one
    pub environment: Option<String>,
    #[command(flatten)]
    pub scope: Scope,
    /// Version to record instead of one derived from the content
    #[arg(long)]
    pub version: Option<String>,
    /// Which files are bundled
    #[arg(long, value_parser = ["loaded_modules", "all", "none", "custom"])]
    pub copy_style: Option<String>,
    /// Folder that the names in the bundle are relative to
    #[arg(long, value_name = "FOLDER")]
    pub root_dir: Option<PathBuf>,
    /// Name of the app instead of the environment's
    #[arg(long)]
    pub name: Option<String>,
    /// Kubernetes service account
    #[arg(long)]
    pub service_account: Option<String>,
    /// Show what the app writes until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Image for a name that the environment refers to
    #[arg(long, value_name = "NAME=URI")]
    pub image: Vec<String>,
    /// Environment variable of the app
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env_var: Vec<String>,
    /// Value of a parameter of the app
    #[arg(long, value_name = "NAME=VALUE", alias = "input")]
    pub param: Vec<String>,
    /// Port that the app listens on, instead of the declared one
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..).try_map(not_reserved)
    )]
    pub port: Option<u16>,
    /// Cluster pool to run on
    #[arg(long)]
    pub cluster_pool: Option<String>,
    /// Path that must answer before the app counts as up
    #[arg(long, value_name = "PATH")]
    pub health_check_path: Option<String>,
    /// Seconds to wait for the app
    #[arg(long, value_name = "SECONDS")]
    pub activate_timeout: Option<u64>,
    /// Use the local platform whatever is configured
    #[arg(long)]
    pub local: bool,
    /// Serve again whenever a bundled file changes, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Show what would be done and do nothing
    #[arg(long, alias = "dryrun", conflicts_with = "watch")]
    pub dry_run: bool,
    /// Do not make folders of `sys.path` below the root importable in the app
    #[arg(long)]
    pub no_sync_local_sys_paths: bool,
}

/// The ports that platforms use themselves, as `flyte.app.Port` has them.
const RESERVED_PORTS: [u16; 5] = [8012, 8022, 8112, 9090, 9091];

fn not_reserved(port: u16) -> Result<u16, String> {
    if RESERVED_PORTS.contains(&port) {
        let reserved = RESERVED_PORTS.map(|port| port.to_string()).join(", ");
        return Err(format!(
            "port {port} is not allowed; the platform reserves {reserved}"
        ));
    }
    Ok(port)
}

/// What `serve` takes, of which `help` hides what would make the app another one, and which files.
#[derive(Debug, Args)]
pub struct Deploy {
    #[command(flatten)]
    pub serve: Serve,
    /// All environments of the file, or of the files right in the folder
    #[arg(long, conflicts_with = "environment")]
    pub all: bool,
    #[command(flatten)]
    pub search: Search,
}

/// Which files of a folder.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Search {
    /// All environments of the files in the folder and in those below it
    #[arg(short, long, conflicts_with = "environment")]
    pub recursive: bool,
    /// Go on with the other files where one cannot be imported
    #[arg(short, long)]
    pub ignore_load_errors: bool,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(subcommand)]
    pub what: CreateWhat,
}

#[derive(Debug, Subcommand)]
pub enum CreateWhat {
    /// Write a configuration file of what the options say
    Config {
        /// Where to write it
        #[arg(long, value_name = "FILE", default_value = ".flyte/config.yaml")]
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
        /// Certificates of an authority of your own, as PEM
        #[arg(long, value_name = "FILE")]
        ca_cert_file: Option<String>,
        /// Where images are pushed to
        #[arg(long, value_name = "REGISTRY")]
        registry: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Keep a secret for apps; its value is asked for, or read from standard input
    Secret {
        /// Name of the secret: the `key` of `flyte.Secret`, or `group_key`
        name: String,
        /// Read the value from a file, as it is
        #[arg(long, value_name = "FILE", group = "from")]
        from_file: Option<PathBuf>,
        /// Read the value from an environment variable
        #[arg(long, value_name = "VARIABLE", group = "from")]
        from_env: Option<String>,
        /// The value itself, which other users of this machine can see in the list of processes
        #[arg(long, group = "from")]
        value: Option<String>,
        /// What it is for
        #[arg(long = "type", value_enum, default_value_t = SecretKind::Regular)]
        kind: SecretKind,
        /// Replace the value of a secret that exists
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecretKind {
    /// For apps
    Regular,
    /// For pulling images
    #[value(name = "image_pull")]
    ImagePull,
}

#[derive(Debug, Args)]
pub struct Get {
    #[command(subcommand)]
    pub what: GetWhat,
}

#[derive(Debug, Subcommand)]
pub enum GetWhat {
    /// One app, or all of them
    App {
        /// Name of the app
        name: Option<String>,
        /// Show the app's revisions, newest first
        #[arg(long, requires = "name", conflicts_with_all = ["status", "only_mine", "limit"])]
        revisions: bool,
        /// Only apps in this state
        #[arg(long, value_name = "STATE", value_parser = state)]
        status: Option<DeploymentStatus>,
        /// Only apps that you created
        #[arg(long)]
        only_mine: bool,
        /// Most apps to show
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        scope: Scope,
    },
    /// The settings in force, and where each comes from
    Config {
        #[command(flatten)]
        scope: Scope,
    },
    /// One secret, or all of them; never their values
    Secret {
        /// Name of the secret
        name: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// What an app writes
    Logs {
        /// Name of the app
        name: String,
        /// Go on until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(
            short = 'n',
            long,
            alias = "lines",
            short_alias = 'l',
            value_name = "N"
        )]
        tail: Option<usize>,
        /// Show the last lines, 30 unless told otherwise, in a box that goes on until Ctrl-C
        #[arg(long)]
        pretty: bool,
        /// Leave out what the platform wrote, and not the app
        #[arg(long)]
        filter_system: bool,
        /// Show when each line was written
        #[arg(long)]
        show_ts: bool,
        #[command(flatten)]
        scope: Scope,
    },
}

fn state(name: &str) -> Result<DeploymentStatus, String> {
    status::state_named(name).ok_or_else(|| {
        let known: Vec<String> = status::state_names().collect();
        format!("it is one of {}", known.join(", "))
    })
}

#[derive(Debug, Args)]
pub struct Update {
    #[command(subcommand)]
    pub what: UpdateWhat,
}

#[derive(Debug, Subcommand)]
pub enum UpdateWhat {
    /// Activate or deactivate an app, or go back to an earlier revision of it
    #[command(group = clap::ArgGroup::new("change").required(true))]
    App {
        /// Name of the app
        name: String,
        /// Let it run
        #[arg(long, group = "change")]
        activate: bool,
        /// Put it to rest
        #[arg(long, group = "change")]
        deactivate: bool,
        /// Serve again what an earlier revision was; without a number, the one before
        #[arg(long, group = "change", value_name = "REVISION", num_args = 0..=1)]
        rollback: Option<Option<u64>>,
        /// Wait until it has happened
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Args)]
pub struct Delete {
    #[command(subcommand)]
    pub what: DeleteWhat,
}

#[derive(Debug, Subcommand)]
pub enum DeleteWhat {
    /// Delete an app with its revisions and logs
    App {
        /// Name of the app
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Delete a secret; apps that run keep what they were given
    Secret {
        /// Name of the secret
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Args)]
pub struct Build {
    /// Python file that declares the apps, or a folder of such files; may be left out where one
    /// file of the folder does
    pub file: Option<PathBuf>,
    /// Variable or name of one environment, which is built with all it depends on; all of the
    /// file when left out
    pub environment: Option<String>,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub choice: Choice,
    /// Build even what is there, and resolve the versions of packages again
    #[arg(long)]
    pub force: bool,
    /// Tell what is there and what is missing; build nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Image for a name that an environment refers to
    #[arg(long, value_name = "NAME=URI")]
    pub image: Vec<String>,
    /// Write the images to a folder, in the layout of the OCI; without an engine
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run")]
    pub layout: Option<PathBuf>,
    /// All environments of the file or the folder, which is what happens without a name
    #[arg(long, hide = true, conflicts_with = "environment")]
    pub all: bool,
    #[command(flatten)]
    pub search: Search,
}

#[derive(Debug, Args)]
pub struct Bundle {
    #[command(subcommand)]
    pub what: BundleWhat,
}

#[derive(Debug, Subcommand)]
pub enum BundleWhat {
    /// List the files that serving an app would send
    Ls {
        /// Python file that declares the app; may be left out where one file of the folder does
        file: Option<PathBuf>,
        /// Variable or name of the environment; may be left out when the file declares one
        environment: Option<String>,
        #[command(flatten)]
        choice: Choice,
    },
    /// Tell which rule takes a file into the bundle or leaves it out
    Why {
        /// File or folder to explain
        path: PathBuf,
        /// Python file that declares the app; without one, the rules of copy style `all` are
        /// explained, from the working directory
        file: Option<PathBuf>,
        /// Variable or name of the environment; may be left out when the file declares one
        environment: Option<String>,
        #[command(flatten)]
        choice: Choice,
    },
}

/// How the files of a bundle are chosen.
#[derive(Clone, Debug, Default, Args)]
pub struct Choice {
    /// Which files are bundled
    #[arg(long, value_parser = ["loaded_modules", "all", "none", "custom"])]
    pub copy_style: Option<String>,
    /// Folder that the names in the bundle are relative to
    #[arg(long, value_name = "FOLDER")]
    pub root_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Local {
    #[command(subcommand)]
    pub what: LocalWhat,
}

#[derive(Clone, Debug, Subcommand)]
pub enum LocalWhat {
    /// Start the platform, and with it every app that is active
    Start {
        /// Serve other Flyte clients at this address too, until `off` or until the platform is
        /// stopped; whoever reaches it can run code as you
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<String>,
        /// Let that be an address which other machines reach
        #[arg(long, requires = "listen")]
        allow_remote: bool,
    },
    /// End the platform and its apps; they come back when it starts
    Stop,
    /// Show the platform's process and its apps
    Status,
    /// Show the platform's own log
    Logs {
        /// Only the last lines
        #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
        tail: usize,
    },
    /// Let apps answer over TLS too, and make this machine's programs trust them
    Trust {
        /// Vouch for this domain of an app, and names below it, too
        #[arg(long, value_name = "NAME")]
        domain: Vec<String>,
        /// Only in browsers, which takes no rights of root
        #[arg(long, conflicts_with = "remove")]
        browsers: bool,
        /// Only print where the certificate is; nothing is made to trust it
        #[arg(long, conflicts_with_all = ["remove", "browsers"])]
        print: bool,
        /// Undo it, and delete the key
        #[arg(long, conflicts_with = "domain")]
        remove: bool,
    },
    /// Remove what nobody uses any more; the platform does so by itself when it becomes too much
    Prune {
        /// Only show what would go
        #[arg(long)]
        dry_run: bool,
        /// All that is not in use, whatever `local.prune_max_size` and `local.prune_unused_days` say
        #[arg(long)]
        all: bool,
    },
    /// Delete all apps, environments and bundles of this machine
    Reset {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn output_may_stand_anywhere() {
        for words in [
            ["flyte", "--output", "json", "local", "status"],
            ["flyte", "local", "status", "--output", "json"],
            ["flyte", "local", "status", "-o", "json"],
        ] {
            let arguments = Arguments::try_parse_from(words).unwrap();
            assert_eq!(arguments.global.output, Output::Json);
        }
    }

    #[test]
    fn a_port_is_one_that_an_app_may_declare() {
        let parse = |port| Arguments::try_parse_from(["flyte", "serve", "app.py", "--port", port]);
        assert!(parse("9000").is_ok());
        assert!(parse("0").is_err());
        let error = parse("9090").unwrap_err().to_string();
        let told = "port 9090 is not allowed; the platform reserves 8012, 8022, 8112, 9090, 9091";
        assert!(error.contains(told), "{error}");
    }
}
