//! What one principal may take of a node at once, so that nobody who is known locks out the others.

use crate::listen::{BodyBudget, Held};
use bulla_wire::id::PrincipalId;
use bulla_wire::wrap::MAX_CIPHERTEXT_BYTES;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests of one principal under way, answers that it has not fetched among them: ten connections of a hundred streams
/// each, as a busy service may have them.
pub const REQUESTS_EACH: usize = 1_000;
/// Which part of the memory for bodies and answers one principal may fill: four largest wraps of the sixteen that there is
/// room for. Large answers to strangers have as much, all together.
const BODIES_PART: usize = 4;
/// What one principal has in any case: the largest wrap takes three times its size while it is opened.
const BODIES_MIN: usize = 3 * MAX_CIPHERTEXT_BYTES as usize;

/// Who takes how much now.
#[derive(Debug)]
pub struct Shares {
    bodies: BodyBudget,
    strangers: BodyBudget,
    /// Large answers to strangers that are on their way.
    afloat: Mutex<Vec<(Bytes, Held)>>,
    each: usize,
    taken: Mutex<HashMap<PrincipalId, Taken>>,
}

#[derive(Debug)]
struct Taken {
    requests: usize,
    bodies: BodyBudget,
}

/// A request of a principal under way, until it is dropped: with the last byte of its answer.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    principal: PrincipalId,
    /// The memory for its body and its answer.
    pub bodies: BodyBudget,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(own) = taken.get_mut(&self.principal) {
            own.requests = own.requests.saturating_sub(1);
            // Who is not here takes nothing, so what is remembered has the size of what goes on.
            if own.requests == 0 {
                taken.remove(&self.principal);
            }
        }
    }
}

impl Shares {
    /// Of a node with so much memory for bodies in all.
    pub fn new(bodies: &BodyBudget) -> Arc<Self> {
        let part = bodies.free_bytes() / BODIES_PART;
        let (strangers, each) = (bodies.part(part), part.max(BODIES_MIN));
        let (afloat, taken) = Default::default();
        Arc::new(Self { bodies: bodies.clone(), strangers, afloat, each, taken })
    }

    /// No code panics while it holds the lock, and if it did, the numbers would still be whole.
    fn taken(&self) -> MutexGuard<'_, HashMap<PrincipalId, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request; `None` if the principal has too many under way.
    pub fn enter(self: &Arc<Self>, principal: PrincipalId) -> Option<Share> {
        let mut taken = self.taken();
        let own = taken.entry(principal).or_insert_with(|| Taken { requests: 0, bodies: self.bodies.part(self.each) });
        if own.requests >= REQUESTS_EACH {
            return None;
        }
        own.requests += 1;
        Some(Share { shares: Arc::clone(self), principal, bodies: own.bodies.clone() })
    }

    /// Makes an answer to strangers one with those like it that are on their way: they all ask for the same documents, so
    /// whoever fetches none of them holds one of each. `None` if there is no room for another one.
    pub fn afloat(&self, body: Bytes) -> Option<Bytes> {
        let mut afloat = self.afloat.lock().unwrap_or_else(PoisonError::into_inner);
        afloat.retain(|(body, _)| !body.is_unique());
        if let Some((same, _)) = afloat.iter().find(|(other, _)| *other == body) {
            return Some(same.clone());
        }
        let room = self.strangers.hold(body.len()).ok()?;
        afloat.push((body.clone(), room));
        Some(body)
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
        let whole = BodyBudget::new(4 * BODIES_MIN);
        let shares = Shares::new(&whole);
        let mut held: Vec<_> = (0..REQUESTS_EACH).map(|_| shares.enter(who(1)).unwrap()).collect();
        assert!(shares.enter(who(1)).is_none());
        let other = shares.enter(who(2)).unwrap();
        held.pop();
        let again = shares.enter(who(1)).unwrap();
        // Its memory is one for all its requests, and lies within that of all.
        let first = again.bodies.hold(BODIES_MIN - 40).unwrap();
        assert!(held[0].bodies.hold(41).is_err());
        let second = held[0].bodies.hold(40).unwrap();
        assert_eq!(whole.free_bytes(), 3 * BODIES_MIN);
        let theirs = other.bodies.hold(BODIES_MIN).unwrap();
        assert_eq!(whole.free_bytes(), 2 * BODIES_MIN);
        drop((first, second, theirs));
        assert_eq!(whole.free_bytes(), 4 * BODIES_MIN);
        drop((held, again, other));
        assert!(shares.taken().is_empty());
        // Where there is little, the largest wrap can be opened all the same.
        let little = BodyBudget::new(BODIES_MIN + 100);
        let shares = Shares::new(&little);
        assert!(shares.enter(who(1)).unwrap().bodies.hold(BODIES_MIN).is_ok());
    }

    #[test]
    fn equal_answers_to_strangers_are_one() {
        let whole = BodyBudget::new(400);
        let shares = Shares::new(&whole);
        let answer = |byte: u8| shares.afloat(vec![byte; 40].into());
        let many: Vec<Bytes> = (0..100).map(|_| answer(1).unwrap()).collect();
        assert!(many.iter().all(|one| one.as_ptr() == many[0].as_ptr()));
        let other = answer(2).unwrap();
        assert_eq!(whole.free_bytes(), 400 - 2 * 40);
        assert!(answer(3).is_none() && answer(1).is_some(), "there is room for two and a half");
        // What nobody holds any more makes room for the next.
        drop(other);
        assert!(answer(3).is_some() && answer(2).is_some() && answer(1).is_some());
        drop(many);
        assert!(answer(4).is_some());
        assert_eq!(whole.free_bytes(), 400 - 40);
    }
}
