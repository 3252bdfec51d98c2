//! Every file of the corpus and mutations of it, as ordinary tests: what a fuzzer found once stays found.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use bulla_fuzz::{Mutations, TARGETS, Target};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Mutations for each target in a change and in a night.
const MUTATIONS: usize = 2_000;
const MUTATIONS_LONG: usize = 50_000;
/// The repository keeps little: `cargo xtask fuzz --merge` obeys the same limits.
const FILES_MAX: usize = 128;
/// A chain of two documents of a small cluster has 7 KiB.
const FILE_BYTES_MAX: usize = 8 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of a target's corpus, in the order of their names.
fn files(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus().join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{} has no corpus: {error}", target.name));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs a target, and keeps the input if it fails.
fn run(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let kept = std::env::temp_dir().join(format!("bulla-fuzz-{}", target.name));
        fs::write(&kept, input).unwrap();
        panic!("{}: {what} fails; the input is in {}", target.name, kept.display());
    }
}

#[test]
fn every_file_passes() {
    let mut count = 0;
    for target in TARGETS {
        let files = files(target);
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        assert!(files.len() <= FILES_MAX, "{} has more than {FILES_MAX} files", target.name);
        for (name, input) in &files {
            assert!(input.len() <= FILE_BYTES_MAX, "{}/{name} is larger than {FILE_BYTES_MAX} bytes", target.name);
            run(target, input, name);
        }
        run(target, b"", "the empty input");
        count += files.len();
    }
    println!("{count} files for {} targets", TARGETS.len());
}

#[test]
fn every_folder_is_a_targets() {
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(TARGETS.iter().any(|target| name == target.name), "{name:?} is no target");
    }
}

/// The seed is fixed, so that a failure comes again; `BULLA_TEST_SEED` tries another.
#[test]
fn mutations_pass() {
    let seed = std::env::var("BULLA_TEST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let each = if bulla_testkit::long() { MUTATIONS_LONG } else { MUTATIONS };
    for target in TARGETS {
        let begun = std::time::Instant::now();
        let inputs: Vec<Vec<u8>> = files(target).into_iter().map(|(_, input)| input).collect();
        let mut mutations = Mutations::new(seed);
        for number in 0..each {
            let from = mutations.below(inputs.len());
            let input = mutations.of(&inputs[from], &inputs);
            run(target, &input, &format!("mutation {number} of seed {seed}"));
        }
        println!("{:12} {each} mutations, {:.2} s", target.name, begun.elapsed().as_secs_f64());
    }
}
