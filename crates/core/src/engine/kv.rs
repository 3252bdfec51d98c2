//! Secrets under paths, readable by policy: encrypted at rest, and to the reader on each read.
//!
//! A directory holds one record per name. A value's record says which version it is; a subdirectory's
//! record is a mark without content, so that listing is one prefix scan.

use crate::barrier::{Cursor, Kind, Query, RecordKey, Records, Writes};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::{Kv, KvNames, KvWritten, PutKv};
use bulla_wire::error::Code;
use bulla_wire::json::StrictMap;
use bulla_wire::name::SecretPath;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest value in bytes, its JSON form included: fits one record. Larger things go by wrap.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dir: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    version: u64,
    written_ms: u64,
    data: StrictMap<String>,
}

fn value_key(path: &SecretPath) -> RecordKey {
    let (dir, name) = path.split();
    RecordKey::hidden(Kind::Kv, dir, name)
}

fn mark_key(dir: &str) -> RecordKey {
    let (up, name) = dir.rsplit_once('/').unwrap_or(("", dir));
    // The slash keeps a directory apart from a value of the same name.
    RecordKey::hidden(Kind::Kv, up, format!("{name}/"))
}

/// `PUT /v1/kv/{path}`.
pub struct Put {
    /// Where.
    pub path: SecretPath,
    /// What.
    pub body: PutKv,
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Put({})", self.path)
    }
}

impl Operation for Put {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = value_key(&self.path);
        let marks: Vec<(RecordKey, &str)> = self.path.ancestors().map(|dir| (mark_key(dir), dir)).collect();
        let Some(current) = records.get(&key) else {
            return Ok(Step::need(marks.into_iter().map(|(key, _)| key).chain([key])));
        };
        let version = match current {
            Some(record) => parse_record::<Entry>("kv", &record.bytes)?.value.map_or(0, |value| value.version),
            None => 0,
        };
        if let Some(cas) = self.body.cas
            && cas != version
        {
            let refusal = Refusal::new(Code::VersionMismatch, format!("the version is {version}, not {cas}"));
            return Ok(Outcome::refuse(refusal.field("cas").hint("read it again, or leave --cas out to overwrite")));
        }
        let version = version.saturating_add(1);
        let value = Value { version, written_ms: context.now.unix_ms, data: self.body.data.clone() };
        let entry = Entry { name: self.path.split().1.to_owned(), value: Some(value), dir: false };
        let bytes = bulla_wire::json::to_vec(&entry);
        if bytes.len() > MAX_VALUE_BYTES {
            let refusal = Refusal::new(Code::TooLarge, format!("a value has at most {MAX_VALUE_BYTES} bytes"));
            return Ok(Outcome::refuse(refusal.field("data").hint("send larger things with `bulla wrap create`")));
        }
        let mut writes = Writes::default();
        writes.replace(key, current, bytes);
        for (key, dir) in marks {
            if matches!(records.get(&key), Some(None)) {
                let name = dir.rsplit_once('/').map_or(dir, |(_, name)| name).to_owned();
                // No precondition: two writers that both make the mark write the same.
                writes.put(key, bulla_wire::json::to_vec(&Entry { name, value: None, dir: true }));
            }
        }
        Ok(Outcome::wrote(writes, Reply::json(&KvWritten { version }), Replay::Kept))
    }
}

/// `GET /v1/kv/{path}`.
#[derive(Debug, Clone)]
pub struct Get {
    /// Where.
    pub path: SecretPath,
}

impl Operation for Get {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = value_key(&self.path);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let value = match current {
            Some(record) => parse_record::<Entry>("kv", &record.bytes)?.value,
            None => None,
        };
        let Some(Value { version, written_ms, data }) = value else {
            let refusal = Refusal::new(Code::NotFound, format!("nothing lies at kv/{}", self.path));
            return Ok(Outcome::refuse(refusal.hint("`bulla kv list` shows what there is")));
        };
        Ok(Outcome::read(Reply::secret(&Kv { path: self.path.clone(), version, written_ms, data })))
    }
}

/// `GET /v1/kv:list` and `GET /v1/kv/{path}:list`.
#[derive(Debug, Clone)]
pub struct List {
    /// The directory; none for the top.
    pub path: Option<SecretPath>,
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let dir = self.path.as_ref().map_or("", SecretPath::as_str).as_bytes().to_vec();
        let query = Query::Scan { kind: Kind::Kv, dir, after: self.after.clone(), limit: self.limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut names = Vec::with_capacity(page.len());
        for record in page {
            let entry: Entry = parse_record("kv", &record.bytes)?;
            names.push(if entry.dir { format!("{}/", entry.name) } else { entry.name });
        }
        names.sort_unstable();
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&KvNames { names, next })))
    }
}
