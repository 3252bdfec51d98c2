//! Waiting for others without being kept by them.

use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to end once it is done.
const FAREWELL: Duration = Duration::from_secs(1);

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

/// A program, which ends with this.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Waits for the end of a program whose input ended: it has nothing more to do.
    pub fn farewell(&mut self) {
        let start = Instant::now();
        while start.elapsed() < FAREWELL && self.runs() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.runs() {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}
