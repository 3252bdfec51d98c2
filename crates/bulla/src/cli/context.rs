//! `bulla context`: short names for clusters.

use super::{absolute, init};
use crate::ask;
use crate::context::{Context as Entry, Contexts, Trust, check_name};
use crate::exit::{Exit, Failure};
use crate::output::FormatArgs;
use crate::session::{Global, Session, Settled};
use bulla_client::{Seen, Standing};
use bulla_crypto::evidence::{AdminSet, ClusterView};
use bulla_keys::KeySource;
use bulla_wire::id::{ClusterId, Lineage};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Context {
    /// Add a context; shows the cluster's id and asks, or takes it from --cluster
    ///
    /// With --admin, whatever cluster these admins make there is trusted once k of them approved it: for transient
    /// servers, which are another cluster after each restart.
    Add(Add),
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
    /// Go on with a cluster that lost what this machine has seen of it
    ///
    /// After a restore without the audit log nobody can prove to you what was lost. Somebody who put an old copy of the
    /// storage in the cluster's place would ask for exactly this, so let an admin tell you the lineage by another way.
    AcceptLoss {
        /// The lineage that an admin told you; without it the command shows the cluster's and asks
        #[arg(long, value_name = "LINEAGE", allow_hyphen_values = true)]
        lineage: Option<Lineage>,
    },
    /// Remove a context; what was remembered of the cluster stays
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: String,
    /// The server: https://HOST:PORT, HOST:PORT or unix:/PATH
    addr: String,
    /// Trust any cluster of the admins with this record (.pub); repeat it for each admin
    #[arg(long = "admin", value_name = "FILE")]
    admins: Vec<PathBuf>,
    /// How many of these admins must have approved a cluster: the -k of its init
    #[arg(short, value_name = "K", requires = "admins")]
    k: Option<u8>,
    /// Any one of these admins opens the seal and approves: the --any of its init
    #[arg(long, conflicts_with = "k", requires = "admins")]
    any: bool,
    /// Demand besides that these authorities (PEM) vouch for the server's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub async fn run(command: Context, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Context::Add(args) => add(session, args).await,
        Context::List(format) => list(session, format),
        Context::Use { name } => Contexts::change(session.config_path()?, |contexts| {
            contexts.find(&name)?;
            contexts.current = Some(name);
            Ok(Exit::Ok)
        }),
        Context::Show { name, format } => show(session, name, format),
        Context::AcceptLoss { lineage } => accept_loss(session, lineage).await,
        Context::Remove { name } => Contexts::change(session.config_path()?, |contexts| {
            contexts.find(&name)?;
            contexts.context.remove(&name);
            contexts.current.take_if(|current| *current == name);
            Ok(Exit::Ok)
        }),
    }
}

async fn add(session: &Session<'_>, args: Add) -> Result<Exit, Failure> {
    let Add { name, addr: address, admins, k, any, ca } = args;
    check_name(&name)?;
    let ca = ca.as_deref().map(absolute).transpose()?;
    let trust = match (session.global.cluster, admins.is_empty()) {
        (Some(_), false) => {
            return Err(Failure::usage("a context trusts one cluster, or admins")
                .hint("leave out either --admin or --cluster, which BULLA_CLUSTER gives too"));
        }
        (Some(cluster), true) => Trust::Cluster(cluster),
        (None, true) => Trust::Cluster(discover(session, &address, ca.clone()).await?),
        (None, false) => Trust::Admins(admin_set(&admins, k, any)?),
    };
    let (identity, decrypt_with) = kept_keys(session)?;
    keep(session, &name, Entry { address, trust, identity, decrypt_with, ca })?;
    Ok(Exit::Ok)
}

/// The admins with these records, of whom k decide.
pub fn admin_set(records: &[PathBuf], k: Option<u8>, any: bool) -> Result<AdminSet, Failure> {
    let (_, k) = init::mode(records.len(), k, any)?;
    let opened = records.iter().map(|path| init::open_record(path)).collect::<Result<Vec<_>, _>>()?;
    AdminSet::of_records(&opened, k)
        .map_err(|error| Failure::usage(format!("these admins cannot be: {error}")).hint("name each admin once"))
}

/// The keys that flags or environment name, wherever a later run looks from.
pub fn kept_keys(session: &Session<'_>) -> Result<(Option<KeySource>, Option<KeySource>), Failure> {
    let absolute = |key: &KeySource| {
        key.clone().absolute().map_err(|error| Failure::new(Exit::Failed, format!("cannot find {key}: {error}")))
    };
    let Global { identity, decrypt_with, .. } = &session.global;
    let identity = identity.as_ref().map(absolute).transpose()?;
    Ok((identity, decrypt_with.as_ref().map(absolute).transpose()?))
}

/// Adds a context to the file, and says so.
pub fn keep(session: &Session<'_>, name: &str, entry: Entry) -> Result<(), Failure> {
    let said = match &entry.trust {
        Trust::Cluster(cluster) => format!("context {name} is the cluster {cluster}"),
        Trust::Admins(admins) => {
            format!("context {name} trusts any cluster that {} of {} admins approved", admins.k(), admins.keys().len())
        }
    };
    let is_current = Contexts::change(session.config_path()?, |contexts| {
        contexts.add(name, entry)?;
        Ok(contexts.current.as_deref() == Some(name))
    })?;
    session.screen.say(&said);
    if !is_current {
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
    let settled = Settled { address: address.to_owned(), trust: None, ca };
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

async fn accept_loss(session: &Session<'_>, expected: Option<Lineage>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let standing = client.standing().await?;
    let Standing { told, seen, lost, dropped_from, shown: (_, newest) } = &standing;
    let told_by = "let an admin tell you the lineage by another way, and give it with --lineage";
    let line = |what: &str, at: &Seen| {
        session.screen.say(&format!("  {what}  epoch {}, sequence {}, lineage {}", at.epoch, at.sequence, at.lineage));
    };
    if !*lost {
        session.screen.say("the cluster holds all that this machine has seen of it");
        // Who has to compare it asks somebody who is here.
        line("it is now  ", told);
        return Ok(Exit::Ok);
    }
    seen.iter().for_each(|seen| line("seen here  ", seen));
    line("it is now  ", told);
    if let Some(from) = dropped_from {
        session.screen.warn(&format!(
            "documents from {from} on, as this machine has seen them, are not those of the cluster, whose newest is {} \
             ({newest}): with them go the admins and nodes that they named or removed",
            told.doc
        ));
    }
    // A restore begins another history. The same one, and less of it, is an older copy of the machine: an admin would see the
    // same lineage, and so be no help.
    let is_older =
        |seen: &Seen| seen.lineage == told.lineage && (told.sequence < seen.sequence || dropped_from.is_none());
    if seen.as_ref().is_some_and(is_older) {
        return Err(Failure::new(Exit::Untrusted, "an older copy of the same history answers there")
            .hint("do not go on: ask the admins which machine is the cluster, and stop the other"));
    }
    match expected {
        Some(expected) if expected == told.lineage => {}
        Some(expected) => {
            let what = format!("the cluster's lineage is not {expected}");
            return Err(Failure::new(Exit::Untrusted, what).hint("do not go on; ask the admins which is right"));
        }
        None if !ask::possible() => {
            return Err(Failure::usage("nobody can compare the lineage here").hint(told_by));
        }
        None => {
            let asked = ask::yes("Did an admin tell you of this loss, and that lineage, by another way?");
            let agreed =
                asked.map_err(|error| Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint(told_by))?;
            if !agreed {
                return Err(Failure::new(Exit::Untrusted, "nothing was accepted").hint(told_by));
            }
        }
    }
    client.accept_loss(&standing).await?;
    session.screen.say("what was seen beyond is forgotten");
    Ok(Exit::Ok)
}

fn list(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let contexts = session.contexts()?;
    if format == crate::output::Format::Json {
        return session.screen.json(&contexts).map(|()| Exit::Ok);
    }
    let row = |(name, entry): (&String, &Entry)| {
        let mark = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
        vec![mark.to_owned(), name.clone(), entry.address.clone(), entry.trust.to_string()]
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
    let mut pairs = vec![("name", name.clone()), ("address", entry.address.clone())];
    match &entry.trust {
        Trust::Cluster(cluster) => pairs.push(("cluster", cluster.to_string())),
        Trust::Admins(admins) => {
            pairs.push(("trust", format!("any cluster that {} of these admins approved", admins.k())));
            pairs.extend(admins.keys().iter().map(|key| ("admin", key.to_string())));
        }
    }
    pairs.push(("identity", entry.identity.as_ref().map_or_else(|| "none".into(), ToString::to_string)));
    pairs.extend(entry.decrypt_with.as_ref().map(|key| ("decrypt with", key.to_string())));
    pairs.push(("ca", path(&entry.ca)));
    session.screen.pairs(&pairs)?;
    Ok(Exit::Ok)
}
