//! What happens by time: slots expire and lapse, old nonces go, the clock is watched.

use crate::clock::Watch;
use crate::drive::DriveError;
use crate::failpoint;
use crate::node::{Node, Phase};
use crate::unsealed::{Unsealed, lock};
use bulla_core::barrier::{Kind, Query};
use bulla_core::engine::{alarm, due};
use bulla_core::record::Batch;
use bulla_core::seen::next_mark;
use bulla_wire::api::AlarmKind;
use std::sync::Arc;
use std::time::Duration;

/// How often the sweep looks.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Due entries in one round.
const DUE_AT_ONCE: usize = 256;
/// Rounds of driving one entry again: a burial of the largest wrap takes a few.
const ROUNDS_MAX: usize = 16;
/// Buckets dropped in one commit.
const BUCKETS_AT_ONCE: u32 = 256;

/// Sweeps until the process ends.
pub async fn run(node: Arc<Node>) {
    let mut watch = node.watch();
    loop {
        tokio::time::sleep(PERIOD).await;
        once(&node, &mut watch).await;
    }
}

/// One look at the clock and at what is due.
pub async fn once(node: &Node, watch: &mut Watch) {
    node.sweep_nonces();
    node.parts.metrics.set_audit_blocked(node.parts.sink.healthy().is_err());
    lock(&node.sessions).sweep(node.now_ms());
    if watch.even(node.parts.clock.as_ref()) {
        node.clock_ran_evenly(watch);
    } else if node.set_clock_even(false) {
        tracing::warn!("the clock stepped: nothing is deleted by time until an admin confirms it");
        if let Phase::Unsealed(unsealed) = node.phase() {
            let _under_way = unsealed.in_flight.acquire().await;
            tell_admins(node, &unsealed, AlarmKind::ClockStepped, "the clock stepped: deleting waits").await;
        } else {
            node.notice(AlarmKind::ClockStepped, None, "the clock stepped: deleting waits");
        }
    }
    let Phase::Unsealed(unsealed) = node.phase() else { return };
    lock(&unsealed.refusals).sweep(node.now_ms());
    lock(&unsealed.snapshots).sweep(node.parts.clock.monotonic_ms());
    // As a request: sealing waits for the sweep too.
    let Ok(_under_way) = unsealed.in_flight.try_acquire() else { return };
    if !node.clock_is_even() || unsealed.is_closed() {
        return;
    }
    for kind in Kind::DUE {
        if let Err(error) = sweep(node, &unsealed, kind).await {
            tracing::warn!(%error, "a sweep was cut off; the next one goes on");
        }
    }
    if let Err(error) = drop_buckets(node, &unsealed).await {
        tracing::warn!(%error, "old nonces were not dropped; the next sweep tries again");
    }
}

/// Puts an alarm into the store for every admin.
pub async fn tell_admins(node: &Node, unsealed: &Unsealed, kind: AlarmKind, message: &'static str) {
    let told = unsealed.directory().view().newest().body().admins.clone();
    let raise = alarm::Raise { kind, message, told };
    if let Err(error) = unsealed.drive(node.machine(), &raise, None, None).await {
        tracing::error!(%error, "the admins were not told");
    }
}

async fn sweep(node: &Node, unsealed: &Unsealed, kind: Kind) -> Result<(), DriveError> {
    let query: [Query; 1] = [due::scan(kind, DUE_AT_ONCE)];
    let snapshot = node.parts.store.read(unsealed.keys.barrier.reads(&query)?).await?;
    let (_, records) = unsealed.keys.barrier.records(&query, snapshot)?;
    let [query] = query;
    let Some((page, _)) = records.page(&query) else { return Ok(()) };
    // A step since the last look, which nobody noticed yet, must not make anything overdue.
    let now = unsealed.now(node.machine());
    if now.unix_ms != now.steady_ms {
        return Ok(());
    }
    for entry in due::overdue(kind, page, now) {
        for _ in 0..ROUNDS_MAX {
            failpoint::hit(failpoint::SWEEP_BEFORE_END);
            match unsealed.drive(node.machine(), &entry, None, None).await {
                Ok(driven) if driven.committed.is_some() => failpoint::hit(failpoint::SWEEP_AFTER_END),
                Ok(_) => break,
                // One bad record must not keep the others from their end.
                Err(error @ (DriveError::Barrier(_) | DriveError::Fault(_))) => {
                    tracing::error!(%error, what = ?entry.what, "something due cannot be done");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Drops the buckets of nonces that nobody may use any more, once all their audit lines are on disk: until then
/// they are what lost lines are written again from. So first no more of them are taken, then those under way end, then
/// the log is synced; only then the mark rises, behind which nothing is written again.
async fn drop_buckets(node: &Node, unsealed: &Unsealed) -> Result<(), DriveError> {
    let now = unsealed.now(node.machine());
    let (mark, next) = (unsealed.keys.head.mark(), next_mark(now.unix_ms));
    if next <= mark || now.unix_ms != now.steady_ms {
        return Ok(());
    }
    if !unsealed.keys.head.raise_floor(next) {
        return Ok(());
    }
    node.parts.sink.flush().await.map_err(|e| DriveError::Store(e.to_string()))?;
    let mut minute = mark;
    while minute < next {
        let end = next.min(minute.saturating_add(BUCKETS_AT_ONCE));
        // The head of this commit holds it: what is below is dropped with it, and the next run begins there.
        unsealed.keys.head.raise_mark(end);
        let batch = Batch { drop_seen: (minute..end).collect(), ..Batch::default() };
        failpoint::hit(failpoint::NONCES_BEFORE_DROP);
        node.parts.store.commit(batch).await.map_err(|e| DriveError::Store(e.to_string()))?;
        failpoint::hit(failpoint::NONCES_AFTER_DROP);
        minute = end;
    }
    Ok(())
}
