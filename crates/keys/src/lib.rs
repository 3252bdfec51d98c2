//! Keys that others hold: tokens behind PKCS#11, SSH agents, age plugins.
//!
//! A crate of its own because it is the only one that loads foreign code into the process and talks to holders of
//! keys. What comes out is an [`Identity`](bulla_crypto::identity::Identity) like any other.
//!
//! Held: a private key never enters the process; a PIN is sent once, and never again after the token refused it; a
//! signature is checked against the public key before anybody else sees it. Not held: a module is code of its vendor
//! with all rights of this process, and whatever runs here as this user can use a token that is logged in, an agent or a
//! plugin.

mod aes;
pub mod agent;
mod agree;
mod error;
mod generate;
mod module;
mod oaep;
mod object;
mod outcome;
pub mod pin;
pub mod pinentry;
pub mod plugin;
mod refused;
mod sign;
mod source;
mod token;
mod tokens;
pub mod uri;
mod wait;
mod worker;

pub use aes::AesKey;
pub use agent::{Agent, AgentError};
pub use error::TokenError;
pub use generate::Make;
pub use oaep::OaepKey;
pub use outcome::Outcome;
pub use plugin::{Plugin, PluginError};
pub use source::{KeySource, SourceError};
pub use tokens::Tokens;
pub use worker::TokenWorker;
