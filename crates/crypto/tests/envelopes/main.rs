//! Envelopes, recipients and identities, from outside: against published vectors, other implementations,
//! and what an attacker would try.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod cctv;
mod envelope;
mod hpke_vectors;
mod identity;
mod interop;
mod recipient;
mod support;
mod tag;
