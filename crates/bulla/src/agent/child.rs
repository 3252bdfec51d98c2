//! What becomes of the child: decided here, done by [`super::supervise`].

use rustix::process::Signal;

/// What the child is told when a file or a variable changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// It is ended and started again.
    Restart,
    /// It gets this signal. Variables that changed restart it all the same, since no signal brings them.
    Signal(Signal),
    /// Nothing.
    Nothing,
}

/// What differs from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// The content of a file.
    pub files: bool,
    /// A variable.
    pub variables: bool,
}

impl Change {
    /// Whether anything does.
    pub fn any(self) -> bool {
        self.files || self.variables
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// All values are there; against those before, this differs.
    Values(Change),
    /// This process got a signal.
    Signal(Signal),
    /// The child ended; its exit code, or 128 and the number of the signal.
    Ended(u8),
    /// The deadline passed.
    Deadline,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Start it with the newest variables.
    Start,
    /// Send it a signal.
    Send(Signal),
    /// No more values are needed: the end has begun.
    Stop,
    /// Look for change at once.
    Look,
    /// This process ends with this code.
    End(u8),
}

/// Where the child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Values are missing, or there is no child.
    Waiting,
    Running,
    /// It was asked to end; killed at the deadline, if there still is one.
    Leaving {
        deadline_ms: Option<u64>,
        then: Then,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Start,
    End,
}

/// A child, or that there is none.
#[derive(Debug)]
pub struct Child {
    /// What it is told of changes; none if there is no child.
    on_change: Option<OnChange>,
    grace_ms: u64,
    phase: Phase,
}

impl Child {
    /// One that waits for its values.
    pub fn new(on_change: OnChange, grace_ms: u64) -> Self {
        Self { on_change: Some(on_change), grace_ms, phase: Phase::Waiting }
    }

    /// No child: files and the socket are all there is.
    pub fn none() -> Self {
        Self { on_change: None, grace_ms: 0, phase: Phase::Waiting }
    }

    /// Until when it may take to end.
    pub fn deadline_ms(&self) -> Option<u64> {
        if let Phase::Leaving { deadline_ms, .. } = self.phase { deadline_ms } else { None }
    }

    /// Whether a child is being ended so that another one takes its place.
    pub fn restarts(&self) -> bool {
        matches!(self.phase, Phase::Leaving { then: Then::Start, .. })
    }

    /// What to do about an event.
    pub fn step(&mut self, event: Event, now_ms: u64) -> Vec<Act> {
        match (event, self.phase) {
            (Event::Values(change), phase) => self.values(change, phase, now_ms),
            (Event::Signal(signal), phase) => self.signal(signal, phase, now_ms),
            (Event::Ended(_), Phase::Leaving { then: Then::Start, .. }) => {
                self.phase = Phase::Running;
                vec![Act::Start]
            }
            (Event::Ended(code), Phase::Leaving { then: Then::End, .. }) => vec![Act::End(code)],
            (Event::Ended(code), _) => vec![Act::Stop, Act::End(code)],
            (Event::Deadline, Phase::Leaving { then, .. }) => {
                self.phase = Phase::Leaving { deadline_ms: None, then };
                vec![Act::Send(Signal::KILL)]
            }
            (Event::Deadline, _) => Vec::new(),
        }
    }

    fn values(&mut self, change: Change, phase: Phase, now_ms: u64) -> Vec<Act> {
        match (self.on_change, phase) {
            (Some(_), Phase::Waiting) => {
                self.phase = Phase::Running;
                vec![Act::Start]
            }
            (Some(on_change), Phase::Running) if change.any() => match on_change {
                OnChange::Nothing => Vec::new(),
                OnChange::Signal(signal) if !change.variables => vec![Act::Send(signal)],
                OnChange::Signal(_) | OnChange::Restart => self.leave(Signal::TERM, Then::Start, now_ms),
            },
            // One that is about to be started takes the newest.
            _ => Vec::new(),
        }
    }

    fn signal(&mut self, signal: Signal, phase: Phase, now_ms: u64) -> Vec<Act> {
        let ends = signal == Signal::TERM || signal == Signal::INT;
        match phase {
            // Nothing runs that could end with a code of its own.
            Phase::Waiting if ends || signal == Signal::QUIT => vec![Act::Stop, Act::End(0)],
            Phase::Waiting if signal == Signal::HUP => vec![Act::Look],
            Phase::Waiting => Vec::new(),
            Phase::Running | Phase::Leaving { then: Then::Start, .. } if ends => {
                let mut acts = vec![Act::Stop];
                acts.extend(self.leave(signal, Then::End, now_ms));
                acts
            }
            Phase::Running | Phase::Leaving { .. } => vec![Act::Send(signal)],
        }
    }

    fn leave(&mut self, signal: Signal, then: Then, now_ms: u64) -> Vec<Act> {
        self.phase = Phase::Leaving { deadline_ms: Some(now_ms.saturating_add(self.grace_ms)), then };
        vec![Act::Send(signal)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Event = Event::Values(Change { files: true, variables: false });
    const VARIABLES: Event = Event::Values(Change { files: false, variables: true });
    const SAME: Event = Event::Values(Change { files: false, variables: false });
    const TERM: Event = Event::Signal(Signal::TERM);

    fn running(on_change: OnChange) -> Child {
        let mut child = Child::new(on_change, 1_000);
        assert_eq!(child.step(FILES, 0), [Act::Start]);
        child
    }

    #[test]
    fn a_child_is_told_of_changes_as_it_was_asked_for() {
        let hup = OnChange::Signal(Signal::HUP);
        for (on_change, event, acts) in [
            (OnChange::Nothing, FILES, vec![]),
            (OnChange::Nothing, VARIABLES, vec![]),
            (hup, FILES, vec![Act::Send(Signal::HUP)]),
            (hup, VARIABLES, vec![Act::Send(Signal::TERM)]),
            (OnChange::Restart, FILES, vec![Act::Send(Signal::TERM)]),
            (OnChange::Restart, SAME, vec![]),
            (hup, SAME, vec![]),
        ] {
            assert_eq!(running(on_change).step(event, 0), acts, "{on_change:?} {event:?}");
        }
    }

    #[test]
    fn a_restart_is_one_whatever_changes_meanwhile_and_kills_after_the_grace() {
        let mut child = running(OnChange::Restart);
        child.step(FILES, 500);
        assert_eq!((child.deadline_ms(), child.restarts()), (Some(1_500), true));
        assert_eq!(child.step(VARIABLES, 600), []);
        assert_eq!(child.deadline_ms(), Some(1_500));
        assert_eq!(child.step(Event::Deadline, 1_500), [Act::Send(Signal::KILL)]);
        assert_eq!(child.deadline_ms(), None, "killed once");
        assert_eq!(child.step(Event::Ended(137), 1_501), [Act::Start]);
        assert!(!child.restarts());
        assert_eq!(child.step(FILES, 1_600), [Act::Send(Signal::TERM)]);
    }

    #[test]
    fn the_end_is_passed_on_and_has_the_childs_code() {
        let mut child = running(OnChange::Restart);
        assert_eq!(child.step(TERM, 100), [Act::Stop, Act::Send(Signal::TERM)]);
        assert_eq!(child.deadline_ms(), Some(1_100));
        assert_eq!(child.step(FILES, 200), [], "it is not started again");
        assert_eq!(child.step(TERM, 300), [Act::Send(Signal::TERM)], "asked again, no more time");
        assert_eq!(child.deadline_ms(), Some(1_100));
        assert_eq!(child.step(Event::Ended(3), 400), [Act::End(3)]);
        // In the middle of a restart.
        let mut child = running(OnChange::Restart);
        child.step(FILES, 0);
        assert_eq!(child.step(Event::Signal(Signal::INT), 900), [Act::Stop, Act::Send(Signal::INT)]);
        assert_eq!(child.deadline_ms(), Some(1_900));
        assert_eq!(child.step(Event::Ended(130), 950), [Act::End(130)]);
        // By itself.
        assert_eq!(running(OnChange::Nothing).step(Event::Ended(7), 5), [Act::Stop, Act::End(7)]);
    }

    #[test]
    fn other_signals_are_the_childs() {
        let mut child = running(OnChange::Restart);
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::QUIT, Signal::WINCH] {
            assert_eq!(child.step(Event::Signal(signal), 0), [Act::Send(signal)]);
        }
        for mut child in [Child::none(), Child::new(OnChange::Restart, 0)] {
            assert_eq!(child.step(Event::Signal(Signal::USR1), 0), []);
            assert_eq!(child.step(Event::Signal(Signal::HUP), 0), [Act::Look]);
            assert_eq!(child.step(TERM, 0), [Act::Stop, Act::End(0)]);
        }
        assert_eq!(Child::none().step(FILES, 0), []);
    }
}
