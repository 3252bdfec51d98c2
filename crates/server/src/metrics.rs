//! What the node counts, and the listener that shows it in the OpenMetrics text format.
//!
//! Labels come from closed sets in the code: route templates, status codes, error codes, kinds. No name, path or id
//! of anybody's is among them, so whoever reads the metrics learns how much, never who or what.

mod serve;

pub use serve::serve_metrics;

use bulla_wire::api::{AlarmKind, SealState};
use bulla_wire::error::Code;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Upper bounds of the latency buckets in seconds: from a read in memory to a wait that a person notices.
const LATENCY_BOUNDS_S: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.25, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    route: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All counters of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    latency: Histogram,
    refusals: Family<Reason, Counter>,
    by_certificate: Counter,
    commits: Counter,
    conflicts: Counter,
    alarms: Family<Kind, Counter>,
    deliveries: Family<Reason, Counter>,
    undelivered: Gauge,
    untold: Gauge,
    audit_blocked: Gauge,
    seal_state: Gauge,
    auto_unseal_failing: Gauge,
    epoch: Gauge,
    sequence: Gauge,
    connections: Gauge,
    handshakes_failed: Counter,
    turned_away: Counter,
    resident: Gauge,
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
            registry: Registry::with_prefix("bulla"),
            requests: Family::default(),
            latency: Histogram::new(LATENCY_BOUNDS_S),
            refusals: Family::default(),
            by_certificate: Counter::default(),
            commits: Counter::default(),
            conflicts: Counter::default(),
            alarms: Family::default(),
            deliveries: Family::default(),
            undelivered: Gauge::default(),
            untold: Gauge::default(),
            audit_blocked: Gauge::default(),
            seal_state: Gauge::default(),
            auto_unseal_failing: Gauge::default(),
            epoch: Gauge::default(),
            sequence: Gauge::default(),
            connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            turned_away: Counter::default(),
            resident: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered, by route and status", self.requests.clone());
        let help = "Time from a request's head to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.latency.clone());
        let help = "Requests refused before their key was known, by reason";
        registry.register("unauthenticated_requests", help, self.refusals.clone());
        let help = "Requests of known keys that were shown by a client certificate, not a signature";
        registry.register("mtls_requests", help, self.by_certificate.clone());
        registry.register("commits", "Commits to the store", self.commits.clone());
        registry.register("commit_conflicts", "Commits that another got ahead of", self.conflicts.clone());
        registry.register("alarms", "Alarms raised, by kind", self.alarms.clone());
        let help = "Attempts to tell the webhook of an alarm, by what came of them";
        registry.register("webhook_attempts", help, self.deliveries.clone());
        registry.register("webhook_waiting", "Alarms that the webhook has not taken yet", self.undelivered.clone());
        let help = "Alarms that came while too many waited for the webhook, and are not told";
        registry.register("webhook_dropped", help, self.untold.clone());
        let help = "1 while the audit log takes no lines, so that nothing is answered";
        registry.register("audit_blocked", help, self.audit_blocked.clone());
        registry.register("seal_state", "0 uninitialised, 1 sealed, 2 unsealed", self.seal_state.clone());
        let help = "1 while the identity of auto_unseal was not opened when it was tried last";
        registry.register("auto_unseal_failing", help, self.auto_unseal_failing.clone());
        registry.register("epoch", "Epoch of the seal", self.epoch.clone());
        registry.register("store_sequence", "Sequence number of the newest commit", self.sequence.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        let help = "TLS handshakes that failed or took too long";
        registry.register("handshakes_failed", help, self.handshakes_failed.clone());
        let help = "Connections that gave way to others, or were not taken, because all places were held";
        registry.register("connections_turned_away", help, self.turned_away.clone());
        registry.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, self.resident.clone());
    }

    /// A request was answered. `route` is the template, or another constant text if there was no route.
    pub fn request_answered(&self, method: &'static str, route: &'static str, code: u16, took: Duration) {
        self.requests.get_or_create(&Request { method, route, code }).inc();
        self.latency.observe(took.as_secs_f64());
    }

    /// A request was refused before its key was known.
    pub fn request_refused(&self, reason: Code) {
        self.refusals.get_or_create(&Reason { reason: reason.as_str() }).inc();
    }

    /// The caller of a request was known by the certificate of its connection.
    pub fn known_by_certificate(&self) {
        self.by_certificate.inc();
    }

    /// The store took a commit; `sequence` is its number.
    pub fn committed(&self, sequence: u64) {
        self.commits.inc();
        self.sequence.set(signed(sequence));
    }

    /// Another got ahead of a commit.
    pub fn commit_conflicted(&self) {
        self.conflicts.inc();
    }

    /// An alarm was raised.
    pub fn alarm_raised(&self, kind: AlarmKind) {
        self.alarms.get_or_create(&Kind { kind: crate::unsealed::alarm_name(kind) }).inc();
    }

    /// The webhook was called.
    pub fn webhook_called(&self, reason: &'static str) {
        self.deliveries.get_or_create(&Reason { reason }).inc();
    }

    /// How many alarms wait for the webhook.
    pub fn set_webhook_waiting(&self, count: u64) {
        self.undelivered.set(signed(count));
    }

    /// How many alarms the webhook is never told.
    pub fn set_webhook_dropped(&self, count: u64) {
        self.untold.set(signed(count));
    }

    /// Whether the audit log takes lines.
    pub fn set_audit_blocked(&self, blocked: bool) {
        self.audit_blocked.set(i64::from(blocked));
    }

    /// Where the seal stands.
    pub fn set_seal(&self, state: SealState, epoch: u64) {
        self.seal_state.set(match state {
            SealState::Uninitialised => 0,
            SealState::Sealed => 1,
            SealState::Unsealed => 2,
        });
        self.epoch.set(signed(epoch));
    }

    /// Whether the identity of auto_unseal was opened when it was tried last.
    pub fn set_auto_unseal(&self, well: bool) {
        self.auto_unseal_failing.set(i64::from(!well));
    }

    /// A connection was opened; it counts until the value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A connection gave way to another, or was not taken.
    pub fn connection_turned_away(&self) {
        self.turned_away.inc();
    }

    /// A TLS handshake failed or took too long.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Everything as OpenMetrics text. Resident memory is looked up now.
    pub fn text(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(signed(bytes));
        }
        let mut text = String::new();
        // Writing to a String cannot fail, and nothing else in the encoder can.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `VmRSS` of `/proc/self/status` (proc(5)), which is in KiB.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_text() {
        let metrics = Metrics::new();
        metrics.request_answered("GET", "/v1/kv/{path}", 200, Duration::from_millis(3));
        metrics.request_answered("GET", "/v1/kv/{path}", 200, Duration::from_secs(9));
        metrics.request_refused(Code::Unauthenticated);
        metrics.alarm_raised(AlarmKind::SecondClaim);
        metrics.committed(42);
        metrics.set_seal(SealState::Unsealed, 3);
        let open = metrics.connection_opened();
        let text = metrics.text();
        for line in [
            "bulla_requests_total{method=\"GET\",route=\"/v1/kv/{path}\",code=\"200\"} 2",
            "bulla_request_duration_seconds_bucket{le=\"0.004\"} 1",
            "bulla_request_duration_seconds_count 2",
            "bulla_unauthenticated_requests_total{reason=\"unauthenticated\"} 1",
            "bulla_alarms_total{kind=\"second_claim\"} 1",
            "bulla_commits_total 1",
            "bulla_store_sequence 42",
            "bulla_seal_state 2",
            "bulla_epoch 3",
            "bulla_connections 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        let resident = text.lines().find_map(|line| line.strip_prefix("bulla_resident_memory_bytes ")).expect("a line");
        assert!(resident.parse::<u64>().is_ok_and(|bytes| bytes > 1024 * 1024), "{resident}");
        assert!(text.ends_with("# EOF\n"));
        drop(open);
        assert!(metrics.text().contains("bulla_connections 0\n"));
    }

    #[test]
    fn labels_are_spelled_as_in_the_api() {
        let metrics = Metrics::new();
        for text in [
            "second_claim",
            "claim_by_stranger",
            "nack",
            "lapse",
            "redelivery",
            "expired_unopened",
            "replay_mutation",
            "key_rotated",
            "bad_share",
            "policy_recovered",
            "store_rolled_back",
            "clock_stepped",
        ] {
            let kind: AlarmKind = serde_json::from_value(text.into()).expect("a kind");
            metrics.alarm_raised(kind);
            assert!(metrics.text().contains(&format!("bulla_alarms_total{{kind=\"{text}\"}} 1\n")), "{text}");
        }
    }
}
