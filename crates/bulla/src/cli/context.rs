//! `bulla context`: short names for clusters.

use super::absolute;
use crate::ask;
use crate::context::{Context as Entry, check_name};
use crate::exit::{Exit, Failure};
use crate::output::FormatArgs;
use crate::session::{Session, Settled};
use bulla_crypto::evidence::ClusterView;
use bulla_wire::id::ClusterId;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Context {
    /// Add a context; shows the cluster's id and asks, or takes it from --cluster
    Add {
        /// Its name
        name: String,
        /// The server: https://HOST:PORT, HOST:PORT or unix:/PATH
        addr: String,
        /// Demand besides that these authorities (PEM) vouch for the server's certificate
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
    /// List the contexts
    List(FormatArgs),
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Show a context
    Show {
        /// Its name; the current one if left out
        name: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Remove a context; what was remembered of the cluster stays
    Remove {
        /// Its name
        name: String,
    },
}

pub async fn run(command: Context, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Context::Add { name, addr, ca } => add(session, &name, addr, ca).await,
        Context::List(format) => list(session, format),
        Context::Use { name } => {
            let mut contexts = session.contexts()?;
            contexts.find(&name)?;
            contexts.current = Some(name);
            contexts.store(session.config_path()?).map(|()| Exit::Ok)
        }
        Context::Show { name, format } => show(session, name, format),
        Context::Remove { name } => {
            let mut contexts = session.contexts()?;
            contexts.find(&name)?;
            contexts.context.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
            contexts.store(session.config_path()?).map(|()| Exit::Ok)
        }
    }
}

async fn add(session: &Session<'_>, name: &str, address: String, ca: Option<PathBuf>) -> Result<Exit, Failure> {
    check_name(name)?;
    let ca = ca.as_deref().map(absolute).transpose()?;
    let cluster = match session.global.cluster {
        Some(cluster) => cluster,
        None => discover(session, &address, ca.clone()).await?,
    };
    let identity = session.global.identity.as_deref().map(absolute).transpose()?;
    keep(session, name, Entry { address, cluster, identity, ca })?;
    Ok(Exit::Ok)
}

/// Adds a context to the file, and says so.
pub fn keep(session: &Session<'_>, name: &str, entry: Entry) -> Result<(), Failure> {
    let mut contexts = session.contexts()?;
    let cluster = entry.cluster;
    contexts.add(name, entry)?;
    contexts.store(session.config_path()?)?;
    session.screen.say(&format!("context {name} is the cluster {cluster}"));
    if contexts.current.as_deref() != Some(name) {
        session.screen.hint(&format!("`bulla context use {name}` makes it the current one"));
    }
    Ok(())
}

/// Shows what answers there to somebody who compares it.
async fn discover(session: &Session<'_>, address: &str, ca: Option<PathBuf>) -> Result<ClusterId, Failure> {
    if !ask::possible() {
        return Err(Failure::usage("nobody can compare the cluster's id here")
            .hint("give it with --cluster ID; the admins can tell you, and `bulla init` printed it"));
    }
    let settled = Settled { address: address.to_owned(), cluster: None, ca };
    let view = session.builder(&settled)?.build()?.discover().await?;
    describe(session, &view);
    let question = "Is this the cluster id that its admins told you by another way?";
    let hint = "give the id that the admins told you with --cluster ID";
    match ask::yes(question) {
        Ok(true) => Ok(view.id()),
        Ok(false) => Err(Failure::new(Exit::Untrusted, "the cluster was not added").hint(hint)),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint(hint)),
    }
}

/// Tells what a cluster is, for somebody who decides about it.
pub fn describe(session: &Session<'_>, view: &ClusterView) {
    let genesis = view.genesis();
    let body = genesis.body();
    session.screen.say(&format!("cluster {}", view.id()));
    let admins = body.admins.len();
    session.screen.say(&format!("  named {}; {} of {admins} admins open the seal:", body.name, body.k));
    for admin in genesis.admins() {
        session.screen.say(&format!("  admin {} {}", admin.name(), admin.principal()));
    }
}

fn list(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let contexts = session.contexts()?;
    if format == crate::output::Format::Json {
        return session.screen.json(&contexts).map(|()| Exit::Ok);
    }
    let row = |(name, entry): (&String, &Entry)| {
        let mark = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
        vec![mark.to_owned(), name.clone(), entry.address.clone(), entry.cluster.to_string()]
    };
    let rows: Vec<_> = contexts.context.iter().map(row).collect();
    session.screen.table(&["", "NAME", "ADDRESS", "CLUSTER"], &rows).map(|()| Exit::Ok)
}

fn show(session: &Session<'_>, name: Option<String>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let contexts = session.contexts()?;
    let name = name.or_else(|| session.global.context.clone()).or_else(|| contexts.current.clone());
    let name = name.ok_or_else(|| {
        Failure::new(Exit::NotFound, "there is no current context").hint("`bulla context use NAME` chooses one")
    })?;
    let entry = contexts.find(&name)?;
    if format == crate::output::Format::Json {
        return session.screen.json(entry).map(|()| Exit::Ok);
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string());
    session.screen.pairs(&[
        ("name", name.clone()),
        ("address", entry.address.clone()),
        ("cluster", entry.cluster.to_string()),
        ("identity", path(&entry.identity)),
        ("ca", path(&entry.ca)),
    ])?;
    Ok(Exit::Ok)
}
