//! Points at which a test can kill the process.
//!
//! With the cargo feature `failpoints`, `BULLA_FAILPOINT=name` aborts the process when it first reaches
//! that point, and `name:n` at the n-th time. Without the feature every call is empty, and an optimised build
//! holds no name of a point.

/// Names of the points in this crate.
pub const POINTS: &[&str] =
    &[GATHER, JUDGED, JOURNAL_BEFORE, COMMIT_BEFORE, COMMIT_AFTER, CHECKPOINT_BEFORE, CHECKPOINT_AFTER];

/// A batch has reached the writer; nothing is judged yet.
pub const GATHER: &str = "store.gather";
/// Every batch of the group is judged and applied in the open transaction.
pub const JUDGED: &str = "store.judged";
/// The record of the transaction, head row included, is in the journal and perhaps not on the disk.
pub const JOURNAL_BEFORE: &str = "store.journal.before";
/// The record is durable, and no reader sees the transaction yet.
pub const COMMIT_BEFORE: &str = "store.commit.before";
/// Readers see the transaction, and who waits for it does not know yet.
pub const COMMIT_AFTER: &str = "store.commit.after";
/// The journal is full, and the database does not hold it durably yet.
pub const CHECKPOINT_BEFORE: &str = "store.checkpoint.before";
/// The database holds it durably, and the journal has not begun anew.
pub const CHECKPOINT_AFTER: &str = "store.checkpoint.after";

/// Where a test names the point.
#[cfg(feature = "failpoints")]
const VARIABLE: &str = "BULLA_FAILPOINT";

/// Ends the process here if the environment says so.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text)));
    if let Some((chosen, at)) = chosen
        && chosen == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *at
    {
        eprintln!("failpoint {name}: abort at hit {at}");
        std::process::abort();
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_name: &str) {}

/// Whether this process is to die at some point.
#[cfg(feature = "failpoints")]
pub fn armed() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Never.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn armed() -> bool {
    false
}

/// Splits `name[:n]`. A number that is none belongs to no point, so the test that waits for it fails.
#[cfg(feature = "failpoints")]
fn parse(text: &str) -> (String, u64) {
    match text.rsplit_once(':').map(|(name, number)| (name, number.parse())) {
        Some((name, Ok(number))) => (name.to_owned(), number),
        _ => (text.to_owned(), 1),
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::parse;

    #[test]
    fn a_point_has_a_name_and_a_count() {
        assert_eq!(parse("store.gather"), ("store.gather".to_owned(), 1));
        assert_eq!(parse("store.gather:7"), ("store.gather".to_owned(), 7));
        assert_eq!(parse("store.gather:x"), ("store.gather:x".to_owned(), 1));
    }
}
