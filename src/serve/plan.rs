//! What is to be done, checked in full before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Options, Request, Source};
use crate::config::{Endpoint, Settings};
use crate::error::{Code, Diagnostic, did_you_mean};
use crate::spec::{
    AppSpec, ImageSpec, Parameter, ParameterKind, ParameterValue, PodTemplate, PythonVersion,
};

/// Longest app name that the clusters accept.
const LONGEST_NAME: usize = 30;
/// Longest description that the clusters accept.
const LONGEST_DESCRIPTION: usize = 100;

/// Values given when serving, over those that were declared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overrides {
    pub project: Option<String>,
    pub domain: Option<String>,
    pub env_vars: Vec<(String, String)>,
    /// app -> parameter -> value
    pub parameters: BTreeMap<String, BTreeMap<String, ParameterValue>>,
    pub cluster_pool: Option<String>,
    pub cluster: Option<String>,
}

impl Overrides {
    /// The settings of the place that these lead to.
    pub fn place(&self, settings: &Settings) -> Settings {
        let mut there = settings.clone();
        for (meant, given) in [
            (&mut there.project, &self.project),
            (&mut there.domain, &self.domain),
        ] {
            if let Some(given) = given {
                meant.clone_from(given);
            }
        }
        there
    }
}

/// Why a request cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{argument}` names app `{app}`, which is not among the apps to serve: {known}")]
    UnknownApp {
        argument: &'static str,
        app: String,
        known: String,
        close: Option<String>,
    },
    #[error("app `{app}` has no parameter `{parameter}`; it declares {known}")]
    UnknownParameter {
        app: String,
        parameter: String,
        known: String,
        close: Option<String>,
    },
    #[error("apps depend on each other in a circle: {path}")]
    Cycle { path: String },
    #[error("two different apps are named `{name}`")]
    Duplicate { name: String },
    #[error("app `{app}` has nothing to run")]
    NothingToRun { app: String },
    #[error("parameter `{parameter}` of app `{app}` has no value")]
    NoValue { app: String, parameter: String },
    #[error("parameter `{parameter}` of app `{app}` is {kind}, which only a cluster can resolve")]
    ClusterOnly {
        app: String,
        parameter: String,
        kind: &'static str,
        /// A value that could stand there instead.
        instead: &'static str,
    },
    #[error(
        "parameter `{parameter}` of app `{app}` is {kind}, which flyte-rs does not look up: it serves apps only"
    )]
    NotLookedUp {
        app: String,
        parameter: String,
        kind: &'static str,
        instead: &'static str,
    },
    #[error(
        "parameter `{parameter}` of app `{app}` is `{path}`, a {kind} of this machine, which a cluster cannot read"
    )]
    OutOfReach {
        app: String,
        parameter: String,
        path: String,
        kind: &'static str,
    },
    #[error("parameter `{parameter}` is `{path}`, which cannot be read")]
    Unreadable {
        parameter: String,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("app name `{name}` has {length} characters; a cluster takes at most {LONGEST_NAME}")]
    NameTooLong { name: String, length: usize },
    #[error(
        "the description of app `{name}` has {length} characters; a cluster takes at most {LONGEST_DESCRIPTION}"
    )]
    DescriptionTooLong { name: String, length: usize },
    #[error("the pod template of app `{app}` cannot be used: {reason}")]
    Pod { app: String, reason: String },
    #[error("{setting} is not set")]
    Unset { setting: &'static str },
    #[error(
        "app `{app}` was made without a file, so it is pickled by Python {here}, but its image has Python {there}"
    )]
    PickledByOther {
        app: String,
        here: PythonVersion,
        there: PythonVersion,
    },
    #[error("app `{app}` was made without a file, so a replica can only get it pickled")]
    NotPickled { app: String },
    #[error("the app that was asked for is not among those planned")]
    NoTarget,
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::UnknownApp { .. } | Self::UnknownParameter { .. } => Code::ConfigUnknownName,
            Self::Cycle { .. } => Code::GraphCycle,
            Self::ClusterOnly { .. } | Self::NotLookedUp { .. } | Self::Pod { .. } => {
                Code::ConfigUnsupported
            }
            Self::Duplicate { .. }
            | Self::NothingToRun { .. }
            | Self::NoValue { .. }
            | Self::OutOfReach { .. }
            | Self::Unreadable { .. }
            | Self::NameTooLong { .. }
            | Self::DescriptionTooLong { .. }
            | Self::PickledByOther { .. }
            | Self::NotPickled { .. }
            | Self::Unset { .. } => Code::ConfigInvalid,
            Self::NoTarget => Code::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::UnknownApp { close, .. } | Self::UnknownParameter { close, .. } => close
                .iter()
                .map(|name| format!("did you mean `{name}`?"))
                .collect(),
            Self::NothingToRun { .. } => vec![
                "give it `args=[...]`, `command=[...]` or a function decorated with `@env.server`"
                    .into(),
            ],
            Self::NoValue { app, parameter } => vec![pass(app, parameter, "...")],
            Self::ClusterOnly {
                app,
                parameter,
                instead,
                ..
            }
            | Self::NotLookedUp {
                app,
                parameter,
                instead,
                ..
            } => vec![
                pass(app, parameter, instead),
                format!("or on the command line: `flyte serve --param {parameter}=VALUE`"),
            ],
            Self::OutOfReach { path, kind, .. } => {
                let class = if *kind == "file" { "File" } else { "Dir" };
                let path = path.trim_start_matches("file://");
                vec![
                    format!("send it with the app: {class}.from_local_sync(\"{path}\")"),
                    format!(
                        "what lies in the image is meant by its path alone: {class}(\"{path}\")"
                    ),
                ]
            }
            Self::Unset { setting } => vec![format!(
                "say `--{setting} NAME` or `flyte.init({setting}=...)`, or write `task.{setting}` into the configuration file"
            )],
            Self::PickledByOther { here, .. } => vec![format!(
                "give the image python_version=({}, {}), or put the app into a file",
                here.major, here.minor
            )],
            Self::NotPickled { .. } => {
                vec!["leave out `interactive_mode=False`, or put the app into a file".into()]
            }
            Self::Cycle { .. } => {
                vec!["take one of these apps out of the other's `depends_on`".into()]
            }
            Self::Duplicate { .. }
            | Self::Unreadable { .. }
            | Self::NameTooLong { .. }
            | Self::DescriptionTooLong { .. }
            | Self::Pod { .. }
            | Self::NoTarget => Vec::new(),
        }
    }
}

fn pass(app: &str, parameter: &str, value: &str) -> String {
    format!(
        "pass a value: with_servecontext(input_values={{\"{app}\": {{\"{parameter}\": {value}}}}})"
    )
}

/// A request after all checks: complete, ordered, overrides applied.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: String,
    pub org: String,
    pub project: String,
    pub domain: String,
    /// Apps that may start together; each wave needs only those before it.
    pub waves: Vec<Vec<AppSpec>>,
    pub source: Source,
    pub options: Options,
    pub local: bool,
}

impl Plan {
    /// Checks a request against the settings.
    pub fn make(settings: &Settings, request: Request) -> Result<Self, Error> {
        let Request {
            target,
            mut apps,
            source,
            options,
        } = request;
        check_overrides(&apps, &options.overrides)?;
        for app in &mut apps {
            apply(app, &options.overrides, &target);
        }
        let local = settings.endpoint == Endpoint::Local;
        for app in &apps {
            check_app(app, local)?;
        }
        let given = |value: &Option<String>, setting: &'static str, default: &str| {
            let value = value.clone().unwrap_or_else(|| default.to_owned());
            if value.is_empty() {
                return Err(Error::Unset { setting });
            }
            Ok(value)
        };
        Ok(Self {
            project: given(&options.overrides.project, "project", &settings.project)?,
            domain: given(&options.overrides.domain, "domain", &settings.domain)?,
            org: settings.org.clone(),
            waves: waves(apps)?,
            target,
            source,
            options,
            local,
        })
    }

    /// Refuses functions that no replica would find, and a pickle that another Python would read:
    /// its bytecode means something else there.
    pub fn check_pickles(&self, here: PythonVersion) -> Result<(), Error> {
        for app in self.apps().filter(|app| app.has_server) {
            if !self.pickles().any(|(name, _)| *name == app.name) {
                let is_typed = app.declared_in.is_none() && app.loader.is_none();
                if is_typed && app.command.is_none() {
                    let app = app.name.clone();
                    return Err(Error::NotPickled { app });
                }
                continue;
            }
            if let ImageSpec::Declared(image) = &app.image
                && image.python != here
            {
                return Err(Error::PickledByOther {
                    app: app.name.clone(),
                    here,
                    there: image.python,
                });
            }
        }
        Ok(())
    }

    /// Environments that travel pickled, by the name of the app.
    pub fn pickles(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.source
            .interactive
            .iter()
            .flat_map(|typed| &typed.pickles)
    }

    /// Which apps come up after which, where there is more than one.
    pub fn order(&self) -> Option<String> {
        let count = self.apps().count();
        let waves = self.waves.iter().map(|wave| {
            let names: Vec<String> = wave.iter().map(|app| format!("`{}`", app.name)).collect();
            names.join(" and ")
        });
        let order = waves.collect::<Vec<_>>().join(", then ");
        (count > 1).then(|| format!("{count} apps: {order}"))
    }

    /// All apps, dependencies first.
    pub fn apps(&self) -> impl Iterator<Item = &AppSpec> {
        self.waves.iter().flatten()
    }
}

fn check_overrides(apps: &[AppSpec], overrides: &Overrides) -> Result<(), Error> {
    for (app, values) in &overrides.parameters {
        let Some(spec) = apps.iter().find(|spec| spec.name == *app) else {
            let names = || apps.iter().map(|spec| spec.name.as_str());
            return Err(Error::UnknownApp {
                argument: "input_values",
                app: app.clone(),
                known: listed(names()),
                close: did_you_mean(app, names()).map(str::to_owned),
            });
        };
        for parameter in values.keys() {
            let names = || spec.parameters.iter().map(|known| known.name.as_str());
            if !names().any(|name| name == parameter) {
                return Err(Error::UnknownParameter {
                    app: app.clone(),
                    parameter: parameter.clone(),
                    known: listed(names()),
                    close: did_you_mean(parameter, names()).map(str::to_owned),
                });
            }
        }
    }
    Ok(())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn apply(app: &mut AppSpec, overrides: &Overrides, target: &str) {
    if let Some(values) = overrides.parameters.get(&app.name) {
        for parameter in &mut app.parameters {
            if let Some(value) = values.get(&parameter.name) {
                parameter.value = Some(value.clone());
            }
        }
    }
    if app.name != target {
        return;
    }
    for (key, value) in &overrides.env_vars {
        set(&mut app.env_vars, key, value);
    }
    if let Some(pool) = &overrides.cluster_pool {
        app.cluster_pool.clone_from(pool);
        app.cluster = None;
    }
    if let Some(cluster) = &overrides.cluster {
        app.cluster = Some(cluster.clone());
        app.cluster_pool.clear();
    }
}

/// Sets a variable, in its old place where it has one.
pub fn set(variables: &mut Vec<(String, String)>, key: &str, value: &str) {
    match variables.iter_mut().find(|(known, _)| known == key) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((key.to_owned(), value.to_owned())),
    }
}

fn check_app(app: &AppSpec, local: bool) -> Result<(), Error> {
    if app.command.is_none() && app.args.is_empty() && !app.has_server {
        return Err(Error::NothingToRun {
            app: app.name.clone(),
        });
    }
    if !local && app.name.chars().count() > LONGEST_NAME {
        return Err(Error::NameTooLong {
            length: app.name.chars().count(),
            name: app.name.clone(),
        });
    }
    let description = app.description.as_deref().unwrap_or_default();
    if !local && description.chars().count() > LONGEST_DESCRIPTION {
        return Err(Error::DescriptionTooLong {
            length: description.chars().count(),
            name: app.name.clone(),
        });
    }
    if let Some(template) = &app.pod {
        check_pod(app, template, local)?;
    }
    for parameter in &app.parameters {
        match &parameter.value {
            None => {
                return Err(Error::NoValue {
                    app: app.name.clone(),
                    parameter: parameter.name.clone(),
                });
            }
            Some(value @ ParameterValue::RunOutput(_)) => {
                return Err(elsewhere(
                    app,
                    parameter,
                    value,
                    "the output of a run",
                    local,
                ));
            }
            Some(value @ ParameterValue::Artifact(_)) => {
                return Err(elsewhere(app, parameter, value, "an artifact", local));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Refuses a value that lies with a run or an artifact, and says what may stand in its place.
fn elsewhere(
    app: &AppSpec,
    parameter: &Parameter,
    value: &ParameterValue,
    kind: &'static str,
    local: bool,
) -> Error {
    let instead = match parameter.kind.or_else(|| value.looked_up_as()) {
        Some(ParameterKind::File) | None => "File(\"s3://...\")",
        Some(ParameterKind::Directory) => "Dir(\"s3://...\")",
        Some(ParameterKind::String | ParameterKind::AppEndpoint) => "\"...\"",
    };
    let (app, parameter) = (app.name.clone(), parameter.name.clone());
    if local {
        Error::ClusterOnly {
            app,
            parameter,
            kind,
            instead,
        }
    } else {
        Error::NotLookedUp {
            app,
            parameter,
            kind,
            instead,
        }
    }
}

/// A template that cannot be used is not left out silently.
fn check_pod(app: &AppSpec, template: &PodTemplate, local: bool) -> Result<(), Error> {
    let refused = |reason| Error::Pod {
        app: app.name.clone(),
        reason,
    };
    if local {
        return Err(refused("the local platform has no pods".to_owned()));
    }
    let containers = template.spec.get("containers");
    let mut containers = containers
        .and_then(|list| list.as_array())
        .into_iter()
        .flatten();
    let own = template.primary_container.as_str();
    // A pod of no container gets one for the app.
    if containers.clone().count() > 0 && !containers.any(|container| container["name"] == own) {
        return Err(refused(format!("it has no container called `{own}`")));
    }
    Ok(())
}

/// Orders apps so that each stands behind all it depends on.
fn waves(apps: Vec<AppSpec>) -> Result<Vec<Vec<AppSpec>>, Error> {
    let mut names = BTreeSet::new();
    for app in &apps {
        if !names.insert(app.name.clone()) {
            return Err(Error::Duplicate {
                name: app.name.clone(),
            });
        }
    }
    let mut waves = Vec::new();
    let mut done = BTreeSet::new();
    let mut waiting = apps;
    while !waiting.is_empty() {
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|app| {
            app.depends_on
                .iter()
                .all(|name| done.contains(name) || !names.contains(name))
        });
        if ready.is_empty() {
            return Err(Error::Cycle {
                path: circle(&rest),
            });
        }
        done.extend(ready.iter().map(|app| app.name.clone()));
        waves.push(ready);
        waiting = rest;
    }
    Ok(waves)
}

/// One circle among apps that all wait for each other, as `a -> b -> a`.
fn circle(apps: &[AppSpec]) -> String {
    let next = |name: &str| {
        let app = apps.iter().find(|app| app.name == name)?;
        app.depends_on
            .iter()
            .find(|name| apps.iter().any(|app| app.name == **name))
            .cloned()
    };
    let mut path: Vec<String> = apps
        .first()
        .map(|app| app.name.clone())
        .into_iter()
        .collect();
    while let Some(name) = path.last().and_then(|last| next(last)) {
        if let Some(start) = path.iter().position(|known| *known == name) {
            path.drain(..start);
            path.push(name);
            break;
        }
        path.push(name);
    }
    path.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::image::{Base, Image};
    use crate::spec::{CopyStyle, Parameter, PortSpec, ResourceList, Scaling};

    fn app(name: &str, depends_on: &[&str]) -> AppSpec {
        AppSpec {
            name: name.into(),
            kind: None,
            description: None,
            image: ImageSpec::Uri("x".into()),
            port: PortSpec {
                number: 8080,
                name: String::new(),
            },
            args: vec!["run".into()],
            command: None,
            has_server: false,
            env_vars: vec![("A".into(), "1".into())],
            parameters: vec![Parameter {
                name: "model_path".into(),
                value: Some(ParameterValue::Text("old".into())),
                kind: None,
                env_var: None,
                download: true,
                mount: None,
                ignore_patterns: Vec::new(),
            }],
            secrets: Vec::new(),
            resources: ResourceList::default(),
            requires_auth: true,
            scaling: Scaling {
                min: 0,
                max: 1,
                metric: None,
                scaledown_after: None,
            },
            subdomain: None,
            custom_domain: None,
            links: Vec::new(),
            cluster_pool: "default".into(),
            cluster: None,
            request_timeout: None,
            service_account: None,
            pod: None,
            include: Vec::new(),
            declared_in: None,
            loader: None,
            depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn settings() -> Settings {
        Settings::resolve(&crate::config::Given {
            home: Some("/nonexistent".into()),
            config_path: None,
            ..Default::default()
        })
        .unwrap()
    }

    fn request(apps: Vec<AppSpec>, overrides: Overrides) -> Request {
        Request {
            target: apps[0].name.clone(),
            apps,
            source: Source {
                root: "/".into(),
                modules: Vec::new(),
                installed: Vec::new(),
                source_roots: Vec::new(),
                interactive: None,
            },
            options: Options {
                overrides,
                copy_style: CopyStyle::None,
                ..Options::default()
            },
        }
    }

    fn values(app: &str, parameter: &str) -> Overrides {
        Overrides {
            parameters: BTreeMap::from([(
                app.to_owned(),
                BTreeMap::from([(parameter.to_owned(), ParameterValue::Text("new".into()))]),
            )]),
            ..Overrides::default()
        }
    }

    #[test]
    fn dependencies_come_first() {
        let apps = vec![app("c", &["b", "a"]), app("b", &["a"]), app("a", &[])];
        let plan = Plan::make(&settings(), request(apps, Overrides::default())).unwrap();
        let order: Vec<&str> = plan.apps().map(|app| app.name.as_str()).collect();
        assert_eq!(order, ["a", "b", "c"]);
    }

    #[test]
    fn a_circle_is_named() {
        let apps = vec![app("x", &["a"]), app("a", &["b"]), app("b", &["a"])];
        let error = Plan::make(&settings(), request(apps, Overrides::default())).unwrap_err();
        assert_eq!(error.code(), Code::GraphCycle);
        assert!(error.to_string().ends_with("a -> b -> a"), "{error}");
    }

    #[test]
    fn misspelt_overrides_are_refused_with_the_right_name() {
        for (overrides, close) in [
            (values("wep", "model_path"), "did you mean `web`?"),
            (values("web", "modle_path"), "did you mean `model_path`?"),
        ] {
            let error =
                Plan::make(&settings(), request(vec![app("web", &[])], overrides)).unwrap_err();
            assert_eq!(error.code(), Code::ConfigUnknownName);
            assert_eq!(error.hints(), [close]);
        }
    }

    #[test]
    fn overrides_replace_values_of_their_app_only() {
        let overrides = Overrides {
            env_vars: vec![("A".into(), "2".into()), ("B".into(), "3".into())],
            ..values("web", "model_path")
        };
        let apps = vec![app("web", &["db"]), app("db", &[])];
        let plan = Plan::make(&settings(), request(apps, overrides)).unwrap();
        let apps: Vec<&AppSpec> = plan.apps().collect();
        assert_eq!(apps[0].env_vars, [("A".into(), "1".into())]);
        assert_eq!(
            apps[1].env_vars,
            [("A".into(), "2".into()), ("B".into(), "3".into())]
        );
        assert_eq!(
            apps[1].parameters[0].value,
            Some(ParameterValue::Text("new".into()))
        );
    }

    fn typed(pickles: &[&str], image: ImageSpec) -> Request {
        let mut app = app("web", &[]);
        app.has_server = true;
        app.image = image;
        let mut request = request(vec![app], Overrides::default());
        let pickles = pickles.iter().map(|name| ((*name).to_owned(), vec![0]));
        request.source.interactive = Some(crate::serve::Interactive {
            pickles: pickles.collect(),
            ..Default::default()
        });
        request
    }

    #[test]
    fn a_pickle_is_read_by_the_python_that_wrote_it_or_not_at_all() {
        let python = |minor| PythonVersion { major: 3, minor };
        let image = || {
            ImageSpec::Declared(Image {
                name: None,
                registry: None,
                base: Base::Debian {
                    install_flyte: true,
                },
                python: python(12),
                python_is_explicit: true,
                platforms: Vec::new(),
                layers: Vec::new(),
            })
        };
        let check = |request, here| {
            let plan = Plan::make(&settings(), request).unwrap();
            plan.check_pickles(here).map_err(|error| error.to_string())
        };
        assert_eq!(check(typed(&["web"], image()), python(12)), Ok(()));
        let error = check(typed(&["web"], image()), python(11)).unwrap_err();
        assert!(error.ends_with("pickled by Python 3.11, but its image has Python 3.12"));
        let error = check(typed(&[], image()), python(12)).unwrap_err();
        assert!(
            error.ends_with("a replica can only get it pickled"),
            "{error}"
        );
    }

    #[test]
    fn what_only_a_cluster_resolves_says_what_to_pass() {
        let mut web = app("web", &[]);
        web.parameters[0].value = Some(ParameterValue::RunOutput("{}".into()));
        let error = Plan::make(&settings(), request(vec![web], Overrides::default())).unwrap_err();
        assert_eq!(error.code(), Code::ConfigUnsupported);
        assert!(error.hints()[0].contains("\"web\": {\"model_path\""));
    }

    #[test]
    fn no_platform_is_sent_what_nobody_looks_up() {
        for (value, endpoint, text, instead) in [
            (
                ParameterValue::RunOutput(r#"{"type":"directory"}"#.into()),
                Endpoint::Remote("https://h".into()),
                "does not look up",
                "Dir(\"s3://...\")",
            ),
            (
                ParameterValue::RunOutput(r#"{"type":"string"}"#.into()),
                Endpoint::Local,
                "only a cluster",
                ": \"...\"}",
            ),
            (
                ParameterValue::Artifact(r#"{"name":"a","type":null}"#.into()),
                Endpoint::Remote("https://h".into()),
                "an artifact",
                "File(\"s3://...\")",
            ),
        ] {
            let mut settings = settings();
            settings.endpoint = endpoint;
            let mut web = app("web", &[]);
            web.parameters[0].value = Some(value);
            let error =
                Plan::make(&settings, request(vec![web], Overrides::default())).unwrap_err();
            assert_eq!(error.code(), Code::ConfigUnsupported);
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.hints()[0].contains(instead), "{:?}", error.hints());
        }
    }

    #[test]
    fn a_pod_template_is_not_left_out_silently() {
        let check = |local, spec| {
            let mut web = app("web", &[]);
            let template = PodTemplate {
                spec,
                primary_container: "app".into(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
            };
            web.pod = Some(template.clone());
            check_pod(&web, &template, local)
        };
        let empty = || serde_json::json!({});
        assert!(check(false, empty()).is_ok());
        let error = check(true, empty()).unwrap_err();
        assert_eq!(error.code(), Code::ConfigUnsupported);
        let other = serde_json::json!({"containers": [{"name": "other"}]});
        let error = check(false, other).unwrap_err().to_string();
        assert!(error.ends_with("no container called `app`"), "{error}");
    }
}
