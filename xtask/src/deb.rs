//! `cargo xtask deb`: the Debian package, of the release binary, its manual pages, completions and unit.

use crate::setup::{Tools, done};
use crate::workspace::{Stop, cargo, root, target};
use std::fs::{self, File};
use std::process::Command;

/// Builds everything that goes into it, and it. Prints where it lies.
pub fn run() -> Result<bool, Stop> {
    let folder = target().join("packaging");
    let failed = |error: std::io::Error| Stop(format!("cannot write below {}: {error}", folder.display()));
    done(cargo().args(["build", "--release", "--locked", "-p", "bulla"]), "cargo build")?;
    let binary = target().join("release/bulla");
    // Pages of commands that are no more would stay.
    drop(fs::remove_dir_all(&folder));
    let man = folder.join("man");
    fs::create_dir_all(&man).map_err(failed)?;
    done(Command::new(&binary).arg("man").arg(&man), "bulla man")?;
    let completions = File::create(folder.join("bulla.bash")).map_err(failed)?;
    done(Command::new(&binary).args(["completions", "bash"]).stdout(completions), "bulla completions")?;
    // `[package.metadata.deb]` of the crate `bulla` says what goes where.
    let mut deb = Tools::new().deb()?;
    done(deb.args(["-p", "bulla", "--no-build", "--no-strip"]).current_dir(root()), "cargo deb")?;
    Ok(true)
}
