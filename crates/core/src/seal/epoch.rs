//! Making the rows of one epoch, the same for init and for every unseal.

use super::keyring::Keyring;
use super::root::RootKey;
use super::stored::{ConfigAdmin, SHARE_BYTES, SealConfig, StoredShare, combine, open_share};
use super::{SealError, row};
use crate::record::{SealedValue, StoreKey};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope;
use bulla_crypto::evidence::{Record, VerifiedDocument};
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::secret::{Secret, SecretKey};
use bulla_crypto::shamir;
use bulla_crypto::share::{ShareContext, ShareOf, context};
use bulla_wire::evidence::{Bytes, SealMode};
use bulla_wire::id::{ClusterId, Digest};
use bulla_wire::json::{self, V1};

/// Everything of one epoch that goes into the plain table, apart from the head.
pub(super) struct Epoch {
    pub(super) config: SealConfig,
    config_bytes: Vec<u8>,
    config_mac: [u8; 32],
    keyring: Vec<u8>,
    lineages: Vec<u8>,
    shares: Vec<StoredShare>,
}

impl Epoch {
    /// Makes a root key, shares and intermediate keys for the admins of `document`, and seals `keyring` under them. The epoch
    /// is that of the keyring's newest history. Returns only what was opened again as an unseal would.
    pub(super) fn deal(
        cluster: ClusterId,
        prev: Option<Digest>,
        document: &VerifiedDocument,
        keyring: &Keyring,
        rng: &mut dyn Rng,
    ) -> Result<Self, SealError> {
        let (made, root, keys) = Self::unproved(cluster, prev, document, keyring, rng)?;
        made.prove(&root, &keys)?;
        Ok(made)
    }

    fn unproved(
        cluster: ClusterId,
        prev: Option<Digest>,
        document: &VerifiedDocument,
        keyring: &Keyring,
        rng: &mut dyn Rng,
    ) -> Result<(Self, RootKey, Vec<SecretKey>), SealError> {
        let entry = keyring.lineage().ok_or(SealError::Keyring)?;
        let (epoch, lineage) = (entry.epoch, entry.lineage);
        let root = RootKey::generate(rng);
        let mut dealt = Vec::new();
        let (mode, k) = (document.body().mode, document.body().k);
        let n = u8::try_from(document.admins().count()).unwrap_or(u8::MAX);
        for ((index, admin), share) in (0..).zip(document.admins()).zip(split(&root, mode, k, n, rng)?) {
            let context = context(&ShareOf { cluster, epoch, index, k, n, principal: admin.principal() });
            dealt.push(Dealt::new(admin, &context, &share, rng)?);
        }
        let config = SealConfig {
            v: V1,
            cluster,
            epoch,
            prev,
            lineage,
            mode,
            k,
            admins: dealt.iter().map(|dealt| dealt.admin.clone()).collect(),
            kcv: Bytes(root.check_value(&cluster, epoch).expose().to_vec()),
        };
        let config_bytes = json::to_vec(&config);
        let config_mac = root.config_mac(&cluster, epoch, &config_bytes);
        let (keys, shares): (Vec<_>, Vec<_>) = dealt.into_iter().map(|dealt| (dealt.key, dealt.stored)).unzip();
        let sealed = keyring.seal(&root, &cluster, epoch, rng);
        let lineages = json::to_vec(&keyring.lineages);
        Ok((Self { config, config_bytes, config_mac, keyring: sealed, lineages, shares }, root, keys))
    }

    /// SHA-256 of the configuration's bytes.
    pub(super) fn config_digest(&self) -> Digest {
        Digest::new(sha256(&[&self.config_bytes]))
    }

    /// The rows as `(key, value)`, the configuration first.
    pub(super) fn rows(&self, rng: &mut dyn Rng) -> Result<Vec<(StoreKey, SealedValue)>, SealError> {
        let config = [self.config_mac.as_slice(), &self.config_bytes].concat();
        let mut rows = vec![
            (row::key(row::CONFIG)?, row::encode(&config, rng)?),
            (row::key(row::KEYRING)?, row::encode(&self.keyring, rng)?),
            (row::key(row::LINEAGES)?, row::encode(&self.lineages, rng)?),
        ];
        for (index, share) in (0..).zip(&self.shares) {
            let content = [share.sealed.as_slice(), &share.key_file].concat();
            rows.push((row::share_key(index)?, row::encode(&content, rng)?));
        }
        Ok(rows)
    }

    /// Opens every encrypted share again, combines k neighbours at both ends, and opens the keyring with the
    /// result. A cluster whose next unseal fails is lost, so a machine that computes wrongly must stop here.
    fn prove(&self, root: &RootKey, keys: &[SecretKey]) -> Result<(), SealError> {
        let opened = (0..)
            .zip(keys)
            .map(|(index, key)| open_share(&self.config, index, &self.shares, key).ok_or(SealError::SelfCheck))
            .collect::<Result<Vec<_>, _>>()?;
        let last = opened.len().saturating_sub(usize::from(self.config.k));
        for from in [0, last] {
            let again = combine(&self.config, opened.iter().skip(from)).map_err(|_| SealError::SelfCheck)?;
            let SealConfig { cluster, epoch, .. } = &self.config;
            let opens = Keyring::open(&again, cluster, *epoch, &self.keyring).is_ok();
            if !opens || !again.equals(root) {
                return Err(SealError::SelfCheck);
            }
        }
        Ok(())
    }
}

/// One holder's part of an epoch. The key lives until the epoch is proved.
struct Dealt {
    admin: ConfigAdmin,
    key: SecretKey,
    stored: StoredShare,
}

impl Dealt {
    fn new(
        holder: &Record,
        context: &ShareContext,
        share: &Secret<[u8; SHARE_BYTES]>,
        rng: &mut dyn Rng,
    ) -> Result<Self, SealError> {
        let key = secret_key(rng);
        let message = context.key_plaintext(&key);
        let recipients: Vec<_> = holder.recipients().into_iter().cloned().collect();
        let key_file = envelope::seal(&recipients, None, message.expose())
            .map_err(|cause| SealError::Encrypt { name: holder.name().clone(), cause })?;
        let sealed = bulla_crypto::sealed::seal(&key, context.as_bytes(), share.expose(), rng);
        let admin = ConfigAdmin {
            principal: holder.principal(),
            record_sha256: holder.digest(),
            share_sha256: context.share_hash(share.expose()),
        };
        Ok(Self { admin, key, stored: StoredShare { sealed, key_file } })
    }
}

fn split(
    root: &RootKey,
    mode: SealMode,
    k: u8,
    n: u8,
    rng: &mut dyn Rng,
) -> Result<Vec<Secret<[u8; SHARE_BYTES]>>, SealError> {
    match mode {
        SealMode::Any => Ok((0..n)
            .map(|_| {
                Secret::filled(|share: &mut [u8; SHARE_BYTES]| {
                    let [_, key @ ..] = share;
                    key.copy_from_slice(root.key().expose());
                })
            })
            .collect()),
        SealMode::Quorum => {
            let shares = shamir::split(root.key(), k, n, rng).map_err(SealError::Split)?;
            Ok(shares.iter().map(shamir::Share::to_bytes).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Answer, Page, Snapshot};
    use crate::seal::{StoredSeal, open};
    use bulla_crypto::evidence::{ClusterView, PrincipalKey, genesis_payload, record_payload, sign_in_memory};
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::{SeededRng, draw};
    use bulla_wire::api::LineageEntry;
    use bulla_wire::evidence::MinKem;
    use bulla_wire::id::Lineage;

    /// Two of three, everything that is needed to prove them, and the documents.
    fn world(rng: &mut SeededRng) -> (ClusterView, Keyring, Epoch, RootKey, Vec<SecretKey>) {
        let identities = [(); 3].map(|()| Identity::generate(IdentityKind::Hybrid, rng).unwrap());
        let admins = identities.iter().zip(["alice", "bob", "carol"]).map(|(identity, name)| {
            let key = identity.signing_key().unwrap();
            let recipients = identity.recipients().to_vec();
            let key = PrincipalKey { public: key.public_key().clone(), recipients, dual_use: false };
            let payload = record_payload(name.parse().unwrap(), None, &[key]).unwrap();
            Record::open(&sign_in_memory(&payload, &[identity.signing_key().unwrap()]).unwrap(), None).unwrap()
        });
        let (admins, node) = (admins.collect::<Vec<_>>(), identities[0].signing_key().unwrap().public_key());
        let (ingress, name) = (&identities[0].recipients()[0], "test".parse().unwrap());
        let genesis = genesis_payload(name, draw(rng), &admins, SealMode::Quorum, 2, node, 1, ingress, MinKem::Hybrid);
        let view = ClusterView::unpinned(&sign_in_memory(&genesis, &[]).unwrap()).unwrap();
        let keyring = Keyring::generate(Lineage::new([1; 16]), rng);
        let (made, root, keys) = Epoch::unproved(view.id(), None, view.newest(), &keyring, rng).unwrap();
        (view, keyring, made, root, keys)
    }

    /// A machine that computes wrongly stops before the commit.
    #[test]
    fn an_epoch_that_would_not_open_is_not_dealt() {
        let mut rng = SeededRng::from_u64(1);
        let (view, keyring, mut made, root, keys) = world(&mut rng);
        made.prove(&root, &keys).unwrap();
        let refused = |made: &Epoch, root: &RootKey, keys: &[SecretKey]| {
            assert!(matches!(made.prove(root, keys), Err(SealError::SelfCheck)));
        };
        for index in 0..3 {
            made.shares[index].sealed[20] ^= 1;
            refused(&made, &root, &keys);
            made.shares[index].sealed[20] ^= 1;
        }
        // Shares of another key than the one that sealed; and the right ones, beside a keyring of another's.
        let (other, other_root, _) = Epoch::unproved(view.id(), None, view.newest(), &keyring, &mut rng).unwrap();
        refused(&made, &other_root, &keys);
        made.keyring = other.keyring;
        refused(&made, &root, &keys);
    }

    /// A keyring knows its epoch and history, beside what binds it to the epoch.
    #[test]
    fn a_keyring_of_another_history_does_not_open() {
        let mut rng = SeededRng::from_u64(1);
        let (view, keyring, made, root, _) = world(&mut rng);
        let mut opened = |keyring: &Keyring| {
            let keyring = keyring.seal(&root, &view.id(), 1, &mut rng);
            let mut rows = made.rows(&mut rng).unwrap();
            rows[1].1 = row::encode(&keyring, &mut rng).unwrap();
            let of = |name: &str| rows.iter().find(|(key, _)| key.as_bytes() == name.as_bytes());
            let value = |name: &str| Answer::Value(of(name).map(|(_, value)| value.clone()));
            let page = |prefix: &str| {
                let entries = rows.iter().filter(|(key, _)| key.as_bytes().starts_with(prefix.as_bytes()));
                Answer::Page(Page { entries: entries.cloned().collect(), more: false })
            };
            // No head: that is looked at after the keyring.
            let head = Answer::Value(Some(rows[1].1.clone()));
            let answers =
                vec![value(row::CONFIG), value(row::KEYRING), head, page(row::SHARES), page("-"), value(row::RESTORED)];
            let stored = StoredSeal::parse(Snapshot { sequence: None, answers }).unwrap().unwrap();
            open(&root, &stored).err().unwrap()
        };
        assert!(matches!(opened(&keyring), SealError::Head(_)));
        let mut rng = SeededRng::from_u64(2);
        assert!(matches!(opened(&Keyring::generate(Lineage::new([2; 16]), &mut rng)), SealError::Keyring));
        let mut later = keyring.copy();
        let newest = keyring.lineage().unwrap().clone();
        later.begin_epoch(LineageEntry { epoch: 2, ..newest }, 0, &mut rng);
        assert!(matches!(opened(&later), SealError::Keyring));
    }
}
