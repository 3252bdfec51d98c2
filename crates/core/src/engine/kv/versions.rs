//! Reading versions, taking them away and back, and their end.

use super::{Content, Found, Secret, content_key, entry_key, has_content, mark_key, put_secret};
use crate::barrier::{Kind, Query, Record, Records, Writes};
use crate::engine::due;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::{DestroyKv, Done, Kv, KvState, KvVersion, KvVersions, MAX_VERSIONS};
use bulla_wire::error::Code;
use bulla_wire::name::SecretPath;
use serde::{Deserialize, Serialize};

/// `GET /v1/kv/{path}`.
#[derive(Debug, Clone)]
pub struct Get {
    /// Where.
    pub path: SecretPath,
    /// Which version; none for the newest.
    pub version: Option<u64>,
}

/// `POST /v1/kv/{path}:delete`.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Where.
    pub path: SecretPath,
    /// Which versions.
    pub body: KvVersions,
}

/// `POST /v1/kv/{path}:undelete`.
#[derive(Debug, Clone)]
pub struct Undelete {
    /// Where.
    pub path: SecretPath,
    /// Which versions.
    pub body: KvVersions,
}

/// `POST /v1/kv/{path}:destroy`.
#[derive(Debug, Clone)]
pub struct Destroy {
    /// Where.
    pub path: SecretPath,
    /// What.
    pub body: DestroyKv,
}

/// Which version an entry of what is due is about.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub path: SecretPath,
    pub version: u64,
}

/// The life of a version is over.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Expire {
    /// What is due.
    pub entry: due::Entry,
}

/// Whether the time of a version is over at this one.
pub(super) fn is_over(version: &KvVersion, now_ms: u64) -> bool {
    version.expires_ms.is_some_and(|at_ms| at_ms <= now_ms)
}

/// The version, if it can be read now. One whose time is over is not, whether or not the sweep has come by.
pub(super) fn readable<'v>(
    path: &SecretPath,
    version: &'v KvVersion,
    context: &Context<'_>,
) -> Result<&'v KvVersion, Refusal> {
    let number = version.version;
    let over = is_over(version, context.now.earliest_ms());
    let (code, what) = match version.state {
        KvState::Live if !over && is_over(version, context.now.latest_ms()) => {
            let message = format!("the clock was set, and by one of two times version {number} has expired");
            let refusal = Refusal::new(Code::ClockStepped, message).field("version");
            return Err(refusal.hint("an admin says with `bulla seal confirm-clock` that the time is right"));
        }
        KvState::Live if !over => return Ok(version),
        KvState::Live | KvState::Expired => (Code::Expired, "has expired"),
        KvState::Deleted => (Code::Deleted, "is deleted"),
        KvState::Destroyed => (Code::Destroyed, "is destroyed"),
    };
    let refusal = Refusal::new(code, format!("version {number} of kv/{path} {what}")).field("version");
    Err(match code {
        Code::Deleted => refusal.hint(format!("`bulla kv undelete {path} --version {number}` takes it back")),
        _ => refusal.hint(format!("`bulla kv history {path}` shows which versions can be read")),
    })
}

impl Operation for Get {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, version } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([entry_key(path)])) };
        let (_, secret) = match found.demand(path) {
            Ok(found) => found,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let found = secret.find(path, *version).and_then(|version| readable(path, version, context));
        let KvVersion { version, written_ms, by, expires_ms, .. } = match found {
            Ok(version) => version.clone(),
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let key = content_key(path, version);
        // Together with what is known of it: by a write in between the content may be gone, or another's.
        let Some(content) = records.get(&key) else { return Ok(Step::need([entry_key(path), key])) };
        let content = content.ok_or_else(|| missing(version))?;
        let Content { data, bytes, sealed } = Content::parse(&content.bytes)?;
        let path = path.clone();
        Ok(Outcome::read(Reply::secret(&Kv { path, version, written_ms, by, expires_ms, data, bytes, sealed })))
    }
}

/// What is known of a secret says that there is content, and there is none: the store lost or hid it.
fn missing(version: u64) -> Fault {
    Fault::Record { kind: "kv version", reason: format!("the content of version {version} is not there") }
}

/// The numbers that a request names, or the newest.
fn chosen(path: &SecretPath, secret: &Secret, versions: Option<&[u64]>) -> Result<Vec<u64>, Refusal> {
    let Some(numbers) = versions else { return secret.find(path, None).map(|newest| vec![newest.version]) };
    let most = usize::try_from(MAX_VERSIONS).unwrap_or(usize::MAX);
    if numbers.is_empty() || numbers.len() > most {
        let refusal = Refusal::new(Code::Malformed, format!("1 to {MAX_VERSIONS} versions are taken at once"));
        return Err(refusal.field("versions").hint("leave it out for the newest"));
    }
    let found = |number: &u64| secret.find(path, Some(*number)).map(|version| version.version);
    numbers.iter().map(found).collect::<Result<_, _>>().map_err(|refusal: Refusal| refusal.field("versions"))
}

/// Changes the state of versions, and answers with what is known of the secret then.
fn change(
    path: &SecretPath,
    records: &Records,
    context: &Context<'_>,
    versions: Option<&[u64]>,
    mut alter: impl FnMut(&mut KvVersion, &mut Writes) -> Result<(), Refusal>,
) -> Result<Step, Fault> {
    let Some(found) = Found::read(records, path)? else { return Ok(Step::need([entry_key(path)])) };
    let (record, mut secret) = match found.demand(path) {
        Ok(found) => found,
        Err(refusal) => return Ok(Outcome::refuse(refusal)),
    };
    if context.repeated.is_some() {
        // Others may have changed it since: what is so now is told, not what this would make of it.
        return Ok(Outcome::read(secret.reply(path)));
    }
    let before = secret.versions.clone();
    let numbers = match chosen(path, &secret, versions) {
        Ok(numbers) => numbers,
        Err(refusal) => return Ok(Outcome::refuse(refusal)),
    };
    let mut writes = Writes::default();
    for version in secret.versions.iter_mut().filter(|version| numbers.contains(&version.version)) {
        if let Err(refusal) = alter(version, &mut writes) {
            return Ok(Outcome::refuse(refusal));
        }
    }
    let reply = secret.reply(path);
    if secret.versions != before {
        put_secret(&mut writes, path, Some(record), secret);
    }
    Ok(Outcome::wrote(writes, reply, Replay::Again))
}

impl Operation for Delete {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        change(&self.path, records, context, self.body.versions.as_deref(), |version, _| {
            if version.state == KvState::Live {
                (version.state, version.since_ms) = (KvState::Deleted, Some(context.now.unix_ms));
            }
            Ok(())
        })
    }
}

impl Operation for Undelete {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        change(&self.path, records, context, self.body.versions.as_deref(), |version, _| {
            if version.state == KvState::Deleted {
                (version.state, version.since_ms) = (KvState::Live, None);
            }
            readable(&self.path, version, context).map(drop)
        })
    }
}

impl Operation for Destroy {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        if body.all == body.versions.is_some() {
            let refusal = Refusal::new(Code::Malformed, "say which versions are destroyed, or that all are");
            return Ok(Outcome::refuse(refusal.field("versions").hint("give `versions`, or `all`: true")));
        }
        if body.all {
            return destroy_all(path, records, context);
        }
        change(path, records, context, body.versions.as_deref(), |version, writes| {
            if has_content(version) {
                writes.delete(content_key(path, version.version));
                (version.state, version.since_ms) = (KvState::Destroyed, Some(context.now.unix_ms));
            }
            Ok(())
        })
    }
}

/// The marks of directories that are empty without this secret go with it.
fn destroy_all(path: &SecretPath, records: &Records, context: &Context<'_>) -> Result<Step, Fault> {
    let Some(found) = Found::read(records, path)? else { return Ok(Step::need([entry_key(path)])) };
    let (record, secret) = match found.demand(path) {
        Ok(found) => found,
        // It did so before.
        Err(_) if context.repeated.is_some() => return Ok(Outcome::read(Secret::new().reply(path))),
        Err(refusal) => return Ok(Outcome::refuse(refusal)),
    };
    if context.repeated.is_some() {
        return Ok(Outcome::read(secret.reply(path)));
    }
    let scan = |dir: &str| Query::Scan { kind: Kind::Kv, dir: dir.into(), after: None, limit: 2 };
    let queries = path.ancestors().flat_map(|dir| [scan(dir), Query::Get(mark_key(dir))]);
    let unread = |query: &Query| match query {
        Query::Get(key) => records.get(key).is_none(),
        Query::Scan { .. } => records.page(query).is_none(),
    };
    let unread: Vec<Query> = queries.filter(unread).collect();
    if !unread.is_empty() {
        return Ok(Step::Need(unread));
    }
    let mut writes = Writes::default();
    writes.remove(entry_key(path), record);
    for version in secret.versions.iter().filter(|version| has_content(version)) {
        writes.delete(content_key(path, version.version));
    }
    for dir in path.ancestors() {
        let alone = records.page(&scan(dir)).is_some_and(|(page, more)| page.len() <= 1 && !more);
        let Some(mark) = records.get(&mark_key(dir)).flatten().filter(|_| alone) else { break };
        writes.remove(mark_key(dir), mark);
    }
    Ok(Outcome::wrote(writes, Secret::new().reply(path), Replay::Again))
}

impl Operation for Expire {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let due = self.entry.key();
        let Some(listed) = records.get(&due) else { return Ok(Step::need([due])) };
        let done = || Reply::json(&Done {});
        let Some(Record { bytes, .. }) = listed else { return Ok(Outcome::read(done())) };
        let Target { path, version } = parse_record("kv expiry", bytes)?;
        let Some(found) = Found::read(records, &path)? else { return Ok(Step::need([entry_key(&path)])) };
        let mut writes = Writes::default();
        writes.delete(due);
        if let (Some(record), Some(mut secret)) = (found.record, found.secret) {
            // The number may be taken by another version since: the secret was destroyed and written anew.
            let over = |known: &&mut KvVersion| {
                known.version == version
                    && has_content(known)
                    && known.expires_ms.is_some_and(|at_ms| at_ms <= context.now.unix_ms)
            };
            if let Some(known) = secret.versions.iter_mut().find(over) {
                (known.state, known.since_ms) = (KvState::Expired, known.expires_ms);
                writes.delete(content_key(&path, version));
                put_secret(&mut writes, &path, Some(record), secret);
            }
        }
        Ok(Outcome::wrote(writes, done(), Replay::Again))
    }
}
