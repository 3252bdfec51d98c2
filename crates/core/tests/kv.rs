//! Stored secrets, one rule of `spec/kv.md` after the other, and against a model.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::barrier::Kind;
use bulla_core::engine::kv::{Delete, Destroy, Get, Inspect, List, Patch, Put, SetSettings, Undelete, Watch};
use bulla_core::operation::{Operation, Refusal, Replay, Reply};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::sign_in_memory;
use bulla_crypto::random::{Rng, SeededRng, draw};
use bulla_wire::api::{
    DestroyKv, Kv, KvMetadata, KvNames, KvState, KvVersions, KvWatched, KvWritten, MAX_CUSTOM_KEY_BYTES,
    MAX_CUSTOM_VALUE_BYTES, MAX_TTL_S, MAX_VALUE_BYTES, PatchKv, PutKv, SetKvSettings,
};
use bulla_wire::encoding::Base64;
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, StrictMap, V1};
use bulla_wire::kv::{SealedKv, SealedStatement};
use bulla_wire::name::SecretPath;
use bulla_wire::wrap::{Addressee, Ciphertext};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wrap_world::{Task, World};

fn path(text: &str) -> SecretPath {
    text.parse().unwrap()
}

fn fields(fields: &[(&str, &str)]) -> StrictMap<String> {
    StrictMap(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn value(text: &str) -> PutKv {
    PutKv::fields(fields(&[("value", text)]))
}

/// What an operation of Alice's says.
fn ask<T: serde::de::DeserializeOwned>(world: &mut World, operation: impl Operation + 'static) -> Result<T, Refusal> {
    let reply = world.run(Box::new(operation), Some("alice")).result?;
    let bytes = match &reply {
        Reply::Json(bytes) => bytes.clone(),
        Reply::Secret(bytes) => bytes.expose().clone(),
        other => unreachable!("{other:?}"),
    };
    Ok(json::parse(&bytes, MAX_JSON_BYTES).unwrap())
}

fn put(world: &mut World, at: &str, body: PutKv) -> Result<KvWritten, Refusal> {
    ask(world, Put { path: path(at), body })
}

fn get(world: &mut World, at: &str, version: Option<u64>) -> Result<Kv, Refusal> {
    ask(world, Get { path: path(at), version })
}

fn patch(
    world: &mut World,
    at: &str,
    changes: &[(&str, Option<&str>)],
    cas: Option<u64>,
) -> Result<KvWritten, Refusal> {
    let data = changes.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
    ask(world, Patch { path: path(at), body: PatchKv { data: StrictMap(data.collect()), cas, ttl_s: None } })
}

/// A change of one field, on other terms for its end than those of the version before.
fn patch_for(world: &mut World, at: &str, ttl_s: u64) -> KvWritten {
    let data = StrictMap([("b".to_owned(), Some("1".to_owned()))].into());
    ask(world, Patch { path: path(at), body: PatchKv { data, cas: None, ttl_s: Some(ttl_s) } }).unwrap()
}

fn set(world: &mut World, at: &str, body: SetKvSettings) -> Result<KvMetadata, Refusal> {
    ask(world, SetSettings { path: path(at), body })
}

fn delete(world: &mut World, at: &str, versions: Option<Vec<u64>>) -> Result<KvMetadata, Refusal> {
    ask(world, Delete { path: path(at), body: KvVersions { versions } })
}

fn undelete(world: &mut World, at: &str, versions: Option<Vec<u64>>) -> Result<KvMetadata, Refusal> {
    ask(world, Undelete { path: path(at), body: KvVersions { versions } })
}

fn destroy(world: &mut World, at: &str, versions: Option<Vec<u64>>) -> Result<KvMetadata, Refusal> {
    let all = versions.is_none();
    ask(world, Destroy { path: path(at), body: DestroyKv { versions, all } })
}

fn list(world: &mut World, at: Option<&str>) -> Vec<String> {
    let names: KvNames = ask(world, List { path: at.map(path), after: None, limit: 100 }).unwrap();
    names.names
}

/// The code of a refusal, which also has a hint.
fn code<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> Code {
    let refusal = answer.unwrap_err();
    assert!(refusal.hint.is_some(), "{refusal:?}");
    refusal.code
}

#[test]
fn versions_are_kept_and_the_oldest_goes() {
    let mut world = World::new(1);
    for number in 1..=12 {
        assert_eq!(put(&mut world, "app/db", value(&number.to_string())).unwrap().version, number);
    }
    let newest = get(&mut world, "app/db", None).unwrap();
    assert_eq!((newest.version, newest.by), (12, world.id("alice")));
    assert_eq!(newest.data, Some(fields(&[("value", "12")])));
    assert_eq!(get(&mut world, "app/db", Some(3)).unwrap().data, Some(fields(&[("value", "3")])));
    let gone = get(&mut world, "app/db", Some(2)).unwrap_err();
    assert_eq!((gone.code, gone.message.contains("not kept")), (Code::NotFound, true));
    let ahead = get(&mut world, "app/db", Some(13)).unwrap_err();
    assert!(ahead.message.contains("newest version of kv/app/db is 12"), "{}", ahead.message);
    assert_eq!(world.count(Kind::KvVersion), 10);
    set(&mut world, "app/db", SetKvSettings { max_versions: Some(2), ..SetKvSettings::default() }).unwrap();
    assert_eq!(world.count(Kind::KvVersion), 10, "settings destroy nothing by themselves");
    put(&mut world, "app/db", value("13")).unwrap();
    assert_eq!(world.count(Kind::KvVersion), 2);
}

#[test]
fn compare_and_set() {
    let mut world = World::new(1);
    let cas = |cas, text: &str| PutKv { cas: Some(cas), ..value(text) };
    assert_eq!(put(&mut world, "a", cas(0, "1")).unwrap().version, 1);
    assert_eq!(code(put(&mut world, "a", cas(0, "2"))), Code::VersionMismatch);
    assert_eq!(put(&mut world, "a", cas(1, "2")).unwrap().version, 2);
    let demand = SetKvSettings { cas_required: Some(true), ..SetKvSettings::default() };
    set(&mut world, "a", demand).unwrap();
    assert_eq!(code(put(&mut world, "a", value("3"))), Code::CasRequired);
    assert_eq!(code(patch(&mut world, "a", &[("b", Some("1"))], None)), Code::CasRequired);
    assert_eq!(patch(&mut world, "a", &[("b", Some("1"))], Some(2)).unwrap().version, 3);
    let stale = patch(&mut world, "a", &[("b", Some("1"))], Some(2)).unwrap_err();
    assert_eq!(stale.code, Code::VersionMismatch);
    assert!(!stale.hint.unwrap().contains("leave --cas out"), "that leads to the next refusal");
}

#[test]
fn a_patch_is_a_merge_patch_of_the_newest_version() {
    let mut world = World::new(1);
    assert_eq!(code(patch(&mut world, "a", &[("b", None)], None)), Code::NotFound);
    put(&mut world, "a", PutKv::fields(fields(&[("keep", "1"), ("change", "2"), ("drop", "3")]))).unwrap();
    let changes = [("change", Some("x")), ("drop", None), ("new", Some("4")), ("absent", None)];
    assert_eq!(patch(&mut world, "a", &changes, None).unwrap().version, 2);
    let now = get(&mut world, "a", None).unwrap().data;
    assert_eq!(now, Some(fields(&[("keep", "1"), ("change", "x"), ("new", "4")])));
    delete(&mut world, "a", None).unwrap();
    assert_eq!(code(patch(&mut world, "a", &changes, None)), Code::Deleted);
    destroy(&mut world, "a", Some(vec![2])).unwrap();
    assert_eq!(code(patch(&mut world, "a", &changes, None)), Code::Destroyed);
    put(&mut world, "a", PutKv::bytes(vec![0, 255])).unwrap();
    assert_eq!(code(patch(&mut world, "a", &changes, None)), Code::Malformed);
}

#[test]
fn deleted_versions_come_back_and_destroyed_ones_do_not() {
    let mut world = World::new(1);
    assert_eq!(code(delete(&mut world, "a", None)), Code::NotFound);
    for text in ["1", "2", "3"] {
        put(&mut world, "a", value(text)).unwrap();
    }
    let after = delete(&mut world, "a", None).unwrap();
    assert_eq!(after.versions[2].state, KvState::Deleted);
    assert_eq!(after.versions[2].since_ms, Some(world.now.unix_ms));
    assert_eq!(code(get(&mut world, "a", None)), Code::Deleted);
    assert_eq!(get(&mut world, "a", Some(2)).unwrap().version, 2, "the others are there");
    assert_eq!(delete(&mut world, "a", None).unwrap(), after, "once more changes nothing");
    undelete(&mut world, "a", Some(vec![3])).unwrap();
    assert_eq!(get(&mut world, "a", None).unwrap().version, 3);
    let after = destroy(&mut world, "a", Some(vec![1, 3])).unwrap();
    let states: Vec<_> = after.versions.iter().map(|version| version.state).collect();
    assert_eq!(states, [KvState::Destroyed, KvState::Live, KvState::Destroyed]);
    assert_eq!(code(undelete(&mut world, "a", Some(vec![1]))), Code::Destroyed);
    assert_eq!(code(get(&mut world, "a", None)), Code::Destroyed);
    assert_eq!(world.count(Kind::KvVersion), 1);
    for bad in [vec![], vec![9], (1..=101).collect()] {
        let refusal = delete(&mut world, "a", Some(bad)).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("versions"));
    }
    let neither = DestroyKv::default();
    assert_eq!(code(ask::<KvMetadata>(&mut world, Destroy { path: path("a"), body: neither })), Code::Malformed);
    delete(&mut world, "a", Some(vec![2; 100])).unwrap();
    assert_eq!(code(delete(&mut world, "a", Some(vec![2; 101]))), Code::Malformed);
    assert_eq!(code(delete(&mut world, "a", Some(vec![]))), Code::Malformed);
    let both = DestroyKv { versions: Some(vec![2]), all: true };
    assert_eq!(code(ask::<KvMetadata>(&mut world, Destroy { path: path("a"), body: both })), Code::Malformed);
}

#[test]
fn everything_of_a_secret_goes_and_its_empty_directories_with_it() {
    let mut world = World::new(1);
    for at in ["a/b/c/x", "a/b/y", "a/b/c/z", "a/b"] {
        put(&mut world, at, value(at)).unwrap();
    }
    assert_eq!(list(&mut world, None), ["a/"]);
    assert_eq!(list(&mut world, Some("a")), ["b", "b/"]);
    destroy(&mut world, "a/b/c/x", None).unwrap();
    assert_eq!(list(&mut world, Some("a/b")), ["c/", "y"]);
    destroy(&mut world, "a/b/c/z", None).unwrap();
    assert_eq!(list(&mut world, Some("a/b")), ["y"]);
    destroy(&mut world, "a/b/y", None).unwrap();
    assert_eq!(list(&mut world, Some("a")), ["b"]);
    destroy(&mut world, "a/b", None).unwrap();
    assert!(list(&mut world, None).is_empty());
    assert_eq!((world.count(Kind::Kv), world.count(Kind::KvVersion)), (0, 0));
    assert_eq!(code(destroy(&mut world, "a/b", None)), Code::NotFound);
    world.repeated = Some(Replay::Again);
    assert_eq!(destroy(&mut world, "a/b", None).unwrap().version, 0, "it did so before");
    world.repeated = None;
    assert_eq!(put(&mut world, "a/b", value("anew")).unwrap().version, 1);
}

#[test]
fn a_version_ends_in_its_time_whether_or_not_the_sweep_has_come_by() {
    let mut world = World::new(1);
    let written = put(&mut world, "a", PutKv { ttl_s: Some(60), ..value("1") }).unwrap();
    assert_eq!(written.expires_ms, Some(world.now.unix_ms + 60_000));
    world.pass(59_999);
    world.sweep();
    assert_eq!(get(&mut world, "a", None).unwrap().expires_ms, written.expires_ms);
    world.pass(1);
    assert_eq!(code(get(&mut world, "a", None)), Code::Expired);
    world.sweep();
    assert_eq!((world.count(Kind::KvVersion), world.count(Kind::DueKept)), (0, 0));
    let known: KvMetadata = ask(&mut world, Inspect { path: path("a") }).unwrap();
    assert_eq!((known.versions[0].state, known.versions[0].since_ms), (KvState::Expired, written.expires_ms));
    assert_eq!(code(undelete(&mut world, "a", None)), Code::Expired);
    // A time that settings give, and a write that says otherwise.
    set(&mut world, "a", SetKvSettings { ttl_s: Some(10), ..SetKvSettings::default() }).unwrap();
    put(&mut world, "a", value("2")).unwrap();
    put(&mut world, "a", PutKv { ttl_s: Some(0), ..value("3") }).unwrap();
    delete(&mut world, "a", Some(vec![2])).unwrap();
    world.pass(10_000);
    world.sweep();
    assert_eq!(code(undelete(&mut world, "a", Some(vec![2]))), Code::Expired);
    assert_eq!(get(&mut world, "a", None).unwrap().version, 3);
    // What is due finds a secret that was destroyed and written anew, and leaves it alone.
    put(&mut world, "b", PutKv { ttl_s: Some(5), ..value("old") }).unwrap();
    destroy(&mut world, "b", None).unwrap();
    put(&mut world, "b", value("new")).unwrap();
    world.pass(5_000);
    world.sweep();
    assert_eq!(get(&mut world, "b", None).unwrap().data, Some(fields(&[("value", "new")])));
    assert_eq!(world.count(Kind::DueKept), 0);
}

#[test]
fn a_version_that_is_written_again_ends_when_it_would_have() {
    let mut world = World::new(1);
    let change = [("b", Some("1"))];
    let ends = put(&mut world, "a", PutKv { ttl_s: Some(60), ..value("1") }).unwrap().expires_ms;
    world.pass(20_000);
    assert_eq!(patch(&mut world, "a", &change, None).unwrap().expires_ms, ends, "a patch gives no more time");
    // Whoever writes it again gives the end that it has; the settings are for what has none.
    set(&mut world, "a", SetKvSettings { ttl_s: Some(10), ..SetKvSettings::default() }).unwrap();
    let again = PutKv { expires_ms: ends, ..value("1") };
    assert_eq!(put(&mut world, "a", again.clone()).unwrap().expires_ms, ends);
    assert_eq!(patch(&mut world, "a", &change, None).unwrap().expires_ms, ends);
    let now_ms = world.now.unix_ms;
    assert_eq!(patch_for(&mut world, "a", 5).expires_ms, Some(now_ms + 5000), "unless it says otherwise");
    assert_eq!(patch_for(&mut world, "a", 0).expires_ms, None);
    assert_eq!(patch(&mut world, "a", &change, None).unwrap().expires_ms, Some(now_ms + 10_000));
    assert_eq!(code(put(&mut world, "a", PutKv { ttl_s: Some(5), ..again.clone() })), Code::Malformed);
    for bad in [now_ms, now_ms - 1, u64::MAX] {
        let refusal = put(&mut world, "a", PutKv { expires_ms: Some(bad), ..again.clone() }).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Malformed, Some("expires_ms")));
    }
    put(&mut world, "b", again).unwrap();
    world.pass(40_000);
    world.sweep();
    assert_eq!(code(get(&mut world, "b", None)), Code::Expired, "the end of a version written again is kept");
}

#[test]
fn limits() {
    let mut world = World::new(1);
    assert_eq!(code(put(&mut world, "a", value(&"x".repeat(MAX_VALUE_BYTES)))), Code::TooLarge);
    assert_eq!(code(put(&mut world, "a", PutKv::bytes(vec![0; MAX_VALUE_BYTES / 4 * 3]))), Code::TooLarge);
    put(&mut world, "a", PutKv::bytes(vec![0; MAX_VALUE_BYTES / 4 * 3 - 16])).unwrap();
    assert_eq!(code(put(&mut world, "a", PutKv::default())), Code::Malformed);
    let both = PutKv { bytes: Some(Base64(vec![1])), ..value("1") };
    assert_eq!(code(put(&mut world, "a", both)), Code::Malformed);
    assert_eq!(code(put(&mut world, "a", PutKv { ttl_s: Some(u64::MAX), ..value("1") })), Code::Malformed);
    for bad in ["", "a=b", "a\nb", &"x".repeat(129)] {
        let refusal = put(&mut world, "a", PutKv::fields(fields(&[("b", "1"), (bad, "2")]))).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Malformed, Some("data")));
        assert_eq!(code(patch(&mut world, "a", &[(bad, Some("1"))], None)), Code::Malformed);
    }
    put(&mut world, "c", PutKv::fields(fields(&[("a b/c", "1")]))).unwrap();
    patch(&mut world, "c", &[("", None)], None).unwrap();
    destroy(&mut world, "c", None).unwrap();
    let custom = |entries: &[(&str, Option<&str>)]| {
        let custom = entries.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        SetKvSettings { custom: Some(StrictMap(custom)), ..SetKvSettings::default() }
    };
    for bad in [
        SetKvSettings { max_versions: Some(0), ..SetKvSettings::default() },
        SetKvSettings { max_versions: Some(101), ..SetKvSettings::default() },
        SetKvSettings { ttl_s: Some(u64::MAX), ..SetKvSettings::default() },
        custom(&[("", Some("x"))]),
        custom(&[("k", Some(&"x".repeat(513)))]),
        custom(&[(&"k".repeat(129), Some("x"))]),
    ] {
        assert_eq!(code(set(&mut world, "a", bad)), Code::Malformed);
    }
    for number in 0..64 {
        set(&mut world, "a", custom(&[(&number.to_string(), Some("x"))])).unwrap();
    }
    assert_eq!(code(set(&mut world, "a", custom(&[("one more", Some("x"))]))), Code::Malformed);
    let fewer = set(&mut world, "a", custom(&[("0", None), ("one more", Some("x"))])).unwrap();
    assert_eq!(fewer.settings.custom.0.len(), 64);
    // The largest history that there can be fits its record.
    let many = SetKvSettings { max_versions: Some(100), ..SetKvSettings::default() };
    set(&mut world, "a", many).unwrap();
    for _ in 0..100 {
        put(&mut world, "a", PutKv { ttl_s: Some(1000), ..value("x") }).unwrap();
    }
    assert_eq!(world.count(Kind::KvVersion), 100);
}

/// A file that is sealed to Bob, as Alice states it, with something changed before she signs.
fn sealed(world: &World, version: u64, change: impl FnOnce(&mut SealedStatement)) -> PutKv {
    let file = b"age-encryption.org/v1 and so on".to_vec();
    let bob = &world.people["bob"].record;
    let recipients = bob.recipients().iter().map(|recipient| recipient.digest()).collect();
    let mut statement = SealedStatement {
        v: V1,
        cluster: world.context(None).cluster,
        path: path("a"),
        version,
        id: WrapId::new([7; 16]),
        from: world.id("alice"),
        to: vec![Addressee { principal: bob.principal(), record_sha256: bob.digest(), recipients }],
        ct: Ciphertext { sha256: Digest::new(sha256(&[&file])), len: u64::try_from(file.len()).unwrap() },
    };
    change(&mut statement);
    let key = world.people["alice"].identity.signing_key().unwrap();
    let statement = sign_in_memory(&statement, &[key]).unwrap();
    PutKv { sealed: Some(SealedKv { statement, file: Base64(file) }), ..PutKv::default() }
}

#[test]
fn what_is_sealed_names_its_place_and_its_readers() {
    let mut world = World::new(1);
    let good = sealed(&world, 1, |_| {});
    assert_eq!(put(&mut world, "a", good.clone()).unwrap().version, 1);
    let read = get(&mut world, "a", None).unwrap();
    assert_eq!((read.sealed, read.data, read.bytes), (good.sealed.clone(), None, None));
    let known: KvMetadata = ask(&mut world, Inspect { path: path("a") }).unwrap();
    assert_eq!(known.versions[0].readers, [world.id("bob")]);
    // A program may have looked up the version that it is signed as: that does not take the place of `cas`.
    set(&mut world, "a", SetKvSettings { cas_required: Some(true), ..SetKvSettings::default() }).unwrap();
    assert_eq!(code(put(&mut world, "a", good.clone())), Code::VersionMismatch);
    assert_eq!(code(put(&mut world, "b", good.clone())), Code::BadStatement);
    let second = sealed(&world, 2, |_| {});
    assert_eq!(code(put(&mut world, "a", second.clone())), Code::CasRequired);
    assert_eq!(put(&mut world, "a", PutKv { cas: Some(1), ..second }).unwrap().version, 2);
    assert_eq!(code(patch(&mut world, "a", &[("b", Some("1"))], Some(2))), Code::Malformed);
    type Change = fn(&mut SealedStatement);
    let changes: [(Change, Code); 6] = [
        (|s| s.cluster = ClusterId::new([0; 32]), Code::BadStatement),
        (|s| s.from = s.to[0].principal, Code::BadStatement),
        (|s| s.ct.len += 1, Code::BadStatement),
        (|s| s.ct.sha256 = Digest::new([0; 32]), Code::BadStatement),
        (|s| s.to[0].principal = PrincipalId::new([9; 32]), Code::UnknownRecipient),
        (|s| s.to[0].record_sha256 = Digest::new([9; 32]), Code::VersionMismatch),
    ];
    for (change, expected) in changes {
        let body = sealed(&world, 3, change);
        assert_eq!(code(put(&mut world, "a", body)), expected);
    }
    let both = PutKv { sealed: good.sealed, ..value("1") };
    assert_eq!(code(put(&mut world, "a", both)), Code::Malformed);
    // Bob cannot pass Alice's on as his own.
    let stolen = sealed(&world, 3, |_| {});
    let refused = world.run(Box::new(Put { path: path("a"), body: stolen }), Some("bob"));
    assert_eq!(refused.code(), Some(Code::BadStatement));
}

#[test]
fn what_is_sealed_does_not_become_readable_by_accident() {
    let mut world = World::new(1);
    let first = sealed(&world, 1, |_| {});
    put(&mut world, "a", first).unwrap();
    let readable = PutKv { cas: Some(1), ..value("1") };
    let refused = put(&mut world, "a", readable.clone()).unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Malformed, Some("unseal")));
    assert!(refused.hint.unwrap().contains("--unseal"));
    assert_eq!(code(put(&mut world, "a", PutKv { cas: Some(7), ..value("1") })), Code::VersionMismatch);
    delete(&mut world, "a", None).unwrap();
    assert_eq!(code(put(&mut world, "a", readable.clone())), Code::Malformed, "whatever became of it");
    put(&mut world, "a", PutKv { unseal: true, ..readable }).unwrap();
    put(&mut world, "a", value("2")).unwrap();
    assert_eq!(get(&mut world, "a", None).unwrap().version, 3, "the newest is what counts");
}

/// Secrets as a model keeps them: versions with their value, and whether they can be read.
type Model = BTreeMap<String, Vec<(u64, String, KvState)>>;

#[test]
fn whatever_is_done_a_model_does_the_same() {
    for seed in 0..60 {
        let (mut world, mut rng, mut model) = (World::new(seed), SeededRng::from_u64(seed), Model::new());
        let mut pick = |below: u64| u64::from_be_bytes(draw(&mut rng as &mut dyn Rng)) % below;
        let paths = ["a", "a/b", "a/b/c", "d/e", "d/f"];
        for step in 0..60 {
            let at = paths[usize::try_from(pick(5)).unwrap()];
            let known = model.get(at).cloned().unwrap_or_default();
            let newest = known.last().map_or(0, |(version, ..)| *version);
            let chosen = pick(newest.max(1)) + 1;
            let there = known.iter().position(|(version, ..)| *version == chosen);
            match pick(7) {
                0..=2 => {
                    let text = format!("{seed}-{step}");
                    assert_eq!(put(&mut world, at, value(&text)).unwrap().version, newest + 1);
                    let versions = model.entry(at.to_owned()).or_default();
                    versions.push((newest + 1, text, KvState::Live));
                    if versions.len() > 10 {
                        versions.remove(0);
                    }
                }
                3 => {
                    let done = delete(&mut world, at, Some(vec![chosen])).is_ok();
                    assert_eq!(done, there.is_some());
                    if let Some((.., state)) = there.map(|place| &mut model.get_mut(at).unwrap()[place]) {
                        *state = if *state == KvState::Live { KvState::Deleted } else { *state };
                    }
                }
                4 => {
                    let done = undelete(&mut world, at, Some(vec![chosen])).is_ok();
                    let state = there.map(|place| &mut model.get_mut(at).unwrap()[place].2);
                    assert_eq!(done, state.as_ref().is_some_and(|state| **state != KvState::Destroyed));
                    if let Some(state) = state.filter(|state| **state == KvState::Deleted) {
                        *state = KvState::Live;
                    }
                }
                5 => {
                    let done = destroy(&mut world, at, Some(vec![chosen])).is_ok();
                    assert_eq!(done, there.is_some());
                    if let Some((.., state)) = there.map(|place| &mut model.get_mut(at).unwrap()[place]) {
                        *state = KvState::Destroyed;
                    }
                }
                _ => assert_eq!(destroy(&mut world, at, None).is_ok(), model.remove(at).is_some()),
            }
            compare(&mut world, &model, &paths, &format!("seed {seed} step {step}"));
        }
    }
}

fn compare(world: &mut World, model: &Model, paths: &[&str], what: &str) {
    let mut contents = 0;
    for at in paths {
        for (version, text, state) in model.get(*at).into_iter().flatten() {
            let read = get(world, at, Some(*version));
            let live = read.is_ok_and(|kv| kv.data == Some(fields(&[("value", text)])));
            assert_eq!(live, *state == KvState::Live, "{what}: {at} {version}");
            contents += usize::from(*state != KvState::Destroyed);
        }
        assert_eq!(get(world, at, None).is_err_and(|refusal| refusal.code == Code::NotFound), !model.contains_key(*at));
    }
    assert_eq!(world.count(Kind::KvVersion), contents, "{what}: no content is left over");
    for dir in [None, Some("a"), Some("a/b"), Some("d")] {
        let prefix = dir.map_or_else(String::new, |dir| format!("{dir}/"));
        let below = model.keys().filter_map(|at| at.strip_prefix(&prefix));
        let names: BTreeSet<String> = below
            .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(first, _)| format!("{first}/")))
            .collect();
        assert_eq!(list(world, dir), names.into_iter().collect::<Vec<_>>(), "{what}: in {dir:?}");
    }
}

/// What one of two possible times calls expired is neither read nor taken back.
#[test]
fn a_version_is_not_read_while_the_clock_is_in_doubt() {
    for wall in [true, false] {
        let mut world = World::new(1);
        put(&mut world, "a", PutKv { ttl_s: Some(60), ..value("1") }).unwrap();
        put(&mut world, "b", PutKv { ttl_s: Some(60), ..value("1") }).unwrap();
        delete(&mut world, "b", None).unwrap();
        let step = |world: &mut World, wall: bool, ms: u64| match wall {
            true => world.now.unix_ms += ms,
            false => world.now.steady_ms += ms,
        };
        step(&mut world, wall, 59_999);
        assert!(get(&mut world, "a", None).is_ok());
        step(&mut world, wall, 1);
        assert_eq!(code(get(&mut world, "a", None)), Code::ClockStepped);
        assert_eq!(code(patch(&mut world, "a", &[("b", Some("1"))], None)), Code::ClockStepped);
        assert_eq!(code(undelete(&mut world, "b", None)), Code::ClockStepped);
        let known: KvMetadata = ask(&mut world, Inspect { path: path("b") }).unwrap();
        assert_eq!(known.versions[0].state, KvState::Deleted, "nothing was written");
        step(&mut world, !wall, 60_000);
        assert_eq!(code(get(&mut world, "a", None)), Code::Expired);
    }
}

fn watch(world: &mut World, at: &str) -> KvWatched {
    ask(world, Watch { path: path(at), after: None, patience: Duration::ZERO }).unwrap()
}

#[test]
fn a_mark_changes_with_what_can_be_read() {
    let mut world = World::new(1);
    let none = watch(&mut world, "a");
    assert_eq!((none.version, none.state, none.mark.as_str()), (0, None, "0"));
    set(&mut world, "a", SetKvSettings::default()).unwrap();
    assert_eq!(watch(&mut world, "a"), none, "settings are no version");
    let ends = put(&mut world, "a", PutKv { ttl_s: Some(60), ..value("1") }).unwrap().expires_ms;
    let live = watch(&mut world, "a");
    assert_eq!((live.version, live.state, live.expires_ms), (1, Some(KvState::Live), ends));
    assert_eq!(watch(&mut world, "a"), live);
    delete(&mut world, "a", None).unwrap();
    let deleted = watch(&mut world, "a");
    assert_eq!(deleted.state, Some(KvState::Deleted));
    undelete(&mut world, "a", None).unwrap();
    assert_eq!(watch(&mut world, "a"), live);
    world.pass(59_999);
    assert_eq!(watch(&mut world, "a"), live);
    world.pass(1);
    let expired = watch(&mut world, "a");
    assert_eq!(expired.state, Some(KvState::Expired));
    world.sweep();
    assert_eq!(watch(&mut world, "a").mark, expired.mark, "whether or not the sweep has come by");
    put(&mut world, "a", value("2")).unwrap();
    let second = watch(&mut world, "a");
    destroy(&mut world, "a", Some(vec![2])).unwrap();
    let destroyed = watch(&mut world, "a");
    assert_eq!(destroyed.state, Some(KvState::Destroyed));
    let all = [&none, &live, &deleted, &expired, &second, &destroyed];
    assert_eq!(all.iter().map(|one| one.mark.as_str()).collect::<BTreeSet<_>>().len(), all.len());
    assert!(all.iter().all(|one| one.mark.len() <= 64));
    let asked =
        |after: Option<&str>| Watch { path: path("a"), after: after.map(str::to_owned), patience: Duration::ZERO };
    assert!(asked(Some(&live.mark)).is_known(&live));
    assert!(!asked(Some(&live.mark)).is_known(&deleted) && !asked(None).is_known(&live));
}

#[test]
fn the_largest_of_everything_is_taken() {
    let mut world = World::new(1);
    let frame = r#"{"data":{"value":""}}"#.len();
    put(&mut world, "a", value(&"x".repeat(MAX_VALUE_BYTES - frame))).unwrap();
    let long = put(&mut world, "a", value(&"x".repeat(MAX_VALUE_BYTES - frame + 1))).unwrap_err();
    assert_eq!((long.code, long.field.as_deref()), (Code::TooLarge, Some("data")));
    let long = put(&mut world, "a", PutKv::bytes(vec![0; MAX_VALUE_BYTES])).unwrap_err();
    assert_eq!((long.code, long.field.as_deref()), (Code::TooLarge, Some("bytes")));
    let (now_ms, most_ms) = (world.now.unix_ms, MAX_TTL_S * 1000);
    let lives = |ttl_s| PutKv { ttl_s: Some(ttl_s), ..value("1") };
    assert_eq!(put(&mut world, "b", lives(MAX_TTL_S)).unwrap().expires_ms, Some(now_ms + most_ms));
    assert_eq!(code(put(&mut world, "b", lives(MAX_TTL_S + 1))), Code::Malformed);
    let ends = |at_ms| PutKv { expires_ms: Some(at_ms), ..value("1") };
    put(&mut world, "b", ends(now_ms + 1)).unwrap();
    put(&mut world, "b", ends(now_ms + most_ms)).unwrap();
    let late = put(&mut world, "b", ends(now_ms + most_ms + 1)).unwrap_err();
    assert_eq!((late.code, late.field.as_deref()), (Code::Malformed, Some("expires_ms")));
    let ttl = |ttl_s| SetKvSettings { ttl_s: Some(ttl_s), ..SetKvSettings::default() };
    set(&mut world, "b", ttl(MAX_TTL_S)).unwrap();
    assert_eq!(code(set(&mut world, "b", ttl(MAX_TTL_S + 1))), Code::Malformed);
    let entry = ("k".repeat(MAX_CUSTOM_KEY_BYTES), Some("v".repeat(MAX_CUSTOM_VALUE_BYTES)));
    let custom = SetKvSettings { custom: Some(StrictMap([entry].into())), ..SetKvSettings::default() };
    set(&mut world, "c", custom).unwrap();
    let before = world.count(Kind::KvVersion);
    set(&mut world, "d", SetKvSettings { max_versions: Some(1), ..SetKvSettings::default() }).unwrap();
    for _ in 0..2 {
        put(&mut world, "d", value("x")).unwrap();
        assert_eq!(world.count(Kind::KvVersion), before + 1, "1 keeps the newest alone");
    }
}

#[test]
fn what_has_nothing_to_do_writes_nothing() {
    let mut world = World::new(1);
    put(&mut world, "a", value("1")).unwrap();
    delete(&mut world, "a", None).unwrap();
    let hint = get(&mut world, "a", None).unwrap_err().hint;
    assert!(hint.is_some_and(|told| told.contains("bulla kv undelete a --version 1")));
    undelete(&mut world, "a", None).unwrap();
    let body = KvVersions { versions: None };
    let undelete = Undelete { path: path("a"), body: body.clone() };
    for op in [Box::new(undelete) as Box<dyn Operation>, Box::new(Delete { path: path("a"), body })] {
        let mut task = Task::new(op, Some(world.actor("alice")));
        let decided = task.decide(&mut world);
        assert!(decided.result.is_ok() && decided.writes.is_empty());
        delete(&mut world, "a", None).unwrap();
    }
}

/// What is known of a secret and its content are of one moment, whatever is written between two readings.
#[test]
fn whoever_reads_beside_a_write_finds_one_of_both() {
    let mut world = World::new(1);
    set(&mut world, "a", SetKvSettings { max_versions: Some(1), ..SetKvSettings::default() }).unwrap();
    put(&mut world, "a", value("1")).unwrap();
    let alice = world.actor("alice");
    let get = Get { path: path("a"), version: None };
    let patch = Patch {
        path: path("a"),
        body: PatchKv { data: StrictMap([("b".into(), None)].into()), cas: None, ttl_s: None },
    };
    for op in [Box::new(get) as Box<dyn Operation>, Box::new(patch)] {
        let mut task = Task::new(op, Some(alice.clone()));
        assert!(task.tick(&mut world).is_none());
        put(&mut world, "a", value("2")).unwrap();
        let answered = task.finish(&mut world);
        assert!(answered.result.is_ok(), "{:?}", answered.result);
    }
}

#[test]
fn what_is_not_there_says_why() {
    let mut world = World::new(1);
    set(&mut world, "a", SetKvSettings { max_versions: Some(1), ..SetKvSettings::default() }).unwrap();
    let says = |world: &mut World, version, what: &str| {
        let refusal = get(world, "a", version).unwrap_err();
        assert!(refusal.code == Code::NotFound && refusal.message.contains(what), "{version:?}: {}", refusal.message);
    };
    says(&mut world, None, "has no version yet");
    says(&mut world, Some(3), "has no version yet");
    put(&mut world, "a", value("1")).unwrap();
    put(&mut world, "a", value("2")).unwrap();
    says(&mut world, Some(3), "the newest version of kv/a is 2");
    for gone in [0, 1] {
        says(&mut world, Some(gone), "is not kept any more");
    }
    for (count, hint) in [(0, "1 keeps the newest alone"), (101, "a path of its own")] {
        let wrong = SetKvSettings { max_versions: Some(count), ..SetKvSettings::default() };
        let refusal = set(&mut world, "a", wrong).unwrap_err();
        assert!(refusal.hint.as_ref().is_some_and(|told| told.contains(hint)), "{refusal:?}");
    }
}

#[test]
fn a_sealed_file_that_is_too_large_is_named() {
    let mut world = World::new(1);
    let file = vec![7_u8; MAX_VALUE_BYTES];
    let ct = Ciphertext { sha256: Digest::new(sha256(&[&file])), len: u64::try_from(file.len()).unwrap() };
    let mut body = sealed(&world, 1, |statement| statement.ct = ct);
    body.sealed.as_mut().unwrap().file = Base64(file);
    let long = put(&mut world, "a", body).unwrap_err();
    assert_eq!((long.code, long.field.as_deref()), (Code::TooLarge, Some("sealed")));
}

/// No operator mutant, but no test of core holds the new `repeated` branches of `change`, `destroy_all` and `SetSettings`:
/// asked again, they tell what is so now and undo nothing that others did since (`spec/request.md`).
#[test]
fn a_repeat_tells_what_is_so_now() {
    let mut world = World::new(1);
    put(&mut world, "a", value("1")).unwrap();
    delete(&mut world, "a", None).unwrap();
    undelete(&mut world, "a", None).unwrap();
    let commits = world.commits;
    world.repeated = Some(Replay::Again);
    let fewer = SetKvSettings { max_versions: Some(1), ..SetKvSettings::default() };
    for told in [
        delete(&mut world, "a", None),
        destroy(&mut world, "a", Some(vec![1])),
        destroy(&mut world, "a", None),
        set(&mut world, "a", fewer),
    ] {
        let told = told.unwrap();
        assert_eq!((told.versions[0].state, told.settings.max_versions), (KvState::Live, 10));
    }
    assert_eq!(world.commits, commits);
}
