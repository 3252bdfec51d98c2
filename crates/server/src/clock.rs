//! The two clocks of a node. A parameter of the server, so that tests can move them.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The wall clock, Unix milliseconds. It may step.
    fn unix_ms(&self) -> u64;
    /// Milliseconds since some moment in this process' life. It never steps.
    fn monotonic_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How far wall and monotonic clock may drift apart between two looks, in milliseconds. NTP slews slower.
pub const MAX_STEP_MS: u64 = 5_000;
/// How far ahead of the store's last commit the wall clock may be at start, in milliseconds: a day.
pub const MAX_START_GAP_MS: u64 = 24 * 3600 * 1000;

/// Notices steps of the wall clock.
#[derive(Debug)]
pub struct Watch {
    unix_ms: u64,
    monotonic_ms: u64,
}

impl Watch {
    /// Begins now.
    pub fn new(clock: &dyn Clock) -> Self {
        Self { unix_ms: clock.unix_ms(), monotonic_ms: clock.monotonic_ms() }
    }

    /// Looks again; whether the wall clock moved as the monotonic one did.
    pub fn even(&mut self, clock: &dyn Clock) -> bool {
        let next = Self::new(clock);
        let expected = self.unix_ms.saturating_add(next.monotonic_ms.saturating_sub(self.monotonic_ms));
        let even = next.unix_ms.abs_diff(expected) <= MAX_STEP_MS;
        *self = next;
        even
    }
}

/// What time it would be had the wall clock not stepped since it last ran evenly.
#[derive(Debug)]
pub struct Steady(Mutex<(u64, u64)>);

impl Steady {
    /// Begins now.
    pub fn new(clock: &dyn Clock) -> Self {
        Self(Mutex::new((clock.unix_ms(), clock.monotonic_ms())))
    }

    /// Believes the wall clock as it is now.
    pub fn believe(&self, clock: &dyn Clock) {
        self.begin(clock.unix_ms(), clock);
    }

    /// Believes the wall clock as it was at the last look.
    pub fn follow(&self, watch: &Watch) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (watch.unix_ms, watch.monotonic_ms);
    }

    /// Believes that it is `unix_ms` now, whatever the wall clock says.
    pub fn begin(&self, unix_ms: u64, clock: &dyn Clock) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (unix_ms, clock.monotonic_ms());
    }

    /// Unix milliseconds by the monotonic clock, or those of the wall clock while the two agree. `unix_ms` is what
    /// the wall clock says.
    pub fn unix_ms(&self, unix_ms: u64, clock: &dyn Clock) -> u64 {
        let (begin_ms, began) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let steady = begin_ms.saturating_add(clock.monotonic_ms().saturating_sub(began));
        if steady.abs_diff(unix_ms) <= MAX_STEP_MS { unix_ms } else { steady }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Two(AtomicU64, AtomicU64);
    impl Clock for Two {
        fn unix_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn monotonic_ms(&self) -> u64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn steps_are_noticed_and_time_passing_is_not() {
        let clock = Two(AtomicU64::new(1_000_000), AtomicU64::new(0));
        let mut watch = Watch::new(&clock);
        let mut look = |unix: u64, monotonic: u64| {
            clock.0.store(unix, Ordering::Relaxed);
            clock.1.store(monotonic, Ordering::Relaxed);
            watch.even(&clock)
        };
        assert!(look(1_600_000, 600_000), "ten minutes pass");
        assert!(look(1_604_000, 600_000), "four seconds of slew");
        assert!(!look(1_610_000, 600_000), "six seconds forward");
        assert!(look(1_611_000, 601_000));
        assert!(!look(1_000_000, 602_000), "backwards");
    }
}
