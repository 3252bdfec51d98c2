//! `bulla kms rotate`: the steps of a rotation, how far it is, and whether there is proof that the key before may go.

use super::super::doctor::{Check, show};
use super::doctor::tree;
use super::load;
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::output::FormatArgs;
use crate::session::Session;
use bulla_kms::finding::Finding;
use bulla_kms::kubernetes::metrics::{self, Apiserver, is_hash};
use bulla_kms::kubernetes::plan;
use bulla_kms::kubernetes::rotation::{NOT_SHOWN, Retired, Rotation};
use bulla_kms::plugin::Plugin;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Rotate {
    /// Print the steps, with the commands for the configured members
    Plan,
    Status(Status),
}

/// Compare what kube-apiservers were told and still read with what this plugin names
///
/// Each FILE is what `kubectl get --raw /metrics` prints of one kube-apiserver. With --old it ends with 0 only if the
/// metrics prove that no stored object is under that key: every kube-apiserver began after everything was rewritten, and
/// has read nothing under another key since.
#[derive(Debug, Args)]
pub struct Status {
    /// The metrics of each kube-apiserver
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    metrics: Vec<PathBuf>,
    /// Name of the plugin in the EncryptionConfiguration
    #[arg(long, value_name = "NAME", default_value = "bulla")]
    provider: String,
    /// Hash of the key id that is to be retired
    #[arg(long, value_name = "HASH", requires = "apiservers")]
    old: Option<String>,
    /// How many kube-apiservers the cluster has
    #[arg(long, value_name = "COUNT", requires = "old")]
    apiservers: Option<usize>,
    #[command(flatten)]
    format: FormatArgs,
}

pub async fn run(verb: Rotate, path: &Path, session: &Session<'_>) -> Result<Exit, Failure> {
    match verb {
        Rotate::Plan => {
            load(path)?;
            let steps = plan::steps(&tree(path)?, &path.display().to_string());
            for (place, step) in steps.iter().enumerate() {
                session.screen.line(&format!("{}. {}", place.saturating_add(1), step.what))?;
                step.commands.iter().try_for_each(|command| session.screen.line(&format!("   {command}")))?;
            }
            Ok(Exit::Ok)
        }
        Rotate::Status(status) => self::status(status, path, session).await,
    }
}

async fn status(args: Status, path: &Path, session: &Session<'_>) -> Result<Exit, Failure> {
    let Status { metrics, provider, old, apiservers, format } = args;
    if old.as_deref().is_some_and(|old| !is_hash(old)) {
        let hint = "`bulla kms verify` printed it before the rotation, and so does this command without --old";
        return Err(Failure::usage("--old: expected sha256: and 64 hexadecimal digits").hint(hint));
    }
    let mut read = Vec::with_capacity(metrics.len());
    for file in &metrics {
        let text = input::text(file, Limit { bytes: metrics::MAX_BYTES, ..Limit::TEXT })?;
        let apiserver = Apiserver::parse(&text).map_err(|error| {
            Failure::new(Exit::Failed, format!("{}: {error}", file.display()))
                .hint("fetch it again: `kubectl --server https://NODE:6443 get --raw /metrics > NODE.metrics`")
        })?;
        read.push((file.display().to_string(), apiserver));
    }
    let mut config = super::looking(path)?;
    // Nothing is written by a look.
    config.plugin.state = None;
    let plugin = Plugin::new(config.plugin);
    plugin.look_once().await;
    let Some(snapshot) = plugin.published() else {
        return Err(Failure::new(Exit::Failed, "too few members wrap for a key id")
            .hint("`bulla kms verify` says which members are not well"));
    };
    let own = snapshot.key_id.hash();
    let rotation = Rotation { provider: &provider, own: &own, apiservers: &read };
    let mut findings = match old.as_deref().zip(apiservers) {
        Some((old, apiservers)) => rotation.retirable(Retired { old, apiservers }),
        None => rotation.agreed(),
    };
    if !snapshot.whole {
        let found = "not every member of this plugin wraps, so its key id is one for the time being";
        findings.insert(0, Finding::fail("key id", found, "mend the members that `bulla kms verify` names"));
    }
    if old.is_some() {
        findings.extend(NOT_SHOWN.iter().map(|(found, hint)| Finding::warn("not shown", *found, *hint)));
    }
    let checks: Vec<Check> = findings.into_iter().map(Check::from).collect();
    show(&checks, format, session)
}
