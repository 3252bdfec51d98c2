//! What happened, as the node's door saw it, and whether it could have happened to a small model: for each slot an
//! order of the attempts is sought in which each does to the model what was answered (linearizability).

use crate::play::{Kind, Op, Outcome, Said, Wrap};
use crate::stage::{ALICE, Stage};
use bulla_wire::api::SlotState;
use bulla_wire::error::Code;
use std::collections::HashSet;

/// A request that came through the door.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub op: usize,
    pub began: u64,
    /// None if power went before it was answered.
    pub ended: Option<u64>,
    pub outcome: Option<Outcome>,
    /// What the node's clock showed meanwhile, least and most.
    pub unix_ms: (u64, u64),
    /// The most that it had shown before: what was due then may have been done, though the clock was set back since.
    pub peak_ms: u64,
    /// Which start of the node served it.
    pub life: u32,
    /// Whether the node was sealed when it began and no unseal began before it ended.
    pub sealed: bool,
    /// How often an unseal had been tried when it began.
    pub unseals: u32,
}

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub struct Broken {
    pub invariant: &'static str,
    pub detail: String,
}

pub fn broken<T>(invariant: &'static str, detail: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { invariant, detail: detail.into() })
}

/// Who opened a slot, by which claim.
type Opening = (usize, usize);

/// A slot of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Sealed,
    Opened(Opening),
    Acked(Opening),
    Nacked(Opening),
    Lapsed(Opening),
    Revoked(Option<Opening>),
    Expired,
}

impl State {
    fn opening(self) -> Option<Opening> {
        match self {
            Self::Opened(by) | Self::Acked(by) | Self::Nacked(by) | Self::Lapsed(by) => Some(by),
            Self::Revoked(by) => by,
            Self::Absent | Self::Sealed | Self::Expired => None,
        }
    }

    fn name(self) -> Option<SlotState> {
        Some(match self {
            Self::Absent => return None,
            Self::Sealed => SlotState::Sealed,
            Self::Opened(_) => SlotState::Opened,
            Self::Acked(_) => SlotState::Acked,
            Self::Nacked(_) => SlotState::Nacked,
            Self::Lapsed(_) => SlotState::Lapsed,
            Self::Revoked(_) => SlotState::Revoked,
            Self::Expired => SlotState::Expired,
        })
    }

    /// What a slot says to whoever comes with nothing better.
    fn end(self) -> Code {
        match self {
            Self::Absent | Self::Sealed => Code::NotFound,
            Self::Opened(_) => Code::AlreadyOpened,
            Self::Acked(_) => Code::Acked,
            Self::Nacked(_) => Code::Nacked,
            Self::Lapsed(_) => Code::Lapsed,
            Self::Revoked(_) => Code::Revoked,
            Self::Expired => Code::Expired,
        }
    }

    /// What an attempt leaves, and what it is told.
    fn after(self, who: usize, kind: Kind) -> (Self, Option<Code>) {
        let kept = |code| (self, Some(code));
        match kind {
            Kind::Create { .. } => (if self == Self::Absent { Self::Sealed } else { self }, None),
            Kind::Open { claim, .. } => match self {
                Self::Absent => kept(Code::NotFound),
                Self::Sealed => (Self::Opened((who, claim)), None),
                _ if self.opening().is_some_and(|by| by != (who, claim)) => kept(Code::AlreadyOpened),
                Self::Opened(_) => (self, None),
                _ => kept(self.end()),
            },
            Kind::Ack { claim, .. } | Kind::Nack { claim, .. } => {
                let ack = matches!(kind, Kind::Ack { .. });
                match self {
                    Self::Opened(by) if by == (who, claim) => {
                        (if ack { Self::Acked(by) } else { Self::Nacked(by) }, None)
                    }
                    Self::Acked(by) if by == (who, claim) && ack => (self, None),
                    Self::Nacked(by) if by == (who, claim) && !ack => (self, None),
                    _ => kept(self.end()),
                }
            }
            Kind::Revoke { .. } => match self {
                Self::Sealed => (Self::Revoked(None), None),
                Self::Opened(by) => (Self::Revoked(Some(by)), None),
                Self::Revoked(_) => (self, None),
                _ => kept(self.end()),
            },
            _ => (self, None),
        }
    }
}

/// An attempt as it concerns one slot.
struct Event<'a> {
    began: u64,
    ended: u64,
    who: usize,
    kind: Kind,
    outcome: Option<&'a Outcome>,
    /// The latest time that the clock had shown up to its end.
    latest_ms: u64,
}

/// Answers that tell nothing of the slot, as the request did not get so far.
fn is_turned_away(code: Code) -> bool {
    matches!(
        code,
        Code::StaleChallenge
            | Code::Unauthenticated
            | Code::WrongAudience
            | Code::NonceExpired
            | Code::Sealed
            | Code::Denied
            | Code::Busy
            | Code::Overloaded
            | Code::AuditBlocked
            | Code::NotYet
            | Code::ClockStepped
            | Code::TooManyDeliveries
    )
}

/// One slot of one wrap.
pub struct Slot<'a> {
    pub stage: &'a Stage,
    pub wrap: &'a Wrap,
    pub number: usize,
    pub index: usize,
}

impl Slot<'_> {
    /// Whether what was answered about it could have been answered in some order.
    pub fn judge(&self, ops: &[Op], attempts: &[Attempt]) -> Result<(), Broken> {
        let events = self.events(ops, attempts);
        if events.len() > 120 {
            return Ok(());
        }
        let mut seen = HashSet::new();
        if self.order(&events, 0, State::Absent, &mut seen) {
            return Ok(());
        }
        let mut text = format!("wrap {} slot {}: {:?}, no order of\n", self.number, self.index, self.wrap.terms);
        for event in &events {
            let ended = if event.ended == u64::MAX { "power cut".to_owned() } else { event.ended.to_string() };
            text.push_str(&format!(
                "  {}..{ended} {} {:?}: {:?}\n",
                event.began,
                crate::stage::NAMES[event.who],
                event.kind,
                event.outcome.map(|outcome| self.seen(outcome)),
            ));
        }
        broken("state_follows_the_model", text)
    }

    fn seen(&self, outcome: &Outcome) -> String {
        match (&outcome.code, &outcome.said) {
            (Some(code), _) => format!("{code:?}"),
            (None, Said::View(slots)) => format!("{:?}", slots.get(self.index)),
            _ => "done".to_owned(),
        }
    }

    fn events<'a>(&self, ops: &[Op], attempts: &'a [Attempt]) -> Vec<Event<'a>> {
        let owners = &self.wrap.slots(self.stage)[self.index];
        let mut events: Vec<Event<'a>> = Vec::new();
        let mut latest_ms = 0;
        for (at, attempt) in attempts.iter().enumerate() {
            latest_ms = latest_ms.max(attempt.unix_ms.1).max(attempt.peak_ms);
            let op = &ops[attempt.op];
            if op.kind.wrap() != Some(self.number) {
                continue;
            }
            let concerns = match op.kind {
                Kind::Create { .. } | Kind::Revoke { .. } => op.who == ALICE,
                Kind::Inspect { .. } => self.wrap.is_party(self.stage, op.who),
                _ => owners.contains(&op.who),
            };
            let code = attempt.outcome.as_ref().and_then(|outcome| outcome.code);
            // A refusal is remembered under its nonce for a while, whatever becomes of the wrap, and for an open that
            // there is no wrap for as long as nonces are.
            let again = code.is_some()
                && attempts[..at].iter().filter(|earlier| earlier.op == attempt.op).any(|earlier| {
                    let told = earlier.outcome.as_ref().map(|outcome| outcome.code);
                    told == Some(code) && earlier.life == attempt.life
                        || code == Some(Code::NotFound) && told.is_none_or(|told| told == code)
                });
            // Before its sweep, an open of an overdue wrap is refused all the same.
            let early = code == Some(Code::Expired) && matches!(op.kind, Kind::Open { .. });
            if !concerns || again || early || code.is_some_and(is_turned_away) {
                continue;
            }
            let outcome = attempt.outcome.as_ref().filter(|outcome| outcome.code != Some(Code::Unknown));
            if outcome.is_none() && matches!(op.kind, Kind::Inspect { .. }) {
                continue;
            }
            let ended = attempt.ended.filter(|_| outcome.is_some()).unwrap_or(u64::MAX);
            events.push(Event { began: attempt.began, ended, who: op.who, kind: op.kind, outcome, latest_ms });
        }
        events
    }

    /// Whether the events that are not `taken` have an order, from this state on.
    fn order(&self, events: &[Event<'_>], taken: u128, state: State, seen: &mut HashSet<(u128, State)>) -> bool {
        let open = |at: &usize| taken & (1 << at) == 0;
        // What power cut off may have done nothing.
        if (0..events.len()).filter(open).all(|at| events[at].outcome.is_none()) {
            return true;
        }
        if !seen.insert((taken, state)) {
            return false;
        }
        let first_end = (0..events.len()).filter(open).map(|at| events[at].ended).min().unwrap_or(u64::MAX);
        for at in (0..events.len()).filter(open) {
            let event = &events[at];
            if event.began > first_end {
                break;
            }
            for state in self.by_time(state, event.latest_ms) {
                if let Some(next) = self.apply(state, event)
                    && self.order(events, taken | (1 << at), next, seen)
                {
                    return true;
                }
            }
        }
        false
    }

    /// What time may have made of a slot.
    fn by_time(&self, state: State, latest_ms: u64) -> Vec<State> {
        match state {
            State::Sealed if latest_ms >= self.wrap.terms.exp_ms => vec![state, State::Expired],
            State::Opened(by) if latest_ms >= crate::stage::BEGIN_MS + u64::from(self.wrap.terms.ack_s) * 1000 => {
                vec![state, State::Lapsed(by)]
            }
            _ => vec![state],
        }
    }

    /// The next state, if the attempt may have been told what it was.
    fn apply(&self, state: State, event: &Event<'_>) -> Option<State> {
        let (next, code) = state.after(event.who, event.kind);
        let Some(outcome) = event.outcome else { return Some(next) };
        match event.kind {
            Kind::Inspect { .. } => match &outcome.said {
                Said::View(slots) => (slots.get(self.index).map(|slot| slot.state) == state.name()).then_some(state),
                _ => (state == State::Absent).then_some(state),
            },
            // A statement that is refused makes nothing.
            Kind::Create { .. } if outcome.code.is_some() => Some(state),
            // Another slot may be what is taken back, or what is told of.
            Kind::Revoke { .. } if self.wrap.slots(self.stage).len() > 1 => match (outcome.code, code) {
                (None, _) => Some(next),
                (Some(Code::NotFound), _) => (state == State::Absent).then_some(state),
                (Some(_), None) => None,
                (Some(_), Some(_)) => Some(state),
            },
            _ => (outcome.code == code).then_some(next),
        }
    }
}
