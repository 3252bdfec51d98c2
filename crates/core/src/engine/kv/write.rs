//! Writing versions: whole ones, and changes of the newest.

use super::{Content, Found, Secret, content_key, has_content, nothing_at, put_secret, sealed};
use crate::barrier::{Kind, Record, Records, Writes};
use crate::engine::due::{self, What};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step};
use bulla_crypto::random::{Rng, draw};
use bulla_wire::api::{KvState, KvVersion, KvWritten, MAX_TTL_S, PatchKv, PutKv};
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::json;
use bulla_wire::name::SecretPath;

/// `PUT /v1/kv/{path}`.
#[derive(Debug)]
pub struct Put {
    /// Where.
    pub path: SecretPath,
    /// What.
    pub body: PutKv,
}

/// `PATCH /v1/kv/{path}`.
#[derive(Debug)]
pub struct Patch {
    /// Where.
    pub path: SecretPath,
    /// What becomes different.
    pub body: PatchKv,
}

/// A version that is to be the next.
struct Write {
    content: Content,
    readers: Vec<PrincipalId>,
    cas: Option<u64>,
    ttl_s: Option<u64>,
}

impl Operation for Put {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([super::entry_key(path)])) };
        let PutKv { data, bytes, sealed, cas, ttl_s } = body.clone();
        if [data.is_some(), bytes.is_some(), sealed.is_some()].iter().filter(|there| **there).count() != 1 {
            let message = "a value has fields or bytes, or is sealed, and one of the three only";
            let refusal = Refusal::new(Code::Malformed, message).field("data");
            return Ok(Outcome::refuse(refusal.hint("give `data`, `bytes` or `sealed`")));
        }
        let secret = found.secret.unwrap_or_else(Secret::new);
        let readers = match sealed.as_ref().map(|sealed| sealed::check(path, sealed, secret.version, context)) {
            None => vec![],
            Some(Ok(readers)) => readers,
            Some(Err(refusal)) => return Ok(Outcome::refuse(refusal)),
        };
        let write = Write { content: Content { data, bytes, sealed }, readers, cas, ttl_s };
        write.step(path, found.record, secret, context, rng)
    }
}

impl Operation for Patch {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([super::entry_key(path)])) };
        let (record, secret) = match found.demand(path) {
            Ok(found) => found,
            Err(refusal) => return Ok(Outcome::refuse(refusal.hint("write the first version with `bulla kv put`"))),
        };
        let newest = match secret.find(path, None).and_then(|newest| super::versions::readable(path, newest, context)) {
            Ok(newest) => newest.version,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let key = content_key(path, newest);
        let Some(content) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(content) = content else { return Ok(Outcome::refuse(nothing_at(path))) };
        let mut content = Content::parse(&content.bytes)?;
        let Some(data) = &mut content.data else {
            let holds =
                if content.bytes.is_some() { "holds bytes, which have no fields" } else { "is sealed to its readers" };
            let refusal = Refusal::new(Code::Malformed, format!("the newest version {holds}")).field("data");
            return Ok(Outcome::refuse(refusal.hint("write it anew with `bulla kv put`")));
        };
        super::merge(data, &body.data);
        let write = Write { content, readers: vec![], cas: body.cas, ttl_s: body.ttl_s };
        write.step(path, Some(record), secret, context, rng)
    }
}

impl Write {
    fn step(
        self,
        path: &SecretPath,
        read: Option<&Record>,
        mut secret: Secret,
        context: &Context<'_>,
        rng: &mut dyn Rng,
    ) -> Result<Step, Fault> {
        let checked = self.check_cas(&secret).and_then(|()| self.expiry(&secret, context));
        let (expires_ms, bytes) = match checked.and_then(|expires_ms| Ok((expires_ms, self.content.to_bytes()?))) {
            Ok(checked) => checked,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let (version, written_ms) = (secret.version.saturating_add(1), context.now.unix_ms);
        let by = context.actor.ok_or(Fault::Key("caller"))?.principal;
        let Self { readers, .. } = self;
        let (state, since_ms) = (KvState::Live, None);
        secret.versions.push(KvVersion { version, written_ms, by, state, since_ms, expires_ms, readers });
        secret.version = version;
        let mut writes = Writes::default();
        let kept = usize::try_from(secret.settings.max_versions).unwrap_or(usize::MAX).max(1);
        let over = secret.versions.len().saturating_sub(kept);
        for old in secret.versions.drain(..over).filter(has_content) {
            writes.delete(content_key(path, old.version));
        }
        writes.put(content_key(path, version), bytes);
        if let Some(at_ms) = expires_ms {
            let target = super::versions::Target { path: path.clone(), version };
            writes.put(due::key(Kind::DueKept, at_ms, What::KvExpiry, &draw::<16>(rng)), json::to_vec(&target));
        }
        put_secret(&mut writes, path, read, secret);
        Ok(Outcome::wrote(writes, Reply::json(&KvWritten { version, expires_ms }), Replay::Kept))
    }

    fn check_cas(&self, secret: &Secret) -> Result<(), Refusal> {
        let version = secret.version;
        match self.cas {
            Some(cas) if cas != version => {
                let refusal = Refusal::new(Code::VersionMismatch, format!("the version is {version}, not {cas}"));
                Err(refusal.field("cas").hint("read it again, or leave --cas out to overwrite"))
            }
            // What is sealed names its own version.
            None if secret.settings.cas_required && self.content.sealed.is_none() => {
                let refusal = Refusal::new(Code::CasRequired, "this secret's settings demand `cas`").field("cas");
                Err(refusal.hint(format!("the version is {version}: if that is what you saw, --cas {version}")))
            }
            _ => Ok(()),
        }
    }

    fn expiry(&self, secret: &Secret, context: &Context<'_>) -> Result<Option<u64>, Refusal> {
        let ttl_s = self.ttl_s.unwrap_or(secret.settings.ttl_s);
        check_ttl(ttl_s)?;
        let ends = context.now.unix_ms.saturating_add(ttl_s.saturating_mul(1000));
        Ok((ttl_s > 0).then_some(ends))
    }
}

/// A life that a version may have.
pub(super) fn check_ttl(ttl_s: u64) -> Result<(), Refusal> {
    if ttl_s <= MAX_TTL_S {
        return Ok(());
    }
    let refusal = Refusal::new(Code::Malformed, format!("a version lives {MAX_TTL_S} seconds at most"));
    Err(refusal.field("ttl_s").hint("0 is for ever"))
}
