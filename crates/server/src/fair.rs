//! Turns at what few may do at once. Whoever comes with many requests waits behind their own, so that the others wait for one
//! turn of each other at most.

use crate::unsealed::lock;
use bulla_wire::id::PrincipalId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// How long one waits for all turns of a request: far less than sealing waits for requests under way.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// So many places, in the order of arrival, and of those that wait for one only so many of each principal.
#[derive(Debug)]
pub struct FairQueue {
    places: Semaphore,
    each: usize,
    /// Who has a place or waits. The others take no memory.
    own: Mutex<HashMap<PrincipalId, Arc<Semaphore>>>,
}

impl FairQueue {
    /// A queue for so many places, of which a principal has at most `each`.
    pub fn new(places: usize, each: usize) -> Self {
        Self { places: Semaphore::new(places), each, own: Mutex::default() }
    }

    /// Waits for a turn until then; none if too many others wait too.
    pub async fn turn(&self, principal: PrincipalId, until: Instant) -> Option<Turn<'_>> {
        let own = lock(&self.own).entry(principal).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone();
        // Before anybody waits, so that whoever gives up leaves nothing behind either.
        let mut turn = Turn { queue: self, principal, own: None, _place: None };
        let waiting = async {
            turn.own = Some(own.acquire_owned().await.ok()?);
            turn._place = Some(self.places.acquire().await.ok()?);
            Some(turn)
        };
        tokio::time::timeout_at(until, waiting).await.ok()?
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    queue: &'a FairQueue,
    principal: PrincipalId,
    own: Option<OwnedSemaphorePermit>,
    _place: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = lock(&self.queue.own);
        self.own = None;
        if all.get(&self.principal).is_some_and(|own| Arc::strong_count(own) == 1) {
            all.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn who(byte: u8) -> PrincipalId {
        PrincipalId::new([byte; 32])
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    /// Whether a turn is there without a wait.
    fn at_once<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn who_comes_with_many_waits_behind_their_own() {
        let queue = FairQueue::new(2, 2);
        let held: Vec<_> = [(); 2].map(|()| at_once(queue.turn(who(1), later())).flatten().expect("free")).into();
        // Three more of the same, then another.
        let (mut third, mut fourth, mut other) =
            (pin!(queue.turn(who(1), later())), pin!(queue.turn(who(1), later())), pin!(queue.turn(who(2), later())));
        let mut context = Context::from_waker(Waker::noop());
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(fourth.as_mut().poll(&mut context).is_pending());
        assert!(other.as_mut().poll(&mut context).is_pending());
        let mut held = held.into_iter();
        drop(held.next());
        // The place is the other's, though two of the first were there before.
        assert!(third.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(Some(others)) = other.as_mut().poll(&mut context) else { panic!("it is the other's turn") };
        drop(held.next());
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(others);
        assert!(fourth.as_mut().poll(&mut context).is_ready());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_who_gives_up_leaves_nothing() {
        let queue = FairQueue::new(2, 1);
        let held = queue.turn(who(1), later()).await.expect("free");
        assert!(queue.turn(who(1), Instant::now()).await.is_none(), "it has what one may have");
        let other = queue.turn(who(2), later()).await.expect("free");
        assert!(queue.turn(who(3), Instant::now()).await.is_none(), "all places are taken");
        assert_eq!(lock(&queue.own).len(), 2);
        drop((held, other));
        assert!(lock(&queue.own).is_empty());
        assert!(queue.turn(who(3), later()).await.is_some());
        assert!(lock(&queue.own).is_empty());
    }
}
