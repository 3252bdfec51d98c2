//! Store keys of records that were asked for lately. A request names each of its records up to four times: to read it, to
//! open it, to demand that it is as it was, and to write it; and each time would cost two HMACs.

use super::{BarrierError, RecordKey};
use crate::record::StoreKey;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most names remembered: those of a hundred requests under way, in some 200 KiB. Then they are forgotten together.
const NAMES_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<RecordKey, StoreKey>>);

impl Names {
    /// The store key of a record, made if it is not known.
    pub(super) fn get(
        &self,
        key: &RecordKey,
        make: impl FnOnce() -> Result<StoreKey, BarrierError>,
    ) -> Result<StoreKey, BarrierError> {
        if let Some(known) = self.lock().get(key) {
            return Ok(known.clone());
        }
        let made = make()?;
        let mut names = self.lock();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(key.clone(), made.clone());
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, StoreKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
