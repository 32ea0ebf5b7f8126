//! The code of a deployment: files, and beside them the environments that stand in no file.
//!
//! Both are sent only where the control plane does not have them. What is in a pickle is not known
//! here.

use std::collections::BTreeMap;
use std::time::Instant;

use md5::{Digest, Md5};

use super::bundling::{Bundled, size, temporary, upload};
use super::values::Sent;
use super::{Error, Plan, Progress, Server, Step};
use crate::client::{Client, Piece};
use crate::files::Scratch;
use crate::spec::AppSpec;
use crate::wire::app;

/// Where the code of a deployment lies.
#[derive(Debug, Default)]
pub struct Code {
    pub files: Option<Bundled>,
    /// By the name of the app.
    pub pickles: BTreeMap<String, Bundled>,
    /// What parameters are given of this machine.
    pub values: Sent,
}

impl Code {
    /// The pickle of an app, where it has one.
    pub fn pickle(&self, spec: &AppSpec) -> Option<&Bundled> {
        self.pickles.get(&spec.name)
    }
}

impl Server {
    /// Brings all code to where replicas find it.
    ///
    /// `known` is the app as it is, for what it tells of uploads.
    pub(super) async fn code(
        &self,
        client: &Client,
        plan: &Plan,
        known: Option<&app::App>,
    ) -> Result<Code, Error> {
        for note in plan
            .source
            .interactive
            .iter()
            .flat_map(|typed| &typed.notes)
        {
            self.report(Progress::Note(note.clone()));
        }
        let files = self.bundle(client, plan, known).await?;
        let values = Box::pin(self.send_values(client, plan)).await?;
        let mut pickles = BTreeMap::new();
        for (app, pickle) in plan.pickles() {
            let started = Instant::now();
            let (sent, was_there) = self.send_pickle(client, plan, pickle).await?;
            let how = if was_there { "reused" } else { "sent" };
            let detail = format!("`{app}` pickled, {} {how}", size(pickle.len() as u64));
            self.finished(Step::Bundle, detail, started);
            pickles.insert(app.clone(), sent);
        }
        Ok(Code {
            files,
            pickles,
            values,
        })
    }

    /// Sends a pickle unless it is there; tells whether it was.
    async fn send_pickle(
        &self,
        client: &Client,
        plan: &Plan,
        pickle: &[u8],
    ) -> Result<(Bundled, bool), Error> {
        let digest = blake3::hash(pickle).to_hex().to_string();
        let scratch = Scratch::under(&self.settings.home.tmp())?;
        let path = scratch.path().join("pickle");
        tokio::fs::write(&path, pickle).await.map_err(temporary)?;
        let piece = Piece {
            path,
            bytes: pickle.len() as u64,
        };
        let name = format!("{digest}.pkl.gz");
        let upload = upload(plan, &name, Md5::digest(pickle).into(), vec![piece]);
        let location = client.upload_location(&upload).await?;
        if !location.exists {
            let meter = self.meter(upload.bytes());
            client.put(&location, &upload, &*meter).await?;
        }
        let bundled = Bundled {
            uri: location.native_url,
            digest,
        };
        Ok((bundled, location.exists))
    }
}
