//! Keys that others hold: tokens behind PKCS#11.
//!
//! A crate of its own because it is the only one that loads foreign code into the process and talks to holders of
//! keys. What comes out is an [`Identity`](bulla_crypto::identity::Identity) like any other.
//!
//! Held: a private key never enters the process; a PIN is sent once, and never again after the token refused it; a
//! signature is checked against the public key before anybody else sees it. Not held: a module is code of its vendor
//! with all rights of this process, and whatever runs here as this user can use a token that is logged in.

mod agree;
mod error;
mod generate;
mod module;
mod object;
pub mod pin;
pub mod pinentry;
mod sign;
mod source;
mod token;
mod tokens;
pub mod uri;

pub use error::TokenError;
pub use generate::Make;
pub use source::KeySource;
pub use tokens::Tokens;
