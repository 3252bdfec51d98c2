//! When a new version of a member's key is used: pure, over what was observed.
//!
//! Several nodes must change at about the same time, none may go back to a key that it left, and a key is relied on only
//! after it was proven. So a new version waits until it was seen a few times and is old enough; where the backend says
//! when it was made, all nodes count from then. What a node used last outlives its process, so that a start in the middle of a
//! rotation goes on with what the others use.

use crate::key::{KeyDigest, KeyRef};
use crate::provider::Observation;
use std::time::Duration;

/// Left keys that are remembered: some years of monthly rotation.
pub const MAX_PAST: usize = 64;

/// When a new version is used.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Seen this often without a break.
    pub observations: u32,
    /// This old.
    pub delay: Duration,
}

/// What a node remembers of a member over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The key that was used last.
    pub current: Option<KeyDigest>,
    /// Keys that were left, the oldest first.
    pub past: Vec<KeyDigest>,
}

/// What to do after an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Go on as before.
    Keep,
    /// Prove this key, and then use it.
    Prove(KeyRef),
    /// The backend went back to a key that was left. It is not used; if it is meant, the epoch of the configuration says so.
    WentBack(KeyRef),
}

/// The keys of one member over time.
#[derive(Debug, Clone)]
pub struct Promotion {
    rules: Rules,
    current: Option<KeyRef>,
    readable: Vec<KeyRef>,
    candidate: Option<Candidate>,
    remembered: Remembered,
}

#[derive(Debug, Clone)]
struct Candidate {
    key: KeyDigest,
    since: Duration,
    seen: u32,
}

impl Promotion {
    /// Nothing was observed yet.
    pub fn new(rules: Rules, remembered: Remembered) -> Self {
        Self { rules, current: None, readable: Vec::new(), candidate: None, remembered }
    }

    /// The key that is used.
    pub fn current(&self) -> Option<&KeyRef> {
        self.current.as_ref()
    }

    /// The key that is used, or was used last before this start.
    pub fn known(&self) -> Option<KeyDigest> {
        self.current.as_ref().map(KeyRef::digest).or(self.remembered.current)
    }

    /// The keys that unwrap, as last observed.
    pub fn readable(&self) -> &[KeyRef] {
        &self.readable
    }

    /// Whether the key was left.
    pub fn left(&self, key: &KeyRef) -> bool {
        self.remembered.past.contains(&key.digest())
    }

    /// What to remember.
    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Takes an observation at `now`, since any fixed point, and `unix_s` by the clock on the wall.
    pub fn observe(&mut self, seen: &Observation, now: Duration, unix_s: u64) -> Step {
        self.readable.clone_from(&seen.readable);
        let active = seen.active.digest();
        let last = self.known();
        if last == Some(active) {
            self.candidate = None;
            return if self.current.is_some() { Step::Keep } else { Step::Prove(seen.active.clone()) };
        }
        let still = last.and_then(|last| self.readable.iter().find(|key| key.digest() == last)).cloned();
        if self.remembered.past.contains(&active) {
            self.candidate = None;
            return match still {
                Some(still) if self.current.is_none() => Step::Prove(still),
                _ => Step::WentBack(seen.active.clone()),
            };
        }
        if !seen.older_wraps {
            self.candidate = None;
            return Step::Prove(seen.active.clone());
        }
        let Some(still) = still else {
            // What was used is gone, or nothing was: there is nothing to wait with, unless the backend is in the middle of a
            // rotation at the very first start.
            let before = if last.is_none() { self.before(&seen.active, unix_s) } else { None };
            return Step::Prove(before.unwrap_or_else(|| seen.active.clone()));
        };
        if self.current.is_none() {
            return Step::Prove(still);
        }
        let candidate = match self.candidate.take() {
            Some(candidate) if candidate.key == active => {
                Candidate { seen: candidate.seen.saturating_add(1), ..candidate }
            }
            _ => Candidate { key: active, since: now, seen: 1 },
        };
        let old_enough = match seen.active.created {
            Some(created) => unix_s >= created.saturating_add(self.rules.delay.as_secs()),
            None => now.saturating_sub(candidate.since) >= self.rules.delay,
        };
        let step = if candidate.seen >= self.rules.observations && old_enough {
            Step::Prove(seen.active.clone())
        } else {
            Step::Keep
        };
        self.candidate = Some(candidate);
        step
    }

    /// The version that was active before `active`, if that one is too young.
    fn before(&self, active: &KeyRef, unix_s: u64) -> Option<KeyRef> {
        let created = active.created?;
        if unix_s >= created.saturating_add(self.rules.delay.as_secs()) {
            return None;
        }
        let older = self.readable.iter().filter(|key| key.created.is_some_and(|other| other < created));
        older.max_by_key(|key| key.created).cloned()
    }

    /// The key was proven: from now on it is used.
    pub fn promoted(&mut self, key: KeyRef) {
        let digest = key.digest();
        if let Some(before) = self.known().filter(|before| *before != digest) {
            self.remembered.past.push(before);
            let excess = self.remembered.past.len().saturating_sub(MAX_PAST);
            self.remembered.past.drain(..excess);
        }
        self.remembered.current = Some(digest);
        self.candidate = None;
        self.current = Some(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { observations: 2, delay: Duration::from_secs(60) };

    fn key(version: u32, created: Option<u64>) -> KeyRef {
        KeyRef { backend: "b".into(), version: version.to_string(), check: String::new(), created }
    }

    /// Versions 1 to `active` exist, made at 1000 s, 2000 s and so on if `timed`.
    fn seen(active: u32, timed: bool) -> Observation {
        let at = |version: u32| key(version, timed.then(|| u64::from(version) * 1000));
        let readable = (1..=active).map(at).collect();
        Observation { active: at(active), readable, older_wraps: true, credential_ends: None, credential_renewed: true }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn using(version: u32) -> Promotion {
        let mut promotion = Promotion::new(RULES, Remembered::default());
        let first = seen(version, false);
        assert_eq!(promotion.observe(&first, s(0), 0), Step::Prove(first.active.clone()));
        promotion.promoted(first.active);
        promotion
    }

    #[test]
    fn a_new_version_waits_until_it_is_stable_and_old_enough() {
        let mut promotion = using(1);
        let next = seen(2, false);
        for second in [10, 30, 69] {
            assert_eq!(promotion.observe(&next, s(second), 0), Step::Keep);
        }
        assert_eq!(promotion.observe(&next, s(70), 0), Step::Prove(key(2, None)));
        assert_eq!(promotion.current(), Some(&key(1, None)), "until it was proven");
        promotion.promoted(key(2, None));
        assert_eq!(promotion.observe(&next, s(80), 0), Step::Keep);
        assert_eq!(promotion.remembered().past, [key(1, None).digest()]);
    }

    #[test]
    fn one_that_goes_away_meanwhile_begins_anew() {
        let mut promotion = using(1);
        promotion.observe(&seen(2, false), s(10), 0);
        assert_eq!(promotion.observe(&seen(1, false), s(60), 0), Step::Keep);
        assert_eq!(promotion.observe(&seen(2, false), s(75), 0), Step::Keep);
        assert_eq!(promotion.observe(&seen(2, false), s(134), 0), Step::Keep);
        assert_eq!(promotion.observe(&seen(2, false), s(135), 0), Step::Prove(key(2, None)));
    }

    #[test]
    fn nodes_that_know_when_it_was_made_change_together() {
        // One saw it at once, the other was away for half a minute.
        for first in [2000, 2030] {
            let mut promotion = Promotion::new(RULES, Remembered::default());
            promotion.observe(&seen(1, true), s(0), 1500);
            promotion.promoted(key(1, Some(1000)));
            let steps: Vec<u64> = (first..2100)
                .step_by(10)
                .filter(|unix| promotion.observe(&seen(2, true), s(unix - 1500), *unix) != Step::Keep)
                .collect();
            assert_eq!(steps.first(), Some(&2060), "seen first at {first}");
        }
    }

    #[test]
    fn the_first_start_in_the_middle_of_a_rotation_uses_what_the_others_use() {
        let mut promotion = Promotion::new(RULES, Remembered::default());
        assert_eq!(promotion.observe(&seen(2, true), s(0), 2010), Step::Prove(key(1, Some(1000))));
        let mut promotion = Promotion::new(RULES, Remembered::default());
        assert_eq!(promotion.observe(&seen(2, true), s(0), 2060), Step::Prove(key(2, Some(2000))));
    }

    #[test]
    fn a_restart_goes_on_with_what_was_used() {
        let remembered = using(1).remembered().clone();
        let mut promotion = Promotion::new(RULES, remembered);
        assert_eq!(promotion.known(), Some(key(1, None).digest()));
        assert_eq!(promotion.observe(&seen(2, false), s(0), 0), Step::Prove(key(1, None)));
        promotion.promoted(key(1, None));
        assert_eq!(promotion.remembered().past, [], "it was not left");
        assert_eq!(promotion.observe(&seen(2, false), s(10), 0), Step::Keep);
        assert_eq!(promotion.observe(&seen(2, false), s(70), 0), Step::Prove(key(2, None)));
    }

    #[test]
    fn a_key_that_is_gone_is_not_waited_for() {
        let mut promotion = using(1);
        let gone = Observation { readable: vec![key(2, None)], ..seen(2, false) };
        assert_eq!(promotion.observe(&gone, s(1), 0), Step::Prove(key(2, None)));
    }

    #[test]
    fn a_key_that_wraps_no_more_is_not_waited_with() {
        let mut promotion = using(1);
        let next = Observation { older_wraps: false, ..seen(2, false) };
        assert_eq!(promotion.observe(&next, s(1), 0), Step::Prove(key(2, None)));
        // Not at a start in the middle of a rotation either.
        let mut promotion = Promotion::new(RULES, using(1).remembered().clone());
        assert_eq!(promotion.observe(&next, s(0), 0), Step::Prove(key(2, None)));
        let mut promotion = Promotion::new(RULES, Remembered::default());
        let young = Observation { older_wraps: false, ..seen(2, true) };
        assert_eq!(promotion.observe(&young, s(0), 2010), Step::Prove(key(2, Some(2000))));
    }

    #[test]
    fn nobody_goes_back() {
        let mut promotion = using(1);
        promotion.promoted(key(2, None));
        let back = Observation { active: key(1, None), ..seen(2, false) };
        assert_eq!(promotion.observe(&back, s(1000), 0), Step::WentBack(key(1, None)));
        assert_eq!(promotion.current(), Some(&key(2, None)), "it still wraps");
        let lost = seen(1, false);
        assert_eq!(promotion.observe(&lost, s(1000), 0), Step::WentBack(key(1, None)));
        // Nor after a restart, with or without what was used last.
        let remembered = promotion.remembered().clone();
        let mut promotion = Promotion::new(RULES, remembered.clone());
        assert_eq!(promotion.observe(&back, s(0), 0), Step::Prove(key(2, None)));
        let mut promotion = Promotion::new(RULES, remembered);
        assert_eq!(promotion.observe(&lost, s(0), 0), Step::WentBack(key(1, None)));
        assert_eq!(promotion.current(), None);
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut promotion = using(1);
        for version in 2..200 {
            promotion.promoted(key(version, None));
        }
        assert_eq!(promotion.remembered().past.len(), MAX_PAST);
        assert_eq!(promotion.remembered().past.last(), Some(&key(198, None).digest()));
    }
}
