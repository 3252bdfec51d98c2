//! `cargo xtask deb`: the Debian package, of the release binary, its manual pages, completions and unit.

use crate::setup::{Tools, done};
use crate::tally::Tally;
use crate::workspace::{Stop, cargo, root, target};
use std::fs::{self, File};
use std::process::Command;

/// What somebody who installs it starts and reads.
const HELD: &[&str] = &[
    "./usr/bin/bulla",
    "./etc/bulla/server.toml",
    "./usr/lib/systemd/system/bulla.service",
    "./usr/share/man/man1/bulla.1.gz",
    "./usr/share/man/man1/bulla-server.1.gz",
    "./usr/share/bash-completion/completions/bulla",
];

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
    drop(fs::remove_dir_all(target().join("debian")));
    let mut deb = Tools::new().deb()?;
    done(deb.args(["-p", "bulla", "--no-build", "--no-strip"]).current_dir(root()), "cargo deb")?;
    Ok(true)
}

/// Makes it, and has dpkg tell what it holds.
pub fn check() -> Result<Tally, Stop> {
    run()?;
    let failed = |error: std::io::Error| Stop(format!("cannot look at the package: {error}"));
    let mut made = fs::read_dir(target().join("debian")).map_err(failed)?.filter_map(Result::ok);
    let package = made.find(|entry| entry.path().extension().is_some_and(|extension| extension == "deb"));
    let package = package.ok_or_else(|| Stop("cargo deb left no package".to_owned()))?;
    let bytes = package.metadata().map_err(failed)?.len();
    println!("    {}, {:.1} MiB", package.path().display(), bytes as f64 / (1024.0 * 1024.0));
    let listed = Command::new("dpkg-deb").arg("--contents").arg(package.path()).output().map_err(failed)?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let paths: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    let missing: Vec<&&str> = HELD.iter().filter(|held| !paths.contains(*held)).collect();
    if !missing.is_empty() {
        println!("    lacks {missing:?}");
    }
    Ok(Tally::check("the Debian package holds program, unit and manual", missing.is_empty()))
}
