//! `bulla enroller`: who may admit principals.

use super::{document, statement};
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::{Admit, Client};
use bulla_crypto::evidence::{DocumentDraft, Record, VerifiedDocument};
use bulla_wire::dsse::Envelope;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Principals of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Enroller {
    /// Let a principal admit others
    Add(Change),
    /// Take that away again; what it admitted is first admitted again by you
    Remove(Change),
    /// List the enrollers
    List(FormatArgs),
}

#[derive(Debug, Args)]
pub struct Change {
    /// The principal's name
    name: String,
    /// Where to write the document if others must sign it
    #[arg(short = 'o', value_name = "FILE", default_value = "document.json")]
    file: PathBuf,
}

pub async fn run(command: Enroller, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Enroller::Add(Change { name, file }) => {
            let client = session.client()?;
            let view = client.cluster().await?.view;
            let mut draft = DocumentDraft::of(view.newest());
            document::add(&client, &mut draft, &name).await?;
            put(session, &client, view.newest(), &draft, &file).await
        }
        Enroller::Remove(Change { name, file }) => {
            let client = session.client()?;
            let view = client.cluster().await?.view;
            let mut draft = DocumentDraft::of(view.newest());
            document::remove(view.newest(), &mut draft, &name)?;
            let enroller = view.newest().enrollers().find(|record| record.name().as_str() == name).cloned();
            if let Some(enroller) = enroller {
                readmit(session, &client, &enroller).await?;
            }
            put(session, &client, view.newest(), &draft, &file).await
        }
        Enroller::List(FormatArgs { format }) => {
            let view = session.open_client()?.cluster().await?.view;
            if format == Format::Json {
                return session.screen.json(&view.newest().body().enrollers).map(|()| Exit::Ok);
            }
            let row = |record: &Record| vec![record.name().to_string(), record.principal().to_string()];
            let rows: Vec<_> = view.newest().enrollers().map(row).collect();
            session.screen.table(&["NAME", "PRINCIPAL"], &rows)?;
            Ok(Exit::Ok)
        }
    }
}

/// Signs what the enroller admitted again with the caller's key, so that nobody is locked out by its leaving.
async fn readmit(session: &Session<'_>, client: &Client, enroller: &Record) -> Result<(), Failure> {
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.principals(None, None, after.as_deref(), Some(PAGE)).await?;
        names.extend(page.principals.into_iter().map(|summary| summary.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for name in names {
        let resolved = client.resolve_name(&name).await?;
        let Some(admission) = &resolved.admission else { continue };
        if admission.enroller != enroller.principal() {
            continue;
        }
        let groups = admission.admission.groups.clone();
        let attributes = admission.admission.attributes.0.clone();
        client.admit(resolved.record().envelope(), Admit { groups, attributes }).await?;
        session.screen.say(&format!("{name} is admitted by you now"));
    }
    Ok(())
}

/// Puts the document if the caller's signature is enough, else writes it down for the others.
async fn put(
    session: &Session<'_>,
    client: &Client,
    newest: &VerifiedDocument,
    draft: &DocumentDraft,
    file: &std::path::Path,
) -> Result<Exit, Failure> {
    let envelope: Envelope = document::signed(client, draft).await?;
    if newest.quorum() <= 1 {
        client.document_put(envelope).await?;
        session.screen.say("the document holds from now on");
        return Ok(Exit::Ok);
    }
    statement::write(file, &envelope)?;
    document::told_where(session, newest, file, &envelope);
    Ok(Exit::Ok)
}
