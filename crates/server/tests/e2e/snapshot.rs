//! Snapshots: taken under load, restored, and what must not come back with them.

use crate::cases::{kv_body, open_all};
use crate::support::{Caller, Wire, finish, finish_after_steps, lines};
use bulla_client::{Client, ClientError, MemoryOutput, Outgoing, Pin, State, Unseal, content};
use bulla_core::audit::Body;
use bulla_core::record::{Read, SCAN_ENTRIES_MAX, Table};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::snapshot::{SnapshotError, Verified};
use bulla_server::config::{AuditSync, AuditTarget, StoreKind};
use bulla_server::snapshot::{IDLE_MS, RestoreError, is_unfinished, restore};
use bulla_store::{OnFatal, Store};
use bulla_testkit::long;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{self, AlarmKind, SealState};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::Consent;
use bulla_wire::id::Digest;
use bulla_wire::json::StrictMap;
use bulla_wire::signature::AGE_MEDIA_TYPE;
use bulla_wire::snapshot::{Begun, KINDS, Manifest, PAGE_BYTES};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const WRITERS: usize = 8;

/// The right to write secrets, and to take snapshots.
async fn permit(world: &World) {
    let text = "permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"snapshot.save\"], resource);";
    let put = api::PutPolicy { text: text.to_owned(), replaces: None };
    world.client(&world.admins[0]).policy_put(&"open".parse().unwrap(), &put).await.unwrap();
}

fn secret(text: &str) -> api::PutKv {
    api::PutKv::fields(StrictMap([("value".to_owned(), text.to_owned())].into()))
}

async fn value(client: &Client, path: &str) -> Option<String> {
    client.kv_get(&path.parse().unwrap()).await.ok().map(|kv| kv.data.unwrap().0["value"].clone())
}

fn file_of(world: &World) -> PathBuf {
    let AuditTarget::Directory(audit) = &world.config.audit.target else { panic!("no directory") };
    audit.with_file_name("state.snapshot")
}

/// Restores into a new directory, as the command line does.
async fn restored(world: &World, file: &Path, data: &Path) -> Result<Verified, RestoreError> {
    let pin = Pin::Cluster(world.cluster);
    restore(file, data, |genesis, approvals| pin.begin(genesis, approvals), None, None).await
}

/// Stops the server and starts it on a directory that is filled from the file, with the old node's key.
async fn moved(world: &mut World, file: &Path, name: &str) -> Manifest {
    world.stop().await;
    let (old, new) = (world.data(), world.data().with_file_name(name));
    let manifest = restored(world, file, &new).await.unwrap().manifest;
    std::fs::copy(old.join("node.key"), new.join("node.key")).unwrap();
    world.config.data = Some(new);
    manifest
}

async fn give(world: &World) -> api::ShareGiven {
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let how = Unseal { approve, danger_older_epoch: true };
    world.client(&world.admins[0]).unseal(&how).await.unwrap().given
}

/// Unseals with the admin's consent, which is demanded.
async fn consented(world: &World) -> Consent {
    let given = give(world).await;
    assert_eq!(given.state, SealState::Sealed);
    let consent = given.consent_needed.expect("a restored store asks for consent");
    let admin = &world.admins[0];
    world.client(admin).consent_send(admin.sign(&consent)).await.unwrap();
    consent
}

/// Writes without end until told, and says what was acknowledged.
async fn write(client: Client, writer: usize, told: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let path = format!("load/{writer}/{number}").parse().unwrap();
        client.kv_put(&path, &secret(&format!("{writer}-{number}"))).await.unwrap();
        number += 1;
        told.store(number, Ordering::SeqCst);
    }
}

/// A snapshot while eight write: it holds what was acknowledged before it began.
async fn saved_under_load(world: &World) -> (Manifest, Vec<usize>) {
    let ann = world.admit("ann").await;
    permit(world).await;
    let client = world.client(&ann);
    for number in 0..40 {
        // Pages, and more than one.
        let large = "x".repeat(250_000);
        client.kv_put(&format!("large/{number}").parse().unwrap(), &secret(&large)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told: Vec<_> = (0..WRITERS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let tasks: Vec<_> = (told.iter().enumerate())
        .map(|(writer, told)| tokio::spawn(write(world.client(&ann), writer, told.clone(), stop.clone())))
        .collect();
    let least = if long() { 100 } else { 10 };
    while told.iter().any(|told| told.load(Ordering::SeqCst) < least) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let before: Vec<_> = told.iter().map(|told| told.load(Ordering::SeqCst)).collect();
    let verified = client.snapshot_save(&file_of(world), false).await.unwrap();
    let during: Vec<_> = told.iter().map(|told| told.load(Ordering::SeqCst)).collect();
    assert!(during.iter().sum::<usize>() > before.iter().sum(), "nobody wrote meanwhile: {before:?} {during:?}");
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    (verified.manifest, before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn taken_under_load_it_holds_what_was_acknowledged_before() {
    let mut world = World::new(Shape::durable()).await;
    let (manifest, before) = saved_under_load(&world).await;
    let file = file_of(&world);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(manifest.bytes > 2 * u64::try_from(PAGE_BYTES).unwrap(), "several pages: {manifest:?}");
    let told = lines(&world).await;
    let noted = told.iter().find_map(|line| match &line.body {
        Body::Snapshot { from, rows, sha256 } => Some((from.sequence, *rows, *sha256)),
        _ => None,
    });
    assert_eq!(noted, Some((manifest.sequence, manifest.rows, manifest.sha256)));
    let offline = world.client(&world.admins[0]).snapshot_verify(&file, Some(manifest.sha256)).unwrap();
    assert_eq!(offline.manifest, manifest);

    let again = moved(&mut world, &file, "restored").await;
    assert_eq!(again, manifest);
    world.start().await;
    let consent = consented(&world).await;
    assert_eq!((consent.kept.sequence, consent.kept.lineage), (manifest.sequence, manifest.lineage));
    assert!(consent.lost.sequence > manifest.sequence, "{consent:?}");
    let reader = world.client(&world.admit("zoe").await);
    for (writer, count) in before.iter().enumerate() {
        for number in 0..*count {
            let path = format!("load/{writer}/{number}");
            assert_eq!(value(&reader, &path).await, Some(format!("{writer}-{number}")), "{path}");
        }
    }
    assert_eq!(value(&reader, "large/19").await.map(|text| text.len()), Some(250_000));
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_memory_is_taken_under_load_too() {
    let shape = Shape { store: StoreKind::Memory, ..Shape::default() };
    let world = World::new(shape).await;
    let (manifest, before) = saved_under_load(&world).await;
    let data = file_of(&world).with_file_name("restored");
    restored(&world, &file_of(&world), &data).await.unwrap();
    let store = Store::file(data.join("bulla.redb"), OnFatal::default()).unwrap();
    let mut after = None;
    let mut secrets = 0;
    loop {
        let read = Read::Scan { table: Table::Data, prefix: vec![10], after, limit: SCAN_ENTRIES_MAX };
        let page = store.read(vec![read]).await.unwrap().answers.remove(0).into_page().unwrap();
        secrets += page.entries.len();
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more {
            break;
        }
    }
    store.close().await;
    assert!(secrets >= before.iter().sum::<usize>() + 40, "{secrets} of {manifest:?}");
    finish(world).await;
}

/// Everything that ends after a snapshot was taken.
struct Ended {
    world: World,
    alice: Person,
    bob: Person,
    sealed: bulla_wire::wrap::Slip,
    acked: bulla_wire::wrap::Slip,
    folder: tempfile::TempDir,
}

impl Ended {
    /// A client of Alice that remembers over the restore.
    fn remembering(&self) -> Client {
        let state = State::Directory(self.folder.path().to_owned());
        let pin = Pin::Cluster(self.world.cluster);
        let builder = Client::builder(self.world.address()).identity(self.alice.identity.clone());
        builder.pin(pin).state(state).build().unwrap()
    }
}

async fn ended() -> Ended {
    // So that the head of the store names the line before each commit, and not one of a moment before.
    let world = World::new(Shape { sync: AuditSync::Each, ..Shape::durable() }).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    world.admit("carol").await;
    permit(&world).await;
    let admin = world.client(&world.admins[0]);
    let text = "permit (principal, action in Bulla::Action::\"audit\", resource);".to_owned();
    admin.policy_put(&"doomed".parse().unwrap(), &api::PutPolicy { text, replaces: None }).await.unwrap();
    let writer = world.client(&alice);
    writer.kv_put(&"app/db".parse().unwrap(), &secret("kept")).await.unwrap();
    let sealed = world.wrap(&writer, &bob, b"nobody opened this").await.slip;
    let acked = world.wrap(&writer, &bob, b"once").await.slip;
    let saved = admin.snapshot_save(&file_of(&world), false).await.unwrap();
    assert_eq!(saved.manifest.cluster, world.cluster);

    assert_eq!(open_all(&world.client(&bob), &acked).await, b"once");
    admin.policy_delete(&"doomed".parse().unwrap()).await.unwrap();
    admin.principal_disable(&"carol".parse().unwrap()).await.unwrap();
    let ended = Ended { world, alice, bob, sealed, acked, folder: tempfile::tempdir().unwrap() };
    let remembering = ended.remembering();
    remembering.kv_put(&"app/db".parse().unwrap(), &secret("lost")).await.unwrap();
    remembering.flush().unwrap();
    ended
}

/// With the log of before, what was ended stays ended; no wrap is there at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_does_not_come_back() {
    let mut ended = ended().await;
    let file = file_of(&ended.world);
    moved(&mut ended.world, &file, "restored").await;
    ended.world.start().await;
    let consent = consented(&ended.world).await;
    assert!(!consent.is_of_unknown_loss(), "{consent:?}");
    let world = &ended.world;
    let admin = world.client(&world.admins[0]);
    assert!(admin.principal(&"carol".parse().unwrap()).await.unwrap().disabled, "disabled again from the log");
    assert_eq!(admin.policy(&"doomed".parse().unwrap()).await.unwrap_err().code(), Some(Code::NotFound));
    no_wraps(&ended).await;
    let told = admin.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == AlarmKind::StoreRolledBack), "{told:?}");
    // Who saw what was lost goes on, and is told so.
    let alice = ended.remembering();
    assert_eq!(value(&alice, "app/db").await.as_deref(), Some("kept"));
    assert_eq!(alice.losses().len(), 1);
    // Only the first unsealing asks.
    ended.world.stop().await;
    ended.world.start().await;
    assert_eq!(give(&ended.world).await.state, SealState::Unsealed);
    finish(ended.world).await;
}

async fn no_wraps(ended: &Ended) {
    let reader = ended.world.client(&ended.bob);
    for slip in [&ended.sealed, &ended.acked] {
        let error = reader.wrap_open(slip, &mut MemoryOutput::new()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::NotFound), "{error}");
        let writer = ended.world.client(&ended.alice).wrap_inspect(slip).await.unwrap_err();
        assert_eq!(writer.code(), Some(Code::NotFound), "{writer}");
    }
    assert!(reader.wraps(None, None).await.unwrap().wraps.is_empty());
    // And new ones work.
    let writer = ended.world.client(&ended.alice);
    let slip = ended.world.wrap(&writer, &ended.bob, b"anew").await.slip;
    assert_eq!(open_all(&reader, &slip).await, b"anew");
}

/// Without a log nobody knows what was lost: that is evident to the admins, to their alarms, and to whoever saw more.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_the_loss_is_evident() {
    let mut ended = ended().await;
    let file = file_of(&ended.world);
    moved(&mut ended.world, &file, "restored").await;
    ended.world.config.audit.target = AuditTarget::Directory(file.with_file_name("another-audit"));
    assert!(bulla_server::run(&ended.world.config, ended.world.clock.clone()).await.is_err(), "not without being told");
    ended.world.config.accept_audit_loss = true;
    ended.world.start().await;
    let consent = consented(&ended.world).await;
    assert!(consent.is_of_unknown_loss(), "{consent:?}");
    no_wraps(&ended).await;
    let admin = ended.world.client(&ended.world.admins[0]);
    let told = admin.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == AlarmKind::StoreRolledBack), "{told:?}");
    let error = ended.remembering().whoami().await.expect_err("it saw more than there is");
    assert!(matches!(error, ClientError::RolledBack(_)), "{error:?}");
    ended.world.stop().await;
}

/// Puts the snapshot back where no log tells what was lost; what the admins are asked to consent to.
async fn put_back(ended: &mut Ended, name: &str) -> Consent {
    let file = file_of(&ended.world);
    moved(&mut ended.world, &file, name).await;
    let audit = file.with_file_name(format!("audit of {name}"));
    ended.world.config.audit.target = AuditTarget::Directory(audit);
    ended.world.config.accept_audit_loss = true;
    ended.world.start().await;
    let consent = give(&ended.world).await.consent_needed.expect("a restored store asks for consent");
    assert!(consent.is_of_unknown_loss() && consent.excused_until_ms.is_none(), "{consent:?}");
    consent
}

/// The admin signs that whatever clients saw until now is lost.
fn excuse(ended: &Ended, consent: &Consent) -> Envelope {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let excused_until_ms = Some(u64::try_from(now.as_millis()).unwrap());
    ended.world.admins[0].sign(&Consent { excused_until_ms, ..consent.clone() })
}

/// Admins who know that a snapshot was put back say so in their consent: whoever saw more goes on by itself. For what is
/// seen after that they have to say it anew, whoever still has the old signatures.
#[tokio::test(flavor = "multi_thread")]
async fn the_admins_word_excuses_what_was_seen_before_it() {
    let mut ended = ended().await;
    let send = async |ended: &Ended, envelope: &Envelope| {
        ended.world.client(&ended.world.admins[0]).consent_send(envelope.clone()).await.unwrap();
    };
    let consent = put_back(&mut ended, "first").await;
    let signed = excuse(&ended, &consent);
    send(&ended, &signed).await;
    let alice = ended.remembering();
    assert_eq!(value(&alice, "app/db").await.as_deref(), Some("kept"));
    let [loss] = &alice.losses()[..] else { panic!("it is told: {:?}", alice.losses()) };
    assert_eq!((loss.consent.kept, loss.unknown_to_admins()), (consent.kept, None));
    alice.kv_put(&"app/db".parse().unwrap(), &secret("lost again")).await.unwrap();
    drop(alice);
    // Also over another unsealing, once.
    ended.world.stop().await;
    ended.world.start().await;
    assert_eq!(give(&ended.world).await.state, SealState::Unsealed);
    let alice = ended.remembering();
    assert_eq!(value(&alice, "app/db").await.as_deref(), Some("lost again"));
    assert!(alice.losses().is_empty());
    drop(alice);

    // The same snapshot again: the node asks the same, and takes what was signed then. Alice does not.
    let second = put_back(&mut ended, "second").await;
    assert_eq!(second, consent);
    send(&ended, &signed).await;
    let error = ended.remembering().whoami().await.expect_err("nobody said that this is lost");
    assert!(matches!(error, ClientError::RolledBack(_)), "{error:?}");
    put_back(&mut ended, "third").await;
    let anew = excuse(&ended, &consent);
    send(&ended, &anew).await;
    assert_eq!(value(&ended.remembering(), "app/db").await.as_deref(), Some("kept"));
    ended.world.stop().await;
}

/// A retry of a request from before the snapshot is told to read the state: what its row says may be missing there.
#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_before_is_not_taken() {
    let mut world = World::new(Shape::durable()).await;
    permit(&world).await;
    let mut caller = Caller::new(&world, &world.admit("ann").await).await;
    let nonce = caller.nonce();
    let body = caller.ingress(&world, "PUT", "/v1/kv/app/cache", &nonce, &kv_body());
    let request = caller.request("PUT", "/v1/kv/app/cache", AGE_MEDIA_TYPE, body, nonce);
    caller.send(&request).await.ok();
    let file = file_of(&world);
    world.client(&world.admins[0]).snapshot_save(&file, false).await.unwrap();
    moved(&mut world, &file, "restored").await;
    world.clock.pass(61_000);
    world.start().await;
    consented(&world).await;
    caller.wire = Wire::new(world.server().ready.address);
    caller.call("POST", "/v1/challenge").await;
    let again = caller.sign(request.clone(), nonce);
    caller.send(&again).await.refused(Code::NonceExpired);
    finish(world).await;
}

/// A log that ends before the snapshot does is as good as none.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_log_knows_of_no_loss() {
    let mut ended = ended().await;
    let file = file_of(&ended.world);
    let AuditTarget::Directory(log) = ended.world.config.audit.target.clone() else { panic!("no directory") };
    moved(&mut ended.world, &file, "restored").await;
    let older = file.with_file_name("older-audit");
    std::fs::create_dir(&older).unwrap();
    std::fs::set_permissions(&older, std::fs::Permissions::from_mode(0o700)).unwrap();
    let text = std::fs::read_to_string(log.join("000001.jsonl")).unwrap();
    let first: String = text.split_inclusive('\n').take(4).collect();
    std::fs::write(older.join("000001.jsonl"), first).unwrap();
    std::fs::set_permissions(older.join("000001.jsonl"), std::fs::Permissions::from_mode(0o600)).unwrap();
    ended.world.config.audit.target = AuditTarget::Directory(older);
    assert!(bulla_server::run(&ended.world.config, ended.world.clock.clone()).await.is_err(), "not without being told");
    ended.world.config.accept_audit_loss = true;
    ended.world.start().await;
    assert!(consented(&ended.world).await.is_of_unknown_loss());
    ended.world.config.accept_audit_loss = false;
    ended.world.stop().await;
    ended.world.start().await;
    assert_eq!(give(&ended.world).await.state, SealState::Unsealed, "the next time it is whole");
    ended.world.stop().await;
}

/// A log that was set back together with the store does not hide that a snapshot was put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_the_same_moment_hides_nothing() {
    let mut world = World::new(Shape::durable()).await;
    permit(&world).await;
    let file = file_of(&world);
    world.client(&world.admins[0]).snapshot_save(&file, false).await.unwrap();
    moved(&mut world, &file, "restored").await;
    world.start().await;
    for _ in 0..2 {
        let consent = give(&world).await.consent_needed.expect("it asks though the log knows no more");
        assert!(consent.is_of_unknown_loss(), "{consent:?}");
        world.stop().await;
        world.start().await;
    }
    consented(&world).await;
    world.stop().await;
    world.start().await;
    assert_eq!(give(&world).await.state, SealState::Unsealed);
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_states_are_held_and_each_for_one() {
    let world = World::new(Shape::durable()).await;
    permit(&world).await;
    let mut callers = Vec::new();
    for name in ["ann", "ben", "cat"] {
        let person = world.admit(name).await;
        // Two pages.
        for number in 0..7 {
            let path = format!("{name}/{number}").parse().unwrap();
            world.client(&person).kv_put(&path, &secret(&"x".repeat(250_000))).await.unwrap();
        }
        callers.push(Caller::new(&world, &person).await);
    }
    let [ann, ben, cat] = &mut callers[..] else { panic!() };
    let first: Begun = ann.call("POST", "/v1/snapshot").await.ok().json();
    let page = |begun: &Begun, n: u64| format!("/v1/snapshot/{}?page={n}", begun.id);
    let whole = ann.call("GET", &page(&first, 0)).await.ok();
    assert_eq!(whole.header("content-type"), "application/vnd.bulla.snapshot");
    assert_eq!(ann.call("GET", &page(&first, 0)).await.ok().body, whole.body, "the page given last, again");
    for n in [2, 3, u64::MAX] {
        assert_eq!(ann.call("GET", &page(&first, n)).await.code(), Some(Code::VersionMismatch), "{n}");
    }
    assert_eq!(ben.call("GET", &page(&first, 0)).await.code(), Some(Code::UnknownSession), "another's");

    let second: Begun = ben.call("POST", "/v1/snapshot").await.ok().json();
    assert_eq!(cat.call("POST", "/v1/snapshot").await.code(), Some(Code::Overloaded));
    let newer: Begun = ann.call("POST", "/v1/snapshot").await.ok().json();
    assert_eq!(ann.call("GET", &page(&first, 0)).await.code(), Some(Code::UnknownSession), "the older one has ended");
    // Who has the last page holds nothing any more.
    ben.call("GET", &page(&second, 0)).await.ok();
    let last = ben.call("GET", &page(&second, 1)).await.ok();
    cat.call("POST", "/v1/snapshot").await.ok();
    ben.call("POST", "/v1/snapshot").await.refused(Code::Overloaded);
    assert_eq!(ben.call("GET", &page(&second, 1)).await.ok().body, last.body, "the last page, again");
    assert_eq!(ben.call("GET", &page(&second, 2)).await.code(), Some(Code::VersionMismatch), "there is no other page");
    // Who goes on asking is kept, who does not is let go.
    world.clock.pass(IDLE_MS - 1000);
    ann.call("POST", "/v1/challenge").await;
    ann.call("GET", &page(&newer, 0)).await.ok();
    world.clock.pass(2000);
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    ben.call("POST", "/v1/challenge").await;
    assert_eq!(ben.call("GET", &page(&second, 0)).await.code(), Some(Code::UnknownSession), "it was idle");
    ann.call("GET", &page(&newer, 0)).await.ok();
    finish_after_steps(world).await;
}

/// No wrap, and no secret in clear, is in a file; every byte of it was asked for by a line in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_only_sealed_rows() {
    let ended = ended().await;
    let bytes = std::fs::read(file_of(&ended.world)).unwrap();
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for needle in [&b"kept"[..], b"nobody opened this", b"once", b"app/db", b"alice", b"doomed"] {
        assert!(!contains(needle), "{}", String::from_utf8_lossy(needle));
    }
    for slip in [&ended.sealed, &ended.acked] {
        assert!(!contains(slip.wrap.as_bytes()), "a wrap's id is in a key");
    }
    let mut reader = bulla_crypto::snapshot::Reader::new();
    let mut kinds = std::collections::BTreeSet::new();
    reader
        .take(&bytes, &mut |row| {
            if row.table == bulla_wire::snapshot::Table::Data {
                kinds.insert(row.key[0]);
            }
            Ok(())
        })
        .unwrap();
    assert!(kinds.iter().all(|kind| KINDS.contains(kind)), "{kinds:?}");
    assert!(kinds.contains(&1) && kinds.contains(&3) && kinds.contains(&10), "{kinds:?}");
    let asked = lines(&ended.world).await;
    let asked = asked.iter().filter(|line| match &line.body {
        Body::Request(line) => line.action.as_ref().is_some_and(|action| action.as_str() == "snapshot.save"),
        _ => false,
    });
    assert_eq!(asked.count(), 2, "one to begin, one for the page");
    finish(ended.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_from_what_is_not_whole_nor_over_anything() {
    let mut world = World::new(Shape::durable()).await;
    permit(&world).await;
    let file = file_of(&world);
    let admin = world.client(&world.admins[0]);
    admin.snapshot_save(&file, false).await.unwrap();
    let error = admin.snapshot_save(&file, false).await.unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "{error:?}");
    let before = std::fs::read(&file).unwrap();
    admin.snapshot_save(&file, true).await.unwrap();
    assert_ne!(std::fs::read(&file).unwrap(), before, "replaced");
    assert!(matches!(restored(&world, &file, &world.data()).await, Err(RestoreError::NotEmpty { .. })));

    let bytes = std::fs::read(&file).unwrap();
    let data = file.with_file_name("restored");
    let mut cases = vec![("truncated", bytes[..bytes.len() - 1].to_vec()), ("truncated", bytes[..40].to_vec())];
    let mut altered = bytes.clone();
    altered[bytes.len() / 3] ^= 1;
    cases.push(("altered", altered));
    for (name, bytes) in cases {
        let broken = file.with_extension("broken");
        std::fs::write(&broken, bytes).unwrap();
        let Err(RestoreError::Snapshot(error)) = restored(&world, &broken, &data).await else { panic!("{name}") };
        assert!(error.name() == name || name == "altered", "{error}");
        assert!(!data.join("bulla.redb").exists() && !is_unfinished(&data));
    }
    let other = World::new(Shape::durable()).await;
    let error = restored(&other, &file, &data).await.unwrap_err();
    assert!(matches!(error, RestoreError::Snapshot(SnapshotError::OtherCluster(_))), "{error:?}");
    finish(other).await;

    // What a killed restore left is no store, and the next one takes its place.
    std::fs::write(bulla_store::unfinished(&data.join("bulla.redb")), b"half").unwrap();
    world.stop().await;
    let old = world.config.data.replace(data.clone());
    let refused = bulla_server::run(&world.config, world.clock.clone()).await.unwrap_err();
    assert!(refused.hint().is_some_and(|hint| hint.contains("snapshot restore")), "{refused} {:?}", refused.hint());
    restored(&world, &file, &data).await.unwrap();
    assert!(!is_unfinished(&data));
    assert!(matches!(restored(&world, &file, &data).await, Err(RestoreError::NotEmpty { .. })), "it is filled now");
    world.config.data = old;
    world.start().await;
    world.unseal().await;
    finish(world).await;
}

/// A client keeps nothing of a snapshot that does not come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_gets_nothing_and_sealing_ends_it() {
    let world = World::new(Shape::durable()).await;
    let (ann, file) = (world.admit("ann").await, file_of(&world));
    let error = world.client(&ann).snapshot_save(&file, false).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Denied), "{error}");
    let folder = || std::fs::read_dir(file.parent().unwrap()).unwrap();
    let left = folder().filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("snapshot"));
    assert_eq!(left.count(), 0);
    permit(&world).await;
    let mut caller = Caller::new(&world, &ann).await;
    let begun: Begun = caller.call("POST", "/v1/snapshot").await.ok().json();
    let page = format!("/v1/snapshot/{}?page=0", begun.id);
    world.client(&world.admins[0]).seal().await.unwrap();
    caller.call("POST", "/v1/challenge").await;
    assert_ne!(caller.call("GET", &page).await.status, 200);
    world.unseal().await;
    caller.call("POST", "/v1/challenge").await;
    assert_eq!(caller.call("GET", &page).await.code(), Some(Code::UnknownSession));
    let digest = Digest::new(sha256(&[b"another file"]));
    let saved = world.client(&ann).snapshot_save(&file, false).await.unwrap();
    let error = world.client(&ann).snapshot_verify(&file, Some(digest)).unwrap_err();
    assert!(
        matches!(error, ClientError::Snapshot(SnapshotError::OtherDigest(found)) if found == saved.manifest.sha256)
    );
    let me = world.client(&ann).resolve("ann").await.unwrap();
    world.client(&ann).wrap_create(Outgoing::new(vec![me], 60), content(b"x".to_vec())).await.unwrap();
    finish(world).await;
}
