//! A node without keys: how it comes to that, and what it is then.

use super::CeremonyError;
use crate::node::{Node, Phase, Sealed};
use crate::plain::read_phase;
use bulla_core::seal::{SealError, row};
use bulla_wire::api::SealState;
use std::sync::Arc;
use std::time::Duration;

/// How long a node without keys waits for what the store says: one that hangs must not keep whoever holds the ceremony.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

fn as_sealed(node: &Node) -> Result<Arc<Sealed>, CeremonyError> {
    match node.phase() {
        Phase::Sealed(sealed) => Ok(sealed),
        Phase::Uninitialised => Err(CeremonyError::Phase(SealState::Uninitialised)),
        Phase::Unsealed(_) => Err(CeremonyError::Phase(SealState::Unsealed)),
    }
}

/// What the node is without keys; read anew if that could not be read when it was sealed, since an older head looks like
/// lost commits. The caller holds the ceremony.
pub async fn sealed(node: &Node) -> Result<Arc<Sealed>, CeremonyError> {
    if node.is_behind() {
        match read_phase(&node.parts.store).await? {
            phase @ Phase::Sealed(_) => node.enter(phase),
            _ => return Err(SealError::Row(row::CONFIG).into()),
        }
    }
    as_sealed(node)
}

/// The same for whoever does not hold the ceremony.
pub async fn sealed_beside(node: &Node) -> Result<Arc<Sealed>, CeremonyError> {
    if !node.is_behind() {
        return as_sealed(node);
    }
    let _guard = node.ceremony.lock().await;
    sealed(node).await
}

/// Enters the phase of a node without keys: what the store says or, if that cannot be read, what it said last. Whoever
/// owns the storage must not keep keys from being forgotten.
pub async fn enter_without_keys(node: &Node) {
    node.parts.store.set_head(None);
    let found = match tokio::time::timeout(STORE_PATIENCE, read_phase(&node.parts.store)).await {
        Ok(Ok(phase @ Phase::Sealed(_))) => return node.enter(phase),
        Ok(Ok(_)) => "it holds no cluster any more".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it does not answer within {} s", STORE_PATIENCE.as_secs()),
    };
    tracing::error!(found, "sealed, but nothing unseals what the store says now; mend the store, then unseal");
    node.enter_last_sealed();
}

/// Forgets the keys, once the requests under way have ended; `own` of them are the caller's.
///
/// # Errors
/// If the node is not unsealed.
pub async fn seal(node: &Node, own: u32) -> Result<(), CeremonyError> {
    let _guard = node.ceremony.lock().await;
    let Phase::Unsealed(unsealed) = node.phase() else {
        return Err(CeremonyError::Phase(SealState::Sealed));
    };
    // New requests meet a sealed node from here on; those under way may end. The store is asked for nothing before the
    // keys are forgotten: it may never answer.
    node.enter_last_sealed();
    unsealed.close(own).await;
    let epoch = unsealed.keys.epoch;
    drop(node.parts.sink.note_sealed(epoch));
    drop(unsealed);
    enter_without_keys(node).await;
    tracing::info!(epoch, "sealed");
    Ok(())
}
