//! Those who may not ask on the socket and do: told in the log, each user once a minute at most.

use std::collections::BTreeMap;

/// How long nothing more is said of a user in ms.
const QUIET_MS: u64 = 60_000;
/// Most users who are told apart. A machine with more that knock within a minute tells of all others as one.
const MAX_USERS: usize = 64;

/// What was told of a user.
struct Told {
    at_ms: u64,
    /// How often it came since.
    since: u64,
}

/// Who came. Clocks that do not step give the times.
#[derive(Default)]
pub struct Strangers {
    users: BTreeMap<Option<u32>, Told>,
}

impl Strangers {
    /// Somebody came: how often since it was told of last, this time included, if it is to be told of now.
    pub fn came(&mut self, uid: u32, now_ms: u64) -> Option<u64> {
        let over = |told: &Told| now_ms.saturating_sub(told.at_ms) >= QUIET_MS;
        let mut user = Some(uid);
        if !self.users.contains_key(&user) && self.users.len() >= MAX_USERS {
            self.users.retain(|_, told| !over(told));
            user = user.filter(|_| self.users.len() < MAX_USERS);
        }
        match self.users.get_mut(&user) {
            Some(told) if !over(told) => {
                told.since = told.since.saturating_add(1);
                None
            }
            known => {
                let times = known.map_or(0, |told| told.since).saturating_add(1);
                self.users.insert(user, Told { at_ms: now_ms, since: 0 });
                Some(times)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_of_once_a_minute_with_its_count() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.came(7, 1_000), Some(1));
        assert!((0..500).all(|step| strangers.came(7, 1_001 + step).is_none()));
        assert_eq!(strangers.came(8, 2_000), Some(1), "another is another");
        assert_eq!(strangers.came(7, 60_999), None);
        assert_eq!(strangers.came(7, 61_000), Some(502));
        assert_eq!(strangers.came(7, 200_000), Some(1));
    }

    #[test]
    fn users_without_end_are_told_of_as_one() {
        let mut strangers = Strangers::default();
        // Each knocks twice, so something is left to be told of each.
        let told = (0..10_000).filter(|uid| strangers.came(*uid, 5).is_some() || strangers.came(*uid, 6).is_some());
        let told = told.count();
        assert!(told <= MAX_USERS + 1, "{told}");
        assert!(strangers.users.len() <= MAX_USERS + 1);
        // Later there is room again.
        assert_eq!(strangers.came(20_000, 70_000), Some(1));
        assert!(strangers.users.contains_key(&Some(20_000)));
    }
}
