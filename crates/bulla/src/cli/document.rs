//! `bulla document`: the next cluster document, built, signed by k admins, and put.

use super::statement;
use crate::exit::{Exit, Failure, told};
use crate::output::{Format, FormatArgs, time, word};
use crate::session::{Session, now_ms};
use bulla_client::Client;
use bulla_crypto::evidence::{DocumentDraft, VerifiedDocument};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Document as Body, NodeState};
use bulla_wire::id::KeyId;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Document {
    /// Show a document
    Show {
        /// Its number; the newest if left out
        number: Option<u32>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Write the next document to a file, with your signature
    Propose(Propose),
    /// Add your signature to a proposed document; needs no network
    Sign(statement::Sign),
    /// Put a document that k admins signed
    Submit {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Propose {
    /// Let this principal admit others; may be repeated
    #[arg(long, value_name = "NAME")]
    add_enroller: Vec<String>,
    /// Void what this principal admitted; `bulla enroller remove` signs it again first
    #[arg(long, value_name = "NAME")]
    remove_enroller: Vec<String>,
    /// Take the principal's newest record in the place of the one in the document
    #[arg(long, value_name = "NAME")]
    renew: Vec<String>,
    /// The node signs no more; what it signed stays valid
    #[arg(long, value_name = "ID")]
    retire_node: Vec<KeyId>,
    /// What the node signed from now on proves nothing
    #[arg(long, value_name = "ID")]
    compromise_node: Vec<KeyId>,
    /// Where to write it
    #[arg(short = 'o', value_name = "FILE")]
    file: PathBuf,
}

pub async fn run(command: Document, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Document::Show { number, format } => show(session, number, format).await,
        Document::Propose(args) => propose(session, args).await,
        Document::Sign(sign) => statement::sign(session, sign, |body: &Body| lines_of(body)).await,
        Document::Submit { file } => {
            let envelope = statement::read(&file)?;
            session.client()?.document_put(envelope).await?;
            session.screen.say("the document holds from now on");
            Ok(Exit::Ok)
        }
    }
}

async fn show(session: &Session<'_>, number: Option<u32>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    // What is shown is looked up anew, and verified from the pin on.
    let view = session.open_client()?.cluster().await?.view;
    let document = match number {
        None => view.newest(),
        Some(number) => view.document(number).ok_or_else(|| {
            let newest = view.newest().number();
            Failure::new(Exit::NotFound, format!("there is no document {number}; the newest is {newest}"))
                .hint("leave the number out for the newest")
        })?,
    };
    if format == Format::Json {
        return session.screen.json(document.envelope()).map(|()| Exit::Ok);
    }
    for line in lines_of(document.body()) {
        session.screen.line(&line)?;
    }
    Ok(Exit::Ok)
}

async fn propose(session: &Session<'_>, args: Propose) -> Result<Exit, Failure> {
    let Propose { add_enroller, remove_enroller, renew, retire_node, compromise_node, file } = args;
    let client = session.client()?;
    let view = client.cluster().await?.view;
    let mut draft = DocumentDraft::of(view.newest());
    for name in &add_enroller {
        add(&client, &mut draft, name).await?;
    }
    for name in &remove_enroller {
        remove(view.newest(), &mut draft, name)?;
    }
    for name in &renew {
        let resolved = client.resolve(name).await?;
        let standing = view.standing(&resolved.principal()).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{name} is neither admin nor enroller"))
                .hint("`bulla document show` names both; the keys of others need no document")
        })?;
        if standing.digest() == resolved.record().digest() {
            return Err(Failure::new(Exit::Conflict, format!("the document has the newest record of {name}"))
                .hint("leave --renew out"));
        }
        draft.replace_record(resolved.record());
    }
    let states = retire_node.iter().map(|id| (id, NodeState::Retired));
    for (id, state) in states.chain(compromise_node.iter().map(|id| (id, NodeState::Compromised))) {
        let node = draft.nodes.iter_mut().find(|node| node.key.key_id() == *id);
        let node = node.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{id} is no node of this cluster"))
                .hint("`bulla document show` names the nodes")
        })?;
        node.state = state;
        node.since_ms = now_ms();
    }
    let envelope = signed(&client, &draft).await?;
    statement::write(&file, &envelope)?;
    told_where(session, view.newest(), &file, &envelope);
    Ok(Exit::Ok)
}

/// Lets a principal admit others.
pub async fn add(client: &Client, draft: &mut DocumentDraft, name: &str) -> Result<(), Failure> {
    let resolved = client.resolve(name).await?;
    let principal = resolved.principal();
    if draft.enrollers.contains(&principal) {
        return Err(Failure::new(Exit::Conflict, format!("{name} is an enroller already"))
            .hint("`bulla enroller list` shows them"));
    }
    // An admin is in the document already, with a record that may be older than its newest.
    if !draft.records.iter().any(|record| record.principal() == principal) {
        let version = resolved.record().version();
        if version > 1 {
            return Err(Failure::new(
                Exit::Conflict,
                format!(
                    "{name} has changed its keys: its record has version {version}, and a document names version 1"
                ),
            )
            .hint("make an enroller before it changes its keys, or add a new principal for it and make that one"));
        }
        draft.records.push(resolved.record().clone());
    }
    draft.enrollers.push(principal);
    Ok(())
}

/// Takes the role away.
pub fn remove(newest: &VerifiedDocument, draft: &mut DocumentDraft, name: &str) -> Result<(), Failure> {
    let enroller = newest.enrollers().find(|record| record.name().as_str() == name);
    let enroller = enroller.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("{name} is no enroller")).hint("`bulla enroller list` shows them")
    })?;
    draft.remove_enroller(&enroller.principal());
    Ok(())
}

/// The next document with the caller's signature.
pub async fn signed(client: &Client, draft: &DocumentDraft) -> Result<Envelope, Failure> {
    let body = client.view().await?.next_document(draft);
    let body = body.map_err(|error| {
        Failure::new(Exit::Failed, format!("no document can follow: {}", told(&error)))
            .hint("`bulla document show` has what stands there now")
    })?;
    Ok(client.document_sign(&body).await?)
}

/// Says who has to sign next.
pub fn told_where(session: &Session<'_>, newest: &VerifiedDocument, file: &Path, envelope: &Envelope) {
    let need = newest.quorum();
    let file = file.display();
    session.screen.say(&format!("{file} has {} of {need} needed", statement::count(envelope)));
    if envelope.signatures.len() < need {
        session.screen.hint(&format!("another admin runs `bulla document sign {file}`"));
    }
    session.screen.hint(&format!("with all of them, `bulla document submit {file}`"));
}

/// What a document says, for whoever signs it.
pub fn lines_of(body: &Body) -> Vec<String> {
    let mut lines = vec![format!("document {} of {}", body.number, body.name)];
    lines.extend(body.cluster.map(|cluster| format!("  cluster   {cluster}")));
    lines.push(format!("  seal      {} of {} admins ({})", body.k, body.admins.len(), word(&body.mode)));
    let name = |principal: &bulla_wire::id::PrincipalId| {
        // Version 1 names its principal by its digest; later ones are told by their id alone.
        let found = body
            .records
            .iter()
            .find(|record| bulla_crypto::evidence::payload_digest(record).as_bytes() == principal.as_bytes());
        let record = found.and_then(|record| {
            bulla_wire::json::parse::<bulla_wire::evidence::PrincipalRecord>(&record.payload, record.payload.len()).ok()
        });
        record.map_or_else(|| principal.to_string(), |record| format!("{} {principal}", record.name))
    };
    lines.extend(body.admins.iter().map(|admin| format!("  admin     {}", name(admin))));
    lines.extend(body.enrollers.iter().map(|enroller| format!("  enroller  {}", name(enroller))));
    for node in &body.nodes {
        let id = KeyId::new(bulla_crypto::digest::sha256(&[&node.spki.0]));
        lines.push(format!("  node      {id} {} since {}", word(&node.state), time(node.since_ms)));
    }
    lines.push(format!("  weakest   {}", word(&body.min_kem)));
    lines
}
