//! Whether a member is asked at all: one that failed several times is left alone for a while, so that nobody waits for it.

use std::time::Duration;

/// Failures in a row after which a member is left alone.
const FAILURES: u32 = 3;
/// First time without it; each next one is twice as long.
const FIRST_REST: Duration = Duration::from_secs(1);
/// Longest: one that is back is used again within this time.
const LONGEST_REST: Duration = Duration::from_secs(15);

/// The breaker of one member. Times are since any fixed point.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: u32,
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Duration,
    length: Duration,
}

impl Breaker {
    /// Whether to ask now. After a rest one may try, and the others wait for what comes of it.
    pub fn allows(&mut self, now: Duration) -> bool {
        match &mut self.rest {
            None => true,
            Some(rest) if now < rest.until => false,
            Some(rest) => {
                rest.until = now.saturating_add(rest.length);
                true
            }
        }
    }

    /// It answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not answer.
    pub fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            let length = self.rest.map_or(FIRST_REST, |rest| rest.length.saturating_mul(2).min(LONGEST_REST));
            self.rest = Some(Rest { until: now.saturating_add(length), length });
        }
    }

    /// Whether it rests.
    pub fn is_open(&self) -> bool {
        self.rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_rests_after_failures_in_a_row_alone() {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            breaker.failed(s(0));
            breaker.failed(s(0));
            breaker.succeeded();
        }
        assert!(breaker.allows(s(0)) && !breaker.is_open());
        (0..3).for_each(|_| breaker.failed(s(0)));
        assert!(breaker.is_open() && !breaker.allows(s(0)));
    }

    #[test]
    fn after_a_rest_one_tries() {
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| breaker.failed(s(0)));
        assert!(breaker.allows(s(1)), "one");
        assert!(!breaker.allows(s(1)), "and no other meanwhile");
        breaker.failed(s(1));
        assert!(!breaker.allows(s(2)), "a longer rest");
        assert!(breaker.allows(s(3)));
        breaker.succeeded();
        assert!(breaker.allows(s(3)) && breaker.allows(s(3)));
    }

    #[test]
    fn no_rest_is_longer_than_the_limit() {
        let mut breaker = Breaker::default();
        (0..50).for_each(|_| breaker.failed(s(100)));
        assert!(!breaker.allows(s(114)) && breaker.allows(s(115)));
    }
}
