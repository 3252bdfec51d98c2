//! `cargo xtask mutants`: changes the source of the crates that decide, one place at a time, and sees whether a test of the
//! same crate notices. What survives is a rule that no test holds.
//!
//! All of it takes hours, so it goes by areas, each with the files of tests that are most likely to notice; what survives
//! those is tried with all tests of the crate. What was noticed before is not tried again, so a run that was ended goes on
//! where it was. What may survive stands in `.cargo/mutants.toml`, each with its reason; anything else fails the task.

use crate::setup::{Tools, done};
use crate::tally::Tally;
use crate::workspace::{Stop, root, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds for one run of tests: many times what they take. A mutant that loops is noticed by that.
const TIMEOUT: &str = "120";

/// A part of the crates whose every line decides something: formats, cryptography, decisions.
struct Area {
    name: &'static str,
    package: &'static str,
    /// Whatever begins so, and no longer beginning of another area fits.
    begins: &'static [&'static str],
    /// The files of tests that notice most, beside the tests within the source.
    nearest: &'static [&'static str],
}

/// Tests that take seconds each, and whose every mutant but few another test notices first: they run with all tests.
const SLOW: &[&str] = &[
    "any_k_of_n_open_and_fewer_do_not",
    "every_byte_of_a_share_counts",
    "every_k_shares_open_and_fewer_do_not",
    "ssh_keys_serve_as_they_are",
    "an_older_age_with_classical_keys",
    "a_stanza_for_another_ssh_key_is_passed_over",
];

const AREAS: &[Area] = &[
    Area { name: "wire", package: "bulla-wire", begins: &["crates/wire/src/"], nearest: &[] },
    Area { name: "crypto", package: "bulla-crypto", begins: &["crates/crypto/src/"], nearest: &["envelopes"] },
    Area { name: "core", package: "bulla-core", begins: &["crates/core/src/"], nearest: &["people", "kv", "wrap"] },
    Area { name: "audit", package: "bulla-core", begins: &["crates/core/src/audit"], nearest: &["audit"] },
    Area {
        name: "barrier",
        package: "bulla-core",
        begins: &["crates/core/src/barrier", "crates/core/src/record", "crates/core/src/head"],
        nearest: &["barrier", "kv", "wrap"],
    },
    Area {
        name: "policy",
        package: "bulla-core",
        begins: &["crates/core/src/policy", "crates/core/src/action"],
        nearest: &["policy", "policy_text"],
    },
    Area {
        name: "seal",
        package: "bulla-core",
        begins: &["crates/core/src/seal", "crates/core/src/founding", "crates/core/src/engine/rekey"],
        nearest: &["seal", "rekey"],
    },
    Area { name: "wrap", package: "bulla-core", begins: &["crates/core/src/engine/wrap"], nearest: &["wrap"] },
    Area { name: "kv", package: "bulla-core", begins: &["crates/core/src/engine/kv"], nearest: &["kv"] },
    Area { name: "transit", package: "bulla-core", begins: &["crates/core/src/engine/transit"], nearest: &["transit"] },
    Area {
        name: "lease",
        package: "bulla-core",
        begins: &["crates/core/src/engine/lease", "crates/core/src/engine/database"],
        nearest: &["lease", "static_role"],
    },
];

/// What to change.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the K-th of N parts of the mutants of each area, from 0.
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Try again what was noticed before.
    #[arg(long)]
    anew: bool,
    /// Of these areas; without any, of all.
    #[arg(value_name = "AREA", value_parser = AREAS.iter().map(|area| area.name).collect::<Vec<_>>())]
    areas: Vec<String>,
}

/// Runs the mutants; whether all that may not survive were noticed.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    let tree = tree()?;
    let files = sources(&tree)?;
    let chosen = |area: &&Area| arguments.areas.is_empty() || arguments.areas.iter().any(|name| name == area.name);
    let mut all = true;
    for area in AREAS.iter().filter(chosen) {
        let files: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_in(area, file)).collect();
        let folder = target().join("mutants").join(area.name);
        if arguments.anew && folder.exists() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| Stop(format!("cannot remove {}: {error}", folder.display())))?;
        }
        let noticed = area.run(&tree, &folder, &files, arguments.shard.as_deref(), true)?
            || area.run(&tree, &folder, &files, arguments.shard.as_deref(), false)?;
        println!("{}: {}", area.name, if noticed { "none survived" } else { "see missed.txt" });
        println!("  all of it in {}", folder.join("mutants.out").display());
        all &= noticed;
    }
    Ok(all)
}

/// The same, as a step of a long run.
pub fn check() -> Result<Tally, Stop> {
    let all = run(&Arguments { shard: None, anew: false, areas: vec![] })?;
    Ok(Tally::check("no mutant survives without a reason", all))
}

impl Area {
    /// Changes these files; whether tests notice each change, by the nearest ones or by all of the crate.
    fn run(&self, tree: &Path, folder: &Path, files: &[&str], shard: Option<&str>, near: bool) -> Result<bool, Stop> {
        std::fs::create_dir_all(folder).map_err(|error| Stop(format!("cannot make {}: {error}", folder.display())))?;
        let mut command = Tools::new().mutants()?;
        command.args(["--in-place", "--baseline", "skip", "--timeout", TIMEOUT, "--colors", "never", "--no-times"]);
        command.args(["--package", self.package, "--output"]).arg(folder);
        if folder.join("mutants.out").exists() {
            command.arg("--iterate");
        }
        // Built once and run once, it is sooner done when it is not optimised.
        command.arg(format!("--cargo-arg=--config=profile.dev.package.{}.opt-level=0", self.package));
        if near {
            command.arg("--cargo-arg=--lib");
            command.args(self.nearest.iter().map(|tests| format!("--cargo-arg=--test={tests}")));
        }
        if let Some(shard) = shard {
            command.args(["--shard", shard]);
        }
        command.args(files.iter().flat_map(|file| ["--file", file]));
        if near {
            command.args(["--", "--"]).args(SLOW.iter().flat_map(|test| ["--skip", test]));
        }
        // Lines of panics are of no use here, and less is linked without them.
        command.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_TARGET_DIR", target().join("mutants/build"));
        let status =
            command.current_dir(tree).status().map_err(|error| Stop(format!("cannot run cargo mutants: {error}")))?;
        match status.code() {
            // None was missed; one that loops ended by the time, and is noticed by that.
            Some(0 | 3) => Ok(true),
            Some(2) => Ok(false),
            _ => Err(Stop(format!("cargo mutants of {} ended with {status}", self.name))),
        }
    }
}

/// The area of a file is the one with the longest beginning that fits.
fn is_in(area: &Area, file: &str) -> bool {
    let fits =
        |area: &Area| area.begins.iter().filter(|begin| file.starts_with(**begin)).map(|begin| begin.len()).max();
    fits(area).is_some() && fits(area) == AREAS.iter().filter_map(fits).max()
}

/// What is committed, in a folder of its own, where it can be changed and where cargo finds again what it built.
fn tree() -> Result<PathBuf, Stop> {
    let tree = target().join("mutants/tree");
    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        done(command.arg("-C").arg(folder).args(arguments), "git")
    };
    if tree.exists() {
        let head = Command::new("git").arg("-C").arg(root()).args(["rev-parse", "HEAD"]).output();
        let head = head.map_err(|error| Stop(format!("cannot run git: {error}")))?;
        git(&tree, &["checkout", "--quiet", "--force", "--detach", String::from_utf8_lossy(&head.stdout).trim()])?;
    } else {
        let path = tree.display().to_string();
        git(&root(), &["worktree", "add", "--quiet", "--force", "--detach", &path, "HEAD"])?;
    }
    Ok(tree)
}

/// The sources in it, by their path.
fn sources(tree: &Path) -> Result<Vec<String>, Stop> {
    let listed = Command::new("git").arg("-C").arg(tree).args(["ls-files", "crates/*.rs"]).output();
    let listed = listed.map_err(|error| Stop(format!("cannot run git: {error}")))?;
    Ok(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_in_one_area_and_each_area_has_some() {
        let files = sources(&root()).unwrap();
        let decides =
            |file: &str| ["wire", "crypto", "core"].iter().any(|name| file.starts_with(&format!("crates/{name}/src/")));
        for file in &files {
            let areas: Vec<&str> = AREAS.iter().filter(|area| is_in(area, file)).map(|area| area.name).collect();
            assert_eq!(areas.len(), usize::from(decides(file)), "{file}: {areas:?}");
        }
        for area in AREAS {
            assert!(files.iter().any(|file| is_in(area, file)), "{}", area.name);
            let package = area.package.trim_start_matches("bulla-");
            for tests in area.nearest {
                let folder = root().join("crates").join(package).join("tests");
                assert!(
                    folder.join(format!("{tests}.rs")).exists() || folder.join(tests).join("main.rs").exists(),
                    "{tests}"
                );
            }
        }
    }
}
