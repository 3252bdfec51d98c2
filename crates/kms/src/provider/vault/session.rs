//! The token of this node: got, kept, renewed and got again. It lies in memory alone.
//!
//! Whoever observes keeps it, and logs in before it ends; a call logs in only where there is no token at all. Logins
//! happen one at a time, and on a task of their own: a caller that gives up does not break off the exchange in which a
//! wrapping token is used up. A token that still works is never given up because its renewal failed.

use super::answer;
use super::answer::TokenState;
use super::api::{self, Api, Call};
use super::login::{self, Unwrapped};
use super::settings::{Auth, Settings};
use crate::provider::files::{MAX_BYTES, Reader, digest, whole};
use crate::provider::http::{Http, Shown};
use crate::provider::{Class, ProviderError};
use bulla_crypto::random::{SystemRng, draw};
use http::HeaderValue;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a login may take with all that belongs to it.
const LOGIN: Duration = Duration::from_secs(10);
/// How soon after a login that failed a call tries another one; whoever observes does so at once.
const PAUSE: Duration = Duration::from_secs(1);
/// How soon a token that may not look at itself is replaced again because something was denied to it. It may be a right
/// that is missing, and each login leaves a token behind.
const REST: Duration = Duration::from_secs(300);

/// A token, and what is known of it.
pub struct Token {
    /// As it is sent.
    pub header: HeaderValue,
    /// Whether it may create the key by encrypting; `None` if that is not known.
    pub may_create: Option<bool>,
    /// When it ends, on both clocks; `None` if it does not, or nobody says.
    ends: Option<(Instant, SystemTime)>,
    /// When it is to be renewed or replaced.
    due: Option<Instant>,
    renewable: bool,
    /// Whether renewals keep it without end.
    periodic: bool,
    /// What a renewal asks for.
    whole: Option<Duration>,
    /// Whether it may look at itself, so that a refusal means that it is none any more.
    looks: bool,
    /// The files that it was got by.
    files: [u8; 32],
    generation: u64,
}

impl Token {
    /// When it ends.
    pub fn ends(&self) -> Option<SystemTime> {
        self.ends.map(|(_, ends)| ends)
    }

    /// Whether two are the same, unrenewed.
    pub fn is(&self, other: &Self) -> bool {
        self.generation == other.generation
    }
}

/// What is to be done about the token.
enum Want {
    /// There is none.
    New,
    /// It is renewed.
    Renew(Arc<Token>),
    /// It is replaced by another one.
    Replace(Arc<Token>),
    /// Something was denied to it: it is looked at, and replaced if it is none any more.
    Check(Arc<Token>),
}

impl Want {
    fn about(&self) -> Option<&Arc<Token>> {
        match self {
            Self::New => None,
            Self::Renew(token) | Self::Replace(token) | Self::Check(token) => Some(token),
        }
    }
}

/// What logins leave behind. Who holds it is the one that logs in.
#[derive(Default)]
struct Gate {
    unwrapped: Option<Unwrapped>,
    failure: Option<(Instant, ProviderError)>,
    /// Until when nothing is made of a denial that may be one of a missing right.
    rest: Option<Instant>,
}

/// Who this node is at one Vault.
pub struct Session {
    settings: Settings,
    api: Api,
    reader: Reader,
    /// The digest of the file with the token, as it was read last.
    token_file: Mutex<Option<[u8; 32]>>,
    /// The path of the key's encryption, about which the token's rights are asked.
    encrypt: String,
    token: Mutex<Option<Arc<Token>>>,
    generations: AtomicU64,
    /// The generation to which something was denied; 0 for none.
    suspect: AtomicU64,
    attempts: AtomicU64,
    gate: tokio::sync::Mutex<Gate>,
}

impl Session {
    /// Makes ready to log in; nothing is sent and no file is read, as they may come later.
    ///
    /// # Errors
    /// [`Class::Config`] for a namespace that is none.
    pub fn new(settings: &Settings, encrypt: String) -> Result<Self, ProviderError> {
        let shown = match &settings.auth {
            Auth::Certificate(own) => Some(Shown { certificate: own.certificate.clone(), key: own.key.clone() }),
            _ => None,
        };
        let http = Http::new(settings.address.clone(), settings.ca.as_deref(), shown);
        Ok(Self {
            settings: settings.clone(),
            api: Api { http: Arc::new(http), namespace: api::namespace(settings.namespace.as_ref())? },
            reader: Reader::default(),
            token_file: Mutex::default(),
            encrypt,
            token: Mutex::default(),
            generations: AtomicU64::new(0),
            suspect: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            gate: tokio::sync::Mutex::default(),
        })
    }

    /// The way to the server.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The token as it is; a login if there is none.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Token>, ProviderError> {
        match self.current() {
            Some(token) => Ok(token),
            None => self.settle(Want::New, PAUSE).await,
        }
    }

    /// Reads a changed token, renews or replaces the one that there is where that is due; for whoever observes, and knows by which
    /// files (`way`) the server is spoken to.
    ///
    /// # Errors
    /// Why there is no token that may work.
    pub async fn kept(self: &Arc<Self>, way: [u8; 32]) -> Result<Arc<Token>, ProviderError> {
        let files = self.files(way).await?;
        let want = match self.current() {
            None => Want::New,
            Some(token) if token.files != files && self.comes_of_files() => Want::Replace(token),
            Some(token) if self.suspect.load(Ordering::Acquire) == token.generation => Want::Check(token),
            Some(token) if token.due.is_some_and(|due| due <= Instant::now()) => match token.renewable {
                true => Want::Renew(token),
                false => Want::Replace(token),
            },
            Some(token) => return Ok(token),
        };
        match self.settle(want, Duration::ZERO).await {
            Ok(token) => Ok(token),
            Err(error) => match self.current() {
                Some(token) => {
                    tracing::warn!(%error, "the token is not renewed; it is used as long as it lasts");
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    /// Says that something was denied to a token, so that it is looked at.
    pub fn suspect(&self, token: &Token) {
        self.suspect.store(token.generation, Ordering::Release);
    }

    fn current(&self) -> Option<Arc<Token>> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        token.filter(|token| token.ends.is_none_or(|(ends, _)| Instant::now() < ends))
    }

    fn comes_of_files(&self) -> bool {
        matches!(self.settings.auth, Auth::Certificate(_) | Auth::Token(_))
    }

    /// What tells the files as they are now from others: those of the way to the server, and the one with the token. While that
    /// cannot be read, what it was before counts.
    async fn files(&self, way: [u8; 32]) -> Result<[u8; 32], ProviderError> {
        let Auth::Token(own) = &self.settings.auth else { return Ok(way) };
        let path = own.file.clone();
        let read = self.reader.read(move || Ok(digest([whole(&path, MAX_BYTES)?.expose().as_slice()]))).await;
        let mut known = self.token_file.lock().unwrap_or_else(PoisonError::into_inner);
        let token = match (read, *known) {
            (Ok(token), _) => token,
            (Err(error), Some(before)) => {
                tracing::warn!(%error, "the token that was read before is used");
                before
            }
            (Err(error), None) => return Err(error),
        };
        *known = Some(token);
        Ok(digest([way.as_slice(), &token]))
    }

    /// Whether this program gets another token before this one ends. One that somebody else made it can only renew, and one
    /// without a period comes to its greatest age, which the system or the token itself sets.
    pub fn renews(&self, token: &Token) -> bool {
        (token.renewable && token.periodic) || !matches!(self.settings.auth, Auth::Token(_))
    }

    /// Does what is wanted, unless somebody else did it, or failed to, while this one waited or within `pause` before.
    async fn settle(self: &Arc<Self>, want: Want, pause: Duration) -> Result<Arc<Token>, ProviderError> {
        let own = Arc::clone(self);
        let before = self.attempts.load(Ordering::Acquire);
        let task = tokio::spawn(async move {
            let mut gate = own.gate.lock().await;
            let same = |now: &Arc<Token>| want.about().is_some_and(|then| then.is(now));
            if let Some(now) = own.current().filter(|now| !same(now)) {
                return Ok(now);
            }
            let repeated = own.attempts.load(Ordering::Acquire) != before;
            if let Some((when, failure)) = &gate.failure
                && (repeated || when.elapsed() < pause)
            {
                return Err(failure.clone());
            }
            let result = match tokio::time::timeout(LOGIN, own.attempt(&mut gate, want)).await {
                Ok(result) => result,
                Err(_) => Err(ProviderError::new(
                    Class::Unavailable,
                    format!("{} gives no token within {} s", own.settings.address, LOGIN.as_secs()),
                )),
            };
            own.attempts.fetch_add(1, Ordering::AcqRel);
            gate.failure = result.as_ref().err().map(|error| (Instant::now(), error.clone()));
            result
        });
        task.await.unwrap_or_else(|_| Err(ProviderError::new(Class::Unavailable, "the login was broken off")))
    }

    async fn attempt(&self, gate: &mut Gate, want: Want) -> Result<Arc<Token>, ProviderError> {
        match want {
            Want::New | Want::Replace(_) => self.login(gate).await,
            Want::Renew(token) => match self.renewed(&self.api, &token).await {
                Ok(token) => Ok(token),
                Err(error) if error.class.passes() => Err(error),
                Err(_) => self.login(gate).await,
            },
            Want::Check(token) => {
                match login::lookup(&self.api, &token.header).await {
                    Ok(_) => {
                        self.suspect.store(0, Ordering::Release);
                        return Ok(token);
                    }
                    Err(error) if error.class != Class::Denied => return Err(error),
                    Err(_) => {}
                }
                let now = Instant::now();
                if token.looks {
                    // It is none any more, so nothing is lost with it.
                    *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                } else if gate.rest.is_some_and(|rest| now < rest) {
                    self.suspect.store(0, Ordering::Release);
                    return Ok(token);
                } else {
                    gate.rest = now.checked_add(REST);
                }
                self.login(gate).await
            }
        }
    }

    async fn renewed(&self, api: &Api, token: &Token) -> Result<Arc<Token>, ProviderError> {
        let asked = Instant::now();
        let state = login::renew(api, &token.header, token.whole).await?;
        // At its greatest age a token gets less than it asks for: the next time it is replaced.
        let short = state.ttl.zip(token.whole).is_some_and(|(ttl, whole)| ttl < whole.mul_f32(0.9));
        let renewable = state.renewable && !short;
        Ok(self.install(Token {
            header: token.header.clone(),
            may_create: token.may_create,
            looks: token.looks,
            files: token.files,
            periodic: token.periodic,
            whole: token.whole.or(state.whole),
            ..self.timed(token.header.clone(), asked, state.ttl, renewable)
        }))
    }

    async fn login(&self, gate: &mut Gate) -> Result<Arc<Token>, ProviderError> {
        let api = &self.api;
        let files = self.files(api.http.renewed().await?).await?;
        let asked = Instant::now();
        let state = login::login(&self.settings.auth, (api, &self.reader), &mut gate.unwrapped).await?;
        let TokenState { token: Some(header), ttl, whole, renewable, periodic } = state else {
            return Err(ProviderError::new(Class::Protocol, "the login gave no token"));
        };
        let before = self.current().filter(|before| before.header == header);
        let looks = match login::lookup(api, &header).await {
            Ok(_) => true,
            Err(error) if error.class == Class::Denied => before.is_some_and(|before| before.looks),
            Err(error) => return Err(error),
        };
        let may_create = self.may_create(api, &header).await;
        let timed = self.timed(header, asked, ttl, renewable);
        Ok(self.install(Token { may_create, looks, files, whole, periodic, ..timed }))
    }

    /// Whether encrypting may make the key, as far as the token may ask.
    async fn may_create(&self, api: &Api, token: &HeaderValue) -> Option<bool> {
        #[derive(Serialize)]
        struct Paths<'a> {
            paths: [&'a str; 1],
        }
        let body = Paths { paths: [&self.encrypt] };
        let call = Call::post("sys/capabilities-self", Some(token), &body, 0).ok()?;
        let may = answer::may_create(&api.demand(call).await.ok()?, &self.encrypt)?;
        if may {
            tracing::warn!(
                path = self.encrypt,
                "the token may create the key by encrypting: take create from its policy"
            );
        }
        Some(may)
    }

    /// A token that was asked for at a time. It is renewed at about half of its time, each node at another moment.
    fn timed(&self, header: HeaderValue, asked: Instant, ttl: Option<Duration>, renewable: bool) -> Token {
        let [jitter] = draw::<1>(&mut SystemRng);
        let part = f32::from(jitter).mul_add(0.1 / 255.0, 0.45);
        let ends = ttl.and_then(|ttl| asked.checked_add(ttl).zip(SystemTime::now().checked_add(ttl)));
        Token {
            header,
            may_create: None,
            ends,
            due: ttl.and_then(|ttl| asked.checked_add(ttl.mul_f32(part))),
            renewable,
            periodic: false,
            whole: ttl,
            looks: false,
            files: [0; 32],
            generation: self.generations.fetch_add(1, Ordering::AcqRel).saturating_add(1),
        }
    }

    fn install(&self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&token));
        token
    }
}
