//! Proving to a control plane who one is: tokens got, kept, renewed and, where it must be, asked of
//! a person.
//!
//! One [`Credentials`] serves all calls and streams to a control plane, in this process by a lock in
//! memory and among processes by a lock on a file, so that a token is renewed once however many want
//! it. What the calls are about is not known here, and no failure but "unauthenticated" leads here.

mod browser;
mod command;
mod device;
mod discovery;
mod error;
mod oauth;
mod store;
mod tokens;

use std::sync::{Arc, Mutex as Memory, OnceLock, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Mutex;

use crate::config::{Home, Login, Mode, Secret};
use crate::net::Http;
use discovery::Discovered;
use store::Store;
use tokens::Tokens;

pub use error::Error;

/// What a token is sent under where the control plane does not say.
const HEADER: &str = "authorization";

static PROMPT: OnceLock<fn(&str)> = OnceLock::new();

/// Says how a person is spoken to while a login waits. There is one terminal, so it is said once.
pub fn speak_through(prompt: fn(&str)) {
    let _ = PROMPT.set(prompt);
}

fn tell(text: &str) {
    match PROMPT.get() {
        Some(prompt) => prompt(text),
        None => tracing::warn!("{text}"),
    }
}

/// What goes along with one call.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    pub headers: HeaderMap,
    token: Option<Secret>,
    proxy: Option<Secret>,
}

/// The right to speak to one control plane; cheap to clone.
#[derive(Clone, Default)]
pub struct Credentials(Option<Arc<Authenticator>>);

impl Credentials {
    /// For a control plane that asks nobody.
    pub fn none() -> Self {
        Self(None)
    }

    /// For the control plane at `endpoint`; the same for all that ask alike in this process.
    pub fn new(endpoint: &str, login: &Login, http: &Http, home: &Home) -> Self {
        static KNOWN: Memory<Vec<Arc<Authenticator>>> = Memory::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |one: &&Arc<Authenticator>| {
            one.endpoint == endpoint && one.login == *login && one.home == *home
        };
        if let Some(found) = known.iter().find(same) {
            found.use_client(http);
            return Self(Some(Arc::clone(found)));
        }
        let made = Arc::new(Authenticator {
            endpoint: endpoint.to_owned(),
            store: Store::new(endpoint, login, home),
            login: login.clone(),
            home: home.clone(),
            http: Memory::new(http.clone()),
            state: Mutex::default(),
        });
        // Headers of a caller's own come and go with its callers, and hold no state.
        if !matches!(login.mode, Mode::Passthrough(_)) {
            known.push(Arc::clone(&made));
        }
        Self(Some(made))
    }

    /// What to send with a call. May get or renew a token, and never asks a person: whether the
    /// control plane wants a token at all is seen when it refuses.
    pub async fn proof(&self) -> Result<Proof, Error> {
        match &self.0 {
            Some(authenticator) => authenticator.proof().await,
            None => Ok(Proof::default()),
        }
    }

    /// Gets another token in place of one that was refused; may ask a person.
    pub async fn renew(&self, refused: &Proof) -> Result<(), Error> {
        match &self.0 {
            Some(authenticator) => authenticator.renew(refused).await,
            None => Err(Error::NotAsked),
        }
    }

    /// Logs in whatever is kept from before, as a person asked for it.
    pub async fn login(&self) -> Result<(), Error> {
        match &self.0 {
            Some(authenticator) => authenticator.login().await,
            None => Err(Error::NotAsked),
        }
    }

    /// Forgets what is kept; tells whether there was anything.
    pub async fn logout(&self) -> Result<bool, Error> {
        match &self.0 {
            Some(authenticator) => authenticator.logout().await,
            None => Ok(false),
        }
    }
}

/// The login at one control plane.
struct Authenticator {
    endpoint: String,
    login: Login,
    home: Home,
    store: Store,
    http: Memory<Http>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether the store was looked at.
    is_loaded: bool,
    tokens: Option<Tokens>,
    proxy: Option<Secret>,
    discovered: Option<Discovered>,
}

impl Authenticator {
    fn http(&self) -> Http {
        let http = self.http.lock();
        http.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn use_client(&self, http: &Http) {
        let mut own = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        own.clone_from(http);
    }

    async fn proof(&self) -> Result<Proof, Error> {
        let mut state = self.state.lock().await;
        let mut proof = Proof::default();
        if !self.login.proxy_command.is_empty() {
            let token = match &state.proxy {
                Some(token) => token.clone(),
                None => command::run(&self.login.proxy_command).await?,
            };
            attach(&mut proof.headers, "proxy-authorization", &bearer(&token))?;
            state.proxy = Some(token.clone());
            proof.proxy = Some(token);
        }
        if let Mode::Passthrough(pairs) = &self.login.mode {
            for (name, value) in pairs {
                attach(&mut proof.headers, name, value)?;
            }
            return Ok(proof);
        }
        self.ready(&mut state).await?;
        if let Some(tokens) = &state.tokens {
            attach(&mut proof.headers, &tokens.header, &bearer(&tokens.access))?;
            proof.token = Some(tokens.access.clone());
        }
        Ok(proof)
    }

    /// Sees to it that there is a token which will not end soon, as far as that needs no person.
    async fn ready(&self, state: &mut State) -> Result<(), Error> {
        if !state.is_loaded {
            state.tokens = self.store.load().await;
            state.is_loaded = true;
        }
        match &state.tokens {
            None if self.login.mode.needs_a_person() => Ok(()),
            None => match self.obtain(state, None, Asking::Nobody).await {
                // A control plane that has no logins may want none.
                Err(Error::NoWay { .. }) => Ok(()),
                other => other,
            },
            Some(tokens) if !tokens.ends_soon() => Ok(()),
            Some(tokens) => {
                let old = tokens.access.clone();
                let is_over = tokens.is_over();
                let renewed = self.obtain(state, Some(&old), Asking::Nobody).await;
                match renewed {
                    // It is still good; whether the next one can be had is seen when it is not.
                    Err(_) if !is_over => Ok(()),
                    // The control plane may see it otherwise, or not ask.
                    Err(Error::LoginNeeded { .. }) => Ok(()),
                    other => other,
                }
            }
        }
    }

    async fn renew(&self, refused: &Proof) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if refused.proxy.is_some() && state.proxy == refused.proxy {
            state.proxy = None; // it may be the proxy that refused
        }
        if let Mode::Passthrough(pairs) = &self.login.mode {
            return Err(Error::Passthrough {
                endpoint: self.endpoint.clone(),
                is_empty: pairs.is_empty(),
            });
        }
        let current = state.tokens.as_ref().map(|tokens| &tokens.access);
        if current.is_some() && current != refused.token.as_ref() {
            return Ok(()); // somebody renewed it meanwhile
        }
        let asking = if self.login.interactive {
            Asking::ThePerson
        } else {
            Asking::Nobody
        };
        let renewed = self
            .obtain(&mut state, refused.token.as_ref(), asking)
            .await;
        if matches!(renewed, Err(Error::LoginNeeded { .. }))
            && let Err(none @ Error::NoWay { .. }) = self.discovered(&mut state).await
        {
            return Err(none); // whoever came could not log in either
        }
        renewed
    }

    async fn login(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if let Mode::Passthrough(_) = self.login.mode {
            return Err(Error::NotAsked);
        }
        state.tokens = None;
        let _alone = self.store.lock().await?;
        let tokens = self.fresh(&mut state, Asking::ThePerson).await?;
        self.keep(&mut state, tokens).await;
        Ok(())
    }

    async fn logout(&self) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        let _alone = self.store.lock().await?;
        let was = self.store.load().await.is_some();
        state.tokens = None;
        self.store.clear().await;
        Ok(was)
    }

    /// Gets a token other than `old`: one that another process got, a renewed one, or a new one.
    async fn obtain(
        &self,
        state: &mut State,
        old: Option<&Secret>,
        asking: Asking,
    ) -> Result<(), Error> {
        let _alone = self.store.lock().await?;
        if let Some(stored) = self.store.load().await {
            if Some(&stored.access) != old && !stored.is_over() {
                state.tokens = Some(stored);
                return Ok(());
            }
            // Another process may have left a newer one to renew with.
            state.tokens = Some(stored);
        }
        let tokens = match self.refreshed(state).await? {
            Some(tokens) => tokens,
            None => self.fresh(state, asking).await?,
        };
        self.keep(state, tokens).await;
        Ok(())
    }

    /// The token renewed without a person; `None` where that is not possible any more.
    async fn refreshed(&self, state: &mut State) -> Result<Option<Tokens>, Error> {
        let Some(old) = state.tokens.clone() else {
            return Ok(None);
        };
        let Some(refresh) = &old.refresh else {
            return Ok(None);
        };
        let discovered = self.discovered(state).await?;
        match oauth::refresh(&self.http(), &discovered, refresh).await {
            Ok(mut tokens) => {
                // A server that says nothing means the old one to be used on.
                tokens.refresh = tokens.refresh.or(old.refresh);
                Ok(Some(tokens))
            }
            // Any other refusal may be of today, and the login good tomorrow.
            Err(Error::Over { .. }) => {
                state.tokens = None;
                self.store.clear().await;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    async fn fresh(&self, state: &mut State, asking: Asking) -> Result<Tokens, Error> {
        let http = self.http();
        match &self.login.mode {
            Mode::Command(words) => {
                let mut tokens = Tokens::lasting(command::run(words).await?);
                // A control plane that tells nothing takes it under the usual name.
                if let Ok(discovered) = self.discovered(state).await {
                    tokens.header = discovered.header;
                }
                Ok(tokens)
            }
            Mode::ClientSecret { id, secret } => {
                let discovered = self.discovered(state).await?;
                oauth::client_credentials(&http, &discovered, id, secret).await
            }
            Mode::Pkce | Mode::DeviceFlow if asking == Asking::Nobody => Err(Error::LoginNeeded {
                endpoint: self.endpoint.clone(),
            }),
            Mode::Pkce => {
                let discovered = self.discovered(state).await?;
                browser::login(&http, &discovered, &self.endpoint).await
            }
            Mode::DeviceFlow => {
                let discovered = self.discovered(state).await?;
                device::login(&http, &discovered, &self.endpoint).await
            }
            Mode::Passthrough(_) => Err(Error::NotAsked),
        }
    }

    /// How one logs in here, asked of the control plane once.
    async fn discovered(&self, state: &mut State) -> Result<Discovered, Error> {
        if let Some(discovered) = &state.discovered {
            return Ok(discovered.clone());
        }
        let scopes = &self.login.scopes;
        let discovered = discovery::ask(&self.http(), &self.endpoint, scopes).await?;
        state.discovered = Some(discovered.clone());
        Ok(discovered)
    }

    async fn keep(&self, state: &mut State, tokens: Tokens) {
        self.store.save(&tokens).await;
        state.tokens = Some(tokens);
        state.is_loaded = true;
    }
}

/// Who may be asked to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Nobody,
    ThePerson,
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

fn attach(headers: &mut HeaderMap, name: &str, value: &Secret) -> Result<(), Error> {
    let unfit = || Error::Header {
        name: name.to_owned(),
    };
    let header: HeaderName = name.parse().map_err(|_| unfit())?;
    let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| unfit())?;
    value.set_sensitive(true);
    headers.insert(header, value);
    Ok(())
}
