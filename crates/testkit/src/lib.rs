//! Development only: what the tests of several crates share.
//!
//! [`server`] starts the real binary as a process that cannot outlive the test; [`cli`] runs it as a user would, in
//! a home of its own; [`transcript`] compares what was typed and printed with a golden file; [`canary`] makes
//! secrets that are easy to find again and searches files for them; [`clock`] stands still; [`hop`] is a proxy between
//! client and server; [`raw`] writes requests by hand, over [`tls`]; [`cloud`] has what clouds answer; [`tools`] finds
//! programs of others and says aloud when one is missing.
//!
//! Everything here panics when it cannot do its work: in a test that is the right answer.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot start its server or read its golden has to fail there, with a message"
)]

pub mod agent;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod hop;
pub mod mariadb;
pub mod moto;
pub mod openbao;
pub mod postgres;
pub mod process;
pub mod raw;
pub mod server;
pub mod softhsm;
pub mod tls;
pub mod tools;
pub mod tpm;
pub mod transcript;
pub mod world;

mod redaction;

pub use canary::Canary;
pub use cli::{Cli, Output};
pub use clock::ManualClock;
pub use server::{Options, Server};

/// The binary under test: for tests in the package `bulla`, which cargo builds it for.
#[macro_export]
macro_rules! bulla {
    () => {
        ::std::path::PathBuf::from(env!("CARGO_BIN_EXE_bulla"))
    };
}

/// Whether the long numbers are asked for (`cargo xtask test --long`).
pub fn long() -> bool {
    std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1")
}

/// Whether goldens and vectors are to be written instead of compared (`BULLA_BLESS=1`).
pub fn blessing() -> bool {
    std::env::var_os("BULLA_BLESS").is_some_and(|value| value == "1")
}

/// Compares `actual` with the golden file, or writes it when [`blessing`].
///
/// # Panics
/// If they differ; the message shows the first line that does.
pub fn golden(path: &std::path::Path, actual: &str) {
    if blessing() {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the folder of a golden file");
        }
        std::fs::write(path, actual).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!("cannot read the golden file {}: {error}; BULLA_BLESS=1 writes it", path.display())
    });
    if let Some(difference) = difference(&expected, actual) {
        panic!(
            "{} differs: {difference}\nBULLA_BLESS=1 writes it anew; read the diff before you commit it",
            path.display()
        );
    }
}

/// The first line in which two texts differ, with the three lines before it.
fn difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (left, right): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let at = left.iter().zip(&right).position(|(left, right)| left != right).unwrap_or(left.len().min(right.len()));
    let mut text = format!("line {}\n", at + 1);
    for line in &left[at.saturating_sub(3)..at] {
        text.push_str(&format!("    {line}\n"));
    }
    let show = |line: Option<&&str>| line.map_or("(end of file)".to_owned(), |line| (*line).to_owned());
    text.push_str(&format!("  - {}\n  + {}", show(left.get(at)), show(right.get(at))));
    if at == left.len() && at == right.len() {
        text.push_str("\n    (only the newline at the end differs)");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let text = difference("a\nb\nc\n", "a\nb\nd\n").unwrap();
        assert!(text.starts_with("line 3\n") && text.contains("- c\n  + d"), "{text}");
        assert!(difference("a\n", "a\nb\n").unwrap().contains("- (end of file)\n  + b"));
        assert!(difference("a", "a\n").unwrap().contains("newline at the end"));
    }

    #[test]
    fn a_golden_file_that_differs_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("golden");
        std::fs::write(&path, "one\n").unwrap();
        golden(&path, "one\n");
        let caught = std::panic::catch_unwind(|| golden(&path, "two\n"));
        assert!(blessing() || caught.is_err());
    }
}
