//! The authority of a database: a key of the cluster's that vouches for users by certificates. It lies under the barrier,
//! is made with the first role of that kind, goes with the database, and no route tells its private half.

use super::{Connection, Password, connection_key, no_database};
use crate::barrier::{Kind, RecordKey, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::DatabaseAuthority;
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};

/// An authority as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// How its certificates name it.
    pub subject: String,
    /// Its own certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: Password,
}

/// The record of a database's authority.
pub fn authority_key(database: &Name) -> RecordKey {
    RecordKey::hidden(Kind::DatabaseAuthority, "", database.as_str())
}

pub(in crate::engine) fn read(records: &Records, key: &RecordKey) -> Result<Option<Authority>, Fault> {
    let found = records.get(key).flatten();
    found.map(|record| parse_record("authority of a database", &record.bytes)).transpose()
}

/// `GET /v1/database/{name}:ca`.
#[derive(Debug, Clone)]
pub struct ReadAuthority {
    /// Of which database.
    pub database: Name,
}

impl Operation for ReadAuthority {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (of, key) = (connection_key(&self.database), authority_key(&self.database));
        let (Some(found), Some(_)) = (records.get(&of), records.get(&key)) else {
            return Ok(Step::need([of, key]));
        };
        let Some(found) = found else { return Ok(Outcome::refuse(no_database(&self.database))) };
        let _: Connection = parse_record("database", &found.bytes)?;
        Ok(match read(records, &key)? {
            Some(Authority { certificate, .. }) => Outcome::read(Reply::json(&DatabaseAuthority { certificate })),
            None => {
                let message = format!("{} has no authority", self.database);
                let hint =
                    "it is made with the first role whose users log in by certificate (`role put --certificate`)";
                Outcome::refuse(Refusal::new(Code::NotFound, message).hint(hint))
            }
        })
    }
}
