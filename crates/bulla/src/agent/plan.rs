//! What is done when: leases, pauses after failures, the looks for change. Times are milliseconds of a clock that does
//! not step; what happens by chance comes in as a [`Jitter`].

/// Longest pause after failures in ms: an outage ends unnoticed for a minute at most.
const MAX_PAUSE_MS: u64 = 60_000;
/// Pause after the first failure in ms.
const FIRST_PAUSE_MS: u64 = 1_000;

/// How long after a rotation its password is asked for, in ms: as long as a database takes for it.
const AFTER_ROTATION_MS: u64 = 1_000;

/// A fraction from 0 to 1, drawn at random, so that agents that started together do not ask together.
#[derive(Debug, Clone, Copy)]
pub struct Jitter(pub u16);

impl Jitter {
    /// This part of a span.
    fn of(self, ms: u64) -> u64 {
        let part = u128::from(ms).saturating_mul(u128::from(self.0)) / u128::from(u16::MAX);
        u64::try_from(part).unwrap_or(ms)
    }
}

/// How long to wait after so many failures in a row: twice as long each time, half of it by chance.
pub fn pause_ms(failures: u32, jitter: Jitter) -> u64 {
    let doubled = FIRST_PAUSE_MS.saturating_mul(1_u64 << failures.saturating_sub(1).min(10));
    let whole = doubled.min(MAX_PAUSE_MS);
    (whole / 2).saturating_add(jitter.of(whole / 2))
}

/// How long until the next look for change: the time that was asked for, a tenth more or less.
pub fn look_ms(poll_ms: u64, jitter: Jitter) -> u64 {
    (poll_ms.saturating_mul(9) / 10).saturating_add(jitter.of(poll_ms / 5))
}

/// When a password is rotated that the cluster says is at `rotates_ms`, and a moment later, by the clock here; never if
/// that is over, since then nobody knows. Clocks that differ cost no more than the time to the next look.
pub fn rotated_ms(now_ms: u64, rotates_ms: u64, wall_ms: u64) -> u64 {
    match rotates_ms.checked_sub(wall_ms) {
        None | Some(0) => u64::MAX,
        Some(left_ms) => now_ms.saturating_add(left_ms).saturating_add(AFTER_ROTATION_MS),
    }
}

/// Something that is done again and again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Task {
    /// When it is to be done.
    pub due_ms: u64,
    /// How often it failed since it was done last.
    pub failures: u32,
}

impl Task {
    /// It was done, and is to be done then.
    pub fn done(&mut self, due_ms: u64) {
        *self = Self { due_ms, failures: 0 };
    }

    /// It failed, and is tried again.
    pub fn failed(&mut self, now_ms: u64, jitter: Jitter) {
        self.failures = self.failures.saturating_add(1);
        self.due_ms = now_ms.saturating_add(pause_ms(self.failures, jitter));
    }
}

/// What is to be done about a lease whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    /// Let it last longer.
    Renew,
    /// Get another one, for it cannot last longer.
    Replace,
}

/// The times of a lease. The cluster's are told by the cluster's clock; here they are measured from when the lease was
/// asked for, so that this machine's wall clock is of no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// A moment here, not after the next one.
    asked_ms: u64,
    /// When it began, by the cluster's clock.
    issued_ms: u64,
    /// When it began or was renewed last.
    from_ms: u64,
    /// When it ends unless it is renewed.
    pub ends_ms: u64,
    /// When it ends whatever happens.
    last_ms: u64,
    lost: bool,
}

impl Term {
    /// Of a lease that was asked for at `asked_ms`; the others are the cluster's words.
    pub fn new(asked_ms: u64, issued_ms: u64, expires_ms: u64, max_ms: u64) -> Self {
        let here = |cluster_ms: u64| asked_ms.saturating_add(cluster_ms.saturating_sub(issued_ms));
        Self { asked_ms, issued_ms, from_ms: asked_ms, ends_ms: here(expires_ms), last_ms: here(max_ms), lost: false }
    }

    /// It was renewed at `now_ms` and ends then, by the cluster's clock.
    pub fn renewed(&mut self, now_ms: u64, expires_ms: u64) {
        self.from_ms = now_ms;
        self.ends_ms = self.asked_ms.saturating_add(expires_ms.saturating_sub(self.issued_ms));
    }

    /// Somebody took it away.
    pub fn lost(&mut self, now_ms: u64) {
        self.ends_ms = self.ends_ms.min(now_ms);
        self.lost = true;
    }

    /// Whether somebody did.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// When something is to be done: after two thirds of its life, up to a tenth of it earlier by chance.
    pub fn due_ms(&self, jitter: Jitter) -> u64 {
        let life = self.ends_ms.saturating_sub(self.from_ms);
        let due = self.from_ms.saturating_add(life.saturating_mul(2) / 3);
        due.saturating_sub(jitter.of(life / 10))
    }

    /// From when on a lease that could not be renewed is rather replaced: a sixth of its life is left for that.
    fn late_ms(&self) -> u64 {
        self.ends_ms.saturating_sub(self.ends_ms.saturating_sub(self.from_ms) / 6)
    }

    /// What is to be done, now that its time has come and so many tries failed.
    pub fn todo(&self, now_ms: u64, failures: u32) -> Todo {
        let late = failures > 0 && now_ms >= self.late_ms();
        if self.ends_ms >= self.last_ms || now_ms >= self.ends_ms || late { Todo::Replace } else { Todo::Renew }
    }

    /// Puts a try after a failure no later than when the lease is to be replaced.
    pub fn in_time(&self, task: &mut Task, now_ms: u64) {
        if now_ms < self.late_ms() {
            task.due_ms = task.due_ms.min(self.late_ms());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Jitter = Jitter(0);
    const ALL: Jitter = Jitter(u16::MAX);

    /// A renewal whose answer comes after the old end holds all the same; one of a lease that was taken away does not.
    #[test]
    fn a_late_answer_still_renews() {
        let mut term = Term::new(0, 1_000, 61_000, 601_000);
        assert_eq!((term.ends_ms, term.is_lost()), (60_000, false));
        term.renewed(65_000, 101_000);
        assert_eq!((term.ends_ms, term.todo(65_000, 0)), (100_000, Todo::Renew));
        term.lost(70_000);
        assert!(term.is_lost() && term.todo(70_000, 0) == Todo::Replace);
    }

    /// Plays a lease with a clock by hand: `max_ms` from its beginning, renewed for `ttl_ms` each time. Returns when what
    /// was done, up to its replacement.
    fn play(ttl_ms: u64, max_ms: u64, jitter: Jitter) -> Vec<(u64, Todo)> {
        let (asked, issued) = (5_000, 1_700_000_000_000);
        let end = |at: u64| (issued + (at - asked) + ttl_ms).min(issued + max_ms);
        let mut term = Term::new(asked, issued, end(asked), issued + max_ms);
        let mut done = Vec::new();
        loop {
            let now = term.due_ms(jitter);
            assert!(now < term.ends_ms, "before it ends");
            let todo = term.todo(now, 0);
            done.push((now - asked, todo));
            if todo == Todo::Replace {
                return done;
            }
            term.renewed(now, end(now));
        }
    }

    #[test]
    fn a_lease_is_renewed_at_two_thirds_and_replaced_before_its_last_end() {
        use Todo::{Renew, Replace};
        assert_eq!(play(6_000, 10_000, NONE), [(4_000, Renew), (8_000, Replace)]);
        assert_eq!(play(6_000, 6_000, NONE), [(4_000, Replace)]);
        // Not at the same moment as others that began with it, and never later.
        assert_eq!(play(6_000, 6_000, ALL), [(3_400, Replace)]);
        // A renewal that the last end cuts short leaves time for the next user.
        assert_eq!(play(6_000, 6_500, NONE), [(4_000, Renew), (5_666, Replace)]);
    }

    #[test]
    fn a_lease_that_cannot_be_renewed_is_replaced_while_there_is_time() {
        let term = Term::new(0, 1_000, 61_000, 10_000_000);
        assert_eq!((term.todo(40_000, 0), term.todo(49_999, 9)), (Todo::Renew, Todo::Renew));
        assert_eq!((term.todo(50_000, 0), term.todo(50_000, 1)), (Todo::Renew, Todo::Replace));
        assert_eq!(term.todo(60_000, 0), Todo::Replace, "it is over");
        let mut lost = term;
        lost.lost(7_000);
        assert_eq!((term.todo(7_000, 0), lost.todo(7_000, 0)), (Todo::Renew, Todo::Replace));
        let mut task = Task { due_ms: 70_000, failures: 3 };
        term.in_time(&mut task, 45_000);
        assert_eq!(task.due_ms, 50_000);
        task.due_ms = 70_000;
        term.in_time(&mut task, 50_000);
        assert_eq!(task.due_ms, 70_000, "afterwards only failures count");
    }

    #[test]
    fn a_rotation_is_looked_at_once_when_it_should_be_over() {
        assert_eq!(rotated_ms(5_000, 1_700_000_060_000, 1_700_000_000_000), 66_000);
        assert_eq!(rotated_ms(5_000, 1_700_000_000_000, 1_700_000_000_000), u64::MAX);
        assert_eq!(rotated_ms(5_000, 1_600_000_000_000, 1_700_000_000_000), u64::MAX, "it is late");
        assert_eq!(rotated_ms(5_000, u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_differ() {
        let pauses = |jitter| [1, 2, 3, 6, 7, 8, u32::MAX].map(|failures| pause_ms(failures, jitter));
        assert_eq!(pauses(ALL), [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(pauses(NONE), [500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!((look_ms(30_000, NONE), look_ms(30_000, ALL)), (27_000, 33_000));
        let mut task = Task::default();
        task.failed(100, ALL);
        task.failed(1_100, ALL);
        assert_eq!(task, Task { due_ms: 3_100, failures: 2 });
        task.done(9_000);
        assert_eq!(task, Task { due_ms: 9_000, failures: 0 });
    }
}
