//! Lines that a crash took although their commits survived it: which they are, and writing them again.

use super::read::LogError;
use super::{Layout, Sink, can_be_read_again, files};
use bulla_core::audit::{AuditBlocked, RequestId, RequestLine};
use bulla_core::record::Revision;
use bulla_core::seen;
use std::collections::HashSet;
use std::hash::Hash;

impl Sink {
    /// Of deduplication rows, by their revisions, those whose request has no line in files with lines since `since_ms`.
    /// None if the log cannot be read again.
    pub async fn without_line(
        &self,
        mut rows: HashSet<Revision>,
        since_ms: u64,
    ) -> Result<HashSet<Revision>, LogError> {
        let Some(layout) = self.readable() else { return Ok(HashSet::new()) };
        let present = present(layout, rows.clone(), since_ms, |id| seen::revision(&id)).await?;
        rows.retain(|row| !present.contains(row));
        Ok(rows)
    }

    /// Writes, marked as recovered, those lines of deduplication rows that the log does not hold: their commits
    /// survived a crash that they did not. Answers how many. Call it before the first request is served.
    pub async fn recover(&self, lines: Vec<RequestLine>) -> Result<usize, LogError> {
        let Some(layout) = self.readable().filter(|_| !lines.is_empty()) else { return Ok(0) };
        let ids: HashSet<RequestId> = lines.iter().map(|line| line.id).collect();
        let since_ms = lines.iter().map(|line| line.received_ms).min().unwrap_or_default();
        let present = present(layout, ids, since_ms, |id| id).await?;
        let missing: Vec<RequestLine> = lines.into_iter().filter(|line| !present.contains(&line.id)).collect();
        let count = missing.len();
        for line in missing {
            self.note(line.recovered().into()).await.map_err(LogError::Blocked)?;
        }
        self.flush().await.map_err(LogError::Blocked)?;
        Ok(count)
    }

    /// Where lines can be read again, if they can.
    fn readable(&self) -> Option<Layout> {
        self.shared.layout.clone().filter(|layout| can_be_read_again(layout.place()))
    }
}

async fn present<T: Eq + Hash + Send + 'static>(
    layout: Layout,
    wanted: HashSet<T>,
    since_ms: u64,
    of: fn(RequestId) -> T,
) -> Result<HashSet<T>, LogError> {
    tokio::task::spawn_blocking(move || files::present(&layout, &wanted, since_ms, of))
        .await
        .map_err(|_| LogError::Blocked(AuditBlocked::Closed))?
        .map_err(LogError::Read)
}
