//! `bulla agent`: values for programs that know nothing of Bulla.

use super::Variables;
use crate::agent;
use crate::agent::config::{Config, SAMPLE};
use crate::exit::{Exit, Failure};
use crate::log::LogArgs;
use crate::session::Session;
use crate::systemd::Manager;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Keep files, variables and users of databases up to date for a program
///
/// Reads what its configuration names, writes it into files and into the environment of a program, and tells the program
/// when something changes. Leases of databases' users are renewed, and the next user is there before the last one ends.
/// Other programs may ask on a Unix socket. It is a container's first process or a service of systemd; signals go to the
/// program, and the exit code is the program's.
#[derive(Debug, Args)]
pub struct Agent {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the configuration and the templates that it names, and start nothing
    Check,
    /// Print a configuration file with every key
    Sample,
}

pub async fn run(args: Agent, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    let Agent { verb, config, log } = args;
    if session.global.output_policy {
        return Err(Failure::usage("an agent does many things, each with a right of its own")
            .hint("give --output-policy to `bulla kv get` and `bulla database creds` for each value"));
    }
    if matches!(verb, Some(Verb::Sample)) {
        return session.screen.bytes(SAMPLE.as_bytes()).map(|()| Exit::Ok);
    }
    let path = config.ok_or_else(|| {
        Failure::usage("no configuration is named").hint("give --config FILE; `bulla agent sample` prints one")
    })?;
    let config = Config::load(&path)?;
    if matches!(verb, Some(Verb::Check)) {
        agent::exposed(&config).for_each(|told| session.screen.hint(&told));
        session.screen.say(&format!("{} can be used", path.display()));
        return Ok(Exit::Ok);
    }
    let client = session.client()?;
    log.begin()?;
    Box::pin(agent::run(client, config, Manager::of(&variables))).await
}
