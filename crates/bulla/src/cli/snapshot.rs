//! `bulla snapshot`: a cluster's sealed store in a file, and a new data directory from it.

use crate::exit::{Exit, Failure, of_snapshot, told};
use crate::output::time;
use crate::session::Session;
use bulla_client::snapshot_hint;
use bulla_crypto::snapshot::Verified;
use bulla_server::snapshot::RestoreError;
use bulla_wire::id::Digest;
use bulla_wire::snapshot::Manifest;
use clap::Subcommand;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Write the store as it is now to a new file; one-time wraps are left out
    Save {
        /// The file
        file: PathBuf,
        /// Put it in the place of an older one
        #[arg(long)]
        force: bool,
    },
    /// Tell what a file holds and whether it is whole, without a server
    Verify {
        /// The file
        file: PathBuf,
        /// Its digest, as the audit log or another record tells it
        #[arg(long, value_name = "DIGEST")]
        sha256: Option<Digest>,
    },
    /// Fill an empty data directory from a file, without a server
    Restore {
        /// The file
        file: PathBuf,
        /// The directory: empty, or not there yet
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Its digest, as the audit log or another record tells it
        #[arg(long, value_name = "DIGEST")]
        sha256: Option<Digest>,
    },
}

pub async fn run(command: Snapshot, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Snapshot::Save { file, force } => save(session, &file, force).await,
        Snapshot::Verify { file, sha256 } => {
            let verified = session.offline_client()?.snapshot_verify(&file, sha256)?;
            show(session, &verified.manifest)?;
            session.screen.line("sound")?;
            Ok(Exit::Ok)
        }
        Snapshot::Restore { file, data, sha256 } => restore(session, &file, &data, sha256).await,
    }
}

async fn save(session: &Session<'_>, file: &Path, force: bool) -> Result<Exit, Failure> {
    if !force && file.symlink_metadata().is_ok() {
        let problem = format!("{} is there already, and nothing is overwritten", file.display());
        return Err(Failure::new(Exit::Conflict, problem).hint("choose another name, or give --force"));
    }
    let Verified { manifest, .. } = session.client()?.snapshot_save(file, force).await?;
    session.screen.line(&manifest.sha256.to_string())?;
    session.screen.say(&format!("written to {}", file.display()));
    session.screen.hint(&format!("`bulla snapshot verify {}` tells what is in it", file.display()));
    Ok(Exit::Ok)
}

async fn restore(session: &Session<'_>, file: &Path, data: &Path, sha256: Option<Digest>) -> Result<Exit, Failure> {
    let client = session.offline_client()?;
    let pin = session.trust()?.ok_or_else(|| Failure::from(bulla_client::ClientError::NoPin))?.pin();
    let known = client.kept_view()?;
    let begin = |genesis: &_, approvals: &[_]| pin.begin(genesis, approvals);
    let restored = bulla_server::snapshot::restore(file, data, begin, known.as_deref(), sha256).await;
    let Verified { manifest, .. } = restored.map_err(|error| failure(&error))?;
    show(session, &manifest)?;
    session.screen.say(&format!("restored into {}, without any wrap", data.display()));
    session.screen.hint("put node.key and audit/ of the old server beside it, as far as they are left");
    session
        .screen
        .hint(&format!("then `bulla server --data {}`; without audit/ add --accept-audit-loss", data.display()));
    session.screen.hint("it is an older state, so `bulla unseal` will ask k admins for their consent");
    Ok(Exit::Ok)
}

/// What to do where the message says the rest.
const MEND: &str = "mend what the message names, then try again";

fn failure(error: &RestoreError) -> Failure {
    match error {
        RestoreError::Snapshot(cause) => Failure::new(of_snapshot(cause), told(error)).hint(snapshot_hint(cause)),
        RestoreError::NotEmpty { .. } => {
            let hint = "name an empty directory; to go back to an older state, move the old directory away first";
            Failure::new(Exit::Conflict, told(error)).hint(hint)
        }
        RestoreError::Directory(cause) => Failure::new(Exit::Failed, told(error)).hint(cause.hint().unwrap_or(MEND)),
        RestoreError::Io { .. } | RestoreError::Store(_) => Failure::new(Exit::Failed, told(error)).hint(MEND),
    }
}

fn show(session: &Session<'_>, manifest: &Manifest) -> Result<(), Failure> {
    let Manifest { cluster, epoch, lineage, sequence, doc, node, saved_ms, audit, rows, bytes, sha256, .. } = manifest;
    session.screen.pairs(&[
        ("cluster", cluster.to_string()),
        ("taken", time(*saved_ms)),
        ("epoch", epoch.to_string()),
        ("sequence", format!("{sequence} of lineage {lineage}")),
        ("document", doc.to_string()),
        ("audit", format!("up to line {}", audit.n)),
        ("node", node.to_string()),
        ("rows", format!("{rows}, {bytes} bytes")),
        ("digest", sha256.to_string()),
    ])
}
