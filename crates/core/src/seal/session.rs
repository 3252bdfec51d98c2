//! Unseal sessions: where admins' shares meet (`spec/seal.md`).
//!
//! A session has an encryption key of its own, in memory only. What an admin sends is bound to the session, the
//! share and the epoch, so it is of use nowhere else. Only authenticated admins come this far; nothing that
//! one of them sends can undo or delay what another has given.

use super::SealError;
use super::root::RootKey;
use super::stored::{SHARE_BYTES, StoredSeal, combine};
use bulla_crypto::evidence::{ClusterView, verify_approvals};
use bulla_crypto::identity::{Identity, IdentityError, IdentityKind};
use bulla_crypto::random::{Rng, draw};
use bulla_crypto::secret::Secret;
use bulla_crypto::share::{MESSAGE_BYTES, open_in_memory};
use bulla_wire::api::{EncryptedShareKey, Progress, UnsealSession};
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::base32;
use bulla_wire::evidence::Bytes;
use bulla_wire::id::PrincipalId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// How long a session lasts, in milliseconds: admins in other offices need minutes, not hours.
pub const SESSION_MS: u64 = 15 * 60 * 1000;
/// Most sessions at once. Each configuration has one, so more than one is rare already.
pub const SESSIONS_MAX: usize = 8;
/// Largest file that an admin sends. One hybrid stanza and 64 bytes take about 2 KiB.
pub const FILE_BYTES_MAX: usize = 16 * 1024;

/// One meeting of admins. Dies with its end, with unsealing, or with the process.
pub struct Session {
    id: String,
    identity: Identity,
    stored: Arc<StoredSeal>,
    expires_ms: u64,
    given: BTreeMap<u8, Secret<[u8; SHARE_BYTES]>>,
    approvals: BTreeMap<u8, Envelope>,
}

/// What an admin gives.
#[derive(Debug)]
pub struct Give<'a> {
    /// Who gives: the principal whose key signed the request.
    pub admin: PrincipalId,
    /// Which share, from 0.
    pub index: u8,
    /// age file to the session's recipient.
    pub file: &'a [u8],
    /// The admin's approval of genesis.
    pub approval: Option<&'a Envelope>,
}

/// A share was good.
#[derive(Debug)]
pub enum GiveOutcome {
    /// More are needed.
    Progress(Progress),
    /// These were enough.
    Complete(RootKey),
}

/// What was wrong with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareFault {
    /// The file does not open with the session's key, or is too large.
    File,
    /// The key in it is for another share, epoch, cluster or session.
    Context,
    /// The key does not open the share, or the share is not the one that the configuration knows.
    Share,
}

/// Why a session does not take something.
#[derive(Debug)]
pub enum SessionError {
    /// It ended, or never was.
    Unknown,
    /// There are [`SESSIONS_MAX`] already.
    TooMany,
    /// The caller holds no share.
    NotAdmin,
    /// The share is another admin's than the caller's.
    NotYours {
        /// The caller's own share.
        own: u8,
    },
    /// The share is bad; those of others are not touched.
    BadShare {
        /// Who gave it.
        admin: PrincipalId,
        /// What is wrong with it.
        fault: ShareFault,
    },
    /// With its first share an admin must approve genesis.
    ApprovalMissing,
    /// The approval is not this admin's, or not of this genesis.
    BadApproval,
    /// The session's key could not be made.
    Identity(IdentityError),
    /// All shares were good, but they give no root key of this configuration.
    Seal(SealError),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the unseal session ended or never was"),
            Self::TooMany => write!(f, "there are {SESSIONS_MAX} unseal sessions already"),
            Self::NotAdmin => f.write_str("the caller holds no share of this seal"),
            Self::NotYours { own } => write!(f, "this is another admin's share; the caller's is number {own}"),
            Self::BadShare { admin, fault } => {
                let fault = match fault {
                    ShareFault::File => "the file does not open with the session's key",
                    ShareFault::Context => "the key is for another share, epoch or session",
                    ShareFault::Share => "the key does not open the share that is stored",
                };
                write!(f, "bad share of {admin}: {fault}")
            }
            Self::ApprovalMissing => f.write_str("the first share must come with an approval of genesis"),
            Self::BadApproval => f.write_str("the approval is not by this admin, or not of this genesis"),
            Self::Identity(_) => f.write_str("the session's key could not be made"),
            Self::Seal(_) => f.write_str("good shares do not open this seal"),
        }
    }
}

impl std::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Identity(cause) => Some(cause),
            Self::Seal(cause) => Some(cause),
            _ => None,
        }
    }
}

impl Session {
    /// Begins a session for the seal as it was read.
    ///
    /// # Errors
    /// [`SessionError::Identity`], if the cryptographic library fails.
    pub fn open(now_ms: u64, stored: Arc<StoredSeal>, rng: &mut dyn Rng) -> Result<Self, SessionError> {
        Ok(Self {
            id: base32(&draw::<16>(rng)),
            identity: Identity::generate(IdentityKind::Hybrid, rng).map_err(SessionError::Identity)?,
            stored,
            expires_ms: now_ms.saturating_add(SESSION_MS),
            given: BTreeMap::new(),
            approvals: BTreeMap::new(),
        })
    }

    /// Its id, 26 characters.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The seal that it opens.
    pub fn stored(&self) -> &Arc<StoredSeal> {
        &self.stored
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let need = self.stored.config().k;
        Progress { have: u8::try_from(self.given.len()).unwrap_or(u8::MAX).min(need), need }
    }

    /// Whether the share at this place was given.
    pub fn has(&self, index: u8) -> bool {
        self.given.contains_key(&index)
    }

    /// Whether it still takes shares.
    pub fn is_running(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms
    }

    /// What an admin's client is told.
    pub fn describe(&self) -> UnsealSession {
        UnsealSession {
            id: self.id.clone(),
            recipient: self.identity.recipients().first().map(ToString::to_string).unwrap_or_default(),
            epoch: self.stored.config().epoch,
            config_sha256: self.stored.config_digest(),
            expires_ms: self.expires_ms,
            progress: self.progress(),
        }
    }

    /// The encrypted intermediate key of `admin`'s own share.
    ///
    /// # Errors
    /// [`SessionError::NotAdmin`].
    pub fn key_for(&self, admin: &PrincipalId) -> Result<EncryptedShareKey, SessionError> {
        let index = self.stored.config().index_of(admin).ok_or(SessionError::NotAdmin)?;
        let file = self.stored.key_file(index).ok_or(SessionError::NotAdmin)?;
        Ok(EncryptedShareKey { index, file: Bytes(file.to_vec()) })
    }

    /// Takes a share, if it is good; giving it again changes nothing. `view` says who approved genesis.
    ///
    /// # Errors
    /// See [`SessionError`]. Whatever it is, all shares given before stay.
    pub fn give(&mut self, give: &Give<'_>, view: &ClusterView) -> Result<GiveOutcome, SessionError> {
        let Give { admin, index, file, approval } = give;
        let own = self.stored.config().index_of(admin).ok_or(SessionError::NotAdmin)?;
        if own != *index {
            return Err(SessionError::NotYours { own });
        }
        let approval = self.check_approval(admin, *approval, view)?;
        let share = self.check_share(*index, file).map_err(|fault| SessionError::BadShare { admin: *admin, fault })?;
        self.given.insert(*index, share);
        self.approvals.extend(approval);
        match self.root_key() {
            None => Ok(GiveOutcome::Progress(self.progress())),
            Some(root) => root.map(GiveOutcome::Complete).map_err(SessionError::Seal),
        }
    }

    /// The root key, once there are enough shares: to try again after a conflict, or when consent has come.
    pub fn root_key(&self) -> Option<Result<RootKey, SealError>> {
        let config = self.stored.config();
        (self.given.len() >= usize::from(config.k)).then(|| combine(config, self.given.values()))
    }

    /// New approvals of genesis, each at its admin's place in genesis.
    pub fn approvals(&self) -> Vec<(u8, Envelope)> {
        self.approvals.iter().map(|(index, envelope)| (*index, envelope.clone())).collect()
    }

    fn check_share(&self, index: u8, file: &[u8]) -> Result<Secret<[u8; SHARE_BYTES]>, ShareFault> {
        if file.len() > FILE_BYTES_MAX {
            return Err(ShareFault::File);
        }
        let plaintext = open_in_memory(&self.identity, file, MESSAGE_BYTES).map_err(|_| ShareFault::File)?;
        let (context, _) = self.stored.config().share(index).ok_or(ShareFault::Context)?;
        let key = context.check_give_plaintext(&self.id, plaintext.expose()).map_err(|_| ShareFault::Context)?;
        self.stored.open_share(index, &key).ok_or(ShareFault::Share)
    }

    /// The approval to store, with its place. A founder whose record is still that of genesis must have approved
    /// it or do so now; approvals count by genesis' own keys, so nobody else can.
    fn check_approval(
        &self,
        admin: &PrincipalId,
        approval: Option<&Envelope>,
        view: &ClusterView,
    ) -> Result<Option<(u8, Envelope)>, SessionError> {
        let approved = |envelopes: &[Envelope]| verify_approvals(view, envelopes).contains(admin);
        let Some(envelope) = approval else {
            let founder = view.genesis().admins().find(|record| record.principal() == *admin);
            let now = view.newest().record(admin);
            let same = founder.zip(now).is_some_and(|(then, now)| then.digest() == now.digest());
            return if same && !approved(self.stored.approvals()) {
                Err(SessionError::ApprovalMissing)
            } else {
                Ok(None)
            };
        };
        if !approved(std::slice::from_ref(envelope)) {
            return Err(SessionError::BadApproval);
        }
        let place = view.genesis().admins().position(|record| record.principal() == *admin);
        let place = place.and_then(|place| u8::try_from(place).ok()).ok_or(SessionError::BadApproval)?;
        Ok(Some((place, envelope.clone())))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {} shares)", self.id, self.given.len())
    }
}

/// All sessions of a process.
#[derive(Debug, Default)]
pub struct Sessions(Vec<Session>);

impl Sessions {
    /// The running session for this configuration, or a new one.
    ///
    /// # Errors
    /// [`SessionError::TooMany`] or [`SessionError::Identity`].
    pub fn open(
        &mut self,
        now_ms: u64,
        stored: &Arc<StoredSeal>,
        rng: &mut dyn Rng,
    ) -> Result<&mut Session, SessionError> {
        self.0.retain(|session| session.is_running(now_ms));
        let digest = stored.config_digest();
        let place = match self.0.iter().position(|session| session.stored.config_digest() == digest) {
            Some(place) => place,
            None if self.0.len() >= SESSIONS_MAX => return Err(SessionError::TooMany),
            None => {
                self.0.push(Session::open(now_ms, Arc::clone(stored), rng)?);
                self.0.len().saturating_sub(1)
            }
        };
        self.0.get_mut(place).ok_or(SessionError::Unknown)
    }

    /// Drops those that have ended, with the shares in them.
    pub fn sweep(&mut self, now_ms: u64) {
        self.0.retain(|session| session.is_running(now_ms));
    }

    /// The running session with this id.
    ///
    /// # Errors
    /// [`SessionError::Unknown`].
    pub fn get(&mut self, now_ms: u64, id: &str) -> Result<&mut Session, SessionError> {
        self.0.retain(|session| session.is_running(now_ms));
        self.0.iter_mut().find(|session| session.id == id).ok_or(SessionError::Unknown)
    }

    /// The newest running session, to be shown.
    pub fn newest(&self, now_ms: u64) -> Option<&Session> {
        self.0.iter().rev().find(|session| session.is_running(now_ms))
    }

    /// Drops all of them: the node is unsealed.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
