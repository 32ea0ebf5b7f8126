//! When a replica serves, and how it is known that it will not.
//!
//! Ready means: a process of the replica listens on the port that the app declares, and the
//! health path answers where one is set. The moment of listening is reported by the kernel (see
//! `sys::port_watch`); where that is not possible the replica's sockets are looked for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::mpsc::UnboundedReceiver;

use super::diagnose::{Ending, Failure};
use super::idle::IdleMeter;
use super::replica::Replica;
use super::vessel::{Ear, Signs};
use crate::error::Code;
use crate::sys::port_watch::Event;
use crate::wire::build::Health;

/// How often an app's CPU time is looked at while it starts.
const SAMPLE: Duration = Duration::from_millis(200);
/// How often sockets are looked for where the kernel does not report them.
const LOOK: Duration = Duration::from_millis(10);
/// An app that listens elsewhere and then does nothing for this long has finished starting.
const WRONG_PORT_PATIENCE: Duration = Duration::from_secs(4);
/// An app that listens nowhere and does nothing for this long will not begin to, unless its caller
/// said how long it may take.
const NOT_LISTENING_PATIENCE: Duration = Duration::from_secs(20);
/// Idleness that is worth a word long before it is taken for a failure.
const IDLE_NOTE: Duration = Duration::from_secs(1);
/// How long what a dead replica said last may be on its way.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Errors of the health path in a row before the app is given up.
const HEALTH_TRIES: u32 = 5;
/// The same for 503, which apps answer while they load.
const HEALTH_TRIES_WHILE_LOADING: u32 = 150;

impl Replica {
    /// Waits until the replica serves; tells where it listens, or why it never will.
    ///
    /// `note` is told what the wait is about, once each, while it may still end well.
    pub async fn ready(
        &mut self,
        health: &Health,
        note: &(dyn Fn(Code, &str) + Send + Sync),
    ) -> Result<SocketAddr, Failure> {
        let patience = health
            .activate_timeout_ms
            .map_or(NOT_LISTENING_PATIENCE, Duration::from_millis);
        let address = self.listening(patience, note).await?;
        if let Some(path) = &health.path {
            self.healthy(address, path, health).await?;
        }
        // Between two looks it may have taken all at once; it must not serve first and die then.
        if self.vessel.kill_if_over_memory() {
            let ending = self.ended().await;
            return Err(self.explain(ending).await);
        }
        Ok(address)
    }

    async fn listening(
        &mut self,
        patience: Duration,
        note: &(dyn Fn(Code, &str) + Send + Sync),
    ) -> Result<SocketAddr, Failure> {
        let mut seen = Seen::default();
        let mut idle = IdleMeter::default();
        let mut look = tokio::time::interval(LOOK);
        let mut last_sample = Instant::now();
        // A replica is waited for once.
        let mut signs = self.signs.take();
        loop {
            tokio::select! {
                biased;
                sign = next(&mut signs) => match sign {
                    Some(sign) => if let Some(address) = seen.take(sign, self.declared_port) {
                        return Ok(address);
                    },
                    None => signs = None,
                },
                ending = self.ended() => {
                    seen.last_words(&mut signs, self.declared_port).await;
                    return Err(match seen.failed.take() {
                        Some(failure) => failure,
                        None => self.explain_unready(&seen, ending).await,
                    });
                }
                _ = look.tick() => {
                    if seen.must_look {
                        let ears = self.vessel.ears().await;
                        if let Some(address) = seen.hear(&ears, self.assigned) {
                            return Ok(address);
                        }
                    }
                    if last_sample.elapsed() >= SAMPLE {
                        last_sample = Instant::now();
                        let idle = idle.sample(self.vessel.cpu_time().await);
                        self.judge_idleness(&mut seen, idle, patience, note)?;
                    }
                }
            }
        }
    }

    /// Why it ended before it served; most of those that do not get a port end.
    async fn explain_unready(&mut self, seen: &Seen, ending: Ending) -> Failure {
        let failure = self.explain(ending).await;
        let failure = seen.explain_bind(failure, self.declared_port);
        match self.vessel.rival().filter(|_| seen.must_look) {
            Some(rival) if failure.code == Code::AppExited => Failure::new(
                Code::LocalPort,
                format!(
                    "port {} belongs to {rival}, and this machine does not let apps be led to other ones. {}",
                    self.declared_port, failure.message
                ),
            ),
            Some(_) | None => failure,
        }
    }

    /// Says what an idle app lacks, and gives it up when that goes on.
    fn judge_idleness(
        &self,
        seen: &mut Seen,
        idle: Duration,
        patience: Duration,
        note: &(dyn Fn(Code, &str) + Send + Sync),
    ) -> Result<(), Failure> {
        if idle < IDLE_NOTE {
            return Ok(());
        }
        let declared = self.declared_port;
        let (code, text, limit) = if seen.is_inside {
            (
                Code::AppNotListening,
                format!(
                    "the app listens on port {declared} of its container's own loopback address; it has to listen on `0.0.0.0`"
                ),
                WRONG_PORT_PATIENCE.min(patience),
            )
        } else if seen.elsewhere.is_empty() {
            (
                Code::AppNotListening,
                format!("the process runs, but nothing listens on port {declared}"),
                patience,
            )
        } else {
            let ports: Vec<String> = seen.elsewhere.iter().map(u16::to_string).collect();
            (
                Code::AppWrongPort,
                format!(
                    "the app listens on port {} but declares port {declared}",
                    ports.join(", ")
                ),
                WRONG_PORT_PATIENCE.min(patience),
            )
        };
        if idle >= limit {
            return Err(Failure::new(code, text));
        }
        if seen.told.as_ref() != Some(&text) {
            note(code, &format!("{text}, and it is idle"));
            seen.told = Some(text);
        }
        Ok(())
    }

    async fn healthy(
        &mut self,
        address: SocketAddr,
        path: &str,
        health: &Health,
    ) -> Result<(), Failure> {
        let millis = |value: Option<u64>, default| Duration::from_millis(value.unwrap_or(default));
        let timeout = millis(health.timeout_ms, 2000);
        let interval = millis(health.interval_ms, 100).min(Duration::from_millis(200));
        let client = prober(timeout)?;
        let url = format!("http://{address}/{}", path.trim_start_matches('/'));
        let mut failures = 0;
        loop {
            let answer = tokio::select! {
                answer = client.get(&url).send() => answer,
                ending = self.ended() => return Err(self.explain(ending).await),
            };
            let (problem, limit) = match answer {
                Ok(response) if health_is_good(response.status().as_u16()) => return Ok(()),
                Ok(response) => {
                    let status = response.status();
                    let limit = if status.as_u16() == 503 {
                        HEALTH_TRIES_WHILE_LOADING
                    } else {
                        HEALTH_TRIES
                    };
                    let body = response.text().await.unwrap_or_default();
                    (describe(status.as_u16(), &body), limit)
                }
                Err(error) if error.is_timeout() => (
                    format!("gives no answer within {} ms", timeout.as_millis()),
                    HEALTH_TRIES,
                ),
                Err(_) => ("closes the connection".to_owned(), HEALTH_TRIES),
            };
            failures += 1;
            if failures >= limit {
                return Err(Failure::new(
                    Code::AppUnhealthy,
                    format!("the app listens, but health path `{path}` {problem}"),
                ));
            }
            tokio::time::sleep(interval).await;
        }
    }
}

/// The next sign of life; none will come when the replica's channel is closed.
async fn next(signs: &mut Option<UnboundedReceiver<Signs>>) -> Option<Signs> {
    match signs {
        Some(signs) => signs.recv().await,
        None => std::future::pending().await,
    }
}

/// Redirects that a health path may lead through.
const MOST_REDIRECTS: usize = 10;

/// Follows an app to another place of its own. That it leads elsewhere is an answer: another machine is
/// not asked how the app is.
fn within_the_app() -> Policy {
    Policy::custom(|attempt| {
        let from = attempt.previous().first().map(Url::origin);
        let is_own = from == Some(attempt.url().origin());
        if is_own && attempt.previous().len() <= MOST_REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

/// Who asks health paths.
fn prober(timeout: Duration) -> Result<reqwest::Client, Failure> {
    crate::tls::install(); // which no client can be made without, even for plain HTTP
    reqwest::Client::builder()
        .no_proxy()
        .redirect(within_the_app())
        .timeout(timeout)
        .build()
        .map_err(|error| Failure::new(Code::Internal, error.to_string()))
}

/// The path exists and the app is not in trouble; whether the prober may see it is another matter.
fn health_is_good(status: u16) -> bool {
    status < 500 && status != 404
}

fn describe(status: u16, body: &str) -> String {
    let body = super::logs::shorten(body.trim(), 200);
    if body.is_empty() {
        format!("answers {status}")
    } else {
        format!("answers {status}: {body}")
    }
}

/// What a starting replica has shown so far.
#[derive(Default)]
struct Seen {
    must_look: bool,
    elsewhere: BTreeSet<u16>,
    /// Whether it listens where nothing but itself can reach it.
    is_inside: bool,
    failed: Option<Failure>,
    bind_failed: Option<(SocketAddr, i32)>,
    /// What was said of its idleness last.
    told: Option<String>,
}

impl Seen {
    /// Takes note of listening sockets; tells where the replica is served, if it is.
    fn hear(&mut self, ears: &[Ear], assigned: SocketAddr) -> Option<SocketAddr> {
        self.is_inside = ears.contains(&Ear::Inside);
        for ear in ears {
            match ear {
                Ear::Served => return Some(assigned),
                Ear::Declared(address) => return Some(*address),
                Ear::Inside => {}
                Ear::Elsewhere(port) => {
                    self.elsewhere.insert(*port);
                }
            }
        }
        None
    }

    fn take(&mut self, sign: Signs, declared: u16) -> Option<SocketAddr> {
        match sign {
            Signs::Watched(watched) => self.must_look = !watched,
            Signs::Failed(failure) => self.failed = Some(failure),
            Signs::Port(Event::Listening {
                wanted_port,
                actual,
                ..
            }) => {
                if wanted_port == declared {
                    return Some(actual);
                }
                self.elsewhere.insert(wanted_port);
            }
            Signs::Port(Event::BindFailed { wanted, errno, .. }) => {
                self.bind_failed = Some((wanted, errno));
            }
            Signs::Port(Event::Bound { .. }) => {}
        }
        None
    }

    /// Takes what a replica said before it ended and what is still on its way.
    async fn last_words(
        &mut self,
        signs: &mut Option<UnboundedReceiver<Signs>>,
        declared_port: u16,
    ) {
        let Some(signs) = signs else { return };
        let rest = async {
            while self.failed.is_none()
                && let Some(sign) = signs.recv().await
            {
                self.take(sign, declared_port);
            }
        };
        // A process that outlived it may keep the channel open.
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }

    /// An app that ended because it did not get a port says so in many ways; the kernel in one.
    fn explain_bind(&self, failure: Failure, declared: u16) -> Failure {
        match self.bind_failed {
            Some((wanted, errno)) if failure.code == Code::AppExited => {
                let reason = std::io::Error::from_raw_os_error(errno);
                Failure::new(
                    Code::LocalPort,
                    format!(
                        "the app could not bind `{wanted}` ({reason}); it declares port {declared}. {}",
                        failure.message
                    ),
                )
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_health_path_that_leads_elsewhere_is_well_and_is_not_followed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            // Nobody is there.
            let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/login\r\n\
                          content-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let client = prober(Duration::from_secs(20)).unwrap();
        let answer = client.get(format!("http://{address}/ready")).send().await;
        assert!(health_is_good(answer.unwrap().status().as_u16()));
        app.await.unwrap();
    }

    #[tokio::test]
    async fn a_health_path_is_followed_within_the_app() {
        use axum::{Router, http::StatusCode, response::Redirect, routing::get};
        let moved = get(|| async { Redirect::temporary("/ready/") });
        let loading = get(|| async { StatusCode::SERVICE_UNAVAILABLE });
        let app = Router::new()
            .route("/ready", moved)
            .route("/ready/", loading);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = prober(Duration::from_secs(20)).unwrap();
        let answer = client.get(format!("http://{address}/ready")).send().await;
        assert_eq!(answer.unwrap().status(), 503);
        serving.abort();
    }
}
