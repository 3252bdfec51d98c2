//! The invariants that are looked at when a seed has ended.

use crate::history::{Attempt, Broken, Slot, broken};
use crate::play::{Kind, Op, Outcome, Said, Wrap};
use crate::sim::Restored;
use crate::stage::{ALICE, Stage};
use bulla_wire::api::{AlarmKind, SlotState};
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::wrap::ReceiptKind;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

/// Everything that is known at the end.
pub struct End<'a> {
    pub stage: &'a Stage,
    pub wraps: &'a [Wrap],
    pub ops: &'a [Op],
    pub attempts: Vec<Attempt>,
    /// An older copy was put in the place of the store.
    pub restored: Option<&'a Restored>,
}

impl End<'_> {
    pub fn judge(&self) -> Result<(), Broken> {
        if let Some(restored) = self.restored {
            return self.judge_over(restored);
        }
        self.acknowledged_is_durable()?;
        self.opened_at_most_once()?;
        self.exactly_once()?;
        self.expired_or_revoked_never_opens()?;
        self.disabled_is_not_heard()?;
        self.secrets_follow_the_model()?;
        self.interception_raises_alarm()?;
        for (number, wrap) in self.wraps.iter().enumerate() {
            for index in 0..wrap.slots(self.stage).len() {
                Slot { stage: self.stage, wrap, number, index }.judge(self.ops, &self.attempts)?;
            }
        }
        Ok(())
    }

    /// What holds over a restore: whatever was opened, revoked or disabled stays so. All else is asked only of what began
    /// afterwards, as the lost history is lost.
    fn judge_over(&self, restored: &Restored) -> Result<(), Broken> {
        let wrap_of = |attempt: &Attempt| self.ops[attempt.op].kind.wrap();
        let is_lost = |attempt: &&Attempt| wrap_of(attempt).is_some_and(|wrap| restored.has_lost(wrap));
        let kept = self.attempts.iter().filter(|attempt| !is_lost(attempt)).cloned().collect();
        let kept = Self { attempts: kept, restored: None, ..*self };
        kept.opened_at_most_once()?;
        kept.expired_or_revoked_never_opens()?;
        self.disabled_is_not_heard()?;
        let is_later = |attempt: &&Attempt| {
            let is_secret = matches!(self.ops[attempt.op].kind, Kind::Put { .. } | Kind::Get { .. });
            attempt.op >= restored.ops && wrap_of(attempt).is_none_or(|wrap| wrap >= restored.wraps) && !is_secret
        };
        let later = self.attempts.iter().filter(is_later).cloned().collect();
        Self { attempts: later, restored: None, ..*self }.judge()
    }

    /// Attempts that were answered, with what was asked.
    fn answered(&self) -> impl Iterator<Item = (&Op, &Attempt, &Outcome)> {
        self.attempts.iter().filter_map(|attempt| Some((&self.ops[attempt.op], attempt, attempt.outcome.as_ref()?)))
    }

    fn done(&self) -> impl Iterator<Item = (&Op, &Attempt, &Outcome)> {
        self.answered().filter(|(_, _, outcome)| outcome.code.is_none())
    }

    /// The last look at a wrap.
    fn view(&self, wrap: usize) -> Option<&Outcome> {
        let looks = self.answered().filter(|(op, ..)| op.kind == Kind::Inspect { wrap } && op.who == ALICE);
        looks.last().map(|(_, _, outcome)| outcome)
    }

    /// How many pieces the store must have, and how many it may: of a wrap that its reader could not read, its writer may
    /// be given them for a while.
    pub fn pieces(&self) -> RangeInclusive<usize> {
        let (mut least, mut most) = (0, 0);
        for (number, wrap) in self.wraps.iter().enumerate() {
            let file = &self.stage.files[wrap.file];
            let Some(Outcome { said: Said::View(slots), .. }) = self.view(number).filter(|_| file.is_large()) else {
                continue;
            };
            let any = |states: &[SlotState]| slots.iter().any(|slot| states.contains(&slot.state));
            let is_live = any(&[SlotState::Sealed, SlotState::Opened, SlotState::Parked]);
            least += if is_live { file.pieces() } else { 0 };
            most += if is_live || any(&[SlotState::Nacked]) { file.pieces() } else { 0 };
        }
        least..=most
    }

    /// What was answered as done is there at the end, whatever power did.
    fn acknowledged_is_durable(&self) -> Result<(), Broken> {
        for (op, attempt, _) in self.done() {
            let Some(wrap) = op.kind.wrap() else { continue };
            let Some(view) = self.view(wrap) else { continue };
            let (Kind::Create { .. } | Kind::Open { .. } | Kind::Ack { .. } | Kind::Nack { .. } | Kind::Revoke { .. }) =
                op.kind
            else {
                continue;
            };
            let wanted = match op.kind {
                Kind::Open { .. } => Some(ReceiptKind::Opened),
                Kind::Ack { .. } => Some(ReceiptKind::Acked),
                Kind::Nack { .. } => Some(ReceiptKind::Nacked),
                Kind::Revoke { .. } => Some(ReceiptKind::Revoked),
                _ => None,
            };
            let Said::View(slots) = &view.said else {
                return broken("acknowledged_is_durable", format!("{op:?} at {}: {view:?}", attempt.began));
            };
            let has = |kind| slots.iter().any(|slot| slot.receipts.contains(&kind));
            if !wanted.is_none_or(has) {
                return broken("acknowledged_is_durable", format!("{:?} at {}: {view:?}", op.kind, attempt.began));
            }
        }
        Ok(())
    }

    /// Content went to one claim of each slot, and was what its writer sent.
    fn opened_at_most_once(&self) -> Result<(), Broken> {
        let mut won: HashMap<(usize, usize), (usize, usize)> = HashMap::new();
        for (op, attempt, outcome) in self.done() {
            let (Kind::Open { wrap, claim }, Said::Content(content)) = (op.kind, &outcome.said) else { continue };
            let slots = self.wraps[wrap].slots(self.stage);
            let Some(slot) = slots.iter().position(|owners| owners.contains(&op.who)) else {
                return broken("opened_at_most_once", format!("a stranger opened: {op:?}"));
            };
            let first = won.entry((wrap, slot)).or_insert((op.who, claim));
            if *first != (op.who, claim) {
                let detail =
                    format!("wrap {wrap} slot {slot}: {first:?}, and at {} {:?}", attempt.began, (op.who, claim));
                return broken("opened_at_most_once", detail);
            }
            if content != self.stage.files[self.wraps[wrap].file].content.as_bytes() {
                return broken("content_is_what_was_sent", format!("{op:?}"));
            }
        }
        Ok(())
    }

    /// A request that comes again does nothing again, and is told the same.
    fn exactly_once(&self) -> Result<(), Broken> {
        let mut told: BTreeMap<usize, &Outcome> = BTreeMap::new();
        for (op, attempt, outcome) in self.done().filter(|(op, ..)| op.kind.is_kept()) {
            let first = told.entry(attempt.op).or_insert(outcome);
            if *first != outcome {
                let detail = format!("{:?} was told {first:?}, and at {} {outcome:?}", op.kind, attempt.began);
                return broken("exactly_once", detail);
            }
        }
        let mut versions: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for (op, attempt, outcome) in self.done() {
            if let (Kind::Put { secret, .. }, Said::Version(version)) = (op.kind, &outcome.said)
                && *versions.entry((secret, *version)).or_insert(attempt.op) != attempt.op
            {
                return broken("exactly_once", format!("two writes made version {version} of secret {secret}"));
            }
        }
        for wrap in 0..self.wraps.len() {
            let Some(Outcome { said: Said::View(slots), .. }) = self.view(wrap) else { continue };
            for (slot, owners) in slots.iter().zip(self.wraps[wrap].slots(self.stage)) {
                let count = |kind| slot.receipts.iter().filter(|found| **found == kind).count();
                let tried: BTreeSet<usize> = self.tried(wrap, |op| owners.contains(&op.who)).collect();
                let delivered = count(ReceiptKind::Opened) + count(ReceiptKind::Redelivered);
                let ends = [ReceiptKind::Acked, ReceiptKind::Nacked, ReceiptKind::Revoked, ReceiptKind::Expired];
                let ended: usize = ends.iter().map(|kind| count(*kind)).sum();
                if count(ReceiptKind::Opened) > 1 || delivered > tried.len() || ended > 1 {
                    let detail = format!("wrap {wrap}: {} requests to open left {:?}", tried.len(), slot.receipts);
                    return broken("exactly_once", detail);
                }
            }
        }
        Ok(())
    }

    /// Requests to open a wrap that came through the door.
    fn tried(&self, wrap: usize, by: impl Fn(&Op) -> bool) -> impl Iterator<Item = usize> {
        let opens = move |op: &Op| matches!(op.kind, Kind::Open { wrap: of, .. } if of == wrap) && by(op);
        self.attempts.iter().map(|attempt| attempt.op).filter(move |op| opens(&self.ops[*op]))
    }

    /// A first delivery is in its wrap's time, by the node's clock, and no delivery follows a revocation.
    fn expired_or_revoked_never_opens(&self) -> Result<(), Broken> {
        let mut first: HashMap<(usize, usize), &Attempt> = HashMap::new();
        for (op, attempt, _) in self.done() {
            let Kind::Open { wrap, claim } = op.kind else { continue };
            let revoked = self.done().find(|(other, revoke, _)| {
                other.kind == Kind::Revoke { wrap } && revoke.ended.is_some_and(|ended| ended < attempt.began)
            });
            if revoked.is_some() {
                return broken("expired_or_revoked_never_opens", format!("{op:?} at {}: revoked", attempt.began));
            }
            first.entry((wrap, claim)).or_insert(attempt);
        }
        for ((wrap, claim), attempt) in first {
            // An earlier attempt whose answer power took may have been the first.
            let earlier = self.attempts.iter().take_while(|other| other.began < attempt.began).any(
                |other| matches!(self.ops[other.op].kind, Kind::Open { wrap: w, claim: c } if (w, c) == (wrap, claim)),
            );
            let terms = &self.wraps[wrap].terms;
            let (least, most) = attempt.unix_ms;
            if !earlier && (least >= terms.exp_ms || most < terms.nbf_ms) {
                let detail = format!("wrap {wrap} opened at {least}..{most}: {terms:?}");
                return broken("expired_or_revoked_never_opens", detail);
            }
        }
        Ok(())
    }

    /// What was done has its line, also if power took it before it was synced: as many lines tell of a success of
    /// somebody's action as there are effects of it. Whoever acknowledges again is told so, which is a read, and power may
    /// take its line. `lines` are principal and action.
    pub fn no_answer_without_audit_line(&self, lines: &[(PrincipalId, String)]) -> Result<(), Broken> {
        let mut wanted: BTreeMap<(PrincipalId, &str), BTreeSet<String>> = BTreeMap::new();
        for (op, attempt, _) in self.done() {
            let Some(action) = op.kind.action() else { continue };
            // What came before its wrap was answered already: what the same nonce is given now is no delivery of its own.
            if matches!(op.kind, Kind::Open { .. }) && !self.began_after_creation(attempt.op) {
                continue;
            }
            let effect = match op.kind {
                Kind::Create { .. } | Kind::Open { .. } | Kind::Put { .. } => attempt.op.to_string(),
                kind => format!("{kind:?}"),
            };
            wanted.entry((self.stage.ids[op.who], action)).or_default().insert(effect);
        }
        for ((principal, action), effects) in wanted {
            let found = lines.iter().filter(|(by, of)| *by == principal && of == action).count();
            if found < effects.len() {
                let detail = format!("{action}: {found} lines tell of {effects:?}");
                return broken("no_answer_without_audit_line", detail);
            }
        }
        Ok(())
    }

    /// Whether the first attempt of a request about a wrap came when that was there.
    fn began_after_creation(&self, op: usize) -> bool {
        let Some(wrap) = self.ops[op].kind.wrap() else { return false };
        let first = self.attempts.iter().find(|attempt| attempt.op == op).map_or(0, |attempt| attempt.began);
        self.done().any(|(create, made, _)| {
            create.kind == Kind::Create { wrap } && made.ended.is_some_and(|ended| ended < first)
        })
    }

    /// Who was disabled is not heard any more.
    fn disabled_is_not_heard(&self) -> Result<(), Broken> {
        for (op, disable, _) in self.done() {
            let Kind::Disable { person } = op.kind else { continue };
            let heard = self.done().find(|(other, attempt, _)| {
                other.who == person && disable.ended.is_some_and(|ended| ended < attempt.began)
            });
            if let Some((other, attempt, _)) = heard {
                return broken("disabled_is_not_heard", format!("{other:?} at {}", attempt.began));
            }
        }
        Ok(())
    }

    /// Versions count the writes, no acknowledged one is lost, and whoever reads a version gets its value.
    fn secrets_follow_the_model(&self) -> Result<(), Broken> {
        let of = |kind: Kind| match kind {
            Kind::Put { secret, .. } | Kind::Get { secret } => Some(secret),
            _ => None,
        };
        // When each known version was surely there.
        let mut known: Vec<(usize, u64, u64)> = Vec::new();
        for (op, attempt, outcome) in self.done() {
            let version = match outcome.said {
                Said::Version(version) | Said::Value { version, .. } => version,
                _ => continue,
            };
            known.extend(Some((of(op.kind).expect("a secret"), version, attempt.ended.unwrap_or(u64::MAX))));
        }
        for (op, attempt, outcome) in self.answered() {
            let Some(secret) = of(op.kind) else { continue };
            let ended = attempt.ended.unwrap_or(u64::MAX);
            let least =
                known.iter().filter(|(of, _, at)| *of == secret && *at < attempt.began).map(|(_, v, _)| *v).max();
            let puts: BTreeSet<usize> = self
                .attempts
                .iter()
                .filter(|other| {
                    other.began < ended && matches!(self.ops[other.op].kind, Kind::Put { secret: s, .. } if s == secret)
                })
                .map(|other| other.op)
                .collect();
            let (version, value) = match (&outcome.said, outcome.code) {
                (Said::Value { version, value }, _) => (*version, Some(value)),
                // A write that comes again is told of the first time.
                (Said::Version(version), _) => (*version, None),
                (_, Some(Code::NotFound)) => (0, None),
                _ => continue,
            };
            let fresh = value.is_some() || outcome.code.is_some();
            if fresh && version < least.unwrap_or(0) {
                let detail = format!("{op:?} at {} saw version {version}, after {least:?}", attempt.began);
                return broken("acknowledged_is_durable", detail);
            }
            if version > puts.len() as u64 {
                return broken("exactly_once", format!("{} writes made version {version}", puts.len()));
            }
            let Some(value) = value else { continue };
            let written = self.done().find_map(|(put, _, outcome)| match (put.kind, &outcome.said) {
                (Kind::Put { secret: s, value }, Said::Version(v)) if s == secret && *v == version => Some(value),
                _ => None,
            });
            if written.is_some_and(|written| self.stage.values[written] != *value) {
                return broken("state_follows_the_model", format!("{op:?} read another value than was written"));
            }
        }
        Ok(())
    }

    /// A second claim of a recipient, and a stranger's try, reach the writer.
    fn interception_raises_alarm(&self) -> Result<(), Broken> {
        let looks = self.done().filter(|(op, ..)| op.kind == Kind::Alarms && op.who == ALICE);
        let Some((_, look, Outcome { said: Said::Alarms(alarms), .. })) = looks.last() else { return Ok(()) };
        let told = |kind, wrap: usize| alarms.contains(&(kind, Some(self.stage.files[self.wraps[wrap].file].wrap)));
        for (op, attempt, outcome) in self.answered().filter(|(_, attempt, _)| attempt.began < look.began) {
            let Kind::Open { wrap, .. } = op.kind else { continue };
            let slots = self.wraps[wrap].slots(self.stage);
            let own = slots.iter().position(|owners| owners.contains(&op.who));
            let kind = match outcome.code {
                Some(Code::AlreadyOpened) => {
                    let won = self.done().find(|(other, ..)| {
                        matches!(other.kind, Kind::Open { wrap: of, .. } if of == wrap)
                            && slots.iter().position(|owners| owners.contains(&other.who)) == own
                    });
                    // With mode `first`, another recipient who comes late is no thief.
                    match won {
                        Some((winner, ..)) if winner.who == op.who => AlarmKind::SecondClaim,
                        _ => continue,
                    }
                }
                Some(Code::NotFound) if self.began_after_creation(attempt.op) && own.is_none() && op.who != ALICE => {
                    AlarmKind::ClaimByStranger
                }
                _ => continue,
            };
            // What its first time came to is what counts, and that may have been before there was a wrap to steal.
            let counts = kind == AlarmKind::ClaimByStranger || self.began_after_creation(attempt.op);
            if counts && !told(kind, wrap) {
                let detail = format!("{:?} of {:?} at {}: {alarms:?}", kind, op.kind, attempt.began);
                return broken("interception_raises_alarm", detail);
            }
        }
        Ok(())
    }
}
