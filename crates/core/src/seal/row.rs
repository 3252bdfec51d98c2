//! Plain rows: what stands readable in the store, under fixed names.
//!
//! `0x02 | term 4 = 0 | revision 8 | content`. The frame is not authenticated: each content says for
//! itself why it is to be believed.

use crate::record::{RecordError, Revision, SealedValue, StoreKey};
use bulla_crypto::random::{Rng, draw};

/// The seal configuration and its MAC.
pub const CONFIG: &str = "seal/config";
/// The sealed keyring.
pub const KEYRING: &str = "seal/keyring";
/// What the names of all encrypted shares begin with.
pub const SHARES: &str = "seal/share/";
/// What the names of all cluster documents begin with.
pub const DOCUMENTS: &str = "document/";
/// What the names of all approvals of genesis begin with.
pub const APPROVALS: &str = "approval/";
/// What the names of all consents begin with.
pub const CONSENTS: &str = "consent/";
/// That the store was filled from a snapshot and not opened since.
pub const RESTORED: &str = "restored";
/// The list of histories, to be shown while sealed.
pub const LINEAGES: &str = "lineages";

/// The first byte of every plain row.
const PLAIN_TAG: u8 = 0x02;
const FRAME_BYTES: usize = 13;

/// The key of a plain row with a name of its own.
///
/// # Errors
/// None occurs for the names of this module.
pub fn key(name: &str) -> Result<StoreKey, RecordError> {
    StoreKey::new(name)
}

/// The key of share `index`. A scan gives 10 before 2.
///
/// # Errors
/// None occurs.
pub fn share_key(index: u8) -> Result<StoreKey, RecordError> {
    StoreKey::new(format!("{SHARES}{index}"))
}

/// The key of cluster document `number`. A scan gives 10 before 2.
///
/// # Errors
/// None occurs.
pub fn document_key(number: u32) -> Result<StoreKey, RecordError> {
    StoreKey::new(format!("{DOCUMENTS}{number}"))
}

/// The key of the approval of genesis by the admin at place `index` in it.
///
/// # Errors
/// None occurs.
pub fn approval_key(index: u8) -> Result<StoreKey, RecordError> {
    StoreKey::new(format!("{APPROVALS}{index}"))
}

/// The key of consent `number`, from 0.
///
/// # Errors
/// None occurs.
pub fn consent_key(number: u32) -> Result<StoreKey, RecordError> {
    StoreKey::new(format!("{CONSENTS}{number}"))
}

/// Writes a plain row under a fresh revision.
///
/// # Errors
/// If `content` is larger than a value may be.
pub fn encode(content: &[u8], rng: &mut dyn Rng) -> Result<SealedValue, RecordError> {
    let mut bytes = Vec::with_capacity(FRAME_BYTES.saturating_add(content.len()));
    bytes.push(PLAIN_TAG);
    bytes.extend([0; 4]);
    bytes.extend(fresh_revision(rng).0.to_be_bytes());
    bytes.extend_from_slice(content);
    SealedValue::new(bytes)
}

/// The content of a plain row; `None` if it has not the form of one.
pub fn content(row: &SealedValue) -> Option<&[u8]> {
    let (frame, content) = row.as_bytes().split_at_checked(FRAME_BYTES)?;
    frame.starts_with(&[PLAIN_TAG, 0, 0, 0, 0]).then_some(content)
}

/// A revision that no other writing has.
pub(super) fn fresh_revision(rng: &mut dyn Rng) -> Revision {
    Revision(u64::from_be_bytes(draw(rng)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::random::SeededRng;

    #[test]
    fn rows_and_names() {
        let row = encode(b"content", &mut SeededRng::from_u64(1)).unwrap();
        assert_eq!(content(&row), Some(&b"content"[..]));
        for place in 0..5 {
            let mut bytes = row.as_bytes().to_vec();
            bytes[place] ^= 1;
            assert_eq!(content(&SealedValue::new(bytes).unwrap()), None);
        }
        assert_eq!(share_key(7).unwrap().as_bytes(), b"seal/share/7");
        assert_eq!(approval_key(15).unwrap().as_bytes(), b"approval/15");
        assert_eq!(document_key(0).unwrap().as_bytes(), b"document/0");
        assert_eq!(consent_key(u32::MAX).unwrap().as_bytes(), b"consent/4294967295");
    }
}
