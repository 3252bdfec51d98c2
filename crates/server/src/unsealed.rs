//! What a node holds while its cluster is unsealed. Dropped as a whole when it seals.

mod head;
mod watchers;

pub use head::{HeadKeeper, UnderWay};
pub use watchers::Watchers;

use crate::database::{Pools, Turns};
use crate::fair::FairQueue;
use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::snapshot::Sessions;
use bulla_core::action::{Resource, RoleName};
use bulla_core::audit::{Body, Label, LeaseEvent, Names, ResourceText, Written};
use bulla_core::barrier::Barrier;
use bulla_core::directory::{Change, Directory};
use bulla_core::engine::lease::Lease;
use bulla_core::operation::{Fault, Raised, Refusal};
use bulla_core::seal::Keyring;
use bulla_crypto::identity::Identity;
use bulla_crypto::message::ChallengeKey;
use bulla_wire::api::{AlarmKind, LineageEntry};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, Digest, Lineage, PrincipalId};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a refused mutation stays refused under its nonce, in milliseconds: a little longer than its challenge
/// lives, so that nobody can play it again after a policy has changed.
pub const REFUSAL_MS: u64 = 65_000;
/// Most requests that an unsealed cluster serves at once; more wait. Connections times streams stay far below.
pub const IN_FLIGHT_MAX: u32 = 1 << 20;
/// How long sealing waits for requests under way, in milliseconds. What takes longer is not committed any more.
pub const SEAL_PATIENCE_MS: u64 = 5_000;
/// How many read the audit log at once.
const LOG_READERS: usize = 2;
/// How many pages are read and worked on at once: each takes up to three times the largest one, so they take 96 MiB.
const PAGES: usize = 8;
/// Most refusals remembered of one principal; a hundred a second are more than anyone needs who does not attack.
pub const REFUSALS_EACH: usize = 8_192;
/// Most refusals remembered in all; at about 300 bytes each they take 40 MiB.
pub const REFUSALS_MAX: usize = 131_072;

/// Turns for the counts of leases: few principals wait for one another by chance.
const COUNTING: usize = 64;

/// Locks a mutex whose data is whole after any panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refusals of mutations, by nonce, for as long as they could be played again. Whoever has too many is refused
/// before anything is looked at, so that nobody's are forgotten early.
#[derive(Debug, Default)]
pub struct Refusals {
    kept: HashMap<Digest, Refused>,
    /// The nonces of each principal, oldest first.
    by_principal: HashMap<PrincipalId, VecDeque<Digest>>,
}

#[derive(Debug)]
struct Refused {
    until_ms: u64,
    request: Digest,
    refusal: Refusal,
}

impl Refusals {
    /// What was said to this nonce and request, or that this principal was refused too often to be heard.
    pub fn get(&self, key: &Digest, request: &Digest, principal: &PrincipalId, now_ms: u64) -> Option<Refusal> {
        match self.kept.get(key) {
            Some(refused) if now_ms < refused.until_ms && refused.request == *request => {
                return Some(refused.refusal.clone());
            }
            _ => {}
        }
        let own = self.by_principal.get(principal).map_or(0, VecDeque::len);
        (own >= REFUSALS_EACH)
            .then(|| Refusal::new(Code::Overloaded, "too many refused requests within a minute").hint("wait a minute"))
    }

    /// Remembers a refusal. If there is no room, the oldest of the principal with most is forgotten: whoever fills the
    /// memory loses its own protection first, and stands in nobody's way.
    pub fn keep(&mut self, key: Digest, request: Digest, principal: PrincipalId, refusal: &Refusal, now_ms: u64) {
        // What comes with a receipt stands in the state, which says the same again.
        if refusal.receipt.is_some() {
            return;
        }
        if self.kept.len() >= REFUSALS_MAX
            && let Some(most) = self.by_principal.values_mut().max_by_key(|own| own.len())
            && let Some(oldest) = most.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let until_ms = now_ms.saturating_add(REFUSAL_MS);
        let refused = Refused { until_ms, request, refusal: refusal.clone() };
        if self.kept.insert(key, refused).is_none() {
            self.by_principal.entry(principal).or_default().push_back(key);
        }
    }

    /// Forgets what cannot be played again.
    pub fn sweep(&mut self, now_ms: u64) {
        let before = self.kept.len();
        self.kept.retain(|_, refused| now_ms < refused.until_ms);
        if self.kept.len() == before {
            return;
        }
        let kept = &self.kept;
        self.by_principal.retain(|_, own| {
            own.retain(|key| kept.contains_key(key));
            !own.is_empty()
        });
    }
}

/// Alarms about used nonces that one principal gets in an hour: enough to say that somebody plays with its key, too few
/// to bury any other alarm. Each refusal has its line in the audit log all the same.
pub const REUSE_ALARMS_MAX: u32 = 16;
/// The hour of [`REUSE_ALARMS_MAX`], in milliseconds.
const REUSE_ALARMS_MS: u64 = 3_600_000;

/// Counts alarms about used nonces by principal, in hours of the monotonic clock.
#[derive(Debug, Default)]
pub struct ReuseAlarms {
    hour: u64,
    raised: HashMap<PrincipalId, u32>,
}

impl ReuseAlarms {
    /// Whether one more may be raised, which is then counted.
    pub fn raise(&mut self, principal: PrincipalId, monotonic_ms: u64) -> bool {
        let hour = monotonic_ms / REUSE_ALARMS_MS;
        if hour != self.hour {
            (self.hour, self.raised) = (hour, HashMap::new());
        }
        let raised = self.raised.entry(principal).or_default();
        let more = *raised < REUSE_ALARMS_MAX;
        *raised = raised.saturating_add(u32::from(more));
        more
    }
}

/// How many alarms each principal has not seen, once somebody counted them in the store.
#[derive(Debug, Default)]
pub struct Unseen {
    counts: HashMap<PrincipalId, u32>,
    changes: u64,
}

impl Unseen {
    /// The count, if it is known.
    pub fn get(&self, principal: &PrincipalId) -> Option<u32> {
        self.counts.get(principal).copied()
    }

    /// How often something changed so far: to be read before the store is, and given to [`Self::learn`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes a count from the store, unless something changed since it was begun: then it may be old already.
    pub fn learn(&mut self, principal: PrincipalId, count: u32, changes: u64) {
        if self.changes == changes {
            self.counts.insert(principal, count);
        }
    }

    /// These were told of an alarm, which is in the store already.
    pub fn told(&mut self, told: &[PrincipalId]) {
        self.changes = self.changes.wrapping_add(1);
        for principal in told {
            if let Some(count) = self.counts.get_mut(principal) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// This one has seen some, so they must be counted again.
    pub fn forget(&mut self, principal: &PrincipalId) {
        self.changes = self.changes.wrapping_add(1);
        self.counts.remove(principal);
    }
}

/// What `GET /v1/cluster` tells besides the documents.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Admins' approvals of genesis.
    pub approvals: Vec<Envelope>,
    /// Histories of the store, oldest first.
    pub lineages: Vec<LineageEntry>,
    /// Consents to lost commits.
    pub consents: Vec<Envelope>,
}

/// The keys and what depends on them.
pub struct Unsealed {
    /// The keys.
    pub keys: Keys,
    /// Held while a change of the directory is committed and taken over, so that they come in one order.
    pub changing: tokio::sync::Mutex<()>,
    /// Held while alarms are decided and committed, so that they come in one order.
    pub alarming: tokio::sync::Mutex<()>,
    /// A permit for each request under way, so that sealing can wait for them.
    pub in_flight: Semaphore,
    /// Turns of what takes long to compute.
    pub long: FairQueue,
    /// Turns of who reads the whole audit log: it may be long, and takes a thread that commits and snapshots need too.
    pub log: FairQueue,
    /// Turns of who has pages of records read, which are large.
    pub pages: FairQueue,
    /// The keys are being forgotten: nothing is committed any more.
    closed: AtomicBool,
    /// Refused mutations.
    pub refusals: Mutex<Refusals>,
    /// Alarms about used nonces.
    pub reuse_alarms: Mutex<ReuseAlarms>,
    /// How many alarms a principal has not seen.
    pub unseen: Mutex<Unseen>,
    /// Snapshots that are being taken.
    pub snapshots: Mutex<Sessions>,
    /// Who waits for secrets to change.
    pub watchers: Watchers,
    /// Connections to databases.
    pub databases: Pools,
    /// Held while a static role's password is rotated.
    pub rotations: Turns,
    /// Held by whoever changes how many leases a principal has; principals share them by their first byte.
    counting: [tokio::sync::Mutex<()>; COUNTING],
    directory: RwLock<Arc<Directory>>,
    sink: Arc<Sink>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsealed({}, epoch {})", self.keys.cluster, self.keys.epoch)
    }
}

/// The keys, as the seal's opening gave them.
pub struct Keys {
    /// The cluster.
    pub cluster: ClusterId,
    /// Epoch of the seal.
    pub epoch: u64,
    /// History of the store.
    pub lineage: Lineage,
    /// Seals and opens records.
    pub barrier: Barrier,
    /// Makes and checks challenges.
    pub challenge: ChallengeKey,
    /// Open secret bytes in requests, the current one first.
    pub ingress: Vec<Identity>,
    /// How names are written into the audit log.
    pub names: Names,
    /// Writes the head of every commit.
    pub head: Arc<HeadKeeper>,
    /// What clients need to judge answers.
    pub history: History,
    /// All keys, for a rekey.
    pub keyring: Keyring,
    /// SHA-256 of the seal's configuration, as it was dealt.
    pub config_sha256: Digest,
}

impl Unsealed {
    /// Puts keys and directory together.
    pub fn new(keys: Keys, directory: Directory, sink: Arc<Sink>, metrics: Arc<Metrics>) -> Self {
        // One of them stays for everything else, where there are two.
        let processors = std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1)).max(1);
        Self {
            keys,
            changing: tokio::sync::Mutex::new(()),
            alarming: tokio::sync::Mutex::new(()),
            in_flight: Semaphore::new(IN_FLIGHT_MAX as usize),
            long: FairQueue::new(processors, processors.saturating_sub(1).max(1)),
            log: FairQueue::new(LOG_READERS, 1),
            pages: FairQueue::new(PAGES, PAGES - 1),
            closed: AtomicBool::new(false),
            refusals: Mutex::default(),
            reuse_alarms: Mutex::default(),
            unseen: Mutex::default(),
            snapshots: Mutex::default(),
            watchers: Watchers::default(),
            databases: Pools::default(),
            rotations: Turns::default(),
            counting: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            directory: RwLock::new(Arc::new(directory)),
            sink,
            metrics,
        }
    }

    /// Waits for one's turn to change how many leases a principal has: side by side such commits would conflict until
    /// some of them give up.
    pub async fn counting(&self, owner: &PrincipalId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let place = owner.as_bytes().first().map_or(0, |byte| usize::from(*byte) % COUNTING);
        Some(self.counting.get(place)?.lock().await)
    }

    /// Tells the audit log of a lease. It is written once the returned future is done.
    pub fn note_lease(&self, event: LeaseEvent, lease: &Lease) -> Option<Written> {
        let resource = lease.resource().parse().ok()?;
        Some(self.sink.note(Body::Lease {
            event,
            lease: lease.id,
            principal: lease.owner,
            resource: self.keys.names.resource(&resource),
            user: self.keys.names.user(&lease.user),
        }))
    }

    /// Tells the audit log that a static role's password was rotated by time.
    pub fn note_rotation(&self, role: &RoleName, user: &str) {
        let resource = self.keys.names.resource(&Resource::DatabaseRole(role.clone()));
        drop(self.sink.note(Body::PasswordRotated { resource, user: self.keys.names.user(user) }));
    }

    /// Principals, policies and documents as they are now.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the keys are being forgotten.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until no request but `own` of them is under way, then lets nothing be committed any more.
    pub async fn close(&self, own: u32) {
        // The permits are held until the flag stands, so no request slips in between.
        let permits = self.quiet(own).await;
        if permits.is_none() {
            tracing::warn!("requests were still under way when the keys were forgotten");
        }
        self.forget();
        drop(permits);
    }

    /// The keys are of no use any more: nothing is committed with them, and who waits for a change is let go.
    pub fn forget(&self) {
        self.closed.store(true, Ordering::Release);
        self.watchers.end();
    }

    /// Waits until no request but `own` of them is under way. New ones wait while the permits are held. `None` if
    /// some take longer than [`SEAL_PATIENCE_MS`].
    pub async fn quiet(&self, own: u32) -> Option<SemaphorePermit<'_>> {
        let others = IN_FLIGHT_MAX.saturating_sub(own);
        let patience = Duration::from_millis(SEAL_PATIENCE_MS);
        tokio::time::timeout(patience, self.in_flight.acquire_many(others)).await.ok()?.ok()
    }

    /// Takes a committed change over.
    ///
    /// # Errors
    /// If what was just checked and written does not parse: a fault of ours.
    pub fn change(&self, change: Change) -> Result<(), Fault> {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        *directory = Arc::new(directory.with(change)?);
        Ok(())
    }

    /// Tells of alarms: metric, log, audit, and the parties' next answers. Their records are committed already.
    pub fn tell(&self, raised: &[Raised]) {
        for Raised { alarm, told } in raised {
            self.metrics.alarm_raised(alarm.kind);
            tracing::warn!(kind = alarm_name(alarm.kind), wrap = alarm.wrap.map(|id| id.to_string()), "alarm");
            let resource = alarm.wrap.map(|id| self.keys.names.resource(&Resource::Wrap(id)));
            drop(self.sink.note(alarm_line(alarm.kind, resource, told.first().copied())));
            lock(&self.unseen).told(told);
        }
    }
}

fn alarm_line(kind: AlarmKind, resource: Option<ResourceText>, principal: Option<PrincipalId>) -> Body {
    Body::Alarm { alarm: Label::lossy(alarm_name(kind)), principal, resource }
}

/// The spelling of an alarm's kind in log, metric and audit: that of the API.
pub fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::SecondClaim => "second_claim",
        AlarmKind::ClaimByStranger => "claim_by_stranger",
        AlarmKind::Nack => "nack",
        AlarmKind::Lapse => "lapse",
        AlarmKind::Redelivery => "redelivery",
        AlarmKind::ExpiredUnopened => "expired_unopened",
        AlarmKind::ReplayMutation => "replay_mutation",
        AlarmKind::KeyRotated => "key_rotated",
        AlarmKind::BadShare => "bad_share",
        AlarmKind::PolicyRecovered => "policy_recovered",
        AlarmKind::StoreRolledBack => "store_rolled_back",
        AlarmKind::ClockStepped => "clock_stepped",
        AlarmKind::Rekeyed => "rekeyed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Digest::new(bytes)
    }

    /// Many principals fill the memory; one that was never refused is heard, and what it was told then is kept.
    #[test]
    fn nobody_fills_the_memory_of_refusals_for_others() {
        let (mut refusals, request) = (Refusals::default(), digest(0));
        let refusal = Refusal::new(Code::Denied, "no");
        let (floods, quiet) = (REFUSALS_MAX.div_ceil(REFUSALS_EACH), PrincipalId::new([0xff; 32]));
        for n in 0..REFUSALS_MAX {
            let by = PrincipalId::new([u8::try_from(n % floods).unwrap(); 32]);
            assert_eq!(refusals.get(&digest(n as u64), &request, &by, 0), None);
            refusals.keep(digest(n as u64), request, by, &refusal, 0);
        }
        let code = |refusal: Option<Refusal>| refusal.map(|refusal| refusal.code);
        let own = digest(u64::MAX);
        assert_eq!(code(refusals.get(&own, &request, &PrincipalId::new([1; 32]), 0)), Some(Code::Overloaded));
        assert_eq!(refusals.get(&own, &request, &quiet, 0), None);
        refusals.keep(own, request, quiet, &refusal, 0);
        assert_eq!(code(refusals.get(&own, &request, &quiet, REFUSAL_MS - 1)), Some(Code::Denied));
        assert_eq!(refusals.kept.len(), REFUSALS_MAX, "one of the others was forgotten");
        refusals.sweep(REFUSAL_MS);
        assert!(refusals.kept.is_empty() && refusals.by_principal.is_empty());
    }
}
