//! The engines: a closed set, one module each. No registry, no plug-ins, no mount table.

pub mod alarm;
pub mod chunk;
pub mod due;
pub mod kv;
