//! After the admins accepted that the store lost commits: what the audit log remembers is put back as far as it
//! can be, and what cannot be known is parked.
//!
//! A wrap that is sealed here may have been opened in the history that was lost, so nobody may open it until its
//! writer releases it; one that the audit log shows as opened or revoked ends. An opened one stays with the claim
//! that won. Principals that were disabled and policies that were deleted since stay so. Everything else that was
//! lost is listed in the log, for people.

use crate::ceremony::CeremonyError;
use crate::failpoint;
use crate::node::Node;
use crate::tick::tell_admins;
use crate::unsealed::Unsealed;
use bulla_core::action::{Action, Resource};
use bulla_core::audit::{Body, Label, Quote, RequestLine, ResourceText};
use bulla_core::barrier::{Kind, Query};
use bulla_core::engine::due::{Entry, What};
use bulla_core::engine::{policy, principal, wrap};
use bulla_core::operation::Operation;
use bulla_core::record::{Revision, SCAN_ENTRIES_MAX};
use bulla_core::seal::{Lost, Opened};
use bulla_core::seen::revision;
use bulla_wire::api::{AlarmKind, LineageEntry};
use bulla_wire::evidence::Position;
use bulla_wire::id::{Lineage, WrapId};
use std::collections::HashSet;

/// Puts back what can be, parks what cannot be known, and says what was lost. `restored`: the store was filled from a
/// snapshot. `held`: the requests, by [`revision`], that left a row in the store, and so were not lost. The node does not serve yet.
///
/// # Errors
/// If the store does not answer: the node stays sealed, and the next unseal finds the same loss, since the audit
/// log quotes no newer commit until all of this is done.
pub async fn account(
    node: &Node,
    unsealed: &Unsealed,
    lost: &Lost,
    restored: bool,
    held: HashSet<Revision>,
) -> Result<(), CeremonyError> {
    let body = Body::Consent { lost: lost.lost, kept: lost.kept };
    node.parts.sink.note(body).await.map_err(|e| CeremonyError::Store(e.to_string()))?;
    failpoint::hit(failpoint::RESTORE_AFTER_LINE);
    let message = if restored {
        "a snapshot was put back, and the admins accepted what it lacks: what came after it, and all wraps"
    } else {
        "the store lost commits, and the admins accepted it: every wrap waits for its writer's release"
    };
    tell_admins(node, unsealed, AlarmKind::StoreRolledBack, message).await;
    park(node, unsealed).await?;
    failpoint::hit(failpoint::RESTORE_PARKED);
    for lost in lost_lines(node, unsealed, lost, held).await? {
        match lost {
            Body::Request(line) => replay(node, unsealed, &line).await?,
            Body::Rekeyed { epoch, document, .. } => {
                let message = "the store lost a change of the admins: those of before it are admins again";
                tracing::warn!(epoch, document, "{message}");
            }
            _ => {}
        }
        failpoint::hit(failpoint::RESTORE_REPLAYED_ONE);
    }
    Ok(())
}

/// Parks every wrap that is not final. Each has an entry for its expiry until it is.
async fn park(node: &Node, unsealed: &Unsealed) -> Result<(), CeremonyError> {
    let mut after = None;
    loop {
        let query = [Query::Scan { kind: Kind::Due, dir: vec![], after: after.take(), limit: SCAN_ENTRIES_MAX }];
        let reads = unsealed.keys.barrier.reads(&query).map_err(crate::drive::DriveError::from)?;
        let snapshot = node.parts.store.read(reads).await?;
        let (_, mut records) =
            unsealed.keys.barrier.records(&query, snapshot).map_err(crate::drive::DriveError::from)?;
        let [query] = query;
        let Some((page, more)) = records.take_page(&query) else { return Ok(()) };
        for entry in page.iter().filter_map(|record| Entry::parse(Kind::Due, &record.cursor)) {
            let id: Option<[u8; 16]> = entry.id.as_slice().try_into().ok();
            if let (What::WrapExpiry, Some(id)) = (entry.what, id) {
                unsealed.drive(node.machine(), &wrap::Park { wrap: WrapId::new(id) }, None, None).await?;
                failpoint::hit(failpoint::RESTORE_PARKED_ONE);
            }
        }
        after = page.last().map(|record| record.cursor.clone());
        if !more || after.is_none() {
            return Ok(());
        }
    }
}

/// Lines of the audit log whose commits the store lost, and that no earlier restore accounted for: an unsealing whose
/// commit the store holds ended whatever was lost before it.
async fn lost_lines(
    node: &Node,
    unsealed: &Unsealed,
    lost: &Lost,
    held: HashSet<Revision>,
) -> Result<Vec<Body>, CeremonyError> {
    let Some(path) = node.parts.audit_path.clone() else { return Ok(vec![]) };
    let (lost, cluster) = (*lost, unsealed.keys.cluster);
    let lineages = unsealed.keys.history.lineages.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        let is_lost = |quote: Quote| quote.cluster == cluster && lost.covers(&lineages, quote.position());
        crate::sink::lines(&path, 0, |found| {
            let body = found.line.body;
            let is_one = match &body {
                Body::Request(line) => {
                    line.outcome.committed.is_some_and(is_lost)
                        || (recovered_of_lost(line, &lineages, lost.kept) && !held.contains(&revision(&line.id)))
                }
                Body::Rekeyed { committed, .. } => is_lost(*committed),
                _ => false,
            };
            match body {
                body if is_one => lines.push(body),
                Body::Unsealed { committed, .. } if committed.cluster == cluster && !is_lost(committed) => {
                    lines.clear()
                }
                _ => {}
            }
            true
        })?;
        Ok::<_, std::io::Error>(lines)
    });
    read.await
        .map_err(|e| CeremonyError::Store(e.to_string()))?
        .map_err(|e| CeremonyError::Store(format!("cannot read the audit log: {e}")))
}

/// Whether a line that was written again after a crash is of a history that the store lost, or in which it ends now. It does
/// not know its commit, which was one of the last of its history: whoever lost any of it lost this.
fn recovered_of_lost(line: &RequestLine, lineages: &[LineageEntry], kept: Position) -> bool {
    let ended = |lineage: Lineage| lineage != kept.lineage && lineages.iter().any(|entry| entry.lineage == lineage);
    line.outcome.recovered && line.outcome.committed.is_none() && line.lineage.is_some_and(|lineage| !ended(lineage))
}

/// The histories that the store lost before the one in which the audit log ends. Only a log that can be read again
/// tells them; without one, clients that last called in one of them find no consent.
///
/// # Errors
/// If the log cannot be read.
pub async fn earlier_losses(node: &Node, opened: &Opened, lost: Lost) -> Result<Vec<Position>, CeremonyError> {
    let Some(path) = node.parts.audit_path.clone() else { return Ok(vec![]) };
    let (lineages, cluster) = (opened.keyring.lineages.clone(), opened.cluster());
    let read = tokio::task::spawn_blocking(move || {
        let mut quoted = Vec::new();
        crate::sink::lines(&path, 0, |found| {
            let quote = Quote::of(&found.line.body).filter(|quote| quote.cluster == cluster);
            let position = quote.map(|quote| quote.position()).filter(|position| lost.covers(&lineages, *position));
            quoted.extend(position);
            true
        })?;
        Ok::<_, std::io::Error>(lost.earlier(&lineages, quoted))
    });
    read.await
        .map_err(|e| CeremonyError::Store(e.to_string()))?
        .map_err(|e| CeremonyError::Store(format!("cannot read the audit log: {e}")))
}

/// What a line is about. A hashed name is found among those that the store still knows.
fn resource_of(unsealed: &Unsealed, line: &RequestLine) -> Option<Resource> {
    let text = line.resource.as_ref()?;
    if let Ok(resource) = text.as_str().parse() {
        return Some(resource);
    }
    let directory = unsealed.directory();
    let names = directory.principals_after(None).map(|principal| Resource::Principal(principal.subject.name.clone()));
    names.into_iter().find(|resource| unsealed.keys.names.resource(resource) == *text)
}

async fn replay(node: &Node, unsealed: &Unsealed, line: &RequestLine) -> Result<(), CeremonyError> {
    let action = line.action.as_ref().and_then(|action| action.as_str().parse::<Action>().ok());
    let done = line.outcome.status == 200;
    let operation: Box<dyn Operation + Send + Sync> = match (action, resource_of(unsealed, line)) {
        (Some(Action::PrincipalDisable), Some(Resource::Principal(name))) if done => {
            Box::new(principal::SetDisabled { name, disabled: true })
        }
        (Some(Action::PolicyDelete), Some(Resource::Policy(name))) if done => Box::new(policy::Delete { name }),
        (Some(action @ (Action::WrapOpen | Action::WrapAck | Action::WrapNack)), Some(Resource::Wrap(wrap)))
            if done =>
        {
            Box::new(wrap::Retire { wrap, principal: Some(line.principal), opened: action != Action::WrapOpen })
        }
        (Some(Action::WrapRevoke), Some(Resource::Wrap(wrap))) if done => {
            Box::new(wrap::Retire { wrap, principal: None, opened: true })
        }
        _ => {
            let action = line.action.as_ref().map(Label::as_str).unwrap_or_default();
            let resource = line.resource.as_ref().map(ResourceText::as_str).unwrap_or_default();
            let name = line.name.as_str();
            tracing::warn!(request = %line.id, action, resource, name, "the store lost this commit; it was not put back");
            return Ok(());
        }
    };
    unsealed.drive(node.machine(), operation.as_ref(), None, None).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_core::audit::RequestId;
    use bulla_wire::id::{KeyId, PrincipalId};

    /// A disable whose line a crash took is put back by a restore as any other.
    #[test]
    fn a_line_without_its_commit_is_of_the_end_of_its_history() {
        let lineage = |byte: u8| Lineage::new([byte; 16]);
        let entry = |byte: u8, first_sequence| LineageEntry { epoch: 1, lineage: lineage(byte), first_sequence };
        let line = |byte: u8| {
            let line = serde_json::json!({
                "id": RequestId::new([1; 16]), "received_ms": 1, "node": KeyId::new([1; 32]), "epoch": 1,
                "lineage": lineage(byte), "principal": PrincipalId::new([2; 32]), "name": "alice",
                "key": KeyId::new([3; 32]), "address": "192.0.2.1", "method": "POST", "status": 200,
            });
            RequestLine::from_bytes(line.to_string().as_bytes()).unwrap()
        };
        // The store ended in the second history; the unsealing since then began the fourth.
        let (lineages, kept) =
            ([entry(1, 1), entry(2, 50), entry(4, 81)], Position { lineage: lineage(2), sequence: 80 });
        let of = |line: RequestLine| recovered_of_lost(&line, &lineages, kept);
        assert!(!of(line(1).recovered()) && !of(line(4).recovered()), "these have ended, or go on");
        assert!(of(line(2).recovered()) && of(line(3).recovered()));
        assert!(!of(line(2)), "it was refused, or read only");
    }
}
