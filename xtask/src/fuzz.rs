//! `cargo xtask fuzz`: builds the parsers with libFuzzer on the pinned toolchain, and runs them one after the other.
//!
//! The flags are those of `cargo fuzz --sanitizer none`: coverage of our code and of what it is built of, no address
//! sanitizer, which would need a nightly toolchain and which code without `unsafe` hardly needs. What is found goes to
//! `target/fuzz`; only `--merge` writes into the repository.

use crate::tally::Tally;
use crate::workspace::{Stop, cargo, root, target};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How rustc is to tell the fuzzer which way an input went.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg fuzzing",
];

/// Seconds for each target in a long run.
pub const SECONDS: u64 = 600;
/// What the repository keeps of a target; `fuzz/tests/corpus.rs` holds it.
const FILES_MAX: usize = 128;
const FILE_BYTES_MAX: u64 = 8 * 1024;
/// How many inputs one merge adds at most: what finds most in few bytes, not everything.
const ADDED_MAX: usize = 16;
/// Seconds that one input may take: an identity file asks for no passphrase, so nothing is slow on purpose.
const TIMEOUT: u64 = 20;
const MEMORY_MB: u64 = 2048;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds for each target.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Afterwards add the smallest inputs that reach something new to the corpus in the repository.
    #[arg(long)]
    merge: bool,
    /// List the targets and end.
    #[arg(long)]
    list: bool,
    /// Only these targets; all if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Runs the targets; whether none failed.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    let known = targets()?;
    if arguments.list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    if let Some(name) = arguments.targets.iter().find(|name| !known.contains(*name)) {
        return Err(Stop(format!("there is no target {name}; there are {}", known.join(", "))));
    }
    let chosen = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    let tally = run_targets(&chosen, arguments.seconds, arguments.merge)?;
    Ok(tally.failed == 0)
}

/// Every target for so many seconds; one check each.
pub fn run_all(seconds: u64) -> Result<Tally, Stop> {
    run_targets(&targets()?, seconds, false)
}

/// The targets are the folders of the corpus, as a test of the package holds.
fn targets() -> Result<Vec<String>, Stop> {
    let folder = corpus("");
    let failed = |error: io::Error| Stop(format!("cannot read {}: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn corpus(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name)
}

fn run_targets(names: &[String], seconds: u64, merge: bool) -> Result<Tally, Stop> {
    let program = build()?;
    let mut tally = Tally::default();
    for name in names {
        let fuzzed = Fuzzed { program: &program, name };
        tally.add(Tally::check(&format!("fuzz {name}"), fuzzed.run(seconds)?));
        if merge {
            fuzzed.merge()?;
        }
    }
    Ok(tally)
}

/// Builds the program in a folder of its own, for a named platform: then build scripts and macros take no flags.
fn build() -> Result<PathBuf, Stop> {
    let output =
        Command::new("rustc").arg("-vV").output().map_err(|error| Stop(format!("cannot run rustc: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Stop("rustc -vV names no host".to_owned()))?;
    let folder = target().join("fuzz");
    let status = cargo()
        .args(["build", "--quiet", "--profile", "fuzz", "--package", "bulla-fuzz", "--bin", "fuzz"])
        .args(["--features", "libfuzzer", "--target", host, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .map_err(|error| Stop(format!("cannot run cargo: {error}")))?;
    if !status.success() {
        return Err(Stop(
            "the fuzzer does not build; it needs a C++ compiler besides what the product needs".to_owned(),
        ));
    }
    Ok(folder.join(host).join("fuzz/fuzz"))
}

/// One target.
struct Fuzzed<'a> {
    program: &'a Path,
    name: &'a str,
}

impl Fuzzed<'_> {
    /// A folder of this target beneath `target/fuzz`.
    fn folder(&self, kind: &str) -> Result<PathBuf, Stop> {
        let folder = target().join("fuzz").join(kind).join(self.name);
        fs::create_dir_all(&folder).map_err(|error| Stop(format!("cannot make {}: {error}", folder.display())))?;
        Ok(folder)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("BULLA_FUZZ_TARGET", self.name).arg(format!("-max_len={FILE_BYTES_MAX}"));
        command
    }

    /// Runs what was found before and goes on from there; whether nothing failed.
    fn run(&self, seconds: u64) -> Result<bool, Stop> {
        let (found, crashes) = (self.folder("corpus")?, self.folder("crashes")?);
        let output = self
            .command()
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-print_final_stats=1".as_ref(), found.as_os_str(), corpus(self.name).as_os_str()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Stop(format!("cannot run {}: {error}", self.program.display())))?;
        let told = String::from_utf8_lossy(&output.stderr);
        let log = target().join("fuzz").join(format!("{}.log", self.name));
        fs::write(&log, told.as_bytes()).map_err(|error| Stop(format!("cannot write {}: {error}", log.display())))?;
        println!("  {:12} {}", self.name, Told::read(&told));
        if output.status.success() {
            return Ok(true);
        }
        // What the target said, not how the fuzzer took it.
        told.lines().filter(|line| line.contains("panicked at") || line.contains("ERROR:")).for_each(|line| {
            println!("    {line}");
        });
        println!("    all of it in {}", log.display());
        for file in told.lines().filter_map(|line| line.split_once("Test unit written to ")) {
            let program = self.program.display();
            println!("    replay it: BULLA_FUZZ_TARGET={} {program} {}", self.name, file.1);
            println!("    mend it and keep it under a name that says what it is: fuzz/corpus/{}/", self.name);
        }
        Ok(false)
    }

    /// Adds what reaches something new to the corpus in the repository.
    fn merge(&self) -> Result<(), Stop> {
        let failed = |error: io::Error| Stop(format!("cannot merge {}: {error}", self.name));
        let (found, merged) = (self.folder("corpus")?, self.folder("merged")?);
        fs::remove_dir_all(&merged).and_then(|()| fs::create_dir(&merged)).map_err(failed)?;
        let kept = corpus(self.name);
        let status = self.command().arg("-merge=1").args([&merged, &kept, &found]).stderr(Stdio::null()).status();
        if !status.map_err(failed)?.success() {
            return Err(Stop(format!("libFuzzer does not merge {}", self.name)));
        }
        let read = |folder: &Path| -> io::Result<Vec<(u64, PathBuf)>> {
            let sized =
                |entry: io::Result<fs::DirEntry>| entry.and_then(|entry| Ok((entry.metadata()?.len(), entry.path())));
            fs::read_dir(folder)?.map(sized).collect()
        };
        let before: BTreeSet<Vec<u8>> = read(&kept)
            .map_err(failed)?
            .into_iter()
            .map(|(_, path)| fs::read(path))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let mut inputs = read(&merged).map_err(failed)?;
        inputs.sort();
        let room = FILES_MAX.saturating_sub(before.len()).min(ADDED_MAX);
        let mut added = 0;
        for (_, path) in inputs.into_iter().filter(|(length, _)| *length <= FILE_BYTES_MAX) {
            if added < room && !before.contains(&fs::read(&path).map_err(failed)?) {
                fs::copy(&path, kept.join(path.file_name().unwrap_or_default())).map_err(failed)?;
                added += 1;
            }
        }
        println!("  {:12} {added} inputs added to the corpus", "");
        Ok(())
    }
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    executions: u64,
    /// Places reached with the corpus alone, and in the end.
    coverage: Option<(u64, u64)>,
    added: u64,
    crashes: usize,
}

impl Told {
    fn read(text: &str) -> Self {
        let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let after = |line: &str, mark: &str| line.split_once(mark).and_then(|(_, rest)| number(rest));
        let stat = |name: &str| text.lines().find_map(|line| after(line, name)).unwrap_or_default();
        let first = text.lines().find(|line| line.contains("\tINITED ")).and_then(|line| after(line, " cov: "));
        let last = text.lines().rev().find_map(|line| line.starts_with('#').then(|| after(line, " cov: "))?);
        let crashes = text.lines().filter(|line| line.contains("Test unit written to ")).count();
        Self {
            executions: stat("stat::number_of_executed_units:"),
            coverage: first.zip(last),
            added: stat("stat::new_units_added:"),
            crashes,
        }
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { executions, coverage, added, crashes } = self;
        write!(f, "{executions} executions, ")?;
        if let Some((first, last)) = coverage {
            write!(f, "coverage {first} to {last}, ")?;
        }
        write!(f, "{added} new inputs, {crashes} crashes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_tells_is_read() {
        let text = "INFO: seed corpus: files: 7\n#8\tINITED cov: 120 ft: 300 corp: 7/900b exec/s: 0 rss: 40Mb\n\
                    #16\tNEW    cov: 124 ft: 310 corp: 8/950b\n#90\tDONE   cov: 125 ft: 333 corp: 9/1Kb\n\
                    stat::number_of_executed_units: 90\nstat::new_units_added:          2\n";
        let told = Told { executions: 90, coverage: Some((120, 125)), added: 2, crashes: 0 };
        assert_eq!(Told::read(text), told);
        assert_eq!(told.to_string(), "90 executions, coverage 120 to 125, 2 new inputs, 0 crashes");
        let crash = format!("{text}artifact_prefix='x/'; Test unit written to x/crash-0\n");
        assert_eq!(Told::read(&crash).crashes, 1);
    }

    #[test]
    fn every_target_has_a_folder() {
        assert!(targets().unwrap().contains(&"json".to_owned()));
    }
}
