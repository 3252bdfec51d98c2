//! Bytes that client and server agree on.
//!
//! Everything here is a value: parsed once, strictly, from bytes that somebody else made, into types
//! that cannot be wrong. There is no IO, no clock, no randomness and no cryptography; verifying what a
//! type claims is the work of `bulla-crypto`.
//!
//! Every format has a page in `spec/`.

pub mod api;
pub mod challenge;
pub mod dsse;
pub mod encoding;
pub mod error;
pub mod evidence;
pub mod id;
pub mod json;
pub mod kv;
pub mod name;
pub mod signature;
pub mod snapshot;
pub mod state;
pub mod transit;
pub mod webhook;
pub mod wrap;
