//! Rekey without IO: what a document that changes the admins does to principals, and what of it is refused
//! (`spec/seal.md`).
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::barrier::{Query, RecordKey};
use bulla_core::directory::{Principal, StoredPrincipal};
use bulla_core::engine::principal;
use bulla_core::engine::rekey::{Planned, Prepare, Rekey};
use bulla_core::operation::{Refusal, Reply};
use bulla_crypto::evidence::{ClusterView, DocumentDraft, PrincipalKey, Record, record_payload, sign_in_memory};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_wire::api::{AlarmKind, NextIngress};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::json;
use bulla_wire::name::Name;
use wrap_world::{Person, World};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn admins() -> Name {
    name("admins")
}

/// A world whose people also lie in the store: Alice as the one admin, the others in no group.
fn world() -> World {
    let mut world = World::new(1);
    for who in ["alice", "bob", "carol", "dave"] {
        let record = world.people[who].record.clone();
        let groups = if who == "alice" { vec![admins()] } else { vec![name("dev")] };
        store(&mut world, &Principal::founder(&record, groups), &record);
    }
    world
}

fn store(world: &mut World, stored: &StoredPrincipal, record: &Record) {
    world.write(|writes| principal::found(writes, stored, [record]));
}

/// As somebody stands in the store.
fn stored(world: &World, who: &str) -> StoredPrincipal {
    let key = principal::key(&name(who));
    let records = world.read(&[Query::Get(key.clone())]);
    json::parse(records.get(&key).unwrap().unwrap().bytes.expose(), json::MAX_JSON_BYTES).unwrap()
}

fn change(world: &mut World, who: &str, changed: impl FnOnce(&mut StoredPrincipal)) {
    let mut next = stored(world, who);
    changed(&mut next);
    let key = principal::key(&name(who));
    let records = world.read(&[Query::Get(key.clone())]);
    let current = records.get(&key).unwrap();
    world.write(|writes| writes.replace(key.clone(), current, json::to_vec(&next)));
}

fn prepare(world: &mut World) -> String {
    match world.run(Box::new(Prepare), Some("alice")).result.unwrap() {
        Reply::Json(bytes) => json::parse::<NextIngress>(&bytes, 4096).unwrap().ingress,
        other => unreachable!("{other:?}"),
    }
}

/// The next document, signed by Alice, with the ingress key that was prepared.
fn document(world: &mut World, change: impl FnOnce(&mut DocumentDraft)) -> Envelope {
    let ingress = prepare(world).parse().unwrap();
    let view = world.directory.view();
    let mut draft = DocumentDraft { ingress, ..DocumentDraft::of(view.newest()) };
    change(&mut draft);
    world.sign(&view.next_document(&draft).unwrap())
}

fn rekey(world: &World, envelope: &Envelope) -> Rekey {
    Rekey::of(world.directory.view(), envelope).unwrap()
}

fn plan(world: &World, rekey: &Rekey) -> Result<Planned, Refusal> {
    let actor = world.actor("alice");
    rekey.plan(&world.read(&rekey.queries()), &world.context(Some(&actor))).unwrap()
}

fn refused(world: &World, envelope: &Envelope) -> (Code, String, String) {
    let refusal = plan(world, &rekey(world, envelope)).unwrap_err();
    (refusal.code, refusal.field.unwrap(), refusal.message)
}

fn write(world: &mut World, planned: &Planned) {
    let batch = world.barrier.batch(&planned.writes, &mut world.rng).unwrap();
    assert!(world.commit(batch));
}

/// The next record of Alice after `before`, signed by the keys of that one too.
fn renewed(world: &mut World, before: &Person) -> Person {
    let identity = Identity::generate(IdentityKind::Hybrid, &mut world.rng).unwrap();
    let key = PrincipalKey {
        public: identity.signing_key().unwrap().public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: false,
    };
    let payload = record_payload(name("alice"), Some(&before.record), &[key]).unwrap();
    let signers = [identity.signing_key().unwrap(), before.identity.signing_key().unwrap()];
    let record = Record::open(&sign_in_memory(&payload, &signers).unwrap(), Some(&before.record)).unwrap();
    Person { identity, record }
}

#[test]
fn the_next_ingress_key_stays_until_it_is_used() {
    let mut world = world();
    let first = prepare(&mut world);
    let commits = world.commits;
    assert_eq!((prepare(&mut world), world.commits), (first.clone(), commits), "nobody spoils a document");
    let bob = world.people["bob"].record.clone();
    let envelope = document(&mut world, |draft| draft.add_admin(&bob));
    let planned = plan(&world, &rekey(&world, &envelope)).unwrap();
    let identity = Identity::from_seed(IdentityKind::Hybrid, planned.ingress.copy()).unwrap();
    assert_eq!(identity.recipients()[0].to_string(), first);
    assert_eq!(planned.view.newest().body().ingress, first);
    write(&mut world, &planned);
    assert_ne!(prepare(&mut world), first);
    // It was made with another one.
    let (code, field, _) = refused(&world, &envelope);
    assert_eq!((code, field.as_str()), (Code::BadStatement, "envelope.ingress"));
}

#[test]
fn a_rekey_is_a_document_that_changes_the_seal_and_follows() {
    let mut world = world();
    let bob = world.people["bob"].record.clone();
    let envelope = document(&mut world, |draft| draft.add_admin(&bob));
    let view = world.directory.view().clone();
    let other = rekey(&world, &envelope);
    assert!(other.follows(&view));
    let mut unsigned = envelope.clone();
    unsigned.signatures.clear();
    assert!(Rekey::of(&view, &unsigned).is_none(), "no admin signed it");
    assert!(Rekey::of(&view, view.newest().envelope()).is_none(), "it is there");
    let draft = DocumentDraft::of(view.newest());
    let with_enroller = DocumentDraft {
        records: [draft.records.clone(), vec![bob.clone()]].concat(),
        enrollers: [draft.enrollers.clone(), vec![bob.principal()]].concat(),
        ..draft
    };
    let plain = world.sign(&view.next_document(&with_enroller).unwrap());
    assert!(Rekey::of(&view, &plain).is_none(), "it leaves the seal alone");
    let mut after = view.clone();
    after.push(&plain).unwrap();
    assert!(!other.follows(&after), "another was faster");
    // Nobody asked this cluster for a key.
    let world = self::world();
    let view = world.directory.view();
    let mut draft = DocumentDraft::of(view.newest());
    draft.add_admin(&bob);
    let unprepared = world.sign(&view.next_document(&draft).unwrap());
    assert_eq!(refused(&world, &unprepared).1, "envelope.ingress");
}

#[test]
fn the_group_follows_the_admins() {
    let mut world = world();
    let [alice, bob] = ["alice", "bob"].map(|who| world.people[who].record.clone());
    let envelope = document(&mut world, |draft| {
        draft.add_admin(&bob);
        for role in [&mut draft.admins, &mut draft.enrollers] {
            role.retain(|id| *id != alice.principal());
        }
        draft.records.retain(|record| record.principal() != alice.principal());
    });
    world.webhook = true;
    let planned = plan(&world, &rekey(&world, &envelope)).unwrap();
    let alarm = &planned.alarms[0];
    assert_eq!((planned.alarms.len(), alarm.alarm.kind), (1, AlarmKind::Rekeyed));
    assert!(alarm.alarm.message.contains("admins"), "{}", alarm.alarm.message);
    let mut both = vec![alice.principal(), bob.principal()];
    both.sort_unstable();
    assert_eq!(alarm.told, both, "those of before and of after");
    assert_eq!(format!("{planned:?}"), "Planned(document 1)");
    write(&mut world, &planned);
    assert_eq!(stored(&world, "bob").groups, [name("dev"), admins()]);
    assert_eq!(stored(&world, "alice").groups, []);
    assert_eq!(stored(&world, "alice").records.len(), 1, "it stays a principal");
    assert_eq!((world.alarms_of("alice"), world.alarms_of("bob"), world.alarms_of("carol")), (1, 1, 0));
}

#[test]
fn an_admin_is_no_other_principal_and_none_that_is_disabled() {
    let mut world = world();
    let bob = world.people["bob"].record.clone();
    let envelope = document(&mut world, |draft| draft.add_admin(&bob));
    change(&mut world, "bob", |stored| stored.disabled = true);
    let (code, field, message) = refused(&world, &envelope);
    assert_eq!((code, field.as_str()), (Code::BadStatement, "envelope.records"));
    assert!(message.contains("bob is disabled"), "{message}");
    let carol = world.id("carol");
    change(&mut world, "bob", |stored| (stored.disabled, stored.id) = (false, carol));
    assert!(refused(&world, &envelope).2.contains("another principal is called bob"));
    let id = bob.principal();
    change(&mut world, "bob", |stored| stored.id = id);
    plan(&world, &rekey(&world, &envelope)).unwrap();
}

/// A document may bring somebody whom nobody admitted, with keys that are nobody else's.
#[test]
fn an_admin_may_be_new_with_keys_of_its_own() {
    let mut world = world();
    let eve = world.people["eve"].record.clone();
    let envelope = document(&mut world, |draft| draft.add_admin(&eve));
    let holders = principal::holder_keys([&eve]);
    assert!(holders.len() >= 2, "a key and its recipients");
    for holder in &holders {
        let mut theirs = self::world();
        prepare(&mut theirs);
        theirs.write(|writes| writes.create(holder.clone(), b"mallory".to_vec()));
        let message = refused(&theirs, &envelope).2;
        assert!(message.contains("another principal holds a key or recipient of eve"), "{message}");
    }
    let planned = plan(&world, &rekey(&world, &envelope)).unwrap();
    write(&mut world, &planned);
    assert_eq!(stored(&world, "eve").groups, [admins()]);
    for holder in holders {
        assert_eq!(held_by(&world, &holder).as_deref(), Some(&b"eve"[..]));
    }
    // What is known already is written nowhere again.
    let bob = world.people["bob"].record.clone();
    let mut world = self::world();
    let envelope = document(&mut world, |draft| draft.add_admin(&bob));
    let before = world.rows.len();
    let planned = plan(&world, &rekey(&world, &envelope)).unwrap();
    write(&mut world, &planned);
    // Alarms of two with a mark each; the key is gone.
    assert_eq!(world.rows.len(), before + 3);
}

fn held_by(world: &World, key: &RecordKey) -> Option<Vec<u8>> {
    let records = world.read(&[Query::Get(key.clone())]);
    records.get(key).unwrap().map(|row| row.bytes.expose().to_vec())
}

#[test]
fn an_admin_stands_with_its_newest_record() {
    let mut world = world();
    let mut draft = DocumentDraft::of(world.directory.view().newest());
    draft.ingress = prepare(&mut world).parse().unwrap();
    let first = world.people.remove("alice").unwrap();
    let renewed_once = renewed(&mut world, &first);
    let third = renewed(&mut world, &renewed_once).record;
    let (signs, second) = (renewed_once.identity.signing_key().unwrap(), renewed_once.record.clone());
    world.people.insert("alice", first);
    let of = |world: &World, view: &ClusterView, record: &Record| {
        let mut draft = draft.clone();
        assert!(draft.replace_record(record));
        world.sign(&view.next_document(&draft).unwrap())
    };
    // The next one enters with the document.
    let genesis = world.directory.view().clone();
    let enters = of(&world, &genesis, &second);
    let planned = plan(&world, &rekey(&world, &enters)).unwrap();
    let before = stored(&world, "alice");
    write(&mut world, &planned);
    let after = stored(&world, "alice");
    assert_eq!(after.records, [before.records, vec![second.envelope().clone()]].concat());
    assert_eq!(after.groups, [admins()], "once");
    for holder in principal::holder_keys([&second]) {
        assert_eq!(held_by(&world, &holder).as_deref(), Some(&b"alice"[..]));
    }
    // The one after that does not, as long as that one is not there.
    let mut world = self::world();
    prepare(&mut world);
    let skips = {
        let mut draft = draft.clone();
        assert!(draft.replace_record(&third));
        sign_in_memory(&planned.view.next_document(&draft).unwrap(), &[signs]).unwrap()
    };
    let message = |world: &World, view: &ClusterView, envelope: &Envelope| {
        plan(world, &Rekey::of(view, envelope).unwrap()).unwrap_err().message
    };
    assert!(message(&world, &planned.view, &skips).contains("records of alice are missing"));
    // A record that has a newer one is none for an admin; the newest that is there already is.
    change(&mut world, "alice", |stored| {
        stored.records.extend([second.envelope().clone(), third.envelope().clone()]);
    });
    assert!(message(&world, &genesis, &enters).contains("alice has a newer record"));
    plan(&world, &Rekey::of(&planned.view, &skips).unwrap()).unwrap();
}

#[test]
fn a_record_of_another_shape_is_a_fault() {
    let mut world = world();
    let bob = world.people["bob"].record.clone();
    let envelope = document(&mut world, |draft| draft.add_admin(&bob));
    let rekey = rekey(&world, &envelope);
    let key = principal::key(&name("bob"));
    let records = world.read(&[Query::Get(key.clone())]);
    let current = records.get(&key).unwrap();
    world.write(|writes| writes.replace(key.clone(), current, b"{}".to_vec()));
    let actor = world.actor("alice");
    assert!(rekey.plan(&world.read(&rekey.queries()), &world.context(Some(&actor))).is_err());
}
