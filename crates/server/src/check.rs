//! A configuration tried without starting: each file that a start would read is read, and nothing is made or changed.

use crate::bundle;
use crate::config::Config;
use crate::run::{RunError, admins, look_at_directory, node_key, refuse_beside_a_store, refuse_unfinished};
use crate::tls::{OWN_FILE, Tls};
use crate::webhook::Webhook;
use std::path::Path;

/// What a start needs, and whether it is fit for it.
pub type Part = (&'static str, Result<(), RunError>);

/// Tries the data directory, the node's key, the records and the bundle, the TLS files and the webhook's authorities, in
/// the order of a start. What a start makes where it is missing may be missing: the data directory and what is in it. A
/// server that runs on the same directory is not disturbed.
pub fn parts(config: &Config, now_ms: u64) -> [Part; 5] {
    let there = config.data.as_deref().filter(|data| data.exists());
    // Without files of its own or of the operator, a server makes its certificate.
    let own = there.filter(|data| data.join(OWN_FILE).exists());
    [
        ("directory", there.map_or(Ok(()), |data| directory(config, data))),
        ("node key", key(there)),
        ("admins", founders(config, now_ms)),
        ("certificate", Tls::open(&config.tls, own).map(drop).map_err(RunError::Tls)),
        ("webhook", Webhook::open(&config.alarms).map(drop)),
    ]
}

/// Tries all of it.
///
/// # Errors
/// The first [`RunError`], as a start would fail.
pub fn check(config: &Config, now_ms: u64) -> Result<(), RunError> {
    parts(config, now_ms).into_iter().try_for_each(|(_, outcome)| outcome)
}

fn directory(config: &Config, data: &Path) -> Result<(), RunError> {
    look_at_directory(data)?;
    refuse_unfinished(data)?;
    refuse_beside_a_store(config)
}

fn key(data: Option<&Path>) -> Result<(), RunError> {
    let kept = data.filter(|data| data.join("node.key").exists());
    kept.map_or(Ok(()), |data| node_key(Some(data)).map(drop))
}

fn founders(config: &Config, now_ms: u64) -> Result<(), RunError> {
    let listed = admins(&config.init.admins)?;
    config.init.bundle.as_deref().map_or(Ok(()), |path| bundle::read(path, &listed, now_ms).map(drop))
}
