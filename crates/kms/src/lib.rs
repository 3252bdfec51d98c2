//! The Kubernetes KMS v2 plugin: encrypts the seeds under which kube-apiserver encrypts what it stores
//! (`spec/kms.md`).
//!
//! A crate of its own for its dependencies: gRPC is spoken nowhere else. What decides is pure and apart from what acts:
//! [`promotion`] says when a new version of a key is used, [`combine`] which members an answer needs, [`breaker`] whether
//! a member is asked at all. A [`provider`] is one key somewhere; nothing else knows what is behind it.

pub mod ask;
pub mod audit;
pub mod bound;
pub mod breaker;
pub mod checkup;
pub mod combine;
pub mod config;
pub mod envelope;
pub mod finding;
mod flight;
pub mod grpc;
pub mod identity;
pub mod key;
pub mod keyfile;
pub mod kubernetes;
pub mod member;
pub mod metrics;
pub mod migrate;
mod operations;
pub mod plugin;
pub mod promotion;
pub mod provider;
pub mod serve;
pub mod socket;
pub mod state;
mod supervise;
