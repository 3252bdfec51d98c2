//! Credentials that end: kept, renewed long before, and never obtained twice at once.
//!
//! A call uses what is kept, even when it is due; only who observes renews it. A call obtains one itself only where there
//! is none, or where the backend refused the one that was kept. However often it is refused, a new one is asked for at most
//! every [`PAUSE`], so that a plugin whose rights were taken away does not lock itself out by asking.

use crate::provider::{Answer, Class, ProviderError};
use bulla_crypto::random::{SystemRng, draw};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long nothing is asked after a failure, and how old a credential is at least that is given up when it is refused.
pub const PAUSE: Duration = Duration::from_secs(5);
/// How long a credential is kept at least, be it as short-lived as it may.
const KEEP: Duration = Duration::from_secs(30);

/// Who gives credentials.
pub trait Issuer: Send + Sync {
    /// What it gives.
    type Credential: Send + Sync + 'static;

    /// Asks for one.
    fn issue(&self) -> Answer<'_, Issued<Self::Credential>>;

    /// Whether what the last one was made from has changed since.
    fn changed(&self) -> bool {
        false
    }
}

/// A new credential.
pub struct Issued<C> {
    /// It.
    pub credential: C,
    /// When it ends, if it does.
    pub ends: Option<SystemTime>,
}

impl<C> Issued<C> {
    /// One that is good for so many seconds.
    pub fn lasting(credential: C, seconds: u64) -> Self {
        Self { credential, ends: SystemTime::now().checked_add(Duration::from_secs(seconds)) }
    }
}

/// A credential that is kept.
pub struct Held<C> {
    /// It.
    pub credential: C,
    /// When it ends, if it does.
    pub ends: Option<SystemTime>,
    obtained: Instant,
    /// How long after that it is renewed.
    renewed_after: Option<Duration>,
}

impl<C> Held<C> {
    fn new(issued: Issued<C>) -> Self {
        let left = issued.ends.map(|ends| ends.duration_since(SystemTime::now()).unwrap_or_default());
        // After 60 to 80 % of its time, each node at another moment.
        let [chance] = draw::<1>(&mut SystemRng);
        let renewed_after = left.map(|left| left.mul_f64(0.6 + 0.2 * f64::from(chance) / 255.0).max(KEEP));
        Self { credential: issued.credential, ends: issued.ends, obtained: Instant::now(), renewed_after }
    }

    fn is_due(&self) -> bool {
        self.renewed_after.is_some_and(|after| self.obtained.elapsed() >= after)
    }

    fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= SystemTime::now())
    }
}

/// The credentials of one provider.
pub struct Credentials<I: Issuer> {
    issuer: I,
    held: Mutex<Option<Arc<Held<I::Credential>>>>,
    /// Held while one is asked for; how it failed the last time.
    asking: tokio::sync::Mutex<Option<(Instant, ProviderError)>>,
}

type Kept<I> = Arc<Held<<I as Issuer>::Credential>>;

impl<I: Issuer> Credentials<I> {
    /// None yet.
    pub fn new(issuer: I) -> Self {
        Self { issuer, held: Mutex::new(None), asking: tokio::sync::Mutex::new(None) }
    }

    fn kept(&self) -> Option<Kept<I>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|held| !held.is_over())
    }

    /// The one that is kept; one is obtained only if there is none.
    ///
    /// # Errors
    /// Those of the issuer.
    pub async fn get(&self) -> Result<Kept<I>, ProviderError> {
        match self.kept() {
            Some(held) => Ok(held),
            None => self.obtain(|_| true).await,
        }
    }

    /// The one that is kept, after it was renewed if that was due. If it cannot be renewed, it is used as long as it lasts.
    ///
    /// # Errors
    /// Those of the issuer, if there is none.
    pub async fn renewed(&self) -> Result<Kept<I>, ProviderError> {
        let fresh = |held: &Held<I::Credential>| !held.is_due() && !self.issuer.changed();
        let kept = self.kept();
        if let Some(held) = &kept
            && fresh(held)
        {
            return Ok(Arc::clone(held));
        }
        match (self.obtain(fresh).await, kept) {
            (Err(error), Some(held)) => {
                tracing::warn!(class = error.class.as_str(), "a credential is not renewed: {error}");
                Ok(held)
            }
            (result, _) => result,
        }
    }

    /// Gives up a credential that the backend refused. Whether to try again: not with one that was obtained just now,
    /// as the next would be refused, too.
    pub fn refused(&self, refused: &Kept<I>) -> bool {
        if refused.obtained.elapsed() < PAUSE {
            return false;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|held| Arc::ptr_eq(held, refused));
        true
    }

    /// Asks for one, unless another call did so meanwhile. Who gives up waiting lets the next one ask.
    async fn obtain(&self, good: impl Fn(&Held<I::Credential>) -> bool) -> Result<Kept<I>, ProviderError> {
        let mut failed = self.asking.lock().await;
        if let Some(held) = self.kept().filter(|held| good(held)) {
            return Ok(held);
        }
        if let Some((at, error)) = &*failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        // One that has ended when it comes would be shown, and asked for again by each call.
        let issued = self.issuer.issue().await.and_then(|issued| match issued.ends {
            Some(ends) if ends <= SystemTime::now() => Err(ProviderError::new(
                Class::Unavailable,
                "a credential was given that has ended already: is this machine's clock right?",
            )),
            _ => Ok(issued),
        });
        match issued {
            Ok(issued) => {
                let held = Arc::new(Held::new(issued));
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&held));
                *failed = None;
                Ok(held)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Gives numbers, and counts.
    struct Numbers {
        asked: AtomicU64,
        lasts: Duration,
        fails: AtomicBool,
        changed: AtomicBool,
    }

    fn numbers(lasts: Duration) -> Credentials<Numbers> {
        let (asked, fails, changed) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Credentials::new(Numbers { asked, lasts, fails, changed })
    }

    impl Issuer for Numbers {
        type Credential = u64;
        fn issue(&self) -> Answer<'_, Issued<u64>> {
            Box::pin(async {
                let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                if self.fails.load(Ordering::SeqCst) {
                    return Err(ProviderError::new(Class::Unavailable, "down"));
                }
                self.changed.store(false, Ordering::SeqCst);
                Ok(Issued { credential: number, ends: SystemTime::now().checked_add(self.lasts) })
            })
        }
        fn changed(&self) -> bool {
            self.changed.load(Ordering::SeqCst)
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn of_many_at_once_one_asks() {
        let numbers = Arc::new(numbers(HOUR));
        let calls: Vec<_> = (0..32)
            .map(|index| {
                let numbers = Arc::clone(&numbers);
                tokio::spawn(async move { if index % 2 == 0 { numbers.get().await } else { numbers.renewed().await } })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().credential, 1);
        }
        assert_eq!(numbers.issuer.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn who_gives_up_lets_the_next_ask() {
        let numbers = numbers(HOUR);
        assert!(tokio::time::timeout(Duration::from_millis(1), numbers.get()).await.is_err());
        assert_eq!(numbers.get().await.unwrap().credential, 2);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_for_a_moment() {
        let numbers = numbers(HOUR);
        numbers.issuer.fails.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(numbers.get().await.map(|_| ()).unwrap_err().class, Class::Unavailable);
        }
        assert_eq!(numbers.issuer.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_ended_is_not_used() {
        let numbers = numbers(Duration::from_millis(50));
        assert_eq!(numbers.get().await.unwrap().credential, 1);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(numbers.get().await.unwrap().credential, 2);
    }

    /// A metadata service that gives an old one again, or a clock that stands ahead.
    #[tokio::test]
    async fn what_has_ended_when_it_comes_is_none() {
        let numbers = numbers(Duration::ZERO);
        for _ in 0..3 {
            let error = numbers.get().await.map(|_| ()).unwrap_err();
            assert!(error.class == Class::Unavailable && error.text.contains("clock"), "{error}");
            assert!(numbers.renewed().await.is_err());
        }
        assert_eq!(numbers.issuer.asked.load(Ordering::SeqCst), 1, "nor is it asked for by each call");
        // It takes the place of none that lasts.
        let held = Held { credential: 7, ends: None, obtained: Instant::now(), renewed_after: Some(Duration::ZERO) };
        *numbers.held.lock().unwrap() = Some(Arc::new(held));
        *numbers.asking.lock().await = None;
        assert_eq!(numbers.renewed().await.unwrap().credential, 7);
        assert_eq!(numbers.issuer.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_renewed_is_used_as_long_as_it_lasts() {
        let numbers = numbers(HOUR);
        assert_eq!(numbers.renewed().await.unwrap().credential, 1);
        numbers.issuer.changed.store(true, Ordering::SeqCst);
        numbers.issuer.fails.store(true, Ordering::SeqCst);
        assert_eq!(numbers.renewed().await.unwrap().credential, 1);
        // A call does not care.
        assert_eq!(numbers.get().await.unwrap().credential, 1);
        assert_eq!(numbers.issuer.asked.load(Ordering::SeqCst), 2);
        numbers.issuer.fails.store(false, Ordering::SeqCst);
        *numbers.asking.lock().await = None;
        assert_eq!(numbers.renewed().await.unwrap().credential, 3);
    }

    #[tokio::test]
    async fn a_new_one_that_is_refused_is_not_given_up() {
        let numbers = numbers(HOUR);
        let held = numbers.get().await.unwrap();
        assert!(!numbers.refused(&held));
        assert_eq!(numbers.get().await.unwrap().credential, 1);
        // One that is older is.
        let before = Instant::now().checked_sub(2 * PAUSE).unwrap();
        let old = Held { credential: 7, ends: None, obtained: before, renewed_after: None };
        let old = Arc::new(old);
        *numbers.held.lock().unwrap() = Some(Arc::clone(&old));
        assert!(numbers.refused(&old));
        assert_eq!(numbers.get().await.unwrap().credential, 2);
        // What another call obtained meanwhile stays.
        assert!(numbers.refused(&old));
        assert_eq!(numbers.get().await.unwrap().credential, 2);
    }

    #[test]
    fn it_is_renewed_after_most_of_its_time() {
        for _ in 0..64 {
            let held = Held::new(Issued { credential: (), ends: SystemTime::now().checked_add(HOUR) });
            let share = held.renewed_after.unwrap().as_secs_f64() / HOUR.as_secs_f64();
            assert!((0.599..0.801).contains(&share), "{share}");
        }
        assert!(Held::new(Issued { credential: (), ends: None }).renewed_after.is_none());
        assert_eq!(Held::new(Issued::lasting((), 10)).renewed_after, Some(KEEP));
    }
}
