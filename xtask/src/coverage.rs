//! `cargo xtask coverage`: which lines of the product the tests run, counted by LLVM. It builds everything anew, into a
//! folder of its own, so it is for a night or a question, not for every change.
//!
//! A process that is killed on purpose leaves no counts, so what only those reach is counted too low.

use crate::setup::{Tools, done};
use crate::tally::Tally;
use crate::workspace::{Stop, cargo, root, target};
use std::os::unix::fs::symlink;
use std::process::Command;

/// Groups whose tests say nothing about coverage, or the same as all others.
const LEFT_OUT: &[&str] = &["fmt", "tidy", "clippy", "fuzz", "release", "mutants", "coverage"];
/// What is played by seed is played once: of many thousand times nearly every line is known after the first.
const ONE_SEED: (&str, &str) = ("BULLA_TEST_SEED", "1");
/// What is no part of the product.
const NOT_OURS: &str = "/(tests|testkit|xtask|fuzz)/|tests\\.rs$";

/// What to count.
#[derive(clap::Args)]
pub struct Arguments {
    /// The groups of `cargo xtask test` to run; without any, those that reach most in their time.
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,
}

/// Runs the tests and prints a table of lines by file; whether the tests passed.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    let groups = if arguments.groups.is_empty() { default_groups() } else { arguments.groups.clone() };
    let folder = target().join("coverage");
    let mut llvm = Tools::new().llvm_cov()?;
    // The tests look for the programs of others below the folder that they are built in.
    let tools = folder.join("tools");
    if !tools.exists() {
        let linked = std::fs::create_dir_all(&folder).and_then(|()| symlink(target().join("tools"), &tools));
        linked.map_err(|error| Stop(format!("cannot link {}: {error}", tools.display())))?;
    }
    let told = llvm
        .args(["show-env"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", &folder)
        .output()
        .map_err(|error| Stop(format!("cannot run cargo llvm-cov: {error}")))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let environment: Vec<(&str, &str)> = told.lines().filter_map(assignment).collect();
    if environment.is_empty() {
        return Err(Stop("cargo llvm-cov tells no environment".to_owned()));
    }
    let with = |command: &mut Command| {
        command.envs(environment.iter().copied()).env("CARGO_TARGET_DIR", &folder).current_dir(root());
    };
    let llvm_cov = || {
        let mut command = Command::new(llvm.get_program());
        command.arg("llvm-cov");
        command
    };
    let mut clean = llvm_cov();
    with(clean.args(["clean", "--workspace", "--profraw-only"]));
    done(&mut clean, "cargo llvm-cov clean")?;
    let mut tests = cargo();
    with(tests.args(["run", "--quiet", "--package", "xtask", "--", "test"]).args(&groups));
    tests.env(ONE_SEED.0, ONE_SEED.1);
    let status = tests.status().map_err(|error| Stop(format!("cannot run the tests: {error}")))?;
    let mut report = llvm_cov();
    with(report.args(["report", "--summary-only", "--ignore-filename-regex", NOT_OURS]));
    done(&mut report, "cargo llvm-cov report")?;
    Ok(status.success())
}

/// The same, as a step of a long run.
pub fn check() -> Result<Tally, Stop> {
    Ok(Tally::check("coverage counted", run(&Arguments { groups: vec![] })?))
}

fn default_groups() -> Vec<String> {
    let groups = crate::groups::GROUPS.iter().map(|group| group.name.to_owned());
    groups.filter(|name| !LEFT_OUT.contains(&name.as_str())).collect()
}

/// A line of `show-env`: NAME='value', or without the quotes.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    Some((name, value.trim_matches('\'')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read() {
        assert_eq!(assignment("LLVM_PROFILE_FILE='/a/b-%p.profraw'"), Some(("LLVM_PROFILE_FILE", "/a/b-%p.profraw")));
        assert_eq!(assignment("CARGO_LLVM_COV=1"), Some(("CARGO_LLVM_COV", "1")));
        assert_eq!(assignment("nothing"), None);
    }

    #[test]
    fn what_is_left_out_is_there() {
        for name in LEFT_OUT {
            assert!(crate::groups::GROUPS.iter().any(|group| group.name == *name), "{name}");
        }
        assert!(default_groups().contains(&"integration".to_owned()));
    }
}
