//! Every decision, as synchronous functions over values: no runtime, file, socket, clock or OS randomness.

pub mod action;
pub mod audit;
pub mod policy;
pub mod record;
