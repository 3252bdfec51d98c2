//! The whole service over real sockets: a server with clocks that the test moves, the real client, and requests
//! written by hand where a client would never send them.
#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod audit;
mod bytes;
mod canary;
mod cases;
mod clocks;
mod database;
mod database_certificate;
mod governance;
mod hostile;
mod input;
mod kv;
mod matrix;
mod mtls;
mod once;
mod race;
mod rekey;
mod replay;
mod seal;
mod snapshot;
mod spine;
mod static_role;
mod support;
mod transit;
mod watch;
mod webhook;
mod wraps;
mod yes;
