//! Ours against OpenBao: both servers run on one core at once, and the same loop takes them in turns.
//!
//! Only equals are compared: memory with memory, and what is synced to the disk with what is synced; TLS 1.3 with the
//! same suite and group and P-256 certificates, HTTP/1.1 with kept connections, and a file of audit on both sides.

mod calls;
mod certificates;
mod comparison;
pub mod engines;
mod https;
pub mod openbao;
mod standing;
mod syncs;

use crate::installation::{Class, Installation, PEOPLE};
use crate::load::{Sample, drive};
use crate::work::{DRAIN_LENGTH, Place, Work, round};
use crate::{CLIENTS, Fault, Plan, proc, table};
use calls::{Call, Counter};
use comparison::{Comparison, ROWS, Report, Row};
use openbao::OpenBao;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How long a server is watched to see whether it still works.
const WATCHED: Duration = Duration::from_millis(100);
/// CPU time in it that anything idle may take: one tick of the kernel's.
const STILL: Duration = Duration::from_millis(10);
/// How long it may go on after its last answer.
const STILL_PATIENCE: Duration = Duration::from_secs(20);

/// The servers' binaries and their core.
pub struct Binaries {
    ours: PathBuf,
    theirs: PathBuf,
    core: usize,
}

/// Both servers with everybody who uses them.
pub struct Both {
    ours: Arc<Place>,
    theirs: Arc<Counter>,
}

impl Both {
    async fn new(binaries: &Binaries, class: Class) -> Result<Self, Fault> {
        let mut installation = Installation::new(&binaries.ours, class, binaries.core).await?;
        installation.admit().await?;
        let place = Place::new(installation).await?;
        let theirs = Counter::new(OpenBao::new(&binaries.theirs, class, binaries.core).await?).await?;
        Ok(Self { ours: Arc::new(place), theirs: Arc::new(theirs) })
    }

    /// Both, while no client works.
    fn alone(&mut self) -> Result<(&mut Place, &mut Counter), Fault> {
        const BUSY: &str = "a client still works";
        Ok((Arc::get_mut(&mut self.ours).ok_or(BUSY)?, Arc::get_mut(&mut self.theirs).ok_or(BUSY)?))
    }

    /// One round of ours.
    async fn our_round(&self, work: Work, clients: usize, length: Duration) -> Result<Sample, Fault> {
        let pid = self.ours.installation.pid();
        Box::pin(to_the_end(pid, round(&self.ours, work, clients, length))).await
    }

    /// One round of theirs.
    async fn their_round(&self, call: Call, clients: usize, length: Duration) -> Result<Sample, Fault> {
        let pid = self.theirs.server.pid()?;
        let at = self.theirs.clone();
        let once = move |number| {
            let counter = at.clone();
            async move { counter.once(call, number).await }
        };
        let round = async {
            let mut sample = drive(pid, clients, if call.drains() { DRAIN_LENGTH } else { length }, once).await?;
            if call == Call::Revoke {
                // Users may be dropped after the answer, and belong to it.
                sample.wall_s += self.theirs.stock.gone("v-").await?;
            }
            Ok(sample)
        };
        Box::pin(to_the_end(pid, round)).await
    }
}

/// A round with all CPU time and writing that it costs: until the server is still. OpenBao removes what a wrap or a
/// login left behind after it has answered; that must neither be given to it nor hinder the next.
async fn to_the_end(pid: u32, round: impl Future<Output = Result<Sample, Fault>>) -> Result<Sample, Fault> {
    let (server, written) = (proc::cpu(pid)?, proc::written(pid)?);
    let mut sample = round.await?;
    let began = Instant::now();
    let mut before = proc::cpu(pid)?;
    loop {
        tokio::time::sleep(WATCHED).await;
        let now = proc::cpu(pid)?;
        if now.saturating_sub(before) <= STILL {
            break;
        }
        if began.elapsed() > STILL_PATIENCE {
            sample.failures.push(format!("the server still works {} s after its answers", STILL_PATIENCE.as_secs()));
            break;
        }
        before = now;
    }
    sample.server_s = proc::cpu(pid)?.saturating_sub(server).as_secs_f64();
    sample.written = proc::written(pid)?.saturating_sub(written);
    Ok(sample)
}

/// Measures both: tables, and JSON lines.
pub async fn run(ours: &Path, theirs: &Path, core: usize, plan: &Plan) -> Result<(String, String), Fault> {
    let load_before = proc::load_average();
    let binaries = Binaries { ours: ours.to_owned(), theirs: theirs.to_owned(), core };
    let mut conditions = vec![versions(&binaries)?];
    let mut figures = vec![standing::size(&binaries)?];
    let (mut comparisons, mut missing) = (Vec::new(), Vec::new());
    for class in [Class::Memory, Class::File] {
        eprintln!("operations, store: {}", class.name());
        figures.push(Box::pin(standing::idle(&binaries, class)).await?);
        let both = Box::pin(Both::new(&binaries, class)).await?;
        if class == Class::Memory {
            conditions.push(tls(&both).await?);
        }
        if plan.operations {
            comparisons.extend(Box::pin(operations(&both, &ROWS, class, None, plan)).await?);
        }
    }
    eprintln!("outstanding wraps");
    let both = Box::pin(Both::new(&binaries, Class::File)).await?;
    match Box::pin(standing::syncs(&both)).await? {
        Some(syncs) => figures.push(syncs),
        None => missing.push("disk syncs for a cycle, which need strace and the right to trace".to_owned()),
    }
    figures.extend(Box::pin(standing::outstanding(both, plan.versus_wraps)).await?);
    comparisons.sort_by_key(Comparison::place);
    let mut heading = table::heading(&load_before);
    heading.append(&mut conditions);
    let report = Report { heading, comparisons, figures, missing };
    Ok((report.markdown(), report.json()?))
}

/// Every row with every number of clients. In each round ours and theirs follow each other, so that a disturbance
/// hits both.
async fn operations(
    both: &Both,
    rows: &[Row],
    class: Class,
    secrets: Option<u64>,
    plan: &Plan,
) -> Result<Vec<Comparison>, Fault> {
    // Connections are there and everything is known before anything is timed.
    for row in rows {
        Box::pin(both.our_round(row.work, PEOPLE, plan.length / 2)).await?;
        Box::pin(both.their_round(row.call, PEOPLE, plan.length / 2)).await?;
    }
    let mut comparisons = Vec::new();
    for clients in CLIENTS {
        let mut samples: Vec<(Vec<Sample>, Vec<Sample>)> = vec![Default::default(); rows.len()];
        for _ in 0..plan.rounds {
            let mut last: Option<(Work, Sample)> = None;
            for (row, (ours, theirs)) in rows.iter().zip(&mut samples) {
                let sample = match last.take() {
                    Some((work, sample)) if work == row.work => sample,
                    _ => Box::pin(both.our_round(row.work, clients, plan.length)).await?,
                };
                ours.push(sample.clone());
                last = Some((row.work, sample));
                theirs.push(Box::pin(both.their_round(row.call, clients, plan.length)).await?);
            }
        }
        for (row, (ours, theirs)) in rows.iter().zip(&samples) {
            let comparison = Comparison::new(*row, class, clients, ours, theirs).with_secrets(secrets);
            eprintln!("  {}", comparison.row());
            comparisons.push(comparison);
        }
    }
    Ok(comparisons)
}

/// What both say that they are.
fn versions(binaries: &Binaries) -> Result<String, Fault> {
    let said = |binary: &Path, argument: &str| -> Result<String, Fault> {
        let output = Command::new(binary).arg(argument).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(format!("{} does not run", binary.display()).into()) }
    };
    Ok(format!("{} against {}.", said(&binaries.ours, "--version")?, said(&binaries.theirs, "version")?))
}

/// What TLS both agree on with their clients. Unless it is the same, nothing else can be compared.
async fn tls(both: &Both) -> Result<String, Fault> {
    let address = both.ours.installation.server.address().parse()?;
    let ours = agreed(&bulla_testkit::tls::connect(address, "http/1.1").await);
    let theirs = agreed(&both.theirs.client()?.connect().await?);
    if ours != theirs {
        return Err(format!("TLS differs: ours {ours}, OpenBao {theirs}").into());
    }
    Ok(format!("TLS on both sides: {ours}."))
}

/// Version, cipher suite and group of a connection.
fn agreed(stream: &TlsStream<TcpStream>) -> String {
    let connection = stream.get_ref().1;
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let group = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let parts = [version.map(str::to_owned), suite.map(str::to_owned), group];
    parts.map(|part| part.unwrap_or_else(|| "unknown".to_owned())).join(", ")
}
