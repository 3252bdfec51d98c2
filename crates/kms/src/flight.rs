//! One effort for all who ask for the same: the others wait for what comes of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout_at;

/// Whoever fails with less time than this left may have failed for want of it.
const SHORT: Duration = Duration::from_millis(100);

type Underway<T, E> = watch::Receiver<Option<Result<T, E>>>;
/// Who runs it tells what comes of it, and knows it by what the others have.
type Begun<T, E> = (watch::Sender<Option<Result<T, E>>>, Underway<T, E>);

/// What is under way.
pub struct Flights<K, T, E>(Mutex<HashMap<K, Underway<T, E>>>);

impl<K, T, E> Default for Flights<K, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Copy, T: Clone, E: Clone> Flights<K, T, E> {
    /// Runs `work`, which ends by `until`, unless it is under way for the same key: then waits for that, until `until` as well;
    /// `None` if it takes longer. Whoever runs it may be dropped, or have less time than those who wait: one of them begins anew
    /// then.
    pub async fn join<F: Future<Output = Result<T, E>>>(
        &self,
        key: K,
        until: Instant,
        work: impl FnOnce() -> F,
    ) -> Option<Result<T, E>> {
        loop {
            match self.enter(key) {
                Ok((sender, own)) => {
                    // Also if this is dropped: nobody else may ask for the same.
                    let landing = Landing { flights: self, key, own };
                    let value = work().await;
                    drop(landing);
                    // Otherwise the sender is dropped, as by one who gave up.
                    if value.is_ok() || until.saturating_duration_since(Instant::now()) > SHORT {
                        sender.send_replace(Some(value.clone()));
                    }
                    return Some(value);
                }
                Err(mut receiver) => {
                    let waited = timeout_at(until.into(), receiver.wait_for(Option::is_some)).await.ok()?;
                    // An error is a runner that was dropped.
                    if let Ok(Some(value)) = waited.map(|value| value.clone()) {
                        return Some(value);
                    }
                    self.forget(&key, &receiver);
                }
            }
        }
    }

    /// The right to do it, or what comes of it.
    fn enter(&self, key: K) -> Result<Begun<T, E>, Underway<T, E>> {
        let mut flights = self.lock();
        if let Some(receiver) = flights.get(&key) {
            return Err(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key, receiver.clone());
        Ok((sender, receiver))
    }
}

impl<K: Hash + Eq, T, E> Flights<K, T, E> {
    fn forget(&self, key: &K, gone: &Underway<T, E>) {
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|known| known.same_channel(gone)) {
            flights.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Underway<T, E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a flight out of the map when it ends, however it does.
struct Landing<'f, K: Hash + Eq, T, E> {
    flights: &'f Flights<K, T, E>,
    key: K,
    own: Underway<T, E>,
}

impl<K: Hash + Eq, T, E> Drop for Landing<'_, K, T, E> {
    fn drop(&mut self) {
        self.flights.forget(&self.key, &self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::{sleep, timeout};

    type Numbers = Flights<u32, u32, &'static str>;

    fn within(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn many_who_ask_for_the_same_cause_one_effort() {
        let (flights, efforts) = (Arc::new(Numbers::default()), Arc::new(AtomicU32::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..32 {
            let (flights, efforts) = (Arc::clone(&flights), Arc::clone(&efforts));
            tasks.spawn(async move {
                let key = caller % 2;
                let value = flights.join(key, within(5000), || async {
                    efforts.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                    if key == 0 { Ok(10) } else { Err("no") }
                });
                assert_eq!(value.await, Some(if key == 0 { Ok(10) } else { Err("no") }));
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(efforts.load(Ordering::Relaxed), 2);
        assert!(flights.lock().is_empty());
    }

    /// Joins a flight a moment later.
    fn later(flights: &Arc<Numbers>, until: Instant) -> tokio::task::JoinHandle<Option<Result<u32, &'static str>>> {
        let flights = Arc::clone(flights);
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            flights.join(1, until, || async { Ok(7) }).await
        })
    }

    #[tokio::test]
    async fn one_who_gives_up_leaves_nobody_waiting() {
        let flights = Arc::new(Numbers::default());
        let first = flights.join(1, within(5000), std::future::pending::<Result<u32, &str>>);
        let first = timeout(Duration::from_millis(20), first);
        let other = later(&flights, within(5000));
        assert!(first.await.is_err());
        assert_eq!(other.await.unwrap(), Some(Ok(7)), "nobody hangs");
    }

    #[tokio::test]
    async fn each_has_the_time_that_it_has() {
        let flights = Arc::new(Numbers::default());
        let work = || async {
            sleep(Duration::from_millis(200)).await;
            Err("no")
        };
        // The first one's failure for want of time is its own; another waits no longer than it may.
        let (long, short) = (later(&flights, within(5000)), later(&flights, within(50)));
        let began = Instant::now();
        let (first, short) =
            tokio::join!(flights.join(1, within(210), work), async { (short.await.unwrap(), began.elapsed()) });
        assert_eq!(first, Some(Err("no")));
        assert!(short.0.is_none() && short.1 < Duration::from_millis(180), "{short:?}");
        assert_eq!(long.await.unwrap(), Some(Ok(7)));
        // A failure that is none of time is everybody's.
        let other = later(&flights, within(5000));
        assert_eq!(flights.join(1, within(5000), work).await, Some(Err("no")));
        assert_eq!(other.await.unwrap(), Some(Err("no")));
    }
}
