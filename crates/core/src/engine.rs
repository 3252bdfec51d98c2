//! The engines: a closed set, one module each. No registry, no plug-ins, no mount table.

pub mod alarm;
pub mod chunk;
pub mod database;
pub mod document;
pub mod due;
pub mod kv;
pub mod lease;
pub mod policy;
pub mod principal;
pub mod rekey;
pub mod transit;
pub mod wrap;
