//! The server's challenge: 35 bytes that any unsealed node can check without shared state
//! (`spec/request.md`).

use crate::encoding::{base64url, base64url_decode};
use std::fmt;
use std::str::FromStr;

/// How long a challenge may be used, in milliseconds.
pub const LIFETIME_MS: u64 = 60_000;
/// How far in the future a challenge of another node may lie, in milliseconds.
pub const FUTURE_SKEW_MS: u64 = 5_000;

/// `version 1 | key epoch 2 | issued ms 6 | node 2 | random 8 | tag 16`, all big-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge([u8; Challenge::BYTES]);

impl Challenge {
    /// Length in bytes.
    pub const BYTES: usize = 35;
    /// Length of what the tag covers, in bytes.
    pub const COVERED: usize = 19;

    /// The covered bytes; the caller computes the tag over them.
    pub fn covered(key_epoch: u16, issued_ms: u64, node: [u8; 2], random: [u8; 8]) -> [u8; Self::COVERED] {
        let [_, _, t0, t1, t2, t3, t4, t5] = issued_ms.to_be_bytes();
        let [e0, e1] = key_epoch.to_be_bytes();
        let [n0, n1] = node;
        let [r0, r1, r2, r3, r4, r5, r6, r7] = random;
        [1, e0, e1, t0, t1, t2, t3, t4, t5, n0, n1, r0, r1, r2, r3, r4, r5, r6, r7]
    }

    /// Joins covered bytes and their tag.
    pub fn new(covered: [u8; Self::COVERED], tag: [u8; 16]) -> Self {
        let mut bytes = [0; Self::BYTES];
        let (head, tail) = bytes.split_at_mut(Self::COVERED);
        head.copy_from_slice(&covered);
        tail.copy_from_slice(&tag);
        Self(bytes)
    }

    /// The covered bytes and the tag.
    pub fn parts(&self) -> ([u8; Self::COVERED], [u8; 16]) {
        let mut covered = [0; Self::COVERED];
        let mut tag = [0; 16];
        let (head, tail) = self.0.split_at(Self::COVERED);
        covered.copy_from_slice(head);
        tag.copy_from_slice(tail);
        (covered, tag)
    }

    /// Low 16 bits of the epoch whose key made the tag.
    pub fn key_epoch(&self) -> u16 {
        let [_, e0, e1, ..] = self.0;
        u16::from_be_bytes([e0, e1])
    }

    /// When it was issued, Unix milliseconds.
    pub fn issued_ms(&self) -> u64 {
        let [_, _, _, t0, t1, t2, t3, t4, t5, ..] = self.0;
        u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5])
    }

    /// The Unix minute in which it was issued: the first four bytes of a nonce.
    pub fn minute(&self) -> u32 {
        u32::try_from(self.issued_ms() / 60_000).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url(&self.0))
    }
}
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({self})")
    }
}

/// Why a text is no challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseChallengeError;

impl fmt::Display for ParseChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 47 characters of unpadded base64url, version 1")
    }
}
impl std::error::Error for ParseChallengeError {}

impl FromStr for Challenge {
    type Err = ParseChallengeError;
    fn from_str(text: &str) -> Result<Self, ParseChallengeError> {
        let bytes: [u8; Self::BYTES] =
            base64url_decode(text).and_then(|bytes| bytes.try_into().ok()).ok_or(ParseChallengeError)?;
        if bytes.first() == Some(&1) { Ok(Self(bytes)) } else { Err(ParseChallengeError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let covered = Challenge::covered(0x0102, 0x0000_0304_0506_0708, [9, 10], [11; 8]);
        assert_eq!(covered, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11, 11, 11, 11, 11, 11]);
        let challenge = Challenge::new(covered, [12; 16]);
        assert_eq!(challenge.key_epoch(), 0x0102);
        assert_eq!(challenge.issued_ms(), 0x0304_0506_0708);
        assert_eq!(challenge.minute(), 55_263_317);
        assert_eq!(challenge.parts(), (covered, [12; 16]));
        assert_eq!(challenge.to_string().parse(), Ok(challenge));
        assert_eq!("A".repeat(47).parse::<Challenge>(), Err(ParseChallengeError));
    }
}
