//! `bulla unseal`: an admin's share, in one command.

use super::{context, seal};
use crate::ask;
use crate::context::Trust;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::{Session, Settled};
use bulla_client::{Client, ClientError, Untrusted};
use bulla_crypto::evidence::{AdminSet, ClusterView, EvidenceError};
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
    let (client, compared) = client(session).await?;
    let unanswered = Mutex::new(None);
    let approve = |view: &ClusterView| match approved(session, view, yes || compared) {
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
        Err(error) if error.proven() == Some(Code::NotSealed) => {
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
        let file = consent_file.display();
        let kept = consent.kept.sequence;
        let what = if consent.is_of_unknown_loss() {
            format!("the audit log cannot tell whether the store lost commits after sequence {kept}")
        } else {
            let lost = consent.lost.sequence;
            format!("the store ends at sequence {kept}, but the audit log remembers {lost}: commits were lost")
        };
        let text = serde_json::to_vec_pretty(consent).unwrap_or_default();
        super::keygen::write_new(&consent_file, 0o644, &text).map_err(|failure| {
            Failure::new(Exit::Conflict, format!("{what}; the consent was not written: {}", failure.message))
                .hint("if that file is the consent of this loss, go on with it; else name another with --consent-file")
        })?;
        let mut failure = Failure::new(Exit::Conflict, what)
            .hint(format!("if the admins accept that, each signs with `bulla seal consent sign {file}`"));
        if consent.is_of_unknown_loss() {
            failure = failure.hint(
                "if they put the store back themselves, the first adds --excuse-clients; else clients that saw more refuse",
            );
        }
        return Err(failure.hint(format!("then one sends it with `bulla seal consent send {file}`")));
    }
    if format == Format::Json {
        session.screen.json(&outcome.given)?;
    } else if *state == SealState::Unsealed {
        session.screen.line("unsealed")?;
    } else {
        let what = if outcome.repeated { "you gave yours already" } else { "share given" };
        session.screen.line(&format!("{what}: {} of {}", progress.have, progress.need))?;
    }
    Ok(Exit::Ok)
}

/// Whom the share goes to, and whether somebody has compared the cluster's id here. Who trusts admins believes what k of
/// them approved. This admin is about to be one of the k, so the id must come from somewhere else: anybody can make a
/// cluster that names the same admins, whose records are no secret, and all who trust them would believe it.
async fn client(session: &Session<'_>) -> Result<(Client, bool), Failure> {
    let client = session.client()?;
    let Some(Trust::Admins(admins)) = session.trust()? else { return Ok((client, false)) };
    match client.cluster().await {
        Ok(_) => return Ok((client, false)),
        Err(ClientError::Untrusted(Untrusted::Statement { cause: EvidenceError::TooFewAdmins { .. }, .. })) => {}
        Err(error) => return Err(error.into()),
    }
    if !ask::possible() {
        return Err(Failure::usage(
            "these admins have not approved this cluster yet, and nobody can compare its id here",
        )
        .hint("give the id that `bulla init` printed: bulla unseal --cluster ID"));
    }
    let settled = session.settled()?;
    let view = session
        .builder(&Settled { trust: None, address: settled.address.clone(), ca: settled.ca.clone() })?
        .build()?
        .discover()
        .await?;
    if AdminSet::of(view.genesis()).ok().as_ref() != Some(&admins) {
        return Err(Failure::new(Exit::Untrusted, "another cluster answers there now than before")
            .hint("something between you and the server answers in its place; ask the other admins"));
    }
    context::describe(session, &view);
    let asked = ask::yes("Is this the cluster id that `bulla init` printed?");
    if !asked.map_err(|error| Failure::new(Exit::Failed, format!("cannot ask: {error}")))? {
        return Err(Failure::new(Exit::Untrusted, "the cluster was not approved, so no share was given")
            .hint("compare the id with what `bulla init` printed, by a way that this network does not control"));
    }
    let settled = Settled { trust: Some(Trust::Cluster(view.id())), ..settled };
    Ok((session.builder(&settled)?.identity(session.identity()?).build()?, true))
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
        return Err(Failure::usage("nobody can approve the cluster here, and it was not unsealed with your share yet")
            .hint("compare its id with the other admins, then give --yes"));
    }
    let alone = view.newest().admins().count() == 1;
    let same =
        if alone { "Is this the cluster that `bulla init` showed?" } else { "Do the other admins see the same?" };
    ask::yes(same).map_err(|error| Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint("give --yes"))
}
