//! A configuration tried without starting: each file that a start would read is read, and nothing is made or changed.

use crate::bundle;
use crate::config::Config;
use crate::run::{RunError, admins, look_at_directory, node_key, refuse_beside_a_store, refuse_unfinished};
use crate::tls::{OWN_FILE, Tls};
use crate::webhook::Webhook;
use std::path::Path;

/// Tries the data directory, the records and the bundle, the TLS files and the webhook's authorities. What a start makes where it is missing may
/// be missing: the data directory and what is in it. A server that runs on the same directory is not disturbed.
///
/// # Errors
/// [`RunError`], as a start would fail.
pub fn check(config: &Config, now_ms: u64) -> Result<(), RunError> {
    let there = config.data.as_deref().filter(|data| data.exists());
    if let Some(data) = there {
        look_at_directory(data)?;
        refuse_unfinished(data)?;
        refuse_beside_a_store(config)?;
        if data.join("node.key").exists() {
            node_key(Some(data))?;
        }
    }
    let listed = admins(&config.init.admins)?;
    config.init.bundle.as_deref().map(|path| bundle::read(path, &listed, now_ms)).transpose()?;
    // Without files of its own or of the operator, a server makes its certificate.
    let own: Option<&Path> = there.filter(|data| data.join(OWN_FILE).exists());
    Tls::open(&config.tls, own).map_err(RunError::Tls)?;
    Webhook::open(&config.alarms)?;
    Ok(())
}
