//! Bodies that can be sent again: bytes, or a head and a file.

use crate::progress::{Meter, Stage, Watch};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// How much of a file is read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What a request carries. Cloning copies no content, so a retry sends the same bytes.
#[derive(Debug, Clone)]
pub(crate) enum Upload {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in memory and then the first `len` bytes of a file that nobody changes.
    File { head: Bytes, file: Arc<File>, len: u64 },
}

impl Upload {
    pub(crate) fn empty() -> Self {
        Self::Bytes(Bytes::new())
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => length(bytes),
            Self::File { head, len, .. } => length(head).saturating_add(*len),
        }
    }

    /// The body of one attempt.
    pub(super) fn body(self, watch: &Watch) -> UploadBody {
        let meter = |total: u64| watch.meter(Stage::Sending, Some(total));
        match self {
            Self::Bytes(bytes) => {
                let meter = meter(length(&bytes));
                UploadBody { head: Some(bytes).filter(|bytes| !bytes.is_empty()), rest: None, left: 0, meter }
            }
            Self::File { head, file, len } => {
                let (sender, receiver) = mpsc::channel(2);
                // Reading blocks. When the receiver is dropped, the next send fails and the reader ends.
                drop(tokio::task::spawn_blocking(move || read(&file, len, &sender)));
                let meter = meter(length(&head).saturating_add(len));
                UploadBody { head: Some(head), rest: Some(receiver), left: len, meter }
            }
        }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn read(file: &File, len: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut at = 0;
    while at < len {
        let size = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = vec![0; size];
        let result = file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece));
        let failed = result.is_err();
        if sender.blocking_send(result).is_err() || failed {
            return;
        }
        at = at.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
    }
}

pub(crate) struct UploadBody {
    head: Option<Bytes>,
    rest: Option<mpsc::Receiver<io::Result<Bytes>>>,
    /// Bytes of the file that are still to come.
    left: u64,
    meter: Meter,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(head) = self.head.take() {
            self.meter.add(head.len());
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        match ready!(rest.poll_recv(context)) {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(length(&piece));
                self.meter.add(piece.len());
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && (self.rest.is_none() || self.left == 0)
    }

    fn size_hint(&self) -> SizeHint {
        let head = self.head.as_ref().map_or(0, length);
        SizeHint::with_exact(head.saturating_add(self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Write;

    #[tokio::test]
    async fn a_file_is_sent_twice_alike() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        file.write_all(&content).unwrap();
        let upload = Upload::File { head: Bytes::from_static(b"head"), file: Arc::new(file), len: 200_000 };
        assert_eq!(upload.bytes(), 200_004);
        for _ in 0..2 {
            let body = upload.clone().body(&Watch::default());
            assert_eq!(body.size_hint().exact(), Some(200_004));
            let sent = body.collect().await.unwrap().to_bytes();
            assert_eq!(sent.len(), 200_004);
            assert!(sent.starts_with(b"head") && sent.ends_with(&content));
        }
    }

    #[tokio::test]
    async fn each_attempt_tells_how_far_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 1_000_000]).unwrap();
        let upload = Upload::File { head: Bytes::from_static(b"head"), file: Arc::new(file), len: 1_000_000 };
        let (sender, told) = std::sync::mpsc::channel();
        let watch = Watch::new(move |progress| sender.send(progress).unwrap());
        for _ in 0..2 {
            upload.clone().body(&watch).collect().await.unwrap();
            let told: Vec<_> = told.try_iter().collect();
            assert_eq!(told.first().unwrap().done, 4, "it begins anew");
            assert_eq!(told.last().unwrap().done, 1_000_004);
            assert!(told.iter().all(|progress| progress.stage == Stage::Sending && progress.total == Some(1_000_004)));
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_fails() {
        let upload = Upload::File { head: Bytes::new(), file: Arc::new(tempfile::tempfile().unwrap()), len: 1 };
        assert!(upload.body(&Watch::default()).collect().await.is_err());
    }

    #[tokio::test]
    async fn an_empty_body_is_at_its_end() {
        let body = Upload::empty().body(&Watch::default());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
