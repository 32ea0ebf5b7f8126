//! Values of parameters that lie on this machine, sent to where replicas find them.
//!
//! A file is named by what it holds, a folder by its names and what they hold: what is there already
//! is not sent again, and what changes on this machine later changes no app that was deployed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use futures::{FutureExt, TryFutureExt};
use md5::{Digest, Md5};

use super::bundling::{size, upload};
use super::{Error, Plan, Server, Step, plan};
use crate::client::{self, Client, Piece, Upload};
use crate::error::{Code, Diagnostic};
use crate::files::read_in_pieces;
use crate::files::stat_cache::State;
use crate::spec::{AppSpec, Parameter, ParameterValue};

/// Files that are hashed and sent at a time.
const AT_ONCE: usize = 4;

/// Addresses of what was sent, by where it lies here.
pub type Sent = BTreeMap<String, String>;

/// A file that is sent.
struct Outgoing {
    path: PathBuf,
    /// Its path from the name of the folder on; its name for a file.
    name: String,
    bytes: u64,
    md5: [u8; 16],
    /// As it was before it was read.
    state: State,
}

impl Outgoing {
    /// What there is to say where it is not what was announced any more.
    fn change(&self) -> Option<std::io::Error> {
        if state_of(&self.path).is_ok_and(|state| state == self.state) {
            return None;
        }
        let text = format!("`{}` changed while it was sent", self.path.display());
        Some(std::io::Error::other(text))
    }
}

/// The app with the addresses of what was sent instead of where it lies here.
pub fn settled(spec: &AppSpec, sent: &Sent) -> AppSpec {
    let mut spec = spec.clone();
    for parameter in &mut spec.parameters {
        if let Some(ParameterValue::Local { path, is_folder }) = &parameter.value
            && let Some(uri) = sent.get(path)
        {
            parameter.value = Some(if *is_folder {
                ParameterValue::Dir(uri.clone())
            } else {
                ParameterValue::File(uri.clone())
            });
        }
    }
    spec
}

/// Refuses what a cluster would look for in vain.
pub fn check_reach(plan: &Plan) -> Result<(), plan::Error> {
    for app in plan.apps() {
        for parameter in &app.parameters {
            if let Some((path, kind)) = parameter.value.as_ref().and_then(out_of_reach) {
                return Err(plan::Error::OutOfReach {
                    app: app.name.clone(),
                    parameter: parameter.name.clone(),
                    path: path.to_owned(),
                    kind,
                });
            }
        }
    }
    Ok(())
}

/// What is named by `file://` and is here; something that is not here may well be in the image.
fn out_of_reach(value: &ParameterValue) -> Option<(&str, &'static str)> {
    let (address, kind) = match value {
        ParameterValue::File(path) => (path, "file"),
        ParameterValue::Dir(path) => (path, "folder"),
        ParameterValue::Text(_)
        | ParameterValue::Integer(_)
        | ParameterValue::Float(_)
        | ParameterValue::Boolean(_)
        | ParameterValue::Local { .. }
        | ParameterValue::AppEndpoint { .. }
        | ParameterValue::RunOutput(_)
        | ParameterValue::Artifact(_) => return None,
    };
    let path = address.strip_prefix("file://")?;
    Path::new(path).exists().then_some((address, kind))
}

impl Server {
    /// Sends what the plan's apps are given of this machine.
    pub(super) async fn send_values(&self, client: &Client, plan: &Plan) -> Result<Sent, Error> {
        let mut sent = Sent::new();
        for app in plan.apps() {
            for parameter in &app.parameters {
                if let Some(ParameterValue::Local { path, is_folder }) = &parameter.value
                    && !sent.contains_key(path)
                {
                    let uri = self
                        .send_value(client, plan, parameter, path, *is_folder)
                        .await?;
                    sent.insert(path.clone(), uri);
                }
            }
        }
        Ok(sent)
    }

    async fn send_value(
        &self,
        client: &Client,
        plan: &Plan,
        parameter: &Parameter,
        path: &str,
        is_folder: bool,
    ) -> Result<String, Error> {
        let started = Instant::now();
        let found = PathBuf::from(path);
        let listed = tokio::task::spawn_blocking(move || listed(&found, is_folder)).await;
        let listed = listed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let unreadable = |source| plan::Error::Unreadable {
            parameter: parameter.name.clone(),
            path: path.to_owned(),
            source,
        };
        let files = stream::iter(listed.map_err(unreadable)?)
            .map(|(path, name)| async move {
                let hashed = tokio::task::spawn_blocking(move || outgoing(path, name)).await;
                hashed.unwrap_or_else(|error| Err(std::io::Error::other(error)))
            })
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await
            .map_err(unreadable)?;
        let folder = if is_folder {
            digest_of(&files)
        } else {
            String::new()
        };
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        // Listed first: a stream that borrows while it maps cannot be told to be `Send`.
        let jobs: Vec<BoxFuture<'_, _>> = files
            .iter()
            .map(|file| {
                let explained = move |error: Error| match file.change() {
                    // Whoever receives it sees that it is not what was announced, and no more.
                    Some(change) if error.code() == Code::ClientUpload => unreadable(change).into(),
                    Some(_) | None => error,
                };
                let sending = self.send_file(client, plan, file, &folder);
                sending.map_err(explained).boxed()
            })
            .collect();
        let sent: Vec<(String, bool)> = stream::iter(jobs).buffered(AT_ONCE).try_collect().await?;
        let missing = sent.iter().filter(|(_, was_there)| !was_there).count();
        let how = if missing == 0 { "reused" } else { "sent" };
        let detail = format!("parameter `{}`, {} {how}", parameter.name, size(total));
        self.finished(Step::Bundle, detail, started);
        uri_of(&files, sent, is_folder).ok_or_else(|| {
            let reason = format!("the files of `{path}` were given places in different folders");
            client::Error::Upload { reason }.into()
        })
    }

    /// Sends one file unless it is there; returns its address, and whether it was.
    async fn send_file(
        &self,
        client: &Client,
        plan: &Plan,
        file: &Outgoing,
        folder: &str,
    ) -> Result<(String, bool), Error> {
        let piece = Piece {
            path: file.path.clone(),
            bytes: file.bytes,
        };
        let upload = Upload {
            folder,
            ..upload(plan, &file.name, file.md5, vec![piece])
        };
        let location = client.upload_location(&upload).await?;
        if !location.exists {
            let meter = self.meter(upload.bytes());
            client.put(&location, &upload, &*meter).await?;
        }
        Ok((location.native_url, location.exists))
    }
}

/// The address of the whole: of the file, or of the folder that all files lie in.
fn uri_of(files: &[Outgoing], sent: Vec<(String, bool)>, is_folder: bool) -> Option<String> {
    let name = files.first()?.name.split('/').next()?;
    let mut uris = sent.into_iter().map(|(uri, _)| uri);
    if !is_folder {
        return uris.next();
    }
    let mut folder = None;
    for (file, uri) in files.iter().zip(uris) {
        let base = uri.strip_suffix(&file.name)?.strip_suffix('/')?.to_owned();
        if folder.get_or_insert_with(|| base.clone()) != &base {
            return None;
        }
    }
    folder.map(|above| format!("{above}/{name}"))
}

/// What has to be sent, in the order of names; never nothing.
fn listed(path: &Path, is_folder: bool) -> std::io::Result<Vec<(PathBuf, String)>> {
    if !is_folder {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(vec![(path.to_owned(), name.into_owned())]);
    }
    let mut found = Vec::new();
    // The folder keeps its name, under which it is put where a parameter's `mount` ends with `/`.
    let above = path.parent().unwrap_or(path);
    let walk = walkdir::WalkDir::new(path).follow_links(true);
    for entry in walk.sort_by_file_name() {
        let entry = entry?;
        if let Ok(relative) = entry.path().strip_prefix(above)
            && entry.file_type().is_file()
        {
            let relative = relative.to_string_lossy().into_owned();
            found.push((entry.into_path(), relative));
        }
    }
    if found.is_empty() {
        return Err(std::io::Error::other("there are no files in it"));
    }
    Ok(found)
}

fn state_of(path: &Path) -> std::io::Result<State> {
    Ok(State::of(&path.metadata()?))
}

fn outgoing(path: PathBuf, name: String) -> std::io::Result<Outgoing> {
    let state = state_of(&path)?;
    let (mut hash, mut bytes) = (Md5::new(), 0);
    read_in_pieces(&path, |piece| {
        hash.update(piece);
        bytes += piece.len() as u64;
    })?;
    Ok(Outgoing {
        path,
        name,
        bytes,
        md5: hash.finalize().into(),
        state,
    })
}

/// Names a folder by its content.
fn digest_of(files: &[Outgoing]) -> String {
    let mut hash = blake3::Hasher::new();
    for file in files {
        hash.update(&(file.name.len() as u64).to_be_bytes());
        hash.update(file.name.as_bytes());
        hash.update(&file.md5);
    }
    hash.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(folder: &Path) -> Vec<Outgoing> {
        let found = listed(folder, true).unwrap();
        let hashed = found.into_iter().map(|(path, name)| outgoing(path, name));
        hashed.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_folder_is_named_by_names_and_contents_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for folder in [&one, &two] {
            std::fs::create_dir_all(folder.join("sub")).unwrap();
            std::fs::write(folder.join("b"), "b").unwrap();
            std::fs::write(folder.join("sub/a"), "a").unwrap();
        }
        let names: Vec<String> = all(&one).into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["one/b", "one/sub/a"]);
        let moved = scratch.path().join("elsewhere");
        std::fs::create_dir(&moved).unwrap();
        std::fs::rename(&two, moved.join("one")).unwrap();
        let two = moved.join("one");
        assert_eq!(digest_of(&all(&one)), digest_of(&all(&two)));
        std::fs::rename(two.join("b"), two.join("c")).unwrap();
        assert_ne!(digest_of(&all(&one)), digest_of(&all(&two)));
    }

    #[test]
    fn a_file_that_was_written_to_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for change in ["of the same size", "gone"] {
            std::fs::write(&path, "of another size!").unwrap();
            let file = outgoing(path.clone(), "log".to_owned()).unwrap();
            assert!(file.change().is_none());
            // Behind the tick of the file system's clock.
            std::thread::sleep(std::time::Duration::from_millis(30));
            if change == "gone" {
                std::fs::remove_file(&path).unwrap();
            } else {
                std::fs::write(&path, change).unwrap();
            }
            let told = file.change().unwrap().to_string();
            assert!(told.ends_with("log` changed while it was sent"), "{told}");
        }
    }

    #[test]
    fn a_cluster_is_given_no_files_of_this_machine() {
        let here = format!("file://{}", env!("CARGO_MANIFEST_DIR"));
        let refused = ParameterValue::Dir(here.clone());
        assert_eq!(out_of_reach(&refused), Some((here.as_str(), "folder")));
        for fine in [
            env!("CARGO_MANIFEST_DIR"),
            "file:///of/the/image",
            "s3://b/k",
        ] {
            assert_eq!(out_of_reach(&ParameterValue::File(fine.into())), None);
        }
    }

    #[test]
    fn a_folder_has_one_address_or_none() {
        let file = |name: &str| Outgoing {
            path: PathBuf::new(),
            name: name.to_owned(),
            bytes: 0,
            md5: [0; 16],
            state: state_of(Path::new("/")).unwrap(),
        };
        let files = [file("d/a"), file("d/s/b")];
        let at = |uris: [&str; 2]| {
            let sent = uris.map(|uri| (uri.to_owned(), false)).to_vec();
            uri_of(&files, sent, true)
        };
        assert_eq!(
            at(["s3://b/x/d/a", "s3://b/x/d/s/b"]).unwrap(),
            "s3://b/x/d"
        );
        assert_eq!(at(["s3://b/x/d/a", "s3://b/y/d/s/b"]), None);
        assert_eq!(at(["s3://b/x/d/a", "s3://b/x/d/s_b"]), None);
    }
}
