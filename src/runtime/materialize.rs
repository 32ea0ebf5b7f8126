//! Turns parameters as they travel into values that the app can use.
//!
//! First everything is decided (what is a value, what is copied, and where to), so that two
//! parameters that would fight over one path are found before a byte is written; then all of it
//! happens at once. Learns addresses of other apps through [`EndpointLookup`], since this module
//! knows no control plane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::{Map, Value};

use super::Error;
use super::payload::{EndpointValue, ScalarKind, SerializedParameter, WireType};
use super::place::{Ignored, Target};
use super::stores::Stores;
use crate::storage::{self, Location, percent_decoded};

/// Folder for copies that have no `mount`: one folder per parameter, so equal names never meet.
const UNMOUNTED: &str = "flyte-parameters";

/// Finds the address of an app.
pub trait EndpointLookup: Sync {
    /// # Errors
    /// Why the address is not known, in words.
    fn endpoint(&self, app_name: &str, public: bool) -> Result<String, String>;
}

/// Where the values are put, and who is asked for addresses.
pub struct Site<'a> {
    /// Relative sources and mounts start here.
    pub cwd: &'a Path,
    /// Folder of the code bundle, absolute.
    pub dest: &'a Path,
    /// An address with `{app_fqdn}` where the app's name goes.
    pub endpoint_pattern: Option<&'a str>,
    /// The same for public addresses.
    pub public_pattern: Option<&'a str>,
    pub lookup: &'a dyn EndpointLookup,
    pub stores: &'a Stores,
    /// Files that never change and that other apps see too.
    pub shared: Option<&'a Path>,
}

impl Site<'_> {
    fn target<'a>(&'a self, name: &'a str, path: &'a Path) -> Target<'a> {
        Target {
            name,
            path,
            shared: self.shared,
        }
    }
}

/// All values, ready to be handed to the app.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Materialized {
    pub json: Map<String, Value>,
    /// In declaration order; a later duplicate wins when they are set in turn.
    pub env: Vec<(String, String)>,
    /// How a function of the app is given the value: as text, `File` or `Dir`.
    pub kinds: BTreeMap<String, WireType>,
}

/// Makes every parameter available.
///
/// # Errors
/// `runtime.parameter` naming the parameter: its source is missing, of the wrong kind or out of
/// reach, its target cannot be written, or an app's address is not known.
pub fn materialize(
    parameters: &[SerializedParameter],
    site: &Site<'_>,
) -> Result<Materialized, Error> {
    let plans = parameters
        .iter()
        .map(|parameter| plan(parameter, site))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_shared_files(parameters, &plans)?;
    let mut values = BTreeMap::new();
    let steps = steps(&plans);
    for step in 0..=steps.iter().copied().max().unwrap_or(0) {
        let now = (0..plans.len()).filter(|number| steps[*number] == step);
        let jobs: Vec<_> = now.map(|n| (n, &parameters[n], &plans[n])).collect();
        values.extend(at_once(&jobs, site)?);
    }
    let mut all = Materialized::default();
    for (parameter, value) in parameters.iter().zip(values.into_values()) {
        if let Some(variable) = &parameter.env_var {
            let text = value.as_str().unwrap_or(&parameter.value).to_owned();
            all.env.push((variable.clone(), text));
        }
        let kind = match parameter.wire_type {
            WireType::AppEndpoint => WireType::String,
            kind @ (WireType::String | WireType::File | WireType::Directory) => kind,
        };
        all.kinds.insert(parameter.name.clone(), kind);
        all.json.insert(parameter.name.clone(), value);
    }
    Ok(all)
}

/// Carries plans out at the same time. The first that fails ends the others, so that nobody waits an
/// hour to hear of a misspelled name.
fn at_once(
    jobs: &[(usize, &SerializedParameter, &Plan)],
    site: &Site<'_>,
) -> Result<Vec<(usize, Value)>, Error> {
    let failure = Mutex::new(None);
    let fail = |error| {
        let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
            site.stores.stop();
        }
    };
    let run = |(number, parameter, plan): (usize, &SerializedParameter, &Plan)| {
        let done = carry_out(parameter, plan, site).map_err(fail).ok();
        done.map(|value| (number, value))
    };
    let values = thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = jobs
            .iter()
            .map(|job| scope.spawn(move || run(*job)))
            .collect();
        running
            .into_iter()
            .filter_map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(values),
    }
}

/// When each plan is carried out. What goes into a folder that another plan makes comes after it:
/// folders in the order in which they are declared, files last, since a file was named in full.
fn steps(plans: &[Plan]) -> Vec<usize> {
    let mut steps = vec![0; plans.len()];
    let folders = (0..plans.len()).filter(|n| matches!(plans[*n], Plan::Directory { .. }));
    let files = (0..plans.len()).filter(|n| matches!(plans[*n], Plan::File { .. }));
    let mut before: Vec<(usize, &Path)> = Vec::new();
    for number in folders.chain(files) {
        let (Plan::Directory { target, .. } | Plan::File { target, .. }) = &plans[number] else {
            continue;
        };
        let meets = |other: &Path| other.starts_with(target) || target.starts_with(other);
        let last = before.iter().filter(|(_, other)| meets(other));
        steps[number] = last
            .map(|(earlier, _)| steps[*earlier] + 1)
            .max()
            .unwrap_or(0);
        before.push((number, target));
    }
    steps
}

#[derive(Debug, PartialEq)]
enum Plan {
    Keep(Value),
    File { source: Source, target: PathBuf },
    Directory { source: Source, target: PathBuf },
    FindEndpoint { app_name: String, public: bool },
}

/// Where something is before it is in place.
#[derive(Debug, PartialEq)]
enum Source {
    Here(PathBuf),
    Elsewhere(String),
}

fn plan(parameter: &SerializedParameter, site: &Site<'_>) -> Result<Plan, Error> {
    match parameter.wire_type {
        WireType::String => scalar(parameter).map(Plan::Keep),
        WireType::AppEndpoint => endpoint(parameter),
        WireType::File | WireType::Directory if !parameter.download => {
            Ok(Plan::Keep(Value::String(parameter.value.clone())))
        }
        WireType::File | WireType::Directory => plan_copy(parameter, site),
    }
}

fn scalar(parameter: &SerializedParameter) -> Result<Value, Error> {
    let text = parameter.value.as_str();
    let (value, kind) = match parameter.kind {
        None => (Some(Value::from(text)), "string"),
        Some(ScalarKind::Int) => (text.parse::<i64>().ok().map(Value::from), "integer"),
        Some(ScalarKind::Float) => {
            let number = text
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64);
            (number.map(Value::Number), "number")
        }
        Some(ScalarKind::Bool) => (text.parse::<bool>().ok().map(Value::Bool), "boolean"),
    };
    value.ok_or_else(|| malformed(parameter, kind))
}

fn endpoint(parameter: &SerializedParameter) -> Result<Plan, Error> {
    serde_json::from_str::<EndpointValue>(&parameter.value)
        .map(|value| Plan::FindEndpoint {
            app_name: value.app_name,
            public: value.public,
        })
        .map_err(|_| malformed(parameter, "app endpoint"))
}

fn malformed(parameter: &SerializedParameter, kind: &'static str) -> Error {
    Error::Malformed {
        name: parameter.name.clone(),
        value: parameter.value.clone(),
        kind,
    }
}

fn plan_copy(parameter: &SerializedParameter, site: &Site<'_>) -> Result<Plan, Error> {
    let is_directory = parameter.wire_type == WireType::Directory;
    let Some(path) = local_path(&parameter.value) else {
        let location = Location::parse(&parameter.value);
        let name = location
            .map_err(|source| not_fetched(parameter, source))?
            .name();
        let source = Source::Elsewhere(parameter.value.clone());
        let target = target(parameter, site, Path::new(&name));
        return Ok(Plan::put(is_directory, source, target));
    };
    let path = tidy(&site.cwd.join(path));
    check_kind(parameter, &path)?;
    let is_mounted = parameter
        .dest
        .as_deref()
        .is_some_and(|mount| !mount.is_empty());
    let is_shared = site.shared.is_some_and(|shared| path.starts_with(shared));
    if !is_mounted && !is_shared && (!is_directory || parameter.ignore_patterns.is_empty()) {
        // The source is as good as a copy of it; what others are given too is not.
        return Ok(Plan::Keep(path_value(&path)));
    }
    let target = target(parameter, site, base_name(&path));
    Ok(Plan::put(is_directory, Source::Here(path), target))
}

impl Plan {
    fn put(is_directory: bool, source: Source, target: PathBuf) -> Self {
        if is_directory {
            Self::Directory { source, target }
        } else {
            Self::File { source, target }
        }
    }
}

fn not_fetched(parameter: &SerializedParameter, source: storage::Error) -> Error {
    Error::Fetch {
        name: parameter.name.clone(),
        source,
    }
}

/// A file must be there as a file, a folder as a folder.
fn check_kind(parameter: &SerializedParameter, source: &Path) -> Result<(), Error> {
    let (name, value) = (parameter.name.clone(), parameter.value.clone());
    if !source.exists() {
        return Err(Error::SourceMissing { name, value });
    }
    let wants_directory = parameter.wire_type == WireType::Directory;
    if source.is_dir() == wants_directory {
        return Ok(());
    }
    Err(Error::SourceKind {
        name,
        value,
        found: if wants_directory {
            "a file"
        } else {
            "a folder"
        },
        declared: if wants_directory { "folder" } else { "file" },
    })
}

fn target(parameter: &SerializedParameter, site: &Site<'_>, name: &Path) -> PathBuf {
    match parameter.dest.as_deref().filter(|mount| !mount.is_empty()) {
        None => own_folder(site.dest, &parameter.name).join(name),
        Some(mount) if parameter.wire_type == WireType::Directory => tidy(&site.cwd.join(mount)),
        Some(mount) => file_target(site.cwd, mount, name),
    }
}

/// A trailing `/` or an existing folder means "into it", anything else is the file's new name.
fn file_target(cwd: &Path, mount: &str, name: &Path) -> PathBuf {
    let path = tidy(&cwd.join(mount));
    if mount.ends_with('/') || path.is_dir() {
        path.join(name)
    } else {
        path
    }
}

/// The same path without `.` and trailing or double slashes.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

fn base_name(path: &Path) -> &Path {
    path.file_name().map_or(Path::new("root"), Path::new)
}

/// Characters that could leave the folder or meet another name are written as `%XX`.
fn own_folder(dest: &Path, name: &str) -> PathBuf {
    use std::fmt::Write;
    let mut folder = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            folder.push(char::from(byte));
        } else {
            let _ = write!(folder, "%{byte:02X}");
        }
    }
    dest.join(UNMOUNTED).join(folder)
}

fn path_value(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

/// The path that a plain path or `file://` URL means; `None` for what lies elsewhere.
pub(super) fn local_path(value: &str) -> Option<PathBuf> {
    let Some((scheme, rest)) = value.split_once("://") else {
        return Some(PathBuf::from(value));
    };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !is_scheme {
        return Some(PathBuf::from(value));
    }
    if !scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let rest = rest
        .strip_prefix("localhost/")
        .map_or(rest.to_owned(), |path| format!("/{path}"));
    // Some writers escape (`Path.as_uri`), others do not (fsspec): what is there decides.
    let literal = PathBuf::from(&rest);
    match percent_decoded(&rest).map(PathBuf::from) {
        Some(decoded) if !literal.exists() && decoded.exists() => Some(decoded),
        _ => Some(literal),
    }
}

fn refuse_shared_files(parameters: &[SerializedParameter], plans: &[Plan]) -> Result<(), Error> {
    let mut taken: BTreeMap<&Path, &str> = BTreeMap::new();
    for (parameter, plan) in parameters.iter().zip(plans) {
        let target = match plan {
            Plan::File { target, .. } => target,
            // Folders may be laid over each other: contents are merged.
            Plan::Directory { .. } | Plan::Keep(_) | Plan::FindEndpoint { .. } => continue,
        };
        if let Some(first) = taken.insert(target, &parameter.name) {
            return Err(Error::SameTarget {
                first: first.to_owned(),
                second: parameter.name.clone(),
                path: target.clone(),
            });
        }
    }
    Ok(())
}

fn carry_out(
    parameter: &SerializedParameter,
    plan: &Plan,
    site: &Site<'_>,
) -> Result<Value, Error> {
    let name = parameter.name.as_str();
    match plan {
        Plan::Keep(value) => Ok(value.clone()),
        Plan::File { source, target } => {
            let place = site.target(name, target);
            match source {
                Source::Here(source) => place.file(source)?,
                Source::Elsewhere(url) => place.made_file(|path| {
                    let fetched = site.stores.get().and_then(|all| all.file(name, url, path));
                    fetched.map_err(|source| not_fetched(parameter, source))
                })?,
            }
            Ok(path_value(target))
        }
        Plan::Directory { source, target } => {
            let place = site.target(name, target);
            let ignored = Ignored::new(name, &parameter.ignore_patterns)?;
            match source {
                Source::Here(source) => place.directory(source, &ignored)?,
                Source::Elsewhere(url) => place.made_directory(|folder| {
                    let wanted = |relative: &str| !ignored.covers(Path::new(relative));
                    let storage = site.stores.get();
                    let fetched = storage.and_then(|all| all.folder(name, url, folder, &wanted));
                    fetched.map_err(|source| not_fetched(parameter, source))
                })?,
            }
            Ok(path_value(target))
        }
        Plan::FindEndpoint { app_name, public } => find_endpoint(name, app_name, *public, site),
    }
}

fn find_endpoint(
    name: &str,
    app_name: &str,
    public: bool,
    site: &Site<'_>,
) -> Result<Value, Error> {
    let pattern = if public {
        site.public_pattern
    } else {
        site.endpoint_pattern
    };
    if let Some(pattern) = pattern {
        return Ok(Value::String(pattern.replace("{app_fqdn}", app_name)));
    }
    site.lookup
        .endpoint(app_name, public)
        .map(Value::String)
        .map_err(|reason| Error::Endpoint {
            name: name.to_owned(),
            app: app_name.to_owned(),
            reason,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};
    use serde_json::json;
    use std::fs;

    struct Book;
    impl EndpointLookup for Book {
        fn endpoint(&self, app_name: &str, public: bool) -> Result<String, String> {
            match (app_name, public) {
                ("gone", _) => Err("there is no such app".to_owned()),
                (_, true) => Ok(format!("https://{app_name}.example.org")),
                (_, false) => Ok(format!("http://{app_name}.local")),
            }
        }
    }

    struct Scene {
        folder: tempfile::TempDir,
        pattern: Option<String>,
        public_pattern: Option<String>,
        shared: Option<PathBuf>,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("cwd")).unwrap();
            fs::create_dir_all(folder.path().join("data/sub")).unwrap();
            fs::write(folder.path().join("data/sub/x.txt"), "x").unwrap();
            fs::write(folder.path().join("data/y.log"), "y").unwrap();
            fs::write(folder.path().join("model.bin"), "m").unwrap();
            Self {
                folder,
                pattern: None,
                public_pattern: None,
                shared: None,
            }
        }

        fn path(&self, relative: &str) -> String {
            self.folder.path().join(relative).display().to_string()
        }

        fn run(&self, parameters: &[SerializedParameter]) -> Result<Materialized, Error> {
            let cwd = self.folder.path().join("cwd");
            let site = Site {
                cwd: &cwd,
                dest: &cwd,
                endpoint_pattern: self.pattern.as_deref(),
                public_pattern: self.public_pattern.as_deref(),
                lookup: &Book,
                stores: &Stores::of(&BTreeMap::new(), &(std::sync::Arc::new(|_: &str| {}) as _)),
                shared: self.shared.as_deref(),
            };
            materialize(parameters, &site)
        }

        fn value(&self, parameter: SerializedParameter) -> Value {
            self.run(&[parameter]).unwrap().json["p"].clone()
        }
    }

    fn parameter(wire_type: WireType, value: impl Into<String>) -> SerializedParameter {
        SerializedParameter {
            name: "p".to_owned(),
            value: value.into(),
            download: matches!(wire_type, WireType::File | WireType::Directory),
            wire_type,
            env_var: None,
            dest: None,
            ignore_patterns: Vec::new(),
            kind: None,
        }
    }

    fn mounted(wire_type: WireType, value: String, mount: &str) -> SerializedParameter {
        let mut parameter = parameter(wire_type, value);
        parameter.dest = Some(mount.to_owned());
        parameter
    }

    #[test]
    fn scalars_arrive_typed_in_json_and_as_text_in_the_environment() {
        let cases = [
            ("7", Some(ScalarKind::Int), json!(7)),
            ("0.5", Some(ScalarKind::Float), json!(0.5)),
            ("true", Some(ScalarKind::Bool), json!(true)),
            ("7", None, json!("7")),
        ];
        for (text, kind, expected) in cases {
            let mut sent = parameter(WireType::String, text);
            sent.kind = kind;
            sent.env_var = Some("P".to_owned());
            let all = Scene::new().run(&[sent]).unwrap();
            assert_eq!(all.json["p"], expected);
            assert_eq!(all.env, [("P".to_owned(), text.to_owned())]);
            assert_eq!(all.kinds["p"], WireType::String);
        }
        let mut wrong = parameter(WireType::String, "x");
        wrong.kind = Some(ScalarKind::Int);
        let error = Scene::new().run(&[wrong]).unwrap_err();
        assert_eq!(error.code(), Code::RuntimeParameter);
    }

    #[test]
    fn without_a_mount_a_local_source_is_used_where_it_is() {
        let scene = Scene::new();
        let model = scene.path("model.bin");
        assert_eq!(scene.value(parameter(WireType::File, &model)), json!(model));
        let url = format!("file://{model}");
        assert_eq!(scene.value(parameter(WireType::File, url)), json!(model));
        let data = scene.path("data");
        assert_eq!(
            scene.value(parameter(WireType::Directory, &data)),
            json!(data)
        );
        assert_eq!(fs::read_dir(scene.path("cwd")).unwrap().count(), 0);
    }

    #[test]
    fn what_others_see_too_is_linked_into_a_place_of_its_own() {
        use std::os::unix::fs::MetadataExt;
        let mut scene = Scene::new();
        scene.shared = Some(scene.folder.path().to_owned());
        let value = scene.value(parameter(WireType::File, scene.path("model.bin")));
        let linked = scene.path("cwd/flyte-parameters/p/model.bin");
        assert_eq!(value, json!(linked));
        let inode = |path: &str| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&linked), inode(&scene.path("model.bin")));
        let value = scene.value(parameter(WireType::Directory, scene.path("data")));
        assert_eq!(value, json!(scene.path("cwd/flyte-parameters/p/data")));
        // A new file is the app's own.
        fs::write(scene.path("cwd/flyte-parameters/p/data/new"), "").unwrap();
        assert!(!Path::new(&scene.path("data/new")).exists());
    }

    #[test]
    fn a_file_goes_over_a_folder_and_folders_in_their_order() {
        let scene = Scene::new();
        fs::create_dir_all(scene.path("more/sub")).unwrap();
        fs::write(scene.path("more/sub/x.txt"), "more").unwrap();
        fs::write(scene.path("x.txt"), "file").unwrap();
        let named = |name: &str, mut sent: SerializedParameter| {
            sent.name = name.to_owned();
            sent
        };
        let sent = [
            named(
                "file",
                mounted(WireType::File, scene.path("x.txt"), "in/sub/"),
            ),
            named(
                "data",
                mounted(WireType::Directory, scene.path("data"), "in"),
            ),
            named(
                "more",
                mounted(WireType::Directory, scene.path("more"), "in"),
            ),
            named(
                "apart",
                mounted(WireType::Directory, scene.path("more"), "inner"),
            ),
        ];
        let cwd = scene.folder.path().join("cwd");
        let at = |path: &str| cwd.join(path);
        let here = || Source::Here(PathBuf::new());
        let plans = [
            Plan::put(false, here(), at("in/sub/x.txt")),
            Plan::put(true, here(), at("in")),
            Plan::put(true, here(), at("in")),
            Plan::put(true, here(), at("inner")),
        ];
        assert_eq!(steps(&plans), [2, 0, 1, 0]);
        for _ in 0..5 {
            scene.run(&sent).unwrap();
            let text = fs::read_to_string(scene.path("cwd/in/sub/x.txt")).unwrap();
            assert_eq!(text, "file");
            let text = fs::read_to_string(scene.path("cwd/inner/sub/x.txt")).unwrap();
            assert_eq!(text, "more");
        }
    }

    #[test]
    fn a_failure_does_not_wait_for_what_is_slow() {
        // Takes connections and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/slow.bin", silent.local_addr().unwrap());
        let mut gone = parameter(WireType::AppEndpoint, "");
        gone.name = "gone".to_owned();
        gone.value = r#"{"type":"string","app_name":"gone","public":true}"#.to_owned();
        let begun = std::time::Instant::now();
        let error = Scene::new()
            .run(&[parameter(WireType::File, url), gone])
            .unwrap_err();
        assert!(error.to_string().contains("`gone`"), "{error}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn relative_sources_start_at_the_working_folder() {
        let scene = Scene::new();
        assert_eq!(
            scene.value(parameter(WireType::File, "../model.bin")),
            json!(scene.path("cwd/../model.bin"))
        );
    }

    #[test]
    fn escaped_and_plain_file_urls_find_the_same_file() {
        let scene = Scene::new();
        let spaced = scene.path("a b.txt");
        fs::write(&spaced, "").unwrap();
        for url in [
            format!("file://{}", spaced.replace(' ', "%20")),
            format!("file://{spaced}"),
            format!("file://localhost{spaced}"),
        ] {
            assert_eq!(scene.value(parameter(WireType::File, url)), json!(spaced));
        }
    }

    #[test]
    fn a_mounted_file_goes_into_a_folder_or_gets_a_name() {
        let scene = Scene::new();
        fs::create_dir(scene.path("cwd/there")).unwrap();
        for (mount, expected) in [
            ("models/", "cwd/models/model.bin"),
            ("there", "cwd/there/model.bin"),
            ("new/name.bin", "cwd/new/name.bin"),
        ] {
            let value = scene.value(mounted(WireType::File, scene.path("model.bin"), mount));
            assert_eq!(value, json!(scene.path(expected)));
            assert_eq!(fs::read_to_string(scene.path(expected)).unwrap(), "m");
        }
        let absolute = scene.path("elsewhere/");
        let value = scene.value(mounted(WireType::File, scene.path("model.bin"), &absolute));
        assert_eq!(value, json!(scene.path("elsewhere/model.bin")));
    }

    #[test]
    fn a_mounted_folder_never_nests() {
        let scene = Scene::new();
        fs::create_dir(scene.path("cwd/there")).unwrap();
        for mount in ["new", "slash/", "there", "there/"] {
            let value = scene.value(mounted(WireType::Directory, scene.path("data"), mount));
            let folder = scene.path(&format!("cwd/{}", mount.trim_end_matches('/')));
            assert_eq!(value, json!(folder));
            assert!(Path::new(&folder).join("sub/x.txt").is_file());
            assert!(!Path::new(&folder).join("data").exists());
        }
    }

    #[test]
    fn an_unmounted_folder_is_copied_only_to_leave_something_out() {
        let scene = Scene::new();
        let mut sent = parameter(WireType::Directory, scene.path("data"));
        sent.name = "../p".to_owned();
        sent.ignore_patterns = vec!["*.log".to_owned()];
        let all = scene.run(&[sent]).unwrap();
        let folder = scene.path("cwd/flyte-parameters/%2E%2E%2Fp/data");
        assert_eq!(all.json["../p"], json!(folder));
        assert!(Path::new(&folder).join("sub/x.txt").exists());
        assert!(!Path::new(&folder).join("y.log").exists());
    }

    #[test]
    fn what_is_not_downloaded_is_passed_unchanged() {
        let scene = Scene::new();
        let mut sent = parameter(WireType::File, "s3://bucket/key");
        sent.download = false;
        sent.env_var = Some("P".to_owned());
        let all = scene.run(&[sent]).unwrap();
        assert_eq!(all.json["p"], json!("s3://bucket/key"));
        assert_eq!(all.env[0].1, "s3://bucket/key");
        assert_eq!(all.kinds["p"], WireType::File);
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_password() {
        let error = Scene::new()
            .run(&[parameter(WireType::File, "ftp://u:pw@h/x")])
            .unwrap_err();
        assert_eq!(error.code(), Code::RuntimeParameter);
        let text = crate::error::with_causes(&error);
        assert!(
            text.contains("parameter `p`") && text.contains("`ftp://h/x`"),
            "{text}"
        );
        assert!(
            error
                .hints()
                .iter()
                .any(|hint| hint.contains("download=False"))
        );
    }

    #[test]
    fn what_lies_elsewhere_has_a_folder_of_its_own_or_its_mount() {
        let scene = Scene::new();
        let cwd = scene.folder.path().join("cwd");
        let stores = Stores::of(&BTreeMap::new(), &(std::sync::Arc::new(|_: &str| {}) as _));
        let site = Site {
            cwd: &cwd,
            dest: &cwd,
            endpoint_pattern: None,
            public_pattern: None,
            lookup: &Book,
            stores: &stores,
            shared: None,
        };
        for (sent, expected) in [
            (
                parameter(WireType::File, "s3://b/k/m.bin"),
                "flyte-parameters/p/m.bin",
            ),
            (
                parameter(WireType::Directory, "gs://b/data/"),
                "flyte-parameters/p/data",
            ),
            (
                mounted(WireType::File, "https://h/m.bin?s=1".into(), "in/"),
                "in/m.bin",
            ),
            (
                mounted(WireType::Directory, "abfs://c/data".into(), "in/"),
                "in",
            ),
        ] {
            let url = sent.value.clone();
            let is_directory = sent.wire_type == WireType::Directory;
            let expected = Plan::put(is_directory, Source::Elsewhere(url), cwd.join(expected));
            assert_eq!(plan(&sent, &site).unwrap(), expected);
        }
    }

    #[test]
    fn missing_and_mistaken_sources_are_named() {
        let scene = Scene::new();
        let error = scene
            .run(&[parameter(WireType::File, "/no/such")])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "parameter `p`: `/no/such` does not exist"
        );
        let error = scene
            .run(&[parameter(WireType::File, scene.path("data"))])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is a folder, but a file is declared"),
            "{error}"
        );
    }

    #[test]
    fn two_files_at_one_path_are_refused_before_anything_is_written() {
        let scene = Scene::new();
        let one = mounted(WireType::File, scene.path("model.bin"), "m/");
        let mut two = mounted(WireType::File, scene.path("model.bin"), "m/model.bin");
        two.name = "q".to_owned();
        let error = scene.run(&[one, two]).unwrap_err();
        assert!(
            error.to_string().starts_with("parameters `p` and `q`"),
            "{error}"
        );
        assert!(!Path::new(&scene.path("cwd/m")).exists());
    }

    #[test]
    fn endpoints_come_from_the_pattern_or_from_the_control_plane() {
        let mut scene = Scene::new();
        let sent = |app: &str, public: bool| {
            parameter(
                WireType::AppEndpoint,
                format!(r#"{{"type":"string","app_name":"{app}","public":{public}}}"#),
            )
        };
        assert_eq!(scene.value(sent("api", false)), json!("http://api.local"));
        scene.pattern = Some("http://{app_fqdn}.svc/{other}".to_owned());
        assert_eq!(
            scene.value(sent("api", false)),
            json!("http://api.svc/{other}")
        );
        assert_eq!(
            scene.value(sent("api", true)),
            json!("https://api.example.org")
        );
        scene.public_pattern = Some("http://{app_fqdn}.localhost".to_owned());
        assert_eq!(
            scene.value(sent("api", true)),
            json!("http://api.localhost")
        );
        scene.public_pattern = None;
        assert_eq!(
            scene.run(&[sent("api", true)]).unwrap().kinds["p"],
            WireType::String
        );
        let error = scene.run(&[sent("gone", true)]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`gone` is not known: there is no such app")
        );
        assert!(
            scene
                .run(&[parameter(WireType::AppEndpoint, "api")])
                .is_err()
        );
    }
}
