//! The commands, a file for each group.

mod agent;
mod audit;
mod bundle;
mod certificate;
mod context;
mod database;
mod demo;
mod doctor;
mod document;
mod enroller;
mod examples;
mod import;
mod init;
mod keygen;
mod kms;
mod kv;
mod lease;
mod man;
mod open;
mod policy;
mod principal;
mod raw;
mod receipt;
mod run;
mod seal;
mod server;
mod snapshot;
mod statement;
mod status;
mod template;
mod transit;
mod unseal;
mod wrap;

use crate::exit::{Exit, Failure};
use crate::session::{Global, Session};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// The environment, for what has names of its own in it.
pub type Variables = Vec<(String, OsString)>;

/// Bulla keeps and delivers secrets to keys, not to passwords
#[derive(Debug, Parser)]
#[command(name = "bulla", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::Demo),
    Keygen(keygen::Keygen),
    Certificate(certificate::Certificate),
    Server(server::Server),
    /// Keep addresses, cluster ids and identities under short names
    #[command(subcommand)]
    Context(context::Context),
    Init(init::Init),
    Unseal(unseal::Unseal),
    /// Seal the cluster: forget all keys until k admins unseal it
    #[command(args_conflicts_with_subcommands = true)]
    Seal(seal::Seal),
    Status(status::Status),
    Doctor(doctor::Doctor),
    /// Tell who you are to the cluster
    Whoami(status::Whoami),
    /// Admit principals, and look at them
    #[command(subcommand)]
    Principal(principal::Principal),
    /// Choose who may admit principals
    ///
    /// It takes a document with the signatures of k admins. With one admin it is put at once; otherwise it is written
    /// to a file for the others to sign.
    #[command(subcommand)]
    Enroller(enroller::Enroller),
    /// Change who runs the cluster: documents signed by k admins
    #[command(subcommand)]
    Document(document::Document),
    /// Say what the clusters of a transient server begin with, signed by k admins
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Send one-time secrets, and see what became of them
    #[command(subcommand)]
    Wrap(wrap::Wrap),
    Open(open::Open),
    /// Keep proof of what happened to a wrap
    #[command(subcommand)]
    Receipt(receipt::Receipt),
    /// Copy a cluster's sealed store to a file, and back
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Write and read secrets under paths
    #[command(subcommand)]
    Kv(kv::Kv),
    Run(run::Run),
    Template(template::Template),
    Agent(agent::Agent),
    Kms(kms::Kms),
    /// Encrypt, sign and authenticate with keys that stay in the cluster
    #[command(subcommand)]
    Transit(transit::Transit),
    Encrypt(transit::EncryptFile),
    Decrypt(transit::DecryptFile),
    /// Have users of databases made, each for as long as its lease
    #[command(subcommand)]
    Database(database::Database),
    /// Look at leases, renew and end them
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Bring secrets, keys and policies over from another service
    #[command(subcommand)]
    Import(import::Import),
    /// Say who may do what
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    Alarms(audit::Alarms),
    Curl(raw::Curl),
    /// Print the description of the HTTP API (OpenAPI 3.1)
    Openapi,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    Man(man::Man),
    /// Print the version
    Version,
}

impl Command {
    /// Whether what it does is done by a server, by requests.
    fn asks_a_server(&self) -> bool {
        !matches!(
            self,
            Self::Demo(_)
                | Self::Keygen(_)
                | Self::Certificate(_)
                | Self::Server(_)
                | Self::Context(_)
                | Self::Doctor(_)
                | Self::Kms(_)
                | Self::Bundle(_)
                | Self::Snapshot(snapshot::Snapshot::Verify { .. } | snapshot::Snapshot::Restore { .. })
                | Self::Document(document::Document::Sign(_))
                | Self::Policy(policy::Policy::Recover(policy::Recover::Sign { .. }))
                | Self::Receipt(receipt::Receipt::Verify { .. })
                | Self::Audit(audit::Audit::Verify(_))
                | Self::Openapi
                | Self::Completions { .. }
                | Self::Man(_)
                | Self::Version
        ) && !matches!(self, Self::Seal(seal) if seal.signs())
    }
}

/// The command line as it is parsed, with examples.
pub fn program() -> clap::Command {
    examples::add_to(Arguments::command())
}

/// The arguments of this process.
pub fn arguments() -> Result<Arguments, clap::Error> {
    let mut matches = program().try_get_matches().map_err(discreet)?;
    let by_variable = matches.value_source("decrypt_with") == Some(ValueSource::EnvVariable);
    let arguments = Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut program()))?;
    let global = Global { decrypt_with_by_variable: by_variable, ..arguments.global };
    Ok(Arguments { global, ..arguments })
}

/// Most characters of an argument that an error repeats.
const SHOWN_CHARACTERS: usize = 64;

/// An argument may be a secret, and an error goes to logs that an argument does not go to: of `KEY=VALUE` it repeats the key, of
/// what should have been that nothing, and of anything else no more than is needed to find it.
fn discreet(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let field = text(ContextKind::InvalidArg).is_some_and(|arg| arg.contains("FIELD") || arg.contains("PASSWORD"));
    let (kind, said) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, text(ContextKind::InvalidArg)),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, text(ContextKind::InvalidSubcommand)),
        _ => (ContextKind::InvalidValue, text(ContextKind::InvalidValue)),
    };
    let Some(said) = said else { return error };
    // A PEM block has lines, and its first one is no secret.
    let first = said.lines().next().unwrap_or_default();
    let shown = match first.split_once('=') {
        Some((key, _)) => key,
        None if field => "",
        None => first,
    };
    let short: String = shown.chars().take(SHOWN_CHARACTERS).collect();
    if short != said {
        let equals = if first.contains('=') && short == shown { "=" } else { "" };
        error.insert(kind, ContextValue::String(format!("{short}{equals}…")));
        // The tips repeat the argument whole.
        error.remove(ContextKind::Suggested);
    }
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(tip) = from_vault(&said)
    {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What a verb of Vault is here, which by its letters alone is taken for something else.
fn from_vault(verb: &str) -> Option<&'static str> {
    match verb {
        "unwrap" => Some("`bulla open SLIP` opens a wrap"),
        "operator" => Some("`init`, `unseal` and `seal` stand by themselves: `bulla unseal`"),
        "login" => Some("nothing is logged in to: name your key with --identity, or keep it with `bulla context add`"),
        "read" | "write" => Some("secrets are under `bulla kv`: `bulla kv get app/db`"),
        _ => None,
    }
}

/// The program and every command of it, each with its whole name, in the order of the help. Options that a command
/// has from one above it are hidden: they stand there.
pub fn all() -> Vec<(String, clap::Command)> {
    let mut program = program().term_width(100);
    program.build();
    let mut all = Vec::new();
    gather(program, "bulla".to_owned(), &mut all);
    all
}

fn gather(command: clap::Command, name: String, all: &mut Vec<(String, clap::Command)>) {
    let inherited: Vec<clap::Id> =
        command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().clone()).collect();
    let below: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    all.push((name.clone(), command));
    for verb in below {
        let name = format!("{name} {}", verb.get_name());
        let from_above = |arg: &clap::Arg| arg.is_global_set() && inherited.contains(arg.get_id());
        gather(verb.mut_args(|arg| if from_above(&arg) { arg.hide(true) } else { arg }), name, all);
    }
}

/// Runs a command.
pub async fn run(command: Command, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    if session.global.output_policy && !command.asks_a_server() {
        return Err(
            Failure::usage("this command asks no server, so it needs no policy").hint("leave out --output-policy")
        );
    }
    match command {
        Command::Demo(args) => demo::run(&args, session),
        Command::Keygen(args) => keygen::run(args, session).await,
        Command::Certificate(args) => certificate::run(&args, session),
        Command::Server(args) => server::run(args, session, variables).await,
        Command::Context(args) => context::run(args, session).await,
        Command::Init(args) => init::run(args, session).await,
        Command::Unseal(args) => unseal::run(args, session).await,
        Command::Seal(args) => seal::run(args, session).await,
        Command::Status(args) => status::run(args, session).await,
        Command::Doctor(args) => doctor::run(args, session, variables).await,
        Command::Whoami(args) => status::whoami(args, session).await,
        Command::Principal(args) => principal::run(args, session).await,
        Command::Enroller(args) => enroller::run(args, session).await,
        Command::Document(args) => document::run(args, session).await,
        Command::Bundle(args) => bundle::run(args, session).await,
        Command::Wrap(args) => wrap::run(args, session).await,
        Command::Open(args) => open::run(args, session).await,
        Command::Receipt(args) => receipt::run(args, session).await,
        Command::Snapshot(args) => snapshot::run(args, session).await,
        Command::Kv(args) => kv::run(args, session).await,
        Command::Run(args) => run::run(args, session).await,
        Command::Template(args) => template::run(args, session).await,
        Command::Agent(args) => agent::run(args, session, variables).await,
        Command::Kms(args) => kms::run(args, session, variables).await,
        Command::Transit(args) => transit::run(args, session).await,
        Command::Encrypt(args) => transit::encrypt_file(args, session).await,
        Command::Decrypt(args) => transit::decrypt_file(args, session).await,
        Command::Database(args) => database::run(args, session).await,
        Command::Lease(args) => lease::run(args, session).await,
        Command::Import(args) => import::run(args, session, variables).await,
        Command::Policy(args) => policy::run(args, session).await,
        Command::Audit(args) => audit::run(args, session).await,
        Command::Alarms(args) => audit::alarms(args, session).await,
        Command::Curl(args) => raw::run(args, session).await,
        Command::Openapi => session.screen.json(&bulla_server::route::openapi::openapi()).map(|()| Exit::Ok),
        Command::Completions { shell } => completions(shell, session),
        Command::Man(args) => man::run(&args, session),
        Command::Version => session.screen.line(env!("CARGO_PKG_VERSION")).map(|()| Exit::Ok),
    }
}

fn completions(shell: clap_complete::Shell, session: &Session<'_>) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program(), "bulla", &mut text);
    session.screen.bytes(&text).map(|()| Exit::Ok)
}

/// A name on the command line.
fn name(text: &str) -> Result<bulla_wire::name::Name, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// A path from where the command runs, for files that are found again from elsewhere.
fn absolute(path: &std::path::Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::file("cannot find", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        program().debug_assert();
    }

    #[test]
    fn flags_are_taken_before_and_after_the_command() {
        for line in ["bulla --quiet status", "bulla status --quiet", "bulla kv get a/b --quiet --timeout 5s"] {
            let arguments = Arguments::try_parse_from(line.split(' '));
            assert!(arguments.is_ok_and(|arguments| arguments.global.quiet), "{line}");
        }
        assert!(Arguments::try_parse_from(["bulla", "status", "--cluster", "sha256:x"]).is_err());
        assert!(Arguments::try_parse_from(["bulla", "statsu"]).is_err());
    }
}
