//! `bulla policy`: who may do what, in Cedar.

use super::statement;
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use bulla_crypto::digest::sha256;
use bulla_crypto::dsse;
use bulla_wire::api::{CheckPolicy, PolicyExplanation, PolicySummary, PutPolicy};
use bulla_wire::evidence::PolicyRecovery;
use bulla_wire::id::Digest;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Store a policy
    Put(Put),
    /// Print a policy's text
    Get {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the policies
    List(FormatArgs),
    /// Delete a policy
    Delete {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
    },
    /// Ask whether somebody may do something, and because of which statement; ends with 13 if not
    Check {
        /// The principal's name
        #[arg(value_parser = super::name)]
        principal: Name,
        /// The action, such as kv.get
        action: String,
        /// The resource, such as kv/app/db
        resource: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Say why an earlier request was allowed or denied, by the id that its error or its audit line tells
    Explain {
        /// The request's id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Replace the whole policy set by the word of k admins, if policy locks everybody out
    #[command(subcommand)]
    Recover(Recover),
}

#[derive(Debug, Args)]
pub struct Put {
    /// Its name
    #[arg(value_parser = super::name)]
    name: Name,
    /// Cedar text: a file, or - for standard input
    file: PathBuf,
    /// Only if there is no policy of this name
    #[arg(long, conflicts_with = "replaces")]
    create: bool,
    /// Only if this is the digest of the text there now
    #[arg(long, value_name = "DIGEST")]
    replaces: Option<Digest>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub enum Recover {
    /// Approve a new set with your signature; k admins do, within ten minutes
    Sign {
        /// The whole new set, as JSON: {"NAME":"CEDAR TEXT",…}
        policies: PathBuf,
        /// The approval: made if it is not there, else your signature is added
        approval: PathBuf,
        /// Sign without being asked
        #[arg(short, long)]
        yes: bool,
    },
    /// Send the new set with the approval
    Submit {
        /// The same file, byte for byte
        policies: PathBuf,
        /// The approval
        approval: PathBuf,
    },
}

pub async fn run(command: Policy, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Policy::Put(args) => put(session, args).await,
        Policy::Get { name, format } => {
            let policy = session.client()?.policy(&name).await?;
            match format.format {
                Format::Json => session.screen.json(&policy)?,
                Format::Table => session.screen.bytes(policy.text.as_bytes())?,
            }
            Ok(Exit::Ok)
        }
        Policy::List(FormatArgs { format }) => {
            let policies = session.client()?.policies().await?;
            if format == Format::Json {
                return session.screen.json(&policies).map(|()| Exit::Ok);
            }
            let row = |policy: &PolicySummary| vec![policy.name.to_string(), policy.sha256.to_string()];
            let rows: Vec<_> = policies.policies.iter().map(row).collect();
            session.screen.table(&["NAME", "SHA256"], &rows)?;
            Ok(Exit::Ok)
        }
        Policy::Delete { name } => {
            session.client()?.policy_delete(&name).await?;
            session.screen.say(&format!("{name} is deleted"));
            Ok(Exit::Ok)
        }
        Policy::Check { principal, action, resource, format } => {
            check(session, CheckPolicy { principal, action, resource }, format).await
        }
        Policy::Explain { id, format } => explain(session, &id, format).await,
        Policy::Recover(command) => recover(session, command).await,
    }
}

async fn put(session: &Session<'_>, args: Put) -> Result<Exit, Failure> {
    let Put { name, file, create, replaces, format } = args;
    let text = input::text(&file, Limit::TEXT)?;
    let replaces = if create { Some(None) } else { replaces.map(Some) };
    let policy = session.client()?.policy_put(&name, &PutPolicy { text, replaces }).await?;
    if format.format == Format::Json {
        return session.screen.json(&policy).map(|()| Exit::Ok);
    }
    session.screen.say(&format!("{} is stored, text {}", policy.name, policy.sha256));
    Ok(Exit::Ok)
}

async fn check(session: &Session<'_>, body: CheckPolicy, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let decision = session.client()?.policy_check(&body).await?;
    let exit = if decision.allowed { Exit::Ok } else { Exit::Denied };
    if format == Format::Json {
        return session.screen.json(&decision).map(|()| exit);
    }
    session.screen.line(if decision.allowed { "allowed" } else { "denied" })?;
    for statement in &decision.because {
        session.screen.line(&format!("  by {statement}"))?;
    }
    for error in &decision.errors {
        session.screen.line(&format!("  failed {error}"))?;
    }
    if decision.because.is_empty() && decision.errors.is_empty() {
        session.screen.line("  no statement permits it")?;
    }
    Ok(exit)
}

async fn explain(session: &Session<'_>, id: &str, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let explanation = session.client()?.policy_explain(id).await?;
    if format == Format::Json {
        return session.screen.json(&explanation).map(|()| Exit::Ok);
    }
    let PolicyExplanation { received_ms, name, action, resource, allowed, reasons, status, code, .. } = explanation;
    let what = [action, resource.map(|resource| format!("on {resource}"))].into_iter().flatten().collect::<Vec<_>>();
    session.screen.line(&format!("{} {name}: {}", time(received_ms), what.join(" ")))?;
    session.screen.line(match allowed {
        Some(true) => "allowed",
        Some(false) => "denied",
        None => "refused before policy was asked",
    })?;
    for reason in &reasons {
        session.screen.line(&format!("  by {reason}"))?;
    }
    if allowed == Some(false) && reasons.is_empty() {
        session.screen.line("  no statement permits it")?;
    }
    let code = code.map(|code| format!(" {code}")).unwrap_or_default();
    session.screen.line(&format!("answered with {status}{code}"))?;
    Ok(Exit::Ok)
}

/// What takes an approval.
const RECOVER: &str = "bulla policy recover submit";

async fn recover(session: &Session<'_>, command: Recover) -> Result<Exit, Failure> {
    match command {
        Recover::Sign { policies, approval, yes } => {
            let text = set_of(&policies)?;
            if !approval.exists() {
                let client = session.client()?;
                let known = client.view().await?;
                statement::warn_signer(session, &*session.identity()?, Some(&known));
                statement::demand_yes(&format!("Replace the whole policy set by {}?", policies.display()), yes)?;
                let envelope = client.policy_recovery_sign(&text).await?;
                statement::write(&approval, &envelope)?;
                statement::tell_count::<PolicyRecovery>(session, &approval, &envelope, Some(&known), RECOVER)?;
                return Ok(Exit::Ok);
            }
            let bytes = input::file(&approval, Limit::TEXT)?;
            let mut envelope = statement::read::<PolicyRecovery>(&approval)?;
            let said: PolicyRecovery = json::parse(&envelope.payload, json::MAX_STATEMENT_BYTES).map_err(|error| {
                Failure::new(Exit::Failed, format!("{} is no approval: {error}", approval.display()))
                    .hint("name a file that is not there yet, or one of `bulla policy recover sign`")
            })?;
            if said.policies_sha256 != Digest::new(sha256(&[text.as_bytes()])) {
                return Err(Failure::new(Exit::Untrusted, "the approval is for another policy set")
                    .hint("compare the files with the admin who signed first"));
            }
            session.screen.say(&format!("approval of {} for the cluster {}", time(said.at_ms), said.cluster));
            session.screen.say(&format!("in the place of the policy set {}", said.replaces));
            let identity = session.identity()?;
            let known = statement::kept_view(session)?.filter(|view| view.id() == said.cluster);
            statement::warn_signer(session, &identity, known.as_deref());
            statement::demand_yes(&format!("Replace the whole policy set by {}?", policies.display()), yes)?;
            dsse::add_signature(&mut envelope, &*identity).await.map_err(bulla_client::ClientError::from)?;
            statement::replace(&approval, &bytes, &envelope)?;
            statement::tell_count::<PolicyRecovery>(session, &approval, &envelope, known.as_deref(), RECOVER)?;
            Ok(Exit::Ok)
        }
        Recover::Submit { policies, approval } => {
            let text = set_of(&policies)?;
            session.client()?.policy_recover(text, statement::read::<PolicyRecovery>(&approval)?).await?;
            session.screen.say("the policy set is replaced");
            Ok(Exit::Ok)
        }
    }
}

/// A policy set, as its bytes, since the admins sign these.
fn set_of(path: &Path) -> Result<String, Failure> {
    let text = input::text(path, Limit::TEXT)?;
    json::parse::<StrictMap<String>>(text.as_bytes(), json::MAX_JSON_BYTES).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} is no policy set: {error}", path.display()))
            .hint("it is JSON: {\"NAME\":\"CEDAR TEXT\",…}")
    })?;
    Ok(text)
}
