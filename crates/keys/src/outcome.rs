//! What a failure of a token means for somebody who has to go on without it.

use crate::error::TokenError;
use crate::pin::PinError;
use cryptoki::context::Function;
use cryptoki::error::{Error as CryptokiError, RvError};

/// What a failure of a token means for a service that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The token or its module does not answer, or is not there; later it may be.
    Away,
    /// The PIN is refused, or is not sent so that the token does not lock.
    Denied,
    /// There is no such key.
    NoKey,
    /// The key is there and may not do this.
    Disabled,
    /// What was to be decrypted was altered, or is by another key.
    NotAuthentic,
    /// The configuration does not fit what is there.
    Setup,
    /// The token answered what it must not.
    Wrong,
}

impl TokenError {
    /// What it means for a service that goes on.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::TimedOut { .. } | Self::Gone | Self::NoToken { .. } => Outcome::Away,
            Self::WrongPin { .. }
            | Self::NotTriedAgain { .. }
            | Self::RefusedBefore { .. }
            | Self::LastTry { .. }
            | Self::PinLocked { .. }
            | Self::Pin(PinError::Cancelled) => Outcome::Denied,
            Self::NoKey { .. } | Self::KeyGone { .. } | Self::NoSecretKey { .. } | Self::OtherKey { .. } => {
                Outcome::NoKey
            }
            Self::NotAuthentic => Outcome::NotAuthentic,
            Self::WrongAnswer { .. } => Outcome::Wrong,
            Self::Refused { cause: CryptokiError::Pkcs11(code, function), .. } => refused(*code, *function),
            _ => Outcome::Setup,
        }
    }
}

fn refused(code: RvError, function: Function) -> Outcome {
    match code {
        RvError::KeyFunctionNotPermitted | RvError::ActionProhibited => Outcome::Disabled,
        RvError::PinExpired | RvError::PinLocked | RvError::PinIncorrect => Outcome::Denied,
        RvError::MechanismInvalid | RvError::MechanismParamInvalid | RvError::KeyTypeInconsistent => Outcome::Setup,
        // Whatever the reason was, nothing more is sent.
        _ if matches!(function, Function::Login) => Outcome::Denied,
        _ => Outcome::Away,
    }
}
