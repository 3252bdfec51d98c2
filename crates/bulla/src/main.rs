//! `bulla`: the server and everything that talks to it, in one binary.
//!
//! Arguments, environment and the exit code are touched here and nowhere else.

mod ask;
mod cli;
mod context;
mod exit;
mod fields;
mod names;
mod output;
#[cfg(test)]
mod reference;
mod session;

use clap::Parser as _;
use cli::{Arguments, Command};
use exit::{Exit, Failure};
use output::Screen;
use session::{Places, Session};
use std::process::ExitCode;

fn main() -> ExitCode {
    let hardened = harden();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version are no errors; clap knows where each goes.
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return if error.print().is_ok() { exit.into() } else { Exit::Failed.into() };
        }
    };
    let screen = Screen::new(arguments.global.quiet, std::env::var_os("NO_COLOR").is_some());
    let result = match hardened {
        Ok(()) => run(arguments, &screen),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot protect this process: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            screen.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Keeps what is in memory out of core files and from other processes of the same user, and children from gaining
/// privileges.
fn harden() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

fn run(arguments: Arguments, screen: &Screen) -> Result<Exit, Failure> {
    let Arguments { global, command } = arguments;
    // A server uses all processors; a command waits for one answer.
    let mut builder = match command {
        Command::Server(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let places = Places::new(|name| std::env::var_os(name));
    let session = Session::new(global, screen, places);
    runtime.block_on(async {
        let exit = Box::pin(cli::run(command, &session, variables.collect())).await?;
        session.finish()?;
        Ok(exit)
    })
}
