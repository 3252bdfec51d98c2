//! `cargo xtask mutants`: changes the source of the crates that decide, one place at a time, and sees whether a test of the
//! same crate notices. What survives is a rule that no test holds.
//!
//! All of it takes a night and more, so it goes by shards. What may survive stands in `.cargo/mutants.toml`, each with its
//! reason; anything else that survives fails the task.

use crate::setup::Tools;
use crate::tally::Tally;
use crate::workspace::{Stop, root, target};

/// The crates whose every line decides something: formats, cryptography, decisions.
const PACKAGES: &[&str] = &["bulla-wire", "bulla-crypto", "bulla-core"];
/// Seconds for one run of a crate's tests: many times what they take. A mutant that loops is noticed by that.
const TIMEOUT: &str = "300";

/// What to change.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the K-th of N parts of the mutants, from 0.
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Only those in files of this name, such as `crates/core/src/seal/*.rs`; repeatable.
    #[arg(long, value_name = "GLOB")]
    file: Vec<String>,
    /// Of these packages; without any, of all that decide.
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
}

/// Runs the mutants; whether all that may not survive were noticed.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    let chosen: Vec<&str> = if arguments.packages.is_empty() {
        PACKAGES.to_vec()
    } else {
        arguments.packages.iter().map(String::as_str).collect()
    };
    let mut all = true;
    for package in chosen {
        let folder = target().join("mutants").join(package);
        std::fs::create_dir_all(&folder).map_err(|error| Stop(format!("cannot make {}: {error}", folder.display())))?;
        let mut command = Tools::new().mutants()?;
        command.args(["--package", package, "--timeout", TIMEOUT, "--colors", "never", "--output"]);
        command.arg(&folder).current_dir(root());
        if let Some(shard) = &arguments.shard {
            command.args(["--shard", shard]);
        }
        for file in &arguments.file {
            command.args(["--file", file]);
        }
        let status = command.status().map_err(|error| Stop(format!("cannot run cargo mutants: {error}")))?;
        println!("{package}: {}", if status.success() { "none survived" } else { "see missed.txt" });
        println!("  all of it in {}", folder.join("mutants.out").display());
        all &= status.success();
    }
    Ok(all)
}

/// The same, as a step of a long run.
pub fn check() -> Result<Tally, Stop> {
    let all = run(&Arguments { shard: None, file: vec![], packages: vec![] })?;
    Ok(Tally::check("no mutant survives without a reason", all))
}
