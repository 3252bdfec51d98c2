//! What is measured, and rounds of it.

use crate::Fault;
use crate::engines;
use crate::installation::{Installation, Seat, VALUE_BYTES, path, secret};
use crate::load::{Sample, drive};
use crate::proc;
use crate::stock::{BATCH, Stock};
use bulla_client::MemoryOutput;
use std::sync::Arc;
use std::time::Duration;

/// A round that takes what another made ends when nothing is left; after so long something is wrong.
pub const DRAIN_LENGTH: Duration = Duration::from_secs(120);

/// An operation, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
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
    /// A directory of secrets is listed.
    KvList,
    /// A transit key encrypts.
    Encrypt,
    /// It encrypts many things of one request.
    EncryptMany,
    /// It decrypts.
    Decrypt,
    /// It decrypts many things of one request.
    DecryptMany,
    /// A transit key signs.
    Sign,
    /// It signs many things of one request.
    SignMany,
    /// A user of a database is made, for a lease.
    Issue,
    /// A lease is renewed.
    Renew,
    /// The leases that were begun are revoked.
    Revoke,
}

impl Work {
    /// All of them, in the order of a round: `Open` takes what `Create` made.
    pub const ALL: [Self; 7] =
        [Self::Whoami, Self::KvGet, Self::KvPut, Self::Create, Self::Open, Self::Cycle, Self::Cold];
    /// Those on many secrets.
    pub const SECRETS: [Self; 3] = [Self::KvGet, Self::KvPut, Self::KvList];
    /// Those on keys and databases: `Renew` uses what `Issue` made, and `Revoke` takes it.
    pub const ENGINES: [Self; 9] = [
        Self::Encrypt,
        Self::EncryptMany,
        Self::Decrypt,
        Self::DecryptMany,
        Self::Sign,
        Self::SignMany,
        Self::Issue,
        Self::Renew,
        Self::Revoke,
    ];

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
            Self::KvList => "kv list, 100 names",
            Self::Encrypt => "transit encrypt",
            Self::EncryptMany => "transit encrypt, 100",
            Self::Decrypt => "transit decrypt",
            Self::DecryptMany => "transit decrypt, 100",
            Self::Sign => "transit sign",
            Self::SignMany => "transit sign, 100",
            Self::Issue => "database issue",
            Self::Renew => "lease renew",
            Self::Revoke => "lease revoke",
        }
    }

    /// Whether it needs a database.
    pub fn leases(self) -> bool {
        matches!(self, Self::Issue | Self::Renew | Self::Revoke)
    }

    /// Whether it goes on until nothing is left of what another made.
    pub fn drains(self) -> bool {
        matches!(self, Self::Open | Self::Revoke)
    }

    /// Does it once. `false` if there is nothing to do.
    pub async fn once(self, place: &Place, number: usize) -> Result<bool, Fault> {
        let seat = place.seats.get(number).ok_or("fewer seats than clients")?;
        match self {
            Self::Whoami => drop(seat.client.whoami().await?),
            Self::KvGet => drop(seat.client.kv_get(&place.stock.secrets.next(number).parse()?).await?),
            Self::KvPut => {
                seat.client.kv_put(&place.stock.secrets.next(number).parse()?, &secret()).await?;
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
            Self::KvList => engines::list(place, seat).await?,
            Self::Encrypt => drop(engines::encrypt(seat, 1).await?),
            Self::EncryptMany => drop(engines::encrypt(seat, BATCH).await?),
            Self::Decrypt => engines::decrypt(place, seat, 1).await?,
            Self::DecryptMany => engines::decrypt(place, seat, BATCH).await?,
            Self::Sign => engines::sign(seat, 1).await?,
            Self::SignMany => engines::sign(seat, BATCH).await?,
            Self::Issue => engines::issue(place, seat, number).await?,
            Self::Renew => return engines::renew(place, seat, number).await,
            Self::Revoke => return engines::revoke(place, seat, number).await,
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
    /// What lies there besides.
    pub stock: Stock,
}

impl Place {
    /// An installation in which nothing lies but everybody's own secret.
    pub async fn new(installation: Installation) -> Result<Self, Fault> {
        let seats = installation.seats().await?;
        Ok(Self { installation, seats, stock: Stock::default() })
    }

    /// To whom this one writes: the next seat, and behind the last the first.
    fn next(&self, number: usize) -> Result<&Seat, Fault> {
        self.seats.get(number + 1).or(self.seats.first()).ok_or_else(|| "there are no seats".into())
    }
}

/// Lets so many clients work for so long, and counts. What takes goes on until nothing is left to take.
pub async fn round(place: &Arc<Place>, work: Work, clients: usize, length: Duration) -> Result<Sample, Fault> {
    let length = if work.drains() { DRAIN_LENGTH } else { length };
    // What one client wrote waits at the next seat, so one seat more than there are clients opens.
    let working = if work == Work::Open { clients + 1 } else { clients };
    let pid = place.installation.pid();
    let (transactions, server) = (place.installation.transactions()?, proc::cpu(pid)?);
    let at = place.clone();
    let once = move |number| {
        let place = at.clone();
        async move { work.once(&place, number).await }
    };
    let mut sample = Box::pin(drive(pid, working.min(place.seats.len()), length, once)).await?;
    if work == Work::Revoke {
        // Users are dropped after the answer, and belong to it.
        sample.wall_s += place.stock.gone("bulla_").await?;
        sample.server_s = proc::cpu(pid)?.saturating_sub(server).as_secs_f64();
    }
    sample.transactions = place.installation.transactions()?.saturating_sub(transactions);
    Ok(sample)
}
