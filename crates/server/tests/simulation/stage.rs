//! What every seed begins with: a cluster that was made by the real server, its people, and wraps that are encrypted
//! already. There are two, and each is made once and copied for each seed.

use crate::machine::{JOURNAL_LIMIT, at_once};
use bulla_client::Pin;
use bulla_core::engine::chunk::CHUNK_BYTES;
use bulla_core::record::{Answer, Batch, Read, SCAN_ENTRIES_MAX, Table};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Binding};
use bulla_crypto::evidence::{self, ClusterView, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::SigningKey;
use bulla_server::clock::Clock;
use bulla_store::simulated::{Disk, Image, open};
use bulla_store::{OnFatal, Store};
use bulla_testkit::raw;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::encoding::base64url_decode;
use bulla_wire::evidence::SealMode;
use bulla_wire::id::{Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, V1};
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, Parcel, Statement, to_lines};

/// When the simulated time begins, Unix milliseconds: far enough ahead that no real clock gets there first.
pub const BEGIN_MS: u64 = 4_000_000_000_000;
/// Claims that are ready, for all seeds.
const CLAIMS: usize = 24;
/// Files that are ready, for each list of recipients; one more is large.
const FILES: usize = 4;
/// Content that a server keeps in two pieces.
const LARGE_BYTES: usize = CHUNK_BYTES + 48 * 1024;

/// Who plays. The first is an admin in every cluster, who makes nothing but trouble for others; the last ones are admins of
/// some clusters, and strangers to the others.
pub const ADMIN: usize = 0;
pub const ALICE: usize = 1;
pub const BOB: usize = 2;
pub const CAROL: usize = 3;
pub const MALLORY: usize = 4;
pub const NAMES: [&str; 8] = ["admin0", "alice", "bob", "carol", "mallory", "admin1", "admin2", "dave"];
pub const ADMIN1: usize = 5;
pub const ADMIN2: usize = 6;
pub const DAVE: usize = 7;
/// Whom an admin admits.
const ADMITTED: std::ops::RangeInclusive<usize> = ALICE..=MALLORY;

/// A key to which an opened wrap is delivered.
pub struct Claim {
    pub identity: Identity,
    pub text: String,
    pub digest: Digest,
}

/// Content that Alice has encrypted to somebody.
pub struct File {
    pub wrap: WrapId,
    pub to: Vec<usize>,
    pub addressees: Vec<Addressee>,
    pub bytes: Vec<u8>,
    pub content: String,
}

impl File {
    /// Whether it is kept in pieces.
    pub fn is_large(&self) -> bool {
        self.bytes.len() > CHUNK_BYTES
    }

    /// How many.
    pub fn pieces(&self) -> usize {
        self.bytes.len().div_ceil(CHUNK_BYTES)
    }
}

pub struct Stage {
    pub image: Image,
    /// The same, row by row.
    rows: Batch,
    pub log: Vec<u8>,
    node: SecretKey,
    pub view: ClusterView,
    pub people: Vec<Person>,
    pub records: Vec<Record>,
    pub ids: Vec<PrincipalId>,
    pub claims: Vec<Claim>,
    pub files: Vec<File>,
    /// Values of secrets.
    pub values: Vec<String>,
}

impl Stage {
    /// Makes the cluster and everything that needs time.
    fn new(shape: Shape) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(Self::make(shape))
    }

    async fn make(shape: Shape) -> Self {
        let mut world = World::bare(&shape).await;
        world.clock.pass(BEGIN_MS - 3_600_000 - world.clock.unix_ms());
        let first = world.admins[0].client(&world.address(), Pin::Node(world.server().ready.node));
        world.cluster = first.init(&world.init(&shape)).await.unwrap().id();
        world.unseal().await;
        let text = "permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"snapshot.save\"], resource);"
            .to_owned();
        let put = api::PutPolicy { text, replaces: None };
        world.client(&world.admins[0]).policy_put(&"kv".parse().unwrap(), &put).await.unwrap();
        let mut people = Vec::new();
        for (place, name) in NAMES.into_iter().enumerate() {
            let admin = world.admins.iter().find(|admin| admin.name.as_str() == name);
            people.push(match admin {
                Some(admin) => admin.clone(),
                None if ADMITTED.contains(&place) => world.admit(name).await,
                None => Person::new(name),
            });
        }
        let view = raw::view(&world);
        world.stop().await;
        assert!(world.clock.unix_ms() < BEGIN_MS, "the installation took longer than an hour");
        let key = std::fs::read_to_string(world.data().join("node.key")).unwrap();
        let key = key.trim_end().strip_prefix("BULLA-NODE-KEY-1 ").and_then(base64url_decode).unwrap();
        let database = std::fs::read(world.data().join("bulla.redb")).unwrap();
        let log = std::fs::read(world.directory().join("audit/000001.jsonl")).unwrap();
        let records: Vec<Record> = people.iter().map(|person| Record::open(&person.record, None).unwrap()).collect();
        let image = Disk::with_database(database).image();
        Self {
            rows: rows(&image),
            image,
            log,
            node: SecretKey::from_slice(&key).unwrap(),
            files: files(&view, &records),
            view,
            people,
            ids: records.iter().map(Record::principal).collect(),
            claims: (0..CLAIMS).map(|_| claim()).collect(),
            values: (0..16).map(secret).collect(),
            records,
        }
    }

    pub fn node(&self) -> SigningKey {
        SigningKey::from_seed(&self.node).unwrap()
    }

    /// A store in memory that holds what the disk does.
    pub fn memory(&self) -> Store {
        let store = Store::memory();
        at_once(store.commit(self.rows.clone())).expect("the rows of a store");
        store
    }

    /// Who this principal is.
    pub fn person(&self, id: &PrincipalId) -> usize {
        self.ids.iter().position(|own| own == id).expect("somebody who plays")
    }

    /// How many lines the audit log has before a seed begins.
    pub fn lines(&self) -> u64 {
        self.log.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// The body that makes a wrap of a file, and the statement's digest.
    pub fn parcel(&self, file: &File, terms: &Terms) -> (Vec<u8>, Digest) {
        let statement = Statement {
            v: V1,
            cluster: self.view.id(),
            wrap: file.wrap,
            from: self.ids[ALICE],
            to: file.addressees.clone(),
            mode: terms.mode,
            ct: Ciphertext { sha256: Digest::new(sha256(&[&file.bytes])), len: file.bytes.len() as u64 },
            nbf_ms: terms.nbf_ms,
            exp_ms: terms.exp_ms,
            ack_s: terms.ack_s,
            label: None,
            origin: None,
        };
        let key = self.people[ALICE].identity.signing_key().unwrap();
        let envelope = evidence::sign_in_memory(&statement, &[key]).unwrap();
        let mut body = Parcel::head(&json::to_vec(&envelope));
        body.extend_from_slice(&file.bytes);
        (body, evidence::payload_digest(&envelope))
    }
}

/// What a wrap's statement says besides its file.
#[derive(Debug, Clone)]
pub struct Terms {
    pub mode: Mode,
    pub nbf_ms: u64,
    pub exp_ms: u64,
    pub ack_s: u32,
}

/// What a disk holds, but for nonces, which are of an hour ago.
fn rows(image: &Image) -> Batch {
    let (store, _turns) = open(&Disk::of(image), JOURNAL_LIMIT, OnFatal::default()).expect("a store");
    let mut batch = Batch::default();
    for table in [Table::Plain, Table::Data] {
        let read = Read::Scan { table, prefix: vec![], after: None, limit: SCAN_ENTRIES_MAX };
        let mut answers = at_once(store.read(vec![read])).expect("a store that answers").answers;
        let page = answers.pop().and_then(Answer::into_page).expect("a page");
        assert!(!page.more, "the stage has more rows than fit a page");
        page.entries.into_iter().for_each(|(key, value)| batch.put(table, key, value));
    }
    batch
}

/// What every secret begins with, so that one search finds any of them.
pub const SECRET_MARK: &str = "~canary~";

fn secret(what: impl std::fmt::Display) -> String {
    format!("{SECRET_MARK}{what}")
}

fn claim() -> Claim {
    let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let text = identity.recipients()[0].to_string();
    let digest = identity.recipients()[0].digest();
    Claim { identity, text, digest }
}

fn files(view: &ClusterView, records: &[Record]) -> Vec<File> {
    let lists = [vec![BOB], vec![BOB, CAROL]];
    let small = lists.iter().flat_map(|to| std::iter::repeat_n((to, 0), FILES));
    small
        .chain(lists.iter().map(|to| (to, LARGE_BYTES)))
        .map(|(to, length)| {
            let addressees: Vec<Addressee> = to
                .iter()
                .map(|person| &records[*person])
                .map(|record| Addressee {
                    principal: record.principal(),
                    record_sha256: record.digest(),
                    recipients: record.recipients().iter().map(|recipient| recipient.digest()).collect(),
                })
                .collect();
            let recipients: Vec<_> = to.iter().flat_map(|person| records[*person].recipients()).cloned().collect();
            let to_sha256 = Digest::new(sha256(&[to_lines(&addressees).as_bytes()]));
            let wrap = WrapId::new(draw(&mut SystemRng));
            let binding = Binding { wrap, cluster: view.id(), from: records[ALICE].principal(), to_sha256 };
            let content = secret(wrap) + &"x".repeat(length);
            let bytes = envelope::seal(&recipients, Some(&binding), content.as_bytes()).unwrap();
            File { wrap, to: to.clone(), addressees, bytes, content }
        })
        .collect()
}

/// The stages of a test program, by how the seal is opened.
pub struct Stages {
    /// One admin, who opens it alone.
    pub any: Stage,
    /// Three, of whom two open it.
    pub quorum: Stage,
}

pub fn stages() -> &'static Stages {
    static STAGES: std::sync::OnceLock<Stages> = std::sync::OnceLock::new();
    STAGES.get_or_init(|| {
        let quorum = Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() };
        std::thread::scope(|scope| {
            let any = scope.spawn(|| Stage::new(Shape::durable()));
            Stages { quorum: Stage::new(quorum), any: any.join().unwrap() }
        })
    })
}
