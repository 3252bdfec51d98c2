//! Wakes requests that wait for a secret to change.

use bulla_wire::name::SecretPath;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Places at which requests wait. Paths share them by their hash, so nothing has to be tidied up when a request ends;
/// whoever is woken by another path's change looks, and waits on. A thousand cost 32 KiB, and make that rare.
const PLACES: usize = 1024;

/// Who waits for secrets to change. The hash is keyed anew at each unsealing, so that nobody can choose paths that share
/// a place.
pub struct Watchers {
    places: Box<[Notify]>,
    hasher: RandomState,
    ended: AtomicBool,
}

impl Default for Watchers {
    fn default() -> Self {
        let places = std::iter::repeat_with(Notify::new).take(PLACES).collect();
        Self { places, hasher: RandomState::new(), ended: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchers")
    }
}

impl Watchers {
    fn place(&self, path: &SecretPath) -> Option<&Notify> {
        let hash = usize::try_from(self.hasher.hash_one(path.as_str()) % PLACES as u64).ok()?;
        self.places.get(hash)
    }

    /// Resolves at the next change under the path, perhaps earlier. It hears what happens from now on, so it has to be
    /// made before one looks. None if nobody is to wait any more.
    pub fn listen(&self, path: &SecretPath) -> Option<Notified<'_>> {
        let notified = self.place(path)?.notified();
        (!self.ended.load(Ordering::Acquire)).then_some(notified)
    }

    /// Something changed under the path.
    pub fn wake(&self, path: &SecretPath) {
        if let Some(place) = self.place(path) {
            place.notify_waiters();
        }
    }

    /// Wakes all, and lets nobody wait any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.places.iter().for_each(Notify::notify_waiters);
    }
}
