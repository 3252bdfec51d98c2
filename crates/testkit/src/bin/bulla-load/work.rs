//! What is measured, and rounds of it.

use crate::Fault;
use crate::installation::{Installation, Seat, VALUE_BYTES, path, secret};
use crate::proc;
use bulla_client::MemoryOutput;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A round of opening ends when all wraps are opened; after so long something is wrong.
const OPEN_LENGTH: Duration = Duration::from_secs(120);

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// The smallest signed request.
    Whoami,
    /// A secret is read, by policy.
    KvGet,
    /// A secret is written.
    KvPut,
    /// A wrap is made.
    Create,
    /// The wraps that were made are opened and acknowledged.
    Open,
    /// A wrap is made, opened and acknowledged.
    Cycle,
    /// A client without connection and memory reads a secret.
    Cold,
}

impl Work {
    /// All of them, in the order of a round: `Open` takes what `Create` made.
    pub const ALL: [Self; 7] =
        [Self::Whoami, Self::KvGet, Self::KvPut, Self::Create, Self::Open, Self::Cycle, Self::Cold];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whoami => "whoami",
            Self::KvGet => "kv get",
            Self::KvPut => "kv put",
            Self::Create => "wrap create",
            Self::Open => "open + ack",
            Self::Cycle => "cycle",
            Self::Cold => "cold client, kv get",
        }
    }

    /// Does it once. `false` if there is nothing to do.
    async fn once(self, place: &Place, number: usize) -> Result<bool, Fault> {
        let seat = place.seats.get(number).ok_or("fewer seats than clients")?;
        match self {
            Self::Whoami => drop(seat.client.whoami().await?),
            Self::KvGet => drop(seat.client.kv_get(&path(number)?).await?),
            Self::KvPut => {
                seat.client.kv_put(&path(number)?, &secret()).await?;
            }
            Self::Create => {
                let slip = seat.wrap(VALUE_BYTES).await?;
                place.next(number)?.slips().push(slip);
            }
            Self::Open => {
                let slip = seat.slips().pop();
                let Some(slip) = slip else { return Ok(false) };
                open(seat, &slip).await?;
            }
            Self::Cycle => {
                let slip = seat.wrap(VALUE_BYTES).await?;
                open(place.next(number)?, &slip).await?;
            }
            Self::Cold => drop(place.installation.stranger(number)?.kv_get(&path(number)?).await?),
        }
        Ok(true)
    }
}

async fn open(seat: &Seat, slip: &bulla_client::wire::wrap::Slip) -> Result<(), Fault> {
    let mut output = MemoryOutput::new();
    seat.client.wrap_open(slip, &mut output).await?.acked?;
    if output.content().len() == VALUE_BYTES { Ok(()) } else { Err("the content came back otherwise".into()) }
}

/// An installation and those who use it.
pub struct Place {
    /// The installation.
    pub installation: Installation,
    /// Everybody.
    pub seats: Vec<Seat>,
}

impl Place {
    /// To whom this one writes: the next seat, and behind the last the first.
    fn next(&self, number: usize) -> Result<&Seat, Fault> {
        self.seats.get(number + 1).or(self.seats.first()).ok_or_else(|| "there are no seats".into())
    }
}

/// One round.
#[derive(Debug, Default, Clone)]
pub struct Sample {
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// CPU time of the server in seconds.
    pub server_s: f64,
    /// CPU time of the load in seconds.
    pub load_s: f64,
    /// Store transactions.
    pub transactions: u64,
    /// Bytes that the server had written to the disk.
    pub written: u64,
    /// How long each operation took, in microseconds.
    pub latencies: Vec<u32>,
}

impl Sample {
    /// Operations.
    pub fn operations(&self) -> f64 {
        f64::from(u32::try_from(self.latencies.len()).unwrap_or(u32::MAX))
    }
}

/// Lets so many clients work for so long, and counts. Opening goes on until nothing is left to open.
pub async fn round(place: &Arc<Place>, work: Work, clients: usize, length: Duration) -> Result<Sample, Fault> {
    let (pid, own) = (place.installation.pid(), std::process::id());
    let length = if work == Work::Open { OPEN_LENGTH } else { length };
    let transactions = place.installation.transactions()?;
    let (server, load, written) = (proc::cpu(pid)?, proc::cpu(own)?, proc::written(pid)?);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    // What one client wrote waits at the next seat, so one seat more than there are clients opens.
    let working = if work == Work::Open { clients + 1 } else { clients };
    for number in 0..working.min(place.seats.len()) {
        let place = place.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < length {
                let start = Instant::now();
                if !Box::pin(work.once(&place, number)).await? {
                    break;
                }
                latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok::<_, Fault>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let done = done?.map_err(|error| format!("{}: {error}", work.name()))?;
        latencies.extend(done);
    }
    Ok(Sample {
        wall_s: began.elapsed().as_secs_f64(),
        server_s: proc::cpu(pid)?.saturating_sub(server).as_secs_f64(),
        load_s: proc::cpu(own)?.saturating_sub(load).as_secs_f64(),
        transactions: place.installation.transactions()?.saturating_sub(transactions),
        written: proc::written(pid)?.saturating_sub(written),
        latencies,
    })
}
