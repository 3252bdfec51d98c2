//! `bulla server`: the node itself.

mod unsealer;

use super::Variables;
use crate::exit::{Exit, Failure, told};
use crate::log::{LogArgs, LogFormat};
use crate::session::Session;
use crate::systemd::Manager;
use bulla_server::clock::{Clock as _, SystemClock};
use bulla_server::config::{self, Config, ConfigError, Flag};
use bulla_server::run::Ready;
use bulla_server::{RunError, Running, check as try_out, run as start};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use unsealer::Unsealer;

/// Run a server
///
/// What is not given by a flag comes from the environment (BULLA_SERVER_<KEY>), then from --config; `bulla server
/// sample` shows every key. SIGTERM and SIGINT stop the server in order, SIGHUP reads certificates again and opens the
/// audit file anew.
#[derive(Debug, Args)]
pub struct Server {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the configuration and the files that it names, and start nothing
    ///
    /// Reads the admins' records, the bundle and the TLS files, and looks at the data directory. Nothing is made or
    /// changed, and a server that runs there is not disturbed.
    Check,
    /// Print a configuration file with every key
    Sample,
}

/// One for each key that has a flag.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Keep everything in this directory, which is made with mode 0700
    #[arg(long, value_name = "DIR", conflicts_with = "transient", global = true)]
    data: Option<String>,
    /// Keep nothing over a restart; needs --admin and --audit
    #[arg(long, global = true)]
    transient: bool,
    /// Address of the API; port 0 takes any free one [default: 127.0.0.1:8250]
    #[arg(long, value_name = "ADDR", global = true)]
    listen: Option<String>,
    /// Address of the metrics, in plain HTTP; without it there are none
    #[arg(long, value_name = "ADDR", global = true)]
    metrics_listen: Option<String>,
    /// Record of somebody who may make the cluster over the network; may be repeated
    #[arg(long, value_name = "FILE", global = true)]
    admin: Vec<String>,
    /// Principals and policies that a transient server's cluster begins with, from `bulla bundle create`
    #[arg(long, value_name = "FILE", global = true)]
    bundle: Option<String>,
    /// File of the audit log, or - for standard output
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, global = true)]
    audit: Option<String>,
    /// Where records are kept: file or memory
    #[arg(long, value_name = "STORE", global = true)]
    store: Option<String>,
    /// Write address, node and process id there as JSON once the server answers
    #[arg(long, value_name = "FILE", global = true)]
    ready_file: Option<String>,
    /// Start although the audit file lacks lines that the store remembers
    #[arg(long, global = true)]
    accept_audit_loss: bool,
}

pub async fn run(args: Server, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    let Server { verb, flags, log } = args;
    if matches!(verb, Some(Verb::Sample)) {
        return session.screen.bytes(config::sample().as_bytes()).map(|()| Exit::Ok);
    }
    let manager = Manager::of(&variables);
    let config = flags.config(variables)?;
    if matches!(verb, Some(Verb::Check)) {
        return check(session, &config).await;
    }
    let unsealer = Unsealer::new(&config)?;
    log.begin()?;
    let signals =
        Signals::new().map_err(|error| Failure::new(Exit::Failed, format!("cannot take signals: {error}")))?;
    let running = start(&config, Arc::new(SystemClock::default()))
        .await
        .map_err(|error| unfit(&error, "the server did not start"))?;
    greet(session, log.format, &running.ready);
    // Dropped with the server.
    let mut beside = JoinSet::new();
    if let Some(unsealer) = unsealer {
        beside.spawn(unsealer.run(Arc::clone(&running.node)));
    }
    serve(running, signals, &manager).await
}

/// Where it listens: for people as a sentence, else as events of the log.
fn greet(session: &Session<'_>, log_format: LogFormat, ready: &Ready) {
    let Ready { address, metrics, node, .. } = ready;
    match log_format {
        LogFormat::Text => {
            session.screen.say(&format!("node {node} listens on {address}"));
            if let Some(metrics) = metrics {
                session.screen.say(&format!("metrics on http://{metrics}/metrics"));
            }
        }
        LogFormat::Json => {
            tracing::info!(%node, %address, "listens");
            if let Some(metrics) = metrics {
                tracing::info!(url = %format_args!("http://{metrics}/metrics"), "metrics");
            }
        }
    }
}

/// Why something is not as a start needs it.
pub fn unfit(error: &RunError, what: &str) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("{what}: {}", told(error)));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Serves until a signal comes or the audit log fails.
async fn serve(running: Running, mut signals: Signals, manager: &Manager) -> Result<Exit, Failure> {
    manager.tell("READY=1");
    let failed = loop {
        tokio::select! {
            reason = running.failed() => break Some(reason),
            Some(()) = signals.reload.recv() => running.reload().await,
            Some(()) = signals.terminate.recv() => break None,
            Some(()) = signals.interrupt.recv() => break None,
        }
    };
    manager.tell("STOPPING=1");
    tracing::info!("stopping: no new connections, running requests end");
    let whole = running.stop().await;
    match failed {
        Some(reason) => {
            Err(Failure::new(Exit::AuditFailed, format!("the audit log failed, so nothing can be answered: {reason}"))
                .hint(
                    "make room or repair the disk, then start the server again; `bulla audit verify` checks the file",
                ))
        }
        None if whole => Ok(Exit::Ok),
        None => Err(Failure::new(Exit::Failed, "stopped, but requests that took too long were cut off")
            .hint("start it again: clients send what was cut off once more, and it happens once")),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

impl Flags {
    /// What they say, over the environment and the file that they name.
    pub fn config(self, variables: Variables) -> Result<Config, Failure> {
        let Self {
            config,
            data,
            transient,
            listen,
            metrics_listen,
            admin,
            bundle,
            audit,
            store,
            ready_file,
            accept_audit_loss,
        } = self;
        let mut flags = Vec::new();
        let mut set = |key, value: Option<String>| flags.extend(value.map(|value| Flag { key, value }));
        let truth = |flag: bool| flag.then(|| "true".to_owned());
        set("data", data);
        set("transient", truth(transient));
        set("listen", listen);
        set("metrics_listen", metrics_listen);
        admin.into_iter().for_each(|file| set("init.admins", Some(file)));
        set("init.bundle", bundle);
        set("audit.file", audit);
        set("store", store);
        set("ready_file", ready_file);
        set("accept_audit_loss", truth(accept_audit_loss));
        let variables = variables.into_iter().filter_map(|(name, value)| Some((name, value.into_string().ok()?)));
        config::load(config.as_deref(), variables, &flags).map_err(|error| {
            let hint = ConfigError::clone(&error).hint;
            Failure::new(Exit::Usage, error.to_string()).hint(hint)
        })
    }
}

async fn check(session: &Session<'_>, config: &Config) -> Result<Exit, Failure> {
    try_out(config, SystemClock::default().unix_ms()).map_err(|error| unfit(&error, "the server would not start"))?;
    if let Some(unsealer) = Unsealer::new(config)? {
        unsealer.check().await?;
    }
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    session.screen.pairs(&[
        ("data", or_none(config.data.as_ref().map(|path| path.display().to_string()))),
        ("store", format!("{:?}", config.store).to_lowercase()),
        ("listen", config.listen.to_string()),
        ("metrics_listen", or_none(config.metrics_listen.map(|address| address.to_string()))),
    ])?;
    Ok(Exit::Ok)
}
