//! The shell around `bulla-core`: sockets, files and time, and nothing that decides.

pub mod config;
pub mod listen;
pub mod metrics;
pub mod route;
pub mod tls;
