//! Places for connections over the network: so many at once, and who must go when all are taken.
//!
//! A stranger costs a connection nothing but a handshake, so strangers could hold every place. Then the newcomer takes the
//! place of a connection over which no valid signature came yet: of the address with most of those, its oldest. One that
//! has proven itself keeps its place from those that have not, so a flood of strangers locks nobody out. Of those that have,
//! the principal with most gives way, wherever it calls from: addresses cost nothing to whoever has a network of them.

use bulla_wire::id::PrincipalId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order of coming.
    held: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    address: IpAddr,
    standing: Arc<Standing>,
}

/// What is known of a connection, and told to it.
#[derive(Debug, Default)]
pub struct Standing {
    proven: OnceLock<PrincipalId>,
    leave: Notify,
}

impl Standing {
    /// A request with a valid signature, or by a registered certificate, came over it. Whoever is the first counts.
    pub fn prove(&self, principal: PrincipalId) {
        self.proven.get_or_init(|| principal);
    }

    /// Resolves when another needs the place.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// A place, held until it is dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    places: Arc<Places>,
    /// The connection's standing.
    pub standing: Arc<Standing>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().held.remove(&self.number);
    }
}

impl Places {
    /// So many, at least one.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), taken: Mutex::default() })
    }

    /// No code panics while it holds the lock, and if it did, the numbers would still be whole.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a newcomer. If all are taken, somebody is asked to leave and counts no more; `None` if all others
    /// stand better than the newcomer, which is then turned away.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let standing = Arc::new(Standing::default());
        let mut taken = self.taken();
        if taken.held.len() >= self.most {
            let leaves = taken.worst()?;
            taken.held.remove(&leaves)?.standing.leave.notify_one();
        }
        let number = taken.next;
        taken.next = taken.next.saturating_add(1);
        taken.held.insert(number, Held { address, standing: Arc::clone(&standing) });
        drop(taken);
        Some(Place { number, places: Arc::clone(self), standing })
    }
}

impl Taken {
    /// Who gives way to a newcomer: whoever has proven nothing, of the address with most of those, its oldest; else of the
    /// principal with most, its oldest, if it has another one.
    fn worst(&self) -> Option<u64> {
        // Of an address with many friends its strangers are few: only strangers are counted against strangers.
        let strangers = self.oldest_of_most(|held| held.standing.proven.get().is_none().then_some(held.address));
        let known = || self.oldest_of_most(|held| held.standing.proven.get()).filter(|(_, most)| *most > 1);
        strangers.or_else(known).map(|(number, _)| number)
    }

    /// Of those that somebody holds, the oldest of whoever holds most, and how many that are.
    fn oldest_of_most<'a, K: Eq + Hash>(&'a self, holder: impl Fn(&'a Held) -> Option<K>) -> Option<(u64, usize)> {
        let mut holders: HashMap<K, (u64, usize)> = HashMap::new();
        for (number, held) in &self.held {
            if let Some(holder) = holder(held) {
                holders.entry(holder).or_insert((*number, 0)).1 += 1;
            }
        }
        holders.into_values().max_by_key(|(oldest, count)| (*count, Reverse(*oldest)))
    }
}

/// What one holder of addresses has: of IPv6 its network of 64 bits, since each customer gets as much.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// Somebody's connection, over which a valid signature came.
    fn known(places: &Arc<Places>, address: u8, principal: u8) -> Option<Place> {
        let place = places.enter(ip(address))?;
        place.standing.prove(PrincipalId::new([principal; 32]));
        Some(place)
    }

    fn left(place: &Place) -> bool {
        !place.places.taken().held.contains_key(&place.number)
    }

    #[test]
    fn a_flood_of_strangers_locks_nobody_out() {
        let places = Places::new(8);
        let friend = known(&places, 1, 1).unwrap();
        let flood: Vec<_> = (0..100).map(|_| places.enter(ip(2)).unwrap()).collect();
        assert!(!left(&friend));
        assert_eq!(flood.iter().filter(|place| !left(place)).count(), 7);
        assert!(!left(flood.last().unwrap()), "the oldest go first");
        // Somebody else comes: one of the flood goes, whatever its age.
        let other = places.enter(ip(3)).unwrap();
        assert!(!left(&other) && !left(&friend));
        let more: Vec<_> = (0..100).map(|_| places.enter(ip(2)).unwrap()).collect();
        assert!(!left(&other) && !left(&friend), "the address with most gives way to itself");
        drop((flood, more));
        assert_eq!(places.taken().held.len(), 2);
        drop((friend, other));
        assert!(places.taken().held.is_empty());
    }

    /// An address behind which many honest people are is no worse for its newcomers.
    #[test]
    fn friends_do_not_count_against_strangers_of_their_address() {
        let places = Places::new(8);
        let friends: Vec<_> = (0..4).map(|_| known(&places, 1, 1).unwrap()).collect();
        let flood: Vec<_> = (0..4).map(|_| places.enter(ip(2)).unwrap()).collect();
        let newcomer = places.enter(ip(1)).unwrap();
        let more: Vec<_> = (0..20).map(|_| places.enter(ip(2)).unwrap()).collect();
        assert!(!left(&newcomer) && friends.iter().all(|place| !left(place)));
        drop((flood, more));
    }

    /// From many addresses, one connection each: the oldest strangers go, and a newcomer has its time to prove itself.
    #[test]
    fn many_addresses_push_out_their_oldest() {
        let places = Places::new(8);
        let friend = known(&places, 200, 1).unwrap();
        let flood: Vec<_> = (0..100).map(|n| places.enter(ip(n)).unwrap()).collect();
        let other = places.enter(ip(201)).unwrap();
        let after: Vec<_> = (100..106).map(|n| places.enter(ip(n)).unwrap()).collect();
        assert!(!left(&other), "six came after it and seven places are the strangers'");
        assert!(!left(&friend));
        drop((flood, after));
    }

    /// One who is known, with an address for each connection: everybody else has a place all the same.
    #[test]
    fn the_known_share_by_principal() {
        let places = Places::new(4);
        let many: Vec<_> = (10..14).map(|address| known(&places, address, 1).unwrap()).collect();
        let second = known(&places, 1, 2).unwrap();
        assert!(left(&many[0]) && !left(&many[1]), "its oldest");
        let more: Vec<_> = (14..30).map(|address| known(&places, address, 1).unwrap()).collect();
        assert!(!left(&second) && many.iter().all(left), "it gives way to itself");
        let third = known(&places, 1, 3).unwrap();
        let fourth = known(&places, 1, 4).unwrap();
        let last = more.last().unwrap();
        assert!([&second, &third, &fourth, last].iter().all(|place| !left(place)), "one each");
        assert!(places.enter(ip(1)).is_none(), "nobody has more than one");
        // Whoever comes first over a connection is whose it is.
        second.standing.prove(PrincipalId::new([1; 32]));
        assert_eq!(second.standing.proven.get(), Some(&PrincipalId::new([2; 32])));
    }

    #[test]
    fn a_network_is_one_holder() {
        let text = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(text("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(text("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(text("10.0.0.1"), "10.0.0.1");
    }
}
