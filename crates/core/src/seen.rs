//! Exactly once: every mutation leaves its nonce in the bucket of the nonce's minute, in the commit of its
//! effect (`spec/request.md`).
//!
//! A bucket is dropped whole once no request may use it any more. The low-water mark says which minutes are
//! gone; it is in the head of every commit and in memory, and it never falls. So a nonce is either found,
//! new, or too old to be believed: never forgotten and taken as new.

use crate::audit::RequestId;
use crate::record::Revision;
use bulla_wire::id::Digest;
use serde::{Deserialize, Serialize};

/// Minutes that a bucket outlives its own.
pub const BUCKET_MINUTES: u32 = 5;

/// Whether a nonce's minute may be used now.
pub fn in_window(mark: u32, minute: u32, now_ms: u64) -> bool {
    mark <= minute && minute <= minute_of(now_ms).saturating_add(1)
}

/// Unix minutes.
pub fn minute_of(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 60_000).unwrap_or(u32::MAX)
}

/// The mark that could hold now: buckets below it may go, once their audit lines are on disk.
pub fn next_mark(now_ms: u64) -> u32 {
    minute_of(now_ms).saturating_sub(BUCKET_MINUTES.saturating_sub(1))
}

/// The revision of a request's row: the beginning of its id, as random as any other. Looking for lost audit lines, a
/// start tells rows by it without opening them.
pub fn revision(id: &RequestId) -> Revision {
    Revision(id.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
}

/// What stands beside a used nonce. Only what the state cannot tell again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Digest of the request: method, path, query, content type, content digest.
    pub request: Digest,
    /// The JSON reply, where it must be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// It was refused as if there were no such thing, and will be again: [`Replay::Noted`](crate::operation::Replay::Noted).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The audit line, in case it is lost after the commit.
    pub line: Box<serde_json::value::RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window() {
        let now_ms = 1000 * 60_000 + 59_999;
        let mark = next_mark(now_ms);
        assert_eq!(mark, 996, "the bucket of minute 995 is five minutes old");
        for (minute, expected) in [(995, false), (996, true), (1000, true), (1001, true), (1002, false)] {
            assert_eq!(in_window(mark, minute, now_ms), expected, "{minute}");
        }
        // The clock steps back: the mark stays, so what was dropped stays refused.
        assert!(!in_window(mark, 995, now_ms - 600_000));
        assert!(in_window(0, 990, now_ms - 600_000));
    }
}
