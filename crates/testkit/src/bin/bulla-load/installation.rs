//! A server of its own for the measurement, unsealed, with people who may read and write.

use crate::Fault;
use crate::proc;
use bulla_client::wire::api::{Init, PutKv, PutPolicy, SealState};
use bulla_client::wire::evidence::{MinKem, SealMode};
use bulla_client::wire::id::ClusterId;
use bulla_client::wire::json::StrictMap;
use bulla_client::wire::name::SecretPath;
use bulla_client::wire::wrap::Slip;
use bulla_client::{Admit, Client, Outgoing, Pin, Resolved, Unseal, content};
use bulla_testkit::world::Person;
use bulla_testkit::{Options, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// People who call: as many as there are clients at most, so that each has a key and a connection of its own.
pub const PEOPLE: usize = 32;
/// Size of a secret or of a wrap's content in bytes.
pub const VALUE_BYTES: usize = 1024;
/// How long the measured wraps live, in seconds: longer than the measurement.
const WRAP_LIFE_S: u64 = 86_400;
/// How many leases one principal may hold: more than are measured.
const LEASES: (&str, &str) = ("BULLA_SERVER_LIMITS__LEASES", "1000000");
/// Lets everybody read and write beneath `bench`.
const POLICY: &str = r#"permit (principal, action in Bulla::Action::"kv", resource in Bulla::Kv::"bench");"#;

/// Where the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// In the embedded file: answered when synced to the disk.
    File,
    /// In memory.
    Memory,
}

impl Class {
    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// Somebody with a client, and to whom they write.
pub struct Seat {
    /// Their client, which keeps its connection.
    pub client: Client,
    /// The next person, as resolved by this one.
    pub to: Resolved,
    /// Wraps to this person that were not opened yet.
    slips: Mutex<Vec<Slip>>,
}

impl Seat {
    /// Wraps to this person.
    pub fn slips(&self) -> MutexGuard<'_, Vec<Slip>> {
        self.slips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a wrap of `bytes` bytes to the next person.
    pub async fn wrap(&self, bytes: usize) -> Result<Slip, Fault> {
        let outgoing = Outgoing::new(vec![self.to.clone()], WRAP_LIFE_S);
        Ok(self.client.wrap_create(outgoing, content(vec![b'x'; bytes])).await?.slip)
    }
}

/// A running installation.
pub struct Installation {
    /// The server.
    pub server: Server,
    /// The only admin.
    admin: Person,
    people: Vec<Person>,
    cluster: ClusterId,
    /// The newest commit that was seen: behind many reads it lies too far back in the audit log.
    sequence: AtomicU64,
    _records: tempfile::TempDir,
}

impl Installation {
    /// Starts a server on one core, makes a cluster of one admin, and unseals it.
    pub async fn new(binary: &Path, class: Class, core: usize) -> Result<Self, Fault> {
        let admin = Person::new("admin");
        let records = tempfile::tempdir()?;
        let record: PathBuf = records.path().join("admin.pub");
        std::fs::write(&record, serde_json::to_vec(&admin.record)?)?;
        let options = match class {
            Class::File => Options::durable(binary),
            Class::Memory => Options::transient(binary),
        };
        let server = Server::start(options.core(core).admin(record).env(LEASES.0, LEASES.1));
        let init = Init {
            name: "bench".parse()?,
            admins: vec![admin.record.clone()],
            mode: SealMode::Any,
            k: 1,
            min_kem: MinKem::Hybrid,
        };
        let pin = Pin::Node(server.node().parse()?);
        let cluster = admin.client(&address(&server), pin).init(&init).await?.id();
        let installation =
            Self { server, admin, people: Vec::new(), cluster, sequence: AtomicU64::new(0), _records: records };
        installation.unseal().await?;
        Ok(installation)
    }

    /// The admin gives the share.
    pub async fn unseal(&self) -> Result<(), Fault> {
        let approve: &(dyn Fn(&bulla_client::crypto::evidence::ClusterView) -> bool + Sync) = &|_| true;
        let how = Unseal { approve, danger_older_epoch: false };
        let outcome = self.client(&self.admin).unseal(&how).await?;
        if outcome.given.state == SealState::Unsealed {
            return Ok(());
        }
        Err("one share did not unseal".into())
    }

    /// Admits everybody, writes a policy, and gives each a secret of their own.
    pub async fn admit(&mut self) -> Result<(), Fault> {
        let admin = self.client(&self.admin);
        for number in 0..PEOPLE {
            let person = Person::new(&format!("person{number}"));
            admin.admit(&person.record, Admit::default()).await?;
            self.people.push(person);
        }
        self.permit("bench", POLICY).await?;
        for (number, person) in self.people.iter().enumerate() {
            self.client(person).kv_put(&path(number)?, &secret()).await?;
        }
        Ok(())
    }

    /// Writes a policy.
    pub async fn permit(&self, name: &str, text: &str) -> Result<(), Fault> {
        let policy = PutPolicy { text: text.to_owned(), replaces: None };
        self.client(&self.admin).policy_put(&name.parse()?, &policy).await?;
        Ok(())
    }

    /// Everybody at their place.
    pub async fn seats(&self) -> Result<Vec<Seat>, Fault> {
        let mut seats = Vec::with_capacity(self.people.len());
        for (number, person) in self.people.iter().enumerate() {
            let next = self.people.get(number + 1).or(self.people.first()).ok_or("nobody was admitted")?;
            let client = self.client(person);
            let to = client.resolve(next.name.as_str()).await?;
            seats.push(Seat { client, to, slips: Mutex::default() });
        }
        Ok(seats)
    }

    /// A client of this person that has no connection and knows nothing yet.
    pub fn stranger(&self, number: usize) -> Result<Client, Fault> {
        Ok(self.client(self.people.get(number).ok_or("nobody has this number")?))
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.ready().pid
    }

    /// Transactions that the store made, as far as the audit log quotes them.
    pub fn transactions(&self) -> Result<u64, Fault> {
        let quoted = proc::sequence(&self.server.audit())?;
        Ok(self.sequence.fetch_max(quoted, Ordering::Relaxed).max(quoted))
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        address(&self.server)
    }

    fn client(&self, person: &Person) -> Client {
        person.client(&self.address(), Pin::Cluster(self.cluster))
    }
}

fn address(server: &Server) -> String {
    format!("https://{}", server.address())
}

/// The secret of a person.
pub fn path(number: usize) -> Result<SecretPath, Fault> {
    Ok(format!("bench/{number}").parse()?)
}

/// What is written there: about as many bytes as a wrap holds.
pub fn secret() -> PutKv {
    PutKv::fields(StrictMap(BTreeMap::from([("value".to_owned(), "x".repeat(VALUE_BYTES))])))
}
