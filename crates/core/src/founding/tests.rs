use super::*;
use crate::audit::{Body, LINE_BYTES_MAX, Line, Quote};
use crate::directory::{Change, Directory};
use crate::record::{BATCH_BYTES_MAX, Batch};
use crate::seal::{InitRequest, Keyring, init};
use bulla_crypto::evidence::{AdminSet, AdmissionDraft, PrincipalKey, record_payload, sign_in_memory};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::Init;
use bulla_wire::evidence::{self as wire, BUNDLE_TYPE, MAX_ADMINS, MAX_BUNDLE_PRINCIPALS, MinKem, SealMode};
use bulla_wire::id::{ClusterId, Digest, Lineage, PrincipalId};
use bulla_wire::json::{MAX_STATEMENT_BYTES, StrictMap, V1};

const NOW_MS: u64 = 1_800_000_000_000;

struct Person {
    identity: Identity,
    record: Record,
}

/// Somebody with as many recipients as asked for.
fn person(name: &str, seed: u8, recipients: u8) -> Person {
    let identity = |seed: u8, more: u8| {
        let seed = SecretKey::filled(|bytes| {
            bytes.fill(seed);
            if let Some(last) = bytes.last_mut() {
                *last = more;
            }
        });
        Identity::from_seed(IdentityKind::Classical, seed).unwrap()
    };
    let own = identity(seed, 0);
    let key = PrincipalKey {
        public: own.signing_key().unwrap().public_key().clone(),
        recipients: (0..recipients).flat_map(|more| identity(seed, more).recipients().to_vec()).collect(),
        dual_use: false,
    };
    let payload = record_payload(name.parse().unwrap(), None, &[key]).unwrap();
    let envelope = sign_in_memory(&payload, &[own.signing_key().unwrap()]).unwrap();
    Person { record: Record::open(&envelope, None).unwrap(), identity: own }
}

struct World {
    alice: Person,
    erin: Person,
    set: AdminSet,
}

impl World {
    fn new() -> Self {
        let (alice, erin) = (person("alice", 1, 1), person("erin", 2, 1));
        let set = AdminSet::of_records([&alice.record, &erin.record], 2).unwrap();
        Self { alice, erin, set }
    }

    /// A bundle that admits these into the group dev.
    fn payload(&self, principals: &[&Person], policies: &[(&str, &str)]) -> wire::Bundle {
        let admit = |person: &&Person| {
            let draft = AdmissionDraft { groups: vec!["dev".parse().unwrap()], serial: 7, ..AdmissionDraft::default() };
            let admission = draft.payload_under(&self.set, &person.record);
            let admission = sign_in_memory(&admission, &[self.alice.identity.signing_key().unwrap()]).unwrap();
            wire::BundledPrincipal { records: vec![person.record.envelope().clone()], admission }
        };
        wire::Bundle {
            v: V1,
            admins: [&self.alice, &self.erin].map(|admin| admin.record.envelope().clone()).to_vec(),
            k: 2,
            made_ms: NOW_MS,
            exp_ms: NOW_MS + 1000,
            principals: principals.iter().map(admit).collect(),
            policies: StrictMap(policies.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()),
        }
    }

    fn open(&self, payload: &wire::Bundle) -> Result<Bundle, BundleError> {
        let keys = [self.alice.identity.signing_key().unwrap(), self.erin.identity.signing_key().unwrap()];
        Bundle::open(&sign_in_memory(payload, &keys).unwrap(), NOW_MS)
    }

    /// What init makes, and what the data table begins with.
    fn init(&self, k: u8, bundle: Option<&Bundle>, now_ms: u64) -> Result<(Writes, Batch), BundleError> {
        self.made(k, bundle, now_ms).map(|(_, writes, batch)| (writes, batch))
    }

    fn made(&self, k: u8, bundle: Option<&Bundle>, now_ms: u64) -> Result<(ClusterView, Writes, Batch), BundleError> {
        let node = SigningKey::generate(&mut SeededRng::from_u64(1)).unwrap();
        let body = Init {
            name: "test".parse().unwrap(),
            admins: [&self.erin, &self.alice].map(|admin| admin.record.envelope().clone()).to_vec(),
            mode: if k == 1 { SealMode::Any } else { SealMode::Quorum },
            k,
            min_kem: MinKem::Classical,
        };
        let request = InitRequest {
            init: &body,
            signer: self.alice.identity.signing_key().unwrap().public_key().key_id(),
            node: node.public_key(),
            audit: crate::head::AuditPosition { file: 0, offset: 0, n: 0, hash: Digest::new([0; 32]) },
            now_ms,
        };
        let mut rng = SeededRng::from_u64(2);
        let made = init(&request, &mut rng).unwrap();
        let writes = rows(&made.view, bundle, now_ms)?;
        let mut batch = made.batch;
        batch.append(Keyring::barrier(&made.keyring, made.cluster).unwrap().batch(&writes, &mut rng).unwrap());
        Ok((made.view, writes, batch))
    }
}

/// The principals and policies in the rows, as the directory reads them.
fn stored(writes: &Writes) -> (BTreeMap<Name, StoredPrincipal>, BTreeMap<Name, String>) {
    let mut read = (BTreeMap::new(), BTreeMap::new());
    for (_, bytes) in &writes.puts {
        if let Ok(principal) = serde_json::from_slice::<StoredPrincipal>(bytes.expose()) {
            read.0.insert(principal.name.clone(), principal);
        } else if let Ok(policy) = serde_json::from_slice::<policy::StoredPolicy>(bytes.expose()) {
            read.1.insert(policy.name, policy.text);
        }
    }
    read
}

const DEV: &str = "permit (principal in Bulla::Group::\"dev\", action in Bulla::Action::\"kv\", resource);";

#[test]
fn a_cluster_begins_with_its_founders_and_the_bundle() {
    let world = World::new();
    let (bob, dave) = (person("bob", 3, 2), person("dave", 4, 1));
    let (writes, _) = world.init(2, None, NOW_MS).unwrap();
    let (principals, policies) = stored(&writes);
    assert_eq!(principals.keys().map(Name::as_str).collect::<Vec<_>>(), ["alice", "erin"]);
    assert_eq!(policies, first_texts());

    // Alice is an admin and somebody of the bundle: she has what her admission says.
    let payload = world.payload(&[&bob, &world.alice, &dave], &[("dev", DEV), ("first", DEV)]);
    let bundle = world.open(&payload).unwrap();
    let (writes, batch) = world.init(2, Some(&bundle), NOW_MS).unwrap();
    batch.admissible().unwrap();
    assert_eq!(writes.puts.len(), writes.expect.len(), "every row must not be there yet");
    let (principals, policies) = stored(&writes);
    assert_eq!(principals.keys().map(Name::as_str).collect::<Vec<_>>(), ["alice", "bob", "dave", "erin"]);
    let group =
        |name: &str| principals[&name.parse::<Name>().unwrap()].groups.iter().map(Name::as_str).collect::<Vec<_>>();
    assert_eq!((group("alice"), group("bob"), group("erin")), (vec!["dev"], vec!["dev"], vec!["admins"]));
    assert_eq!(principals[&"bob".parse::<Name>().unwrap()].serial, 7);
    // A policy of the bundle takes the place of one of the first set with its name, as if it had been put.
    assert!(policies.values().all(|text| text == DEV) && policies.len() == 2, "{policies:?}");
    // One row for each principal, key and recipient, and for each policy.
    assert_eq!(writes.puts.len(), 4 + 4 + 5 + 2);
}

/// Admins are in group `admins` whatever was stored of them, and nobody else is by that.
#[test]
fn an_admin_is_in_the_group_whatever_its_admission_says() {
    let world = World::new();
    let bundle = world.open(&world.payload(&[&person("bob", 3, 1), &world.alice], &[("dev", DEV)])).unwrap();
    let (view, writes, _) = world.made(2, Some(&bundle), NOW_MS).unwrap();
    let (principals, policies) = stored(&writes);
    let all = principals.values().map(|stored| Principal::from_stored(stored).unwrap());
    let directory = Directory::new(view.clone(), all, policies).unwrap();
    let groups = |directory: &Directory, name: &str| {
        let principal = directory.by_name(&name.parse().unwrap()).unwrap();
        principal.subject.groups.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let check = |directory: &Directory| {
        assert_eq!(groups(directory, "alice"), ["dev", "admins"]);
        assert_eq!(groups(directory, "erin"), ["admins"]);
        assert_eq!(groups(directory, "bob"), ["dev"]);
    };
    check(&directory);
    // Judged again, by the same document, nothing is lost or doubled.
    let directory = directory.with(Change::Document(Box::new(view))).unwrap();
    check(&directory);
    // All groups taken away, or the group given: it is there once.
    let mut alice = principals[&"alice".parse::<Name>().unwrap()].clone();
    for given in [vec![], vec!["admins".parse::<Name>().unwrap()]] {
        alice.groups = given;
        let directory = directory.with(Change::Principal(Box::new(alice.clone()))).unwrap();
        assert_eq!(groups(&directory, "alice"), ["admins"]);
    }
}

#[test]
fn other_admins_and_a_late_init_take_nothing() {
    let world = World::new();
    let bundle = world.open(&world.payload(&[&person("bob", 3, 1)], &[])).unwrap();
    assert!(world.init(2, Some(&bundle), NOW_MS + 999).is_ok());
    let refused = |result: Result<_, BundleError>| result.map(|_: (Writes, Batch)| ()).unwrap_err();
    assert_eq!(
        refused(world.init(1, Some(&bundle), NOW_MS)),
        BundleError::Evidence(EvidenceError::OtherK { pinned: 2, told: 1 })
    );
    assert_eq!(
        refused(world.init(2, Some(&bundle), NOW_MS + 1000)),
        BundleError::Evidence(EvidenceError::Expired { exp_ms: NOW_MS + 1000 })
    );
    let other = World { erin: person("erin", 9, 1), ..World::new() };
    assert_eq!(refused(other.init(2, Some(&bundle), NOW_MS)), BundleError::Evidence(EvidenceError::OtherAdmins));
}

#[test]
fn policies_that_no_cluster_takes() {
    let world = World::new();
    let refused = |text: &str| match world.open(&world.payload(&[], &[("dev", text)])) {
        Err(BundleError::Policy(PolicyError::Refused(refusal))) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused("permit (principal, action, resource) when { principal.nothing };").contains("policy dev, line 1"));
    assert!(refused("allow everything").contains("policy dev, line 1"));
    assert!(refused("").contains("policy dev"));
    assert!(world.open(&world.payload(&[], &[("dev", DEV)])).is_ok());
}

#[test]
fn rows_have_a_limit() {
    let world = World::new();
    // A row for the name, one for the key, and eight for the recipients.
    let people: Vec<_> = (0..39).map(|i| person(&format!("p{i}"), 50 + i, 8)).collect();
    let these = |count: usize| world.open(&world.payload(&people.iter().take(count).collect::<Vec<_>>(), &[]));
    assert!(these(38).is_ok());
    let with = |policies: &[(&str, &str)]| {
        world.open(&world.payload(&people.iter().take(38).collect::<Vec<_>>(), policies)).map(drop)
    };
    with(&[("a", DEV), ("b", DEV), ("c", DEV), ("d", DEV)]).unwrap();
    let many = with(&[("a", DEV), ("b", DEV), ("c", DEV), ("d", DEV), ("e", DEV)]);
    assert_eq!(many, Err(BundleError::TooManyRows { rows: MAX_BUNDLE_ROWS + 1 }));
    assert_eq!(these(39).unwrap_err(), BundleError::TooManyRows { rows: 390 });
    let (_, batch) = world.init(2, Some(&these(38).unwrap()), NOW_MS).unwrap();
    batch.admissible().unwrap();
    assert!(batch.bytes() < BATCH_BYTES_MAX / 2, "a payload of {MAX_STATEMENT_BYTES} bytes fits twice");
}

#[test]
fn the_largest_bundle_fits_into_one_line() {
    let id = |i: usize| PrincipalId::new([u8::try_from(i).unwrap(); 32]);
    let label = |i: usize| Label::lossy(&format!("{i:0128}"));
    let line = BundleLine {
        sha256: Digest::new([1; 32]),
        made_ms: u64::MAX,
        signers: (0..MAX_ADMINS).map(id).collect(),
        principals: (0..MAX_BUNDLE_PRINCIPALS).map(id).collect(),
        policies: (0..wire::MAX_BUNDLE_POLICIES).map(label).collect(),
    };
    let committed = Quote { cluster: ClusterId::new([1; 32]), lineage: Lineage::new([1; 16]), sequence: u64::MAX };
    let body = Body::Initialised { committed, bundle: Some(line) };
    let bytes = Line { v: 1, n: u64::MAX, prev: Some(Digest::new([0; 32])), at_ms: u64::MAX, body }.to_bytes();
    assert!(bytes.len() <= LINE_BYTES_MAX, "{}", bytes.len());
    assert!(Line::parse(&bytes).is_ok());
}

#[test]
fn the_line_names_who_and_what() {
    let world = World::new();
    let bob = person("bob", 3, 1);
    let payload = world.payload(&[&bob], &[("dev", DEV)]);
    let BundleLine { sha256, made_ms, signers, principals, policies } = world.open(&payload).unwrap().line();
    let bytes = bulla_wire::json::to_vec(&payload);
    assert_eq!((sha256, made_ms), (Digest::new(bulla_crypto::digest::sha256(&[&bytes])), NOW_MS));
    assert_eq!(signers.len(), 2);
    assert!(signers.contains(&world.alice.record.principal()) && signers.contains(&world.erin.record.principal()));
    assert_eq!((principals, policies), (vec![bob.record.principal()], vec![Label::lossy("dev")]));
    // A bundle is not taken for another statement, nor another for it.
    assert!(matches!(Bundle::draft(bob.record.envelope()), Err(BundleError::Evidence(_))));
    assert_eq!(BUNDLE_TYPE, "application/vnd.bulla.bundle.v1+json");
}
