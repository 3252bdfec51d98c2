//! What a release binary must be: one file of moderate size that needs nothing but libc, and that no test's switch can
//! kill.

use crate::tally::Tally;
use crate::workspace::{Stop, cargo, root, target};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Largest size in bytes: what a node pulls at every start should stay small.
const SIZE_MAX: usize = 40 * 1024 * 1024;
/// Cargo's arguments.
const BUILD: &[&str] = &["build", "--quiet", "--release", "--locked", "-p", "bulla"];
/// Libraries that belong to libc, as the names of their files begin.
const LIBC: &[&str] = &["linux-vdso", "ld-linux", "libc.", "libm.", "libgcc_s.", "libpthread.", "libdl.", "librt."];

/// Begins to build it, on what the tests leave of the processor: many of them wait more than they compute.
pub fn ahead() -> Result<Child, Stop> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(cargo().get_program()).args(BUILD).stdin(Stdio::null()).current_dir(root());
    command.spawn().map_err(|error| Stop(format!("cannot run nice: {error}")))
}

/// Builds it and looks at it.
pub fn run() -> Result<Tally, Stop> {
    let built = cargo().args(BUILD).status().map_err(|error| Stop(format!("cannot run cargo: {error}")))?;
    if !built.success() {
        return Ok(Tally::check("release build", false));
    }
    let path = target().join("release/bulla");
    let binary = std::fs::read(&path).map_err(|error| Stop(format!("cannot read {}: {error}", path.display())))?;
    let mut tally = Tally::check("release build", true);

    println!("    {:.1} MiB", binary.len() as f64 / (1024.0 * 1024.0));
    tally.add(Tally::check("release binary is at most 40 MiB", binary.len() <= SIZE_MAX));

    let strange = foreign_libraries(&path)?;
    if !strange.is_empty() {
        println!("    needs {}", strange.join(", "));
    }
    tally.add(Tally::check("release binary needs nothing but libc", strange.is_empty()));

    let points = failpoints(&root())?;
    let found: Vec<&String> = points.iter().filter(|point| holds(&binary, point.as_bytes())).collect();
    if !found.is_empty() {
        println!("    holds {found:?}");
    }
    tally.add(Tally::check("release binary holds no failpoint", found.is_empty() && points.len() > 1));
    tally.add(crate::deb::check()?);
    Ok(tally)
}

/// The variable and the names of all failpoints, from the source.
fn failpoints(root: &Path) -> Result<BTreeSet<String>, Stop> {
    let mut names = BTreeSet::from(["BULLA_FAILPOINT".to_owned()]);
    for file in crate::tidy::Tree::read(root)?.files {
        if file.path.ends_with("src/failpoint.rs") {
            let constants = file.text.lines().filter_map(|line| line.strip_prefix("pub const "));
            let values = constants.filter_map(|line| line.split_once(": &str = \""));
            names.extend(values.filter_map(|(_, value)| value.strip_suffix("\";")).map(str::to_owned));
        }
    }
    Ok(names)
}

fn foreign_libraries(binary: &Path) -> Result<Vec<String>, Stop> {
    let output = Command::new("ldd").arg(binary).output().map_err(|error| Stop(format!("cannot run ldd: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|library| library.rsplit('/').next().unwrap_or(library).to_owned())
        .filter(|library| library != "statically" && !LIBC.iter().any(|start| library.starts_with(start)))
        .collect())
}

fn holds(binary: &[u8], text: &[u8]) -> bool {
    binary.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoints_are_read_from_the_source_and_found() {
        let names = failpoints(&root()).unwrap();
        for name in ["BULLA_FAILPOINT", "store.commit.before", "drive.after_commit", "serve.before_claim_reply"] {
            assert!(names.contains(name), "{name} is missing in {names:?}");
        }
        assert!(holds(b"..BULLA_FAILPOINT..", b"BULLA_FAILPOINT"));
        assert!(!holds(b"..BULLA_FAILPOIN", b"BULLA_FAILPOINT"));
    }

    #[test]
    fn libraries_are_listed() {
        assert_eq!(foreign_libraries(&std::env::current_exe().unwrap()).unwrap(), Vec::<String>::new());
    }
}
