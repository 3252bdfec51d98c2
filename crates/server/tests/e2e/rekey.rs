//! Rekey on a running server: nobody who works meanwhile notices, and nothing else changes the seal.

use crate::support::{Caller, finish, lines, rows, unsealed, view};
use bulla_client::{Admit, Client};
use bulla_core::audit::Body;
use bulla_core::engine::principal;
use bulla_core::record::{Answer, Read, Table};
use bulla_crypto::evidence::{self, DocumentDraft, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::recipient::Recipient;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{AlarmKind, PutKv, PutPolicy, Signed};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::SealMode;
use bulla_wire::json::StrictMap;
use bulla_wire::name::SecretPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const TWO_OF_THREE: Shape = Shape {
    store: bulla_server::config::StoreKind::File,
    mode: SealMode::Quorum,
    k: 2,
    n: 3,
    sync: bulla_server::config::AuditSync::Interval,
};

/// The next document after `change`, signed by these admins.
pub async fn document(world: &World, signers: &[&Person], change: impl FnOnce(&mut DocumentDraft)) -> Envelope {
    let client = world.client(&world.admins[0]);
    let facts = client.cluster().await.unwrap();
    let mut draft = DocumentDraft::of(facts.view.newest());
    change(&mut draft);
    let body = facts.view.next_document(&draft).unwrap();
    let keys: Vec<_> = signers.iter().map(|signer| signer.identity.signing_key().unwrap()).collect();
    evidence::sign_in_memory(&body, &keys).unwrap()
}

pub async fn next_ingress(world: &World) -> Recipient {
    world.client(&world.admins[0]).next_ingress().await.unwrap()
}

pub fn record(person: &Person) -> Record {
    Record::open(&person.record, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_the_admins_change() {
    let mut world = World::new(TWO_OF_THREE).await;
    let admin = world.client(&world.admins[0]);
    let text = "permit (principal, action in Bulla::Action::\"kv\", resource);";
    admin.policy_put(&"kv".parse().unwrap(), &PutPolicy { text: text.into(), replaces: None }).await.unwrap();
    let bob = world.admit("bob").await;
    let dan = Person::new("dan");
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 0..8 {
        let (client, stop) = (world.client(&bob), stop.clone());
        workers.push(tokio::spawn(async move {
            let path: SecretPath = format!("load/{worker}").parse().unwrap();
            let mut version = 0;
            while !stop.load(Ordering::SeqCst) {
                let data = PutKv {
                    cas: Some(version),
                    ..PutKv::fields(StrictMap([("n".to_owned(), version.to_string())].into()))
                };
                let put = client.kv_put(&path, &data).await.unwrap();
                version += 1;
                assert_eq!(put.version, version);
                assert_eq!(client.kv_get(&path).await.unwrap().data.unwrap().0["n"], (version - 1).to_string());
            }
            version
        }));
    }
    let before = unsealed(&world);
    for round in 0..6u8 {
        let ingress = next_ingress(&world).await;
        let signers: Vec<&Person> = world.admins.iter().take(if round % 2 == 0 { 2 } else { 3 }).collect();
        // Dan comes and goes, and with him k.
        let envelope = document(&world, &signers, |draft| {
            draft.ingress = ingress;
            if round % 2 == 0 {
                draft.add_admin(&record(&dan));
                draft.k = 3;
            } else {
                draft.remove_admin(&record(&dan).principal());
                draft.k = 2;
            }
        })
        .await;
        admin.document_put(envelope).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let mut done = 0;
    for worker in workers {
        done += worker.await.unwrap();
    }
    assert!(done >= 8, "every worker did something: {done}");
    let after = unsealed(&world);
    assert_eq!((after.keys.epoch, view(&world).newest().number()), (before.keys.epoch + 6, 6));
    assert_ne!(after.keys.lineage, before.keys.lineage);
    let rekeyed = lines(&world).await.iter().filter(|line| matches!(line.body, Body::Rekeyed { .. })).count();
    assert_eq!(rekeyed, 6);
    // The seal that was dealt last opens with the admins of the last document, and holds what was written.
    world.stop().await;
    world.start().await;
    world.unseal().await;
    let kv = world.client(&bob).kv_get(&"load/0".parse().unwrap()).await.unwrap();
    assert!(kv.version >= 1);
    finish(world).await;
}

/// Of whatever does not hold, nothing is written but its refusal, and the seal stays as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_rekey_that_does_not_hold_changes_nothing() {
    let world = World::new(TWO_OF_THREE).await;
    let dan = Person::new("dan");
    let erin = Person::new("erin");
    let bob = world.admit("bob").await;
    let impostor = Person::new("bob");
    let disabled = world.admit("disabled").await;
    world.client(&world.admins[0]).principal_disable(&disabled.name).await.unwrap();
    let ingress = next_ingress(&world).await;
    assert_eq!(next_ingress(&world).await, ingress, "asking again spoils nothing");
    let foreign = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap().recipients()[0].clone();
    let [a, b, c] = [&world.admins[0], &world.admins[1], &world.admins[2]];
    let add = |ingress: &Recipient, person: &Person| {
        let (ingress, record) = (ingress.clone(), record(person));
        move |draft: &mut DocumentDraft| {
            draft.ingress = ingress;
            draft.add_admin(&record);
        }
    };
    let old = view(&world).newest().ingress().clone();
    let cases = [
        ("ingress", document(&world, &[a, b], add(&old, &dan)).await),
        ("ingress", document(&world, &[a, b], add(&foreign, &dan)).await),
        ("another principal is called bob", document(&world, &[a, b], add(&ingress, &impostor)).await),
        ("disabled is disabled", document(&world, &[a, b], add(&ingress, &disabled)).await),
        ("1 admins signed", document(&world, &[a], add(&ingress, &dan)).await),
        ("1 admins signed", document(&world, &[a, &dan], add(&ingress, &dan)).await),
        ("k: must be", document(&world, &[a, b], |draft| (draft.ingress, draft.k) = (ingress.clone(), 4)).await),
    ];
    let mut caller = Caller::new(&world, a).await;
    let (rows_before, keys_before) = (rows(&world).await, unsealed(&world));
    for (expected, envelope) in cases {
        let reply = caller.call_json("POST", "/v1/document", &Signed { envelope }).await.refused(Code::BadStatement);
        let error = reply.error().unwrap();
        let told = format!("{} {}", error.field.unwrap_or_default(), error.message);
        assert!(told.contains(expected), "{expected}: {told}");
        assert_eq!(rows(&world).await, rows_before, "{expected}");
        assert!(Arc::ptr_eq(&unsealed(&world), &keys_before), "{expected}");
    }
    // Whoever may not put documents cannot ask for the key either, nor put one that k admins signed.
    let mut stranger = Caller::new(&world, &bob).await;
    stranger.call("POST", "/v1/seal:rekey").await.refused(Code::Denied);
    let good = document(&world, &[b, c], add(&ingress, &dan)).await;
    stranger.call_json("POST", "/v1/document", &Signed { envelope: good.clone() }).await.refused(Code::Denied);
    assert_eq!(rows(&world).await, rows_before);

    // One of two documents that follow the same one wins; the other is none any more.
    let other = document(&world, &[a, c], add(&ingress, &erin)).await;
    caller.call_json("POST", "/v1/document", &Signed { envelope: good.clone() }).await.ok();
    caller.call_json("POST", "/v1/document", &Signed { envelope: other }).await.refused(Code::BadStatement);
    caller.call_json("POST", "/v1/document", &Signed { envelope: good }).await.ok();
    assert_ne!(next_ingress(&world).await, ingress, "a used key is not given again");
    let told = world.client(b).alarms(None, None, false).await.unwrap();
    assert!(told.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Rekeyed));
    finish(world).await;
}

/// The barrier term under which somebody's record lies.
async fn term_of(world: &World, person: &Person) -> u64 {
    let key = unsealed(world).keys.barrier.store_key(&principal::key(&person.name)).unwrap();
    let row = world.server().node.parts.store.read(vec![Read::Get(Table::Data, key)]).await.unwrap().answers.pop();
    let row = row.and_then(Answer::into_value).unwrap();
    u32::from_be_bytes(row.as_bytes()[1..5].try_into().unwrap()).into()
}

/// The group of the admins follows them, and a body for the ingress key of before is still taken. The epoch has a
/// barrier term of its own, and what was written before it is read under that of then.
#[tokio::test(flavor = "multi_thread")]
async fn roles_and_keys_follow_the_document() {
    let world = World::new(TWO_OF_THREE).await;
    let [a, b, c] = [&world.admins[0], &world.admins[1], &world.admins[2]];
    let dan = world.admit("dan").await;
    let erin = world.admit("erin").await;
    let epoch = unsealed(&world).keys.epoch;
    assert_eq!((term_of(&world, &dan).await, term_of(&world, &erin).await), (epoch, epoch));
    let groups = |person: &Person| {
        let client: Client = world.client(person);
        async move { client.whoami().await.unwrap() }
    };
    assert!(!groups(&dan).await.admin);
    let old = view(&world).newest().ingress().clone();
    let ingress = next_ingress(&world).await;
    let envelope = document(&world, &[a, b], |draft| {
        draft.ingress = ingress.clone();
        draft.remove_admin(&record(c).principal());
        draft.add_admin(&record(&dan));
    })
    .await;
    world.client(a).document_put(envelope).await.unwrap();
    assert_eq!((term_of(&world, &dan).await, term_of(&world, &erin).await), (epoch + 1, epoch));
    assert_eq!(world.client(a).principal(&erin.name).await.unwrap().records, std::slice::from_ref(&erin.record));
    assert_eq!(groups(&erin).await.principal.name, erin.name);
    let dan_now = groups(&dan).await;
    assert!(dan_now.admin && dan_now.enroller && dan_now.principal.groups.iter().any(|g| g.as_str() == "admins"));
    // Nobody but the document ever vouched for the former admin: it is void until an enroller admits it.
    let error = world.client(c).whoami().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    world.client(a).admit(&c.record, Admit::default()).await.unwrap();
    let c_now = groups(c).await;
    assert!(!c_now.admin && !c_now.enroller && c_now.principal.groups.is_empty());
    world.client(&dan).admit(&Person::new("frank").record, Admit::default()).await.unwrap();
    assert_eq!(*view(&world).newest().ingress(), ingress);
    let keys = unsealed(&world);
    let known: Vec<_> = keys.keys.ingress.iter().map(|identity| identity.recipients()[0].clone()).collect();
    assert_eq!(known, [ingress, old]);
    finish(world).await;
}
