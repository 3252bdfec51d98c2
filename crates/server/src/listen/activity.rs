//! What a connection does, and so when it has been idle for long enough: handlers at work, and answers on their way, until
//! the last byte of them was written. A client may read its answer slowly: each piece that it takes is a sign of life.
//! One that takes nothing is idle, whatever waits for it.

use super::Limits;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Answers are handed over in pieces of so many bytes, a record of TLS, so that it is seen that they are taken.
const PIECE_BYTES: usize = 16 * 1024;

/// What a connection does, for its timeouts.
pub(super) struct Activity {
    limits: Limits,
    began: Instant,
    requests: AtomicUsize,
    handled: AtomicUsize,
    sent: AtomicUsize,
    /// Milliseconds after `began` at which a handler or an answer ended last, or a piece was taken.
    moved_ms: AtomicU64,
}

impl Activity {
    /// Of a connection that begins now.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let (requests, handled, sent) = Default::default();
        Arc::new(Self { limits, began: Instant::now(), requests, handled, sent, moved_ms: AtomicU64::new(0) })
    }

    /// When the connection shall take no more requests, if nothing happens until then.
    pub(super) fn closes_at(&self) -> Instant {
        if !self.has_asked() {
            return self.began + self.limits.first_head;
        }
        self.idle_at().min(self.began + self.limits.age)
    }

    /// When it will have been idle for too long. It is not while a handler works.
    fn idle_at(&self) -> Instant {
        let moved = match self.handled.load(Ordering::Relaxed) {
            0 => self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)),
            _ => Instant::now(),
        };
        moved + self.limits.idle
    }

    /// Whether a request came at all.
    pub(super) fn has_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether something would be lost if the connection ended now.
    pub(super) fn is_busy(&self) -> bool {
        self.handled.load(Ordering::Relaxed) > 0 || self.sent.load(Ordering::Relaxed) > 0
    }

    /// Whether answers wait that nobody has taken a piece of for so long that nobody will.
    pub(super) fn is_stalled(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > 0 && self.idle_at() <= Instant::now()
    }

    /// Whether the proof of the handshake still counts. An HTTP/2 client that is told to go may send a little longer.
    pub(super) fn is_young(&self) -> bool {
        self.began.elapsed() < self.limits.age
    }

    /// A request came, and is handled until the mark is dropped.
    pub(super) fn handle(self: &Arc<Self>) -> Mark {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Mark::new(self, |activity| &activity.handled)
    }

    /// An answer is on its way until the last of its bytes is dropped.
    pub(super) fn send(self: &Arc<Self>, bytes: Bytes) -> Sent {
        let mark = Mark::new(self, |activity| &activity.sent);
        Sent { rest: Bytes::from_owner(Marked { bytes, _mark: mark }), activity: Arc::clone(self) }
    }

    fn moved(&self) {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now_ms, Ordering::Relaxed);
    }
}

/// One more of something that a connection does, until it is dropped.
pub(super) struct Mark {
    activity: Arc<Activity>,
    count: fn(&Activity) -> &AtomicUsize,
}

impl Mark {
    fn new(activity: &Arc<Activity>, count: fn(&Activity) -> &AtomicUsize) -> Self {
        count(activity).fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), count }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.activity.moved();
        (self.count)(&self.activity).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of an answer: the connection drops them when the last one is written.
struct Marked {
    bytes: Bytes,
    _mark: Mark,
}

impl AsRef<[u8]> for Marked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer. Its next piece is asked for when the client has taken what was given before, but for what
/// buffers on the way hold.
pub(super) struct Sent {
    rest: Bytes,
    activity: Arc<Activity>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.activity.moved();
        let bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn whoever_takes_pieces_is_not_idle() {
        let (limits, pause) = (Limits::default(), || std::thread::sleep(Duration::from_millis(3)));
        let activity = Activity::new(limits);
        assert_eq!((activity.closes_at(), activity.is_busy()), (activity.began + limits.first_head, false));
        let handled = activity.handle();
        let idle = activity.closes_at();
        pause();
        assert!(activity.is_busy() && activity.closes_at() > idle, "while it is handled");
        let mut sent = activity.send(vec![7; 3 * PIECE_BYTES - 1].into());
        drop(handled);
        let idle = activity.closes_at();
        pause();
        assert_eq!((activity.closes_at(), activity.is_busy()), (idle, true), "nothing is taken");
        let first = sent.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.len(), sent.size_hint().exact()), (PIECE_BYTES, Some(2 * PIECE_BYTES as u64 - 1)));
        let idle = Some(activity.closes_at()).filter(|later| *later > idle).expect("a sign of life");
        let last = [sent.frame().await, sent.frame().await];
        assert!(sent.is_end_stream() && sent.frame().await.is_none());
        pause();
        // All of it was handed over, and one piece is not written yet.
        drop((sent, first));
        assert!(activity.is_busy());
        drop(last);
        assert!(!activity.is_busy() && activity.closes_at() > idle);
        drop(activity.send(Bytes::new()));
        assert!(!activity.is_busy());
    }
}
