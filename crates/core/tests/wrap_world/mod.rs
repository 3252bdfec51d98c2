//! A world for wraps without IO: principals, a clock, and a store of sealed rows that judges preconditions
//! as real ones do. Operations advance tick by tick, so that a seeded scheduler can interleave them at every
//! point between a read and a commit.

use bulla_core::barrier::{Barrier, Cursor, Kind, Query, RecordKey, Records, Writes};
use bulla_core::directory::{Change, Directory, Principal, StoredPrincipal};
use bulla_core::engine::due::{self, Entry};
use bulla_core::engine::wrap::{Create, Draft, Open, slot::Slot};
use bulla_core::operation::{
    Content, Context, MAX_ATTEMPTS, MAX_ROUNDS, Now, Operation, Outcome, Raised, Refusal, Replay, Reply, Step, step,
};
use bulla_core::record::{
    Answer, BATCH_BYTES_MAX, Batch, Page, Precondition, READS_MAX, Read, SealedValue, Snapshot, StoreKey,
};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{
    AdmissionDraft, ClusterView, Payload, PrincipalKey, Record, Standing, VerifiedReceipt, check_receipt_chain,
    genesis_payload, payload_digest, record_payload, sign_in_memory, verify_receipt,
};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{Rng, SeededRng, draw, secret_key};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::{SlotState, WrapReceipts};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Actor, MinKem, SealMode};
use bulla_wire::id::{Digest, Lineage, PrincipalId, WrapId};
use bulla_wire::json::V1;
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, ReceiptKind, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// When the world begins.
pub const START_MS: u64 = 1_800_000_000_000;
/// Life of the wraps that are made here.
pub const LIFE_MS: u64 = 3_600_000;
/// Their `ack_s`.
pub const ACK_S: u32 = 600;
pub const DAY_MS: u64 = 24 * 3600 * 1000;

pub struct Person {
    pub identity: Identity,
    pub record: Record,
}

/// What an operation came to.
#[derive(Debug)]
pub struct Answered {
    pub result: Result<Reply, Refusal>,
    pub alarms: Vec<Raised>,
    pub receipts: Vec<Digest>,
}

impl Answered {
    pub fn code(&self) -> Option<Code> {
        self.result.as_ref().err().map(|refusal| refusal.code)
    }
    pub fn receipts(&self) -> Vec<Envelope> {
        self.json::<WrapReceipts>().receipts
    }
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        match &self.result {
            Ok(Reply::Json(bytes)) => serde_json::from_slice(bytes).unwrap(),
            other => panic!("expected JSON, got {other:?}"),
        }
    }
    pub fn content(&self) -> (Envelope, Content) {
        match &self.result {
            Ok(Reply::Claim { receipt, content, .. }) => (receipt.clone(), content.clone()),
            other => panic!("expected content, got {other:?}"),
        }
    }
    pub fn alarm_kinds(&self) -> Vec<bulla_wire::api::AlarmKind> {
        self.alarms.iter().map(|raised| raised.alarm.kind).collect()
    }
}

pub struct World {
    pub people: BTreeMap<&'static str, Person>,
    pub directory: Directory,
    pub node: SigningKey,
    pub now: Now,
    pub rng: SeededRng,
    pub barrier: Barrier,
    pub rows: BTreeMap<StoreKey, SealedValue>,
    /// All (slot, claim) that were ever given content, whatever happened later.
    pub served: BTreeMap<WrapId, BTreeSet<(u16, Digest)>>,
    /// Batches that were committed.
    pub commits: u64,
    /// Requests are repeats under a used nonce, which were answered so.
    pub repeated: Option<Replay>,
    /// Alarms go to a webhook too.
    pub webhook: bool,
    /// The history that is written.
    pub lineage: Lineage,
    /// How often it lost commits.
    pub losses: u32,
}

fn person(name: &str, kind: IdentityKind, rng: &mut dyn Rng) -> Person {
    let identity = Identity::generate(kind, rng).unwrap();
    let key = PrincipalKey {
        public: identity.signing_key().unwrap().public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: identity.dual_use(),
    };
    let payload = record_payload(name.parse().unwrap(), None, &[key]).unwrap();
    let record = Record::open(&sign_in_memory(&payload, &[identity.signing_key().unwrap()]).unwrap(), None).unwrap();
    Person { identity, record }
}

/// Somebody as the store holds it, admitted by an enroller.
fn admitted(view: &ClusterView, person: &Person, enroller: &Person) -> StoredPrincipal {
    let admission = AdmissionDraft { serial: 1, ..AdmissionDraft::default() }.payload(view, &person.record);
    let admission = sign_in_memory(&admission, &[enroller.identity.signing_key().unwrap()]).unwrap();
    StoredPrincipal { admission: Some(admission), serial: 1, ..Principal::founder(&person.record, vec![]) }
}

impl World {
    /// alice, bob, carol and dave with hybrid keys, oscar with classical ones, gina who is disabled, and eve.
    pub fn new(seed: u64) -> Self {
        let mut rng = SeededRng::from_u64(seed);
        let mut people = BTreeMap::new();
        for name in ["alice", "bob", "carol", "dave", "eve", "gina"] {
            people.insert(name, person(name, IdentityKind::Hybrid, &mut rng));
        }
        people.insert("oscar", person("oscar", IdentityKind::Classical, &mut rng));
        let node = SigningKey::generate(&mut rng).unwrap();
        let alice = &people["alice"];
        let founders = [alice.record.clone()];
        let genesis = genesis_payload(
            "test".parse().unwrap(),
            draw(&mut rng),
            &founders,
            SealMode::Any,
            1,
            node.public_key(),
            START_MS,
            &alice.identity.recipients()[0],
            MinKem::Hybrid,
        );
        let view = ClusterView::unpinned(&sign_in_memory(&genesis, &[]).unwrap()).unwrap();
        let cluster = view.id();
        let principals = people.iter().map(|(name, person)| {
            let mut stored = admitted(&view, person, alice);
            stored.disabled = *name == "gina";
            Principal::from_stored(&stored).unwrap()
        });
        let principals: Vec<_> = principals.collect();
        let directory = Directory::new(view, principals, BTreeMap::new()).unwrap();
        let terms = BTreeMap::from([(1, secret_key(&mut rng))]);
        let barrier = Barrier::new(cluster, terms, secret_key(&mut rng)).unwrap();
        let now = Now { unix_ms: START_MS, steady_ms: START_MS, active_ms: 5_000 };
        Self {
            people,
            directory,
            node,
            now,
            rng,
            barrier,
            rows: BTreeMap::new(),
            served: BTreeMap::new(),
            commits: 0,
            repeated: None,
            webhook: false,
            lineage: Lineage::new([1; 16]),
            losses: 0,
        }
    }

    /// Admits more people.
    pub fn admit(&mut self, names: &[&'static str]) {
        for name in names {
            let person = person(name, IdentityKind::Hybrid, &mut self.rng);
            let stored = Box::new(admitted(self.directory.view(), &person, &self.people["alice"]));
            self.directory = self.directory.with(Change::Principal(stored)).unwrap();
            self.people.insert(name, person);
        }
    }

    pub fn id(&self, name: &str) -> PrincipalId {
        self.people[name].record.principal()
    }

    pub fn actor(&self, name: &str) -> Actor {
        let key = self.people[name].identity.signing_key().unwrap().public_key().key_id();
        Actor { principal: self.id(name), key, address: Some("192.0.2.1".into()) }
    }

    pub fn context<'a>(&'a self, actor: Option<&'a Actor>) -> Context<'a> {
        Context {
            now: self.now,
            cluster: self.directory.view().id(),
            epoch: 1,
            lineage: self.lineage,
            doc: 0,
            node: &self.node,
            directory: &self.directory,
            actor,
            repeated: self.repeated,
            webhook: self.webhook,
            losses: self.losses,
        }
    }

    /// Lets time pass while the cluster serves.
    pub fn pass(&mut self, ms: u64) {
        self.now.unix_ms += ms;
        self.now.steady_ms += ms;
        self.now.active_ms += ms;
    }
    /// Lets time pass while the cluster is sealed.
    pub fn pass_sealed(&mut self, ms: u64) {
        self.now.unix_ms += ms;
        self.now.steady_ms += ms;
    }

    pub fn claim(&mut self) -> Recipient {
        Identity::generate(IdentityKind::Hybrid, &mut self.rng).unwrap().recipients()[0].clone()
    }

    pub fn statement(&mut self, to: &[&str], mode: Mode, ciphertext: &[u8]) -> Statement {
        let to = to.iter().map(|name| {
            let record = &self.people[name].record;
            Addressee {
                principal: record.principal(),
                record_sha256: record.digest(),
                recipients: record.recipients().iter().map(|recipient| recipient.digest()).collect(),
            }
        });
        Statement {
            v: V1,
            cluster: self.directory.view().id(),
            from: self.id("alice"),
            to: to.collect(),
            mode,
            ct: Ciphertext { sha256: Digest::new(sha256(&[ciphertext])), len: ciphertext.len() as u64 },
            nbf_ms: 0,
            exp_ms: self.now.unix_ms + LIFE_MS,
            ack_s: ACK_S,
            label: None,
            origin: None,
            wrap: WrapId::new(draw(&mut self.rng)),
        }
    }

    /// Signed by alice.
    pub fn sign(&self, statement: &impl Payload) -> Envelope {
        sign_in_memory(statement, &[self.people["alice"].identity.signing_key().unwrap()]).unwrap()
    }

    /// As the server does it: checks the statement, puts the ciphertext to it, runs it.
    pub fn create_as(&mut self, name: &str, envelope: &Envelope, content: Content) -> Answered {
        let actor = self.actor(name);
        let refused = |refusal| Answered { result: Err(refusal), alarms: vec![], receipts: vec![] };
        let draft = match Draft::check(envelope, &self.context(Some(&actor))) {
            Ok(draft) => draft,
            Err(refusal) => return refused(refusal),
        };
        match Create::new(draft, content) {
            Ok(create) => self.run(Box::new(create), Some(name)),
            Err(refusal) => refused(refusal),
        }
    }

    /// Makes a wrap by alice.
    pub fn wrap(&mut self, to: &[&str], mode: Mode) -> Wrap {
        let statement = self.statement(to, mode, CIPHERTEXT);
        let envelope = self.sign(&statement);
        let answered = self.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec()));
        let created = answered.receipts().remove(0);
        Wrap { id: statement.wrap, digest: payload_digest(&envelope), envelope, created, statement }
    }

    pub fn open(&mut self, wrap: &Wrap, name: &str, claim: &Recipient) -> Answered {
        self.run(Box::new(wrap.open(claim)), Some(name))
    }

    /// Runs an operation alone.
    pub fn run(&mut self, op: Box<dyn Operation>, name: Option<&str>) -> Answered {
        Task::new(op, name.map(|name| self.actor(name))).finish(self)
    }

    /// What is due now, in both indexes.
    pub fn overdue(&mut self) -> Vec<Entry> {
        Kind::DUE
            .into_iter()
            .flat_map(|kind| {
                let query = due::scan(kind, None, 100);
                let records = self.read(std::slice::from_ref(&query));
                due::overdue(kind, records.page(&query).unwrap().0, self.now)
            })
            .collect()
    }

    /// Drives everything that is due until nothing is; returns the alarms.
    pub fn sweep(&mut self) -> Vec<Raised> {
        let mut alarms = Vec::new();
        for _ in 0..100 {
            let entries = self.overdue();
            if entries.is_empty() {
                return alarms;
            }
            for entry in entries {
                // As the server does: again until there is nothing to write.
                let mut commits = u64::MAX;
                for round in 0.. {
                    assert!(round < 10, "{entry:?} never ends");
                    alarms.extend(self.run(Box::new(entry.clone()), None).alarms);
                    if std::mem::replace(&mut commits, self.commits) == self.commits {
                        break;
                    }
                }
            }
        }
        panic!("the sweep does not come to an end");
    }

    /// Reads as a store does.
    pub fn read(&self, queries: &[Query]) -> Records {
        assert!(queries.len() <= READS_MAX);
        let answers = self.barrier.reads(queries).unwrap().into_iter().map(|read| match read {
            Read::Get(_, key) => Answer::Value(self.rows.get(&key).cloned()),
            Read::Scan { prefix, after, limit, .. } => {
                let matches = |key: &StoreKey| {
                    key.as_bytes().starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after)
                };
                let mut entries: Vec<_> =
                    self.rows.iter().filter(|(key, _)| matches(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
                let more = entries.len() > limit;
                entries.truncate(limit);
                Answer::Page(Page { entries, more })
            }
        });
        let snapshot = Snapshot { sequence: None, answers: answers.collect() };
        self.barrier.records(queries, snapshot).unwrap().1
    }

    /// Commits as a store does: all or nothing.
    pub fn commit(&mut self, batch: Batch) -> bool {
        batch.admissible().unwrap();
        assert!(batch.bytes() <= BATCH_BYTES_MAX);
        let holds = batch.preconditions.iter().all(|(_, key, precondition)| {
            let found = self.rows.get(key);
            match precondition {
                Precondition::Absent => found.is_none(),
                Precondition::Present => found.is_some(),
                Precondition::At(revision) => found.is_some_and(|value| value.revision() == *revision),
            }
        });
        if holds {
            self.commits += 1;
            self.rows.extend(batch.puts.into_iter().map(|(_, key, value)| (key, value)));
            for (_, key) in batch.deletes {
                self.rows.remove(&key);
            }
        }
        holds
    }

    /// Writes past every operation.
    pub fn write(&mut self, written: impl FnOnce(&mut Writes)) {
        let mut writes = Writes::default();
        written(&mut writes);
        let batch = self.barrier.batch(&writes, &mut self.rng).unwrap();
        assert!(self.commit(batch));
    }

    fn apply(&mut self, outcome: &Outcome) -> bool {
        if outcome.writes.is_empty() {
            return true;
        }
        let batch = self.barrier.batch(&outcome.writes, &mut self.rng).unwrap();
        self.commit(batch)
    }

    /// A record of a wrap, by the names of `spec/barrier.md`.
    pub fn part(&self, wrap: &WrapId, child: &str) -> Option<Vec<u8>> {
        let key = RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), child);
        let records = self.read(&[Query::Get(key.clone())]);
        records.get(&key).unwrap().map(|record| record.bytes.expose().to_vec())
    }

    pub fn slot(&self, wrap: &WrapId, index: u16) -> Slot {
        serde_json::from_slice(&self.part(wrap, &format!("slot/{index}")).unwrap()).unwrap()
    }

    pub fn state(&self, wrap: &WrapId, index: u16) -> SlotState {
        self.slot(wrap, index).state.name()
    }

    /// All receipts of a slot, verified.
    pub fn receipts(&self, wrap: &WrapId, index: u16) -> Vec<VerifiedReceipt> {
        let query = Query::Scan { kind: Kind::Receipt, dir: wrap.as_bytes().to_vec(), after: None, limit: 1000 };
        let records = self.read(std::slice::from_ref(&query));
        let page = records.page(&query).unwrap().0;
        let of_slot = page.iter().filter(|record| record.cursor.as_bytes()[..2] == index.to_be_bytes());
        of_slot.map(|record| self.verify(&serde_json::from_slice(record.bytes.expose()).unwrap())).collect()
    }

    pub fn verify(&self, envelope: &Envelope) -> VerifiedReceipt {
        let verified = verify_receipt(self.directory.view(), envelope).unwrap();
        assert_eq!(verified.standing, Standing::Valid);
        verified
    }

    pub fn kinds(&self, receipts: &[Envelope]) -> Vec<ReceiptKind> {
        receipts.iter().map(|receipt| self.verify(receipt).receipt.kind).collect()
    }

    /// Rows of a kind, of whatever wrap or principal.
    pub fn count(&self, kind: Kind) -> usize {
        self.rows.keys().filter(|key| key.as_bytes()[0] == kind as u8).count()
    }

    pub fn alarms_of(&self, name: &str) -> usize {
        let query = bulla_core::engine::alarm::scan(&self.id(name), None::<Cursor>, 1000);
        self.read(std::slice::from_ref(&query)).page(&query).unwrap().0.len()
    }
}

pub const CIPHERTEXT: &[u8] = b"age-encryption.org/v1 and so on";

/// A wrap that was made.
#[derive(Debug, Clone)]
pub struct Wrap {
    pub id: WrapId,
    pub digest: Digest,
    pub envelope: Envelope,
    pub created: Envelope,
    pub statement: Statement,
}

impl Wrap {
    pub fn open(&self, claim: &Recipient) -> Open {
        Open::by(self.id, self.digest, claim).unwrap()
    }
    pub fn slots(&self) -> u16 {
        if self.statement.mode == Mode::First { 1 } else { self.statement.to.len() as u16 }
    }
}

/// An operation under way. Each tick is one read, one decision, or one commit.
pub struct Task {
    op: Box<dyn Operation>,
    actor: Option<Actor>,
    records: Records,
    rounds: usize,
    attempts: usize,
    pub decided: Option<Box<Outcome>>,
}

impl Task {
    pub fn new(op: Box<dyn Operation>, actor: Option<Actor>) -> Self {
        Self { op, actor, records: Records::default(), rounds: 0, attempts: 0, decided: None }
    }

    /// Reads until it is decided what to write.
    pub fn decide(&mut self, world: &mut World) -> &mut Outcome {
        while self.decided.is_none() {
            assert!(self.tick(world).is_none());
        }
        self.decided.as_mut().unwrap()
    }

    /// Goes on to the answer.
    pub fn finish(&mut self, world: &mut World) -> Answered {
        loop {
            if let Some(answered) = self.tick(world) {
                return answered;
            }
        }
    }

    pub fn tick(&mut self, world: &mut World) -> Option<Answered> {
        let Some(outcome) = self.decided.take() else {
            let mut rng = SeededRng::new(draw(&mut world.rng));
            match step(&*self.op, &self.records, &world.context(self.actor.as_ref()), &mut rng).unwrap() {
                Step::Need(queries) => {
                    self.rounds += 1;
                    assert!(self.rounds <= MAX_ROUNDS, "asks too often");
                    self.records.extend(world.read(&queries));
                }
                Step::Done(outcome) => self.decided = Some(outcome),
            }
            return None;
        };
        if world.apply(&outcome) {
            let Outcome { result, alarms, receipts, change, .. } = *outcome;
            if let Some(change) = change {
                world.directory = world.directory.with(change).unwrap();
            }
            if let Ok(Reply::Claim { receipt, claim, .. }) = &result {
                let receipt = world.verify(receipt).receipt;
                assert_eq!(receipt.claim_sha256, Some(Digest::new(sha256(&[claim.as_str().as_bytes()]))));
                world.served.entry(receipt.wrap).or_default().insert((receipt.slot, receipt.claim_sha256.unwrap()));
            }
            return Some(Answered { result, alarms, receipts });
        }
        (self.records, self.rounds) = (Records::default(), 0);
        self.attempts += 1;
        if self.attempts == MAX_ATTEMPTS {
            let result = Err(Refusal::new(Code::Busy, "others were always first"));
            return Some(Answered { result, alarms: vec![], receipts: vec![] });
        }
        None
    }
}

/// No slot ever served two claims, and a slot's state knows the claim that it served.
pub fn invariant_one_winner(world: &World, wrap: &Wrap) {
    let served = world.served.get(&wrap.id).cloned().unwrap_or_default();
    for index in 0..wrap.slots() {
        let winners: Vec<_> = served.iter().filter(|(slot, _)| *slot == index).map(|(_, claim)| *claim).collect();
        assert!(winners.len() <= 1, "slot {index} served {} claims", winners.len());
        let opening = world.slot(&wrap.id, index).state.opening().cloned();
        let opened: Vec<_> = world
            .receipts(&wrap.id, index)
            .into_iter()
            .filter(|verified| verified.receipt.kind == ReceiptKind::Opened)
            .collect();
        assert_eq!(opened.len(), usize::from(opening.is_some()), "one opened receipt for one opening");
        if let Some(winner) = winners.first() {
            assert_eq!(opening.map(|opening| opening.claim_sha256), Some(*winner));
        }
    }
}

/// The ciphertext is there exactly as long as a slot needs it, and nothing of it afterwards.
pub fn invariant_ct_gone_when_final(world: &World, wrap: &Wrap) {
    let live = (0..wrap.slots()).any(|index| world.slot(&wrap.id, index).state.is_live());
    assert_eq!(world.part(&wrap.id, "ct").is_some(), live);
    if !live {
        assert_eq!(world.count(Kind::DueActive), 0, "nothing waits on the active clock");
    }
}

/// The counter is the number of slots that need the ciphertext.
pub fn invariant_live_counts(world: &World, wrap: &Wrap) {
    let live = (0..wrap.slots()).filter(|index| world.slot(&wrap.id, *index).state.is_live()).count() as u64;
    let stored = world.part(&wrap.id, "live").map(|bytes| {
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        value["slots"].as_u64().unwrap()
    });
    assert_eq!(stored, (live > 0).then_some(live));
}

/// Every receipt verifies, names the one before, and the slot's record knows the end of the chain.
pub fn invariant_receipts_chain(world: &World, wrap: &Wrap) {
    let created = world.verify(&wrap.created);
    for index in 0..wrap.slots() {
        let receipts = world.receipts(&wrap.id, index);
        check_receipt_chain(&created, &receipts).unwrap();
        let slot = world.slot(&wrap.id, index);
        assert_eq!(slot.receipts as usize, receipts.len());
        assert_eq!(slot.last, receipts.last().map_or(created.digest, |last| last.digest));
        assert!(world.part(&wrap.id, &format!("slot/{index}")).unwrap().len() <= 1024);
    }
}

pub fn invariants(world: &World, wrap: &Wrap) {
    invariant_one_winner(world, wrap);
    invariant_ct_gone_when_final(world, wrap);
    invariant_live_counts(world, wrap);
    invariant_receipts_chain(world, wrap);
}

/// After the last burial nothing of any wrap is left.
pub fn invariant_nothing_left(world: &World) {
    for kind in [Kind::Wrap, Kind::Receipt, Kind::Mine, Kind::Due, Kind::DueActive, Kind::Chunk, Kind::Upload] {
        assert_eq!(world.count(kind), 0, "{kind:?}");
    }
}
