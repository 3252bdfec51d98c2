//! A clock that moves when a test says so, for a server that runs inside the test.

use bulla_server::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two clocks that stand still. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    unix_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// At this Unix time in milliseconds.
    pub fn at(unix_ms: u64) -> Self {
        Self(Arc::new(Hands { unix_ms: AtomicU64::new(unix_ms), monotonic_ms: AtomicU64::new(0) }))
    }

    /// Time passes, on both clocks.
    pub fn pass(&self, ms: u64) {
        self.0.unix_ms.fetch_add(ms, Ordering::SeqCst);
        self.0.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock, forward or back; the monotonic one does not move.
    pub fn set(&self, unix_ms: u64) {
        self.0.unix_ms.store(unix_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.0.unix_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_time_and_a_step_moves_one_clock() {
        let clock = ManualClock::at(1_000);
        let other = clock.clone();
        other.pass(500);
        clock.set(900);
        assert_eq!((other.unix_ms(), other.monotonic_ms()), (900, 500));
    }
}
