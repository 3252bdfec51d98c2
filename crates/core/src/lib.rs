//! Every decision of the server, as synchronous functions over values: no IO, no clock, no OS randomness.

pub mod action;
pub mod policy;
