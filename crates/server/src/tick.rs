//! What happens by time: slots expire and lapse, old nonces go, the clock is watched.

use crate::clock::Watch;
use crate::drive::DriveError;
use crate::failpoint;
use crate::node::{Node, Phase};
use crate::unsealed::{Unsealed, lock};
use bulla_core::barrier::Kind;
use bulla_core::engine::{alarm, due};
use bulla_core::record::Batch;
use bulla_core::seen::next_mark;
use bulla_wire::api::AlarmKind;
use futures_util::stream::{self, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;

/// How often the sweep looks.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Due entries in one page.
const DUE_AT_ONCE: usize = 256;
/// How long one look at a kind goes on with further pages, in milliseconds: what is left waits until the other kinds have
/// had their turn.
const LOOK_MS: u64 = 1_000;
/// Entries that are ended side by side.
const SIDE_BY_SIDE: usize = 16;
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
    if !node.clock_is_even() {
        return;
    }
    for kind in Kind::DUE {
        if let Err(error) = sweep(node, &unsealed, kind).await {
            tracing::warn!(%error, "a sweep was cut off; the next one goes on");
        }
    }
    // As a request: sealing waits for it too.
    let Ok(_under_way) = unsealed.in_flight.try_acquire() else { return };
    if unsealed.is_closed() {
        return;
    }
    if let Err(error) = drop_buckets(node, &unsealed).await {
        tracing::warn!(%error, "old nonces were not dropped; the next sweep tries again");
    }
}

/// Puts an alarm into the store for every admin. One that cannot be stored is told in every other way: keys that are over
/// store nothing, and whoever owns the storage must not hide it by the list of one admin.
pub async fn tell_admins(node: &Node, unsealed: &Unsealed, kind: AlarmKind, message: &'static str) {
    let told = unsealed.directory().view().newest().body().admins.clone();
    let raise = alarm::Raise { kind, message, told };
    if let Err(error) = unsealed.drive(node.machine(), &raise, None, None).await {
        tracing::error!(%error, "an alarm of the admins was not stored");
        node.notice(kind, None, message);
    }
}

async fn sweep(node: &Node, unsealed: &Unsealed, kind: Kind) -> Result<(), DriveError> {
    let (mut after, clock) = (None, node.parts.clock.as_ref());
    let until_ms = clock.monotonic_ms().saturating_add(LOOK_MS);
    loop {
        // As a request: sealing waits for a page, and has its turn before the next one.
        let Ok(_under_way) = unsealed.in_flight.try_acquire() else { return Ok(()) };
        if unsealed.is_closed() {
            return Ok(());
        }
        let query = due::scan(kind, after.take(), DUE_AT_ONCE);
        let records = unsealed.read(&node.parts.store, std::slice::from_ref(&query)).await?;
        let Some((page, more)) = records.page(&query) else { return Ok(()) };
        // A step since the last look, which nobody noticed yet, must not make anything overdue.
        let now = unsealed.now(node.machine());
        if now.unix_ms != now.steady_ms {
            return Ok(());
        }
        let due = due::overdue(kind, page, now);
        // Behind what is not due yet nothing is.
        after = page.last().filter(|last| more && !due::is_early(kind, last, now)).map(|last| last.cursor.clone());
        end_all(node, unsealed, due).await?;
        if after.is_none() || clock.monotonic_ms() >= until_ms {
            return Ok(());
        }
    }
}

/// Ends what is due, some of it side by side, so that one sync of the store serves many. What cannot be ended now does not
/// keep the others from their end: the next look finds it again.
async fn end_all(node: &Node, unsealed: &Unsealed, due: Vec<due::Entry>) -> Result<(), DriveError> {
    // Within this task: whoever plays the node by hand plays all of it.
    let ending = due.into_iter().map(|entry| async move { (end(node, unsealed, &entry).await, entry) });
    let mut failed = None;
    let mut running = stream::iter(ending).buffer_unordered(SIDE_BY_SIDE);
    while let Some((ended, entry)) = running.next().await {
        match ended {
            Ok(()) => {}
            // Others changed the same thing at once, those beside it among them.
            Err(DriveError::Busy) => tracing::debug!(what = ?entry.what, "something due has to wait"),
            Err(error @ (DriveError::Barrier(_) | DriveError::Fault(_))) => {
                tracing::error!(%error, what = ?entry.what, "something due cannot be done");
            }
            // Those under way come to their end all the same: what they have committed is told.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Ends what one entry says is due.
async fn end(node: &Node, unsealed: &Unsealed, entry: &due::Entry) -> Result<(), DriveError> {
    for _ in 0..ROUNDS_MAX {
        failpoint::hit(failpoint::SWEEP_BEFORE_END);
        if unsealed.drive(node.machine(), entry, None, None).await?.committed.is_none() {
            break;
        }
        failpoint::hit(failpoint::SWEEP_AFTER_END);
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
