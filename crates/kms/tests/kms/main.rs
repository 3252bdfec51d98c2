//! The plugin as a whole: over backends in memory, and over real ones.

mod fake;
mod plugin;
