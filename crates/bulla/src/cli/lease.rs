//! `bulla lease`: what is promised to end, and when.

use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs, time, word};
use crate::session::Session;
use bulla_client::LeasesOf;
use bulla_wire::api::{self, Leases, RevokeLeases};
use bulla_wire::id::LeaseId;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Leases of a page of a listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// List your leases
    List {
        /// Those of everybody
        #[arg(long)]
        all: bool,
        /// Only for this resource and what lies below it, such as database/app
        #[arg(long, value_name = "RESOURCE", requires = "all")]
        resource: Option<String>,
        /// Only of this principal
        #[arg(long, value_name = "PRINCIPAL", requires = "all")]
        principal: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show a lease of yours
    Show {
        /// Its id
        lease: LeaseId,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Let a lease of yours last longer, from now
    Renew {
        /// Its id
        lease: LeaseId,
        /// For how long, such as 1h; as long as at first if left out
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        format: FormatArgs,
    },
    Revoke(Revoke),
    /// List leases of everybody whose end failed several times, and why
    Stuck(FormatArgs),
}

/// End a lease of yours; with an option, leases of anybody
///
/// Its user is dropped as soon as the database can be reached, however long that takes. Where that failed before, it is
/// tried again at once.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Revoke {
    /// Its id
    lease: Option<LeaseId>,
    /// The lease of this id may be somebody else's
    #[arg(long, requires = "lease")]
    foreign: bool,
    /// All for this resource and what lies below it, such as database/app
    #[arg(long, value_name = "RESOURCE", conflicts_with_all = ["lease", "principal", "all"])]
    resource: Option<String>,
    /// All of this principal
    #[arg(long, value_name = "PRINCIPAL", conflicts_with_all = ["lease", "all"])]
    principal: Option<String>,
    /// All
    #[arg(long, conflicts_with = "lease")]
    all: bool,
}

pub async fn run(command: Lease, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Lease::List { all: false, format, .. } => list(session, None, format).await,
        Lease::List { resource, principal, format, .. } => {
            let principal = match principal {
                Some(text) => Some(session.client()?.resolve(&text).await?.principal()),
                None => None,
            };
            list(session, Some(LeasesOf { resource, principal, stuck: false }), format).await
        }
        Lease::Stuck(format) => list(session, Some(LeasesOf { stuck: true, ..LeasesOf::default() }), format).await,
        Lease::Show { lease, format } => {
            let lease = session.client()?.lease(&lease).await?;
            show(session, &lease, format)
        }
        Lease::Renew { lease, ttl, format } => {
            let lease = session.client()?.lease_renew(&lease, ttl.map(|ttl| ttl.as_secs())).await?;
            show(session, &lease, format)
        }
        Lease::Revoke(args) => revoke(session, args).await,
    }
}

async fn revoke(session: &Session<'_>, args: Revoke) -> Result<Exit, Failure> {
    let client = session.client()?;
    let what = match args {
        Revoke { lease: Some(lease), foreign: false, .. } => {
            client.lease_revoke(&lease).await?;
            session.screen.say(&format!("{lease} is being revoked; `bulla lease show` finds nothing once it is"));
            return Ok(Exit::Ok);
        }
        Revoke { lease: Some(lease), .. } => RevokeLeases::lease(lease),
        Revoke { resource: Some(resource), .. } => RevokeLeases::resource(resource),
        Revoke { principal: Some(text), .. } => RevokeLeases::principal(client.resolve(&text).await?.principal()),
        Revoke { .. } => RevokeLeases::all(),
    };
    client.leases_revoke(&what).await?;
    session.screen.say("they are being revoked; `bulla lease list --all` shows what is left");
    Ok(Exit::Ok)
}

fn show(session: &Session<'_>, lease: &api::Lease, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    if format == Format::Json {
        return session.screen.json(lease).map(|()| Exit::Ok);
    }
    let mut pairs = vec![
        ("lease", lease.id.to_string()),
        ("resource", lease.resource.clone()),
        ("user", lease.user.clone()),
        ("state", word(&lease.state)),
        ("issued", time(lease.issued_ms)),
        ("expires", time(lease.expires_ms)),
        ("at most until", time(lease.max_ms)),
    ];
    if let Some(error) = &lease.error {
        pairs.push(("failed", format!("{} times, last: {error}", lease.attempts)));
        pairs.push(("next attempt", time(lease.due_ms)));
    }
    session.screen.pairs(&pairs)?;
    Ok(Exit::Ok)
}

async fn list(session: &Session<'_>, of: Option<LeasesOf>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut leases, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = match &of {
            None => client.leases(after.as_deref(), Some(PAGE)).await?,
            Some(of) => client.leases_of(of, after.as_deref(), Some(PAGE)).await?,
        };
        leases.extend(page.leases);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if format == Format::Json {
        return session.screen.json(&Leases { leases, next: None }).map(|()| Exit::Ok);
    }
    let row = |lease: &api::Lease| {
        let error = lease.error.clone().unwrap_or_default();
        vec![
            lease.id.to_string(),
            lease.resource.clone(),
            lease.user.clone(),
            word(&lease.state),
            time(lease.expires_ms),
            error,
        ]
    };
    let rows: Vec<_> = leases.iter().map(row).collect();
    session.screen.table(&["LEASE", "RESOURCE", "USER", "STATE", "EXPIRES", "FAILED BY"], &rows)?;
    Ok(Exit::Ok)
}
