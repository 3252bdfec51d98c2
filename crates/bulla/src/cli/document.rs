//! `bulla document`: the next cluster document, built, signed by k admins, and put.

mod words;

use super::statement;
use crate::exit::{Exit, Failure, told};
use crate::output::{Format, FormatArgs};
use crate::session::{Session, now_ms};
use bulla_client::{Client, ClientError, ClusterFacts};
use bulla_crypto::evidence::{ClusterView, DocumentDraft, Node, Record, VerifiedDocument, payload_digest};
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::{Algorithm, PublicKey, RsaMinimum, Signer as _};
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::base64url_decode;
use bulla_wire::evidence::{Document as Body, NodeState, SealMode};
use bulla_wire::id::KeyId;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use words::{changes, lines_of};

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
    Sign(SignDocument),
    /// Put a document that k admins signed
    Submit {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct SignDocument {
    #[command(flatten)]
    sign: statement::Sign,
    /// Sign another document under a number that this machine has seen: after a restore that the admins know of
    #[arg(long)]
    danger_fewer_documents: bool,
}

#[derive(Debug, Args)]
pub struct Propose {
    /// Let this principal admit others; may be repeated
    #[arg(long, value_name = "NAME")]
    add_enroller: Vec<String>,
    /// Void what this principal admitted; `bulla enroller remove` first asks whom you admit again
    #[arg(long, value_name = "NAME")]
    remove_enroller: Vec<String>,
    /// Give this record's principal a share of the seal, and let it admit others; may be repeated
    #[arg(long, value_name = "RECORD")]
    add_admin: Vec<PathBuf>,
    /// Take an admin's share, and what it may admit; may be repeated
    #[arg(long, value_name = "NAME")]
    remove_admin: Vec<String>,
    /// Take the next record of an admin or enroller, from `bulla principal rotate`; may be repeated
    #[arg(long, value_name = "RECORD")]
    renew: Vec<PathBuf>,
    /// So many admins open the seal and sign documents from then on, 2 or more
    #[arg(short, value_name = "K", conflicts_with = "any", value_parser = clap::value_parser!(u8).range(2..))]
    k: Option<u8>,
    /// Any one admin opens the seal from then on
    #[arg(long)]
    any: bool,
    /// Take in a node by the key that its server prints at the start, after a restore without node.key; may be repeated
    #[arg(long, value_name = "SPKI", value_parser = node_key)]
    add_node: Vec<PublicKey>,
    /// The node signs no more; what it signed stays valid
    #[arg(long, value_name = "ID")]
    retire_node: Vec<KeyId>,
    /// What the node signed from now on proves nothing
    #[arg(long, value_name = "ID")]
    compromise_node: Vec<KeyId>,
    /// Build on the documents that the cluster shows, though this machine has seen more: after a restore that the admins
    /// know of
    #[arg(long)]
    danger_fewer_documents: bool,
    /// Where to write it
    #[arg(short = 'o', value_name = "FILE")]
    file: PathBuf,
}

pub async fn run(command: Document, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Document::Show { number, format } => show(session, number, format).await,
        Document::Propose(args) => propose(session, args).await,
        Document::Sign(args) => sign(session, args).await,
        Document::Submit { file } => {
            let envelope = statement::read::<Body>(&file)?;
            session.client()?.document_put(envelope).await?;
            session.screen.say("the document holds from now on");
            Ok(Exit::Ok)
        }
    }
}

async fn show(session: &Session<'_>, number: Option<u32>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    // What is shown is looked up anew, and verified from the pin on.
    let ClusterFacts { view, newest, .. } = session.open_client()?.cluster().await?;
    if newest < view.newest().number() {
        session.screen.warn(&format!(
            "the cluster's newest document is {newest}, and this machine has seen {}, which is shown: the cluster lost \
             documents, or something else answers in its place",
            view.newest().number()
        ));
    }
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
    for line in lines_of(document.body(), Some(document)) {
        session.screen.line(&line)?;
    }
    Ok(Exit::Ok)
}

/// Signs a proposed document. It needs no network: whose signature counts is told by the documents known here, and
/// where the one before is not known, only by the cluster.
async fn sign(session: &Session<'_>, args: SignDocument) -> Result<Exit, Failure> {
    let SignDocument { sign: statement::Sign { file, yes }, danger_fewer_documents } = args;
    let identity = session.identity()?;
    let known = statement::kept_view(session)?;
    let mut before = None;
    let shown = |envelope: &Envelope, body: &Body| {
        let there = known.as_ref().and_then(|view| view.document(body.number));
        if !danger_fewer_documents && there.is_some_and(|there| there.digest() != payload_digest(envelope)) {
            let message = format!("the cluster has another document {} already, and only one can hold", body.number);
            return Err(Failure::new(Exit::Conflict, message)
                .hint("`bulla document show` shows the newest; `bulla document propose` makes one that follows it")
                .hint(
                    "if the cluster was restored from before that one, --danger-fewer-documents signs all the same",
                ));
        }
        before = known.as_ref().and_then(|view| view.documents().find(|known| Some(known.digest()) == body.prev));
        match before {
            Some(before) => demand_admin(&identity, before)?,
            None => session.screen.warn(
                "only admins of the document before it count, which is not known here: so neither is whether your \
                 signature counts",
            ),
        }
        let mut lines = lines_of(body, before);
        lines.extend(before.map(|before| changes(before, body)).into_iter().flatten());
        Ok(lines)
    };
    let envelope = statement::add(session, &file, yes, |_| (), shown).await?;
    let shown = file.display();
    match before {
        Some(before) => {
            session.screen.say(&format!("{shown} has {} now", statement::counted::<Body>(before, &envelope)?));
        }
        None => {
            session.screen.say(&format!("{shown} has {} now", statement::count(&envelope)));
            session.screen.hint(
                "`bulla document show`, with a network, makes it known here; `bulla document submit` tells whose count",
            );
        }
    }
    Ok(Exit::Ok)
}

/// Who is no admin need not sign: it would count for nothing.
fn demand_admin(identity: &Identity, document: &VerifiedDocument) -> Result<(), Failure> {
    let key = identity.public_key().key_id();
    if document.admin_by_key(&key).is_some() {
        return Ok(());
    }
    Err(Failure::new(Exit::Denied, format!("your key {key} is not that of an admin"))
        .hint("an admin whom `bulla document show` names signs it, with --identity"))
}

async fn propose(session: &Session<'_>, args: Propose) -> Result<Exit, Failure> {
    let Propose {
        add_enroller,
        remove_enroller,
        add_admin,
        remove_admin,
        renew,
        k,
        any,
        add_node,
        retire_node,
        compromise_node,
        danger_fewer_documents,
        file,
    } = args;
    let client = session.client()?;
    let view = view_to_build_on(&client, !add_node.is_empty(), danger_fewer_documents).await?;
    let newest = view.newest();
    let mut draft = DocumentDraft::of(newest);
    change_admins(newest, &mut draft, &add_admin, &remove_admin, if any { Some(1) } else { k })?;
    demand_free_names(&client, newest, &draft).await?;
    if draft.changes_seal(newest) {
        super::init::warn_of_all(session, usize::from(draft.k), draft.admins.len());
    }
    for name in &add_enroller {
        add(&client, &mut draft, name).await?;
    }
    for name in &remove_enroller {
        remove(view.newest(), &mut draft, name)?;
    }
    for path in &renew {
        self::renew(session, newest, &mut draft, path)?;
    }
    for key in add_node {
        let id = key.key_id();
        if draft.nodes.iter().any(|node| node.key == key) {
            return Err(Failure::new(Exit::Conflict, format!("{id} is a node of this cluster already"))
                .hint("leave --add-node out"));
        }
        draft.nodes.push(Node { key, state: NodeState::Active, since_ms: now_ms() });
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
    if draft.changes_seal(newest) {
        draft.ingress = client.next_ingress().await?;
        session.screen.say("the seal changes: with the document, shares are dealt anew to its admins");
    }
    let envelope = signed(session, &client, &view, &draft).await?;
    statement::write(&file, &envelope)?;
    told_where(session, view.newest(), &file, &envelope)?;
    Ok(Exit::Ok)
}

/// What the next document is built on. Those that are known here are not all there is after a restore, and then it is the
/// admins' to say so.
pub(super) async fn view_to_build_on(
    client: &Client,
    adds_node: bool,
    danger: bool,
) -> Result<Arc<ClusterView>, Failure> {
    if danger {
        return Ok(client.shown_to_build_on().await?);
    }
    // The only node that answers may be the one that enters, and until then nothing but its documents is believed.
    let built_on = match adds_node {
        true => client.view_to_build_on().await,
        false => client.cluster().await.and_then(|facts| facts.whole().cloned()),
    };
    built_on.map_err(|error| match error {
        ClientError::RolledBack(_) => Failure::from(error)
            .hint("if it was restored from before these documents, `bulla document propose --danger-fewer-documents` builds on what it shows"),
        error => error.into(),
    })
}

/// Puts the next record of an admin or enroller in the place of the one that stands.
fn renew(
    session: &Session<'_>,
    newest: &VerifiedDocument,
    draft: &mut DocumentDraft,
    path: &Path,
) -> Result<(), Failure> {
    let next = record(newest, path)?;
    let (name, standing) = (next.name(), newest.record(&next.principal()));
    let standing = standing.ok_or_else(|| {
        let failure = Failure::new(Exit::NotFound, format!("{name} is neither admin nor enroller"));
        if newest.records().any(|standing| standing.name() == name) {
            let problem = format!("{} is no next record of {name}", path.display());
            return Failure::new(Exit::Conflict, problem).hint("`bulla principal rotate` writes it, by the old key");
        }
        failure.hint("`bulla document show` names both; the keys of others need no document")
    })?;
    if standing.digest() == next.digest() {
        return Err(Failure::new(Exit::Conflict, format!("the document has this record of {name} already"))
            .hint("leave --renew out"));
    }
    let keeps_all = standing.public_keys().all(|key| next.key(&key.key_id()).is_some());
    let void = !keeps_all && newest.enrollers().any(|enroller| enroller.principal() == next.principal());
    if void {
        session.screen.warn(&format!(
            "whom {name} admitted is void from this document on: let another enroller admit them before, with \
             `bulla principal add RECORD`"
        ));
    }
    draft.replace_record(&next);
    Ok(())
}

/// Adds and removes admins, and sets how many of them open the seal: 1 is mode `any`.
fn change_admins(
    newest: &VerifiedDocument,
    draft: &mut DocumentDraft,
    add: &[PathBuf],
    remove: &[String],
    k: Option<u8>,
) -> Result<(), Failure> {
    for path in add {
        draft.add_admin(&record(newest, path)?);
    }
    for name in remove {
        let admin = newest.admins().find(|record| record.name().as_str() == name);
        let admin = admin.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{name} is no admin")).hint("`bulla document show` names them")
        })?;
        draft.remove_admin(&admin.principal());
    }
    if let Some(k) = k {
        draft.mode = if k == 1 { SealMode::Any } else { SealMode::Quorum };
        draft.k = k;
    }
    let (k, n) = (usize::from(draft.k), draft.admins.len());
    if (1..=n).contains(&k) {
        return Ok(());
    }
    Err(Failure::usage(format!("{k} of {n} admins cannot open a seal"))
        .hint("choose -k from 2 to the number of admins, or --any"))
}

/// A name is one principal's for ever, so nobody comes under that of another one, be that gone: told before k admins sign.
async fn demand_free_names(client: &Client, newest: &VerifiedDocument, draft: &DocumentDraft) -> Result<(), Failure> {
    for record in draft.records.iter().filter(|record| newest.record(&record.principal()).is_none()) {
        let name = record.name();
        // Who may not look is told by the server later.
        let Ok(there) = client.principal(name).await else { continue };
        if there.id != record.principal() {
            return Err(Failure::new(
                Exit::Conflict,
                format!("another principal is called {name}, with another record"),
            )
            .hint("a name is never given to another record: `bulla keygen --name` makes one under another name")
            .hint("if it is the same person with a new key, `bulla principal rotate` and --renew keep the name"));
        }
    }
    Ok(())
}

/// A record from a file: the first of a principal, or the next of one that stands in the document.
fn record(newest: &VerifiedDocument, path: &Path) -> Result<Record, Failure> {
    let envelope = super::init::read_record(path)?;
    let opened = newest
        .records()
        .find_map(|standing| Record::open(&envelope, Some(standing)).ok().filter(|next| next.version() > 1))
        .map_or_else(|| Record::open(&envelope, None), Ok);
    opened.map_err(|error| {
        let path = path.display();
        Failure::new(Exit::Failed, format!("the record in {path} does not hold: {}", told(&error)))
            .hint("give a first record from `bulla keygen`, or the next one from `bulla principal rotate`")
    })
}

fn node_key(text: &str) -> Result<PublicKey, String> {
    if text.starts_with("sha256:") {
        return Err("it is the id of a key; give the key itself, which the server prints at its start".to_owned());
    }
    let spki = base64url_decode(text).ok_or("it is no base64url; the server prints the key at its start")?;
    let key = PublicKey::from_spki(&spki, RsaMinimum::Bits3072).map_err(|error| error.to_string())?;
    if key.algorithm() == Algorithm::Ed25519 { Ok(key) } else { Err("a node's key is an Ed25519 key".to_owned()) }
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
pub async fn signed(
    session: &Session<'_>,
    client: &Client,
    view: &ClusterView,
    draft: &DocumentDraft,
) -> Result<Envelope, Failure> {
    demand_admin(&*session.identity()?, view.newest())?;
    let body = view.next_document(draft);
    let body = body.map_err(|error| {
        Failure::new(Exit::Failed, format!("no document can follow: {}", told(&error)))
            .hint("`bulla document show` has what stands there now")
    })?;
    Ok(client.document_sign(&body).await?)
}

/// Says who has to sign next.
pub fn told_where(
    session: &Session<'_>,
    newest: &VerifiedDocument,
    file: &Path,
    envelope: &Envelope,
) -> Result<(), Failure> {
    let file = file.display();
    session.screen.say(&format!("{file} has {}", statement::counted::<Body>(newest, envelope)?));
    if statement::signers::<Body>(newest, envelope)? < newest.quorum() {
        session.screen.hint(&format!("another admin runs `bulla document sign {file}`"));
    }
    session.screen.hint(&format!("with all of them, `bulla document submit {file}`"));
    Ok(())
}
