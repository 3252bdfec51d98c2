//! Secrets under paths, readable by policy: encrypted at rest, and to the reader on each read (`spec/kv.md`).
//!
//! | kind | directory | child | content |
//! | --- | --- | --- | --- |
//! | `Kv` | the path's directory | its name | what is known of the secret: [`Secret`] |
//! | `Kv` | a directory's parent | its name and `/` | a mark, so that listing is one scan |
//! | `KvVersion` | the path | the version | the content of one version |
//! | `DueKept` | | time and a random id | which version is destroyed then |
//!
//! The content lies apart, so that a listing or a look at the history opens no secret.

mod list;
mod sealed;
mod settings;
mod versions;
mod watch;
mod write;

pub use list::List;
pub use settings::{Inspect, SetSettings};
pub(in crate::engine) use versions::Expire;
pub use versions::{Delete, Destroy, Get, Undelete};
pub use watch::Watch;
pub use write::{Patch, Put};

use crate::barrier::{Kind, Record, RecordKey, Records, Writes};
use crate::operation::{Fault, Refusal, Reply, parse_record};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{DEFAULT_MAX_VERSIONS, KvMetadata, KvSettings, KvState, KvVersion, MAX_VALUE_BYTES};
use bulla_wire::encoding::Base64;
use bulla_wire::error::Code;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::kv::SealedKv;
use bulla_wire::name::SecretPath;
use serde::{Deserialize, Serialize};

/// A name in a directory: a secret, or the mark of a directory below.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dir: bool,
}

/// What is known of a secret without its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    /// The newest version that was ever written; 0 for none.
    version: u64,
    /// Those that are kept, oldest first.
    versions: Vec<KvVersion>,
    settings: KvSettings,
}

/// The content of a version: fields, bytes or an age file that the server cannot open, one of the three.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<StrictMap<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Base64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedKv>,
}

impl Content {
    /// The record's bytes.
    fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let bytes = json::to_vec(self);
        if bytes.len() <= MAX_VALUE_BYTES {
            return Ok(bytes);
        }
        // How many it has would tell whoever may patch and not read how long the other fields are.
        let message = format!("a value has at most {MAX_VALUE_BYTES} bytes as JSON");
        let field = match self {
            Self { data: Some(_), .. } => "data",
            Self { sealed: Some(_), .. } => "sealed",
            _ => "bytes",
        };
        Err(Refusal::new(Code::TooLarge, message).field(field).hint("send larger things with `bulla wrap create`"))
    }

    fn parse(bytes: &SecretBytes) -> Result<Self, Fault> {
        parse_record("kv version", bytes)
    }
}

impl Secret {
    fn new() -> Self {
        let custom = StrictMap(std::collections::BTreeMap::new());
        let settings = KvSettings { max_versions: DEFAULT_MAX_VERSIONS, cas_required: false, ttl_s: 0, custom };
        Self { version: 0, versions: Vec::new(), settings }
    }

    /// The version of this number, or the newest.
    fn find(&self, path: &SecretPath, version: Option<u64>) -> Result<&KvVersion, Refusal> {
        let number = version.unwrap_or(self.version);
        if let Some(found) = self.versions.iter().find(|known| known.version == number) {
            return Ok(found);
        }
        let message = match (self.version, version) {
            (0, _) => format!("kv/{path} has no version yet"),
            (newest, Some(asked)) if asked > newest => format!("the newest version of kv/{path} is {newest}"),
            _ => format!("version {number} of kv/{path} is not kept any more"),
        };
        let refusal = Refusal::new(Code::NotFound, message).field("version");
        Err(refusal.hint(format!("`bulla kv history {path}` shows which there are")))
    }

    fn to_metadata(&self, path: &SecretPath) -> KvMetadata {
        let Self { version, versions, settings } = self.clone();
        KvMetadata { path: path.clone(), version, settings, versions }
    }

    fn reply(&self, path: &SecretPath) -> Reply {
        Reply::json(&self.to_metadata(path))
    }
}

/// A secret that was read, with its record.
struct Found<'a> {
    record: Option<&'a Record>,
    secret: Option<Secret>,
}

impl<'a> Found<'a> {
    /// `None` if it was not asked for yet.
    fn read(records: &'a Records, path: &SecretPath) -> Result<Option<Self>, Fault> {
        let Some(record) = records.get(&entry_key(path)) else { return Ok(None) };
        let entry = record.map(|record| parse_record::<Entry>("kv", &record.bytes)).transpose()?;
        Ok(Some(Self { record, secret: entry.and_then(|entry| entry.secret) }))
    }

    /// The secret, or that there is none.
    fn demand(self, path: &SecretPath) -> Result<(&'a Record, Secret), Refusal> {
        match (self.record, self.secret) {
            (Some(record), Some(secret)) => Ok((record, secret)),
            _ => Err(nothing_at(path)),
        }
    }
}

fn nothing_at(path: &SecretPath) -> Refusal {
    let refusal = Refusal::new(Code::NotFound, format!("nothing lies at kv/{path}"));
    refusal.hint("`bulla kv list` shows what there is")
}

fn entry_key(path: &SecretPath) -> RecordKey {
    let (dir, name) = path.split();
    RecordKey::hidden(Kind::Kv, dir, name)
}

fn mark_key(dir: &str) -> RecordKey {
    let (up, name) = dir.rsplit_once('/').unwrap_or(("", dir));
    // The slash keeps a directory apart from a secret of the same name.
    RecordKey::hidden(Kind::Kv, up, format!("{name}/"))
}

fn content_key(path: &SecretPath, version: u64) -> RecordKey {
    RecordKey::hidden(Kind::KvVersion, path.as_str(), version.to_be_bytes())
}

/// Writes what is known of a secret in place of what was read. A new name writes the marks of its directories too, whether
/// they are there or not: then whoever is just deleting one, since it was empty, has to look again.
fn put_secret(writes: &mut Writes, path: &SecretPath, read: Option<&Record>, secret: Secret) {
    let entry = Entry { name: path.split().1.to_owned(), secret: Some(secret), dir: false };
    writes.replace(entry_key(path), read, json::to_vec(&entry));
    if read.is_none() {
        for dir in path.ancestors() {
            let name = dir.rsplit_once('/').map_or(dir, |(_, name)| name).to_owned();
            writes.put(mark_key(dir), json::to_vec(&Entry { name, secret: None, dir: true }));
        }
    }
}

/// A merge patch (RFC 7396) of one level: null takes an entry away.
fn merge(into: &mut StrictMap<String>, patch: &StrictMap<Option<String>>) {
    for (key, value) in &patch.0 {
        match value {
            Some(value) => drop(into.0.insert(key.clone(), value.clone())),
            None => drop(into.0.remove(key)),
        }
    }
}

/// Whether the content of a version is there still.
fn has_content(version: &KvVersion) -> bool {
    matches!(version.state, KvState::Live | KvState::Deleted)
}
