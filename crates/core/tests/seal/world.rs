//! A cluster in a map, and admins with keys in memory.

use bulla_core::head::AuditPosition;
use bulla_core::record::{Answer, Batch, Page, Precondition, Read, SealedValue, Sequence, Snapshot, StoreKey, Table};
use bulla_core::seal::{
    Accounted, Advance, AdvanceRequest, Give, GiveOutcome, InitError, InitRequest, Initialised, Keyring, Opened,
    RootKey, SealError, Session, SessionError, StoredSeal, advance, init, lost_commits, open,
};
use bulla_crypto::envelope;
use bulla_crypto::evidence::{ClusterView, PrincipalKey, Record, record_payload, sign_in_memory};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SeededRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretKey;
use bulla_crypto::share::{MESSAGE_BYTES, ShareContext, ShareOf, context, open_in_memory};
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::Init;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{GenesisApproval, MinKem, Position, SealMode};
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::json::V1;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NOW_MS: u64 = 1_800_000_000_000;
pub const AUDIT: AuditPosition = AuditPosition { file: 1, offset: 100, n: 2, hash: Digest::new([4; 32]) };
/// Where the log stands when it is unsealed.
pub const LATER: AuditPosition = AuditPosition { file: 1, offset: 200, n: 3, hash: Digest::new([5; 32]) };

pub struct Admin {
    pub identity: Identity,
    pub record: Record,
}

impl Admin {
    pub fn new(name: &str, kind: IdentityKind, rng: &mut SeededRng) -> Self {
        let identity = Identity::generate(kind, rng).unwrap();
        let record = record(name, &[(&identity, identity.recipients())]);
        Self { identity, record }
    }

    pub fn id(&self) -> PrincipalId {
        self.record.principal()
    }
}

pub fn record_envelope(name: &str, keys: &[(&Identity, &[Recipient])]) -> Envelope {
    let entries: Vec<_> = keys
        .iter()
        .map(|(identity, recipients)| PrincipalKey {
            public: identity.signing_key().unwrap().public_key().clone(),
            recipients: recipients.to_vec(),
            dual_use: false,
        })
        .collect();
    let payload = record_payload(name.parse().unwrap(), None, &entries).unwrap();
    sign_in_memory(&payload, &keys.iter().map(|(identity, _)| identity.signing_key().unwrap()).collect::<Vec<_>>())
        .unwrap()
}

pub fn record(name: &str, keys: &[(&Identity, &[Recipient])]) -> Record {
    Record::open(&record_envelope(name, keys), None).unwrap()
}

/// A store: what a batch means, without anything else.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Map(pub BTreeMap<(Table, StoreKey), SealedValue>);

impl Map {
    /// Applies the batch, or says which precondition does not hold.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), usize> {
        batch.admissible().unwrap();
        for (index, (table, key, precondition)) in batch.preconditions.iter().enumerate() {
            let found = self.0.get(&(*table, key.clone()));
            let holds = match precondition {
                Precondition::Absent => found.is_none(),
                Precondition::Present => found.is_some(),
                Precondition::At(revision) => found.is_some_and(|value| value.revision() == *revision),
            };
            if !holds {
                return Err(index);
            }
        }
        for (table, key, value) in &batch.puts {
            self.0.insert((*table, key.clone()), value.clone());
        }
        for (table, key) in &batch.deletes {
            self.0.remove(&(*table, key.clone()));
        }
        Ok(())
    }

    pub fn read(&self, reads: &[Read]) -> Snapshot {
        let answers = reads
            .iter()
            .map(|read| match read {
                Read::Get(table, key) => Answer::Value(self.0.get(&(*table, key.clone())).cloned()),
                Read::Scan { table, prefix, .. } => {
                    let inside =
                        |((t, k), _): &((Table, StoreKey), SealedValue)| t == table && k.as_bytes().starts_with(prefix);
                    let rows = self.0.iter().map(|(key, value)| (key.clone(), value.clone())).filter(inside);
                    let entries = rows.map(|((_, key), value)| (key, value)).collect();
                    Answer::Page(Page { entries, more: false })
                }
            })
            .collect();
        Snapshot { sequence: None, answers }
    }

    pub fn seal(&self) -> Result<Arc<StoredSeal>, SealError> {
        StoredSeal::parse(self.read(&StoredSeal::reads().unwrap())).map(|stored| Arc::new(stored.unwrap()))
    }

    pub fn plain(&self, name: &str) -> SealedValue {
        self.0[&(Table::Plain, StoreKey::new(name).unwrap())].clone()
    }

    pub fn has_plain(&self, name: &str) -> bool {
        self.0.contains_key(&(Table::Plain, StoreKey::new(name).unwrap()))
    }

    pub fn put_plain(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert((Table::Plain, StoreKey::new(name).unwrap()), SealedValue::new(bytes).unwrap());
    }
}

pub struct World {
    pub rng: SeededRng,
    pub admins: Vec<Admin>,
    pub view: ClusterView,
    pub store: Map,
}

pub fn init_body(admins: &[Admin], mode: SealMode, k: u8, min_kem: MinKem) -> Init {
    let admins = admins.iter().map(|admin| admin.record.envelope().clone()).collect();
    Init { name: "test".parse().unwrap(), admins, mode, k, min_kem }
}

pub fn try_init(
    body: &Init,
    signer: &Identity,
    node: &SigningKey,
    rng: &mut SeededRng,
) -> Result<Initialised, InitError> {
    let signer = signer.signing_key().unwrap().public_key().key_id();
    init(&InitRequest { init: body, signer, node: node.public_key(), audit: AUDIT, now_ms: NOW_MS }, rng)
}

impl World {
    /// A cluster that was initialised and never unsealed.
    pub fn new(mode: SealMode, k: u8, n: usize) -> Self {
        Self::with_seed(mode, k, n, 1)
    }

    pub fn with_seed(mode: SealMode, k: u8, n: usize, seed: u64) -> Self {
        let mut rng = SeededRng::from_u64(seed);
        let admins: Vec<_> =
            (0..n).map(|i| Admin::new(&format!("admin-{i}"), IdentityKind::Hybrid, &mut rng)).collect();
        let node = SigningKey::generate(&mut rng).unwrap();
        let body = init_body(&admins, mode, k, MinKem::Hybrid);
        let made = try_init(&body, &admins[0].identity, &node, &mut rng).unwrap();
        let mut store = Map::default();
        store.commit(&made.batch).unwrap();
        Self { rng, admins, view: made.view, store }
    }

    pub fn session(&mut self) -> Session {
        let stored = self.store.seal().unwrap();
        Session::open(NOW_MS, stored, &mut self.rng).unwrap()
    }

    /// As a client computes it, from what `GET /v1/seal` and the documents say.
    pub fn context(&self, session: &Session, index: u8) -> ShareContext {
        let (body, epoch) = (self.view.newest().body(), session.describe().epoch);
        let (k, n) = (body.k, u8::try_from(body.admins.len()).unwrap());
        let principal = body.admins[usize::from(index)];
        context(&ShareOf { cluster: self.view.id(), epoch, index, k, n, principal })
    }

    /// What a client does to find its intermediate key.
    pub fn fetch(&self, session: &Session, admin: usize) -> Result<(u8, SecretKey), String> {
        let admin = &self.admins[admin];
        let encrypted = session.key_for(&admin.id()).map_err(|error| error.to_string())?;
        let plaintext =
            open_in_memory(&admin.identity, &encrypted.file.0, MESSAGE_BYTES).map_err(|error| error.to_string())?;
        let context = self.context(session, encrypted.index);
        let key = context.check_key_plaintext(plaintext.expose()).map_err(|error| error.to_string())?;
        Ok((encrypted.index, key))
    }

    pub fn approval(&self, admin: usize) -> Envelope {
        let approval = GenesisApproval { v: V1, cluster: self.view.id() };
        sign_in_memory(&approval, &[self.admins[admin].identity.signing_key().unwrap()]).unwrap()
    }

    /// Encrypts `plaintext` to the session, as a client does.
    pub fn to_session(session: &Session, plaintext: &[u8]) -> Vec<u8> {
        let recipient: Recipient = session.describe().recipient.parse().unwrap();
        envelope::seal(&[recipient], None, plaintext).unwrap()
    }

    /// An honest admin's whole part.
    pub fn give(&self, session: &mut Session, admin: usize) -> Result<GiveOutcome, SessionError> {
        let (index, key) = self.fetch(session, admin).unwrap();
        self.give_key(session, admin, index, &key)
    }

    /// Gives some key at some place, in a message that is otherwise right.
    pub fn give_key(
        &self,
        session: &mut Session,
        admin: usize,
        index: u8,
        key: &SecretKey,
    ) -> Result<GiveOutcome, SessionError> {
        let message = self.context(session, index).give_plaintext(session.id(), key);
        self.give_file(session, admin, index, &Self::to_session(session, message.expose()))
    }

    pub fn give_file(
        &self,
        session: &mut Session,
        admin: usize,
        index: u8,
        file: &[u8],
    ) -> Result<GiveOutcome, SessionError> {
        let approval = self.approval(admin);
        let give = Give { admin: self.admins[admin].id(), index, file, approval: Some(&approval) };
        session.give(&give, &self.view)
    }

    /// The root key from these admins, if they are enough.
    pub fn root(&mut self, admins: impl IntoIterator<Item = usize>) -> (Session, Option<RootKey>) {
        let mut session = self.session();
        let mut root = None;
        for admin in admins {
            if let GiveOutcome::Complete(key) = self.give(&mut session, admin).unwrap() {
                root = Some(key);
            }
        }
        (session, root)
    }

    pub fn open(&mut self, admins: impl IntoIterator<Item = usize>) -> (Session, Opened) {
        let (session, root) = self.root(admins);
        let opened = open(&root.unwrap(), session.stored()).unwrap();
        (session, opened)
    }

    /// Unseals up to the batch, which is not committed.
    pub fn advance(&mut self, admins: impl IntoIterator<Item = usize>) -> Advance {
        let (session, opened) = self.open(admins);
        let accounted = lost_commits(&opened, None).unwrap();
        self.advance_from(&session, opened, accounted).unwrap()
    }

    pub fn advance_from(
        &mut self,
        session: &Session,
        opened: Opened,
        accounted: Accounted,
    ) -> Result<Advance, SealError> {
        let first = |prefix: &str| (0..).find(|n| !self.store.has_plain(&format!("{prefix}{n}"))).unwrap();
        let request = AdvanceRequest {
            view: &self.view,
            documents_from: first("document/"),
            approvals: &session.approvals(),
            consents_from: first("consent/"),
            audit: LATER,
            now_ms: NOW_MS + 1,
        };
        advance(opened, accounted, &request, &mut self.rng)
    }

    /// Unseals, and returns the keys.
    pub fn unseal(&mut self, admins: impl IntoIterator<Item = usize>) -> Keyring {
        let advance = self.advance(admins);
        self.store.commit(&advance.batch).unwrap();
        advance.keyring
    }

    /// What a running node does: some transactions, each with a head of its own.
    pub fn work(&mut self, keyring: &Keyring, transactions: u64) -> Position {
        let stored = self.store.seal().unwrap();
        let mut head = stored.head_unverified().unwrap();
        for _ in 0..transactions {
            head.sequence = Sequence(head.sequence.0 + 1);
            let revision = bulla_core::record::Revision(head.sequence.0);
            let row = head.encode(&keyring.head, &self.view.id(), revision).unwrap();
            self.store.put_plain("head", row.into_bytes());
        }
        head.position()
    }
}

/// Whether the numbers of a night are asked for (`cargo xtask test --long`).
pub fn long() -> bool {
    std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1")
}

/// All subsets of `0..n` with `k` members.
pub fn subsets(n: usize, k: usize) -> impl Iterator<Item = Vec<usize>> {
    (0_u32..1 << n)
        .filter(move |mask| mask.count_ones() as usize == k)
        .map(move |mask| (0..n).filter(|bit| mask & (1 << bit) != 0).collect())
}
