//! Waiting for others without being kept by them.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Does `work` on a thread of its own; `None` if it takes longer than `limit` or breaks off. The thread is left behind
/// then: what it waits for cannot be called back, and the process of a command ends soon.
pub(crate) fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().spawn(move || drop(tell.send(work()))).ok()?;
    told.recv_timeout(limit).ok()
}

/// Does `work`, which blocks, beside whatever else goes on; `None` if it breaks off.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    thread::Builder::new().spawn(move || drop(tell.send(work()))).ok()?;
    told.await.ok()
}
