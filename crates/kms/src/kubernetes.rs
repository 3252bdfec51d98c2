//! What Kubernetes says and is told around the plugin: its EncryptionConfiguration, its metrics, a rotation. Nothing here
//! reads a file or asks anybody.

pub mod encryption;
pub mod judge;
pub mod metrics;
pub mod plan;
pub mod rotation;
pub mod yaml;
