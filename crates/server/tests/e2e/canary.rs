//! Unique secrets through every entrance, and then a search of everything that was written and answered.

use crate::cases::{Cast, claim, open_all, open_body};
use crate::support::{Caller, audit_path, finish};
use bulla_client::{Outgoing, content};
use bulla_testkit::canary::{Canary, assert_absent, scan, scan_bytes};
use bulla_testkit::world::{Shape, World};
use bulla_wire::api;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::wrap::Mode;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Everything that any server of this process logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was logged after this many bytes.
    pub fn since(&self, bytes: usize) -> Vec<u8> {
        self.0.lock().unwrap()[bytes..].to_vec()
    }
}

pub fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing::subscriber::set_global_default(writer).unwrap();
        log
    })
}

/// Takes every event and span of every level, with all their fields.
impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Fields(self));
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Fields(self));
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(self));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a Log);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let line = format!("{}={value:?}\n", field.name());
        self.0.0.lock().unwrap().extend_from_slice(line.as_bytes());
    }
}

/// Everything that answered an error, as it went over the wire.
struct Errors(Vec<u8>);

impl Errors {
    async fn put(&mut self, world: &World, caller: &mut Caller, path: &str, plaintext: &[u8]) {
        let nonce = caller.nonce();
        let body = caller.ingress(world, "PUT", path, &nonce, plaintext);
        let request = caller.request("PUT", path, "application/age", body, nonce);
        let reply = caller.send(&request).await;
        assert!(reply.status >= 400, "{}", String::from_utf8_lossy(plaintext));
        self.keep(&reply);
    }

    fn keep(&mut self, reply: &crate::support::Reply) {
        self.0.extend_from_slice(&reply.body);
        self.0.extend_from_slice(format!("{:?}", reply.headers).as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_or_told() {
    let log = log();
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let [small, large, value, kv_field, typed, spare] =
        ["small wrap", "large wrap", "secret", "secret's field", "mistyped secret", "secret in a broken body"]
            .map(Canary::text);
    let [path, label, rule, attribute] = ["path", "label", "policy", "attribute"].map(Canary::text);
    let mut errors = Errors(Vec::new());

    // Wraps, through the client and by hand.
    let bob = cast.writer.resolve("bob").await.unwrap();
    let mut big = vec![0; 700 * 1024];
    big.extend_from_slice(large.bytes());
    let mut claims = Vec::new();
    for bytes in [small.bytes().to_vec(), big] {
        let outgoing = Outgoing {
            mode: Mode::Each,
            label: Some(label.as_str().to_owned()),
            ..Outgoing::new(vec![bob.clone()], 3600)
        };
        let made = cast.writer.wrap_create(outgoing, content(bytes.clone())).await.unwrap();
        let reader = world.client(&cast.bob_person);
        assert_eq!(open_all(&reader, &made.slip).await, bytes);
        let second = claim();
        let body = open_body(&made.slip, &second);
        let reply = cast.bob.call_json("POST", &format!("/v1/wrap/{}:open", made.slip.wrap), &body).await;
        errors.keep(&reply);
        claims.push(second);
    }
    let unopened = cast.writer.wrap_create(Outgoing::new(vec![bob], 3600), content(small.bytes().to_vec())).await;
    unopened.unwrap();

    // Secrets, good and broken.
    let data = StrictMap([(kv_field.as_str().to_owned(), value.as_str().to_owned())].into());
    let put = api::PutKv::fields(data);
    let place = format!("app/{}", path.as_str());
    cast.writer.kv_put(&place.parse().unwrap(), &put).await.unwrap();
    let read = cast.writer.kv_get(&place.parse().unwrap()).await.unwrap();
    assert_eq!(read.data.unwrap().0[kv_field.as_str()], value.as_str());
    let stale = api::PutKv { cas: Some(9), ..put };
    let url = "/v1/kv/app/broken";
    let alice = &mut cast.alice;
    errors.put(&world, alice, url, &json::to_vec(&stale)).await;
    let (word, spare_word) = (typed.as_str(), spare.as_str());
    for broken in [
        format!("{{\"data\":\"{word}\"}}"),
        format!("{{\"data\":[\"{word}\"]}}"),
        format!("{{\"data\":{{\"a\":[\"{word}\"]}}}}"),
        format!("{{\"data\":{{\"a\":{{\"{word}\":1}}}}}}"),
        format!("{{\"data\":{{\"{word}\":1}}}}"),
        format!("{{\"data\":{{\"a\":\"b\"}},\"{word}\":1}}"),
        format!("{{\"data\":{{\"{word}\":\"a\",\"{word}\":\"b\"}}}}"),
        format!("{{\"data\":{{\"a\":\"b\"}},\"cas\":\"{word}\"}}"),
        format!("\"{word}\""),
        word.to_owned(),
        format!("{{\"data\":{{\"a\":\"{spare_word}"),
        format!("{{\"data\":{{\"a\":\"{spare_word}\"}}}} {spare_word}"),
        format!("{{\"data\":{{\"a\":\"{spare_word}\\x\"}}}}"),
    ] {
        errors.put(&world, alice, url, broken.as_bytes()).await;
    }
    // Without the ingress line, and by somebody else.
    let view = crate::support::view(&world);
    let bare =
        bulla_crypto::envelope::seal(std::slice::from_ref(view.newest().ingress()), None, spare.bytes()).unwrap();
    let bare = alice.request("PUT", url, "application/age", bare, alice.nonce());
    let reply = alice.send(&bare).await;
    assert!(reply.status >= 400);
    errors.keep(&reply);

    // What is not public but no secret either: not in the store, for who steals it.
    let admin = world.client(&world.admins[0]);
    let text = format!("permit (principal, action, resource in Bulla::Kv::\"{}\");", rule.as_str());
    admin.policy_put(&"canary".parse().unwrap(), &api::PutPolicy { text, replaces: None }).await.unwrap();
    let dave = bulla_testkit::world::Person::new("dave");
    let attributes = [("note".to_owned(), attribute.as_str().to_owned())].into();
    admin.admit(&dave.record, bulla_client::Admit { attributes, ..Default::default() }).await.unwrap();

    let secrets = [small, large, value, kv_field, typed, spare];
    let mut keys: Vec<Canary> = Vec::new();
    let people = [&cast.alice_person, &cast.bob_person, &dave, &world.admins[0]];
    for identity in people.iter().map(|person| &*person.identity).chain(&claims) {
        let text = identity.to_file_text(None, None).unwrap();
        let text = std::str::from_utf8(text.expose()).unwrap();
        let line = text.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap();
        keys.push(Canary::of("identity", line.as_bytes()));
    }
    let (folder, audit) = (world.data(), audit_path(&world));
    let hidden = [label, rule, attribute];
    let paths = [path];
    // The search finds what is there: names stand in clear in the audit log.
    world.server().node.parts.sink.flush().await.unwrap();
    assert!(!scan(&paths, &audit).is_empty(), "the audit log names paths");
    for sealed in [false, true] {
        if sealed {
            admin.seal().await.unwrap();
        }
        for canaries in [&secrets[..], &keys] {
            assert_absent(canaries, [folder.as_path(), audit.as_path()]);
        }
        for canaries in [&hidden[..], &paths] {
            assert_absent(canaries, [folder.as_path()]);
        }
        assert_absent(&hidden, [audit.as_path()]);
    }
    let logged = log.0.lock().unwrap().clone();
    assert!(logged.len() > 1000, "something was logged");
    for canaries in [&secrets[..], &keys, &hidden] {
        for (place, text) in [("log", &logged), ("errors", &errors.0)] {
            let found = scan_bytes(canaries, Path::new(place), text);
            assert!(found.is_empty(), "{}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        }
    }
    finish(world).await;
}
