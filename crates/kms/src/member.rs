//! A member: a provider under supervision. Every call has an end, is counted and is tried at most twice; one that fails
//! again and again is left alone for a while; and a key is used after it was proven.

use crate::breaker::Breaker;
use crate::combine::Standing;
use crate::key::{KeyRef, KeyTag};
use crate::metrics::{Deed, Health, Metrics};
use crate::promotion::{Promotion, Remembered, Rules, Step};
use crate::provider::{Answer, Class, Context, Kind, Provider, ProviderError};
use bulla_crypto::digest::equal;
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::secret::SecretKey;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout_at;

/// A second attempt with less time than this would be for nothing.
const LEAST: Duration = Duration::from_millis(50);
/// Looks that have to be good before a member that was left out is used again.
const GOOD_LOOKS: u32 = 2;

/// How long a member may take, and how often it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// One attempt to wrap or unwrap.
    pub attempt: Duration,
    /// One look at the key, which may log in anew.
    pub look: Duration,
    /// Between two looks.
    pub period: Duration,
    /// A member that was not seen well for this long counts as away.
    pub stale: Duration,
}

/// A provider under supervision.
pub struct Member {
    name: String,
    provider: Box<dyn Provider>,
    timing: Timing,
    probe: Context,
    metrics: Arc<Metrics>,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    promotion: Promotion,
    breaker: Breaker,
    /// How long it takes to unwrap, smoothed, in seconds.
    latency: Option<f64>,
    tried: bool,
    well: Option<Instant>,
    /// It failed when a seed was to be wrapped; so many looks were good since.
    left_out: Option<u32>,
    went_back: bool,
    credential_ends: Option<SystemTime>,
    credential_renewed: bool,
    /// What it failed of last, so that the log has it once.
    error: Option<ProviderError>,
}

impl State {
    fn is_unopened(&self) -> bool {
        self.well.is_none() && self.error.as_ref().is_some_and(|error| error.class == Class::Config)
    }
}

impl Member {
    /// A member that was not looked at yet.
    pub fn new(
        name: String,
        provider: Box<dyn Provider>,
        cluster: &str,
        (timing, rules): (Timing, Rules),
        remembered: Remembered,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            name,
            provider,
            timing,
            probe: Context::new(cluster, "probe"),
            metrics,
            began: Instant::now(),
            state: Mutex::new(State {
                promotion: Promotion::new(rules, remembered),
                breaker: Breaker::default(),
                latency: None,
                tried: false,
                well: None,
                left_out: None,
                went_back: false,
                credential_ends: None,
                credential_renewed: true,
                error: None,
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is behind it.
    pub fn kind(&self) -> Kind {
        self.provider.kind()
    }

    /// Largest size in bytes of what it wraps.
    pub fn max_wrapped_bytes(&self) -> usize {
        self.provider.max_wrapped_bytes()
    }

    /// How long between two looks.
    pub fn period(&self) -> Duration {
        self.timing.period
    }

    /// What is known of it.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        Standing {
            key: state.promotion.current().cloned(),
            known: state.promotion.known(),
            tried: state.tried,
            left_out: state.left_out.is_some(),
        }
    }

    /// Whether it was lately seen well.
    pub fn is_well(&self) -> bool {
        self.state().well.is_some_and(|at| at.elapsed() < self.timing.stale)
    }

    /// Why it is not, in a line, if that is known.
    pub fn error(&self) -> Option<ProviderError> {
        self.state().error.clone()
    }

    /// Whether it could not be opened since the start, for a reason that lies in its configuration or in a file or module that
    /// this names.
    pub fn is_unopened(&self) -> bool {
        self.state().is_unopened()
    }

    /// Opens what lies on this node, tokens among it, and asks nobody over a network.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn prepare(&self) -> Result<(), ProviderError> {
        self.provider.prepare().await
    }

    /// When the credential ends that was used last, unless it is renewed.
    pub fn credential_ends(&self) -> Option<SystemTime> {
        self.state().credential_ends
    }

    /// Whether this program renews that credential by itself.
    pub fn is_credential_renewed(&self) -> bool {
        self.state().credential_renewed
    }

    /// What to remember of it over a restart.
    pub fn remembered(&self) -> Remembered {
        self.state().promotion.remembered().clone()
    }

    /// Its key with this tag, if it has one that unwraps.
    pub fn key(&self, tag: KeyTag) -> Option<KeyRef> {
        self.state().promotion.readable().iter().find(|key| key.digest().tag() == tag).cloned()
    }

    /// How long it takes to unwrap, in seconds; one that was never asked is asked first. One that rests, last.
    pub fn cost(&self) -> f64 {
        let state = self.state();
        let rests = if state.breaker.is_open() { 1000.0 } else { 0.0 };
        rests + state.latency.unwrap_or_default()
    }

    /// It failed when a seed was to be wrapped: until it is seen well again, seeds are wrapped without it.
    pub fn leave_out(&self) {
        self.state().left_out = Some(0);
    }

    /// Looks at the key, and proves the one that comes into use; `deep` asks for the proof of one that is in use already.
    pub async fn look(&self, deep: bool) {
        // Who failed of it has to prove it again: that a backend can be looked at says nothing of wrapping.
        let doubted = {
            let state = self.state();
            state.error.is_some() || state.left_out.is_some() || state.breaker.is_open()
        };
        let proves = deep || doubted;
        let looked = self.looked(proves).await;
        let mut state = self.state();
        state.tried = true;
        match looked {
            Ok(()) => {
                if let Some(error) = state.error.take() {
                    tracing::info!(member = self.name, before = %error, "the member is well again");
                }
                state.well = Some(Instant::now());
                // Whoever looks, looks past the breaker: a proof is the trial.
                if proves {
                    state.breaker.succeeded();
                }
                let good = state.left_out.map(|good| good.saturating_add(1));
                state.left_out = good.filter(|good| *good < GOOD_LOOKS);
                if good.is_some() && state.left_out.is_none() {
                    tracing::info!(member = self.name, "the member is used for new seeds again");
                }
            }
            Err(error) => {
                let again = state.error.as_ref() == Some(&error);
                state.error = Some(error.clone());
                match (again, state.is_unopened()) {
                    (true, _) => {}
                    (false, true) => tracing::error!(
                        member = self.name,
                        class = %error.class,
                        %error,
                        "the member cannot be opened, and this is tried again"
                    ),
                    (false, false) => {
                        tracing::warn!(member = self.name, class = %error.class, %error, "the member is not well");
                    }
                }
                state.left_out = state.left_out.map(|_| 0);
            }
        }
        drop(state);
        self.show();
    }

    async fn looked(&self, deep: bool) -> Result<(), ProviderError> {
        let until = self.until(self.timing.look);
        let seen = self.call(Deed::Observe, until, || self.provider.observe()).await?;
        let now = self.began.elapsed();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (step, current) = {
            let mut state = self.state();
            state.credential_ends = seen.credential_ends;
            state.credential_renewed = seen.credential_renewed;
            let step = state.promotion.observe(&seen, now, unix);
            let back = state.promotion.left(&seen.active);
            if back && !state.went_back {
                tracing::error!(
                    member = self.name,
                    version = seen.active.version,
                    "the backend names a key that was left before, and it is not used; if that is meant, raise epoch on every node"
                );
            }
            state.went_back = back;
            (step, state.promotion.current().cloned())
        };
        match (step, current) {
            (Step::Prove(key), _) => {
                self.prove(&key).await?;
                tracing::info!(member = self.name, version = key.version, key = %key.digest(), "the key comes into use");
                self.state().promotion.promoted(key);
                self.metrics.promoted(&self.name, self.kind());
                Ok(())
            }
            (Step::WentBack(key), None) => {
                let text = format!("version {} was left before, and what was used since is gone", key.version);
                Err(ProviderError::new(Class::Config, text))
            }
            (_, Some(key)) if deep => self.prove(&key).await,
            _ => Ok(()),
        }
    }

    /// Wraps something by this key and unwraps it again.
    async fn prove(&self, key: &KeyRef) -> Result<(), ProviderError> {
        let plain = secret_key(&mut SystemRng);
        self.wrapped(key, &plain, &self.probe, self.until(self.timing.look)).await.map(|_| ())
    }

    /// Wraps, and unwraps what came of it: a seed that does not come back must not be handed out.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn wrap(
        &self,
        key: &KeyRef,
        plain: &SecretKey,
        context: &Context,
        until: Instant,
    ) -> Result<Vec<u8>, ProviderError> {
        self.allowed()?;
        self.wrapped(key, plain, context, until).await
    }

    async fn wrapped(
        &self,
        key: &KeyRef,
        plain: &SecretKey,
        context: &Context,
        until: Instant,
    ) -> Result<Vec<u8>, ProviderError> {
        let wrapped = self.call(Deed::Wrap, until, || self.provider.wrap(key, plain, context)).await?;
        if wrapped.is_empty() || wrapped.len() > self.provider.max_wrapped_bytes() {
            let text = format!("what was wrapped has {} bytes, which this kind never has", wrapped.len());
            return Err(ProviderError::new(Class::Protocol, text));
        }
        let back = self.call(Deed::Unwrap, until, || self.provider.unwrap(key, &wrapped, context)).await?;
        if equal(back.expose(), plain.expose()) {
            Ok(wrapped)
        } else {
            Err(ProviderError::new(Class::Protocol, "what was wrapped does not unwrap to the same"))
        }
    }

    /// Unwraps.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn unwrap(
        &self,
        key: &KeyRef,
        wrapped: &[u8],
        context: &Context,
        until: Instant,
    ) -> Result<SecretKey, ProviderError> {
        self.allowed()?;
        self.call(Deed::Unwrap, until, || self.provider.unwrap(key, wrapped, context)).await
    }

    fn allowed(&self) -> Result<(), ProviderError> {
        if self.state().breaker.allows(self.began.elapsed()) {
            Ok(())
        } else {
            Err(ProviderError::new(Class::Unavailable, "it failed several times, and is left alone for a moment"))
        }
    }

    /// Calls the provider, a second time if the first failed in passing and there is time.
    async fn call<'a, T>(
        &'a self,
        deed: Deed,
        until: Instant,
        call: impl Fn() -> Answer<'a, T>,
    ) -> Result<T, ProviderError> {
        let limit = if deed == Deed::Observe { self.timing.look } else { self.timing.attempt };
        let first = self.attempt(deed, limit, until, &call).await;
        match first {
            Err(error) if error.class == Class::Unavailable && deed != Deed::Observe && left(until) > LEAST => {
                self.attempt(deed, limit, until, &call).await
            }
            done => done,
        }
    }

    async fn attempt<'a, T>(
        &'a self,
        deed: Deed,
        limit: Duration,
        until: Instant,
        call: &impl Fn() -> Answer<'a, T>,
    ) -> Result<T, ProviderError> {
        let begun = Instant::now();
        let end = begun.checked_add(limit).map_or(until, |end| end.min(until));
        let done = timeout_at(end.into(), call()).await.unwrap_or_else(|_| {
            let text = format!("no answer within {} ms", end.saturating_duration_since(begun).as_millis());
            Err(ProviderError::new(Class::Unavailable, text))
        });
        let took = begun.elapsed();
        self.metrics.called(&self.name, deed, &done, took);
        let mut state = self.state();
        match &done {
            Ok(_) => {
                if deed != Deed::Observe {
                    state.breaker.succeeded();
                }
                if deed == Deed::Unwrap {
                    let took = took.as_secs_f64();
                    state.latency = Some(state.latency.map_or(took, |before| before * 0.8 + took * 0.2));
                }
            }
            Err(error) if error.class.passes() => state.breaker.failed(self.began.elapsed()),
            Err(_) => {}
        }
        drop(state);
        done
    }

    fn until(&self, limit: Duration) -> Instant {
        let now = Instant::now();
        now.checked_add(limit).unwrap_or(now)
    }

    fn show(&self) {
        let well = self.is_well();
        let state = self.state();
        let ends = state.credential_ends.and_then(|ends| ends.duration_since(UNIX_EPOCH).ok());
        let credential_ends = ends.map_or(0, |ends| i64::try_from(ends.as_secs()).unwrap_or(i64::MAX));
        let refused = self.provider.refused().is_some();
        let unopened = state.is_unopened();
        let health = Health { well, unopened, went_back: state.went_back, refused, credential_ends };
        drop(state);
        self.metrics.member(&self.name, self.kind(), health);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
