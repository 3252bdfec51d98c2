//! Counting what test programs say.

use std::collections::BTreeSet;

/// How the reason of an `#[ignore]` begins on a function that is run by hand: it measures something, or writes files.
/// It asserts nothing, so it is no test and not counted.
pub const BY_HAND: &[&str] = &["measures", "writes "];

/// How many tests passed, failed and were skipped, and which.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// The test and why, for each that was skipped.
    pub skips: Vec<String>,
    /// Those that failed.
    pub failures: Vec<String>,
}

impl Tally {
    /// One check and whether it holds.
    pub fn check(name: &str, holds: bool) -> Self {
        if holds {
            Self { passed: 1, ..Self::default() }
        } else {
            Self { failed: 1, failures: vec![name.to_owned()], ..Self::default() }
        }
    }

    /// Adds what others counted.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
    }

    /// Counts the output of a test program of Rust's harness. `name` is the program's; `succeeded` whether it ended
    /// with success. Skips are lines `SKIPPED: <test>: <why>`, printed by tests that then pass.
    pub fn parse(name: &str, output: &str, succeeded: bool) -> Self {
        let mut tally = Self::default();
        let mut harness = false;
        for line in output.lines() {
            if let Some(skip) = line.strip_prefix("SKIPPED: ") {
                tally.skips.push(skip.to_owned());
            } else if let Some(rest) = line.strip_prefix("test result: ") {
                harness = true;
                tally.passed += number_before(rest, " passed");
                tally.failed += number_before(rest, " failed");
            } else if let Some(test) = line.strip_prefix("test ") {
                if let Some((test, reason)) = test.split_once(" ... ignored") {
                    let reason = reason.trim_start_matches(", ");
                    if !BY_HAND.iter().any(|start| reason.starts_with(start)) {
                        tally.skipped += 1;
                        tally.skips.push(format!("{test}: ignored {reason}").trim_end().to_owned());
                    }
                } else if let Some(test) = test.strip_suffix(" ... FAILED") {
                    tally.failures.push(format!("{name} {test}"));
                }
            }
        }
        // A test that said so counts as skipped and no longer as passed; "test (part)" is a part of one that ran
        // otherwise. Where nothing may be skipped it has failed, and is counted there.
        let mut tests = BTreeSet::new();
        for line in output.lines().filter_map(|line| line.strip_prefix("SKIPPED: ")) {
            let said = line.split(": ").next().unwrap_or(line);
            let test = said.split(" (").next().unwrap_or(said);
            if tally.failures.iter().any(|failure| failure.rsplit([' ', ':']).next() == Some(test)) {
                continue;
            }
            tally.skipped += 1;
            if said == test && tests.insert(test) {
                tally.passed = tally.passed.saturating_sub(1);
            }
        }
        if !harness && succeeded {
            tally.passed += 1;
        }
        if !succeeded && tally.failed == 0 {
            tally.failed += 1;
            tally.failures.push(format!("{name} (the program died)"));
        }
        tally
    }

    /// The line that closes a run.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

fn number_before(text: &str, word: &str) -> usize {
    text.split(word).next().and_then(|head| head.rsplit(' ').next()).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_is_counted() {
        let output = "\nrunning 5 tests\ntest a ... ok\ntest m::b ... FAILED\ntest c ... ignored, measures the disk\n\
                      test d ... ignored\ntest e ... ok\n\nSKIPPED: e: age 1.3 (BULLA_TEST_AGE)\n\
                      test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.1s\n";
        let tally = Tally::parse("x", output, false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (11, 1, 2));
        assert_eq!(tally.failures, ["x m::b"]);
        assert_eq!(tally.skips, ["d: ignored", "e: age 1.3 (BULLA_TEST_AGE)"]);
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let output = "SKIPPED: a: no age\nSKIPPED: b (SSH keys): no ssh-keygen\n\
                      test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        let tally = Tally::parse("x", output, true);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 0, 2));
    }

    #[test]
    fn a_skip_that_failed_counts_once() {
        let output = "test interop::a ... FAILED\n---- interop::a stdout ----\nSKIPPED: a: no age\n\
                      test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        assert_eq!(Tally::parse("x", output, false).line(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_program_that_died_has_failed_and_one_without_a_harness_counts_once() {
        assert_eq!(Tally::parse("x", "running 2 tests\ntest a ... ", false).failures, ["x (the program died)"]);
        assert_eq!(Tally::parse("x", "done\n", true).line(), "1 passed, 0 failed, 0 skipped");
        let mut sum = Tally::check("y", false);
        sum.add(Tally::check("z", true));
        assert_eq!((sum.line().as_str(), sum.failures), ("1 passed, 1 failed, 0 skipped", vec!["y".to_owned()]));
    }
}
