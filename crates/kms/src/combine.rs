//! Which members a seed is wrapped by, and what kube-apiserver is told of it: pure, over what is known of the members.
//!
//! Reads of a restarted kube-apiserver need a successful Encrypt first, so a member that is away must not stop it for ever;
//! and a seed that fewer members wrapped than it should must be told apart, so that it is rewritten once they are back.

use crate::envelope::Mode;
use crate::key::{KeyDigest, KeyId, KeyRef};
use std::fmt;

/// How many members a seed needs, where any one of them decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Every seed is wrapped by all members. While one is away, no new seed is made.
    All,
    /// Every seed is wrapped by at least so many. The key id stays the same, so one that fewer than all wrapped is not told
    /// apart.
    Quorum(usize),
    /// A seed is wrapped by those that are there, at least so many, under a key id that names them alone. When the others
    /// are back, the key id is that of all again, and what was written meanwhile is stale until it is rewritten.
    Degraded(usize),
}

/// How members are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// Any one decrypts.
    Any(Policy),
    /// All are needed to decrypt.
    Split,
}

impl Combination {
    /// What stands in the ciphertext.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Any(_) => Mode::Any,
            Self::Split => Mode::Split,
        }
    }

    /// Of `members`, how many have to be well for new seeds to be written.
    pub const fn needed(self, members: usize) -> usize {
        match self {
            Self::Any(Policy::All) | Self::Split => members,
            Self::Any(Policy::Quorum(count) | Policy::Degraded(count)) => count,
        }
    }
}

/// What is known of a member.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The key that is used, once it was proven.
    pub key: Option<KeyRef>,
    /// The key that was used last, also before this start.
    pub known: Option<KeyDigest>,
    /// An attempt to look at it has ended, one way or the other.
    pub tried: bool,
    /// It failed when a seed was to be wrapped, and has not come back since.
    pub left_out: bool,
}

/// What Status answers and Encrypt uses: always both of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The key id.
    pub key_id: KeyId,
    /// Who wraps: the member's place and its key.
    pub members: Vec<(usize, KeyRef)>,
    /// How many of these have to.
    pub needed: usize,
    /// Whether all members are among them.
    pub whole: bool,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSnapshot {
    /// Members are still looked at for the first time.
    Starting,
    /// Too few are there.
    TooFew {
        /// So many are there.
        there: usize,
        /// So many have to be.
        needed: usize,
    },
}

impl fmt::Display for NoSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the members are looked at for the first time"),
            Self::TooFew { there, needed } => write!(f, "{there} members are there, and {needed} are needed"),
        }
    }
}

/// What to publish. `waited` says that members which were not tried yet had time enough.
///
/// # Errors
/// [`NoSnapshot`].
pub fn publish(
    cluster: &str,
    epoch: u32,
    combination: Combination,
    members: &[Standing],
    waited: bool,
) -> Result<Snapshot, NoSnapshot> {
    if !waited && members.iter().any(|member| !member.tried) {
        return Err(NoSnapshot::Starting);
    }
    let there = members.iter().enumerate().filter_map(|(place, member)| Some((place, member.key.clone()?)));
    let all = there.collect::<Vec<_>>();
    let whole = all.len() == members.len();
    let (used, named, needed): (_, Vec<KeyDigest>, _) = match combination {
        Combination::Any(Policy::All) | Combination::Split => {
            let named = all.iter().map(|(_, key)| key.digest()).collect();
            (all, named, members.len())
        }
        Combination::Any(Policy::Quorum(count)) => {
            (all, members.iter().filter_map(|member| member.known).collect(), count)
        }
        Combination::Any(Policy::Degraded(count)) => {
            let out = |place: usize| members.get(place).is_some_and(|member| member.left_out);
            let used: Vec<_> = all.into_iter().filter(|(place, _)| !out(*place)).collect();
            let named = used.iter().map(|(_, key)| key.digest()).collect();
            // All of these, or the key id would name one that did not wrap.
            let needed = used.len().max(count);
            (used, named, needed)
        }
    };
    if used.len() < needed {
        return Err(NoSnapshot::TooFew { there: used.len(), needed });
    }
    let whole = whole && used.len() == members.len();
    let key_id = KeyId::of(cluster, combination.mode().byte(), named, epoch);
    Ok(Snapshot { key_id, members: used, needed, whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> KeyRef {
        KeyRef { backend: name.into(), version: "1".into(), check: String::new(), created: None }
    }

    fn there(name: &str) -> Standing {
        Standing { key: Some(key(name)), known: Some(key(name).digest()), tried: true, left_out: false }
    }

    fn away() -> Standing {
        Standing { tried: true, ..Standing::default() }
    }

    fn out(name: &str) -> Standing {
        Standing { left_out: true, ..there(name) }
    }

    fn of(combination: Combination, members: &[Standing]) -> Result<Snapshot, NoSnapshot> {
        publish("prod", 0, combination, members, false)
    }

    const ALL: Combination = Combination::Any(Policy::All);

    #[test]
    fn all_means_all() {
        let snapshot = of(ALL, &[there("a"), there("b")]).unwrap();
        assert!(snapshot.whole && snapshot.needed == 2 && snapshot.members.len() == 2);
        assert_eq!(of(ALL, &[there("a"), away()]), Err(NoSnapshot::TooFew { there: 1, needed: 2 }));
        assert_eq!(of(Combination::Split, &[there("a"), away()]), Err(NoSnapshot::TooFew { there: 1, needed: 2 }));
        let split = of(Combination::Split, &[there("a"), there("b")]).unwrap();
        assert_ne!(split.key_id, snapshot.key_id, "which is no matter of who wraps alone");
    }

    #[test]
    fn a_member_that_was_not_tried_is_waited_for() {
        let fresh = Standing::default();
        let degraded = Combination::Any(Policy::Degraded(1));
        assert_eq!(of(degraded, &[there("a"), fresh.clone()]), Err(NoSnapshot::Starting));
        assert!(publish("prod", 0, degraded, &[there("a"), fresh], true).is_ok());
    }

    #[test]
    fn a_degraded_id_names_who_is_there() {
        let degraded = Combination::Any(Policy::Degraded(1));
        let full = of(degraded, &[there("a"), there("b")]).unwrap();
        let less = of(degraded, &[there("a"), out("b")]).unwrap();
        assert_ne!(less.key_id, full.key_id);
        assert_eq!((less.members.as_slice(), less.needed, less.whole), ([(0, key("a"))].as_slice(), 1, false));
        assert_eq!(of(degraded, &[there("a"), away()]).unwrap(), less, "however it became so");
        assert_eq!(of(degraded, &[there("a"), there("b")]).unwrap(), full, "and back");
        assert_eq!(full.needed, 2, "the id names both");
        let two = Combination::Any(Policy::Degraded(2));
        assert_eq!(of(two, &[there("a"), out("b")]), Err(NoSnapshot::TooFew { there: 1, needed: 2 }));
    }

    #[test]
    fn a_quorum_keeps_its_id_whoever_is_away() {
        let quorum = Combination::Any(Policy::Quorum(2));
        let full = of(quorum, &[there("a"), there("b"), there("c")]).unwrap();
        // Known from before this start.
        let remembered = Standing { known: Some(key("c").digest()), ..away() };
        let less = of(quorum, &[there("a"), there("b"), remembered]).unwrap();
        assert_eq!((less.key_id, less.needed, less.whole), (full.key_id.clone(), 2, false));
        assert_eq!(of(quorum, &[there("a"), away(), away()]), Err(NoSnapshot::TooFew { there: 1, needed: 2 }));
        assert_ne!(of(quorum, &[there("a"), there("b"), away()]).unwrap().key_id, full.key_id);
    }

    #[test]
    fn how_many_are_needed() {
        for (combination, write, read) in [
            (ALL, 3, 1),
            (Combination::Any(Policy::Quorum(2)), 2, 1),
            (Combination::Any(Policy::Degraded(1)), 1, 1),
            (Combination::Split, 3, 3),
        ] {
            assert_eq!((combination.needed(3), combination.mode().needed_to_read(3)), (write, read));
        }
    }
}
