//! `bulla bundle`: what the clusters of a transient server begin with, made and signed by admins without a network.

use super::status::joined;
use super::{context, init, statement};
use crate::exit::{Exit, Failure, told};
use crate::input::{self, Limit};
use crate::output::{Format, FormatArgs, time};
use crate::session::{Session, now_ms};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{self, AdminSet, AdmissionDraft, BundleDraft, Record, RecordChain};
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::Signer as _;
use bulla_server::bundle::{self as served, BundleError};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Bundle as Body, BundledPrincipal};
use bulla_wire::id::Digest;
use bulla_wire::json::{MAX_STATEMENT_BYTES, StrictMap, V1};
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Write a bundle by a plan, with your signature; needs no network
    ///
    /// The plan is a TOML file; paths in it begin where it lies.
    ///
    ///     admins = ["alice.pub", "erin.pub"]   # those of `bulla init`
    ///     k = 2                                # 1: any one of them opens the seal
    ///
    ///     [[principal]]
    ///     records = ["bob.pub"]                # all of them, the first one first
    ///     groups = ["dev"]
    ///     attributes = { team = "web" }
    ///
    ///     [policies]
    ///     dev = "dev.cedar"
    #[command(verbatim_doc_comment)]
    Create(Create),
    /// Add your signature to a bundle that another admin made; needs no network
    Sign(statement::Sign),
    /// Show what a bundle says, and who has signed it
    Show {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Verify a bundle as a server does that is started with it
    ///
    /// With --admin it is said whose bundle it must be.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct Create {
    /// The plan
    plan: PathBuf,
    /// Until when clusters may begin with it, at most 366 days: a time such as 2030-01-31T12:00:00Z, or one from now
    /// such as 30d
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = crate::session::moment)]
    expires: u64,
    /// Where to write it
    #[arg(short = 'o', value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The file
    file: PathBuf,
    /// Record (.pub) of an admin whose bundle it must be; repeat it for each
    #[arg(long = "admin", value_name = "FILE")]
    admins: Vec<PathBuf>,
    /// How many of them must have signed it
    #[arg(short, value_name = "K", requires = "admins")]
    k: Option<u8>,
    /// Any one of them is enough
    #[arg(long, conflicts_with = "k", requires = "admins")]
    any: bool,
}

/// What a bundle is made of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    admins: Vec<PathBuf>,
    k: u8,
    #[serde(default)]
    principal: Vec<PlannedPrincipal>,
    #[serde(default)]
    policies: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedPrincipal {
    records: Vec<PathBuf>,
    #[serde(default)]
    groups: Vec<Name>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

pub async fn run(command: Bundle, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Bundle::Create(args) => create(session, args).await,
        Bundle::Sign(sign) => {
            let identity = session.identity()?;
            let shown = |envelope: &Envelope, _: &Body| {
                let draft = served::Bundle::draft(envelope).map_err(|error| broken(&sign_file(envelope), &error))?;
                demand_admin(&identity, draft.set())?;
                Ok(lines_of(&draft))
            };
            statement::sign(session, sign, shown).await
        }
        Bundle::Show { file, format } => show(session, &file, &format),
        Bundle::Verify(args) => verify(session, args),
    }
}

/// What is told of a bundle while its file is not at hand.
fn sign_file(envelope: &Envelope) -> String {
    format!("bundle {}", evidence::payload_digest(envelope))
}

async fn create(session: &Session<'_>, Create { plan: path, expires, file }: Create) -> Result<Exit, Failure> {
    let text = input::text(&path, Limit::TEXT)?;
    let plan: Plan = toml::from_str(&text).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} is no plan of a bundle: {}", path.display(), error.message()))
            .hint("`bulla bundle create --help` shows one")
    })?;
    let identity = session.identity()?;
    let body = body_of(&plan, path.parent().unwrap_or(Path::new("")), expires, &identity).await?;
    let envelope = evidence::sign(&body, &[&*identity])
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("signing failed: {error}")))?;
    let bytes = envelope.payload.len();
    if bytes > MAX_STATEMENT_BYTES {
        let problem = format!("the bundle would have {bytes} bytes, and {MAX_STATEMENT_BYTES} are taken");
        return Err(Failure::new(Exit::Failed, problem)
            .hint("leave some principals out, and admit them with `bulla principal add` once the cluster serves"));
    }
    let draft = served::Bundle::draft(&envelope).map_err(|error| broken(&path.display().to_string(), &error))?;
    statement::write(&file, &envelope)?;
    let (file, need) = (file.display(), draft.set().k());
    session.screen.say(&format!("{file} has {} of {need} needed", statement::count(&envelope)));
    if draft.signers().len() < usize::from(need) {
        session.screen.hint(&format!("another admin runs `bulla bundle sign {file}`"));
    }
    session.screen.hint(&format!("with all of them, `bulla server --transient --bundle {file}` takes it"));
    Ok(Exit::Ok)
}

async fn body_of(plan: &Plan, folder: &Path, exp_ms: u64, identity: &Identity) -> Result<Body, Failure> {
    let Plan { admins, k, principal: principals, policies } = plan;
    let admins = admins.iter().map(|path| init::open_record(&folder.join(path))).collect::<Result<Vec<_>, _>>()?;
    let set = AdminSet::of_records(&admins, *k).map_err(|error| {
        Failure::new(Exit::Failed, format!("these admins cannot be: {error}"))
            .hint("name each admin once, and as many as decide together as k")
    })?;
    demand_admin(identity, &set)?;
    let made_ms = now_ms();
    let mut bundled = Vec::with_capacity(principals.len());
    for PlannedPrincipal { records: paths, groups, attributes } in principals {
        let records = paths.iter().map(|path| init::read_record(&folder.join(path))).collect::<Result<Vec<_>, _>>()?;
        let chain = RecordChain::open(&records).map_err(|error| {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            Failure::new(Exit::Failed, format!("the records {} do not hold: {}", paths.join(", "), told(&error)))
                .hint("name all records of a principal, that of version 1 first")
        })?;
        let draft = AdmissionDraft { groups: groups.clone(), attributes: attributes.clone(), serial: made_ms };
        let admission = evidence::sign(&draft.payload_under(&set, chain.newest()), &[identity])
            .await
            .map_err(|error| Failure::new(Exit::Failed, format!("signing failed: {error}")))?;
        bundled.push(BundledPrincipal { records, admission });
    }
    let mut texts = BTreeMap::new();
    for (name, path) in policies {
        let path = folder.join(path);
        let text = input::text(&path, Limit::TEXT)?;
        texts.insert(name.clone(), text);
    }
    Ok(Body {
        v: V1,
        admins: admins.iter().map(|admin| admin.envelope().clone()).collect(),
        k: *k,
        made_ms,
        exp_ms,
        principals: bundled,
        policies: StrictMap(texts),
    })
}

/// Only an admin's word counts.
fn demand_admin(identity: &Identity, admins: &AdminSet) -> Result<(), Failure> {
    let key = identity.public_key().key_id();
    if admins.keys().contains(&key) {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("your key {key} is not that of an admin of this bundle"))
        .hint("an admin whom it names makes and signs it, with --identity"))
}

fn show(session: &Session<'_>, file: &Path, FormatArgs { format }: &FormatArgs) -> Result<Exit, Failure> {
    let envelope = statement::read::<Body>(file)?;
    let draft = served::Bundle::draft(&envelope).map_err(|error| broken(&file.display().to_string(), &error))?;
    if *format == Format::Json {
        let mut payload = envelope.payload;
        payload.push(b'\n');
        return session.screen.bytes(&payload).map(|()| Exit::Ok);
    }
    lines_of(&draft).iter().try_for_each(|line| session.screen.line(line))?;
    Ok(Exit::Ok)
}

fn verify(session: &Session<'_>, Verify { file, admins, k, any }: Verify) -> Result<Exit, Failure> {
    let envelope = statement::read::<Body>(&file)?;
    let bundle =
        served::Bundle::open(&envelope, now_ms()).map_err(|error| broken(&file.display().to_string(), &error))?;
    let contents = bundle.contents();
    if !admins.is_empty() && context::admin_set(&admins, k, any)? != *contents.set() {
        let problem = format!("{} is a bundle of other admins, or of another k, than you named", file.display());
        return Err(Failure::new(Exit::Untrusted, problem).hint("`bulla bundle show` prints whose it is"));
    }
    lines_of(contents).iter().try_for_each(|line| session.screen.line(line))?;
    session.screen.line("sound")?;
    if admins.is_empty() {
        session.screen.warn("nothing says whose bundle it must be: compare the admins above, or give --admin and -k");
    }
    Ok(Exit::Ok)
}

fn broken(what: &str, error: &BundleError) -> Failure {
    let exit = if matches!(error, BundleError::Evidence(_)) { Exit::Untrusted } else { Exit::Failed };
    Failure::new(exit, format!("{what}: {}", told(error))).hint(served::way_out(error))
}

/// What a bundle says, for whoever signs it.
fn lines_of(draft: &BundleDraft) -> Vec<String> {
    let mut lines = vec![
        format!("bundle {}", draft.digest()),
        format!("  made      {}", time(draft.made_ms())),
        format!("  expires   {}", time(draft.exp_ms())),
        format!("  seal      {} of {} admins", draft.set().k(), draft.admins().len()),
    ];
    lines.extend(draft.admins().iter().map(|admin| {
        let signed = if draft.signers().contains(&admin.principal()) { "signed" } else { "not signed" };
        format!("  admin     {} {}, {signed}", admin.name(), admin.principal())
    }));
    for principal in draft.principals() {
        let (record, admission) = (principal.chain.newest(), &principal.admission);
        let by = draft.admins().iter().find(|admin| admin.principal() == admission.enroller).map(Record::name);
        let by = by.map_or_else(|| admission.enroller.to_string(), ToString::to_string);
        let version = record.version();
        lines.push(format!(
            "  principal {} {}, version {version}, by {by}",
            record.name(),
            principal.chain.principal()
        ));
        lines.push(format!("    groups {}", joined(&admission.admission.groups)));
        let attributes = &admission.admission.attributes.0;
        lines.extend(attributes.iter().map(|(name, value)| format!("    attribute {name}={value}")));
    }
    for (name, text) in draft.policies() {
        lines.push(format!("  policy    {name} {}", Digest::new(sha256(&[text.as_bytes()]))));
        lines.extend(text.lines().map(|line| format!("    {line}")));
    }
    lines
}
