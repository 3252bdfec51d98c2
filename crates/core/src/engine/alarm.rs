//! Alarms: one record for each party that is told, in a list of its own, in the order in which they were committed.

use crate::barrier::{Cursor, Kind, Query, Record, RecordKey, Records, Writes};
use crate::operation::{Context, Fault, Operation, Outcome, Raised, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::{Alarm, AlarmKind, Alarms, Done};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::{Lineage, PrincipalId, WrapId};
use bulla_wire::json;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// An alarm for everyone who is told. [`enlist`] puts it into their lists.
pub fn raise(context: &Context<'_>, kind: AlarmKind, about: About<'_>, mut told: Vec<PrincipalId>) -> Raised {
    // A writer may be its own recipient; nobody is told twice.
    told.sort_unstable();
    told.dedup();
    let alarm = Alarm {
        id: String::new(),
        kind,
        at_ms: context.now.unix_ms,
        wrap: about.wrap,
        actor: context.actor.cloned(),
        receipt: about.receipt.cloned(),
        message: about.message.to_owned(),
    };
    Raised { alarm, told }
}

/// Writes an outcome's alarms at the end of the lists of those who are told, in the same commit.
pub fn enlist(mut outcome: Box<Outcome>, records: &Records, context: &Context<'_>) -> Result<Step, Fault> {
    let keys = keys(&lists(&outcome.alarms, context.webhook));
    let unread: Vec<_> = keys.into_iter().filter(|key| records.get(key).is_none()).collect();
    if !unread.is_empty() {
        return Ok(Step::need(unread));
    }
    let Outcome { writes, alarms, .. } = &mut *outcome;
    list(writes, alarms, records, context)?;
    Ok(Step::Done(outcome))
}

/// Whose list the alarms for the webhook stand in. It is no principal: an id is a digest.
pub const WEBHOOK: PrincipalId = PrincipalId::new([0; 32]);
/// Most alarms that wait for the webhook. A receiver that is gone for days fills no disk; what comes then has a number
/// and is nowhere but in the lists of those who are told, and the receiver hears how many those are.
pub const WAITING_MAX: u64 = 10_000;

/// An alarm in the webhook's list. What is told of it is all here, so that each attempt says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The history of the store that its commit belongs to. Numbers alone could come again after a snapshot was put
    /// back.
    pub lineage: Lineage,
    /// How many alarms before it got a number and no place.
    pub dropped: u64,
    /// The alarm.
    pub alarm: Alarm,
}

/// What the webhook's list counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The number of the newest alarm.
    pub newest: u64,
    /// How many got a number and no place, since too many waited.
    pub dropped: u64,
    /// How many were taken, or given up.
    pub done: u64,
}

impl Counts {
    /// How many are in the list.
    pub fn waiting(&self) -> u64 {
        self.newest.saturating_sub(self.dropped).saturating_sub(self.done)
    }
}

/// In whose lists these alarms stand.
fn lists(alarms: &[Raised], webhook: bool) -> BTreeSet<PrincipalId> {
    let webhook = (webhook && !alarms.is_empty()).then_some(WEBHOOK);
    alarms.iter().flat_map(|raised| raised.told.iter().copied()).chain(webhook).collect()
}

/// What must be read to write into these lists.
pub(super) fn keys(lists: &BTreeSet<PrincipalId>) -> Vec<RecordKey> {
    let counts = lists.contains(&WEBHOOK).then(|| [dropped_key(), cursor_key(&WEBHOOK)]);
    lists.iter().map(newest_key).chain(counts.into_iter().flatten()).collect()
}

/// Writes alarms at the end of the lists of those who are told; the records under their [`keys`] were read.
///
/// An alarm stands under the number that follows its list's newest one, whatever the clocks say, and the commit
/// demands that no other came meanwhile. So numbers rise in the order of commits, and nothing is ever written
/// behind a mark that its owner has set already.
pub(super) fn list(
    writes: &mut Writes,
    alarms: &[Raised],
    records: &Records,
    context: &Context<'_>,
) -> Result<(), Fault> {
    for principal in lists(alarms, context.webhook) {
        let key = newest_key(&principal);
        let current = records.get(&key).flatten();
        let mut newest = count(current)?;
        let is_webhook = principal == WEBHOOK;
        let mut webhook = if is_webhook { Some(counts(records)?) } else { None };
        for raised in alarms.iter().filter(|raised| is_webhook || raised.told.contains(&principal)) {
            newest = newest.checked_add(1).ok_or(Fault::Key("number of an alarm"))?;
            let child = newest.to_be_bytes();
            let alarm = Alarm { id: Cursor::after_clear(child).to_text(), ..raised.alarm.clone() };
            let bytes = match &mut webhook {
                None => json::to_vec(&alarm),
                Some(counts) => {
                    counts.newest = newest;
                    if counts.waiting() > WAITING_MAX {
                        counts.dropped = counts.dropped.saturating_add(1);
                        continue;
                    }
                    json::to_vec(&Listed { lineage: context.lineage, dropped: counts.dropped, alarm })
                }
            };
            writes.create(RecordKey::clear(Kind::Alarm, principal.as_bytes(), child), bytes);
        }
        writes.replace(key, current, newest.to_be_bytes().to_vec());
        let dropped = records.get(&dropped_key()).flatten();
        if let Some(counts) = webhook.filter(|counts| count(dropped) != Ok(counts.dropped)) {
            writes.replace(dropped_key(), dropped, counts.dropped.to_be_bytes().to_vec());
        }
    }
    Ok(())
}

/// What tells of the webhook's list: the alarms in it after this number, and its [`counts`].
pub fn waiting(after: u64, limit: usize) -> [Query; 4] {
    let page = scan(&WEBHOOK, Some(Cursor::after_clear(after.to_be_bytes())), limit);
    [page, Query::Get(newest_key(&WEBHOOK)), Query::Get(dropped_key()), Query::Get(cursor_key(&WEBHOOK))]
}

/// What the webhook's list counts, by what [`waiting`] found.
///
/// # Errors
/// [`Fault`] if a record does not parse.
pub fn counts(records: &Records) -> Result<Counts, Fault> {
    let of = |key: &RecordKey| count(records.get(key).flatten());
    Ok(Counts { newest: of(&newest_key(&WEBHOOK))?, dropped: of(&dropped_key())?, done: of(&cursor_key(&WEBHOOK))? })
}

/// The key of the webhook's alarm of this number.
pub fn listed_key(number: u64) -> RecordKey {
    RecordKey::clear(Kind::Alarm, WEBHOOK.as_bytes(), number.to_be_bytes())
}

/// The number of an alarm in the webhook's list, by its place there.
///
/// # Errors
/// [`Fault`] if it has none.
pub fn number_of(cursor: &Cursor) -> Result<u64, Fault> {
    number(cursor.as_bytes())
}

/// The webhook is done with its alarm of this number, which is deleted. They are counted, since they are not taken
/// in the order of their numbers; the count is written here only, so nothing that raises an alarm gets in its way.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The number.
    pub number: u64,
}

impl Operation for Delivered {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (key, done) = (listed_key(self.number), cursor_key(&WEBHOOK));
        let (Some(listed), Some(current)) = (records.get(&key), records.get(&done)) else {
            return Ok(Step::need([key, done]));
        };
        let mut writes = Writes::default();
        // One that is gone was counted.
        if listed.is_some() {
            writes.replace(done, current, count(current)?.saturating_add(1).to_be_bytes().to_vec());
            writes.delete(key);
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

/// A count as it is stored; 0 until there is one.
fn count(record: Option<&Record>) -> Result<u64, Fault> {
    record.map_or(Ok(0), |record| number(record.bytes.expose()))
}

fn number(bytes: &[u8]) -> Result<u64, Fault> {
    let number = bytes.try_into().map(u64::from_be_bytes);
    number.map_err(|_| Fault::Record { kind: "alarm cursor", reason: format!("it has {} bytes", bytes.len()) })
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The wrap.
    pub wrap: Option<WrapId>,
    /// The receipt that proves it.
    pub receipt: Option<&'a Envelope>,
    /// What happened, for people.
    pub message: &'a str,
}

/// Raises an alarm by itself, where the request that caused it has no effect of its own.
#[derive(Debug, Clone)]
pub struct Raise {
    /// What raised it.
    pub kind: AlarmKind,
    /// What happened, for people.
    pub message: &'static str,
    /// Who is told.
    pub told: Vec<PrincipalId>,
}

impl Operation for Raise {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let about = About { message: self.message, ..About::default() };
        let raised = raise(context, self.kind, about, self.told.clone());
        Ok(Step::Done(Box::new(Outcome {
            writes: Writes::default(),
            result: Ok(Reply::json(&Done {})),
            replay: Replay::Again,
            receipts: vec![],
            alarms: vec![raised],
            change: None,
        })))
    }
}

/// The key of a principal's cursor.
pub fn cursor_key(principal: &PrincipalId) -> RecordKey {
    RecordKey::hidden(Kind::AlarmCursor, principal.as_bytes(), "alarms")
}

/// The key of the number of a principal's newest alarm.
pub(super) fn newest_key(principal: &PrincipalId) -> RecordKey {
    RecordKey::hidden(Kind::AlarmCursor, principal.as_bytes(), "newest")
}

/// The key of how many alarms found no place in the webhook's list.
fn dropped_key() -> RecordKey {
    RecordKey::hidden(Kind::AlarmCursor, WEBHOOK.as_bytes(), "dropped")
}

/// A page of one principal's alarms after a cursor.
pub fn scan(principal: &PrincipalId, after: Option<Cursor>, limit: usize) -> Query {
    Query::Scan { kind: Kind::Alarm, dir: principal.as_bytes().to_vec(), after, limit }
}

/// `GET /v1/alarms`: the caller's own. Without `after` it begins behind those that it marked as seen.
#[derive(Debug, Clone)]
pub struct List {
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
    /// Begin with the oldest, seen or not.
    pub all: bool,
}

impl Operation for List {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(actor) = context.actor else { return Err(Fault::Key("caller of alarms")) };
        let mut after = self.after.clone();
        if after.is_none() && !self.all {
            let cursor_key = cursor_key(&actor.principal);
            let Some(seen) = records.get(&cursor_key) else { return Ok(Step::need([cursor_key])) };
            after = seen.map(|record| Cursor::after_clear(record.bytes.expose().clone()));
        }
        let query = scan(&actor.principal, after, self.limit);
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let alarms =
            page.iter().map(|record| parse_record("alarm", &record.bytes)).collect::<Result<Vec<Alarm>, _>>()?;
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&Alarms { alarms, next })))
    }
}

/// How long an alarm is kept after it was raised, in milliseconds, if it was seen: as long as a wrap's receipts after
/// its end, 90 days.
pub const KEPT_MS: u64 = 90 * 24 * 3600 * 1000;
/// Most alarms that one marking deletes; half of what a commit takes.
const PRUNED_AT_ONCE: usize = 256;

/// `POST /v1/alarms:seen`: the caller has seen its alarms up to this one; old ones before it are deleted. The mark never
/// goes back, so it goes no further than an alarm that exists: a thief of the key could otherwise hide all alarms to
/// come, not only those that its victim may already have read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The id of the last alarm seen.
    pub up_to: Cursor,
}

impl Operation for Seen {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(actor) = context.actor else { return Err(Fault::Key("caller of alarms")) };
        let key = cursor_key(&actor.principal);
        let alarm = RecordKey::clear(Kind::Alarm, actor.principal.as_bytes(), self.up_to.as_bytes());
        let oldest = scan(&actor.principal, None, PRUNED_AT_ONCE);
        let (Some(current), Some(alarm), Some((oldest, _))) =
            (records.get(&key), records.get(&alarm), records.page(&oldest))
        else {
            return Ok(Step::Need(vec![Query::Get(key), Query::Get(alarm), oldest]));
        };
        if alarm.is_none() {
            let refusal = Refusal::new(Code::NotFound, "you have no alarm with this id").field("up_to");
            return Ok(Outcome::refuse(refusal.hint("give the id of the last alarm that you were shown")));
        }
        let mut writes = Writes::default();
        if current.is_none_or(|record| record.bytes.expose().as_slice() < self.up_to.as_bytes()) {
            writes.replace(key, current, self.up_to.as_bytes().to_vec());
        }
        // What is named stays, so that whoever asks again finds it.
        for record in oldest.iter().take_while(|record| record.cursor.as_bytes() < self.up_to.as_bytes()) {
            let Alarm { at_ms, .. } = parse_record("alarm", &record.bytes)?;
            if at_ms.saturating_add(KEPT_MS) <= context.now.earliest_ms() {
                writes.delete(RecordKey::clear(Kind::Alarm, actor.principal.as_bytes(), record.cursor.as_bytes()));
            }
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
