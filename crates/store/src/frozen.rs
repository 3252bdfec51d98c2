//! One state of a store that stays while writes go on.

use crate::error::StoreError;
use crate::{admissible, file, memory};
use bulla_core::record::{Read, Snapshot};

/// A state of a store, as [`crate::Store::freeze`] found it. Closing the store ends it.
#[derive(Debug)]
pub struct Frozen(Inner);

#[derive(Debug)]
enum Inner {
    Memory(memory::Frozen),
    File(file::Frozen),
}

impl Frozen {
    pub(crate) fn memory(frozen: memory::Frozen) -> Self {
        Self(Inner::Memory(frozen))
    }

    pub(crate) fn file(frozen: file::Frozen) -> Self {
        Self(Inner::File(frozen))
    }

    /// Answers all `reads` from the state.
    pub async fn read(&self, reads: Vec<Read>) -> Result<Snapshot, StoreError> {
        admissible(&reads)?;
        match &self.0 {
            Inner::Memory(frozen) => frozen.read(&reads),
            Inner::File(frozen) => frozen.read(reads).await,
        }
    }

    /// The minutes of the *seen* buckets that it has, in order.
    pub async fn buckets(&self) -> Result<Vec<u32>, StoreError> {
        match &self.0 {
            Inner::Memory(frozen) => frozen.buckets(),
            Inner::File(frozen) => frozen.buckets().await,
        }
    }
}
