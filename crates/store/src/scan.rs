//! What a scan means, the same in every backend.

use bulla_core::record::{Page, SCAN_BYTES_MAX, SealedValue, StoreKey};
use std::ops::Bound;

/// Where the rows of a scan begin. Rows before it are never wanted; the end is the first row without the
/// prefix.
pub(crate) fn start<'a>(prefix: &'a [u8], after: Option<&'a StoreKey>) -> Bound<&'a [u8]> {
    match after.map(StoreKey::as_bytes) {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// Takes one page from rows in key order that begin at [`start`].
pub(crate) fn page<E>(
    prefix: &[u8],
    limit: usize,
    rows: impl Iterator<Item = Result<(StoreKey, SealedValue), E>>,
) -> Result<Page, E> {
    let mut page = Page::default();
    let mut bytes = 0;
    for row in rows {
        let (key, value) = row?;
        if !key.as_bytes().starts_with(prefix) {
            break;
        }
        if page.entries.len() >= limit || bytes >= SCAN_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += key.as_bytes().len() + value.as_bytes().len();
        page.entries.push((key, value));
    }
    Ok(page)
}
