//! One state of the file that stays while writes go on: a read transaction. redb keeps the pages that it sees, so the
//! file grows by what is written meanwhile.

use super::{Shared, read};
use crate::error::StoreError;
use bulla_core::record::{Read, Snapshot};
use redb::ReadTransaction;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

type Slot = Mutex<Option<ReadTransaction>>;

/// All states that somebody may hold.
#[derive(Default)]
pub(super) struct Held(Mutex<Vec<Weak<Slot>>>);

impl Held {
    /// Ends them; their holders find the store closed.
    pub(super) fn let_go(&self) {
        for slot in lock(&self.0).drain(..).filter_map(|slot| slot.upgrade()) {
            drop(lock(&slot).take());
        }
    }

    fn add(&self, slot: &Arc<Slot>) {
        let mut held = lock(&self.0);
        held.retain(|slot| slot.strong_count() > 0);
        held.push(Arc::downgrade(slot));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A state of the file.
pub struct Frozen {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Frozen {
    pub(super) fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let slot = Arc::new(Mutex::new(None));
        // In this order: what is added before it is filled cannot be missed by a closing.
        shared.frozen.add(&slot);
        let mut held = lock(&slot);
        *held = Some(read::begin(shared)?);
        drop(held);
        Ok(Self { shared: Arc::clone(shared), slot })
    }

    pub(crate) async fn read(&self, reads: Vec<Read>) -> Result<Snapshot, StoreError> {
        self.blocking(move |shared, transaction| read::within(shared, transaction, &reads)).await
    }

    pub(crate) async fn buckets(&self) -> Result<Vec<u32>, StoreError> {
        self.blocking(read::buckets).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, &ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
        let done = tokio::task::spawn_blocking(move || {
            let transaction = lock(&slot);
            work(&shared, transaction.as_ref().ok_or(StoreError::Closed)?)
        });
        match done.await {
            Ok(answer) => answer,
            // The process ends, and nothing was read: no fault of the storage's.
            Err(failed) if failed.is_cancelled() => Err(StoreError::Closed),
            Err(failed) => Err(StoreError::Io { detail: self.shared.fatal("reading", &failed) }),
        }
    }
}
