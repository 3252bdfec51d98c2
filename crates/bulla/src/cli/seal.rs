//! `bulla seal`: closing it, looking at it, and what only admins can decide about it.

use super::statement;
use crate::context::Trust;
use crate::exit::{Exit, Failure, told};
use crate::output::{Format, FormatArgs, time, word};
use crate::session::{Session, now_ms};
use bulla_client::ClientError;
use bulla_crypto::envelope;
use bulla_crypto::identity::Identity;
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::sign::Signer as _;
use bulla_wire::api::{Health, Seal as State, SealAdmin, SealState};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Consent as Loss, EXCUSE_SKEW_MS, Position};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Seal {
    #[command(subcommand)]
    verb: Option<Verb>,
}

impl Seal {
    /// Whether it signs here, and asks no server.
    pub fn signs(&self) -> bool {
        matches!(self.verb, Some(Verb::Consent(Consent::Sign(_))))
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the seal and its admins
    Status(FormatArgs),
    /// Check that your key can decrypt, before a share depends on it
    Check,
    /// Tell the cluster that its clock is right after a step, so that deleting goes on
    ConfirmClock,
    /// Accept that the store lost commits: k admins sign, one sends
    #[command(subcommand)]
    Consent(Consent),
}

#[derive(Debug, Subcommand)]
enum Consent {
    /// Sign what `bulla unseal` wrote, or add your signature to what another admin signed
    Sign(SignConsent),
    /// Send it with k signatures
    Send {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct SignConsent {
    #[command(flatten)]
    sign: statement::Sign,
    /// Say that the store was put back on purpose: clients that saw more until now go on by this consent. The first to
    /// sign gives it
    #[arg(long)]
    excuse_clients: bool,
}

pub async fn run(args: Seal, session: &Session<'_>) -> Result<Exit, Failure> {
    match args.verb {
        None => {
            let client = session.client()?;
            match client.seal().await {
                Ok(()) => session.screen.say("sealed; k admins run `bulla unseal` to open it again"),
                Err(error) if error.code() == Some(Code::Sealed) => match client.health().await? {
                    (Health { state: SealState::Sealed, .. }, true) => {
                        session.screen.say("the cluster is sealed already")
                    }
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
            Ok(Exit::Ok)
        }
        Some(Verb::Status(format)) => status(session, format).await,
        Some(Verb::Check) => {
            let identity = check_key(session).await?;
            session.screen.line(&format!("{} signs and decrypts", identity.public_key().key_id()))?;
            Ok(Exit::Ok)
        }
        Some(Verb::ConfirmClock) => {
            session.client()?.seal_confirm_clock().await?;
            Ok(Exit::Ok)
        }
        Some(Verb::Consent(Consent::Sign(sign))) => sign_consent(session, sign).await,
        Some(Verb::Consent(Consent::Send { file })) => {
            session.client()?.consent_send(statement::read::<Loss>(&file)?).await?;
            session.screen.say("accepted; the cluster is unsealed");
            Ok(Exit::Ok)
        }
    }
}

async fn sign_consent(session: &Session<'_>, args: SignConsent) -> Result<Exit, Failure> {
    let SignConsent { sign: statement::Sign { file, yes }, excuse_clients } = args;
    if !file.exists() {
        let failure = Failure::new(Exit::Failed, format!("there is no {}", file.display()));
        return Err(failure.hint("`bulla unseal` writes it on the machine that gives the k-th share; carry it here"));
    }
    let (identity, known, now_ms) = (session.identity()?, statement::kept_view(session)?, now_ms());
    let shown = |_: &Envelope, loss: &Loss| {
        let pinned = match session.trust()? {
            Some(Trust::Cluster(cluster)) => Some(cluster),
            _ => known.as_ref().map(|view| view.id()),
        };
        if let Some(pinned) = pinned.filter(|pinned| *pinned != loss.cluster) {
            let problem = format!("it is about the cluster {}, and your context is of {pinned}", loss.cluster);
            return Err(Failure::new(Exit::Untrusted, problem)
                .hint("give the --context of the cluster that it is about, if that one lost commits"));
        }
        statement::warn_signer(session, &identity, known.as_deref());
        let lines = describe(loss);
        match loss.excused_until_ms {
            None if excuse_clients => {
                let problem = format!("{} was signed without --excuse-clients", file.display());
                Err(Failure::new(Exit::Failed, problem).hint(
                    "run `bulla unseal --consent-file OTHER` again, and let the first who signs that give the flag",
                ))
            }
            Some(until_ms) if until_ms > now_ms.saturating_add(EXCUSE_SKEW_MS) => {
                let problem = format!("it excuses clients until {}, which is still to come", time(until_ms));
                Err(Failure::new(Exit::Failed, problem)
                    .hint("compare this machine's clock with the first signer's; if that one is wrong, begin again"))
            }
            _ => Ok(lines),
        }
    };
    let amend = |loss: &mut Loss| loss.excused_until_ms = excuse_clients.then_some(now_ms);
    let envelope = statement::add(session, &file, yes, amend, shown).await?;
    statement::tell_count::<Loss>(session, &file, &envelope, known.as_deref(), "bulla seal consent send")?;
    Ok(Exit::Ok)
}

/// What a consent says, in lines.
fn describe(loss: &Loss) -> Vec<String> {
    let line = |what: &str, at: &Position| format!("  {what}: lineage {}, up to sequence {}", at.lineage, at.sequence);
    let mut lines = vec![format!("consent to lost commits of the cluster {}", loss.cluster)];
    if loss.is_of_unknown_loss() {
        lines.push("  lost: unknown, as the audit log cannot tell; nothing, or whatever came after".to_owned());
    } else {
        lines.extend(loss.earlier.iter().chain([&loss.lost]).map(|lost| line("lost", lost)));
    }
    lines.push(line("kept", &loss.kept));
    if let Some(until_ms) = loss.excused_until_ms {
        lines.push(format!("  clients: whatever they saw until {} is excused", time(until_ms)));
    }
    lines
}

async fn status(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let seal = session.client()?.seal_status().await?;
    if format == Format::Json {
        return session.screen.json(&seal).map(|()| Exit::Ok);
    }
    let State { state, epoch, mode, k, admins, warning } = seal;
    session.screen.pairs(&[
        ("state", word(&state)),
        ("epoch", epoch.to_string()),
        ("mode", word(&mode)),
        ("opens with", format!("{k} of {} admins", admins.len())),
    ])?;
    // Shares are given to a sealed cluster, and forgotten when it opens.
    let given = |given: bool| match (state, given) {
        (SealState::Sealed, true) => "yes",
        (SealState::Sealed, false) => "no",
        _ => "-",
    };
    let row = |admin: &SealAdmin| {
        let SealAdmin { principal, name, given: was_given } = admin;
        vec![name.to_string(), principal.to_string(), given(*was_given).to_owned()]
    };
    let rows: Vec<_> = admins.iter().map(row).collect();
    session.screen.table(&["ADMIN", "PRINCIPAL", "SHARE GIVEN"], &rows)?;
    if let Some(warning) = warning {
        session.screen.warn(&warning);
    }
    Ok(Exit::Ok)
}

/// Encrypts something to the caller's own key and opens it again: a key that cannot would make its share useless.
pub async fn check_key(session: &Session<'_>) -> Result<std::sync::Arc<Identity>, Failure> {
    let identity = session.identity()?;
    if identity.recipients().is_empty() {
        return Err(ClientError::SignsOnly.into());
    }
    let failed = |what: String| {
        Failure::new(Exit::Failed, format!("your key does not decrypt: {what}"))
            .hint("no share of the seal may depend on it; `bulla keygen` makes another")
    };
    let probe = draw::<32>(&mut SystemRng);
    for recipient in identity.recipients() {
        let sealed =
            envelope::seal(std::slice::from_ref(recipient), None, &probe).map_err(|error| failed(told(&error)))?;
        let opened = envelope::open(&[&*identity], &sealed, probe.len()).await.map_err(|error| failed(told(&error)))?;
        if opened.plaintext.expose().as_slice() != probe {
            return Err(failed("it gives something else than was encrypted".into()));
        }
    }
    Ok(identity)
}
