//! The seal from outside: admins with real keys, a store that is a map, and a client that knows only what a
//! client knows (`spec/seal.md`).
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests may panic")]

mod advance;
mod init;
mod share;
mod tamper;
mod vectors;
mod world;
