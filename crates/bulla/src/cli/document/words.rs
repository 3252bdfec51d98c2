//! What a document says, and what it changes, for whoever signs it.

use crate::output::{time, word};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{VerifiedDocument, payload_digest};
use bulla_wire::evidence::{Document as Body, PrincipalRecord};
use bulla_wire::id::{KeyId, PrincipalId};
use bulla_wire::json;

/// What a document says; `known`, that one or the one before, tells names that it says with no first record.
pub fn lines_of(body: &Body, known: Option<&VerifiedDocument>) -> Vec<String> {
    let mut lines = vec![format!("document {} of {}", body.number, body.name)];
    lines.extend(body.cluster.map(|cluster| format!("  cluster   {cluster}")));
    lines.push(format!("  seal      {}", seal(body)));
    let named = |principal: &PrincipalId| named(principal, body, known);
    lines.extend(body.admins.iter().map(|admin| format!("  admin     {}", named(admin))));
    lines.extend(body.enrollers.iter().map(|enroller| format!("  enroller  {}", named(enroller))));
    let later = records(body).filter(|record| record.version > 1);
    lines.extend(later.map(|record| {
        format!("  record    {} has version {}, with other keys than the first", record.name, record.version)
    }));
    for node in &body.nodes {
        let id = KeyId::new(sha256(&[&node.spki.0]));
        lines.push(format!("  node      {id} {} since {}", word(&node.state), time(node.since_ms)));
    }
    lines.push(format!("  weakest   {}", word(&body.min_kem)));
    lines
}

/// What it changes of the document before.
pub fn changes(before: &VerifiedDocument, body: &Body) -> Vec<String> {
    let old = before.body();
    let mut lines = Vec::new();
    let named = |principal: &PrincipalId| named(principal, body, Some(before));
    let mut compare = |what: &str, old: &[PrincipalId], new: &[PrincipalId]| {
        let gone = old.iter().filter(|principal| !new.contains(principal));
        lines.extend(gone.map(|principal| format!("  no longer {what}  {}", named(principal))));
        let come = new.iter().filter(|principal| !old.contains(principal));
        lines.extend(come.map(|principal| format!("  new {what}  {}", named(principal))));
    };
    compare("admin", &old.admins, &body.admins);
    compare("enroller", &old.enrollers, &body.enrollers);
    if (old.k, old.admins.len(), old.mode) != (body.k, body.admins.len(), body.mode) {
        lines.push(format!("  seal  {}, before {}", seal(body), seal(old)));
    }
    for record in records(body).filter(|record| record.version > 1) {
        let keys: Vec<KeyId> = record.keys.iter().map(|key| KeyId::new(sha256(&[&key.spki.0]))).collect();
        if keys.iter().any(|key| !before.records().any(|known| known.key(key).is_some())) {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            lines.push(format!("  other keys  {} signs with {} from now on", record.name, keys.join(", ")));
        }
    }
    for node in &body.nodes {
        let known = old.nodes.iter().find(|known| known.spki == node.spki);
        if known.is_none_or(|known| known.state != node.state) {
            let how = known.map_or_else(|| "new".to_owned(), |known| format!("before {}", word(&known.state)));
            lines.push(format!("  node  {} is {}, {how}", KeyId::new(sha256(&[&node.spki.0])), word(&node.state)));
        }
    }
    if lines.is_empty() {
        lines.push("  nothing but its number".to_owned());
    }
    lines.insert(0, format!("changes of document {}", before.number()));
    lines
}

fn seal(body: &Body) -> String {
    format!("{} of {} admins ({})", body.k, body.admins.len(), word(&body.mode))
}

fn records(body: &Body) -> impl Iterator<Item = PrincipalRecord> + '_ {
    body.records.iter().filter_map(|envelope| json::parse(&envelope.payload, envelope.payload.len()).ok())
}

/// Name and id. Version 1 names its principal by its digest; later ones are named by the document before.
fn named(principal: &PrincipalId, body: &Body, known: Option<&VerifiedDocument>) -> String {
    if let Some(record) = known.and_then(|known| known.record(principal)) {
        return format!("{} {principal}", record.name());
    }
    let found = body.records.iter().find(|record| payload_digest(record).as_bytes() == principal.as_bytes());
    let record = found.and_then(|record| json::parse::<PrincipalRecord>(&record.payload, record.payload.len()).ok());
    record.map_or_else(|| principal.to_string(), |record| format!("{} {principal}", record.name))
}
