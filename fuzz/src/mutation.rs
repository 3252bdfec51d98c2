//! Seeded mutations of inputs: for the ordinary test, which runs without a fuzzer.

use bulla_crypto::random::{Rng, SeededRng, draw};

/// Makes altered inputs: the same ones for the same seed.
pub struct Mutations(SeededRng);

impl Mutations {
    /// A sequence of mutations.
    pub fn new(seed: u64) -> Self {
        Self(SeededRng::from_u64(seed))
    }

    /// A number below `end`, or 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let number = u64::from_be_bytes(draw(&mut self.0));
        usize::try_from(number % u64::try_from(end.max(1)).unwrap_or(1)).unwrap_or_default()
    }

    /// `input` with one to four changes; `others` are what pieces are taken from.
    pub fn of(&mut self, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, others);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(bytes.len().saturating_add(1));
        let end = at.saturating_add(self.below(17)).min(bytes.len());
        match self.below(8) {
            0 => self.replace(bytes, at, |old, random| old ^ 1 << (random % 8)),
            1 => self.replace(bytes, at, |_, random| random),
            2 => self.replace(
                bytes,
                at,
                |old, random| if random % 2 == 0 { old.wrapping_add(1) } else { old.wrapping_sub(1) },
            ),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
                drop(bytes.splice(at..at, piece));
            }
            6 => {
                let mut piece = vec![0; self.below(9)];
                self.0.fill(&mut piece);
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let other = others.get(self.below(others.len())).map(Vec::as_slice).unwrap_or_default();
                let from = self.below(other.len().saturating_add(1));
                let to = from.saturating_add(self.below(65)).min(other.len());
                drop(bytes.splice(at..end, other.get(from..to).unwrap_or_default().iter().copied()));
            }
        }
    }

    fn replace(&mut self, bytes: &mut [u8], at: usize, new: impl Fn(u8, u8) -> u8) {
        let [random] = draw(&mut self.0);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = new(*byte, random);
        }
    }
}
