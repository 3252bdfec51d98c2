//! Auto-unseal: when a server starts, the share of one admin is given by the process itself (`spec/auto-unseal.md`).
//!
//! It is a client like any admin's, over the server's own socket: nothing opens the seal but shares, and each stands in the
//! audit log with whose it was. It gives none once the cluster was open in this process, so what an admin seals stays so.

use crate::cli::kms::bind::{bound_by_members, members};
use crate::cli::kms::prepare;
use crate::cli::kms::written;
use crate::exit::{Failure, told};
use bulla_client::wire::api::{SealState, ShareGiven};
use bulla_client::{Client, ClientError, Pin, State, Unseal};
use bulla_crypto::envelope::OpenError;
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::SignError;
use bulla_keys::{KeySource, Outcome, TokenError};
use bulla_kms::config::Config as Members;
use bulla_kms::identity::{IdentityError, unattended};
use bulla_kms::plugin::Plugin;
use bulla_server::config::{AutoUnseal, Config};
use bulla_server::node::{Node, Phase};
use bulla_wire::error::Code;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often it is looked whether there is something to open.
const LOOK: Duration = Duration::from_secs(1);
/// First wait after a failure that passes; each next one is twice as long, to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure that passes.
const LONGEST: Duration = Duration::from_secs(30);
/// Wait after a failure that does not pass by itself. A share that was given may have cost an epoch.
const RARE: Duration = Duration::from_secs(3600);
/// While other admins' shares are waited for, the own one is given again this often: an unseal session ends after 15
/// minutes, and the next admin begins another.
const AGAIN: Duration = Duration::from_secs(120);
/// How long members may take to open the identity.
const MEMBERS: Duration = Duration::from_secs(30);
/// How often it is tried whether the identity still opens, once the cluster is open.
const TRIAL: Duration = Duration::from_secs(24 * 3600);

/// Gives the share.
pub struct Unsealer {
    settings: AutoUnseal,
    source: KeySource,
    address: String,
    /// The members, once they were opened: what they know of refused credentials must not be forgotten.
    plugin: Option<Arc<Plugin>>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Give,
    Wait,
    End,
}

/// By where the node stands, whether it was ever unsealed in this process, and how long ago the share was given.
fn next(state: SealState, was_unsealed: bool, given: Option<Duration>) -> Next {
    match (state, given) {
        _ if was_unsealed => Next::End,
        (SealState::Unsealed, _) => Next::End,
        (SealState::Sealed, None) => Next::Give,
        (SealState::Sealed, Some(ago)) if ago >= AGAIN => Next::Give,
        (SealState::Sealed | SealState::Uninitialised, _) => Next::Wait,
    }
}

/// Why a share was not given.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    text: String,
    patience: Patience,
}

/// When it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Soon: it passes.
    Short,
    /// Seldom: somebody has to do something.
    Long,
    /// Not in this process: a token would lock.
    None,
}

impl Trouble {
    fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), patience: Patience::Short }
    }

    /// Of a call to the server.
    fn of_call(error: &ClientError, memory: &Path) -> Self {
        let patience = match error {
            ClientError::Unreachable { .. } | ClientError::Io { .. } => Patience::Short,
            // The key's holder, before anything was given. A PIN that was refused is known, and not sent with the next attempt.
            ClientError::Open(OpenError::Key(_)) => Patience::Short,
            ClientError::Sign(SignError::Holder(cause)) => {
                match cause.downcast_ref::<TokenError>().map(TokenError::outcome) {
                    Some(Outcome::Away) => Patience::Short,
                    Some(Outcome::Denied) => Patience::None,
                    _ => Patience::Long,
                }
            }
            error if error.code().is_some_and(|code| matches!(code.status(), 429 | 503)) => Patience::Short,
            _ => Patience::Long,
        };
        let hint = match error {
            ClientError::RolledBack(_) => {
                format!("if the admins know of the restore, remove {}; it is made anew", memory.display())
            }
            error => error.hint(),
        };
        Self { text: format!("{}; {hint}", told(error)), patience }
    }
}

/// A share that did not open the cluster yet.
struct Given {
    share: ShareGiven,
    epoch: u64,
}

impl Unsealer {
    /// What the configuration says, if it says so. Nothing else is looked at: whatever is wrong with it, the other admins
    /// need the server.
    pub fn new(config: &Config) -> Result<Option<Self>, Failure> {
        let (Some(settings), Some(data)) = (config.auto_unseal.clone(), &config.data) else { return Ok(None) };
        let refused = |text: String, hint: &str| Failure::usage(text).hint(hint);
        // A PIN may stand there, where none is taken: what is wrong with it is told without a word of it.
        let source = KeySource::parse(settings.identity.as_ref())
            .map_err(|error| refused(format!("auto_unseal.identity: {error}"), "name a file, or a pkcs11: URI"))?;
        if matches!(source, KeySource::Agent(_)) {
            let text = "auto_unseal.identity: an SSH agent needs somebody who is logged in";
            return Err(refused(text.to_owned(), "name a file, or a pkcs11: URI"));
        }
        if settings.pin_file.is_some() && !matches!(source, KeySource::Token(_)) {
            let text = "auto_unseal.pin_file: auto_unseal.identity is not on a token";
            return Err(refused(text.to_owned(), "leave it out; members have PIN files of their own"));
        }
        let address = format!("unix:{}", data.join("bulla.sock").display());
        Ok(Some(Self { settings, source, address, plugin: None }))
    }

    /// Reads what the configuration names, and opens it as far as that needs no backend.
    pub async fn check(&self) -> Result<(), Failure> {
        match (&self.settings.kms, &self.source) {
            (Some(kms), KeySource::File(path)) => {
                prepare(kms, members(kms)?.members()).await?;
                bound_by_members(path).map(drop)
            }
            (None, KeySource::File(path)) => {
                let read = unattended(&self.source, None);
                read.map(drop).map_err(|error| {
                    Failure::usage(format!("auto_unseal.identity {}: {error}", path.display()))
                        .hint("name a file of `bulla keygen`; one of `bulla kms bind --config` needs auto_unseal.kms")
                })
            }
            // To look at a token would be to log in.
            _ => Ok(()),
        }
    }

    /// Gives the share until the cluster is open, and then tries once a day whether it could be given again. What fails is
    /// tried again for as long as the process runs; the log tells it when it changes.
    pub async fn run(mut self, node: Arc<Node>) {
        tracing::info!(identity = %self.source, "the share of this identity is given by itself");
        let (mut given, mut epoch, mut wait, mut said) = (None::<Instant>, None, FIRST, String::new());
        loop {
            match next(state(&node), node.was_unsealed(), given.map(|at| at.elapsed())) {
                Next::End => break,
                Next::Wait => sleep(LOOK).await,
                Next::Give => match self.give(&node).await {
                    Ok(None) => break,
                    Ok(Some(Given { share, epoch: of })) => {
                        (given, epoch, wait) = (Some(Instant::now()), Some(of), FIRST);
                        let text = match share.consent_needed {
                            Some(_) => {
                                "commits may be lost: it opens once the admins consent (`bulla unseal`)".to_owned()
                            }
                            None => format!("{} of {}", share.progress.have, share.progress.need),
                        };
                        if text != said {
                            tracing::info!("the share is given: {text}");
                        }
                        said = text;
                    }
                    Err(Trouble { text, patience }) => {
                        if text != said {
                            tracing::warn!("the share is not given: {text}");
                        }
                        said = text;
                        match patience {
                            Patience::Short => rest(&node, wait).await,
                            Patience::Long => rest(&node, RARE).await,
                            // Not even the trial of every day: it would be the next try of the PIN.
                            Patience::None => return,
                        }
                        wait = wait.saturating_mul(2).min(LONGEST);
                    }
                },
            }
        }
        if let Some(epoch) = epoch
            && let Err(trouble) = self.remember(epoch).await
        {
            tracing::warn!("that the share was used is not remembered: {}", trouble.text);
        }
        self.keep_trying(&node).await;
    }

    /// What would fail at the next start is told before.
    async fn keep_trying(&mut self, node: &Node) {
        let mut said = String::new();
        loop {
            sleep(TRIAL).await;
            match self.identity().await {
                Ok(_) => {
                    node.parts.metrics.set_auto_unseal(true);
                    said.clear();
                }
                Err(Trouble { text, patience }) => {
                    node.parts.metrics.set_auto_unseal(false);
                    if text != said {
                        tracing::warn!("after a restart the share would not be given: {text}");
                    }
                    if patience == Patience::None {
                        return;
                    }
                    said = text;
                }
            }
        }
    }

    /// Gives the share once. None if the cluster is open, or was.
    async fn give(&mut self, node: &Node) -> Result<Option<Given>, Trouble> {
        // It is in memory for as long as this takes.
        let identity = self.identity().await;
        node.parts.metrics.set_auto_unseal(identity.is_ok());
        let client = self.client()?.identity(identity?).build().map_err(|error| self.trouble(&error))?;
        // Members may have taken their time, in which admins opened it and sealed it again.
        if node.was_unsealed() {
            return Ok(None);
        }
        // Whoever wrote the id into the configuration compared it: nothing else is approved by that.
        let how = Unseal { approve: &|_| true, danger_older_epoch: false };
        let outcome = match client.unseal(&how).await {
            Err(error) if error.proven() == Some(Code::NotSealed) => return Ok(None),
            outcome => outcome.map_err(|error| self.trouble(&error))?,
        };
        client.flush().map_err(|error| self.trouble(&error))?;
        let open = outcome.given.state == SealState::Unsealed;
        Ok((!open).then_some(Given { share: outcome.given, epoch: outcome.epoch }))
    }

    /// Others' shares opened the cluster after this one was given.
    async fn remember(&self, epoch: u64) -> Result<(), Trouble> {
        let client = self.client()?.build().map_err(|error| self.trouble(&error))?;
        client.share_used(epoch).await.map_err(|error| self.trouble(&error))
    }

    fn client(&self) -> Result<bulla_client::Builder, Trouble> {
        let AutoUnseal { cluster, memory, .. } = &self.settings;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(memory);
        made.map_err(|error| Trouble::passing(format!("auto_unseal.memory {}: {error}", memory.display())))?;
        Ok(Client::builder(&self.address).pin(Pin::Cluster(*cluster)).state(State::Directory(memory.clone())))
    }

    fn trouble(&self, error: &ClientError) -> Trouble {
        Trouble::of_call(error, &self.settings.memory)
    }

    async fn identity(&mut self) -> Result<Arc<Identity>, Trouble> {
        let of_task = |error: tokio::task::JoinError| Trouble::passing(error.to_string());
        let (KeySource::File(path), Some(kms)) = (&self.source, self.settings.kms.clone()) else {
            let (source, pin_file) = (self.source.clone(), self.settings.pin_file.clone());
            // A token may take its time.
            let read = spawn_blocking(move || unattended(&source, pin_file.as_deref())).await.map_err(of_task)?;
            return read.map_err(|error| Trouble {
                patience: if error.denied { Patience::None } else { Patience::Short },
                text: format!("auto_unseal.identity: {error}"),
            });
        };
        let file = bound_by_members(path).map_err(|failure| Trouble::passing(failure.message))?;
        let plugin = match &self.plugin {
            Some(plugin) => Arc::clone(plugin),
            None => {
                let path = kms.clone();
                let opened = spawn_blocking(move || opened(&path)).await.map_err(of_task)??;
                Arc::clone(self.plugin.insert(opened))
            }
        };
        plugin.look_once().await;
        let opened = file.open(&plugin, Instant::now() + MEMBERS).await;
        opened.map(Arc::new).map_err(|error| {
            let altered = matches!(error, IdentityError::Altered | IdentityError::Format(_));
            let patience = if altered { Patience::Long } else { Patience::Short };
            Trouble { text: format!("auto_unseal.kms {}: {error}", kms.display()), patience }
        })
    }
}

/// The members that open the identity.
fn opened(path: &Path) -> Result<Arc<Plugin>, Trouble> {
    let written = written(path).map_err(|failure| Trouble::passing(failure.message))?;
    match Members::for_identities(written) {
        Ok(parts) => Ok(Arc::new(Plugin::new(parts))),
        Err(error) => Err(Trouble::passing(format!("auto_unseal.kms {}: {error}", path.display()))),
    }
}

fn state(node: &Node) -> SealState {
    match node.phase() {
        Phase::Uninitialised => SealState::Uninitialised,
        Phase::Sealed(_) => SealState::Sealed,
        Phase::Unsealed(_) => SealState::Unsealed,
    }
}

/// Waits, or until the cluster is open.
async fn rest(node: &Node, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until && !node.was_unsealed() {
        sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_next() {
        let (soon, late) = (Some(AGAIN / 2), Some(AGAIN));
        for (state, was_unsealed, given, then) in [
            (SealState::Sealed, false, None, Next::Give),
            (SealState::Sealed, false, soon, Next::Wait),
            (SealState::Sealed, false, late, Next::Give),
            (SealState::Uninitialised, false, None, Next::Wait),
            (SealState::Uninitialised, false, late, Next::Wait),
            (SealState::Unsealed, true, None, Next::End),
            (SealState::Unsealed, false, late, Next::End),
            // Somebody sealed it.
            (SealState::Sealed, true, None, Next::End),
            (SealState::Sealed, true, late, Next::End),
        ] {
            assert_eq!(next(state, was_unsealed, given), then, "{state:?} {was_unsealed} {given:?}");
        }
    }

    /// What passes is tried again soon, so that a token that hung once does not keep a server sealed for an hour; a PIN that was
    /// refused is not sent by another attempt.
    #[test]
    fn what_passes_is_tried_again_soon_and_a_refused_pin_never() {
        let of = |error: ClientError| Trouble::of_call(&error, Path::new("/var/lib/bulla/memory")).patience;
        let holder = |error: TokenError| ClientError::Sign(SignError::Holder(Box::new(error)));
        let late = || TokenError::TimedOut { who: "ops".into(), what: "sign", limit: Duration::from_secs(60) };
        let key = OpenError::Key("token \"ops\" gave no answer within 60 s".into());
        let unreachable = ClientError::Unreachable { address: String::new(), cause: String::new() };
        for (what, error, patience) in [
            ("the token does not decrypt in time", ClientError::Open(key), Patience::Short),
            ("nor sign", holder(late()), Patience::Short),
            ("nobody is there", unreachable, Patience::Short),
            ("it refused the PIN", holder(TokenError::RefusedBefore { token: "ops".into() }), Patience::None),
            ("it is another key", holder(TokenError::NoLabel), Patience::Long),
            ("it is for somebody else", ClientError::Open(OpenError::NoMatch), Patience::Long),
            ("there is no identity", ClientError::NoIdentity, Patience::Long),
        ] {
            assert_eq!(of(error), patience, "{what}");
        }
    }
}
