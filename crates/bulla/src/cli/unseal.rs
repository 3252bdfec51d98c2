//! `bulla unseal`: an admin's share, in one command.

use super::{context, seal};
use crate::ask;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::ClientError;
use bulla_crypto::evidence::ClusterView;
use bulla_wire::api::{SealState, ShareGiven};
use bulla_wire::error::Code;
use bulla_wire::evidence::SealMode;
use clap::Args;
use std::path::PathBuf;
use std::sync::Mutex;

/// Give your share of the seal
///
/// Shows what you approve before your first share: the cluster's id, its admins and how many of them open it.
/// Your key never leaves this machine; the server gets your share, encrypted to this session alone.
#[derive(Debug, Args)]
pub struct Unseal {
    /// Approve the cluster without being asked
    #[arg(short, long)]
    yes: bool,
    /// Where to write what the admins must consent to, should the store have lost commits
    #[arg(long, value_name = "FILE", default_value = "consent.json")]
    consent_file: PathBuf,
    /// Give the share to an older epoch than this machine has seen: after a restore that the admins know of
    #[arg(long)]
    danger_older_epoch: bool,
    #[command(flatten)]
    format: FormatArgs,
}

pub async fn run(args: Unseal, session: &Session<'_>) -> Result<Exit, Failure> {
    let Unseal { yes, consent_file, danger_older_epoch, format: FormatArgs { format } } = args;
    seal::check_key(session).await?;
    let client = session.client()?;
    let unanswered = Mutex::new(None);
    let approve = |view: &ClusterView| match approved(session, view, yes) {
        Ok(approved) => approved,
        Err(failure) => {
            if let Ok(mut place) = unanswered.lock() {
                *place = Some(failure);
            }
            false
        }
    };
    let outcome = client.unseal(&bulla_client::Unseal { approve: &approve, danger_older_epoch }).await;
    if let Some(failure) = unanswered.into_inner().ok().flatten() {
        return Err(failure);
    }
    let outcome = match outcome {
        Err(error) if error.code() == Some(Code::NotSealed) => {
            session.screen.say("the cluster is unsealed already");
            return Ok(Exit::Ok);
        }
        Err(error @ ClientError::RolledBack(_)) => {
            return Err(Failure::from(error).hint("--danger-older-epoch gives the share all the same"));
        }
        other => other?,
    };
    let ShareGiven { state, progress, consent_needed } = &outcome.given;
    if let Some(consent) = consent_needed {
        let text = serde_json::to_vec_pretty(consent).unwrap_or_default();
        super::keygen::write_new(&consent_file, 0o644, &text).map_err(|failure| {
            failure.instead("name another file with --consent-file; what the admins sign goes there")
        })?;
        let file = consent_file.display();
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "the store ends at sequence {}, but the audit log remembers {}: commits were lost",
                consent.kept.sequence, consent.lost.sequence
            ),
        )
        .hint(format!("if the admins accept that, each signs with `bulla seal consent sign {file}`"))
        .hint(format!("then one sends it with `bulla seal consent send {file}`")));
    }
    if format == Format::Json {
        session.screen.json(&outcome.given)?;
    } else if *state == SealState::Unsealed {
        session.screen.line("unsealed")?;
    } else {
        session.screen.line(&format!("share given: {} of {}", progress.have, progress.need))?;
    }
    Ok(Exit::Ok)
}

/// Shows the cluster to an admin who gives a share for the first time, and asks.
fn approved(session: &Session<'_>, view: &ClusterView, yes: bool) -> Result<bool, Failure> {
    context::describe(session, view);
    if view.genesis().body().mode == SealMode::Any {
        session.screen.warn("any one admin key and a copy of the storage open what the server can read");
    }
    if yes {
        return Ok(true);
    }
    if !ask::possible() {
        return Err(Failure::usage("nobody can approve the cluster here, and this is your first share for it")
            .hint("compare its id with the other admins, then give --yes"));
    }
    ask::yes("Do the other admins see the same?")
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint("give --yes"))
}
