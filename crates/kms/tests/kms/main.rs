//! The plugin as a whole: over backends in memory, and over real ones.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

mod fake;
mod identity;
mod plugin;
mod vectors;
