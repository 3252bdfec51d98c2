//! `cargo xtask mutants`: changes the source of the crates that decide, one place at a time, and sees whether a test of the
//! same crate notices. What survives is a rule that no test holds.
//!
//! All of it takes hours, so it goes by areas, and what is most likely to notice is asked first: the tests beside the code
//! of the same module, then the files of tests nearest to the area, at first without those that take long, then all tests of
//! the crate. A run ends with its first test that fails. What was noticed before is not tried again, so a run that was ended
//! goes on where it was. What may survive stands in `.cargo/mutants.toml`, each with its reason; anything else fails the task.

use crate::setup::{Tools, done};
use crate::tally::Tally;
use crate::workspace::{Stop, root, target};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds for one run of tests: many times what they take. A mutant that loops is noticed by that.
const TIMEOUT: &str = "60";
/// The same for runs that leave out none of those that take long.
const TIMEOUT_WHOLE: &str = "900";

/// A part of the crates whose every line decides something: formats, cryptography, decisions.
struct Area {
    name: &'static str,
    package: &'static str,
    /// Whatever begins so, and no longer beginning of another area fits.
    begins: &'static [&'static str],
    /// The files of tests that notice most, beside the tests of the same module.
    nearest: &'static [&'static str],
}

/// Tests that take half a second or more without optimisation, and whose every mutant but few another test notices first:
/// they run later.
const SLOW: &[&str] = &[
    "a_flood_of_alarms_does_not_outgrow_the_webhooks_list",
    "a_private_key_is_written_as_it_is_read",
    "a_rotation_keeps_the_chain_and_tells_the_holder",
    "a_stanza_for_another_ssh_key_is_passed_over",
    "an_older_age_with_classical_keys",
    "any_k_of_n_open_and_fewer_do_not",
    "every_byte_of_a_share_counts",
    "every_byte_of_the_configuration_counts",
    "every_byte_of_the_keyring_counts",
    "every_flipped_bit_is_seen",
    "every_k_shares_open_and_fewer_do_not",
    "in_the_end_no_user_is_left",
    "keys_from_raw_parts_equal_those_from_der",
    "limits",
    "malformed_stanzas_of_ssh_kinds_spoil_the_header",
    "many_epochs",
    "private_keys_do_not_print",
    "ssh_keys_serve_as_they_are",
    "ssh_keys_that_cannot_serve_are_named",
    "statements_about_others_are_not_looked_at",
    "what_is_remembered_is_what_would_be_decided",
    "what_is_shown_and_listed_at_once_has_an_end",
    "what_is_told_is_what_the_database_has",
    "whatever_is_done_a_model_does_the_same",
];

const AREAS: &[Area] = &[
    Area { name: "wire", package: "bulla-wire", begins: &["crates/wire/src/"], nearest: &[] },
    Area { name: "crypto", package: "bulla-crypto", begins: &["crates/crypto/src/"], nearest: &["envelopes"] },
    Area { name: "core", package: "bulla-core", begins: &["crates/core/src/"], nearest: &["people", "wrap"] },
    Area { name: "audit", package: "bulla-core", begins: &["crates/core/src/audit"], nearest: &["audit"] },
    Area {
        name: "barrier",
        package: "bulla-core",
        begins: &["crates/core/src/barrier", "crates/core/src/record", "crates/core/src/head"],
        nearest: &["barrier", "kv"],
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
        begins: &["crates/core/src/seal", "crates/core/src/founding"],
        nearest: &["seal"],
    },
    Area { name: "rekey", package: "bulla-core", begins: &["crates/core/src/engine/rekey"], nearest: &["rekey"] },
    Area { name: "wrap", package: "bulla-core", begins: &["crates/core/src/engine/wrap"], nearest: &["wrap"] },
    Area { name: "kv", package: "bulla-core", begins: &["crates/core/src/engine/kv"], nearest: &["kv"] },
    Area { name: "transit", package: "bulla-core", begins: &["crates/core/src/engine/transit"], nearest: &["transit"] },
    Area { name: "lease", package: "bulla-core", begins: &["crates/core/src/engine/lease"], nearest: &["lease"] },
    Area {
        name: "database",
        package: "bulla-core",
        begins: &["crates/core/src/engine/database"],
        nearest: &["static_role", "lease"],
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
        let noticed = area.check(&tree, &folder, &files, arguments.shard.as_deref())?;
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

/// Which tests are asked.
enum Asked<'a> {
    /// Those within the source, of this module and what is below it, but the slow ones.
    Beside(&'a str),
    /// Some files of tests, but the slow ones of them.
    Quick(&'a [&'a str]),
    /// Some files of tests.
    Files(&'a [&'a str]),
    /// All of the package.
    All,
}

impl Area {
    /// Changes these files; whether tests notice each change.
    fn check(&self, tree: &Path, folder: &Path, files: &[&str], shard: Option<&str>) -> Result<bool, Stop> {
        for (module, files) in by_tested_module(tree, files) {
            self.run(tree, folder, &files, shard, &Asked::Beside(&module))?;
        }
        for asked in [Asked::Quick(self.nearest), Asked::Files(self.nearest)] {
            if !self.nearest.is_empty() && self.run(tree, folder, files, shard, &asked)? {
                return Ok(true);
            }
        }
        self.run(tree, folder, files, shard, &Asked::All)
    }

    fn run(
        &self,
        tree: &Path,
        folder: &Path,
        files: &[&str],
        shard: Option<&str>,
        asked: &Asked<'_>,
    ) -> Result<bool, Stop> {
        std::fs::create_dir_all(folder).map_err(|error| Stop(format!("cannot make {}: {error}", folder.display())))?;
        let mut command = Tools::new().mutants()?;
        let quick = matches!(asked, Asked::Beside(_) | Asked::Quick(_));
        let timeout = if quick { TIMEOUT } else { TIMEOUT_WHOLE };
        command.args(["--in-place", "--baseline", "skip", "--timeout", timeout, "--colors", "never", "--no-times"]);
        command.args(["--package", self.package, "--output"]).arg(folder);
        if folder.join("mutants.out").exists() {
            command.arg("--iterate");
        }
        // Built once and run once, it is sooner done when it is not optimised.
        command.arg(format!("--cargo-arg=--config=profile.dev.package.{}.opt-level=0", self.package));
        command.arg(format!("--cargo-arg=--config=target.'cfg(all())'.runner={}", runner()?));
        match asked {
            Asked::Beside(_) => {
                command.arg("--cargo-arg=--lib");
            }
            Asked::Quick(tests) | Asked::Files(tests) => {
                command.args(tests.iter().map(|tests| format!("--cargo-arg=--test={tests}")));
            }
            Asked::All => {}
        }
        if let Some(shard) = shard {
            command.args(["--shard", shard]);
        }
        command.args(files.iter().flat_map(|file| ["--file", file]));
        if quick {
            command.args(["--", "--"]).args(SLOW.iter().flat_map(|test| ["--skip", test]));
        }
        if let Asked::Beside(module) = asked {
            command.arg(format!("{module}::"));
        }
        // Lines of panics are of no use here, and less is linked without them.
        command.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_TARGET_DIR", target().join("mutants/build"));
        let status =
            command.current_dir(tree).status().map_err(|error| Stop(format!("cannot run cargo mutants: {error}")))?;
        match status.code() {
            Some(0 | 2 | 3) => {
                settle_loops(folder)?;
                listed(folder, "missed.txt").map(|missed| missed.is_empty())
            }
            _ => Err(Stop(format!("cargo mutants of {} ended with {status}", self.name))),
        }
    }
}

/// Tests of a module, below which asking them first costs more than it spares.
const WORTH_ASKING: usize = 3;

/// A list of those that were tried last, a line each. Where there was none to try, nothing is written.
fn listed(folder: &Path, name: &str) -> Result<String, Stop> {
    let list = folder.join("mutants.out").join(name);
    match std::fs::read_to_string(&list) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| Stop(format!("cannot read {}: {error}", list.display()))),
    }
}

/// Those that loop end by the time and are noticed by that, so nobody tries them again, which `cargo mutants` would.
fn settle_loops(folder: &Path) -> Result<(), Stop> {
    let looped = listed(folder, "timeout.txt")?;
    if looped.is_empty() {
        return Ok(());
    }
    let noticed = folder.join("mutants.out/caught.txt");
    let list = std::fs::OpenOptions::new().create(true).append(true).open(&noticed);
    list.and_then(|mut list| list.write_all(looped.as_bytes()))
        .map_err(|error| Stop(format!("cannot write {}: {error}", noticed.display())))
}

/// The files by the outermost module around each that has tests beside its code; those with few or none are left out.
fn by_tested_module<'a>(tree: &Path, files: &[&'a str]) -> BTreeMap<String, Vec<&'a str>> {
    let text = |file: &str| std::fs::read_to_string(tree.join(file)).unwrap_or_default();
    let read: Vec<(&str, String, String)> =
        files.iter().filter_map(|&file| Some((file, module_of(file)?, text(file)))).collect();
    let with_tests = read.iter().filter(|(_, _, text)| text.contains("#[cfg(test)]\nmod tests"));
    let tested: BTreeSet<&str> = with_tests.map(|(_, module, _)| module.as_str()).collect();
    let mut groups: BTreeMap<&str, (Vec<&str>, usize)> = BTreeMap::new();
    for (file, module, text) in &read {
        let mut around = module.match_indices("::").map(|(at, _)| &module[..at]).chain([module.as_str()]);
        if let Some(module) = around.find(|module| tested.contains(module)) {
            let (files, tests) = groups.entry(module).or_default();
            files.push(file);
            *tests += text.matches("#[test]").count();
        }
    }
    let worth = groups.into_iter().filter(|(_, (_, tests))| *tests >= WORTH_ASKING);
    worth.map(|(module, (files, _))| (module.to_owned(), files)).collect()
}

/// The module that a source is, as tests are named by it.
fn module_of(file: &str) -> Option<String> {
    let (_, path) = file.split_once("/src/")?;
    Some(path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::"))
}

/// What cargo runs test programs by: this program, as TOML.
fn runner() -> Result<String, Stop> {
    let own = std::env::current_exe().map_err(|error| Stop(format!("cannot find this program: {error}")))?;
    Ok(format!("[{:?}, \"until-failure\"]", own.display().to_string()))
}

/// A test program and what it is given.
#[derive(clap::Args)]
pub struct Program {
    #[arg(value_name = "PROGRAM", allow_hyphen_values = true, trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// Runs a test program until its end or the first test that fails; whether none did.
pub fn until_failure(program: &Program) -> Result<bool, Stop> {
    run_until_failure(program, &mut std::io::stdout())
}

fn run_until_failure(program: &Program, shown: &mut impl Write) -> Result<bool, Stop> {
    let (first, arguments) = program.command.split_first().ok_or_else(|| Stop("no program".to_owned()))?;
    let failed = |error: std::io::Error| Stop(format!("cannot run {}: {error}", first.display()));
    let mut child = Command::new(first).args(arguments).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let said = child.stdout.take().map(BufReader::new);
    for line in said.into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(failed)?;
        writeln!(shown, "{line}").map_err(failed)?;
        if line.starts_with("test ") && line.ends_with("FAILED") {
            child.kill().map_err(failed)?;
        }
    }
    child.wait().map(|status| status.success()).map_err(failed)
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
    fn a_source_is_asked_by_the_outermost_module_with_tests() {
        let files = sources(&root()).unwrap();
        let files: Vec<&str> =
            files.iter().map(String::as_str).filter(|file| file.starts_with("crates/crypto/")).collect();
        let groups = by_tested_module(&root(), &files);
        assert!(groups["evidence"].contains(&"crates/crypto/src/evidence/record.rs"), "{groups:?}");
        assert!(!groups.contains_key("evidence::record") && !groups.contains_key("envelope::transit"), "{groups:?}");
    }

    #[test]
    fn a_program_ends_with_its_first_failure() {
        let run = |script: &str| {
            let begun = std::time::Instant::now();
            let command = ["sh", "-c", script].map(OsString::from).to_vec();
            (run_until_failure(&Program { command }, &mut Vec::new()).unwrap(), begun.elapsed().as_secs() < 30)
        };
        assert_eq!(run("echo 'test a ... ok'"), (true, true));
        assert_eq!(run("exit 1"), (false, true));
        assert_eq!(run("echo 'test a ... FAILED'; exec sleep 60"), (false, true));
    }

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
