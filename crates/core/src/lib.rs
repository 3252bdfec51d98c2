//! Every decision of Bulla, as synchronous functions over values.
//!
//! No tokio, file, socket, clock or operating-system randomness: the server hands in what was read, what
//! time it is and where random bytes come from, and performs what it gets back.
//! Every decision, as synchronous functions over values: no runtime, file, socket, clock or OS randomness.

pub mod action;
pub mod audit;
pub mod barrier;
pub mod directory;
pub mod engine;
pub mod founding;
pub mod head;
pub mod operation;
pub mod policy;
pub mod record;
pub mod seal;
pub mod seen;
pub mod snapshot;
