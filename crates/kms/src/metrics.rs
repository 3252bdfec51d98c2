//! What the plugin counts. Labels come from closed sets and the configuration's names of members.

use crate::provider::{Class, Kind};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Upper bounds of the latency buckets in seconds: from a file's key to the deadline of kube-apiserver.
const LATENCY_BOUNDS_S: [f64; 12] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

/// What came of something: `ok` or a class.
fn outcome<T, E>(result: &Result<T, E>, class: impl Fn(&E) -> Class) -> &'static str {
    result.as_ref().map_or_else(|error| class(error).as_str(), |_| "ok")
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMember {
    member: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    member: String,
    call: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    member: String,
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyIdHash {
    key_id_hash: String,
}

/// What a member is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// To look at its key.
    Observe,
    /// To wrap.
    Wrap,
    /// To unwrap.
    Unwrap,
}

impl Deed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
        }
    }
}

/// All counters of the plugin.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Asked, Counter>,
    latency: Family<Method, Histogram>,
    calls: Family<Called, Counter>,
    call_latency: Family<Call, Histogram>,
    up: Family<OfMember, Gauge>,
    unopened: Family<OfMember, Gauge>,
    credential: Family<OfMember, Gauge>,
    went_back: Family<OfMember, Gauge>,
    refused: Family<OfMember, Gauge>,
    promotions: Family<OfMember, Counter>,
    hedges: Counter,
    margin: Gauge,
    degraded: Gauge,
    key_id: Family<KeyIdHash, Gauge>,
    told: Mutex<Option<String>>,
    audit_failures: Counter,
    state_failures: Counter,
    memory_locked: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("bulla_kms"),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS_S)),
            calls: Family::default(),
            call_latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS_S)),
            up: Family::default(),
            unopened: Family::default(),
            credential: Family::default(),
            went_back: Family::default(),
            refused: Family::default(),
            promotions: Family::default(),
            hedges: Counter::default(),
            margin: Gauge::default(),
            degraded: Gauge::default(),
            key_id: Family::default(),
            told: Mutex::default(),
            audit_failures: Counter::default(),
            state_failures: Counter::default(),
            memory_locked: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests of kube-apiserver, by method and outcome", self.requests.clone());
        let help = "Time from a request to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.latency.clone());
        registry.register("member_calls", "Calls of members, by what for and outcome", self.calls.clone());
        let help = "Time that a member took";
        registry.register_with_unit("member_call_duration", help, Unit::Seconds, self.call_latency.clone());
        registry.register("member_up", "1 while the member was lately seen well", self.up.clone());
        let help = "1 while the member could not be opened since the start: a file that it names is not there, or does not fit";
        registry.register("member_unopened", help, self.unopened.clone());
        let help = "When the member's credential ends unless it is renewed, in Unix seconds; 0 if it does not end";
        registry.register("member_credential_ends", help, self.credential.clone());
        let help = "1 while the member's backend names a key that was left, which is not used";
        registry.register("member_went_back", help, self.went_back.clone());
        let help = "1 while the member's key file is not taken, and the one that was read before stays in use";
        registry.register("member_key_file_refused", help, self.refused.clone());
        registry.register("member_promotions", "Keys of the member that came into use", self.promotions.clone());
        registry.register("hedges", "Members asked because another did not answer soon", self.hedges.clone());
        let help = "Members that may still fail before no new seed is made; below 0 it is so already";
        registry.register("redundancy_margin", help, self.margin.clone());
        registry.register(
            "degraded",
            "1 while new seeds are wrapped by fewer members than configured",
            self.degraded.clone(),
        );
        let help = "1 for the key id that kube-apiserver is told now, by the hash that its own metrics show";
        registry.register("key_id", help, self.key_id.clone());
        registry.register("audit_failures", "Audit lines that could not be written", self.audit_failures.clone());
        let help = "Times that what is remembered over a restart could not be written";
        registry.register("state_failures", help, self.state_failures.clone());
        let help = "1 if no memory of the process goes to swap, by a lock of its own";
        registry.register("memory_locked", help, self.memory_locked.clone());
    }

    /// All of it in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A request was answered.
    pub fn asked<T, E>(
        &self,
        method: &'static str,
        result: &Result<T, E>,
        class: impl Fn(&E) -> Class,
        took: Duration,
    ) {
        self.requests.get_or_create(&Asked { method, outcome: outcome(result, class) }).inc();
        self.latency.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// A member was called.
    pub fn called<T>(
        &self,
        member: &str,
        deed: Deed,
        result: &Result<T, crate::provider::ProviderError>,
        took: Duration,
    ) {
        let call = deed.as_str();
        let outcome = outcome(result, |error| error.class);
        self.calls.get_or_create(&Called { member: member.to_owned(), call, outcome }).inc();
        self.call_latency.get_or_create(&Call { member: member.to_owned(), call }).observe(took.as_secs_f64());
    }

    /// How a member is.
    pub fn member(&self, member: &str, kind: Kind, is: Health) {
        let label = OfMember { member: member.to_owned(), kind: kind.as_str() };
        self.up.get_or_create(&label).set(i64::from(is.well));
        self.unopened.get_or_create(&label).set(i64::from(is.unopened));
        self.went_back.get_or_create(&label).set(i64::from(is.went_back));
        self.refused.get_or_create(&label).set(i64::from(is.refused));
        self.credential.get_or_create(&label).set(is.credential_ends);
    }

    /// A key of a member came into use.
    pub fn promoted(&self, member: &str, kind: Kind) {
        self.promotions.get_or_create(&OfMember { member: member.to_owned(), kind: kind.as_str() }).inc();
    }

    /// Another member was asked before the first had answered.
    pub fn hedged(&self) {
        self.hedges.inc();
    }

    /// Whether new seeds are wrapped by fewer members than are configured.
    pub fn degraded(&self, fewer: bool) {
        self.degraded.set(i64::from(fewer));
    }

    /// What kube-apiserver is told.
    pub fn published(&self, key_id_hash: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&key_id_hash) {
            self.key_id.clear();
            self.key_id.get_or_create(&KeyIdHash { key_id_hash: key_id_hash.clone() }).set(1);
            *told = Some(key_id_hash);
        }
    }

    /// How many members more than needed are well.
    pub fn margin(&self, well: usize, needed: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.margin.set(number(well).saturating_sub(number(needed)));
    }

    /// An audit line was not written.
    pub fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    /// Whether the process locked its memory.
    pub fn memory_locked(&self, locked: bool) {
        self.memory_locked.set(i64::from(locked));
    }

    /// The state was not written.
    pub fn state_failed(&self) {
        self.state_failures.inc();
    }
}

/// How a member is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// It was lately seen well.
    pub well: bool,
    /// It could not be opened since the start.
    pub unopened: bool,
    /// Its backend names a key that was left.
    pub went_back: bool,
    /// Its key file is not taken, and the one before stays in use.
    pub refused: bool,
    /// When its credential ends, in Unix seconds; 0 if it does not.
    pub credential_ends: i64,
}
