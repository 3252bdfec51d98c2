//! One effort for all who ask for the same: the others wait for what comes of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is under way.
pub struct Flights<K, V>(Mutex<HashMap<K, watch::Receiver<Option<V>>>>);

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Copy, V: Clone> Flights<K, V> {
    /// Runs `work`, unless it is under way for the same key: then waits for that. Whoever runs it may be dropped; one of
    /// those that wait begins anew then.
    pub async fn join<F: Future<Output = V>>(&self, key: K, work: impl FnOnce() -> F) -> V {
        loop {
            match self.enter(key) {
                Ok(sender) => {
                    let value = work().await;
                    self.lock().remove(&key);
                    sender.send_replace(Some(value.clone()));
                    return value;
                }
                Err(mut receiver) => {
                    // An error is a runner that was dropped.
                    if let Ok(Some(value)) = receiver.wait_for(Option::is_some).await.map(|value| value.clone()) {
                        return value;
                    }
                    self.forget(&key, &receiver);
                }
            }
        }
    }

    /// The right to do it, or what comes of it.
    fn enter(&self, key: K) -> Result<watch::Sender<Option<V>>, watch::Receiver<Option<V>>> {
        let mut flights = self.lock();
        if let Some(receiver) = flights.get(&key) {
            return Err(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key, receiver);
        Ok(sender)
    }

    fn forget(&self, key: &K, gone: &watch::Receiver<Option<V>>) {
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|known| known.same_channel(gone)) {
            flights.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn many_who_ask_for_the_same_cause_one_effort() {
        let (flights, efforts) = (Arc::new(Flights::default()), Arc::new(AtomicU32::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..32 {
            let (flights, efforts) = (Arc::clone(&flights), Arc::clone(&efforts));
            tasks.spawn(async move {
                let key = caller % 2;
                let value = flights.join(key, || async {
                    efforts.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                    key * 10
                });
                assert_eq!(value.await, key * 10);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(efforts.load(Ordering::Relaxed), 2);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_leaves_nobody_waiting() {
        let flights = Arc::new(Flights::default());
        let first = timeout(Duration::from_millis(20), flights.join(1, std::future::pending::<u32>));
        let other = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move {
                sleep(Duration::from_millis(5)).await;
                flights.join(1, || async { 7 }).await
            })
        };
        assert!(first.await.is_err());
        let value = timeout(Duration::from_secs(5), other).await.expect("nobody hangs").unwrap();
        assert_eq!(value, 7);
    }
}
