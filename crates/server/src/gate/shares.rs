//! What one principal may take of a node at once, so that nobody who is known locks out the others.

use crate::listen::BodyBudget;
use bulla_wire::id::PrincipalId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests of one principal under way: ten connections of a hundred streams each, as a busy service may have them.
pub const REQUESTS_EACH: usize = 1_000;
/// Which part of the memory for bodies one principal may fill: four largest wraps of the sixteen that there is room for.
const BODIES_PART: usize = 4;

/// Who takes how much now.
#[derive(Debug)]
pub struct Shares {
    bodies: BodyBudget,
    each: usize,
    taken: Mutex<HashMap<PrincipalId, Taken>>,
}

#[derive(Debug)]
struct Taken {
    requests: usize,
    bodies: BodyBudget,
}

/// A request of a principal under way, until it is dropped.
#[derive(Debug)]
pub struct Share<'a> {
    shares: &'a Shares,
    principal: PrincipalId,
    /// The memory for its body.
    pub bodies: BodyBudget,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(own) = taken.get_mut(&self.principal) {
            own.requests = own.requests.saturating_sub(1);
            // Who is not here takes nothing, so what is remembered has the size of what goes on. Bodies outlive their request
            // only in an answer that is being sent.
            if own.requests == 0 {
                taken.remove(&self.principal);
            }
        }
    }
}

impl Shares {
    /// Of a node with so much memory for bodies in all.
    pub fn new(bodies: &BodyBudget) -> Self {
        Self { bodies: bodies.clone(), each: bodies.free_bytes() / BODIES_PART, taken: Mutex::default() }
    }

    /// No code panics while it holds the lock, and if it did, the numbers would still be whole.
    fn taken(&self) -> MutexGuard<'_, HashMap<PrincipalId, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request; `None` if the principal has too many under way.
    pub fn enter(&self, principal: PrincipalId) -> Option<Share<'_>> {
        let mut taken = self.taken();
        let own = taken.entry(principal).or_insert_with(|| Taken { requests: 0, bodies: self.bodies.part(self.each) });
        if own.requests >= REQUESTS_EACH {
            return None;
        }
        own.requests += 1;
        Some(Share { shares: self, principal, bodies: own.bodies.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(byte: u8) -> PrincipalId {
        PrincipalId::new([byte; 32])
    }

    #[test]
    fn one_takes_no_more_than_its_share() {
        let whole = BodyBudget::new(400);
        let shares = Shares::new(&whole);
        let mut held: Vec<_> = (0..REQUESTS_EACH).map(|_| shares.enter(who(1)).unwrap()).collect();
        assert!(shares.enter(who(1)).is_none());
        let other = shares.enter(who(2)).unwrap();
        held.pop();
        let again = shares.enter(who(1)).unwrap();
        // Its memory is one for all its requests, and lies within that of all.
        let first = again.bodies.hold(60).unwrap();
        assert!(held[0].bodies.hold(41).is_err());
        let second = held[0].bodies.hold(40).unwrap();
        assert_eq!(whole.free_bytes(), 300);
        let theirs = other.bodies.hold(100).unwrap();
        assert_eq!(whole.free_bytes(), 200);
        drop((first, second, theirs));
        assert_eq!(whole.free_bytes(), 400);
        drop((held, again, other));
        assert!(shares.taken().is_empty());
    }
}
