//! What is measured, and rounds of it.

use crate::Fault;
use crate::installation::{Installation, Seat, VALUE_BYTES, path, secret};
use crate::load::{Sample, drive};
use bulla_client::MemoryOutput;
use std::sync::Arc;
use std::time::Duration;

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
    pub async fn once(self, place: &Place, number: usize) -> Result<bool, Fault> {
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

/// Lets so many clients work for so long, and counts. Opening goes on until nothing is left to open.
pub async fn round(place: &Arc<Place>, work: Work, clients: usize, length: Duration) -> Result<Sample, Fault> {
    let length = if work == Work::Open { OPEN_LENGTH } else { length };
    // What one client wrote waits at the next seat, so one seat more than there are clients opens.
    let working = if work == Work::Open { clients + 1 } else { clients };
    let transactions = place.installation.transactions()?;
    let at = place.clone();
    let once = move |number| {
        let place = at.clone();
        async move { work.once(&place, number).await }
    };
    let mut sample = Box::pin(drive(place.installation.pid(), working.min(place.seats.len()), length, once)).await?;
    sample.transactions = place.installation.transactions()?.saturating_sub(transactions);
    Ok(sample)
}
