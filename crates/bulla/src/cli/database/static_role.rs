//! `bulla database static`: users who are there already, whose passwords the cluster rotates.

use super::CredsField;
use crate::cli::wrap::{WrapTo, made};
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use bulla_wire::api::PutStaticRole;
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Static {
    Put(Put),
    /// Show a static role; never its password
    Get {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the static roles of a database
    List {
        /// The database
        #[arg(value_parser = crate::cli::name)]
        database: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Delete a static role; its user stays, with the password that it has
    ///
    /// Nobody is told that password any more: read it before, or set another one in the database afterwards.
    Delete(Of),
    /// Get the password that the user has now
    ///
    /// It holds until it is rotated. A program asks again then, or when the database refuses it.
    Creds {
        #[command(flatten)]
        of: Of,
        /// Print the user or the password only, as it is
        #[arg(long, value_name = "FIELD", conflicts_with = "wrap_to")]
        field: Option<CredsField>,
        #[command(flatten)]
        wrap_to: WrapTo,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Rotate the password now
    Rotate(Of),
}

/// Which static role.
#[derive(Debug, Args)]
pub struct Of {
    /// The database
    #[arg(value_parser = crate::cli::name)]
    database: Name,
    /// The static role
    #[arg(value_parser = crate::cli::name)]
    role: Name,
}

/// Have the cluster own the password of a user who is there, or change how often it is rotated
///
/// The password is rotated at once: whatever uses the one before has to ask for the new one. If the database refuses,
/// nothing is stored.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    of: Of,
    /// The user in the database; not the one by whom the database is reached
    #[arg(long)]
    user: String,
    /// How often its password is rotated, such as 24h; a minute at least
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    rotate_every: Duration,
}

pub async fn run(command: Static, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Static::Put(Put { of: Of { database, role }, user, rotate_every }) => {
            let body = PutStaticRole { user, rotate_every_s: rotate_every.as_secs() };
            session.client()?.database_static_put(&database, &role, &body).await?;
            session
                .screen
                .say(&format!("{database} has the static role {role} now, whose password only the cluster knows"));
            Ok(Exit::Ok)
        }
        Static::Get { of, format } => get(session, &of, format).await,
        Static::List { database, format } => super::list(session, super::Of::Static(&database), format).await,
        Static::Delete(Of { database, role }) => {
            session.client()?.database_static_delete(&database, &role).await?;
            session.screen.say(&format!("{database} has no static role {role} any more; its user stays"));
            Ok(Exit::Ok)
        }
        Static::Creds { of, field, wrap_to, format } => match wrap_to.outgoing(session).await? {
            Some(outgoing) => {
                let client = session.client()?;
                let wrapped = client.database_static_creds_to(&of.database, &of.role, outgoing).await?;
                made(session, &wrapped, format)
            }
            None => creds(session, &of, field, format).await,
        },
        Static::Rotate(Of { database, role }) => {
            session.client()?.database_static_rotate(&database, &role).await?;
            session.screen.say(&format!("the password of {database}/{role} is rotated"));
            Ok(Exit::Ok)
        }
    }
}

async fn get(session: &Session<'_>, of: &Of, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let role = session.client()?.database_static(&of.database, &of.role).await?;
    if format == Format::Json {
        return session.screen.json(&role).map(|()| Exit::Ok);
    }
    let every = humantime::format_duration(Duration::from_secs(role.rotate_every_s)).to_string();
    let mut pairs = vec![("user", role.user), ("rotated every", every)];
    pairs.extend(role.rotated_ms.map(|rotated_ms| ("rotated", time(rotated_ms))));
    pairs.push(("rotates", time(role.rotates_ms)));
    if role.attempts > 0 {
        pairs.push(("failed", format!("{} times", role.attempts)));
    }
    pairs.extend(role.error.map(|error| ("error", error)));
    session.screen.texts(&pairs)?;
    if role.outdated {
        session.screen.hint("its password is older than a restore: it is rotated once the database is released");
    } else if role.rotating {
        session.screen.hint("a rotation goes on: its password is told once the database has answered");
    }
    Ok(Exit::Ok)
}

async fn creds(
    session: &Session<'_>,
    of: &Of,
    field: Option<CredsField>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    if field == Some(CredsField::Lease) {
        return Err(Failure::usage("a static role has no lease").hint("ask for the user or the password"));
    }
    let made = session.client()?.database_static_creds(&of.database, &of.role).await?;
    match field {
        Some(CredsField::User) => return super::field(session, &made.user),
        Some(_) => return super::field(session, &made.password),
        None => {}
    }
    if format == Format::Json {
        return session.screen.json(&made).map(|()| Exit::Ok);
    }
    session.screen.pairs(&[
        ("user", made.user),
        ("password", made.password),
        ("rotated", time(made.rotated_ms)),
        ("rotates", time(made.rotates_ms)),
    ])?;
    Ok(Exit::Ok)
}
