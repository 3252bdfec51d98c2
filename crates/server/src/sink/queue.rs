//! The way of the lines to the thread that writes them. Waking a thread costs more than writing a line, so the lines of
//! all requests that are ready at one moment go together.

use super::lock;
use super::writer::Message;
use bulla_core::audit::AuditBlocked;
use std::sync::{Arc, Mutex, mpsc};

/// Clones are the same way.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    gathered: Mutex<Vec<Message>>,
    thread: mpsc::Sender<Message>,
}

impl Queue {
    pub(super) fn new(thread: mpsc::Sender<Message>) -> Self {
        Self(Arc::new(Inner { gathered: Mutex::default(), thread }))
    }

    /// Takes a message. The thread gets it when what is answered is dropped, or earlier with that of another.
    pub(super) fn gather(&self, message: Message) -> Gathered {
        lock(&self.0.gathered).push(message);
        Gathered(self.clone())
    }

    /// Hands a message over at once, behind all that were gathered.
    pub(super) fn send(&self, message: Message) -> Result<(), AuditBlocked> {
        self.hand_over();
        self.0.thread.send(message).map_err(|_| AuditBlocked::Closed)
    }

    fn hand_over(&self) {
        // Under the lock, so that the order is kept. Sending does not wait.
        for message in lock(&self.0.gathered).drain(..) {
            // Whoever waits for a message that nobody takes any more is told by its drop.
            drop(self.0.thread.send(message));
        }
    }
}

/// A gathered message: dropping this hands it over, so that none is forgotten.
pub(super) struct Gathered(Queue);

impl Drop for Gathered {
    fn drop(&mut self) {
        self.0.hand_over();
    }
}
