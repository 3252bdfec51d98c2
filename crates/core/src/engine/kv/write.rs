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
use bulla_wire::kv::FieldName;
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
    end: End,
    /// Whether the server may read what follows a sealed version.
    unseal: bool,
}

/// When a version ends.
enum End {
    /// As the secret's settings say.
    Settings,
    /// After so many seconds; 0 for never.
    Ttl(u64),
    /// At this time, as the version did whose content it has.
    At(u64),
}

impl Operation for Put {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([super::entry_key(path)])) };
        let PutKv { data, bytes, sealed, cas, ttl_s, expires_ms, unseal } = body.clone();
        if [data.is_some(), bytes.is_some(), sealed.is_some()].iter().filter(|there| **there).count() != 1 {
            let message = "a value has fields or bytes, or is sealed, and one of the three only";
            let refusal = Refusal::new(Code::Malformed, message).field("data");
            return Ok(Outcome::refuse(refusal.hint("give `data`, `bytes` or `sealed`")));
        }
        if let Err(refusal) = check_names(data.iter().flat_map(|data| data.0.keys())) {
            return Ok(Outcome::refuse(refusal));
        }
        let end = match (ttl_s, expires_ms) {
            (None, None) => End::Settings,
            (Some(ttl_s), None) => End::Ttl(ttl_s),
            (None, Some(at_ms)) => End::At(at_ms),
            (Some(_), Some(_)) => {
                let refusal = Refusal::new(Code::Malformed, "a version has one end").field("expires_ms");
                return Ok(Outcome::refuse(refusal.hint("give `ttl_s` or `expires_ms`")));
            }
        };
        let secret = found.secret.unwrap_or_else(Secret::new);
        let readers = match sealed.as_ref().map(|sealed| sealed::check(path, sealed, secret.version, context)) {
            None => vec![],
            Some(Ok(readers)) => readers,
            Some(Err(refusal)) => return Ok(Outcome::refuse(refusal)),
        };
        let write = Write { content: Content { data, bytes, sealed }, readers, cas, end, unseal };
        write.step(path, found.record, secret, context, rng)
    }
}

impl Operation for Patch {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        // What has a name of old is taken away under that.
        let written = body.data.0.iter().filter_map(|(name, value)| value.is_some().then_some(name));
        if let Err(refusal) = check_names(written) {
            return Ok(Outcome::refuse(refusal));
        }
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([super::entry_key(path)])) };
        let (record, secret) = match found.demand(path) {
            Ok(found) => found,
            Err(refusal) => return Ok(Outcome::refuse(refusal.hint("write the first version with `bulla kv put`"))),
        };
        let newest = match secret.find(path, None).and_then(|newest| super::versions::readable(path, newest, context)) {
            Ok(newest) => newest,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        // A change of one field must not make a secret live longer than its writer said.
        let end = match (self.body.ttl_s, newest.expires_ms) {
            (Some(ttl_s), _) => End::Ttl(ttl_s),
            (None, Some(at_ms)) => End::At(at_ms),
            (None, None) => End::Settings,
        };
        let key = content_key(path, newest.version);
        let Some(content) = records.get(&key) else { return Ok(Step::need([super::entry_key(path), key])) };
        let Some(content) = content else { return Ok(Outcome::refuse(nothing_at(path))) };
        let mut content = Content::parse(&content.bytes)?;
        let Some(data) = &mut content.data else {
            let holds =
                if content.bytes.is_some() { "holds bytes, which have no fields" } else { "is sealed to its readers" };
            let refusal = Refusal::new(Code::Malformed, format!("the newest version {holds}")).field("data");
            return Ok(Outcome::refuse(refusal.hint("write it anew with `bulla kv put`")));
        };
        super::merge(data, &body.data);
        let write = Write { content, readers: vec![], cas: body.cas, end, unseal: false };
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
        let checked = self
            .check_cas(&secret)
            .and_then(|()| self.check_sealing(path, &secret))
            .and_then(|()| self.expiry(&secret, context));
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
                let hint = match secret.settings.cas_required {
                    true => "read it again, and put your change on top",
                    false => "read it again, or leave --cas out to overwrite",
                };
                Err(refusal.field("cas").hint(hint))
            }
            // What is sealed names its own version, but a program may have looked that up a moment before.
            None if secret.settings.cas_required => {
                let refusal = Refusal::new(Code::CasRequired, "this secret's settings demand `cas`").field("cas");
                Err(refusal.hint(format!("the version is {version}: if that is what you saw, --cas {version}")))
            }
            _ => Ok(()),
        }
    }

    /// Whoever does not know that it was sealed to readers must not hand it to the server.
    fn check_sealing(&self, path: &SecretPath, secret: &Secret) -> Result<(), Refusal> {
        let sealed = secret.versions.last().is_some_and(|newest| !newest.readers.is_empty());
        if !sealed || self.unseal || self.content.sealed.is_some() {
            return Ok(());
        }
        let message =
            format!("version {} is sealed to its readers, and the server could read this one", secret.version);
        Err(Refusal::new(Code::Malformed, message).field("unseal").hint(format!(
            "seal it with --to (`bulla kv history {path}` shows the readers), or give --unseal if the server may read it"
        )))
    }

    fn expiry(&self, secret: &Secret, context: &Context<'_>) -> Result<Option<u64>, Refusal> {
        let now_ms = context.now.unix_ms;
        let ttl_s = match self.end {
            End::At(at_ms) if at_ms <= now_ms => {
                let refusal = Refusal::new(Code::Malformed, "the time of this version is over already");
                return Err(refusal.field("expires_ms").hint("give a time to come, or --ttl"));
            }
            End::At(at_ms) => {
                check_ttl(at_ms.saturating_sub(now_ms).div_ceil(1000))
                    .map_err(|refusal| refusal.field("expires_ms"))?;
                return Ok(Some(at_ms));
            }
            End::Ttl(ttl_s) => ttl_s,
            End::Settings => secret.settings.ttl_s,
        };
        check_ttl(ttl_s)?;
        Ok((ttl_s > 0).then_some(now_ms.saturating_add(ttl_s.saturating_mul(1000))))
    }
}

/// Names that fields may be written under. A refusal does not repeat them.
fn check_names<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    names.try_for_each(|name| FieldName::check(name)).map_err(|error| {
        Refusal::new(Code::Malformed, error.to_string()).field("data").hint("give the field another name")
    })
}

/// A life that a version may have.
pub(super) fn check_ttl(ttl_s: u64) -> Result<(), Refusal> {
    if ttl_s <= MAX_TTL_S {
        return Ok(());
    }
    let refusal = Refusal::new(Code::Malformed, format!("a version lives {MAX_TTL_S} seconds at most"));
    Err(refusal.field("ttl_s").hint("0 is for ever"))
}
