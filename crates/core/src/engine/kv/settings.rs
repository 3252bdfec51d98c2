//! What is known of a secret without its content, and what its owner decides.

use super::{Found, Secret, entry_key, put_secret};
use crate::barrier::{Records, Writes};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::{
    KvSettings, MAX_CUSTOM, MAX_CUSTOM_KEY_BYTES, MAX_CUSTOM_VALUE_BYTES, MAX_VERSIONS, SetKvSettings,
};
use bulla_wire::error::Code;
use bulla_wire::name::SecretPath;

/// `GET /v1/kv/{path}:metadata`.
#[derive(Debug, Clone)]
pub struct Inspect {
    /// Where.
    pub path: SecretPath,
}

/// `PUT /v1/kv/{path}:metadata`. The secret need not have a version yet.
#[derive(Debug, Clone)]
pub struct SetSettings {
    /// Where.
    pub path: SecretPath,
    /// What becomes different.
    pub body: SetKvSettings,
}

impl Operation for Inspect {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(found) = Found::read(records, &self.path)? else { return Ok(Step::need([entry_key(&self.path)])) };
        Ok(match found.demand(&self.path) {
            Ok((_, secret)) => Outcome::read(secret.reply(&self.path)),
            Err(refusal) => Outcome::refuse(refusal),
        })
    }
}

impl Operation for SetSettings {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, body } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([entry_key(path)])) };
        let mut secret = found.secret.unwrap_or_else(Secret::new);
        if context.repeated.is_some() {
            return Ok(Outcome::read(secret.reply(path)));
        }
        if let Err(refusal) = set(&mut secret.settings, body) {
            return Ok(Outcome::refuse(refusal));
        }
        let reply = secret.reply(path);
        let mut writes = Writes::default();
        put_secret(&mut writes, path, found.record, secret);
        Ok(Outcome::wrote(writes, reply, Replay::Again))
    }
}

fn set(settings: &mut KvSettings, body: &SetKvSettings) -> Result<(), Refusal> {
    let SetKvSettings { max_versions, cas_required, ttl_s, custom } = body;
    if let Some(count) = *max_versions {
        if !(1..=MAX_VERSIONS).contains(&count) {
            let refusal = Refusal::new(Code::Malformed, format!("1 to {MAX_VERSIONS} versions can be kept"));
            return Err(refusal.field("max_versions").hint(match count {
                0 => "1 keeps the newest alone; for a secret that is shown once, use a wrap",
                _ => "what is to be kept longer can be written to a path of its own",
            }));
        }
        settings.max_versions = count;
    }
    if let Some(required) = *cas_required {
        settings.cas_required = required;
    }
    if let Some(ttl_s) = *ttl_s {
        super::write::check_ttl(ttl_s)?;
        settings.ttl_s = ttl_s;
    }
    if let Some(custom) = custom {
        super::merge(&mut settings.custom, custom);
    }
    let long = |(key, value): (&String, &String)| {
        key.is_empty() || key.len() > MAX_CUSTOM_KEY_BYTES || value.len() > MAX_CUSTOM_VALUE_BYTES
    };
    if settings.custom.0.len() > MAX_CUSTOM || settings.custom.0.iter().any(long) {
        let message = format!(
            "custom metadata has at most {MAX_CUSTOM} entries, with keys of 1 to {MAX_CUSTOM_KEY_BYTES} bytes and values \
             of at most {MAX_CUSTOM_VALUE_BYTES}"
        );
        let refusal = Refusal::new(Code::Malformed, message).field("custom");
        return Err(refusal.hint("what is secret or large goes into the value"));
    }
    Ok(())
}
