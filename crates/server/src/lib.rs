//! The shell around `bulla-core`: sockets, files and time, and nothing that decides.

pub mod bundle;
pub mod ceremony;
pub mod check;
pub mod clock;
pub mod config;
pub mod database;
pub mod dispatch;
pub mod drive;
pub mod failpoint;
pub mod fair;
pub mod gate;
pub mod lease;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod open;
pub mod plain;
mod recovery;
pub mod rekey;
pub mod reply;
pub mod restore;
pub mod route;
pub mod run;
pub mod sealed;
pub mod serve;
pub mod sink;
pub mod snapshot;
pub mod tick;
pub mod tls;
pub mod unsealed;
pub mod webhook;

pub use check::check;
pub use config::Config;
pub use run::{RunError, Running, run};
