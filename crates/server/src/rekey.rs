//! Rekey on a running node: k admins signed a document that changes the seal, so shares are dealt to its admins in a
//! new epoch, without a share of today and without sealing the cluster meanwhile.
//!
//! Requests under way end first, and new ones wait, for milliseconds: between the reading of the seal and the new
//! keys nothing else may commit. All of it is one commit; a crash leaves the seal of before or the seal of after.

use crate::ceremony::{CeremonyError, NO_POSITION, enter_without_keys, load};
use crate::drive::{DriveError, Once};
use crate::failpoint;
use crate::node::{Node, Phase};
use crate::plain::read_phase;
use crate::unsealed::Unsealed;
use bulla_core::audit::{Body, Quote};
use bulla_core::engine::rekey::{Planned, Rekey};
use bulla_core::operation::{Outcome, Raised, Refusal, Replay, Reply};
use bulla_core::seal::{self, AdvanceRequest, SealError, StoredSeal};
use bulla_crypto::random::SystemRng;
use bulla_store::CommitError;
use bulla_wire::api::{Done, SealState};
use bulla_wire::evidence::Actor;
use std::sync::Arc;

/// Deals the shares anew by a document that was verified. `own` requests under way are the caller's.
///
/// # Errors
/// See [`CeremonyError`]; inside, why the document is refused.
pub async fn rekey(
    node: &Arc<Node>,
    unsealed: &Arc<Unsealed>,
    rekey: &Rekey,
    actor: &Actor,
    once: Option<&Once<'_>>,
    own: u32,
) -> Result<Result<(), Refusal>, CeremonyError> {
    // Another ceremony is not waited for: it may be waiting for this request to end.
    let Ok(_guard) = node.ceremony.try_lock() else { return Err(CeremonyError::Conflict) };
    match node.phase() {
        Phase::Unsealed(now) if Arc::ptr_eq(&now, unsealed) => {}
        Phase::Unsealed(_) => return Err(CeremonyError::Conflict),
        _ => return Err(CeremonyError::Phase(SealState::Sealed)),
    }
    // Held to the end: whoever waits for them goes on under the new keys, or under the old ones if this fails.
    let Some(_quiet) = unsealed.quiet(own).await else { return Err(CeremonyError::Conflict) };
    if !rekey.follows(unsealed.directory().view()) {
        return Err(CeremonyError::Conflict);
    }
    let planned = match plan(node, unsealed, rekey, actor).await? {
        Ok(planned) => planned,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (advance, alarms) = deal(node, unsealed, planned, once).await?;
    enter(node, unsealed, advance, &alarms).await.map(Ok)
}

async fn plan(
    node: &Node,
    unsealed: &Unsealed,
    rekey: &Rekey,
    actor: &Actor,
) -> Result<Result<Planned, Refusal>, CeremonyError> {
    let queries = rekey.queries();
    let snapshot = node.parts.store.read(unsealed.keys.barrier.reads(&queries).map_err(DriveError::from)?).await?;
    let (_, records) = unsealed.keys.barrier.records(&queries, snapshot).map_err(DriveError::from)?;
    let directory = unsealed.directory();
    Ok(rekey.plan(&records, &unsealed.context(node.machine(), &directory, Some(actor)))?)
}

/// Makes the new epoch and commits it with everything that belongs to it.
async fn deal(
    node: &Node,
    unsealed: &Unsealed,
    planned: Planned,
    once: Option<&Once<'_>>,
) -> Result<(seal::Advance, Vec<Raised>), CeremonyError> {
    let Planned { view, ingress, writes, alarms } = planned;
    let mut rng = SystemRng;
    let stored = StoredSeal::parse(node.parts.store.read(StoredSeal::reads()?).await?)?;
    let stored = stored.ok_or(SealError::Row(seal::row::CONFIG))?;
    let active_ms = unsealed.keys.head.active_ms(node.parts.clock.as_ref());
    let opened = seal::reopen(
        unsealed.keys.keyring.copy(),
        &unsealed.keys.config_sha256,
        &stored,
        unsealed.keys.head.mark(),
        active_ms,
    )?;
    let quoted = node.parts.sink.last_quoted().filter(|quote| quote.cluster == unsealed.keys.cluster);
    let accounted = seal::lost_commits(&opened, quoted.map(|quote| quote.position()))
        .map_err(|lost| CeremonyError::Lost(Box::new(lost.consent(unsealed.keys.cluster, vec![]))))?;
    let request = AdvanceRequest {
        view: &view,
        documents_from: view.newest().number(),
        approvals: &[],
        consents_from: 0,
        audit: node.parts.sink.position().unwrap_or(NO_POSITION),
        now_ms: node.now_ms(),
    };
    let mut advance = seal::advance(opened.rekeyed(ingress, &mut rng), accounted, &request, &mut rng)?;
    let barrier = advance.keyring.barrier(unsealed.keys.cluster).ok_or(SealError::Keyring)?;
    let mut batch = std::mem::take(&mut advance.batch);
    batch.append(barrier.batch(&writes, &mut rng).map_err(DriveError::from)?);
    if let Some(once) = once {
        let (writes, receipts, alarms, change) = Default::default();
        let result = Ok(Reply::json(&Done {}));
        let outcome = Outcome { writes, result, replay: Replay::Again, receipts, alarms, change };
        once.remember(&mut batch, &barrier, &outcome).map_err(DriveError::from)?;
    }
    failpoint::hit(failpoint::REKEY_BEFORE_COMMIT);
    // The batch has the head row itself; nothing else commits meanwhile.
    node.parts.store.set_head(None);
    let committed = node.parts.store.commit(batch).await;
    failpoint::hit(failpoint::REKEY_AFTER_COMMIT);
    match committed {
        Ok(_) => Ok((advance, alarms)),
        Err(error @ CommitError::Unknown { .. }) => {
            // Either seal may stand in the store; only its admins can tell, by opening it.
            seal_now(node, unsealed).await;
            Err(error.into())
        }
        Err(error) => {
            node.parts.store.set_head(Some(unsealed.keys.head.clone()));
            Err(error.into())
        }
    }
}

/// Takes the new epoch's keys into use.
async fn enter(
    node: &Arc<Node>,
    before: &Unsealed,
    advance: seal::Advance,
    alarms: &[Raised],
) -> Result<(), CeremonyError> {
    let entered = async {
        let Phase::Sealed(sealed) = read_phase(&node.parts.store).await? else {
            return Err(CeremonyError::Seal(SealError::Row(seal::row::CONFIG)));
        };
        let barrier = advance.keyring.barrier(advance.cluster).ok_or(SealError::Keyring)?;
        let next = load(node, &sealed, advance, barrier).await?;
        let committed =
            Quote { cluster: next.keys.cluster, lineage: next.keys.lineage, sequence: next.keys.head.sequence() };
        let document = next.directory().view().newest().number();
        let line = Body::Rekeyed { epoch: next.keys.epoch, document, committed };
        node.parts.sink.note(line).await.map_err(|e| CeremonyError::Store(e.to_string()))?;
        Ok(next)
    };
    let next = match entered.await {
        Ok(next) => next,
        Err(error) => {
            // The epoch has advanced, and its keys are not in use: the admins of the document open it.
            seal_now(node, before).await;
            return Err(error);
        }
    };
    node.parts.store.set_head(Some(next.keys.head.clone()));
    tracing::info!(epoch = next.keys.epoch, "rekeyed");
    next.tell(alarms);
    node.enter(Phase::Unsealed(Arc::new(next)));
    before.forget();
    Ok(())
}

async fn seal_now(node: &Node, unsealed: &Unsealed) {
    unsealed.forget();
    node.enter_last_sealed();
    enter_without_keys(node).await;
}
