//! What every seed begins with: a cluster that was made by the real server, its people, and wraps that are encrypted
//! already. It is made once and copied for each seed.

use bulla_client::Pin;
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Binding};
use bulla_crypto::evidence::{self, ClusterView, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::SigningKey;
use bulla_server::clock::Clock;
use bulla_store::simulated::{Disk, Image};
use bulla_testkit::raw;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::encoding::base64url_decode;
use bulla_wire::id::{Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, V1};
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, Parcel, Statement, to_lines};
use std::sync::Arc;

/// When the simulated time begins, Unix milliseconds: far enough ahead that no real clock gets there first.
pub const BEGIN_MS: u64 = 4_000_000_000_000;
/// Claims that are ready, for all seeds.
const CLAIMS: usize = 24;
/// Files that are ready, for each list of recipients.
const FILES: usize = 4;

/// Who plays. The first is the admin, who makes nothing but trouble for others.
pub const ADMIN: usize = 0;
pub const ALICE: usize = 1;
pub const BOB: usize = 2;
pub const CAROL: usize = 3;
pub const MALLORY: usize = 4;
pub const NAMES: [&str; 5] = ["admin0", "alice", "bob", "carol", "mallory"];

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

pub struct Stage {
    pub image: Image,
    pub log: Vec<u8>,
    node: SecretKey,
    pub view: ClusterView,
    pub people: Vec<Person>,
    pub ids: Vec<PrincipalId>,
    pub claims: Vec<Claim>,
    pub files: Vec<File>,
    /// Values of secrets.
    pub values: Vec<String>,
}

impl Stage {
    /// Makes the cluster and everything that needs time.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(Self::make())
    }

    async fn make() -> Self {
        let shape = Shape::durable();
        let mut world = World::bare(&shape).await;
        world.clock.pass(BEGIN_MS - 3_600_000 - world.clock.unix_ms());
        let first = world.admins[0].client(&world.address(), Pin::Node(world.server().ready.node));
        world.cluster = first.init(&world.init(&shape)).await.unwrap().id();
        world.unseal().await;
        let text = "permit (principal, action in Bulla::Action::\"kv\", resource);".to_owned();
        let put = api::PutPolicy { text, replaces: None };
        world.client(&world.admins[0]).policy_put(&"kv".parse().unwrap(), &put).await.unwrap();
        let mut people = vec![world.admins[0].clone()];
        for name in &NAMES[1..] {
            people.push(world.admit(name).await);
        }
        let view = raw::view(&world);
        world.stop().await;
        assert!(world.clock.unix_ms() < BEGIN_MS, "the installation took longer than an hour");
        let key = std::fs::read_to_string(world.data().join("node.key")).unwrap();
        let key = key.trim_end().strip_prefix("BULLA-NODE-KEY-1 ").and_then(base64url_decode).unwrap();
        let database = std::fs::read(world.data().join("bulla.redb")).unwrap();
        let log = std::fs::read(world.directory().join("audit/000001.jsonl")).unwrap();
        let records: Vec<Record> = people.iter().map(|person| Record::open(&person.record, None).unwrap()).collect();
        Self {
            image: Disk::with_database(database).image(),
            log,
            node: SecretKey::from_slice(&key).unwrap(),
            files: files(&view, &records),
            view,
            people,
            ids: records.iter().map(Record::principal).collect(),
            claims: (0..CLAIMS).map(|_| claim()).collect(),
            values: (0..16).map(secret).collect(),
        }
    }

    pub fn node(&self) -> SigningKey {
        SigningKey::from_seed(&self.node).unwrap()
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
    let many = lists.iter().flat_map(|to| std::iter::repeat_n(to, FILES));
    many.map(|to| {
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
        let content = secret(wrap);
        let bytes = envelope::seal(&recipients, Some(&binding), content.as_bytes()).unwrap();
        File { wrap, to: to.clone(), addressees, bytes, content }
    })
    .collect()
}

/// The one stage of a test program.
pub fn stage() -> Arc<Stage> {
    static STAGE: std::sync::OnceLock<Arc<Stage>> = std::sync::OnceLock::new();
    STAGE.get_or_init(|| Arc::new(Stage::new())).clone()
}
