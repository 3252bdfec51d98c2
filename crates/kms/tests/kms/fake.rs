//! A backend in memory that does what a test orders.

use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::sealed;
use bulla_crypto::secret::SecretKey;
use bulla_kms::combine::Combination;
use bulla_kms::key::KeyRef;
use bulla_kms::member::{Member, Timing};
use bulla_kms::metrics::Metrics;
use bulla_kms::plugin::{Parts, Plugin};
use bulla_kms::promotion::{Remembered, Rules};
use bulla_kms::provider::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use bulla_kms::state::StateFile;
use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How the backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It refuses connections.
    Down,
    /// It takes a connection, and answers never.
    Hung,
    /// It answers wraps with what does not unwrap to the same.
    Lying,
    /// The key is disabled.
    Disabled,
}

pub struct State {
    pub mood: Mood,
    pub name: String,
    pub keys: BTreeMap<u32, SecretKey>,
    pub active: u32,
    pub unwraps: u32,
    pub delay: Duration,
}

/// The backend, and the provider of each node that asks it.
#[derive(Clone)]
pub struct Backend(Arc<Mutex<State>>);

impl Backend {
    pub fn new(name: &str) -> Self {
        let keys = BTreeMap::from([(1, secret_key(&mut SystemRng))]);
        let state =
            State { mood: Mood::Well, name: name.to_owned(), keys, active: 1, unwraps: 0, delay: Duration::ZERO };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn is(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub fn rotate(&self) {
        let mut state = self.state();
        state.active += 1;
        let active = state.active;
        state.keys.insert(active, secret_key(&mut SystemRng));
    }

    /// Waits as its mood is.
    async fn enter(&self) -> Result<(), ProviderError> {
        let (mood, delay) = {
            let state = self.state();
            (state.mood, state.delay)
        };
        tokio::time::sleep(delay).await;
        match mood {
            Mood::Hung => pending().await,
            Mood::Down => Err(ProviderError::new(Class::Unavailable, "it is down")),
            Mood::Disabled => Err(ProviderError::new(Class::KeyDisabled, "the key is disabled")),
            Mood::Well | Mood::Lying => Ok(()),
        }
    }

    fn key(&self, key: &KeyRef) -> Result<SecretKey, ProviderError> {
        let version: u32 = key.version.parse().unwrap();
        let missing = || ProviderError::new(Class::UnknownKey, "no such version");
        self.state().keys.get(&version).map(SecretKey::copy).ok_or_else(missing)
    }

    fn reference(state: &State, version: u32) -> KeyRef {
        KeyRef { backend: state.name.clone(), version: version.to_string(), check: String::new(), created: None }
    }
}

impl Provider for Backend {
    fn kind(&self) -> Kind {
        Kind::Age
    }

    fn max_wrapped_bytes(&self) -> usize {
        32 + sealed::OVERHEAD
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(async move {
            self.enter().await?;
            let state = self.state();
            let readable = state.keys.keys().map(|version| Self::reference(&state, *version)).collect();
            let active = Self::reference(&state, state.active);
            Ok(Observation { active, readable, older_wraps: true, credential_ends: None, credential_renewed: true })
        })
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            self.enter().await?;
            Ok(sealed::seal(&self.key(key)?, context.bytes(), plain.expose(), &mut SystemRng))
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            self.state().unwraps += 1;
            self.enter().await?;
            if self.state().mood == Mood::Lying {
                return Ok(secret_key(&mut SystemRng));
            }
            let opened = sealed::open(&self.key(key)?, context.bytes(), wrapped);
            let opened = opened.map_err(|error| ProviderError::new(Class::Corrupt, error.to_string()))?;
            Ok(SecretKey::from_slice(opened.expose()).unwrap())
        })
    }
}

/// A node of the Kubernetes cluster, with these backends. Times are those of a test.
pub fn node(combination: Combination, backends: &[&Backend], state: Option<&Path>) -> Arc<Plugin> {
    node_that_looks(combination, backends, state, Duration::from_millis(300))
}

/// The same, which looks at a backend for so long.
pub fn node_that_looks(
    combination: Combination,
    backends: &[&Backend],
    state: Option<&Path>,
    look: Duration,
) -> Arc<Plugin> {
    let rules = Rules { observations: 2, delay: Duration::ZERO };
    let timing = Timing {
        attempt: Duration::from_millis(100),
        look,
        period: Duration::from_secs(3600),
        stale: Duration::from_millis(500),
    };
    let state = state.map(|path| StateFile::new(path.to_owned(), 0));
    let mut remembered = state.as_ref().map_or_else(BTreeMap::new, |state| state.load().unwrap());
    let metrics = Arc::new(Metrics::new());
    let members = backends.iter().map(|backend| {
        let name = backend.state().name.clone();
        let known: Remembered = remembered.remove(&name).unwrap_or_default();
        let provider = Box::new((*backend).clone());
        Arc::new(Member::new(name, provider, "prod", (timing, rules), known, Arc::clone(&metrics)))
    });
    let members = members.collect();
    Arc::new(Plugin::new(Parts { cluster: "prod".into(), epoch: 0, combination, members, state, metrics }))
}

/// Soon enough for a test, and later than any single attempt.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(2)
}
