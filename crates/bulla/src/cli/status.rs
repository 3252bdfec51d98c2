//! `bulla status` and `bulla whoami`.

use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs, word};
use crate::session::Session;
use bulla_client::{ClientError, Untrusted};
use bulla_crypto::message::ResponseError;
use bulla_wire::api::{Health, PrincipalSummary, SealState, Whoami as Answer};
use clap::Args;

/// Tell whether the server serves; needs no identity
///
/// Ends with 0 if the cluster is unsealed, with 2 if it is sealed, with 17 if there is none yet.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub struct Whoami {
    #[command(flatten)]
    format: FormatArgs,
}

pub async fn run(args: Status, session: &Session<'_>) -> Result<Exit, Failure> {
    let (health, verified) = session.open_client()?.health().await.map_err(told_of_node)?;
    let exit = match health.state {
        SealState::Unsealed => Exit::Ok,
        SealState::Sealed => Exit::Sealed,
        SealState::Uninitialised => Exit::Uninitialised,
    };
    if args.format.format == Format::Json {
        return session.screen.json(&health).map(|()| exit);
    }
    let Health { state, version, node, cluster, name, transient, audit_ok, clock_ok, unseal } = health;
    let mut pairs = vec![("state", word(&state))];
    pairs.extend(cluster.map(|cluster| ("cluster", cluster.to_string())));
    pairs.extend(name.map(|name| ("name", name.to_string())));
    pairs.push(("node", node.to_string()));
    pairs.push(("version", version));
    pairs.push(("verified", if verified { "yes" } else { "no" }.to_owned()));
    if transient {
        pairs.push(("storage", "none over a restart".to_owned()));
    }
    pairs.extend(unseal.map(|progress| ("shares", format!("{} of {}", progress.have, progress.need))));
    session.screen.pairs(&pairs)?;
    if !audit_ok {
        session.screen.warn("the audit log takes no lines, so nothing is answered");
    }
    if !clock_ok {
        session.screen.warn("the clock moved, so deleting waits; an admin runs `bulla seal confirm-clock`");
    }
    Ok(exit)
}

/// Whoever looks at the status after a restore is told what to do; the key itself only by the server's own log.
fn told_of_node(error: ClientError) -> Failure {
    let unknown = matches!(&error, ClientError::Untrusted(Untrusted::Signature(ResponseError::UnknownNode(_))));
    let failure = Failure::from(error);
    if !unknown {
        return failure;
    }
    failure.hint(
        "if the node.key of your server is new: the server's log shows the key, and an admin runs \
         `bulla document propose --add-node SPKI -o FILE`",
    )
}

pub async fn whoami(args: Whoami, session: &Session<'_>) -> Result<Exit, Failure> {
    let answer = session.client()?.whoami().await?;
    if args.format.format == Format::Json {
        return session.screen.json(&answer).map(|()| Exit::Ok);
    }
    let Answer { principal, key, admin, enroller } = answer;
    let PrincipalSummary { id, name, version, groups, attributes, disabled: _, void: _ } = principal;
    let mut pairs = vec![
        ("name", name.to_string()),
        ("principal", id.to_string()),
        ("key", key.to_string()),
        ("record", format!("version {version}")),
        ("groups", joined(&groups)),
    ];
    pairs.extend(attributes.0.iter().map(|(name, value)| ("attribute", format!("{name}={value}"))));
    let roles: Vec<&str> =
        [(admin, "admin"), (enroller, "enroller")].iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    pairs.push(("roles", if roles.is_empty() { "none".to_owned() } else { roles.join(", ") }));
    session.screen.pairs(&pairs)?;
    Ok(Exit::Ok)
}

/// Names in one line.
pub fn joined(names: &[bulla_wire::name::Name]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
