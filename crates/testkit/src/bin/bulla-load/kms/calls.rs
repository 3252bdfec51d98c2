//! What is asked of a plugin, and rounds of it.

use super::grpc::{Client, Encrypted};
use super::process::Plugin;
use crate::Fault;
use crate::load::{Sample, drive};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Seeds that are decrypted one after the other: so many more than callers that no two ask for the same at once.
const SEEDS: usize = 256;
/// Size of a seed in bytes: kube-apiserver's.
const SEED_BYTES: usize = 32;

/// A call of the protocol, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Answered from memory.
    Status,
    /// Every member wraps, and unwraps what came of it.
    Encrypt,
    /// Each caller asks for another seed: a member unwraps every one.
    Decrypt,
    /// All callers ask for one seed at the same time, and share what a member answers.
    DecryptSame,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Status, Self::Encrypt, Self::Decrypt, Self::DecryptSame];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "Status",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::DecryptSame => "Decrypt, the same seed",
        }
    }

    /// Whether so many callers make it something of its own.
    pub fn applies(self, callers: usize) -> bool {
        self != Self::DecryptSame || callers > 1
    }
}

/// A running plugin with somebody who asks it, and seeds that it encrypted.
pub struct Place {
    /// The plugin.
    pub plugin: Plugin,
    client: Client,
    seeds: Vec<Encrypted>,
    turn: AtomicUsize,
}

/// One round.
#[derive(Debug, Default, Clone)]
pub struct Round {
    /// What the callers saw, and the CPU time of the plugin.
    pub sample: Sample,
    /// CPU time of the servers behind it in seconds.
    pub backends_s: f64,
    /// How often members wrapped or unwrapped.
    pub member_calls: u64,
}

/// What a start takes, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// From exec to the first good status.
    pub status_ms: f64,
    /// The first Decrypt after it, of a seed from before the kill.
    pub decrypt_ms: f64,
    /// The first Encrypt after that.
    pub encrypt_ms: f64,
}

impl Place {
    /// Starts the plugin.
    pub async fn new(mut plugin: Plugin) -> Result<Self, Fault> {
        let (client, _) = plugin.start().await?;
        Ok(Self { plugin, client, seeds: Vec::new(), turn: AtomicUsize::new(0) })
    }

    /// Has it encrypt the seeds that will be decrypted.
    pub async fn prepare(&mut self) -> Result<(), Fault> {
        for number in 0..SEEDS {
            self.seeds.push(self.client.encrypt(&seed(number)).await?);
        }
        Ok(())
    }

    /// Kills the plugin and starts it again.
    pub async fn again(&mut self) -> Result<Start, Fault> {
        let (client, status_ms) = self.plugin.start().await?;
        self.client = client;
        let began = Instant::now();
        self.decrypt(0).await?;
        let decrypt_ms = began.elapsed().as_secs_f64() * 1000.0;
        let began = Instant::now();
        self.client.encrypt(&seed(0)).await?;
        Ok(Start { status_ms, decrypt_ms, encrypt_ms: began.elapsed().as_secs_f64() * 1000.0 })
    }

    async fn once(&self, call: Call) -> Result<(), Fault> {
        match call {
            Call::Status => self.client.status().await,
            Call::Encrypt => self.client.encrypt(&seed(0)).await.map(drop),
            Call::Decrypt => self.decrypt(self.turn.fetch_add(1, Ordering::Relaxed) % SEEDS).await,
            Call::DecryptSame => self.decrypt(0).await,
        }
    }

    async fn decrypt(&self, number: usize) -> Result<(), Fault> {
        let encrypted = self.seeds.get(number).ok_or("no seed was encrypted yet")?;
        self.client.decrypt(encrypted, &seed(number)).await
    }

    /// Lets so many callers ask for so long, and counts. They share a connection, as those within a kube-apiserver do.
    pub async fn round(self: &Arc<Self>, call: Call, callers: usize, length: Duration) -> Result<Round, Fault> {
        let (backends, member_calls) = (self.plugin.backends_cpu()?, self.plugin.member_calls().await?);
        let at = self.clone();
        let once = move |_| {
            let place = at.clone();
            async move { place.once(call).await.map(|()| true) }
        };
        let sample = drive(self.plugin.pid()?, callers, length, once).await?;
        let backends_s = self.plugin.backends_cpu()?.saturating_sub(backends).as_secs_f64();
        let member_calls = self.plugin.member_calls().await?.saturating_sub(member_calls);
        Ok(Round { sample, backends_s, member_calls })
    }
}

/// A seed that is like no other of them.
fn seed(number: usize) -> [u8; SEED_BYTES] {
    [u8::try_from(number % SEEDS).unwrap_or_default(); SEED_BYTES]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_seeds_are_the_same() {
        let seeds: BTreeSet<_> = (0..SEEDS).map(seed).collect();
        assert_eq!(seeds.len(), SEEDS);
    }

    #[test]
    fn one_caller_shares_with_nobody() {
        assert!(Call::ALL.iter().all(|call| call.applies(8)));
        assert!(Call::Decrypt.applies(1) && !Call::DecryptSame.applies(1));
    }
}
