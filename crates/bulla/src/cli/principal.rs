//! `bulla principal`: who may call.

use super::statement::demand_yes;
use super::status::joined;
use super::{keygen, statement};
use crate::exit::{Exit, Failure};
use crate::keys::key_source;
use crate::names::Names;
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::{Admit, Client, ClientError, Resolved};
use bulla_crypto::evidence::Payload as _;
use bulla_keys::KeySource;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Admission, PrincipalRecord};
use bulla_wire::json;
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::str::FromStr as _;

/// The group that admins are in by the cluster document.
const ADMINS: &str = "admins";
/// Principals of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Principal {
    Add(Add),
    /// Show a principal, verified
    Show {
        /// Its name, sha256:… or age1…
        principal: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List all principals
    List(FormatArgs),
    /// Set the groups of a principal, in the place of those that it has
    ///
    /// Admins stay in group `admins`: they are in it by the cluster document.
    Groups {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
        /// The groups; none takes all away
        #[arg(value_parser = super::name)]
        groups: Vec<Name>,
    },
    /// Have the server refuse all keys of a principal
    ///
    /// You are asked before you disable yourself or an admin.
    Disable {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
        /// Disable without being asked
        #[arg(short, long)]
        yes: bool,
    },
    /// Have the server take them again
    Enable {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
    },
    /// Write your next record, with a new key in the place of the old one; an enroller admits it
    Rotate {
        /// The new identity, from `bulla keygen`
        #[arg(value_name = "KEY", value_parser = key_source())]
        new: KeySource,
        /// The key that decrypts for the new identity, if that only signs
        #[arg(long, value_name = "KEY", value_parser = key_source())]
        new_decrypt_with: Option<KeySource>,
        /// Where to write the record
        #[arg(short = 'o', value_name = "FILE")]
        file: PathBuf,
    },
}

/// Admit a record under its name: you say that these keys are this name's
///
/// Make sure by another way that the keys are the holder's: compare the principal id with what `bulla keygen`
/// printed there. Groups and attributes of a principal that is there already stay unless you give others; those of one
/// that is void do not. Admins are in group `admins` by the cluster document, whatever you give.
#[derive(Debug, Args)]
pub struct Add {
    /// Its record, from `bulla keygen`
    record: PathBuf,
    /// A group, for policy; may be repeated
    #[arg(long = "group", value_name = "GROUP", value_parser = super::name)]
    groups: Vec<Name>,
    /// An attribute, for policy; may be repeated
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected KEY=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub async fn run(command: Principal, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Principal::Add(args) => add(session, args).await,
        Principal::Show { principal, format } => show(session, &principal, format).await,
        Principal::List(format) => list(session, format).await,
        Principal::Groups { name, groups } => {
            let client = session.client()?;
            let resolved = client.resolve_name(&name).await?;
            let attributes =
                admission_of(&resolved).map(|admission| admission.attributes.0.clone()).unwrap_or_default();
            let envelope = resolved.record().envelope().clone();
            let resolved = client.admit(&envelope, Admit { groups, attributes }).await?;
            report(session, &client, &resolved).await.map(|()| Exit::Ok)
        }
        Principal::Disable { name, yes } => {
            let client = session.client()?;
            if let Some(question) = doubt(&client, &name).await? {
                demand_yes(&question, yes)?;
            }
            client.principal_disable(&name).await?;
            session.screen.say(&format!("{name} is disabled"));
            Ok(Exit::Ok)
        }
        Principal::Enable { name } => {
            session.client()?.principal_enable(&name).await?;
            session.screen.say(&format!("{name} is enabled"));
            Ok(Exit::Ok)
        }
        Principal::Rotate { new, new_decrypt_with, file } => {
            rotate(session, &new, new_decrypt_with.as_ref(), &file).await
        }
    }
}

/// What to ask before somebody is disabled whom the caller or the cluster would miss.
async fn doubt(client: &Client, name: &Name) -> Result<Option<String>, Failure> {
    // Whoever may not ask who they are may still disable others.
    if client.whoami().await.is_ok_and(|me| me.principal.name == *name) {
        return Ok(Some(format!("{name} is you, and could not enable itself again. Disable it?")));
    }
    let view = client.view().await?;
    let admins = &view.newest().body().admins;
    let admin = view.standing_by_name(name).is_some_and(|record| admins.contains(&record.principal()));
    Ok(admin.then(|| format!("{name} is an admin: no call is taken from it until it is enabled. Disable it?")))
}

async fn add(session: &Session<'_>, args: Add) -> Result<Exit, Failure> {
    let Add { record, groups, attributes } = args;
    let envelope = super::init::read_record(&record)?;
    let client = session.client()?;
    let mut admit = Admit { groups, attributes: attributes.into_iter().collect() };
    let before = there(session, &client, &envelope).await?;
    if let Some(admission) = before.as_ref().and_then(admission_of) {
        if admit.groups.is_empty() {
            admit.groups.clone_from(&admission.groups);
        }
        if admit.attributes.is_empty() {
            admit.attributes.clone_from(&admission.attributes.0);
        }
    }
    let resolved = client.admit(&envelope, admit).await?;
    report(session, &client, &resolved).await?;
    Ok(Exit::Ok)
}

/// The principal that has the record's name already.
async fn there(session: &Session<'_>, client: &Client, envelope: &Envelope) -> Result<Option<Resolved>, Failure> {
    let record: PrincipalRecord = json::parse(&envelope.payload, json::MAX_STATEMENT_BYTES)
        .map_err(|error| Failure::new(Exit::Failed, format!("this is no {}: {error}", PrincipalRecord::TYPE)))
        .map_err(|failure| failure.hint("`bulla keygen` writes one"))?;
    match client.resolve_name(&record.name).await {
        Ok(resolved) => Ok(Some(resolved)),
        Err(error) if error.proven() == Some(Code::NotFound) => Ok(None),
        // An admission that no longer holds is what a new one is for. What it said may not be what an enroller said.
        Err(error) if error.is_void() => {
            let name = &record.name;
            session.screen.warn(&format!(
                "{name} is void, so its groups and attributes before do not count: compare those below"
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn admission_of(resolved: &Resolved) -> Option<&Admission> {
    resolved.admission.as_ref().map(|admission| &admission.admission)
}

/// The groups of its admission, and `admins`, which the newest document gives to its admins.
async fn groups_of(client: &Client, resolved: &Resolved) -> Result<Vec<Name>, Failure> {
    let mut groups = admission_of(resolved).map(|admission| admission.groups.clone()).unwrap_or_default();
    let admins = Name::from_str(ADMINS).ok().filter(|admins| !groups.contains(admins));
    if client.view().await?.newest().body().admins.contains(&resolved.principal()) {
        groups.extend(admins);
    }
    Ok(groups)
}

async fn report(session: &Session<'_>, client: &Client, resolved: &Resolved) -> Result<(), Failure> {
    let record = resolved.record();
    let mut pairs = vec![
        ("name", resolved.name().to_string()),
        ("principal", resolved.principal().to_string()),
        ("record", format!("version {}, {}", record.version(), record.digest())),
    ];
    for key in record.keys() {
        let use_of = if key.dual_use { " (signs and decrypts with one key)" } else { "" };
        pairs.push(("key", format!("{}{use_of}", key.public.key_id())));
        let kinds = key
            .recipients
            .iter()
            .map(|recipient| (if recipient.is_hybrid() { "post-quantum" } else { "classical" }).to_owned());
        pairs.push(("encryption", kinds.collect::<Vec<_>>().join(", ")));
    }
    pairs.push(("groups", joined(&groups_of(client, resolved).await?)));
    match &resolved.admission {
        Some(admission) => {
            let attributes = &admission.admission.attributes.0;
            pairs.extend(attributes.iter().map(|(name, value)| ("attribute", format!("{name}={value}"))));
            pairs.push(("admitted by", Names::new(client).full(&admission.enroller).await));
        }
        None => pairs.push(("admitted by", "the cluster document".to_owned())),
    }
    session.screen.pairs(&pairs)
}

async fn show(session: &Session<'_>, text: &str, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let resolved = match client.resolve(text).await {
        Err(error @ ClientError::Untrusted(_)) => return Err(told_void(&client, text, error).await),
        resolved => resolved?,
    };
    let told = client.principal(resolved.name()).await?;
    if format == Format::Json {
        return session.screen.json(&told).map(|()| Exit::Ok);
    }
    report(session, &client, &resolved).await?;
    if told.disabled {
        session.screen.warn("the server says that it is disabled");
    }
    Ok(Exit::Ok)
}

/// Why a principal does not resolve, in plain words where it is only void.
async fn told_void(client: &Client, text: &str, error: ClientError) -> Failure {
    let told = match text.parse() {
        Ok(name) => client.principal(&name).await.ok(),
        Err(_) => None,
    };
    let failure = Failure::from(error);
    if !told.is_some_and(|told| told.void) {
        return failure;
    }
    let failure = Failure::new(failure.exit, format!("{text} is void: who admitted it is no enroller any more"));
    failure.hint("its keys are refused until an enroller admits it again: `bulla principal add RECORD`")
}

async fn list(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.principals(None, None, after.as_deref(), Some(PAGE)).await?;
        all.extend(page.principals);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if format == Format::Json {
        let whole = bulla_wire::api::Principals { principals: all, next: None };
        return session.screen.json(&whole).map(|()| Exit::Ok);
    }
    let rows: Vec<_> = all
        .iter()
        .map(|summary| {
            let state = match (summary.disabled, summary.void) {
                (true, _) => "disabled",
                (false, true) => "void",
                (false, false) => "enabled",
            };
            vec![summary.name.to_string(), summary.id.to_string(), state.to_owned(), joined(&summary.groups)]
        })
        .collect();
    session.screen.table(&["NAME", "PRINCIPAL", "STATE", "GROUPS"], &rows)?;
    Ok(Exit::Ok)
}

async fn rotate(
    session: &Session<'_>,
    new: &KeySource,
    opens: Option<&KeySource>,
    file: &std::path::Path,
) -> Result<Exit, Failure> {
    let identity = session.read_identity(new, opens)?;
    keygen::demand_opens(&identity).await?;
    let client = session.client()?;
    let envelope = client.rotate(&[keygen::key_of(&identity)], &[&*identity]).await?;
    statement::write(file, &envelope)?;
    let file = file.display();
    let me = client.whoami().await?;
    let (until, next) = if me.admin || me.enroller {
        ("a document names it", format!("`bulla document propose --renew {file} -o document.json`"))
    } else {
        ("it is admitted", format!("an enroller runs `bulla principal add {file}`"))
    };
    session.screen.say(&format!("{file} is your next record; until {until}, nothing changes"));
    let opens = opens.map(|opens| format!(" --decrypt-with {opens}")).unwrap_or_default();
    session.screen.hint(&format!("{next}; then use --identity {new}{opens}"));
    Ok(Exit::Ok)
}
