//! When the log goes on in another file, and with what it begins there.

use super::{Waiting, Writer};
use crate::failpoint;
use crate::sink::disk::{is_full, open_append, sync_directory};
use crate::sink::files::{Layout, open_output, same_file};
use bulla_core::audit::Body;
use std::collections::VecDeque;

impl Writer {
    /// Begins the next file where the clock was set back: within a file time does not fall, so its last line is its latest.
    pub(super) fn keep_order(&mut self, now_ms: u64) {
        if self.is_late(now_ms) {
            self.rotate();
        }
    }

    pub(super) fn is_late(&self, now_ms: u64) -> bool {
        now_ms < self.chain.at_ms && self.length > 0 && matches!(self.layout, Some(Layout::Directory(_)))
    }

    /// The first line of a file that was begun, if it waits: nothing is written in front of it.
    pub(super) fn first_line(&mut self) -> VecDeque<Waiting> {
        let waits = self.waiting.front().is_some_and(|first| matches!(first.body, Body::Rotate { .. }));
        self.waiting.drain(..usize::from(waits)).collect()
    }

    /// Goes on in the next file, which begins with where this one ended.
    pub(super) fn rotate(&mut self) {
        let Some(layout) = self.layout.clone() else { return };
        let Layout::Directory(directory) = &layout else { return };
        self.sync();
        if self.failed {
            return;
        }
        failpoint::hit(failpoint::AUDIT_BEFORE_ROTATE);
        let number = self.number.saturating_add(1);
        let path = layout.path(number);
        let shared = self.shared.clone();
        let opened = shared.busy(|| {
            let file = open_append(&path, false, true)?;
            // The next try makes it anew.
            sync_directory(directory).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
            Ok(file)
        });
        match opened {
            Ok(file) => {
                failpoint::hit(failpoint::AUDIT_EMPTY_FILE);
                let body = Body::Rotate { previous: self.number, quoted: self.quoted, loss: self.loss };
                (self.file, self.number, self.length) = (file, number, 0);
                // One that was moved away before it had a line.
                drop(self.first_line());
                self.waiting.push_front(Waiting { body, urgent: false, done: None, _place: None });
            }
            // The old file is as good until there is room for another.
            Err(error) if is_full(&error) => self.trouble(&error, (self.clock)()),
            Err(error) => self.fail(format!("next file: {error}")),
        }
    }

    /// After somebody moved the file away.
    pub(super) fn reopen(&mut self) {
        let Some(layout) = self.layout.clone() else { return };
        let path = layout.path(self.number);
        if !self.regular || self.failed || same_file(&path, &self.file) {
            return;
        }
        if matches!(layout, Layout::Directory(_)) {
            self.rotate();
            return self.flush();
        }
        self.sync();
        let shared = self.shared.clone();
        let opened = shared.busy(|| open_output(&layout, self.number));
        match opened.and_then(|(file, _)| Ok((file.metadata()?.len(), file))) {
            Ok((length, file)) => (self.file, self.length) = (file, length),
            Err(error) => self.fail(format!("reopen: {error}")),
        }
    }
}
