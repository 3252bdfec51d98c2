//! Places for connections over the network: so many at once, and who must go when all are taken.
//!
//! A stranger costs a connection nothing but a handshake, so strangers could hold every place. Then the newcomer takes the
//! place of a connection over which no valid signature came yet: of the address with most of those, its oldest. One that
//! has proven itself keeps its place from those that have not, so a flood of strangers locks nobody out; and of
//! those that have, the address with most gives way to one with fewer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    proven: AtomicBool,
    leave: Notify,
}

impl Standing {
    /// A request with a valid signature, or by a registered certificate, came over it.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
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
            let leaves = taken.worst(address)?;
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
    /// Who gives way to a newcomer from this address: whoever has proven nothing, of the address with most of those, its
    /// oldest; else of the address with most, if that is more than the newcomer's has.
    fn worst(&self, newcomer: IpAddr) -> Option<u64> {
        // Of an address with many friends its strangers are few: only strangers are counted against strangers.
        if let Some((number, _)) = self.oldest_of_most(|held| !held.standing.is_proven()) {
            return Some(number);
        }
        let (number, most) = self.oldest_of_most(|_| true)?;
        let own = self.held.values().filter(|held| held.address == newcomer).count();
        (most > own + 1).then_some(number)
    }

    /// Of those that count, the oldest of the address with most of them, and how many it has.
    fn oldest_of_most(&self, counts: impl Fn(&Held) -> bool) -> Option<(u64, usize)> {
        let counted = || self.held.iter().filter(|(_, held)| counts(held));
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        counted().for_each(|(_, held)| *by_address.entry(held.address).or_default() += 1);
        let all = counted().map(|(number, held)| (*number, by_address.get(&held.address).copied().unwrap_or(0)));
        all.max_by_key(|(number, most)| (*most, Reverse(*number)))
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

    fn left(place: &Place) -> bool {
        !place.places.taken().held.contains_key(&place.number)
    }

    #[test]
    fn a_flood_of_strangers_locks_nobody_out() {
        let places = Places::new(8);
        let friend = places.enter(ip(1)).unwrap();
        friend.standing.prove();
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
        let friends: Vec<_> = (0..4).map(|_| places.enter(ip(1)).unwrap()).collect();
        friends.iter().for_each(|place| place.standing.prove());
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
        let friend = places.enter(ip(200)).unwrap();
        friend.standing.prove();
        let flood: Vec<_> = (0..100).map(|n| places.enter(ip(n)).unwrap()).collect();
        let other = places.enter(ip(201)).unwrap();
        let after: Vec<_> = (100..106).map(|n| places.enter(ip(n)).unwrap()).collect();
        assert!(!left(&other), "six came after it and seven places are the strangers'");
        assert!(!left(&friend));
        drop((flood, after));
    }

    #[test]
    fn the_proven_share_by_address() {
        let places = Places::new(4);
        let many: Vec<_> = (0..4).map(|_| places.enter(ip(1)).unwrap()).collect();
        many.iter().for_each(|place| place.standing.prove());
        assert!(places.enter(ip(1)).is_none(), "none of its own stands worse");
        let other = places.enter(ip(2)).unwrap();
        other.standing.prove();
        assert_eq!(many.iter().filter(|place| left(place)).count(), 1);
        let second = places.enter(ip(2)).unwrap();
        second.standing.prove();
        assert!(places.enter(ip(2)).is_none() && places.enter(ip(1)).is_none(), "two and two");
    }

    #[test]
    fn a_network_is_one_holder() {
        let text = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(text("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(text("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(text("10.0.0.1"), "10.0.0.1");
    }
}
