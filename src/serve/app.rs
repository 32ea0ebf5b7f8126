//! A served app, in the caller's hand.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::activate::{self, Attempt, Verdict, judge};
use super::{Error, Options, Plan};
use crate::client::{self, Changed, Client, Event, LogLine, LogStream};
use crate::wire::app::spec::DesiredState;
use crate::wire::app::status::DeploymentStatus;
use crate::wire::{app, identifier, status};

/// Log lines that come with a failure.
const FAILURE_LINES: usize = 30;
/// How long the log is read when a failure is told, and how long for what comes before that.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
const WHOLE_LOG_PATIENCE: Duration = Duration::from_secs(8);

/// One app on a control plane, with what was last known of it.
pub struct App {
    /// `None` for an app that was only rehearsed.
    client: Option<Client>,
    console: String,
    options: Options,
    known: Mutex<app::App>,
    /// The change that was last made through this handle.
    attempt: Mutex<Option<Attempt>>,
}

impl App {
    pub(super) fn new(client: Client, known: app::App, console: String, options: Options) -> Self {
        Self {
            client: Some(client),
            console,
            options,
            known: Mutex::new(known),
            attempt: Mutex::default(),
        }
    }

    /// Takes note of a change to the app, which was as `before`.
    pub(super) fn tried(&self, before: Option<&app::App>, change: Changed) {
        let attempt = Attempt::of(before, &change);
        let mut slot = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(attempt);
        drop(slot);
        self.learn(change.app);
    }

    /// What is waited for: what came of the last change, or else the app as it is.
    fn attempt(&self) -> Attempt {
        let slot = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known();
        let revision = known.metadata.revision;
        // A revision that failed is not shown as the app's: the one before is, which goes on.
        let is_told_of = |attempt: &Attempt| {
            let mut conditions = known.status.conditions.iter();
            attempt.revision > revision && conditions.any(|one| one.revision == attempt.revision)
        };
        slot.clone()
            .filter(|attempt| attempt.revision == revision || is_told_of(attempt))
            .unwrap_or_else(|| Attempt::watching(revision))
    }

    pub(super) fn rehearsed(plan: &Plan) -> Self {
        let id = identifier(&plan.org, &plan.project, &plan.domain, &plan.target);
        let known = app::App {
            metadata: app::Meta {
                id: id.into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        Self {
            client: None,
            console: String::new(),
            options: plan.options.clone(),
            known: Mutex::new(known),
            attempt: Mutex::default(),
        }
    }

    /// An app that exists already.
    pub async fn get(client: Client, console: String, id: &app::Identifier) -> Result<Self, Error> {
        let known = client.get(id).await?;
        Ok(Self::new(client, known, console, Options::default()))
    }

    /// The same, whose change to a revision is waited for.
    pub async fn changing(
        client: Client,
        console: String,
        id: &app::Identifier,
        revision: u64,
    ) -> Result<Self, Error> {
        let app = Self::get(client, console, id).await?;
        *app.attempt.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Attempt::watching(revision));
        Ok(app)
    }

    /// An app that was listed.
    pub fn listed(client: Client, console: String, known: app::App) -> Self {
        Self::new(client, known, console, Options::default())
    }

    /// The app as it was last seen.
    pub fn known(&self) -> app::App {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn(&self, app: app::App) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = app;
    }

    pub fn id(&self) -> app::Identifier {
        self.known()
            .metadata
            .id
            .clone()
            .into_option()
            .unwrap_or_default()
    }

    pub fn name(&self) -> String {
        self.id().name
    }

    /// The app's page on the platform.
    pub fn url(&self) -> String {
        if self.console.is_empty() {
            return String::new();
        }
        let id = self.id();
        format!(
            "{}/v2/domain/{}/project/{}/apps/{}",
            self.console, id.domain, id.project, id.name
        )
    }

    /// Where the app answers.
    pub fn endpoint(&self) -> String {
        self.known().status.ingress.public_url.clone()
    }

    pub fn revision(&self) -> u64 {
        self.known().metadata.revision
    }

    pub fn deployment_status(&self) -> DeploymentStatus {
        status::deployment_status(&self.known())
    }

    pub fn desired_state(&self) -> DesiredState {
        self.known()
            .spec
            .desired_state
            .as_known()
            .unwrap_or(DesiredState::DESIRED_STATE_UNSPECIFIED)
    }

    fn client(&self) -> Result<&Client, Error> {
        self.client.as_ref().ok_or_else(|| {
            client::Error::NotFound {
                name: self.name(),
                project: self.id().project,
                domain: self.id().domain,
            }
            .into()
        })
    }

    /// Asks the platform how the app is.
    pub async fn refresh(&self) -> Result<DeploymentStatus, Error> {
        let app = self.client()?.get(&self.id()).await?;
        if !status::is_older(&app, &self.known()) {
            self.learn(app);
        }
        Ok(self.deployment_status())
    }

    /// Lets the app run again; with `wait`, until it serves.
    pub async fn activate(&self, wait: bool) -> Result<(), Error> {
        self.want(DesiredState::DESIRED_STATE_ACTIVE, "activated")
            .await?;
        if wait {
            Box::pin(self.wait_until_active(self.options.activate_timeout, |_| {})).await?;
        }
        Ok(())
    }

    /// Puts the app to rest; with `wait`, until its processes are gone.
    pub async fn deactivate(&self, wait: bool) -> Result<(), Error> {
        self.want(DesiredState::DESIRED_STATE_STOPPED, "deactivated")
            .await?;
        if wait && !status::is_deactivated(self.deployment_status()) {
            Box::pin(self.wait_until_deactivated(self.options.deactivate_timeout)).await?;
        }
        Ok(())
    }

    async fn want(&self, state: DesiredState, reason: &str) -> Result<(), Error> {
        let (client, id) = (self.client()?, self.id());
        // Whole apps lie in the future that does this.
        let (before, change) = Box::pin(client.set_desired_state(&id, state, reason)).await?;
        self.tried(Some(&before), change);
        Ok(())
    }

    /// Gives an app another spec, and other labels where some are given; an equal one changes
    /// nothing.
    pub async fn replace(
        client: Client,
        console: String,
        id: &app::Identifier,
        spec: app::Spec,
        labels: Option<Vec<(String, String)>>,
        reason: &str,
    ) -> Result<Self, Error> {
        let stored = client.get(id).await?;
        let mut wanted = stored.clone();
        wanted.spec = spec.into();
        wanted.spec.modify(|spec| {
            // Not the caller's to say, or not said.
            spec.creator = stored.spec.creator.clone();
            if spec.ingress.is_unset() {
                spec.ingress = stored.spec.ingress.clone();
            }
        });
        if let Some(labels) = labels {
            let labels = labels.into_iter().collect();
            wanted.metadata.modify(|meta| meta.labels = labels);
        }
        if wanted == stored {
            return Ok(Self::new(client, stored, console, Options::default()));
        }
        let change = client.update(wanted, reason).await?;
        let app = Self::new(client, stored.clone(), console, Options::default());
        app.tried(Some(&stored), change);
        Ok(app)
    }

    /// Forgets the app.
    pub async fn delete(&self) -> Result<(), Error> {
        Ok(self.client()?.delete(&self.id()).await?)
    }

    /// What the replicas wrote, and with `follow` what they go on to write.
    pub async fn logs(&self, follow: bool) -> Result<LogStream, Error> {
        Ok(self.client()?.tail_logs(&self.id(), follow).await?)
    }

    /// What the replicas wrote so far, oldest first.
    pub async fn past_logs(&self, patience: Duration) -> Result<Vec<LogLine>, Error> {
        Ok(self.client()?.past_logs(&self.id(), patience).await?)
    }

    /// Events from now on, beginning with the present state.
    pub fn watch(&self) -> Result<client::Watch, Error> {
        Ok(self.client()?.watch(&self.id()))
    }

    /// Waits for the app to serve; tells whether it had to be waited for at all.
    pub async fn wait_until_active(
        &self,
        timeout: Duration,
        on_change: impl Fn(&str),
    ) -> Result<bool, Error> {
        let attempt = self.attempt();
        if judge(&self.known(), &attempt) == Verdict::Active {
            return Ok(false);
        }
        let wait = self.until(attempt.settled_at, |app| match judge(app, &attempt) {
            Verdict::Active => Some(Ok(())),
            Verdict::Pending { state, message } => {
                if message.is_empty() {
                    on_change(&progress(app, state));
                } else {
                    on_change(&message);
                }
                None
            }
            Verdict::Failed { code, message } => Some(Err(activate::Error::Failed {
                app: self.name(),
                code,
                message,
                log: Vec::new(),
                hints: Vec::new(),
            })),
            Verdict::Deactivated => Some(Err(activate::Error::Deactivated { app: self.name() })),
            Verdict::Overtaken => Some(Err(activate::Error::Overtaken {
                app: self.name(),
                revision: attempt.revision,
            })),
        });
        match tokio::time::timeout(timeout, wait).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(Error::Activation(error))) => Err(self.with_log(error, &attempt).await.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let error = self.timed_out(timeout);
                Err(self.with_log(error, &attempt).await.into())
            }
        }
    }

    /// Waits for the app to be at rest.
    pub async fn wait_until_deactivated(&self, timeout: Duration) -> Result<(), Error> {
        let wait = self.until(Instant::now(), |app| {
            status::is_deactivated(status::deployment_status(app)).then_some(Ok(()))
        });
        tokio::time::timeout(timeout, wait)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(timeout).into()))
    }

    fn timed_out(&self, timeout: Duration) -> activate::Error {
        let known = self.known();
        activate::Error::Timeout {
            app: self.name(),
            seconds: timeout.as_secs(),
            state: status::short_name(status::deployment_status(&known)),
            message: status::latest(&known)
                .map(|condition| condition.message.clone())
                .unwrap_or_default(),
            log: Vec::new(),
        }
    }

    /// Watches until `decide` says what came of it; it is asked once more at `settled_at`, when what
    /// was said before may mean something else.
    async fn until(
        &self,
        settled_at: Instant,
        decide: impl Fn(&app::App) -> Option<Result<(), activate::Error>>,
    ) -> Result<(), Error> {
        let mut watch = self.client()?.watch(&self.id());
        let mut seen = false;
        loop {
            let event = match settled_at.checked_duration_since(Instant::now()) {
                Some(left) => match tokio::time::timeout(left, watch.next()).await {
                    Ok(event) => event?,
                    Err(_) if seen => Event::Changed(Box::new(self.known())),
                    Err(_) => continue,
                },
                None => watch.next().await?,
            };
            match event {
                Event::Changed(app) => {
                    seen = true;
                    let decision = decide(&app);
                    self.learn(*app);
                    if let Some(decision) = decision {
                        return Ok(decision?);
                    }
                }
                Event::Deleted => {
                    return Err(activate::Error::Deleted { app: self.name() }.into());
                }
            }
        }
    }

    async fn with_log(&self, mut error: activate::Error, attempt: &Attempt) -> activate::Error {
        if let activate::Error::Failed { log, .. } | activate::Error::Timeout { log, .. } =
            &mut error
        {
            let lines = tokio::time::timeout(WHOLE_LOG_PATIENCE, self.last_lines(attempt)).await;
            *log = lines.ok().and_then(Result::ok).unwrap_or_default();
        }
        error
    }

    /// Last lines of an attempt's newest replica.
    async fn last_lines(&self, attempt: &Attempt) -> Result<Vec<String>, Error> {
        let mut lines = self.past_logs(LOG_PATIENCE).await?;
        of_attempt(&mut lines, &self.name(), attempt);
        let newest = lines.iter().max_by_key(|line| line.timestamp_ns);
        let newest = newest.map(|line| line.replica.clone());
        lines.retain(|line| Some(&line.replica) == newest.as_ref());
        let skip = lines.len().saturating_sub(FAILURE_LINES);
        Ok(lines.into_iter().skip(skip).map(|line| line.text).collect())
    }
}

/// Leaves the lines of an attempt's own replicas.
///
/// The local platform names replicas by app and revision. Elsewhere, a replica that wrote before the
/// attempt is one of an older revision: the open-source control plane goes on to tell the log of the
/// revision that serves while a newer one fails.
fn of_attempt(lines: &mut Vec<LogLine>, name: &str, attempt: &Attempt) {
    let revision_of = |line: &LogLine| -> Option<u64> {
        let rest = line.replica.strip_prefix(name)?.strip_prefix('-')?;
        rest.split_once('-')?.0.parse().ok()
    };
    if attempt.revision > 0 && lines.iter().any(|line| revision_of(line).is_some()) {
        lines.retain(|line| revision_of(line) == Some(attempt.revision));
        return;
    }
    let Some(taken_at) = attempt.taken_at.filter(|_| attempt.is_replacement()) else {
        return;
    };
    let began_ns = i128::from(taken_at - 1) * 1_000_000_000;
    let is_older = |line: &&LogLine| line.timestamp_ns != 0 && line.timestamp_ns < began_ns;
    let older: Vec<String> = lines
        .iter()
        .filter(is_older)
        .map(|line| line.replica.clone())
        .collect();
    lines.retain(|line| !older.contains(&line.replica));
}

/// What an app is doing, for a condition that says no more.
fn progress(app: &app::App, state: DeploymentStatus) -> String {
    let name = status::short_name(state);
    match status::latest(app).and_then(status::substate) {
        Some(substate) => format!("{name} ({substate})"),
        None => name.to_owned(),
    }
}
