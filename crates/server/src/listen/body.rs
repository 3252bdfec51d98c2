//! Reads a body into memory: hashed while it arrives, never more than its route takes, never more at once than the
//! node has put aside for bodies, and not for ever. Large answers take their share of the same memory.

use bulla_crypto::digest::Sha256;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of all bodies at once, unless configured: sixteen of the largest wraps.
pub const DEFAULT_BODY_BUDGET_BYTES: usize = 256 * 1024 * 1024;
/// Time for a body to arrive: the largest wrap at 280 KB/s.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What the node has put aside for bodies and large answers, or a part of that which somebody may take at most.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    free: Arc<Semaphore>,
    whole: Option<Arc<Semaphore>>,
}

impl BodyBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))), whole: None }
    }

    /// At most so many bytes of this budget, for one who shares it with others.
    pub fn part(&self, bytes: usize) -> Self {
        Self { whole: Some(Arc::clone(&self.free)), ..Self::new(bytes) }
    }

    /// Bytes that are free now.
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits()
    }

    /// Takes a share for an answer, before it is made.
    ///
    /// # Errors
    /// If so much is not free now.
    pub fn hold(&self, bytes: usize) -> Result<Held, BodyError> {
        self.take(bytes).map(|taken| Held(Some(taken)))
    }

    fn take(&self, bytes: usize) -> Result<Taken, BodyError> {
        let permits = u32::try_from(bytes).map_err(|_| BodyError::Overloaded)?;
        let take =
            |free: &Arc<Semaphore>| Arc::clone(free).try_acquire_many_owned(permits).map_err(|_| BodyError::Overloaded);
        Ok(Taken { own: take(&self.free)?, whole: self.whole.as_ref().map(take).transpose()? })
    }
}

/// Bytes of a budget and, if it is a part, of the whole.
#[derive(Debug)]
struct Taken {
    own: OwnedSemaphorePermit,
    whole: Option<OwnedSemaphorePermit>,
}

impl Taken {
    fn bytes(&self) -> usize {
        self.own.num_permits()
    }

    fn merge(&mut self, other: Self) {
        self.own.merge(other.own);
        if let (Some(whole), Some(other)) = (&mut self.whole, other.whole) {
            whole.merge(other);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        drop(self.own.split(bytes));
        drop(self.whole.as_mut().and_then(|whole| whole.split(bytes)));
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is, or says that it is, larger than the route takes.
    TooLarge {
        /// What the route takes, in bytes.
        max: usize,
    },
    /// The budget for bodies is used up.
    Overloaded,
    /// It did not arrive in time.
    Slow,
    /// The client hung up or broke the protocol.
    Broken,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { max } => write!(f, "the body may have at most {max} bytes"),
            Self::Overloaded => f.write_str("too many large bodies at once"),
            Self::Slow => f.write_str("the body did not arrive in time"),
            Self::Broken => f.write_str("the body ended before its end"),
        }
    }
}
impl std::error::Error for BodyError {}

/// A body in memory. Its share of the budget is given back when it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    _held: Option<Taken>,
}

/// A share of the memory for bodies, given back when it is dropped.
#[derive(Debug)]
pub struct Held(Option<Taken>);

impl Held {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(taken) = &mut self.0 {
            taken.give_back(taken.bytes().saturating_sub(bytes));
        }
    }
}

impl ReadBody {
    /// The bytes, and their share of the budget: whoever works with the bytes keeps it.
    pub fn into_parts(self) -> (Vec<u8>, Held) {
        (self.bytes, Held(self._held))
    }
}

/// Reads a body of at most `max` bytes within `limit`. A declared length that is too large is refused before a byte
/// is read, and its share of the budget is taken at once, so that a transfer does not fail half way.
pub async fn read_body<B>(body: B, max: usize, budget: &BodyBudget, limit: Duration) -> Result<ReadBody, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    timeout(limit, collect(body, max, budget)).await.unwrap_or(Err(BodyError::Slow))
}

async fn collect<B>(mut body: B, max: usize, budget: &BodyBudget) -> Result<ReadBody, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > max {
        return Err(BodyError::TooLarge { max });
    }
    let mut held = if declared > 0 { Some(budget.take(declared)?) } else { None };
    let mut bytes = Vec::with_capacity(declared);
    let mut hash = Sha256::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Broken)?;
        // Trailers are not signed, so nobody reads them.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max.saturating_sub(bytes.len()) {
            return Err(BodyError::TooLarge { max });
        }
        let have = held.as_ref().map_or(0, Taken::bytes);
        let missing = (bytes.len() + data.len()).saturating_sub(have);
        if missing > 0 {
            let more = budget.take(missing)?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
        hash.update(&data);
        bytes.extend_from_slice(&data);
    }
    Ok(ReadBody { bytes, sha256: hash.finish(), _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// A body in pieces that tells no length.
    struct Pieces(Vec<Bytes>);
    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(Frame::data(self.0.remove(0)))))
        }
    }

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn an_answer_holds_what_it_needs() {
        let budget = BodyBudget::new(100);
        let mut held = budget.hold(90).expect("free");
        assert_eq!(budget.hold(11).map(drop), Err(BodyError::Overloaded));
        held.shrink(30);
        assert_eq!(budget.free_bytes(), 70);
        held.shrink(40);
        assert_eq!(budget.free_bytes(), 70, "it does not grow");
        drop(held);
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn reads_and_hashes() {
        let budget = BodyBudget::new(100);
        let pieces = || Pieces(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"defg")]);
        let read = read_body(pieces(), 7, &budget, LONG).await.expect("a body");
        assert_eq!(read.bytes, b"abcdefg");
        assert_eq!(read.sha256, bulla_crypto::digest::sha256(&[b"abcdefg"]));
        assert_eq!(budget.free_bytes(), 93);
        drop(read);
        assert_eq!(budget.free_bytes(), 100);
        let empty = read_body(Full::new(Bytes::new()), 0, &budget, LONG).await.expect("no bytes");
        assert_eq!(empty.sha256, bulla_crypto::digest::sha256(&[]));
        assert_eq!(
            read_body(pieces(), 6, &budget, LONG).await.map(|read| read.bytes),
            Err(BodyError::TooLarge { max: 6 })
        );
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn refuses_a_declared_length_before_reading() {
        let budget = BodyBudget::new(100);
        let body = || Full::new(Bytes::from_static(&[1; 50]));
        let refused = read_body(body(), 49, &budget, LONG).await.map(|read| read.bytes);
        assert_eq!(refused, Err(BodyError::TooLarge { max: 49 }));
        let first = read_body(body(), 50, &budget, LONG).await.expect("a body");
        let second = read_body(body(), 50, &budget, LONG).await.expect("a body");
        assert_eq!(budget.free_bytes(), 0);
        let third = read_body(body(), 50, &budget, LONG).await.map(|read| read.bytes);
        assert_eq!(third, Err(BodyError::Overloaded));
        drop((first, second));
        assert_eq!(budget.free_bytes(), 100);
    }

    /// A body that never comes.
    struct Never;
    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(10)
        }
    }

    #[tokio::test]
    async fn does_not_wait_for_ever() {
        let budget = BodyBudget::new(100);
        let slow = read_body(Never, 10, &budget, Duration::from_millis(20)).await.map(|read| read.bytes);
        assert_eq!(slow, Err(BodyError::Slow));
        assert_eq!(budget.free_bytes(), 100);
    }
}
