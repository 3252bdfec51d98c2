//! The shell that performs what `bulla-core` decided.

pub mod sink;
