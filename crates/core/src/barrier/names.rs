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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::barrier::Kind;

    #[test]
    fn a_name_is_made_once_while_it_is_remembered() {
        let (names, mut made) = (Names::default(), 0);
        let mut get = |n: usize| {
            let key = RecordKey::hidden(Kind::Kv, "app", n.to_string());
            let before = made;
            let store_key = names.get(&key, || {
                made += 1;
                Ok(StoreKey::new(n.to_string()).expect("a key"))
            });
            assert_eq!(store_key.expect("a key").as_bytes(), n.to_string().as_bytes());
            made > before
        };
        assert!((0..NAMES_MAX).all(&mut get) && !(0..NAMES_MAX).any(&mut get));
        // One more, and they are forgotten together.
        assert!(get(NAMES_MAX) && get(0) && !get(NAMES_MAX));
    }
}
