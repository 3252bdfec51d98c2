//! Alarms of a node that has no keys to its store: kept in memory until the webhook took them.

use super::schedule::Place;
use bulla_wire::api::Alarm;
use bulla_wire::id::{ClusterId, KeyId};
use bulla_wire::webhook::{ALARM_TYPE, Message};
use std::collections::BTreeMap;

/// Most alarms that wait in memory. Only admins and the clock make a sealed node raise any, so these are many; each is
/// below a KiB.
pub(super) const NOTICED_MAX: usize = 64;

/// What waits, by its number, which counts since the process began.
#[derive(Debug, Default)]
pub struct Noticed {
    waiting: BTreeMap<u64, Told>,
    newest: u64,
    dropped: u64,
}

/// What is told of one.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub cluster: ClusterId,
    pub dropped: u64,
    pub alarm: Alarm,
}

impl Told {
    /// The message about it.
    pub fn message(self, node: KeyId, number: u64) -> Message {
        let Self { cluster, dropped, alarm } = self;
        Message { kind: ALARM_TYPE.to_owned(), cluster, node, lineage: None, number, dropped, alarm }
    }
}

impl Noticed {
    /// Takes an alarm up; `false` if there is no room. It has a number in any case.
    pub fn add(&mut self, cluster: ClusterId, alarm: Alarm) -> bool {
        self.newest = self.newest.saturating_add(1);
        let room = self.waiting.len() < NOTICED_MAX;
        if room {
            self.waiting.insert(self.newest, Told { cluster, dropped: self.dropped, alarm });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        room
    }

    pub(super) fn get(&self, number: u64) -> Option<&Told> {
        self.waiting.get(&number)
    }

    pub(super) fn done(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// The first after this number.
    pub(super) fn after(&self, number: u64) -> Option<Place> {
        self.waiting.range(number.saturating_add(1)..).next().map(|(number, _)| Place::Noticed(*number))
    }

    /// How many wait, and how many found no room.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.waiting.len() as u64, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::api::AlarmKind;

    #[test]
    fn a_flood_is_counted_and_holds_no_more_memory() {
        let mut noticed = Noticed::default();
        let alarm = |n: u64| Alarm {
            id: String::new(),
            kind: AlarmKind::BadShare,
            at_ms: n,
            wrap: None,
            actor: None,
            receipt: None,
            message: "an admin gave a bad share".to_owned(),
        };
        let cluster = ClusterId::new([1; 32]);
        for n in 1..=NOTICED_MAX as u64 + 36 {
            assert_eq!(noticed.add(cluster, alarm(n)), n <= NOTICED_MAX as u64);
        }
        assert_eq!(noticed.counts(), (NOTICED_MAX as u64, 36));
        assert_eq!((noticed.after(0), noticed.after(NOTICED_MAX as u64)), (Some(Place::Noticed(1)), None));
        noticed.done(1);
        assert!(noticed.add(cluster, alarm(0)));
        let last = NOTICED_MAX as u64 + 37;
        assert_eq!(noticed.after(NOTICED_MAX as u64), Some(Place::Noticed(last)));
        assert_eq!(noticed.get(last).unwrap().dropped, 36);
        assert_eq!(noticed.get(2).unwrap().dropped, 0);
    }
}
