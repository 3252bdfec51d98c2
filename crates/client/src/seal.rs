//! Making a cluster, and opening its seal (`spec/seal.md`).

use crate::builder::{Client, Pin};
use crate::call::Call;
use crate::error::{ClientError, GENESIS, demand};
use crate::loss::first_missing;
use crate::open::open_secret;
use crate::state::StateError;
use bulla_crypto::envelope;
use bulla_crypto::evidence::{self, ClusterView, Record, VerifiedDocument, verify_approvals};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::share::{self, ShareContext, ShareOf};
use bulla_wire::api::{EncryptedShareKey, GiveShare, Init, Initialised, SealState, ShareGiven, UnsealSession};
use bulla_wire::evidence::{Bytes, GenesisApproval};
use bulla_wire::id::{ClusterId, PrincipalId};
use bulla_wire::json::V1;

/// Length of IK ‖ ctx, the plaintext of an encrypted share key, in bytes.
const SHARE_KEY_BYTES: usize = 64;

/// How a share is given.
pub struct Unseal<'a> {
    /// Shown genesis (id, admins, k) before a founding admin approves it with its first share. `false` stops.
    pub approve: &'a (dyn Fn(&ClusterView) -> bool + Sync),
    /// Gives the share to an older epoch than this client has seen: after a restore that the admins know of. Whoever
    /// has an old copy of the storage and its node key would ask for exactly this.
    pub danger_older_epoch: bool,
}

/// A share that was given.
#[derive(Debug)]
pub struct UnsealOutcome {
    /// What the node says.
    pub given: ShareGiven,
    /// Which share it was, from 0.
    pub index: u8,
    /// The epoch that it helped to open.
    pub epoch: u64,
    /// The node counted no more shares than before: it had this admin's already.
    pub repeated: bool,
}

impl Client {
    /// Makes a cluster on the node that is pinned by its key. The caller is one of the admins in `body`. Whoever
    /// calls compares the answer's id with the other admins before shares are given.
    ///
    /// # Errors
    /// [`ClientError::Input`] without [`Pin::Node`]; [`ClientError::Untrusted`] if the genesis says something else
    /// than was asked.
    pub async fn init(&self, body: &Init) -> Result<ClusterView, ClientError> {
        let Some(Pin::Node(node)) = &self.0.pin else {
            return Err(ClientError::input("init needs the node's key id as pin", "the server prints it at start"));
        };
        let Initialised { cluster, genesis } = self.json(Call::change("POST", "/v1/init", body).of_seal()).await?;
        let view = ClusterView::unpinned(&genesis).map_err(ClientError::statement(GENESIS))?;
        demand(view.id() == cluster, "the node names another cluster than its genesis")?;
        demand(view.active_node(node).is_some(), "the genesis does not name this node")?;
        let Init { name, admins, mode, k, min_kem } = body;
        let document = view.genesis();
        let said = document.body();
        let same = said.name == *name && said.mode == *mode && said.k == *k && said.min_kem == *min_kem;
        demand(same, "the genesis says something else than was asked")?;
        let records: Vec<_> = document.admins().map(Record::envelope).collect();
        demand(records == admins.iter().collect::<Vec<_>>(), "the genesis names other admins than were asked")?;
        demand(said.enrollers.len() == said.admins.len(), "the genesis names other enrollers than the admins")?;
        Ok(view)
    }

    /// Gives this admin's share: opens a session or joins the running one, fetches the encrypted key of the share,
    /// decrypts it here, and returns it encrypted to the session.
    ///
    /// # Errors
    /// [`ClientError::RolledBack`] for an epoch below one that was seen; [`ClientError::Refused`] with `bad_share` or
    /// `not_admin`; [`ClientError::Input`] if genesis was not approved.
    pub async fn unseal(&self, how: &Unseal<'_>) -> Result<UnsealOutcome, ClientError> {
        // Shares are those of the cluster's own newest document, also if that was another one before.
        // Boxed, as what reads documents is large.
        let facts =
            if how.danger_older_epoch { Box::pin(self.shown()).await? } else { Box::pin(self.cluster()).await? };
        let document = facts.whole()?.newest();
        if how.danger_older_epoch {
            let held = self.held().trust.clone();
            let known = self.known_of(held, &facts)?;
            // With documents go admins and nodes that they removed.
            let missing = first_missing(&known.view, &facts.view).is_some();
            if missing && !(how.approve)(&facts.view) {
                return Err(ClientError::input(
                    "the cluster lacks documents that are known here, and was not approved, so no share was given",
                    "compare its newest document (`bulla document show`) with the other admins, then approve it",
                ));
            }
        }
        let key = self.key()?;
        let me = document.admin_by_key(&key.public_key().key_id()).ok_or_else(|| {
            ClientError::input("your key is not that of an admin of this cluster", "call with an admin's key")
        })?;
        let decrypter = self.opening_key()?;
        let call = Call { method: "POST", changes: true, ..Call::read("/v1/seal/session") };
        // A cluster that went back on purpose is believed by what it shows.
        let of_seal = |call: Call| Call { view: how.danger_older_epoch.then(|| facts.view.clone()), ..call.of_seal() };
        let session: UnsealSession = self.json(of_seal(call)).await?;
        let trust = self.trust().await?;
        // Of the pinned admins another cluster may answer now: its epochs are others.
        demand(trust.view.id() == facts.view.id(), "another cluster of the same admins answers there now")?;
        let memory = trust.memory;
        let seen = memory.seen().map_or(0, |seen| seen.epoch).max(memory.share_epoch());
        if seen > session.epoch && !how.danger_older_epoch {
            return Err(StateError::Epoch { seen, told: session.epoch }.into());
        }
        check_session_id(&session.id)?;
        let path = format!("/v1/seal/session/{}", session.id);
        let EncryptedShareKey { index, file } = self.json(of_seal(Call::read(format!("{path}/key")))).await?;
        let place = usize::from(index);
        let mine = document.admins().nth(place).is_some_and(|admin| admin.principal() == me.principal());
        demand(mine, "the node sent another admin's share")?;
        let context = share_context(facts.view.id(), session.epoch, index, document, me.principal());
        let share_key = open_secret(decrypter, &file.0, SHARE_KEY_BYTES).await?;
        let file = answer_share(&share_key, &context, &session)?;
        // Genesis is approved by its own admins, with the keys that it names; who came later has nothing to approve.
        let founder = facts.view.genesis().record(&me.principal()).is_some_and(|then| then.digest() == me.digest());
        let approved = verify_approvals(&facts.view, &facts.approvals).contains(&me.principal());
        let approval = if approved || !founder {
            None
        } else {
            if !(how.approve)(&facts.view) {
                return Err(ClientError::input(
                    "the cluster was not approved, so no share was given",
                    "compare the cluster's id with the other admins, then approve it",
                ));
            }
            let payload = GenesisApproval { v: V1, cluster: facts.view.id() };
            Some(evidence::sign(&payload, &[&**key]).await?)
        };
        let body = GiveShare { index, file: Bytes(file), approval };
        // Before it travels: whoever keeps the answer back must not make an older copy get one, too.
        memory.remember_share(session.epoch)?;
        let give = Call::change("POST", format!("{path}/share"), &body);
        let given: ShareGiven = self.json(of_seal(give)).await?;
        let of_this = given.consent_needed.as_ref().is_none_or(|consent| consent.cluster == facts.view.id());
        demand(of_this, "the node asks for a consent about another cluster")?;
        // An unseal begins the next epoch, so a copy of the storage of before it is refused from now on.
        let opened = u64::from(given.state == SealState::Unsealed);
        memory.remember_share(session.epoch.saturating_add(opened))?;
        let repeated = given.state == SealState::Sealed && given.progress.have <= session.progress.have;
        Ok(UnsealOutcome { given, index, epoch: session.epoch, repeated })
    }
}

impl Client {
    /// Remembers that others' shares opened the cluster after the own one was given for `epoch`: from now on none is given to
    /// that epoch again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn share_used(&self, epoch: u64) -> Result<(), ClientError> {
        self.trust().await?.memory.remember_share(epoch.saturating_add(1))
    }
}

/// A session id becomes part of a path.
fn check_session_id(id: &str) -> Result<(), ClientError> {
    demand(id.parse::<bulla_wire::name::Name>().is_ok(), "the session's id is malformed")
}

/// What a share of this document's seal was made for.
fn share_context(
    cluster: ClusterId,
    epoch: u64,
    index: u8,
    document: &VerifiedDocument,
    principal: PrincipalId,
) -> ShareContext {
    let n = u8::try_from(document.body().admins.len()).unwrap_or(u8::MAX);
    share::context(&ShareOf { cluster, epoch, index, k: document.body().k, n, principal })
}

/// Checks that the share key is for this context, and encrypts it to the session.
fn answer_share(
    share_key: &SecretBytes,
    context: &ShareContext,
    session: &UnsealSession,
) -> Result<Vec<u8>, ClientError> {
    let recipient: Recipient =
        session.recipient.parse().map_err(|_| ClientError::contradiction("the session's recipient is malformed"))?;
    demand(recipient.is_hybrid(), "the session's recipient is not post-quantum")?;
    let key = context
        .check_key_plaintext(share_key.expose())
        .map_err(|_| ClientError::contradiction("the share's key was made for another seal"))?;
    Ok(envelope::seal(&[recipient], None, context.give_plaintext(&session.id, &key).expose())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::SystemRng;
    use bulla_wire::api::Progress;
    use bulla_wire::id::Digest;

    fn session(identity: &Identity) -> UnsealSession {
        UnsealSession {
            id: "abc".into(),
            recipient: identity.recipients().first().unwrap().to_string(),
            epoch: 3,
            config_sha256: Digest::new([0; 32]),
            expires_ms: 0,
            progress: Progress { have: 0, need: 2 },
        }
    }

    fn context(cluster: u8, epoch: u64, index: u8, k: u8, n: u8, admin: u8) -> ShareContext {
        let (cluster, principal) = (ClusterId::new([cluster; 32]), PrincipalId::new([admin; 32]));
        share::context(&ShareOf { cluster, epoch, index, k, n, principal })
    }

    #[tokio::test]
    async fn a_share_key_goes_to_its_session_only() {
        let node = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        let own = context(1, 3, 0, 2, 3, 2);
        let key = SecretBytes::new([&[7; 32][..], own.as_bytes()].concat());
        let file = answer_share(&key, &own, &session(&node)).unwrap();
        let opened = envelope::open(&[&node], &file, 64).await.unwrap().plaintext;
        assert!(own.check_give_plaintext("abc", opened.expose()).is_ok());
        assert!(own.check_give_plaintext("abd", opened.expose()).is_err());
        // Made for another epoch, index, k, n, admin or cluster.
        for other in [
            context(1, 4, 0, 2, 3, 2),
            context(1, 3, 1, 2, 3, 2),
            context(1, 3, 0, 3, 3, 2),
            context(1, 3, 0, 2, 4, 2),
            context(1, 3, 0, 2, 3, 3),
            context(2, 3, 0, 2, 3, 2),
        ] {
            assert!(answer_share(&key, &other, &session(&node)).is_err());
        }
        let short = SecretBytes::new(vec![7; 31]);
        assert!(answer_share(&short, &own, &session(&node)).is_err());
        let classical = Identity::generate(IdentityKind::Classical, &mut SystemRng).unwrap();
        assert!(answer_share(&key, &own, &session(&classical)).is_err());
    }

    #[test]
    fn session_ids_fit_into_a_path() {
        assert!(check_session_id("abc-_9").is_ok());
        for bad in ["", "..", "a/b", "a:b", "a?b"] {
            assert!(check_session_id(bad).is_err());
        }
    }
}
