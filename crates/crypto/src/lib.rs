//! Everything that needs a cryptographic primitive, and the only crate that names a library for it
//! (the TLS stack apart).
//!
//! Callers meet types that cannot be misused by accident: a key that was parsed is a key that may be
//! used, a secret does not print and is wiped, a derived key names its purpose. Randomness is a
//! parameter ([`random::Rng`]) except where a library insists on its own; those places say so.

use std::pin::Pin;

mod bech32;
pub mod certificate;
pub mod digest;
pub mod dsse;
pub mod envelope;
pub mod evidence;
pub mod identity;
pub mod jwt;
pub mod kdf;
pub mod kem;
pub mod message;
pub mod oaep;
pub mod openssh;
pub mod pem;
pub mod pkcs8;
pub mod random;
pub mod recipient;
pub mod sealed;
pub mod secret;
pub mod shamir;
pub mod share;
pub mod sign;
pub mod snapshot;
pub mod transit;

/// A boxed future, as the object-safe asynchronous traits of this crate return it: a signature or a
/// decryption may wait for a token, an agent or a person.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
