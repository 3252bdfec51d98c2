//! Seal shares as they travel between a node and an admin (`spec/seal.md`).
//!
//! The node keeps share i encrypted under an intermediate key, and the intermediate key encrypted to its
//! admin. What an admin sends back is that key, bound to one session. Both sides compute the same context
//! of a share, so neither takes a key for another cluster, epoch, place, quorum or admin.
//!
//! Held: a message of one session or share is refused in every other. Not held: secrecy; these plaintexts
//! travel only inside envelopes ([`crate::envelope`]).

use crate::digest::{equal, framed, sha256};
use crate::envelope::{self, OpenError};
use crate::identity::Identity;
use crate::secret::{Secret, SecretBytes, SecretKey};
use bulla_wire::id::{ClusterId, Digest, PrincipalId};
use std::fmt;
use std::task::{Context, Poll, Waker};

/// Length of both plaintexts: an intermediate key and a digest.
pub const MESSAGE_BYTES: usize = 64;

/// Which share of which seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareOf {
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch; each unseal begins a new one.
    pub epoch: u64,
    /// The share's place, from 0.
    pub index: u8,
    /// How many shares open the seal.
    pub k: u8,
    /// How many there are.
    pub n: u8,
    /// The admin who holds it.
    pub principal: PrincipalId,
}

/// The digest of a [`ShareOf`], to which its key, its ciphertext and its hash are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareContext([u8; 32]);

/// Why a plaintext is not the one expected. Nothing of it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareError {
    /// Not [`MESSAGE_BYTES`] long.
    Length,
    /// For another share, epoch, cluster or session.
    OtherContext,
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a share's key and its context have 64 bytes",
            Self::OtherContext => "the key is for another share, epoch, cluster or session",
        })
    }
}

impl std::error::Error for ShareError {}

/// Computes the context of a share.
pub fn context(share: &ShareOf) -> ShareContext {
    let ShareOf { cluster, epoch, index, k, n, principal } = share;
    let fields = framed(&[cluster.as_bytes(), &epoch.to_be_bytes(), &[*index], &[*k], &[*n], principal.as_bytes()]);
    ShareContext(sha256(&[b"bulla/v1/seal/share", &fields]))
}

impl ShareContext {
    /// The 32 bytes: additional data of the encrypted share.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the seal configuration holds of a share, so that a wrong one is known without the others.
    pub fn share_hash(&self, share: &[u8]) -> Digest {
        Digest::new(sha256(&[b"bulla/v1/seal/share-hash", &self.0, share]))
    }

    /// What the node encrypts to the admin: key ‖ context.
    pub fn key_plaintext(&self, key: &SecretKey) -> Secret<[u8; MESSAGE_BYTES]> {
        message(key, &self.0)
    }

    /// What the admin finds in it, if it is for this share.
    ///
    /// # Errors
    /// See [`ShareError`].
    pub fn check_key_plaintext(&self, plaintext: &[u8]) -> Result<SecretKey, ShareError> {
        check(plaintext, &self.0)
    }

    /// What the admin encrypts to the session: key ‖ digest of session and context. `session` is the id's text.
    pub fn give_plaintext(&self, session: &str, key: &SecretKey) -> Secret<[u8; MESSAGE_BYTES]> {
        message(key, &self.bound_to(session))
    }

    /// What the node finds in it, if it is for this share and session.
    ///
    /// # Errors
    /// See [`ShareError`].
    pub fn check_give_plaintext(&self, session: &str, plaintext: &[u8]) -> Result<SecretKey, ShareError> {
        check(plaintext, &self.bound_to(session))
    }

    fn bound_to(&self, session: &str) -> [u8; 32] {
        sha256(&[b"bulla/v1/seal/give", &framed(&[session.as_bytes()]), &self.0])
    }
}

fn message(key: &SecretKey, digest: &[u8; 32]) -> Secret<[u8; MESSAGE_BYTES]> {
    Secret::filled(|bytes: &mut [u8; MESSAGE_BYTES]| {
        let (front, back) = bytes.split_at_mut(32);
        front.copy_from_slice(key.expose());
        back.copy_from_slice(digest);
    })
}

fn check(plaintext: &[u8], digest: &[u8; 32]) -> Result<SecretKey, ShareError> {
    let bytes: &[u8; MESSAGE_BYTES] = plaintext.try_into().map_err(|_| ShareError::Length)?;
    let (front, back) = bytes.split_at(32);
    if !equal(back, digest) {
        return Err(ShareError::OtherContext);
    }
    SecretKey::from_slice(front).ok_or(ShareError::Length)
}

/// Opens an envelope with an identity in memory, which needs no waiting: a session's own, or a key file's.
///
/// # Errors
/// As [`envelope::open`].
pub fn open_in_memory(identity: &Identity, file: &[u8], limit: usize) -> Result<SecretBytes, OpenError> {
    let decrypters: [&dyn envelope::Decrypter; 1] = [identity];
    let mut opening = std::pin::pin!(envelope::open(&decrypters, file, limit));
    // An identity's answer is ready when it is asked; a second poll would never be due.
    match opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(opened) => opened.map(|opened| opened.plaintext),
        Poll::Pending => Err(OpenError::Key("the key in memory did not answer at once".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::IdentityKind;
    use crate::random::{SystemRng, secret_key};

    fn share() -> ShareOf {
        let (cluster, principal) = (ClusterId::new([1; 32]), PrincipalId::new([2; 32]));
        ShareOf { cluster, epoch: 3, index: 0, k: 2, n: 3, principal }
    }

    #[test]
    fn every_field_makes_another_context() {
        let mut contexts = vec![context(&share())];
        for other in [
            ShareOf { cluster: ClusterId::new([2; 32]), ..share() },
            ShareOf { epoch: 4, ..share() },
            ShareOf { index: 1, ..share() },
            ShareOf { k: 3, ..share() },
            ShareOf { n: 2, ..share() },
            ShareOf { principal: PrincipalId::new([1; 32]), ..share() },
        ] {
            assert!(!contexts.contains(&context(&other)), "{other:?}");
            contexts.push(context(&other));
        }
    }

    #[test]
    fn the_context_is_the_documented_one() {
        let mut bytes = b"bulla/v1/seal/share".to_vec();
        bytes.extend([0, 0, 0, 32]);
        bytes.extend([1; 32]);
        bytes.extend([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 3, 0, 0, 0, 32]);
        bytes.extend([2; 32]);
        assert_eq!(context(&share()).as_bytes(), &sha256(&[&bytes]));
    }

    #[test]
    fn messages_hold_for_their_share_and_session_only() {
        let (ctx, other) = (context(&share()), context(&ShareOf { epoch: 4, ..share() }));
        let key = secret_key(&mut SystemRng);
        let sent = ctx.key_plaintext(&key);
        assert_eq!(ctx.check_key_plaintext(sent.expose()).unwrap().expose(), key.expose());
        assert_eq!(other.check_key_plaintext(sent.expose()).err(), Some(ShareError::OtherContext));
        assert_eq!(ctx.check_key_plaintext(&sent.expose()[..63]).err(), Some(ShareError::Length));

        let given = ctx.give_plaintext("session", &key);
        assert_eq!(ctx.check_give_plaintext("session", given.expose()).unwrap().expose(), key.expose());
        assert_eq!(ctx.check_give_plaintext("another", given.expose()).err(), Some(ShareError::OtherContext));
        assert_eq!(other.check_give_plaintext("session", given.expose()).err(), Some(ShareError::OtherContext));
        assert_eq!(ctx.check_key_plaintext(given.expose()).err(), Some(ShareError::OtherContext));
    }

    #[test]
    fn an_identity_in_memory_opens_without_a_runtime() {
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        let file = envelope::seal(identity.recipients(), None, b"content").unwrap();
        assert_eq!(open_in_memory(&identity, &file, 64).unwrap().expose(), b"content");
        assert!(matches!(open_in_memory(&identity, &file, 6), Err(OpenError::TooLarge { limit: 6 })));
        let stranger = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        assert!(matches!(open_in_memory(&stranger, &file, 64), Err(OpenError::NoMatch)));
    }

    /// `spec/seal.md`, "Shares" and "Unseal".
    #[test]
    fn hash_and_message_of_a_share_are_the_documented_ones() {
        let ctx = context(&share());
        let hash = sha256(&[b"bulla/v1/seal/share-hash", ctx.as_bytes(), b"share"]);
        assert_eq!(ctx.share_hash(b"share").as_bytes(), &hash);
        let key = SecretKey::new([9; 32]);
        assert_eq!(ctx.key_plaintext(&key).expose().as_slice(), [[9; 32], *ctx.as_bytes()].concat());
        let bound = sha256(&[b"bulla/v1/seal/give", &[0, 0, 0, 7], b"session", ctx.as_bytes()]);
        assert_eq!(ctx.give_plaintext("session", &key).expose().as_slice(), [[9; 32], bound].concat());
    }
}
