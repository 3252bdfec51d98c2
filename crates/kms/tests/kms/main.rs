//! The plugin as a whole: over backends in memory, and over real ones.

#![expect(clippy::unwrap_used, reason = "tests")]

mod fake;
mod plugin;
