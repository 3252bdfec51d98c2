//! What is printed, and how.
//!
//! Rules for words:
//! - Standard output holds only the answer: what a script wants to have, or what a person asked for. Everything else
//!   (progress, what was written where, warnings) goes to standard error, and `--quiet` leaves it out.
//! - `error:` says what was tried and why it failed, in one line, lower case, no full stop. Each `hint:` after it is
//!   one thing to do next and names the command or flag. `warning:` is for what went well and still needs a look.
//! - Ids have one spelling, `sha256:` and 43 characters, and are never cut: half a fingerprint compares as equal.
//! - Times are RFC 3339 in UTC. JSON is the answer of the API, with escapes where a terminal would obey a character.
//! - Values of secrets are printed only by the commands that were asked for them.
//! - Colour, progress, questions and hidden input only on a terminal. What a server sent is printed without control
//!   characters, so it cannot move the cursor; in a table or a field also without ends of lines, so it cannot feign
//!   the next one.

use crate::exit::{Exit, Failure};
use crate::progress::Line;
use bulla_wire::wrap::is_obeyed;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The answer of the API.
    Json,
}

/// The flag for it.
#[derive(Debug, Clone, Copy, Args)]
pub struct FormatArgs {
    /// How to print the answer
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// The terminal, or what stands in its place.
#[derive(Debug)]
pub struct Screen {
    quiet: bool,
    colour: bool,
    progress: Option<Arc<Line>>,
    /// Whoever read standard output went away.
    unread: AtomicBool,
}

impl Screen {
    /// What is known of it at start.
    pub fn new(quiet: bool, no_colour: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let progress = (terminal && !quiet).then(Arc::default);
        Self { quiet, colour: terminal && !no_colour, progress, unread: AtomicBool::new(false) }
    }

    /// The line for progress, if somebody looks.
    pub fn progress(&self) -> Option<Arc<Line>> {
        self.progress.clone()
    }

    /// Takes the line for progress away. To be called before anything is printed that does not go by the screen.
    pub fn settle(&self) {
        if let Some(line) = &self.progress {
            line.erase();
        }
    }

    /// Tells a person something on standard error.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.error_line(&clean(text));
        }
    }

    /// Warns; not even `--quiet` hides that.
    pub fn warn(&self, text: &str) {
        let label = self.paint("warning:", "33");
        self.error_line(&format!("{label} {}", clean(text)));
    }

    /// Says what to do next.
    pub fn hint(&self, text: &str) {
        if !self.quiet {
            self.error_line(&format!("{} {}", self.paint("hint:", "36"), clean(text)));
        }
    }

    /// Says why a command failed.
    pub fn failure(&self, failure: &Failure) {
        self.error_line(&format!("{} {}", self.paint("error:", "31"), clean(&failure.message)));
        for hint in &failure.hints {
            self.error_line(&format!("{} {}", self.paint("hint:", "36"), clean(hint)));
        }
    }

    /// Prints a part of the answer as one line.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{}\n", cell(text)).as_bytes())
    }

    /// Whether whoever read standard output went away: what is printed from then on goes nowhere.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Prints the answer as it is.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.is_unread() {
            return Ok(());
        }
        self.settle();
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // `bulla … | head -1` has what it wanted. The command goes on to its own end, and that is its exit code.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.unread.store(true, Ordering::Relaxed);
                Ok(())
            }
            written => written.map_err(|error| Failure::output(&error)),
        }
    }

    /// Prints the answer as JSON.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value);
        let text = text.map_err(|error| Failure::new(Exit::Failed, format!("cannot print the answer: {error}")))?;
        self.bytes(format!("{}\n", plain_json(&text)).as_bytes())
    }

    /// Prints names and values, one a line, the values under each other.
    pub fn pairs(&self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, cell(value))).collect();
        self.texts(&pairs)
    }

    /// As [`Screen::pairs`], for values that may have many lines: the further ones stand under the first, so none
    /// can be taken for a pair.
    pub fn texts(&self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        pairs_of(pairs).iter().try_for_each(|text| self.bytes(format!("{text}\n").as_bytes()))
    }

    /// Prints rows under headings. Nothing at all if there are none, so that a script counts lines.
    pub fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        table_of(headings, rows).iter().try_for_each(|line| self.line(line))
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[1;{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Nobody can be told that standard error is gone.
    fn error_line(&self, text: &str) {
        self.settle();
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

/// Text of others without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Text of others for one place in one line: with a line's end in it, it could feign the next row or field.
pub fn cell(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// The same JSON in other words, without what a terminal would obey: in strings such characters have an escape, and between
/// values stand spaces and ends of lines.
pub fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' => plain.push(' '),
            c if is_obeyed(c) && c != '\n' && c != '\t' => plain.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => plain.push(c),
        }
    }
    plain
}

fn pairs_of(pairs: &[(&str, String)]) -> Vec<String> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let text = |(name, value): &(&str, String)| {
        let value = clean(value.trim_end_matches('\n')).replace('\n', &format!("\n{:width$}  ", ""));
        format!("{:width$}  {value}", cell(name))
    };
    pairs.iter().map(text).collect()
}

fn table_of(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let clean = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(clean).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        cells.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Unix milliseconds as people read them.
pub fn time(ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // The formatter knows years up to 9999.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{ms} ms"),
    }
}

/// The name that a value has in JSON: the one word for it.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\u{9b}c\rd\te\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\te\n");
    }

    #[test]
    fn json_is_the_same_in_plain_words() {
        let value = serde_json::json!({"a\u{9b}2J": ["\u{1b}[2J", "\u{7f}\u{202e}ä\n", 1.0]});
        let text = serde_json::to_string_pretty(&value).unwrap();
        assert!(text.contains('\u{9b}') && text.contains('\u{202e}'));
        let plain = plain_json(&text);
        assert!(plain.chars().all(|c| c == '\n' || !is_obeyed(c)), "{plain:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).unwrap(), value);
        assert_eq!(plain_json("{\r\n\t}"), "{ \n\t}");
    }

    /// A label is the writer's text; old ones and those of other servers may hold anything.
    #[test]
    fn others_cannot_feign_fields_or_rows() {
        let label = "x\nproof  yes\u{2028}\u{202e}\t\r\u{1b}[A".to_owned();
        let shown = "x\u{fffd}proof  yes\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}[A";
        assert_eq!(cell(&label), shown);
        let lines = table_of(&["LABEL", "SLIP"], &[vec![label, "s".into()], vec!["y".into(), "t".into()]]);
        let width = shown.chars().count();
        let wanted = [("LABEL", "SLIP"), (shown, "s"), ("y", "t")].map(|(a, b)| format!("{a:width$}  {b}"));
        assert_eq!(lines, wanted);
        assert!(table_of(&["LABEL"], &[]).is_empty());
        // A secret may have lines; they cannot be taken for another field.
        let pairs = pairs_of(&[("a", "1\nproof  yes\n".into()), ("long\n", "2\u{202e}".into())]);
        assert_eq!(pairs, ["a      1\n       proof  yes", "long\u{fffd}  2\u{fffd}"]);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(time(u64::MAX), format!("{} ms", u64::MAX));
    }
}
