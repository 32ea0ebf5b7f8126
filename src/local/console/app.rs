//! An app's page: what it is, how it is, what it says, what it was.

use super::badge::{self, badge};
use super::html::{Html, html};
use super::{Console, advice, explained, facts, logs, revisions, traffic, words};
use crate::local::platform::{Platform, Portrait, Refused};
use crate::local::store::AppKey;
use crate::local::supervisor::memory;
use crate::wire::app::status::DeploymentStatus;
use crate::wire::{app, status};

/// Revisions shown on the page; one more is read, to tell what the oldest of them changed.
pub const REVISIONS: u32 = 12;
/// Conditions shown.
const CONDITIONS: usize = 25;
/// Log lines shown with a failure.
const FAILURE_LINES: usize = 15;

/// One app's page.
pub struct AppPage<'a> {
    pub console: &'a Console,
    pub key: &'a AppKey,
    pub portrait: Portrait,
}

impl<'a> AppPage<'a> {
    pub fn of(console: &'a Console, key: &'a AppKey) -> Result<Self, Refused> {
        let portrait = console.platform().portrait(key, REVISIONS + 1)?;
        Ok(Self {
            console,
            key,
            portrait,
        })
    }

    pub fn body(&self) -> Html {
        let (project, domain, name) = self.key.parts();
        let app = &self.portrait.app;
        let endpoint = &app.status.ingress.public_url;
        html!(
            include "assets/app.html",
            project,
            domain,
            name,
            self.state(),
            self.actions(),
            app.spec.profile.short_description,
            endpoint,
            endpoint,
            self.failure(),
            traffic::charts(self.platform(), self.key),
            self.replicas(),
            logs::section(self.console, self.key),
            revisions::table(self),
            self.history(),
            facts::of(app),
            deletion(self.console, self.key),
        )
    }

    fn platform(&self) -> &Platform {
        self.console.platform()
    }

    fn state(&self) -> Html {
        let last = status::latest(&self.portrait.app);
        let row = &self.portrait.row;
        html!(
            "{} <span class=\"muted\">revision {}</span>",
            badge(last),
            row.serving.unwrap_or(row.latest)
        )
    }

    fn actions(&self) -> Html {
        let (_, class) = badge::state(status::latest(&self.portrait.app));
        let mut actions = Html::default();
        if self.portrait.row.desired_active {
            if class == "bad" && self.portrait.row.serving.is_none() {
                actions += self
                    .console
                    .button(self.key, "activate", "Try again", "primary");
            }
            actions += self
                .console
                .button(self.key, "deactivate", "Deactivate", "");
        } else {
            actions += self
                .console
                .button(self.key, "activate", "Activate", "primary");
        }
        actions += html!(
            "<a id=\"delete\" class=\"button danger\" href=\"{}\" data-ask>Delete…</a>",
            super::own_path(self.key, "delete")
        );
        actions
    }

    /// What went wrong, as long as it matters.
    fn failure(&self) -> Html {
        let row = &self.portrait.row;
        let conditions = &self.portrait.app.status.conditions;
        let Some(at) = conditions.iter().rposition(is_failure) else {
            return Html::default();
        };
        let failed = &conditions[at];
        let began = attempt(&conditions[..at]);
        let newest = self.portrait.revisions.first();
        let latest_failed = newest.is_some_and(|newest| newest.failed);
        let (_, class) = badge::state(conditions.last());
        let is_over = !latest_failed && class != "bad";
        if is_over || !row.desired_active {
            return Html::default();
        }
        let (code, text) = status::read_failure(&failed.message);
        let (title, note) = match row.serving {
            Some(serving) if serving != failed.revision => (
                format!("Revision {} did not come up", failed.revision),
                format!("Revision {serving} keeps serving."),
            ),
            _ => ("The app failed".to_owned(), String::new()),
        };
        html!(
            "<section class=\"alert\" aria-labelledby=\"h-failure\"><h2 id=\"h-failure\">{} <small>{}</small></h2>\
             <p class=\"reason\">{}</p><p class=\"muted\"><a href=\"{}\"><code>{}</code></a>: {}. {}</p>{}{}\
             </section>",
            title,
            badge::moment_html(failed),
            words::prose(text),
            explained::path(code),
            code.as_str(),
            code.meaning(),
            note,
            advice::on(code),
            self.last_words(failed.revision, began),
        )
    }

    fn last_words(&self, revision: u64, since: jiff::Timestamp) -> Option<Html> {
        let handle = self.platform().handle(self.key)?;
        let lines = handle.logs.tail(FAILURE_LINES, |record| {
            record.revision == revision && record.at >= since
        });
        let lines: Html = lines.iter().map(logs::line).collect();
        (!lines.is_empty()).then(|| {
            html!(
                "<div class=\"log brief wrap\" tabindex=\"0\" role=\"region\" \
                 aria-label=\"Last lines of the failed revision\">{}</div>",
                lines
            )
        })
    }

    fn replicas(&self) -> Html {
        let Some(live) = self
            .platform()
            .handle(self.key)
            .map(|handle| handle.live.borrow().clone())
        else {
            return Html::default();
        };
        let rows: Html = live.replicas.iter().map(|process| {
            html!(
                "<tr id=\"replica-{}\"><th scope=\"row\">{}</th><td><span class=\"st ok\">Serving</span></td>\
                 <td class=\"n w1\">{}</td><td>{}</td><td class=\"n\">{}</td></tr>",
                process.name,
                process.name,
                process.pid,
                words::moment(process.since),
                words::bytes(memory::used_by(process.pid)),
            )
        }).collect();
        let told = format!(
            "{} and {} since the platform was started",
            words::counted(live.crashes, "crash", "crashes"),
            words::counted(live.cold_starts, "cold start", "cold starts"),
        );
        if rows.is_empty() {
            return html!("<p class=\"card empty\">No replica runs. {}.</p>", told);
        }
        html!(
            "<div class=\"card scroll\" tabindex=\"0\" role=\"group\" aria-labelledby=\"h-replicas\"><table>\
             <caption class=\"vh\">Replicas</caption><thead><tr>\
             <th scope=\"col\">Name</th><th scope=\"col\">State</th><th scope=\"col\" class=\"n w1\">Process</th>\
             <th scope=\"col\">Serving since</th><th scope=\"col\" class=\"n\">Memory</th></tr></thead>\
             <tbody>{}</tbody></table></div><p class=\"muted\">{}.</p>",
            rows,
            told
        )
    }

    fn history(&self) -> Html {
        let conditions = self.portrait.app.status.conditions.iter().rev();
        let rows: Html = conditions
            .take(CONDITIONS)
            .map(|one| {
                html!(
                    "<tr><td>{}</td><td>{}</td><td class=\"w1\">{}</td><td class=\"n w1\">{}</td>\
                     <td class=\"text\">{}</td></tr>",
                    badge::moment_html(one),
                    badge(Some(one)),
                    substate(one),
                    one.revision,
                    words::prose(message(one))
                )
            })
            .collect();
        html!(
            "<div class=\"card scroll\" tabindex=\"0\" role=\"group\" aria-labelledby=\"h-history\"><table>\
             <caption class=\"vh\">Status history, newest first</caption><thead><tr><th scope=\"col\">Time</th><th scope=\"col\">Status</th>\
             <th scope=\"col\" class=\"w1\">Substate</th><th scope=\"col\" class=\"n w1\">Revision</th>\
             <th scope=\"col\">Message</th></tr></thead><tbody>{}</tbody></table></div>",
            rows
        )
    }
}

/// `crash loop`, in the words of the wire.
fn substate(condition: &app::Condition) -> String {
    let name = status::substate(condition).unwrap_or("–");
    name.to_lowercase().replace('_', " ")
}

/// What a condition says, without the reason's name for programs.
fn message(condition: &app::Condition) -> &str {
    if is_failure(condition) {
        status::read_failure(&condition.message).1
    } else {
        &condition.message
    }
}

fn is_failure(condition: &app::Condition) -> bool {
    let state = status::condition_status(condition);
    state == DeploymentStatus::DEPLOYMENT_STATUS_FAILED || badge::state(Some(condition)).1 == "bad"
}

/// When the attempt began that these conditions lead up to; earlier ones wrote to the same log.
fn attempt(before: &[app::Condition]) -> jiff::Timestamp {
    let is_start = |one: &&app::Condition| {
        status::condition_status(one) == DeploymentStatus::DEPLOYMENT_STATUS_DEPLOYING
    };
    let starts = before.iter().rev().take_while(is_start);
    let first = starts.last().or(before.last());
    first.map(badge::moment).unwrap_or_default()
}

/// The confirmation that deleting asks for.
pub fn deletion(console: &Console, key: &AppKey) -> Html {
    html!(
        "<form id=\"ask-form\" method=\"post\" action=\"{}\" data-act=\"Deleting\" data-live><h2 id=\"ask-h\">Delete {}?</h2>\
         <p id=\"ask-p\">Its revisions, its log and its endpoint are forgotten. This cannot be undone.</p>\
         <input type=\"hidden\" name=\"token\" value=\"{}\"><p class=\"actions\">\
         <a class=\"button\" href=\"{}\" data-close>Cancel</a>\
         <button class=\"danger\">Delete the app</button></p></form>",
        super::own_path(key, "delete"),
        key.name(),
        console.token().text(),
        super::page_path(key),
    )
}
