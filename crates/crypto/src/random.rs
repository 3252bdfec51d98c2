//! Randomness as a parameter.
//!
//! Whoever decides is given an [`Rng`], so that a simulation replays. Three things draw from their
//! library's own generator instead, because it offers no other way: age file keys, KEM encapsulations
//! and ECDSA or RSA-PSS signatures.

use crate::digest::sha256;
use crate::secret::{Secret, SecretKey};

/// A source of random bytes.
pub trait Rng: Send {
    /// Overwrites all of `bytes`. It cannot fail: a generator that cannot deliver must not return.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// Draws an array that is not secret: an id, a salt, a nonce.
pub fn draw<const N: usize>(rng: &mut dyn Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill(&mut bytes);
    bytes
}

/// Draws a 256-bit key.
pub fn secret_key(rng: &mut dyn Rng) -> SecretKey {
    Secret::filled(|key| rng.fill(key))
}

/// The operating system's generator, through aws-lc's DRBG.
///
/// If it fails, the process is aborted. Unwinding would be worse: a runtime that catches panics at the
/// edge of a task would go on serving without randomness, and there is no answer that a caller could give.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, bytes: &mut [u8]) {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            std::process::abort();
        }
    }
}

/// A deterministic generator for simulations and test vectors. **Never for keys that protect anything**:
/// who knows the seed knows every output, and it says nothing about resistance to state compromise.
///
/// Block i is SHA-256("bulla/v1/seeded-rng" ‖ seed ‖ u64 big-endian i). Its output depends on the total
/// number of bytes drawn only, not on how they were divided into calls.
pub struct SeededRng {
    seed: [u8; 32],
    next: u64,
    block: [u8; 32],
    used: usize,
}

impl SeededRng {
    /// A generator that always gives the same bytes for the same seed.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, next: 0, block: [0; 32], used: 32 }
    }

    /// As [`SeededRng::new`], from a number: the seed a failing simulation prints.
    pub fn from_u64(seed: u64) -> Self {
        Self::new(sha256(&[b"bulla/v1/seeded-rng/u64", &seed.to_be_bytes()]))
    }

    fn byte(&mut self) -> u8 {
        if let Some(byte) = self.block.get(self.used) {
            self.used += 1;
            return *byte;
        }
        self.block = sha256(&[b"bulla/v1/seeded-rng", &self.seed, &self.next.to_be_bytes()]);
        self.next = self.next.wrapping_add(1);
        self.used = 1;
        let [first, ..] = self.block;
        first
    }
}

impl Rng for SeededRng {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.byte();
        }
    }
}

impl std::fmt::Debug for SeededRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeededRng(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_stream_however_it_is_cut() {
        let whole: [u8; 100] = draw(&mut SeededRng::from_u64(7));
        let mut rng = SeededRng::from_u64(7);
        let mut cut = [0; 100];
        for part in cut.chunks_mut(33) {
            rng.fill(part);
        }
        assert_eq!(whole, cut);
        assert_ne!(whole, draw(&mut SeededRng::from_u64(8)));
    }

    #[test]
    fn the_stream_is_the_documented_one() {
        let mut expected = Vec::new();
        for i in 0_u64..3 {
            expected.extend(sha256(&[b"bulla/v1/seeded-rng", &[5; 32], &i.to_be_bytes()]));
        }
        assert_eq!(draw::<96>(&mut SeededRng::new([5; 32])).as_slice(), expected);
    }

    #[test]
    fn the_system_generator_fills_everything() {
        // A byte that never changes in 64 draws was not written.
        let draws: Vec<[u8; 40]> = (0..64).map(|_| draw(&mut SystemRng)).collect();
        for place in 0..40 {
            assert!(draws.iter().any(|bytes| bytes.get(place) != draws.first().and_then(|first| first.get(place))));
        }
        assert_ne!(secret_key(&mut SystemRng).expose(), &[0; 32]);
    }
}
