//! `bulla enroller`: who may admit principals.

use super::status::joined;
use super::{document, statement};
use crate::ask;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::{Admit, Client, Resolved};
use bulla_crypto::evidence::{ClusterView, DocumentDraft, Record};
use bulla_wire::dsse::Envelope;
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Principals of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Enroller {
    /// Let a principal admit others
    Add(Change),
    /// Take that away again; whom it admitted and you do not admit again is void
    ///
    /// At a terminal you are asked about each of those; elsewhere the flags say it. If the enroller's key may be in other
    /// hands, make sure by another way that you know whom you admit.
    Remove(Remove),
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

#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    change: Change,
    /// Admit this principal again by your signature; may be repeated, and you are asked about nobody
    #[arg(long, value_name = "NAME")]
    readmit: Vec<Name>,
    /// Admit everybody again whom it admitted
    #[arg(long, conflicts_with = "readmit")]
    readmit_all: bool,
}

pub async fn run(command: Enroller, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Enroller::Add(Change { name, file }) => {
            let client = session.client()?;
            let view = document::view_to_build_on(&client, false, false).await?;
            let mut draft = DocumentDraft::of(view.newest());
            document::add(&client, &mut draft, &name).await?;
            put(session, &client, &view, &draft, &file).await
        }
        Enroller::Remove(Remove { change: Change { name, file }, readmit, readmit_all }) => {
            let client = session.client()?;
            let view = document::view_to_build_on(&client, false, false).await?;
            let mut draft = DocumentDraft::of(view.newest());
            document::remove(view.newest(), &mut draft, &name)?;
            let enroller = view.newest().enrollers().find(|record| record.name().as_str() == name).cloned();
            if let Some(enroller) = enroller {
                let admitted = admitted_by(&client, &enroller).await?;
                let chosen = choose(session, &admitted, &readmit, readmit_all)?;
                admit_again(session, &client, &draft, admitted, &chosen).await?;
            }
            put(session, &client, &view, &draft, &file).await
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

/// Everybody whom the enroller admitted.
async fn admitted_by(client: &Client, enroller: &Record) -> Result<Vec<Resolved>, Failure> {
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.principals(None, None, after.as_deref(), Some(PAGE)).await?;
        names.extend(page.principals.into_iter().filter(|summary| !summary.void).map(|summary| summary.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut admitted = Vec::new();
    for name in names {
        let resolved = client.resolve_name(&name).await?;
        let by = resolved.admission.as_ref().map(|admission| admission.enroller);
        if by == Some(enroller.principal()) {
            admitted.push(resolved);
        }
    }
    Ok(admitted)
}

/// Whom to admit again: what the flags say, or the person at the terminal. Nothing is signed before all is chosen.
fn choose(session: &Session<'_>, admitted: &[Resolved], named: &[Name], all: bool) -> Result<Vec<Name>, Failure> {
    if let Some(other) = named.iter().find(|name| !admitted.iter().any(|resolved| resolved.name() == *name)) {
        let failure = Failure::new(Exit::NotFound, format!("{other} is not among those whom it admitted"));
        return Err(failure.hint("`bulla principal show` tells who admitted somebody"));
    }
    if all {
        return Ok(admitted.iter().map(|resolved| resolved.name().clone()).collect());
    }
    if !named.is_empty() || !ask::possible() {
        return Ok(named.to_vec());
    }
    let mut chosen = Vec::new();
    for resolved in admitted {
        let (name, groups) = (resolved.name(), groups_of(resolved));
        session.screen.say(&format!("{name} {}, groups: {}", resolved.principal(), joined(&groups)));
        let again = ask::yes(&format!("Admit {name} again by your signature?"));
        if again.map_err(|error| Failure::new(Exit::Failed, format!("cannot ask: {error}")))? {
            chosen.push(name.clone());
        }
    }
    Ok(chosen)
}

fn groups_of(resolved: &Resolved) -> Vec<Name> {
    resolved.admission.as_ref().map(|admission| admission.admission.groups.clone()).unwrap_or_default()
}

/// Signs the chosen admissions again with the caller's key, and says what becomes of the others.
async fn admit_again(
    session: &Session<'_>,
    client: &Client,
    draft: &DocumentDraft,
    admitted: Vec<Resolved>,
    chosen: &[Name],
) -> Result<(), Failure> {
    for resolved in admitted {
        let name = resolved.name();
        if chosen.contains(name) {
            let attributes = resolved.admission.as_ref().map(|admission| admission.admission.attributes.0.clone());
            let admit = Admit { groups: groups_of(&resolved), attributes: attributes.unwrap_or_default() };
            client.admit(resolved.record().envelope(), admit).await?;
            session.screen.say(&format!("{name} is admitted by you now"));
        } else if draft.records.iter().any(|record| record.principal() == resolved.principal()) {
            session.screen.say(&format!("{name} keeps its place in the document, and loses its groups"));
        } else {
            session.screen.say(&format!("{name} is void once the document holds"));
        }
    }
    Ok(())
}

/// Puts the document if the caller's signature is enough, else writes it down for the others.
async fn put(
    session: &Session<'_>,
    client: &Client,
    view: &ClusterView,
    draft: &DocumentDraft,
    file: &std::path::Path,
) -> Result<Exit, Failure> {
    let newest = view.newest();
    let envelope: Envelope = document::signed(session, client, view, draft).await?;
    if newest.quorum() <= 1 {
        client.document_put(envelope).await?;
        session.screen.say("the document holds from now on");
        return Ok(Exit::Ok);
    }
    statement::write(file, &envelope)?;
    document::told_where(session, newest, file, &envelope)?;
    Ok(Exit::Ok)
}
