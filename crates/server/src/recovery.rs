//! At unsealing: audit lines whose commits survived a crash that they did not are written again, from the nonces of the
//! last minutes (`spec/audit.md`).
//!
//! There may be a hundred thousand of them, all but a few with their line in the log. So nothing is opened at first: a
//! row's revision is the beginning of its request's id, and those that the log knows are left out by it.

use crate::ceremony::CeremonyError;
use crate::drive::DriveError;
use crate::node::Node;
use bulla_core::audit::RequestLine;
use bulla_core::barrier::{Barrier, SEEN_KIND};
use bulla_core::operation::{Fault, parse_record};
use bulla_core::record::{Answer, Read, Revision, SCAN_ENTRIES_MAX, SealedValue, StoreKey, Table};
use bulla_core::seen::Seen;
use std::collections::HashSet;

/// How much older than its nonce's minute a request's line may be, in milliseconds: the clocks' skew, many times.
const SKEW_MS: u64 = 60_000;

/// Writes the lines that are missing for nonces of minutes from `mark` on. Every bucket that is there counts: had the
/// clock been set back, the last commit would be of an earlier minute than the nonces before it. Tells of which requests the store
/// holds what they did, by [`bulla_core::seen::revision`].
pub(crate) async fn recover_audit(
    node: &Node,
    barrier: &Barrier,
    mark: u32,
) -> Result<HashSet<Revision>, CeremonyError> {
    let mut minutes = node.parts.store.freeze().await?.buckets().await?;
    minutes.retain(|minute| *minute >= mark);
    let mut revisions: HashSet<Revision> = HashSet::new();
    let mut first = None;
    for minute in minutes.iter().copied() {
        let before = revisions.len();
        each(node, Table::Seen(minute), |_, value| {
            revisions.insert(value.revision());
            Ok(())
        })
        .await?;
        if revisions.len() > before {
            first.get_or_insert(minute);
        }
    }
    let Some(first) = first else { return Ok(revisions) };
    let since_ms = u64::from(first).saturating_mul(60_000).saturating_sub(SKEW_MS);
    let failed = |e: crate::sink::LogError| CeremonyError::Store(e.to_string());
    let missing = node.parts.sink.without_line(revisions.clone(), since_ms).await.map_err(failed)?;
    if missing.is_empty() {
        return Ok(revisions);
    }
    let mut lines = Vec::new();
    for minute in minutes.into_iter().filter(|minute| *minute >= first) {
        let table = Table::Seen(minute);
        each(node, table, |key, value| {
            if missing.contains(&value.revision()) {
                let bytes = barrier.open(table, key, SEEN_KIND, value).map_err(DriveError::from)?;
                let seen: Seen = parse_record("seen", &bytes)?;
                let parsed = RequestLine::from_bytes(seen.line.get().as_bytes());
                lines.push(parsed.map_err(|e| Fault::Record { kind: "seen", reason: e.to_string() })?);
            }
            Ok(())
        })
        .await?;
    }
    let count = node.parts.sink.recover(lines).await.map_err(failed)?;
    if count > 0 {
        tracing::warn!(count, "audit lines were lost in a crash and written again");
    }
    Ok(revisions)
}

/// Shows every row of a table, page by page.
async fn each(
    node: &Node,
    table: Table,
    mut show: impl FnMut(&StoreKey, &SealedValue) -> Result<(), CeremonyError>,
) -> Result<(), CeremonyError> {
    let mut after = None;
    loop {
        let read = Read::Scan { table, prefix: vec![], after: after.take(), limit: SCAN_ENTRIES_MAX };
        let mut answers = node.parts.store.read(vec![read]).await?.answers;
        let Some(page) = answers.pop().and_then(Answer::into_page) else { return Ok(()) };
        for (key, value) in &page.entries {
            show(key, value)?;
        }
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}
