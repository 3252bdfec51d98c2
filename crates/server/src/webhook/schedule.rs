//! Which alarm the webhook is told next, and when: one that it refuses lets the others pass, and a receiver that takes
//! nothing at all costs one call at a time.
//!
//! Whether a failure is the alarm's or the receiver's no status tells: a receiver that chokes on one body answers 500,
//! and one that lost its route answers 404 to all. So the next ones tell: an alarm that fails waits for a time of its
//! own, and if several fail in a row, nothing is told for a while, and then one at a time until one is taken. A receiver
//! that refuses nearly all looks like one that takes nothing.

use super::back_off;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// An alarm that was refused by itself so often is given up: a week of the longest waits, 275 s each, as the longer of two
/// that are shortened by chance. Calls to a receiver that takes nothing do not count.
const REFUSALS_MAX: u32 = 2_200;

/// So many alarms fail in a row before the receiver is believed not to take any: a receiver that knows only some kinds of
/// alarms refuses a few side by side.
const IN_A_ROW: u32 = 4;

/// Where an alarm waits, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In memory: it could not be stored.
    Noticed(u64),
    /// In the store.
    Listed(u64),
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The alarm waits so long, and others go on.
    Refused(Duration),
    /// It was refused too often.
    GivenUp,
    /// Nothing is told for so long.
    Down(Duration),
}

/// Alarms that failed, and whether the receiver takes any.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failed: BTreeMap<Place, Failed>,
    /// How many alarms were refused that had not been before, with none taken since.
    in_a_row: u32,
    down: Option<Rest>,
    /// How many attempts at refused ones failed, with none taken since, and when the next one may be: many that are always
    /// refused cost no more than one.
    again: Option<Rest>,
    /// What was told last, if it failed.
    last: Option<Place>,
}

#[derive(Debug)]
struct Failed {
    /// How often while the receiver was not down.
    refusals: u32,
    not_before: Instant,
}

/// Failures in a row, and until when nothing is tried.
#[derive(Debug, Clone, Copy)]
struct Rest {
    failures: u32,
    not_before: Instant,
}

impl Rest {
    /// Waits after a failure, longer than `before`.
    fn longer(before: Option<Self>, now: Instant) -> (Self, Duration) {
        let failures = before.map_or(0, |before| before.failures);
        let wait = back_off(failures);
        (Self { failures: failures.saturating_add(1), not_before: now + wait }, wait)
    }
}

impl Schedule {
    /// What to tell now. `fresh` is the first that was not told yet.
    pub fn next(&self, now: Instant, fresh: Option<Place>) -> Option<Place> {
        let is_over = |rest: &Option<Rest>| rest.is_none_or(|rest| rest.not_before <= now);
        if self.down.is_some() {
            return if is_over(&self.down) { fresh.or_else(|| self.in_turn()) } else { None };
        }
        // In the order of their numbers, but those that were refused again and again after those that were less often: what
        // failed in an outage was so once at most.
        let due = self.failed.iter().filter(|(_, failed)| failed.not_before <= now && is_over(&self.again));
        let first = due.min_by_key(|(place, failed)| (failed.refusals.max(1), **place));
        first.map(|(place, _)| *place).or(fresh)
    }

    /// The one after the last, round and round.
    fn in_turn(&self) -> Option<Place> {
        let after = |last: Place| self.failed.range((Bound::Excluded(last), Bound::Unbounded)).next();
        self.last.and_then(after).or_else(|| self.failed.first_key_value()).map(|(place, _)| *place)
    }

    /// The receiver took it.
    pub fn taken(&mut self, place: Place) {
        self.failed.remove(&place);
        (self.in_a_row, self.down, self.again, self.last) = (0, None, None, None);
    }

    /// The receiver did not take it.
    pub fn failed(&mut self, place: Place, now: Instant) -> Failure {
        self.last = Some(place);
        let failed = self.failed.entry(place).or_insert(Failed { refusals: 0, not_before: now });
        // One that was refused by itself before says nothing new.
        self.in_a_row = self.in_a_row.saturating_add(u32::from(failed.refusals == 0));
        if self.down.is_some() || (failed.refusals == 0 && self.in_a_row >= IN_A_ROW) {
            let (down, wait) = Rest::longer(self.down, now);
            self.down = Some(down);
            return Failure::Down(wait);
        }
        if failed.refusals > 0 {
            self.again = Some(Rest::longer(self.again, now).0);
        }
        let wait = back_off(failed.refusals);
        failed.refusals = failed.refusals.saturating_add(1);
        failed.not_before = now + wait;
        if failed.refusals < REFUSALS_MAX {
            return Failure::Refused(wait);
        }
        self.failed.remove(&place);
        Failure::GivenUp
    }

    /// It waits no more, whoever took it.
    pub fn forget(&mut self, place: Place) {
        self.failed.remove(&place);
    }

    /// What waits in the store is out of reach; nothing of it was told, as far as is remembered.
    pub fn forget_listed(&mut self) {
        self.failed.retain(|place, _| matches!(place, Place::Noticed(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A receiver, alarms that come, and what was called when.
    struct Play {
        schedule: Schedule,
        now: Instant,
        waiting: BTreeSet<u64>,
        told: u64,
        takes: Box<dyn Fn(u64) -> bool>,
        calls: Vec<u64>,
        taken: Vec<u64>,
        given_up: Vec<u64>,
    }

    impl Play {
        fn new(waiting: std::ops::RangeInclusive<u64>, takes: impl Fn(u64) -> bool + 'static) -> Self {
            Self {
                schedule: Schedule::default(),
                now: Instant::now(),
                waiting: waiting.collect(),
                told: 0,
                takes: Box::new(takes),
                calls: vec![],
                taken: vec![],
                given_up: vec![],
            }
        }

        /// Looks once a second, as the webhook does.
        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                loop {
                    let fresh = self.waiting.range(self.told + 1..).next().copied();
                    let Some(place) = self.schedule.next(self.now, fresh.map(Place::Listed)) else { break };
                    let Place::Listed(number) = place else { panic!("{place:?} does not wait") };
                    assert!(self.waiting.contains(&number), "{number} does not wait");
                    self.told = self.told.max(number);
                    self.calls.push(number);
                    if (self.takes)(number) {
                        self.schedule.taken(place);
                        self.taken.push(number);
                        self.waiting.remove(&number);
                    } else if self.schedule.failed(place, self.now) == Failure::GivenUp {
                        self.given_up.push(number);
                        self.waiting.remove(&number);
                    }
                }
            }
        }
    }

    const DAY: u64 = 24 * 3600;

    #[test]
    fn others_pass_one_that_is_refused() {
        let mut play = Play::new(1..=40, |number| number != 3);
        play.pass(1);
        let others: Vec<_> = (1..=40).filter(|number| *number != 3).collect();
        assert_eq!(play.taken, others, "in their order, at once");
        play.calls.clear();
        // Hours later it is called for every few minutes, and one that comes does not wait for it.
        play.pass(DAY / 4);
        assert!((DAY / 4 / 300..DAY / 4 / 225 + 10).contains(&(play.calls.len() as u64)), "{}", play.calls.len());
        for number in 41..=45 {
            play.waiting.insert(number);
            play.pass(1);
            assert_eq!(play.taken.last(), Some(&number));
        }
        // It is taken at its own time, once the receiver takes it.
        play.takes = Box::new(|_| true);
        play.pass(300);
        assert_eq!(play.taken.last(), Some(&3));
        assert!(play.waiting.is_empty());
    }

    #[test]
    fn what_is_refused_for_a_week_is_given_up() {
        let mut play = Play::new(1..=3, |number| number != 2);
        play.pass(6 * DAY);
        assert_eq!(play.taken, [1, 3]);
        assert!(play.given_up.is_empty());
        play.pass(3 * DAY);
        assert_eq!(play.given_up, [2]);
        play.calls.clear();
        play.pass(DAY);
        assert!(play.calls.is_empty());
    }

    /// A receiver that knows one kind of alarms in three.
    #[test]
    fn many_that_are_refused_keep_back_nobody() {
        let mut play = Play::new(1..=60, |number| number % 3 == 0);
        play.pass(1);
        assert_eq!(play.taken, (1..=20).map(|n| n * 3).collect::<Vec<_>>());
        for number in 61..=300 {
            play.waiting.insert(number);
            play.pass(1);
            assert_eq!(play.waiting.contains(&number), number % 3 != 0, "{number} waits for others");
        }
    }

    /// A thousand wait and nothing is taken: no more than four calls at first, then one at a time, ever more seldom.
    #[test]
    fn a_receiver_that_takes_nothing_costs_one_call_at_a_time() {
        let mut play = Play::new(1..=1000, |_| false);
        play.pass(1);
        assert_eq!(play.calls, [1, 2, 3, 4]);
        play.pass(600);
        assert!(play.calls.len() <= 15, "{:?}", play.calls);
        let before = play.calls.len();
        play.pass(8 * DAY);
        let calls = (play.calls.len() - before) as u64;
        assert!((8 * DAY / 301..=8 * DAY / 225 + 1).contains(&calls), "{calls}");
        assert!(play.given_up.is_empty(), "for an outage nothing is given up");
        // It is back: all that waits is told within one wait, in its order but for the one that found it out.
        play.takes = Box::new(|_| true);
        play.pass(301);
        assert!(play.waiting.is_empty());
        let rest = play.taken.split_off(1);
        assert!(rest.is_sorted() && rest.len() == 999);
    }

    /// Many that are always refused cost little more than one, also once the receiver takes nothing at all.
    #[test]
    fn many_that_are_refused_cost_little() {
        let mut play = Play::new(1..=600, |number| number % 3 == 0);
        play.pass(600);
        assert_eq!(play.waiting.len(), 400);
        play.takes = Box::new(|_| false);
        play.pass(600);
        play.calls.clear();
        play.pass(DAY);
        assert!(play.calls.len() as u64 <= DAY / 225 + 1, "{}", play.calls.len());
    }

    /// One refused alarm alone does not make the receiver look dead, however long it is refused.
    #[test]
    fn one_that_is_refused_alone_is_no_sign() {
        let mut play = Play::new(1..=1, |number| number != 1);
        play.pass(DAY);
        play.waiting.insert(2);
        play.pass(1);
        assert_eq!(play.taken, [2]);
    }

    /// Those that wait for another attempt are all tried, so that one that is always refused hides no receiver that is back.
    #[test]
    fn calls_to_a_receiver_that_takes_nothing_go_round() {
        let mut play = Play::new(1..=5, |_| false);
        play.pass(DAY);
        let late: Vec<_> = play.calls.iter().rev().take(10).copied().collect();
        assert_eq!(late[..5], late[5..]);
        assert_eq!(late.iter().copied().collect::<BTreeSet<_>>(), (1..=5).collect());
    }

    #[test]
    fn sealing_forgets_what_the_store_holds() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.failed(Place::Listed(1), now);
        schedule.failed(Place::Noticed(1), now);
        schedule.forget_listed();
        let later = now + Duration::from_secs(600);
        assert_eq!(schedule.next(later, None), Some(Place::Noticed(1)));
        schedule.forget(Place::Noticed(1));
        assert_eq!(schedule.next(later, None), None);
    }
}
