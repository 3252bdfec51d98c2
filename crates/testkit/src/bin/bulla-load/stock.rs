//! What lies in both servers for the measured engines: many secrets, keys, a database and its leases.

use crate::Fault;
use crate::installation::PEOPLE;
use bulla_testkit::postgres::Postgres;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Secrets in one directory: a page of a listing.
pub const DIRECTORY: u64 = 100;
/// Items of a request for many.
pub const BATCH: usize = 100;
/// The transit key that encrypts, on both servers.
pub const CIPHER: &str = "bench";
/// The one that signs.
pub const SIGNER: &str = "bench-sign";
/// The database and its role whose users are made.
pub const DATABASE: &str = "bench";
/// The role.
pub const ROLE: &str = "reader";
/// How long a lease lasts, in seconds, and how long at most: both longer than the measurement.
pub const LEASE_S: u64 = 12 * 3600;
/// At most.
pub const LEASE_MAX_S: u64 = 24 * 3600;
/// Most connections of either server to the database.
pub const CONNECTIONS: u8 = 4;
/// The step through the secrets: odd and far from any period, so that calls that follow each other lie far apart.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
/// How long users may stay after their leases were revoked.
const GONE_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether they are gone.
const GONE_POLL: Duration = Duration::from_millis(100);

/// Which secrets lie there, and which is next.
#[derive(Debug, Default)]
pub struct Secrets {
    count: AtomicU64,
    turn: AtomicU64,
}

impl Secrets {
    /// From now on there are so many.
    pub fn set(&self, count: u64) {
        self.count.store(count, Ordering::Relaxed);
    }

    /// The next one, anywhere among them; everybody's own where there are no others.
    pub fn next(&self, number: usize) -> String {
        match self.count.load(Ordering::Relaxed) {
            0 => format!("bench/{number}"),
            count => secret(self.place(count)),
        }
    }

    /// The next directory, of [`DIRECTORY`] secrets.
    pub fn directory(&self) -> String {
        directory(self.place(self.count.load(Ordering::Relaxed)))
    }

    fn place(&self, count: u64) -> u64 {
        let turn = self.turn.fetch_add(STRIDE, Ordering::Relaxed);
        // The upper half, scaled to the count.
        u64::try_from((u128::from(turn) * u128::from(count)) >> 64).unwrap_or_default()
    }
}

/// The path of one of many secrets.
pub fn secret(index: u64) -> String {
    format!("{}/{}", directory(index), index % DIRECTORY)
}

fn directory(index: u64) -> String {
    format!("bench/many/{}", index / DIRECTORY)
}

/// What lies on a server besides everybody's own secret, and what of it is used next.
#[derive(Debug)]
pub struct Stock {
    /// Many secrets.
    pub secrets: Secrets,
    /// What was encrypted, for decryption.
    pub ciphertexts: Vec<String>,
    /// The database, where there is one.
    pub database: Option<Arc<Postgres>>,
    leases: Vec<Mutex<VecDeque<String>>>,
}

impl Default for Stock {
    fn default() -> Self {
        let leases = (0..PEOPLE).map(|_| Mutex::default()).collect();
        Self { secrets: Secrets::default(), ciphertexts: Vec::new(), database: None, leases }
    }
}

impl Stock {
    /// So many of the ciphertexts.
    pub fn ciphertexts(&self, items: usize) -> Result<&[String], Fault> {
        self.ciphertexts.get(..items).ok_or_else(|| "nothing was encrypted yet".into())
    }

    /// Somebody has one more lease: the oldest is used first.
    pub fn hold(&self, number: usize, lease: String) {
        if let Some(leases) = self.leases.get(number) {
            leases.lock().unwrap_or_else(PoisonError::into_inner).push_back(lease);
        }
    }

    /// Somebody's oldest lease.
    pub fn oldest(&self, number: usize) -> Option<String> {
        self.leases.get(number)?.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Waits until no user is left in the database whose name begins so: for how many seconds.
    pub async fn gone(&self, prefix: &str) -> Result<f64, Fault> {
        let Some(database) = &self.database else { return Ok(0.0) };
        let left = format!("SELECT count(*) FROM pg_roles WHERE starts_with(rolname, '{prefix}')");
        let began = Instant::now();
        loop {
            let count = database.sql(&left);
            if count == "0" {
                return Ok(began.elapsed().as_secs_f64());
            }
            if began.elapsed() > GONE_PATIENCE {
                return Err(format!("{count} users are left in the database").into());
            }
            tokio::time::sleep(GONE_POLL).await;
        }
    }
}

/// Starts a PostgreSQL; none where it is not installed.
pub async fn postgres() -> Result<Option<Arc<Postgres>>, Fault> {
    Ok(tokio::task::spawn_blocking(Postgres::start).await?.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn secrets_are_taken_from_everywhere() {
        let secrets = Secrets::default();
        assert_eq!(secrets.next(3), "bench/3");
        secrets.set(1000);
        let taken: BTreeSet<String> = (0..1000).map(|_| secrets.next(0)).collect();
        let known: BTreeSet<String> = (0..1000).map(secret).collect();
        assert!(taken.len() > 700 && taken.is_subset(&known), "{} of 1000", taken.len());
        let directories: BTreeSet<String> = (0..100).map(|_| secrets.directory()).collect();
        assert_eq!(directories.len(), 10);
    }

    #[test]
    fn leases_are_used_in_turns() {
        let stock = Stock::default();
        stock.hold(0, "one".into());
        stock.hold(0, "other".into());
        assert_eq!((stock.oldest(0).as_deref(), stock.oldest(1)), (Some("one"), None));
        stock.hold(0, "one".into());
        let rest = [stock.oldest(0), stock.oldest(0), stock.oldest(0)];
        assert_eq!(rest.map(Option::unwrap_or_default), ["other", "one", ""]);
    }

    #[test]
    fn only_as_many_ciphertexts_as_there_are() {
        let stock = Stock { ciphertexts: vec!["a".into(), "b".into()], ..Stock::default() };
        assert_eq!(stock.ciphertexts(1).unwrap(), ["a"]);
        assert!(stock.ciphertexts(3).is_err());
    }
}
