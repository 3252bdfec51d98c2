//! `bulla`: the server and everything that talks to it, in one binary.
//!
//! Arguments, environment and the exit code are touched here and nowhere else.

mod agent;
mod ask;
mod cli;
mod context;
mod exit;
mod fields;
mod input;
mod keys;
mod log;
mod memory;
mod names;
mod output;
mod progress;
#[cfg(test)]
mod reference;
mod session;
mod systemd;
mod template;
mod value;

use cli::{Arguments, Command};
use exit::{Exit, Failure};
use output::Screen;
use session::{Places, Session};
use std::process::ExitCode;

/// Wipes whatever is freed. Our own types wipe themselves, but a parser's scratch space, a buffer that grew and a string that
/// somebody else's code made do not, and nobody can name them all (`docs/decisions/freed-memory-wiped.md`).
#[global_allocator]
static WIPES: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let hardened = harden();
    let arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        // Help and the version are no errors; clap knows where each goes.
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let unwritten = error.print().is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe);
            return if unwritten { Exit::Failed.into() } else { exit.into() };
        }
    };
    let screen = Screen::new(arguments.global.quiet, std::env::var_os("NO_COLOR").is_some());
    match hardened {
        Ok(()) => run(arguments, &screen).into(),
        Err(error) => {
            tell(&screen, &Failure::new(Exit::Failed, format!("cannot protect this process: {error}"))).into()
        }
    }
}

/// Says why it failed.
fn tell(screen: &Screen, failure: &Failure) -> Exit {
    screen.failure(failure);
    failure.exit
}

/// Keeps what is in memory out of core files and from other processes of the same user, and children from gaining
/// privileges.
fn harden() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A server's connections, files of the log and store; shells and containers give few at first.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum.or(files.current), ..files })?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

fn run(arguments: Arguments, screen: &Screen) -> Exit {
    let Arguments { global, command } = arguments;
    // A server uses all processors; a command waits for one answer.
    let mut builder = match command {
        Command::Server(_) | Command::Demo(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(screen, &Failure::new(Exit::Failed, format!("cannot start: {error}"))),
    };
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let places = Places::new(|name| std::env::var_os(name));
    let session = Session::new(global, screen, places);
    runtime.block_on(async {
        let done = Box::pin(cli::run(command, &session, variables.collect())).await;
        ask::restore();
        let exit = match session.tell_policy().await {
            Ok(true) => Exit::Ok,
            Ok(false) => done.unwrap_or_else(|failure| tell(screen, &failure)),
            Err(failure) => tell(screen, &failure),
        };
        // What waits for the caller is told after a failure too: an alarm may be about it.
        match session.finish() {
            Ok(()) => exit,
            Err(failure) => {
                let unfinished = tell(screen, &failure);
                if exit == Exit::Ok { unfinished } else { exit }
            }
        }
    })
}
