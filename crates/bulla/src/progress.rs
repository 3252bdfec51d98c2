//! The line on a terminal that shows how far a long transfer is.

use bulla_client::{Progress, Stage};
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often the line is drawn at most: a slow terminal must not slow the transfer.
const EVERY: Duration = Duration::from_millis(100);
/// Columns of the line, as many as its longest text has; narrow terminals have more.
const WIDTH: usize = 38;

/// The line, and when it was drawn last; nothing if it is empty.
#[derive(Debug, Default)]
pub struct Line(Mutex<Option<Instant>>);

impl Line {
    /// Draws how far it is. It stays until other words come, or until all was received: what follows then is quick.
    pub fn draw(&self, progress: Progress) {
        let whole = progress.total == Some(progress.done);
        if whole && progress.stage == Stage::Receiving {
            return self.erase();
        }
        let Ok(mut drawn) = self.0.lock() else { return };
        if whole || drawn.is_none_or(|at| at.elapsed() >= EVERY) {
            put(&format!("\r{:WIDTH$}", text(progress)));
            *drawn = Some(Instant::now());
        }
    }

    /// Makes room for other words.
    pub fn erase(&self) {
        let Ok(mut drawn) = self.0.lock() else { return };
        if drawn.take().is_some() {
            put(&format!("\r{:WIDTH$}\r", ""));
        }
    }
}

/// Nobody can be told that standard error is gone.
fn put(text: &str) {
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

fn text(Progress { stage, done, total }: Progress) -> String {
    let what = match stage {
        Stage::Encrypting => "encrypting",
        Stage::Sending => "sending",
        Stage::Receiving => "receiving",
    };
    match total {
        Some(total) => {
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            format!("{what} {} of {} MiB, {percent} %", tenths(done), tenths(total))
        }
        None => format!("{what} {} MiB", tenths(done)),
    }
}

/// MiB with one decimal.
fn tenths(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_holds_what_it_says() {
        let mib = 1024 * 1024;
        let of = |stage, done, total| text(Progress { stage, done, total });
        assert_eq!(of(Stage::Sending, 3 * mib / 2, Some(16 * mib)), "sending 1.5 of 16.0 MiB, 9 %");
        assert_eq!(of(Stage::Encrypting, mib, None), "encrypting 1.0 MiB");
        assert_eq!(of(Stage::Receiving, 0, Some(0)), "receiving 0.0 of 0.0 MiB, 100 %");
        assert!(of(Stage::Encrypting, 100 * mib, Some(100 * mib)).len() <= WIDTH);
    }
}
