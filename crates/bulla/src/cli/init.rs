//! `bulla init`: a cluster on a node that has none.

use super::context;
use crate::context::{Context, Trust};
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::output::{Format, FormatArgs};
use crate::session::{Session, Settled};
use bulla_client::{Client, Pin, State};
use bulla_crypto::evidence::{ClusterView, Record};
use bulla_wire::api::{self, Initialised};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{MinKem, SealMode};
use bulla_wire::id::KeyId;
use bulla_wire::json;
use bulla_wire::name::Name;
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a server that is just starting is waited for, unless --timeout says so.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How often is looked for it: a file, so seldom enough for any disk.
const READY_EVERY: Duration = Duration::from_millis(50);

/// Make a cluster on a server that has none
///
/// Run it as one of the admins, with --identity. The server stays sealed: afterwards k admins run `bulla unseal`.
/// Compare the printed cluster id with the other admins by another way.
#[derive(Debug, Args)]
pub struct Init {
    /// The cluster's name, for people
    #[arg(long, value_parser = super::name)]
    name: Name,
    /// Record (.pub) of an admin, who will hold a share of the seal; repeat it for each, in the order of the shares
    #[arg(long = "admin", value_name = "FILE", required = true)]
    admins: Vec<PathBuf>,
    /// How many admins open the seal together, 2 or more
    #[arg(short, value_name = "K")]
    k: Option<u8>,
    /// Any one admin opens the seal: one admin key and a copy of the storage open what the server can read
    #[arg(long, conflicts_with = "k")]
    any: bool,
    /// Take admins with classical keys (SSH, X25519) too
    #[arg(long)]
    classical: bool,
    /// The node's key id, which the server prints at start; needs --addr
    #[arg(long, value_name = "ID")]
    node: Option<KeyId>,
    /// Take address and node from the server's ready file, and wait for it if the server is just starting
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "socket"])]
    ready_file: Option<PathBuf>,
    /// Use the server's local socket, bulla.sock in its data directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Keep address, cluster and identity as this context
    #[arg(long, value_name = "NAME")]
    save_context: Option<String>,
    #[command(flatten)]
    format: FormatArgs,
}

/// What of the ready file matters here.
#[derive(Debug, Deserialize)]
struct Ready {
    address: String,
    node: KeyId,
}

pub async fn run(args: Init, session: &Session<'_>) -> Result<Exit, Failure> {
    let Init { name, admins, k, any, classical, node, ready_file, socket, save_context, format } = args;
    if let Some(context) = &save_context {
        crate::context::check_name(context)?;
    }
    let (mode, k) = mode(admins.len(), k, any)?;
    let admins = admins.iter().map(|path| read_record(path)).collect::<Result<Vec<_>, _>>()?;
    let (address, node) = target(session, node, ready_file.as_deref(), socket.as_deref()).await?;
    let min_kem = if classical { MinKem::Classical } else { MinKem::Hybrid };
    let body = api::Init { name, admins, mode, k, min_kem };
    let settled = Settled { address: address.clone(), trust: None, ca: None };
    let builder = session.builder(&settled)?.state(State::Memory).identity(session.identity()?);
    let view = builder.pin(Pin::Node(node)).build()?.init(&body).await.map_err(|error| match error.code() {
        // A node of a cluster no longer answers for itself.
        Some(Code::WrongAudience | Code::AlreadyInitialised) => {
            Failure::new(Exit::Conflict, "this server has a cluster already, or has another node key than you gave")
                .hint(format!("`bulla status --addr {address}` shows it"))
        }
        _ => error.into(),
    })?;
    report(session, &view, format.format)?;
    match save_context {
        Some(name) => {
            let trust = Trust::Cluster(view.id());
            let (identity, decrypt_with) = context::kept_keys(session)?;
            context::keep(session, &name, Context { address, trust, identity, decrypt_with, ca: None })?;
        }
        None if matches!(session.trust()?, Some(Trust::Admins(_))) => {}
        None => session.screen.hint(&format!("`bulla context add NAME {address} --cluster {}` keeps it", view.id())),
    }
    // A context that trusts admins believes a cluster that they approved; before that they must be told which one.
    let which = match session.trust()? {
        Some(Trust::Admins(_)) => format!(" --cluster {}", view.id()),
        Some(Trust::Cluster(_)) | None => String::new(),
    };
    let next = format!("the cluster is sealed; compare its id with the other admins, then run `bulla unseal{which}`");
    session.screen.hint(&next);
    Ok(Exit::Ok)
}

fn report(session: &Session<'_>, view: &ClusterView, format: Format) -> Result<(), Failure> {
    let genesis = view.genesis();
    if format == Format::Json {
        return session.screen.json(&Initialised { cluster: view.id(), genesis: genesis.envelope().clone() });
    }
    let body = genesis.body();
    let mut pairs = vec![
        ("cluster", view.id().to_string()),
        ("name", body.name.to_string()),
        ("seal", format!("{} of {} admins", body.k, body.admins.len())),
    ];
    pairs.extend(genesis.admins().map(|admin| ("admin", format!("{} {}", admin.name(), admin.principal()))));
    pairs.extend(genesis.nodes().iter().map(|node| ("node", node.key.key_id().to_string())));
    session.screen.pairs(&pairs)?;
    if body.mode == SealMode::Any {
        session.screen.warn("any one admin key and a copy of the storage open what the server can read");
    }
    warn_of_all(session, usize::from(body.k), body.admins.len());
    Ok(())
}

/// Where every admin is needed, one lost key is the end.
pub fn warn_of_all(session: &Session<'_>, k: usize, n: usize) {
    if k == n && n > 1 {
        session.screen.warn(&format!("{k} of {n} open the seal: one lost key closes the cluster for ever"));
    }
}

/// Nobody gets the weak mode without asking for it, unless there is one admin and so no other.
pub fn mode(admins: usize, k: Option<u8>, any: bool) -> Result<(SealMode, u8), Failure> {
    match (k, any) {
        (None, true) => Ok((SealMode::Any, 1)),
        (None, false) if admins == 1 => Ok((SealMode::Any, 1)),
        (Some(k), _) if k >= 2 && usize::from(k) <= admins => Ok((SealMode::Quorum, k)),
        (Some(1), _) => {
            Err(Failure::usage("with -k 1 nothing is shared").hint("--any lets any one admin open the seal"))
        }
        (Some(k), _) => Err(Failure::usage(format!("{k} of {admins} admins cannot be"))
            .hint("-k is at most the number of --admin, and at least 2")),
        (None, false) => Err(Failure::usage("nothing says how many admins open the seal")
            .hint("give -k K for K of them together, or --any for any one")),
    }
}

/// Where the node is, and its key.
async fn target(
    session: &Session<'_>,
    node: Option<KeyId>,
    ready_file: Option<&Path>,
    socket: Option<&Path>,
) -> Result<(String, KeyId), Failure> {
    if let Some(path) = ready_file {
        let bytes = ready_bytes(session, path).await?;
        let ready: Ready = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(Exit::Failed, format!("{} is no ready file: {error}", path.display()))
                .hint("`bulla server --ready-file FILE` writes it")
        })?;
        return Ok((session.global.addr.clone().unwrap_or(ready.address), ready.node));
    }
    if let Some(path) = socket {
        let address = format!("unix:{}", super::absolute(path)?.display());
        // The socket lies in a directory of this user's alone, so what answers there is the node.
        let node = match node {
            Some(node) => node,
            None => Client::builder(address.clone()).build()?.health().await?.0.node,
        };
        return Ok((address, node));
    }
    match (&session.global.addr, node) {
        (Some(address), Some(node)) => Ok((address.clone(), node)),
        (address, _) => {
            let missing =
                if address.is_some() { "nothing says which node it is" } else { "nothing says where the server is" };
            Err(Failure::usage(missing)
                .hint("give --addr ADDR with --node ID, or --ready-file FILE, or --socket DATA/bulla.sock"))
        }
    }
}

/// The ready file, which a server writes in one piece when it takes requests.
async fn ready_bytes(session: &Session<'_>, path: &Path) -> Result<Vec<u8>, Failure> {
    let patience = session.global.timeout.unwrap_or(READY_TIMEOUT);
    let began = Instant::now();
    loop {
        match std::fs::read(path) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && began.elapsed() < patience => {
                tokio::time::sleep(READY_EVERY).await;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::new(Exit::Unreachable, format!("no server wrote {}", path.display()))
                    .hint("start one with `bulla server --ready-file FILE`, and see what it says"));
            }
            Err(error) => return Err(Failure::file("cannot read", path, &error)),
        }
    }
}

/// Reads the first record (.pub) of somebody, which needs none before it.
pub fn open_record(path: &Path) -> Result<Record, Failure> {
    Record::open(&read_record(path)?, None).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} is not the first record of its holder: {error}", path.display()))
            .hint("an admin stands with the record that `bulla keygen` wrote, whatever keys came later")
    })
}

/// Reads a record (.pub) as its holder made it.
pub fn read_record(path: &Path) -> Result<Envelope, Failure> {
    let bytes = input::file(path, Limit::TEXT)?;
    let unfit = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("{} is no record: {error}", path.display()))
            .hint("`bulla keygen` writes it beside the identity, with the ending .pub; the identity itself is private")
    };
    let envelope: Envelope = json::parse(&bytes, json::MAX_JSON_BYTES).map_err(|error| unfit(&error))?;
    match Record::open(&envelope, None) {
        // A later version is judged with the one before it, which the cluster has.
        Ok(_) | Err(bulla_crypto::evidence::EvidenceError::PreviousNeeded) => Ok(envelope),
        Err(error) => Err(unfit(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weak_mode_is_asked_for() {
        assert_eq!(mode(1, None, false).ok(), Some((SealMode::Any, 1)));
        assert_eq!(mode(3, None, true).ok(), Some((SealMode::Any, 1)));
        assert_eq!(mode(3, Some(2), false).ok(), Some((SealMode::Quorum, 2)));
        for (admins, k) in [(3, None), (3, Some(1)), (3, Some(0)), (3, Some(4)), (1, Some(2))] {
            assert!(mode(admins, k, false).is_err(), "{admins} {k:?}");
        }
    }
}
