//! SHA-256, HMAC-SHA-256 and comparison in constant time; SHA-1 where others keep passwords by it.
//!
//! Identifiers are made where they are defined: `KeyId::new(sha256(&[spki]))`. Parts are hashed as if
//! they were written one after the other, so a caller whose parts vary in length must write the lengths
//! too, or use [`framed`].

use aws_lc_rs::{constant_time, digest, hmac};
use std::fmt;

/// SHA-256 (FIPS 180-4) of the parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    if let [part] = parts {
        // In one go, without a context on the heap.
        return bytes32(digest::digest(&digest::SHA256, part).as_ref());
    }
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// SHA-1 (FIPS 180-4). It does not resist collisions, so nothing of ours is named or signed by it: it is what MariaDB
/// keeps passwords by.
pub fn sha1(bytes: &[u8]) -> [u8; digest::SHA1_OUTPUT_LEN] {
    let mut hash = [0; digest::SHA1_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    hash
}

/// HMAC-SHA-256 (RFC 2104) of the parts, one after the other.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    bytes32(context.sign().as_ref())
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Writes each field as u32 big-endian length ‖ bytes, so that no two lists of fields give the same bytes.
pub fn framed(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len().saturating_add(4)).sum());
    for field in fields {
        // A field of 4 GiB cannot occur: every input of this program is bounded far below that.
        bytes.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(*field);
    }
    bytes
}

/// SHA-256 over bytes that arrive piece by piece.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// A hash of nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds bytes at the end.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        bytes32(self.0.finish().as_ref())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256(..)")
    }
}

/// The library answers with a slice; SHA-256 has 32 bytes.
fn bytes32(slice: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(slice);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn fips_180_4_examples() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(HEXLOWER.encode(&sha256(&[b"abc"])), abc);
        assert_eq!(HEXLOWER.encode(&sha256(&[b"a", b"", b"bc"])), abc);
        let mut streamed = Sha256::new();
        streamed.update(b"ab");
        let fork = streamed.clone();
        streamed.update(b"c");
        assert_eq!(HEXLOWER.encode(&streamed.finish()), abc);
        assert_eq!(fork.finish(), sha256(&[b"ab"]));
        assert_eq!(HEXLOWER.encode(&sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn rfc_4231_case_2() {
        let tag = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(HEXLOWER.encode(&tag), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn equality() {
        assert!(equal(b"", b"") && equal(b"same", b"same"));
        assert!(!equal(b"same", b"sama") && !equal(b"same", b"sam") && !equal(b"", b"x"));
    }

    #[test]
    fn frames_tell_field_boundaries() {
        assert_eq!(framed(&[b"ab", b""]), [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0]);
        assert_ne!(framed(&[b"ab", b"c"]), framed(&[b"a", b"bc"]));
        assert_ne!(framed(&[]), framed(&[b""]));
    }
}
