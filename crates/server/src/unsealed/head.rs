//! The head of every commit while the cluster is unsealed, and which nonces are still taken.

use super::lock;
use crate::clock::Clock;
use crate::sink::Sink;
use bulla_core::audit::AuditPosition;
use bulla_core::head::Head;
use bulla_core::record::{HeadSource, Revision, SealedValue, Sequence};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretKey;
use bulla_wire::id::{ClusterId, Lineage};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Writes the head of every commit: sequence, history, marks and the audit log's position.
pub struct HeadKeeper {
    key: SecretKey,
    cluster: ClusterId,
    lineage: Lineage,
    sequence: AtomicU64,
    mark: AtomicU32,
    /// Nonces of minutes below are not taken any more; at or above the mark.
    floor: AtomicU32,
    /// Minutes of the nonces under way, and how many.
    minutes: Mutex<BTreeMap<u32, usize>>,
    active_before_ms: u64,
    began_monotonic_ms: u64,
    clock: Arc<dyn Clock>,
    sink: Arc<Sink>,
    audit_before: AuditPosition,
}

impl fmt::Debug for HeadKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeadKeeper(sequence {})", self.sequence.load(Ordering::Relaxed))
    }
}

impl HeadKeeper {
    /// Goes on from the head of the commit that unsealed.
    pub fn new(key: SecretKey, cluster: ClusterId, head: &Head, clock: Arc<dyn Clock>, sink: Arc<Sink>) -> Self {
        Self {
            key,
            cluster,
            lineage: head.lineage,
            sequence: AtomicU64::new(head.sequence.0),
            mark: AtomicU32::new(head.mark),
            floor: AtomicU32::new(head.mark),
            minutes: Mutex::default(),
            active_before_ms: head.active_ms,
            began_monotonic_ms: clock.monotonic_ms(),
            clock,
            sink,
            audit_before: head.audit,
        }
    }

    /// Milliseconds for which the cluster was unsealed, ever.
    pub fn active_ms(&self, clock: &dyn Clock) -> u64 {
        self.active_before_ms.saturating_add(clock.monotonic_ms().saturating_sub(self.began_monotonic_ms))
    }

    /// The low-water mark of nonces: what is below may be gone from the store.
    pub fn mark(&self) -> u32 {
        self.mark.load(Ordering::Acquire)
    }

    /// Raises the mark; it never falls. The caller has raised the floor, and every line of a commit below it is on disk.
    pub fn raise_mark(&self, mark: u32) {
        self.mark.fetch_max(mark, Ordering::AcqRel);
    }

    /// Below which minute no nonce is taken.
    pub fn floor(&self) -> u32 {
        self.floor.load(Ordering::Acquire)
    }

    /// Takes no nonce below this minute from now on. Whether none of those that were taken is under way any more, so
    /// that all their lines are with the log.
    pub fn raise_floor(&self, floor: u32) -> bool {
        self.floor.fetch_max(floor, Ordering::AcqRel);
        lock(&self.minutes).range(..floor).next().is_none()
    }

    /// A request with a nonce of this minute is under way until the answer is dropped. It looks at the floor only
    /// then, so either it is refused or it is waited for.
    pub fn under_way(&self, minute: u32) -> UnderWay<'_> {
        let mut minutes = lock(&self.minutes);
        let count = minutes.entry(minute).or_default();
        *count = count.saturating_add(1);
        UnderWay { keeper: self, minute }
    }

    /// The last sequence given out.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }
}

/// A nonce's minute that must not go yet.
#[derive(Debug)]
pub struct UnderWay<'a> {
    keeper: &'a HeadKeeper,
    minute: u32,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.keeper.minutes).entry(self.minute) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl HeadSource for HeadKeeper {
    fn advance(&self) -> (Sequence, SealedValue) {
        let sequence = Sequence(self.sequence.fetch_add(1, Ordering::AcqRel).saturating_add(1));
        let head = Head {
            sequence,
            lineage: self.lineage,
            mark: self.mark(),
            active_ms: self.active_ms(self.clock.as_ref()),
            commit_ms: self.clock.unix_ms(),
            audit: self.sink.position().unwrap_or(self.audit_before),
        };
        let revision = Revision(u64::from_be_bytes(draw(&mut SystemRng)));
        match head.encode(&self.key, &self.cluster, revision) {
            Ok(value) => (sequence, value),
            // A head is always 141 bytes. Were it ever refused, going on would lose the history's thread.
            Err(_) => std::process::abort(),
        }
    }
}
