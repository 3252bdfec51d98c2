//! Symmetric encryption bound to a key and a place: barrier records, the keyring, seal shares.
//!
//! ```text
//! sealed     = salt(32) ‖ commitment(32) ‖ AES-256-GCM(key, nonce = 0^96, aad = "", plaintext) ‖ tag(16)
//! key(32) ‖ commitment(32) = HKDF-SHA-256(ikm = key, salt, info = "bulla/v1/sealed" ‖ SHA-256(aad))
//! ```
//!
//! The salt is drawn for every call, so each AES key seals one plaintext and the constant nonce is never used
//! twice; there is no counter that a restored machine could repeat. The commitment makes it hopeless to
//! find two keys that open one blob, which AES-GCM alone allows: a wrong key, or the right key in the wrong
//! place, is told apart from damage before anything is decrypted. `aad` says what the plaintext is and where it
//! belongs; callers write its variable parts with lengths ([`crate::digest::framed`]).
//!
//! Protected: content, and that it stands where it was put. *Not* protected: its length, when it was written,
//! how often it changes, that it exists, and its freshness: an older blob for the same key and place opens.

use crate::digest::{equal, sha256};
use crate::kdf::hkdf_sha256;
use crate::random::{Rng, draw};
use crate::secret::{Secret, SecretBytes, SecretKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

const SALT_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// How much longer a sealed blob is than its plaintext, in bytes.
pub const OVERHEAD: usize = SALT_LEN + COMMITMENT_LEN + TAG_LEN;

/// Why a blob does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedError {
    /// Shorter than any sealed blob.
    Truncated,
    /// Sealed under another key, or for another place, or its head is damaged.
    OtherKeyOrPlace,
    /// Key and place are right; the content was altered.
    Damaged,
}

impl fmt::Display for SealedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the sealed bytes are too short",
            Self::OtherKeyOrPlace => "sealed under another key or for another place",
            Self::Damaged => "the sealed bytes were altered",
        })
    }
}

impl std::error::Error for SealedError {}

/// Seals `plaintext` under `key` for the place that `aad` describes.
pub fn seal(key: &SecretKey, aad: &[u8], plaintext: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = draw(rng);
    let derived = derive(key, &salt, aad);
    let (single_use, commitment) = derived.expose().split_at(32);
    let mut blob = Vec::with_capacity(plaintext.len().saturating_add(OVERHEAD));
    blob.extend_from_slice(&salt);
    blob.extend_from_slice(commitment);
    blob.extend_from_slice(plaintext);
    let tag = blob
        .get_mut(SALT_LEN + COMMITMENT_LEN..)
        .and_then(|body| cipher(single_use)?.seal_in_place_separate_tag(zero_nonce(), Aad::empty(), body).ok());
    #[expect(
        clippy::expect_used,
        reason = "the head was just written, the key has 32 bytes, and AES-GCM refuses only plaintexts above 64 GiB"
    )]
    blob.extend_from_slice(tag.expect("AES-256-GCM seals").as_ref());
    blob
}

/// Opens what [`seal`] made with the same `key` and `aad`.
///
/// # Errors
/// See [`SealedError`]. Nothing was decrypted unless the key and the place are right.
pub fn open(key: &SecretKey, aad: &[u8], blob: &[u8]) -> Result<SecretBytes, SealedError> {
    if blob.len() < OVERHEAD {
        return Err(SealedError::Truncated);
    }
    let (salt, rest) = blob.split_at(SALT_LEN);
    let (claimed, body) = rest.split_at(COMMITMENT_LEN);
    let derived = derive(key, salt, aad);
    let (single_use, commitment) = derived.expose().split_at(32);
    if !equal(commitment, claimed) {
        return Err(SealedError::OtherKeyOrPlace);
    }
    let cipher = cipher(single_use).ok_or(SealedError::Damaged)?;
    let mut plaintext = SecretBytes::new(body.to_vec());
    let len = cipher
        .open_in_place(zero_nonce(), Aad::empty(), plaintext.expose_mut())
        .map_err(|_| SealedError::Damaged)?
        .len();
    plaintext.expose_mut().truncate(len);
    Ok(plaintext)
}

fn derive(key: &SecretKey, salt: &[u8], aad: &[u8]) -> Secret<[u8; 64]> {
    hkdf_sha256(key.expose(), salt, &[b"bulla/v1/sealed".as_slice(), &sha256(&[aad])].concat())
}

/// `None` never occurs: it would mean that 32 bytes are no AES-256 key.
fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// The key is used once, so the nonce may be constant.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRng;
    use data_encoding::HEXLOWER;

    fn key(byte: u8) -> SecretKey {
        SecretKey::new([byte; 32])
    }

    #[test]
    fn what_is_sealed_opens() {
        let mut rng = SeededRng::from_u64(1);
        for len in [0, 1, 15, 16, 17, 1000, 300_000] {
            let plaintext = vec![0x5a; len];
            let blob = seal(&key(1), b"place", &plaintext, &mut rng);
            assert_eq!(blob.len(), len + OVERHEAD);
            assert_eq!(open(&key(1), b"place", &blob).unwrap().expose(), &plaintext);
        }
    }

    /// The format, spelled out a second time with the primitives alone.
    #[test]
    fn the_format_is_the_documented_one() {
        let blob = seal(&key(1), b"place", b"text", &mut SeededRng::new([9; 32]));
        let salt: [u8; 32] = draw(&mut SeededRng::new([9; 32]));
        let mut info = b"bulla/v1/sealed".to_vec();
        info.extend(sha256(&[b"place"]));
        let derived: Secret<[u8; 64]> = hkdf_sha256(&[1; 32], &salt, &info);
        let (aes, commitment) = derived.expose().split_at(32);
        let mut expected = [salt.as_slice(), commitment].concat();
        let mut body = b"text".to_vec();
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, aes).unwrap())
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut body)
            .unwrap();
        expected.extend(body);
        assert_eq!(blob, expected);
        // A golden value, so that no change of the construction passes unseen.
        assert_eq!(HEXLOWER.encode(&sha256(&[&blob])), GOLDEN);
    }
    const GOLDEN: &str = "583b3193e5fd2ba53c9bdb496d9528a97a7ffba5c81dc83e4312cde59e2f9252";

    #[test]
    fn another_key_or_place_is_told_before_decryption() {
        let blob = seal(&key(1), b"place", b"text", &mut SeededRng::from_u64(2));
        for (key, aad) in [(key(2), b"place".as_slice()), (key(1), b"plac"), (key(1), b""), (key(1), b"place ")] {
            assert_eq!(open(&key, aad, &blob).unwrap_err(), SealedError::OtherKeyOrPlace);
        }
    }

    #[test]
    fn every_altered_bit_and_every_cut_is_noticed() {
        let blob = seal(&key(1), b"place", b"text", &mut SeededRng::from_u64(3));
        for place in 0..blob.len() {
            for bit in 0..8 {
                let mut bent = blob.clone();
                *bent.get_mut(place).unwrap() ^= 1 << bit;
                let expected = if place < 64 { SealedError::OtherKeyOrPlace } else { SealedError::Damaged };
                assert_eq!(open(&key(1), b"place", &bent).unwrap_err(), expected, "{place}");
            }
            let expected = if place < OVERHEAD { SealedError::Truncated } else { SealedError::Damaged };
            assert_eq!(open(&key(1), b"place", blob.get(..place).unwrap()).unwrap_err(), expected);
        }
        let longer = [blob.as_slice(), &[0]].concat();
        assert_eq!(open(&key(1), b"place", &longer).unwrap_err(), SealedError::Damaged);
    }

    #[test]
    fn equal_plaintexts_have_nothing_in_common() {
        let mut rng = SeededRng::from_u64(4);
        let first = seal(&key(1), b"place", &[0; 64], &mut rng);
        let second = seal(&key(1), b"place", &[0; 64], &mut rng);
        assert!(first.chunks(16).all(|chunk| second.chunks(16).all(|other| chunk != other)));
    }
}
