//! Waiting for others without being kept by them.

use std::process::Child;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program, or a thread, may take to end once it is done.
const FAREWELL: Duration = Duration::from_secs(1);

/// Does `work` on a thread of its own; `None` if it takes longer than `limit` or breaks off. The thread is left behind
/// then: what it waits for cannot be called back, and the process of a command ends soon.
pub(crate) fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let thread = Thread::start(thread::Builder::new(), move || drop(tell.send(work())))?;
    let done = told.recv_timeout(limit).ok()?;
    thread.farewell();
    Some(done)
}

/// Does `work`, which blocks, beside whatever else goes on; `None` if it breaks off.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    thread::Builder::new().spawn(move || drop(tell.send(work()))).ok()?;
    told.await.ok()
}

/// A thread that works with a module. A process that ends meanwhile may crash in it, and a module still works when the
/// thread's own work is done: what it kept for that thread is cleared as the system takes the thread down.
pub(crate) struct Thread(JoinHandle<()>);

impl Thread {
    /// `None` if there is none to be had.
    pub fn start(builder: thread::Builder, work: impl FnOnce() + Send + 'static) -> Option<Self> {
        builder.spawn(work).ok().map(Self)
    }

    /// Waits until nothing of it is left. One that hangs is left behind.
    pub fn farewell(self) {
        let start = Instant::now();
        while start.elapsed() < FAREWELL && !self.0.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        if self.0.is_finished() {
            // That it broke off, whoever waited for its work was told.
            drop(self.0.join());
        }
    }
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
