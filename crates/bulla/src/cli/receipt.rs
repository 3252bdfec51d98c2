//! `bulla receipt`: proof that is verified without a server.

use super::wrap::{standing, whence};
use crate::context::Trust;
use crate::exit::{Exit, Failure, told};
use crate::input::{self, Limit};
use crate::output::{time, word};
use crate::session::Session;
use bulla_client::Proof;
use bulla_wire::json;
use bulla_wire::wrap::Slip;
use clap::Subcommand;
use std::path::PathBuf;

/// Largest proof in bytes: documents, records and receipts of a wrap to the most recipients.
const MAX_PROOF_BYTES: usize = 32 * 1024 * 1024;
const PROOF: Limit = Limit { bytes: MAX_PROOF_BYTES as u64, larger: "name the file that `bulla receipt save` wrote" };

#[derive(Debug, Subcommand)]
pub enum Receipt {
    /// Write everything that proves the fate of a wrap to a file
    Save {
        /// The slip
        slip: Slip,
        /// Where to write it
        #[arg(short = 'o', value_name = "FILE")]
        file: PathBuf,
    },
    /// Verify such a file, without a network; --cluster or the context says which cluster it must be of
    Verify {
        /// The file
        file: PathBuf,
    },
}

pub async fn run(command: Receipt, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Receipt::Save { slip, file } => {
            let proof = session.client()?.proof(&slip).await?;
            let mut text = json::to_vec(&proof);
            text.push(b'\n');
            super::keygen::write_new(&file, 0o644, &text)?;
            session.screen.say(&format!("written to {}", file.display()));
            Ok(Exit::Ok)
        }
        Receipt::Verify { file } => verify(session, &file),
    }
}

fn verify(session: &Session<'_>, file: &std::path::Path) -> Result<Exit, Failure> {
    let bytes = input::file(file, PROOF)?;
    let proof: Proof = json::parse(&bytes, MAX_PROOF_BYTES).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} is no proof: {error}", file.display()))
            .hint("`bulla receipt save` writes one")
    })?;
    // Receipts are one cluster's; whoever trusts admins compares which.
    let pin = match session.trust()? {
        Some(Trust::Cluster(cluster)) => Some(cluster),
        Some(Trust::Admins(_)) | None => None,
    };
    let report = proof.verify(pin.as_ref()).map_err(|error| {
        Failure::new(Exit::Untrusted, format!("{} does not hold: {}", file.display(), told(&error)))
            .hint("it proves nothing; a party to the wrap can save it anew with `bulla receipt save`")
    })?;
    let mut pairs = vec![
        ("cluster", report.cluster.to_string()),
        ("wrap", report.wrap.to_string()),
        ("from", format!("{} {}", report.name, report.from)),
    ];
    pairs.extend(report.origin.as_ref().map(|origin| ("content", whence(origin))));
    session.screen.pairs(&pairs)?;
    let rows: Vec<_> = report
        .receipts
        .iter()
        .map(|line| {
            let who = line.actor.as_ref().map(|actor| actor.principal.to_string()).unwrap_or_default();
            vec![time(line.at_ms), word(&line.kind), who, line.node.to_string(), standing(line.standing).to_owned()]
        })
        .collect();
    session.screen.table(&["TIME", "RECEIPT", "BY", "NODE", "PROOF"], &rows)?;
    if pin.is_none() {
        session.screen.warn("nothing says which cluster it must be of: compare the id above, or give --cluster ID");
    }
    Ok(Exit::Ok)
}
