//! What the attempts of a call came to so far, and what that makes of a refusal.
//!
//! An error of the open profile is tied to method, path and query, not to the request: whoever stands between can hand
//! a change in, keep its answer, and show what the node said to another request of the same path. So for a change it
//! proves nothing.

use crate::error::ClientError;
use bulla_wire::error::Code;

/// How often a stale challenge, an answer that must not be believed, and a connection that was never made are
/// tried again: once is bad luck, three times is a state of things.
pub(super) const FEW_TRIES: u32 = 3;

/// Counts what went wrong so far.
#[derive(Default)]
pub(super) struct Tries {
    pub all: u32,
    pub few: u32,
    stale: u32,
    pub lagging: bool,
    /// An attempt may have had its effect without an answer that is believed.
    pub unknown: bool,
}

/// What to do after a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again at once, with the challenge that came with it.
    Again,
    /// Try again after a while.
    Wait,
    /// Tell the caller.
    End,
}

impl Tries {
    /// Judges a refusal of a call that `changes` something or not; `open` if it is of the open profile.
    pub(super) fn refused(&mut self, changes: bool, code: Option<Code>, open: bool) -> Next {
        match code {
            Some(Code::StaleChallenge) if self.stale < FEW_TRIES => {
                self.stale = self.stale.saturating_add(1);
                Next::Again
            }
            _ if open && changes => self.openly_refused(code),
            Some(Code::Unknown) => {
                self.unknown = true;
                Next::Wait
            }
            Some(Code::Overloaded | Code::Busy) => Next::Wait,
            _ => Next::End,
        }
    }

    /// The node may never have said this of the change. Where nothing else went wrong, what a person must mend first
    /// is told as it is, unverified; everything else leaves the outcome unknown.
    fn openly_refused(&mut self, code: Option<Code>) -> Next {
        use Code::{MethodNotAllowed, Sealed, Unauthenticated, UnknownRoute};
        let plain = matches!(code, Some(Sealed | Unauthenticated | UnknownRoute | MethodNotAllowed));
        if plain && !self.unknown {
            return Next::End;
        }
        if code == Some(Sealed) {
            // It was started again meanwhile, and knows once it is unsealed: it is waited for.
            return Next::Wait;
        }
        self.unknown = true;
        self.few = self.few.saturating_add(1);
        if self.few < FEW_TRIES { Next::Wait } else { Next::End }
    }

    /// Whether a refusal tells what became of the change, whatever went wrong before: the request itself was
    /// answered, and its own nonce was looked up for that.
    pub(super) fn is_told(code: Option<Code>, open: bool) -> bool {
        !open && code.is_some_and(|code| !before_nonce(code))
    }

    /// What a failed call is told as: a change that may have happened has an unknown outcome.
    pub(super) fn outcome(&self, changes: bool, error: ClientError) -> ClientError {
        if changes && self.unknown { ClientError::UnknownOutcome { cause: Box::new(error) } } else { error }
    }
}

/// Refusals that are decided before the nonce is looked up, by what may have changed since the first attempt. They
/// say nothing of what became of it.
fn before_nonce(code: Code) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_change_has_an_unknown_outcome() {
        let tries = |unknown| Tries { unknown, ..Tries::default() };
        let lost = || ClientError::Unreachable { address: String::new(), cause: String::new() };
        assert!(matches!(tries(true).outcome(true, lost()), ClientError::UnknownOutcome { .. }));
        assert!(matches!(tries(false).outcome(true, lost()), ClientError::Unreachable { .. }));
        assert!(matches!(tries(true).outcome(false, lost()), ClientError::Unreachable { .. }));
    }

    #[test]
    fn open_refusals_of_a_change_prove_nothing() {
        for code in Code::ALL.iter().copied().filter(|code| *code != Code::StaleChallenge) {
            let plain =
                matches!(code, Code::Sealed | Code::Unauthenticated | Code::UnknownRoute | Code::MethodNotAllowed);
            let mut tries = Tries::default();
            let first = tries.refused(true, Some(code), true);
            assert_eq!((first, tries.unknown), if plain { (Next::End, false) } else { (Next::Wait, true) }, "{code}");
            // Once an outcome is unknown, it stays so.
            let mut tries = Tries { unknown: true, ..Tries::default() };
            let next = [(); 3].map(|()| tries.refused(true, Some(code), true));
            let last = if code == Code::Sealed { Next::Wait } else { Next::End };
            assert_eq!(next, [Next::Wait, Next::Wait, last], "{code}");
            assert!(tries.unknown);
        }
    }

    /// A refusal tells what became of a change only if the change's own nonce was looked up for it.
    #[test]
    fn a_refusal_before_the_nonce_says_nothing_of_an_earlier_attempt() {
        for code in [Code::Sealed, Code::Denied, Code::Unauthenticated, Code::IngressChanged, Code::NonceExpired] {
            assert!(!Tries::is_told(Some(code), false), "{code:?}");
        }
        for code in [Code::VersionMismatch, Code::Exists, Code::AlreadyOpened, Code::Acked, Code::NotFound] {
            assert!(Tries::is_told(Some(code), false), "{code:?}");
            assert!(!Tries::is_told(Some(code), true), "{code:?}");
        }
    }

    #[test]
    fn stale_challenges_have_an_end() {
        let mut tries = Tries::default();
        let mut next = || tries.refused(true, Some(Code::StaleChallenge), true);
        assert_eq!([(); 3].map(|()| next()), [Next::Again, Next::Again, Next::Again]);
        assert_eq!([(); 3].map(|()| next()), [Next::Wait, Next::Wait, Next::End]);
        assert!(tries.unknown);
    }

    #[test]
    fn refusals_of_the_request_itself() {
        let next = |code| Tries::default().refused(true, Some(code), false);
        assert_eq!(next(Code::Denied), Next::End);
        assert_eq!(next(Code::Busy), Next::Wait);
        assert_eq!(next(Code::Overloaded), Next::Wait);
        assert_eq!(next(Code::Unknown), Next::Wait);
        assert_eq!(Tries::default().refused(false, Some(Code::Sealed), true), Next::End, "a read");
    }
}
