//! PINs that tokens refused: known to the whole process, whoever sent them. Who sends one asks in his turn ([`turn`]).
//!
//! Threat: a loop that sends a wrong PIN until the token locks. The worker that sent it may be gone, as may the provider that
//! started it; the token counts all the same. What is kept is a hash with a salt of this process, in memory alone: a PIN has
//! four digits, and whoever reads the memory finds it out, but nothing of it is written anywhere.

use crate::module::TokenId;
use bulla_crypto::digest::sha256;
use bulla_crypto::random::{SystemRng, draw};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// How many are kept of each token. It locks after fewer.
const PINS: usize = 16;
/// How many tokens are known.
const TOKENS: usize = 64;
const SALT_BYTES: usize = 32;

static SALT: LazyLock<[u8; SALT_BYTES]> = LazyLock::new(|| draw(&mut SystemRng));
static REFUSED: LazyLock<Mutex<HashMap<TokenId, VecDeque<Print>>>> = LazyLock::new(Mutex::default);

/// Whose turn it is at each token.
static TURNS: LazyLock<Mutex<HashMap<TokenId, Arc<Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// What tells one PIN from another within this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print([u8; 32]);

impl Print {
    pub fn of(pin: &[u8]) -> Self {
        Self(sha256(&[SALT.as_slice(), pin]))
    }
}

/// Whether the token refused this PIN, as far as this process knows.
pub(crate) fn is_known(token: &TokenId, pin: Print) -> bool {
    lent(|refused| refused.get(token).is_some_and(|pins| pins.contains(&pin)))
}

/// The token refused it.
pub(crate) fn remember(token: &TokenId, pin: Print) {
    lent(|refused| {
        if !refused.contains_key(token) && refused.len() >= TOKENS {
            return;
        }
        let pins = refused.entry(token.clone()).or_default();
        if !pins.contains(&pin) {
            pins.truncate(PINS.saturating_sub(1));
            pins.push_front(pin);
        }
    });
}

/// The token took it: somebody changed the PIN on it to this one.
pub(crate) fn forget(token: &TokenId, pin: Print) {
    lent(|refused| {
        if let Some(pins) = refused.get_mut(token) {
            pins.retain(|known| *known != pin);
        }
    });
}

/// What is held by whoever sends a PIN to a token, from asking whether it was refused to noting that it is: of several that send
/// at once, each would find it unknown, and the token count each. One that hangs meanwhile keeps those of the same token waiting,
/// and no others.
pub(crate) fn turn(token: &TokenId) -> Arc<Mutex<()>> {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody holds the others, nor waits for them.
    turns.retain(|other, turn| other == token || Arc::strong_count(turn) > 1);
    Arc::clone(turns.entry(token.clone()).or_default())
}

fn lent<T>(work: impl FnOnce(&mut HashMap<TokenId, VecDeque<Print>>) -> T) -> T {
    work(&mut REFUSED.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_is_known_of_its_token_alone() {
        let token = |serial: &str| TokenId {
            label: "ops".into(),
            serial: serial.into(),
            model: "m".into(),
            manufacturer: "m".into(),
        };
        let (one, other) = (token("refused-1"), token("refused-2"));
        let (pin, right) = (Print::of(b"1234"), Print::of(b"5678"));
        assert!(!is_known(&one, pin));
        remember(&one, pin);
        assert!(is_known(&one, Print::of(b"1234")) && !is_known(&one, right) && !is_known(&other, pin));
        forget(&one, pin);
        assert!(!is_known(&one, pin));
        for number in 0..=PINS {
            remember(&one, Print::of(&[u8::try_from(number).unwrap()]));
        }
        assert!(!is_known(&one, Print::of(&[0])), "the oldest makes room");
        assert!((1..=16).all(|number| is_known(&one, Print::of(&[number]))));
    }
}
