//! Leases: promises to take something away outside of Bulla at a time.
//!
//! A lease is committed before what it is for is made, with an entry that says when something is due. So whatever
//! crashes, and whatever a database does with half a request, there is an entry by which the user is dropped. The entry
//! goes in the commit that follows a drop, and a user who is not there counts as dropped.
//!
//! Times are those of the steady clock: a wall clock that is set forward ends no lease, and one that is set back
//! lengthens none.

mod begin;
mod demand;
mod end;
mod list;
mod renew;

pub(in crate::engine) use begin::password;
pub use begin::{Activate, Begin, Begun, Doubt, LEASES_EACH};
pub use demand::{Demand, Mark, Unheard, Which, demands};
pub(in crate::engine) use demand::{revoke_all_of, rotate_all_of};
pub use end::{Ended, Failed, Revoke, Take, Taken, scan};
pub use list::{List, ListAll, Read};
pub use renew::{PlanRenewal, Renewal, Renewed};

use crate::barrier::{Cursor, Kind, RecordKey, Records, Writes};
use crate::engine::database::Password;
use crate::operation::{Fault, Now, Refusal, parse_record};
use bulla_wire::api::{self, LeaseState};
use bulla_wire::error::Code;
use bulla_wire::id::{LeaseId, PrincipalId};
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How long the user of a pending lease may still come into being, in milliseconds. All that the server does to make
/// one ends within half of it, statements that a database goes on with by itself included; what then is not active is
/// dropped.
pub const PENDING_MS: u64 = 120_000;
/// Failed attempts after which a lease is shown as stuck. With the back-off that is a minute: no restart of a database.
pub const STUCK_AFTER: u32 = 6;
/// A lease that is due for longer than this, in milliseconds, is shown as stuck too: nobody has tried, since its database
/// is not reached.
pub const OVERDUE_MS: u64 = 60_000;
/// Longest error that is kept, in characters: what a database says in one line.
pub(in crate::engine) const ERROR_CHARS: usize = 300;
/// Longest wait between two attempts, in milliseconds: a database that is back is cleaned within this time.
const LONGEST_WAIT_MS: u64 = 300_000;

/// Where a lease stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// Its user is being made, or nobody knows whether it was.
    Pending,
    /// Its user is there.
    Active,
    /// Its user is being dropped.
    Revoking {
        /// How often that failed.
        attempts: u32,
        /// Why it failed last.
        error: Option<String>,
    },
}

/// A lease as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Whose it is.
    pub owner: PrincipalId,
    /// The database.
    pub database: Name,
    /// Host and port of the server that its user is made at.
    pub address: String,
    /// The role in it.
    pub role: Name,
    /// The user who is dropped at its end.
    pub user: String,
    /// The user's password, so that a repeated request finds it again. It goes with the first renewal.
    pub password: Option<Password>,
    /// The user's certificate in place of a password, once it is active; PEM.
    #[serde(default)]
    pub certificate: Option<String>,
    /// When it began.
    pub issued_ms: u64,
    /// How long it was to last at first.
    pub ttl_ms: u64,
    /// When it ends unless it is renewed.
    pub expires_ms: u64,
    /// When it ends whatever happens.
    pub max_ms: u64,
    /// Where its entry stands.
    pub due_ms: u64,
    /// Where it stands.
    pub state: State,
    /// Statements of the role that let the user live longer, as they were when it was made.
    pub renewal: Vec<String>,
    /// Statements of the role that drop the user, as they were when it was made.
    pub revocation: Vec<String>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, {}, {:?})", self.id, self.user, self.state)
    }
}

impl Lease {
    fn parse(bytes: &bulla_crypto::secret::SecretBytes) -> Result<Self, Fault> {
        parse_record("lease", bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        bulla_wire::json::to_vec(self)
    }

    /// What it is for.
    pub fn resource(&self) -> String {
        format!("database/{}/{}", self.database, self.role)
    }

    /// Whether its end does not come as it should.
    pub fn is_stuck(&self, now: Now) -> bool {
        let failed = matches!(self.state, State::Revoking { attempts, .. } if attempts >= STUCK_AFTER);
        failed || self.due_ms.saturating_add(OVERDUE_MS) < now.steady_ms
    }

    /// What is shown of it.
    pub fn view(&self, now: Now) -> api::Lease {
        let (state, attempts, error) = match &self.state {
            State::Pending => (LeaseState::Pending, 0, None),
            State::Active => (LeaseState::Active, 0, None),
            State::Revoking { attempts, error } => (LeaseState::Revoking, *attempts, error.clone()),
        };
        let state = if self.is_stuck(now) { LeaseState::Stuck } else { state };
        api::Lease {
            id: self.id,
            owner: self.owner,
            resource: self.resource(),
            user: self.user.clone(),
            state,
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
            max_ms: self.max_ms,
            attempts,
            error,
            due_ms: self.due_ms,
        }
    }

    fn due_key(&self) -> RecordKey {
        due_key(&self.database, self.due_ms, &self.id)
    }

    /// Writes it with its entry at another time.
    fn move_to(&mut self, due_ms: u64, writes: &mut Writes) {
        if due_ms != self.due_ms {
            writes.delete(self.due_key());
            self.due_ms = due_ms;
        }
        writes.put(self.due_key(), vec![]);
    }

    /// From now on its user is being dropped. One that may still come into being is dropped once it cannot any more.
    fn revoke(&mut self, now_ms: u64, writes: &mut Writes) {
        let due_ms = if self.state == State::Pending { self.due_ms } else { now_ms.min(self.due_ms) };
        self.over();
        self.move_to(due_ms, writes);
    }

    /// It is being revoked, and its entry stays where it is.
    fn over(&mut self) {
        self.state = State::Revoking { attempts: 0, error: None };
        self.password = None;
    }

    /// Somebody wants it to end: it is revoked, or what failed is tried again at once; whether that changes anything. One
    /// that was not tried yet keeps its time, since its user may come into being until then.
    fn end_now(&mut self, now_ms: u64, writes: &mut Writes) -> bool {
        match self.state {
            State::Revoking { attempts, .. } if attempts == 0 || self.due_ms <= now_ms => return false,
            State::Revoking { .. } => self.move_to(now_ms, writes),
            State::Pending | State::Active => self.revoke(now_ms, writes),
        }
        true
    }

    /// Its user was not dropped: it is tried again later.
    fn fail(&mut self, error: &str, now_ms: u64, writes: &mut Writes) {
        let State::Revoking { attempts, .. } = self.state else { return };
        self.move_to(now_ms.saturating_add(back_off_ms(attempts)), writes);
        let error = Some(error.chars().take(ERROR_CHARS).collect());
        self.state = State::Revoking { attempts: attempts.saturating_add(1), error };
    }
}

/// The wait after so many failed attempts.
pub(in crate::engine) fn back_off_ms(attempts: u32) -> u64 {
    1_000_u64.saturating_mul(1 << attempts.min(16)).min(LONGEST_WAIT_MS)
}

fn lease_key(id: &LeaseId) -> RecordKey {
    RecordKey::clear(Kind::Lease, "", *id.as_bytes())
}

pub(in crate::engine) fn due_key(database: &Name, at_ms: u64, id: &LeaseId) -> RecordKey {
    RecordKey::clear(Kind::LeaseDue, database.as_str(), [&at_ms.to_be_bytes()[..], id.as_bytes()].concat())
}

fn owner_key(lease: &Lease) -> RecordKey {
    let child = [&lease.issued_ms.to_be_bytes()[..], lease.id.as_bytes()].concat();
    RecordKey::clear(Kind::LeaseOwner, lease.owner.as_bytes(), child)
}

/// How many leases a principal has. No owner's directory is called so: an id is a digest.
fn count_key(owner: &PrincipalId) -> RecordKey {
    RecordKey::hidden(Kind::LeaseOwner, "count", *owner.as_bytes())
}

fn count(records: &Records, owner: &PrincipalId) -> Result<u64, Fault> {
    let Some(record) = records.get(&count_key(owner)).flatten() else { return Ok(0) };
    let bytes = record.bytes.expose().as_slice().try_into();
    bytes.map(u64::from_be_bytes).map_err(|_| Fault::Record { kind: "count of leases", reason: "no number".into() })
}

/// Time and id, as they stand in an index.
pub(in crate::engine) fn parse_place(cursor: &[u8]) -> Option<(u64, LeaseId)> {
    let (at_ms, id) = cursor.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at_ms), LeaseId::new(id.try_into().ok()?)))
}

/// Whether what stands at this place of a queue is due, or is no place at all: then it is in nobody's way.
pub fn is_due(place: &Cursor, now: Now) -> bool {
    parse_place(place.as_bytes()).is_none_or(|(due_ms, _)| due_ms <= now.steady_ms)
}

/// Adds everything of a lease; the record of its count was read.
fn add(lease: &Lease, held: u64, records: &Records, writes: &mut Writes) {
    let counted = count_key(&lease.owner);
    writes.create(lease_key(&lease.id), lease.to_bytes());
    writes.put(lease.due_key(), vec![]);
    writes.put(owner_key(lease), vec![]);
    let more = held.saturating_add(1).to_be_bytes().to_vec();
    writes.replace(counted.clone(), records.get(&counted).flatten(), more);
}

/// Removes everything of a lease; the record of its count was read.
fn remove(lease: &Lease, records: &Records, writes: &mut Writes) -> Result<(), Fault> {
    let key = count_key(&lease.owner);
    match count(records, &lease.owner)?.saturating_sub(1) {
        0 => {
            if let Some(record) = records.get(&key).flatten() {
                writes.expect.push((key.clone(), crate::barrier::Expect::At(record.revision)));
            }
            writes.delete(key);
        }
        left => writes.replace(key.clone(), records.get(&key).flatten(), left.to_be_bytes().to_vec()),
    }
    writes.delete(lease.due_key());
    writes.delete(owner_key(lease));
    writes.delete(lease_key(&lease.id));
    Ok(())
}

/// The answer about a lease that is not there, or not the caller's: it says the same of both.
fn unknown(id: &LeaseId) -> Refusal {
    Refusal::new(Code::NotFound, format!("you have no lease {id}"))
        .hint("`bulla lease list` shows yours; one that ended is gone")
}
