//! Policies as records: written one by one, checked, or replaced as a whole by k admins.

use crate::action::{Action, Resource};
use crate::barrier::{Kind, RecordKey, Records, Writes};
use crate::directory::{Change, StoredPrincipal};
use crate::engine::alarm::{self, About};
use crate::engine::principal;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use crate::policy::{PolicyError, PolicySet};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{VerifiedRecovery, verify_policy_recovery};
use bulla_crypto::random::Rng;
use bulla_wire::api::{AlarmKind, Done, Policies, Policy, PolicyDecision, PolicySummary, PutPolicy, ReplacedPolicies};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::Digest;
use bulla_wire::json::{MAX_JSON_BYTES, StrictMap};
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most policies by name: the admins' replacement of all of them must fit one commit. A policy holds up to a
/// thousand statements.
pub const MAX_NAMES: usize = 200;

/// A policy's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPolicy {
    /// Its name.
    pub name: Name,
    /// Cedar text.
    pub text: String,
}

impl StoredPolicy {
    /// The record's bytes.
    pub fn to_bytes(name: &Name, text: &str) -> Vec<u8> {
        bulla_wire::json::to_vec(&Self { name: name.clone(), text: text.to_owned() })
    }
}

/// The key of a policy's record.
pub fn key(name: &Name) -> RecordKey {
    RecordKey::hidden(Kind::Policy, "", name.as_str())
}

fn answer(name: &Name, text: &str) -> Policy {
    Policy { name: name.clone(), text: text.to_owned(), sha256: Digest::new(sha256(&[text.as_bytes()])) }
}

fn refused(error: &PolicyError) -> Refusal {
    Refusal::new(Code::BadPolicy, error.to_string())
        .field("text")
        .hint("correct that place and put it again; `--output-policy` after a command prints a statement to begin with")
}

fn changed(writes: Writes, reply: Reply, change: Change, replay: Replay) -> Box<Outcome> {
    Box::new(Outcome { writes, result: Ok(reply), replay, receipts: vec![], alarms: vec![], change: Some(change) })
}

fn unknown(name: &Name) -> Step {
    Outcome::refuse(
        Refusal::new(Code::NotFound, format!("no policy is called {name}")).hint("`bulla policy list` shows all"),
    )
}

/// `GET /v1/policy`.
#[derive(Debug, Clone)]
pub struct List;

impl Operation for List {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let summary = |(name, text): (&Name, &str)| PolicySummary {
            name: name.clone(),
            bytes: text.len() as u64,
            sha256: Digest::new(sha256(&[text.as_bytes()])),
        };
        let policies = context.directory.policies().texts().map(summary).collect();
        Ok(Outcome::read(Reply::json(&Policies { policies })))
    }
}

/// `GET /v1/policy/{name}`.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which.
    pub name: Name,
}

impl Operation for Read {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let found = context.directory.policies().texts().find(|(name, _)| **name == self.name);
        Ok(match found {
            Some((name, text)) => Outcome::read(Reply::json(&answer(name, text))),
            None => unknown(&self.name),
        })
    }
}

/// `PUT /v1/policy/{name}`.
#[derive(Debug, Clone)]
pub struct Put {
    /// Which.
    pub name: Name,
    /// What.
    pub body: PutPolicy,
}

impl Operation for Put {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let stored = current.map(|record| parse_record::<StoredPolicy>("policy", &record.bytes)).transpose()?;
        let there = stored.map(|stored| Digest::new(sha256(&[stored.text.as_bytes()])));
        if let Some(expected) = self.body.replaces
            && expected != there
        {
            let (message, hint) = match (expected, there) {
                (None, Some(there)) => {
                    (format!("there is a policy of this name already: {there}"), "to replace it, leave out --create")
                }
                (_, Some(there)) => {
                    (format!("the stored policy is another: {there}"), "read it again and put your change on top")
                }
                (_, None) => ("there is no policy of this name".to_owned(), "`bulla policy list` shows the names"),
            };
            return Ok(Outcome::refuse(Refusal::new(Code::VersionMismatch, message).field("replaces").hint(hint)));
        }
        let policies = context.directory.policies();
        if current.is_none() && policies.texts().count() >= MAX_NAMES {
            let refusal = Refusal::new(Code::TooLarge, format!("there are {MAX_NAMES} policies already"));
            return Ok(Outcome::refuse(refusal.hint("put several statements into one policy")));
        }
        if let Err(error) = policies.with(&self.name, &self.body.text) {
            return Ok(Outcome::refuse(refused(&error)));
        }
        let mut writes = Writes::default();
        writes.replace(key, current, StoredPolicy::to_bytes(&self.name, &self.body.text));
        let change = Change::Policy(self.name.clone(), Some(self.body.text.clone()));
        Ok(Step::Done(changed(writes, Reply::json(&answer(&self.name, &self.body.text)), change, Replay::Kept)))
    }
}

/// `DELETE /v1/policy/{name}`.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Which.
    pub name: Name,
}

impl Operation for Delete {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        if current.is_none() {
            return Ok(unknown(&self.name));
        }
        let mut writes = Writes::default();
        writes.delete(key);
        Ok(Step::Done(changed(writes, Reply::json(&Done {}), Change::Policy(self.name.clone(), None), Replay::Kept)))
    }
}

/// `POST /v1/policy:check`.
#[derive(Debug, Clone)]
pub struct Check {
    /// Who would do it.
    pub principal: Name,
    /// What.
    pub action: Action,
    /// On what.
    pub resource: Resource,
}

impl Operation for Check {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(principal) = context.directory.by_name(&self.principal) else {
            let refusal = Refusal::new(Code::NotFound, format!("no principal is called {}", self.principal));
            return Ok(Outcome::refuse(refusal.field("principal")));
        };
        let mut decision = context.directory.policies().decide(&principal.subject, self.action, &self.resource);
        if !principal.may_sign() {
            let state = if principal.disabled { "disabled" } else { "void: who admitted it is no enroller now" };
            decision.allowed = false;
            decision.because = vec![format!("the principal is {state}")];
        }
        let (allowed, because, errors) = (decision.allowed, decision.because, decision.errors);
        Ok(Outcome::read(Reply::json(&PolicyDecision { allowed, because, errors })))
    }
}

/// `GET /v1/policy:recover`: what the admins must name as replaced, even while policy lets them read nothing.
#[derive(Debug, Clone)]
pub struct Replaced;

impl Operation for Replaced {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        Ok(Outcome::read(Reply::json(&ReplacedPolicies { sha256: context.directory.policies().digest() })))
    }
}

/// `POST /v1/policy:recover`: the way back after a policy set that lets nobody change it, or an admin who disabled the
/// others. Its right is k admins' signatures over the new set, not policy; those who signed are enabled again.
#[derive(Debug, Clone)]
pub struct Recover {
    /// The new set as JSON text.
    pub policies: String,
    /// The admins' statement over its digest.
    pub approval: Envelope,
}

impl Operation for Recover {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let directory = context.directory;
        let bytes = self.policies.as_bytes();
        let (replaced, now_ms) = (directory.policies().digest(), context.now.unix_ms);
        let verified = verify_policy_recovery(directory.view(), &self.approval, bytes, &replaced, now_ms);
        let VerifiedRecovery { signers, .. } = match verified {
            Ok(verified) => verified,
            Err(reason) => {
                let refusal = Refusal::new(Code::BadStatement, format!("the approval does not hold: {reason}"));
                return Ok(Outcome::refuse(refusal.field("approval").hint("sign anew: `bulla policy recover sign`")));
            }
        };
        let texts: BTreeMap<Name, String> = match parse_set(&self.policies) {
            Ok(texts) => texts,
            Err(refusal) => return Ok(Outcome::refuse(*refusal)),
        };
        let disabled = signers.iter().filter_map(|id| directory.by_id(id)).filter(|principal| principal.disabled);
        let disabled: Vec<RecordKey> = disabled.map(|principal| principal::key(&principal.subject.name)).collect();
        let old = directory.policies().texts().map(|(name, _)| key(name));
        let keys: Vec<RecordKey> = old.chain(texts.keys().map(key)).chain(disabled.iter().cloned()).collect();
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        let mut writes = Writes::default();
        for (name, _) in directory.policies().texts() {
            if !texts.contains_key(name) {
                writes.delete(key(name));
            }
        }
        for (name, text) in &texts {
            let key = key(name);
            let current = records.get(&key).flatten();
            writes.replace(key, current, StoredPolicy::to_bytes(name, text));
        }
        let mut enabled = vec![];
        for key in disabled {
            let Some(current) = records.get(&key).flatten() else { continue };
            let stored: StoredPrincipal = parse_record("principal", &current.bytes)?;
            let stored = StoredPrincipal { disabled: false, ..stored };
            writes.replace(key, Some(current), bulla_wire::json::to_vec(&stored));
            enabled.push(stored);
        }
        let told = directory.view().newest().body().admins.clone();
        let about = About { message: "the admins replaced the policy set", ..About::default() };
        let raised = alarm::raise(context, AlarmKind::PolicyRecovered, about, told);
        let mut outcome = changed(writes, Reply::json(&Done {}), Change::Recovery(texts, enabled), Replay::Kept);
        outcome.alarms.push(raised);
        Ok(Step::Done(outcome))
    }
}

fn parse_set(json: &str) -> Result<BTreeMap<Name, String>, Box<Refusal>> {
    let malformed = |reason: String| {
        let refusal = Refusal::new(Code::Malformed, reason).field("policies");
        Box::new(refusal.hint("an object of names and texts: `{\"first\": \"permit (…);\"}`"))
    };
    let map: StrictMap<String> =
        bulla_wire::json::parse(json.as_bytes(), MAX_JSON_BYTES).map_err(|e| malformed(e.to_string()))?;
    if map.0.len() > MAX_NAMES {
        return Err(malformed(format!("at most {MAX_NAMES} policies")));
    }
    let texts = map
        .0
        .into_iter()
        .map(|(name, text)| Ok((name.parse().map_err(|e| malformed(format!("{name}: {e}")))?, text)))
        .collect::<Result<_, Box<Refusal>>>()?;
    match PolicySet::parse(&texts) {
        Ok(_) => Ok(texts),
        Err(error) => Err(Box::new(refused(&error))),
    }
}
