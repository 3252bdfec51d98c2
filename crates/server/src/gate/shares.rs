//! What one principal may take of a node at once, so that nobody who is known locks out the others.

use crate::listen::{BodyBudget, Held};
use bulla_wire::id::PrincipalId;
use bulla_wire::wrap::MAX_CIPHERTEXT_BYTES;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests of one principal under way, answers that it has not fetched among them: ten connections of a hundred streams
/// each, as a busy service may have them.
pub const REQUESTS_EACH: usize = 1_000;
/// Which part of the memory for bodies and answers one principal may fill: four largest wraps of the sixteen that there is
/// room for. Large answers to strangers have as much, all together.
const BODIES_PART: usize = 4;
/// Principals whose rate is remembered before those are forgotten who have rested.
const REMEMBERED_MAX: usize = 10_000;
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
    /// Requests of one principal within a second; 0 if nobody counts.
    rate: u32,
    /// When the requests of a principal so far would be over, had they come evenly. Who waits long enough is forgotten.
    busy_until: Mutex<HashMap<PrincipalId, Instant>>,
}

/// Why a principal has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// [`REQUESTS_EACH`] are under way.
    AtOnce,
    /// More than so many came within a second.
    InASecond(u32),
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
    /// Of a node with so much memory for bodies in all, and so many requests of one principal within a second; 0 for
    /// any number.
    pub fn new(bodies: &BodyBudget, rate: u32) -> Arc<Self> {
        let part = bodies.free_bytes() / BODIES_PART;
        let (strangers, each) = (bodies.part(part), part.max(BODIES_MIN));
        let (afloat, taken, busy_until) = Default::default();
        Arc::new(Self { bodies: bodies.clone(), strangers, afloat, each, taken, rate, busy_until })
    }

    /// No code panics while it holds the lock, and if it did, the numbers would still be whole.
    fn taken(&self) -> MutexGuard<'_, HashMap<PrincipalId, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request by the rate (the generic cell rate algorithm, ITU-T I.371 Annex A): a second's worth may come at
    /// once, and then as many as there is time for.
    fn count(&self, principal: PrincipalId, now: Instant) -> Result<(), TooMany> {
        let Some(each) = Duration::from_secs(1).checked_div(self.rate) else { return Ok(()) };
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        if busy_until.len() >= REMEMBERED_MAX {
            busy_until.retain(|_, until| *until > now);
        }
        let until = busy_until.get(&principal).map_or(now, |until| (*until).max(now)) + each;
        if until > now + Duration::from_secs(1) {
            return Err(TooMany::InASecond(self.rate));
        }
        busy_until.insert(principal, until);
        Ok(())
    }

    /// Begins a request.
    ///
    /// # Errors
    /// If the principal has too many.
    pub fn enter(self: &Arc<Self>, principal: PrincipalId, now: Instant) -> Result<Share, TooMany> {
        self.count(principal, now)?;
        let mut taken = self.taken();
        let own = taken.entry(principal).or_insert_with(|| Taken { requests: 0, bodies: self.bodies.part(self.each) });
        if own.requests >= REQUESTS_EACH {
            return Err(TooMany::AtOnce);
        }
        own.requests += 1;
        Ok(Share { shares: Arc::clone(self), principal, bodies: own.bodies.clone() })
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
        let now = Instant::now();
        let whole = BodyBudget::new(4 * BODIES_MIN);
        let shares = Shares::new(&whole, 0);
        let mut held: Vec<_> = (0..REQUESTS_EACH).map(|_| shares.enter(who(1), now).unwrap()).collect();
        assert!(shares.enter(who(1), now).is_err());
        let other = shares.enter(who(2), now).unwrap();
        held.pop();
        let again = shares.enter(who(1), now).unwrap();
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
        let shares = Shares::new(&little, 0);
        assert!(shares.enter(who(1), now).unwrap().bodies.hold(BODIES_MIN).is_ok());
    }

    #[test]
    fn a_rate_lets_a_second_pass_at_once_and_then_as_many_as_there_is_time_for() {
        let shares = Shares::new(&BodyBudget::new(BODIES_MIN), 10);
        let begin = Instant::now();
        let enter = |byte: u8, ms: u64| shares.enter(who(byte), begin + Duration::from_millis(ms)).map(drop);
        let too_many = Err(TooMany::InASecond(10));
        assert!((0..10).all(|_| enter(1, 0) == Ok(())));
        assert_eq!(enter(1, 99), too_many);
        assert_eq!((enter(1, 100), enter(1, 100)), (Ok(()), too_many), "what is refused is not counted");
        assert_eq!(enter(2, 100), Ok(()), "others have a rate of their own");
        // Who rests has no more than a second's worth.
        assert!((0..10).all(|_| enter(1, 60_000) == Ok(())));
        assert_eq!(enter(1, 60_000), too_many);
        let any = Shares::new(&BodyBudget::new(BODIES_MIN), 0);
        assert!((0..1000).all(|_| any.enter(who(1), begin).is_ok()));
    }

    #[test]
    fn equal_answers_to_strangers_are_one() {
        let whole = BodyBudget::new(400);
        let shares = Shares::new(&whole, 0);
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

    /// What is remembered has an end; whoever is still busy is not forgotten for it, or many names would buy one of them a rate.
    #[test]
    fn a_rate_is_remembered_of_the_busy_alone() {
        let shares = Shares::new(&BodyBudget::new(BODIES_MIN), 1);
        let begin = Instant::now();
        let enter = |n: usize, s: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            shares.enter(PrincipalId::new(id), begin + Duration::from_secs(s)).map(drop)
        };
        let remembered = || shares.busy_until.lock().unwrap().len();
        assert!((0..REMEMBERED_MAX).all(|n| enter(n, 0) == Ok(())));
        assert_eq!(enter(0, 10), Ok(()));
        assert_eq!(remembered(), 1, "the others have rested");
        assert!((1..=REMEMBERED_MAX).all(|n| enter(n, 10) == Ok(())));
        assert_eq!(enter(0, 10), Err(TooMany::InASecond(1)), "it is busy");
        assert_eq!(remembered(), REMEMBERED_MAX + 1);
    }
}
