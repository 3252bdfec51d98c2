//! What is tried again, how often, and what a call that failed in the end is told as.

use crate::call::Call;
use crate::error::ClientError;
use bulla_crypto::random::{Rng as _, SystemRng};
use bulla_wire::error::Code;
use std::time::Duration;

/// How often a stale challenge, an answer that must not be believed, and a connection that was never made are
/// tried again: once is bad luck, three times is a state of things.
pub(crate) const FEW_TRIES: u32 = 3;
/// First wait before a retry; each next one is twice as long.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait before a retry.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Counts what went wrong so far.
#[derive(Default)]
pub(crate) struct Tries {
    pub all: u32,
    pub few: u32,
    pub stale: u32,
    pub lagging: bool,
    /// An attempt may have reached the server without a verified answer.
    pub unknown: bool,
}

/// Refusals that are decided before the nonce is looked up, by what may have changed since the first attempt. They
/// say nothing of what became of it.
pub(crate) fn before_nonce(code: Code) -> bool {
    use Code::{
        AlreadyInitialised, AuditBlocked, Denied, IngressChanged, Internal, NonceExpired, NotAdmin, NotSealed, Sealed,
        StaleChallenge, Unauthenticated, UnknownSession, WrongAudience,
    };
    matches!(
        code,
        AlreadyInitialised
            | AuditBlocked
            | Denied
            | IngressChanged
            | Internal
            | NonceExpired
            | NotAdmin
            | NotSealed
            | Sealed
            | StaleChallenge
            | Unauthenticated
            | UnknownSession
            | WrongAudience
    )
}

/// What a failed call is told as: a change that may have happened has an unknown outcome.
pub(crate) fn outcome(call: &Call, tries: &Tries, error: ClientError) -> ClientError {
    if call.changes && tries.unknown { ClientError::UnknownOutcome { cause: Box::new(error) } } else { error }
}

/// Doubles with each try, up to [`LONGEST_WAIT`], less up to a half by chance, so that many clients that lost
/// one server do not come back at once.
pub(crate) fn back_off(tries: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_WAIT);
    let mut chance = [0; 1];
    SystemRng.fill(&mut chance);
    let [chance] = chance;
    doubled - (doubled / 2).mul_f64(f64::from(chance) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        for tries in 1..40 {
            let full = FIRST_WAIT.saturating_mul(1 << (tries - 1).min(10)).min(LONGEST_WAIT);
            for _ in 0..20 {
                let wait = back_off(tries);
                assert!(wait <= full && wait >= full / 2, "{tries}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_lost_change_has_an_unknown_outcome() {
        let tries = |unknown| Tries { unknown, ..Tries::default() };
        let change = Call::change("POST", "/v1/x", &());
        let lost = || ClientError::Unreachable { address: String::new(), cause: String::new() };
        assert!(matches!(outcome(&change, &tries(true), lost()), ClientError::UnknownOutcome { .. }));
        assert!(matches!(outcome(&change, &tries(false), lost()), ClientError::Unreachable { .. }));
        assert!(matches!(outcome(&Call::read("/v1/x"), &tries(true), lost()), ClientError::Unreachable { .. }));
    }

    /// A refusal tells what became of a change only if the change's own nonce was looked up for it.
    #[test]
    fn a_refusal_before_the_nonce_says_nothing_of_an_earlier_attempt() {
        for code in [Code::Sealed, Code::Denied, Code::Unauthenticated, Code::IngressChanged, Code::NonceExpired] {
            assert!(before_nonce(code), "{code:?}");
        }
        for code in [Code::VersionMismatch, Code::Exists, Code::AlreadyOpened, Code::Acked, Code::NotFound] {
            assert!(!before_nonce(code), "{code:?}");
        }
    }
}
