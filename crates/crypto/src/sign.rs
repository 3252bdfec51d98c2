//! Signing keys, and the one place where a signature is checked.
//!
//! - The algorithm comes from the key, never from a message.
//! - A public key has one spelling, its canonical DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7); anything
//!   that does not re-encode to the same bytes is refused, so a key has one [`KeyId`](bulla_wire::id::KeyId).
//! - A signature has one form: Ed25519 as RFC 8032 §5.1.6 writes it, ECDSA as r ‖ s of fixed length (RFC 9421
//!   §3.3.4, §3.3.5), RSA-PSS with a 64-byte salt (§3.3.1). DER-encoded ECDSA is refused by its length.
//! - Ed25519 is strict: a public key of small order would verify forged messages, so it is refused when
//!   parsed; a signature whose R is of small order is refused too.
//!
//! Not held: ECDSA signatures are malleable (r, s and r, n−s both verify) and all but Ed25519 are randomised,
//! so a signature's bytes must never serve as an identifier.

mod public;
mod software;

pub(crate) use public::P256_FRONT;
pub use public::{Algorithm, MAX_SPKI_BYTES, PublicKey, PublicKeyError, RsaMinimum, VerifyError, verify_dummy};
pub use software::{SigningKey, SigningKeyError};

use crate::BoxFuture;
use std::error::Error;
use std::fmt;

/// Something that signs with one key: software, a token, an agent, a person with a device.
pub trait Signer: Send + Sync {
    /// The key that verifies what this signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message`. May wait for hardware or a person.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>>;
}

impl Signer for SigningKey {
    fn public_key(&self) -> &PublicKey {
        self.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        Box::pin(std::future::ready(self.sign(message)))
    }
}

/// Why a signature could not be made.
#[derive(Debug)]
pub enum SignError {
    /// The cryptographic library refused; it does not say why.
    Library,
    /// The device, agent or service that holds the key refused or could not be reached.
    Holder(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Library => "the cryptographic library could not sign with this key",
            Self::Holder(_) => "whoever holds the signing key did not sign",
        })
    }
}

impl Error for SignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Library => None,
            Self::Holder(cause) => Some(cause.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests;
