//! How far long transfers are, for whoever shows it.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// Transfers up to so many bytes are not told: they are over before anybody could read it.
const QUIET_BYTES: u64 = 512 * 1024;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Content is read and encrypted.
    Encrypting,
    /// A wrap is sent. It begins anew when the call is tried again.
    Sending,
    /// A wrap is received.
    Receiving,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// With what.
    pub stage: Stage,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all, if that is known.
    pub total: Option<u64>,
}

/// Is told about progress.
#[derive(Clone, Default)]
pub(crate) struct Watch(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl Watch {
    pub(crate) fn new(watch: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Counts a transfer from its beginning.
    pub(crate) fn meter(&self, stage: Stage, total: Option<u64>) -> Meter {
        Meter { watch: self.clone(), progress: Progress { stage, done: 0, total } }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watch(somebody)" } else { "Watch(nobody)" })
    }
}

/// Counts the bytes of one transfer.
#[derive(Debug)]
pub(crate) struct Meter {
    watch: Watch,
    progress: Progress,
}

impl Meter {
    /// So many bytes more are done.
    pub(crate) fn add(&mut self, count: usize) {
        let Self { watch: Watch(Some(watch)), progress } = self else { return };
        progress.done = progress.done.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if progress.total.unwrap_or(progress.done) > QUIET_BYTES {
            watch(*progress);
        }
    }
}

/// A reader whose bytes are counted.
pub(crate) struct Metered<R>(pub R, pub Meter);

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(inner, meter) = self;
        inner.read(buffer).inspect(|count| meter.add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What is told about `size` bytes, read in pieces of 64 KiB.
    fn told(size: u64, total: Option<u64>) -> Vec<Progress> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let watch = Watch::new(move |progress| sink.lock().unwrap().push(progress));
        let mut reader = Metered(io::repeat(0).take(size), watch.meter(Stage::Encrypting, total));
        let mut piece = vec![0; 64 * 1024];
        while reader.read(&mut piece).unwrap() > 0 {}
        drop((reader, watch));
        Arc::into_inner(told).unwrap().into_inner().unwrap()
    }

    #[test]
    fn long_transfers_are_told_and_short_ones_are_not() {
        let size = 1024 * 1024;
        let progress = |done, total| Progress { stage: Stage::Encrypting, done, total };
        let known = told(size, Some(size));
        assert_eq!(known.first(), Some(&progress(64 * 1024, Some(size))), "from the first piece");
        assert_eq!(known.last(), Some(&progress(size, Some(size))));
        assert!(known.is_sorted_by_key(|progress| progress.done));
        let unknown = told(size, None);
        assert!(unknown.iter().all(|progress| progress.done > QUIET_BYTES && progress.total.is_none()));
        assert_eq!(unknown.last(), Some(&progress(size, None)));
        assert_eq!(told(QUIET_BYTES, Some(QUIET_BYTES)), []);
        assert_eq!(told(QUIET_BYTES, None), []);
    }
}
