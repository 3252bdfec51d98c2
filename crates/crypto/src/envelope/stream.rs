//! The payload of an age file: STREAM over chunks of 64 KiB with ChaCha20-Poly1305.
//!
//! Nonce of chunk i = i as 11 bytes big endian ‖ 1 for the last chunk, else 0. The last chunk may be
//! short, but empty only if it is the first. So neither dropping, repeating, moving nor adding a chunk
//! goes unnoticed, and what is released of a longer file is always a true beginning of it.

use super::OpenError;
use crate::kem::{self, KemError, TAG_BYTES};
use crate::secret::SecretKey;
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

/// Plaintext bytes in every chunk but the last.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of a full chunk with its tag.
pub(super) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// Seals or opens the chunks of one payload, in order.
pub(super) struct Stream {
    key: LessSafeKey,
    /// Chunks done so far. 2^64 chunks are more bytes than exist.
    done: u64,
}

impl Stream {
    /// Begins at chunk 0. The key must serve this payload only.
    pub(super) fn new(key: &SecretKey) -> Result<Self, KemError> {
        Ok(Self { key: kem::chacha(key)?, done: 0 })
    }

    fn next_nonce(&mut self, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        let (_, counter) = nonce.split_at_mut(3);
        let (counter, flag) = counter.split_at_mut(8);
        counter.copy_from_slice(&self.done.to_be_bytes());
        flag.fill(u8::from(last));
        self.done = self.done.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Appends the sealed `chunk` to `out`.
    pub(super) fn seal(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), KemError> {
        let nonce = self.next_nonce(last);
        let start = out.len();
        out.extend_from_slice(chunk);
        let place = out.get_mut(start..).ok_or(KemError::Library)?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), place).map_err(|_| KemError::Library)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Appends the opened `chunk` to `out`, and says whether it was the last. `out` should have room for the
    /// whole of it, so that no copy of plaintext is left behind by growing; after an error it is as before.
    ///
    /// A short chunk can only be the last. Of a full one only the tag says what it is.
    pub(super) fn open(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<bool, OpenError> {
        if chunk.len() == SEALED_CHUNK_BYTES {
            if self.open_as(chunk, false, out).is_ok() {
                return Ok(false);
            }
            // The counter goes with the chunk, not with the attempt.
            self.done = self.done.wrapping_sub(1);
        } else if chunk.len() == TAG_BYTES && self.done > 0 {
            return Err(OpenError::Payload);
        }
        self.open_as(chunk, true, out).map(|()| true)
    }

    fn open_as(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let nonce = self.next_nonce(last);
        let start = out.len();
        out.extend_from_slice(chunk);
        let place = out.get_mut(start..).ok_or(OpenError::Payload)?;
        let opened = self.key.open_in_place(nonce, Aad::empty(), place).map(|plaintext| plaintext.len());
        out.truncate(start.saturating_add(opened.unwrap_or(0)));
        opened.map(|_| ()).map_err(|_| OpenError::Payload)
    }
}
