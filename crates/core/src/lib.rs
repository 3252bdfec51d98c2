//! Every decision of Bulla, as synchronous functions over values.
//!
//! No tokio, file, socket, clock or operating-system randomness: the server hands in what was read, what
//! time it is and where random bytes come from, and performs what it gets back.

pub mod action;
pub mod barrier;
pub mod directory;
pub mod engine;
pub mod operation;
pub mod policy;
pub mod record;
