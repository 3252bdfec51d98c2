//! Who gets what from every route of a real server, as a golden table, and what must hold whatever the table says.

use crate::cases::{Cast, claim, open_body, share};
use crate::governance::{admit_by, enrol};
use crate::support::unsealed as unsealed_of;
use crate::support::{Caller, Reply, Request, Wire, finish, lasting, open};
use bulla_core::engine::wrap::MAX_STRANGERS;
use bulla_crypto::evidence;
use bulla_crypto::identity::Identity;
use bulla_server::node::Phase;
use bulla_server::route::{Auth, Endpoint, ROUTES, Route};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Bytes, GenesisApproval, SealMode};
use bulla_wire::id::{Digest, WrapId};
use bulla_wire::json::{self, V1};
use bulla_wire::signature::Audience;
use bulla_wire::wrap::Slip;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    /// Without a signature.
    Anonymous,
    /// A seal's admin.
    Admin,
    /// The document names it as an enroller.
    Enroller,
    /// Wrote the wrap; the only one whom policy lets read and write secrets.
    Writer,
    /// The wrap's.
    Recipient,
    /// Admitted, and a party to nothing.
    Stranger,
    /// Admitted and disabled.
    Disabled,
    /// Admitted by an enroller who was removed.
    Void,
    /// An admin of the seal whom another admin disabled.
    DisabledAdmin,
}

impl Actor {
    const ALL: [Self; 9] = [
        Self::Anonymous,
        Self::Admin,
        Self::Enroller,
        Self::Writer,
        Self::Recipient,
        Self::Stranger,
        Self::Disabled,
        Self::Void,
        Self::DisabledAdmin,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Admin => "admin",
            Self::Enroller => "enroller",
            Self::Writer => "writer",
            Self::Recipient => "recipient",
            Self::Stranger => "stranger",
            Self::Disabled => "disabled",
            Self::Void => "void",
            Self::DisabledAdmin => "disabled admin",
        }
    }

    /// What is tried last changes nothing for the others: whoever may do most.
    fn by_rights() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|actor| *actor != Self::Admin).chain([Self::Admin])
    }
}

/// Where the node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Uninitialised,
    Sealed,
    Unsealed,
}

/// Answers, by standing, place of the route in the table, and actor.
type Answers = BTreeMap<(Standing, usize, Actor), (u16, Option<Code>)>;

/// Everybody's key; nobody's for who does not sign.
type Keys = BTreeMap<Actor, Arc<Identity>>;

fn shape() -> Shape {
    Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::default() }
}

/// Sends a request as somebody, with a challenge of now.
async fn send(world: &World, keys: &Keys, audience: Audience, actor: Actor, route: &Route, good: Good) -> Reply {
    let Good { target, body } = good;
    let Some(key) = keys.get(&actor) else {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let headers = vec![("content-type".to_owned(), route.request.media_type().to_owned())];
        let (method, path, query) = (route.method.to_owned(), path.to_owned(), query.to_owned());
        return Wire::new(world.server().ready.address).send(&Request { method, path, query, headers, body }).await;
    };
    let mut caller = Caller::of(world, key.clone(), audience).await;
    let request = match world.server().node.phase() {
        // Nobody can encrypt to a cluster that is not there.
        Phase::Uninitialised => caller.request(route.method, &target, route.request.media_type(), body, caller.nonce()),
        _ => caller.of_route(world, route, &target, body),
    };
    caller.send(&request).await
}

/// A good request, but for who signs it.
#[derive(Debug, Clone)]
struct Good {
    target: String,
    body: Vec<u8>,
}

impl Good {
    fn new(target: impl Into<String>, body: Vec<u8>) -> Self {
        Self { target: target.into(), body }
    }

    /// To a route that anybody may call.
    fn open(route: &Route) -> Self {
        Self::new(route.template, vec![])
    }

    /// To a session of unsealing that is not there.
    fn without_session(endpoint: Endpoint, world: &World) -> Option<Self> {
        let session = format!("/v1/seal/session/{}", "a".repeat(26));
        let share = api::GiveShare { index: 0, file: Bytes(vec![1; 64]), approval: None };
        Some(match endpoint {
            Endpoint::SealSession => Self::new("/v1/seal/session", vec![]),
            Endpoint::SealKey => Self::new(session + "/key", vec![]),
            Endpoint::SealShare => Self::new(session + "/share", json::to_vec(&share)),
            Endpoint::SealConsent => Self::new("/v1/seal:consent", consent(world)),
            _ => return None,
        })
    }
}

/// A statement where a consent belongs. No commit was lost, so none would be taken.
fn consent(world: &World) -> Vec<u8> {
    let payload = GenesisApproval { v: V1, cluster: world.cluster };
    let envelope = evidence::sign_in_memory(&payload, &[world.admins[0].identity.signing_key().unwrap()]).unwrap();
    json::to_vec(&api::Signed { envelope })
}

fn init(world: &World) -> Good {
    Good::new("/v1/init", json::to_vec(&world.init(&shape())))
}

/// Admits everyone; the keys by which they call.
async fn people(world: &World, cast: &Cast) -> Keys {
    let admin = world.client(&world.admins[0]);
    let (enroller, stranger, disabled) =
        (world.admit("enroller").await, world.admit("stranger").await, world.admit("disabled").await);
    let (gone, void) = (world.admit("gone").await, Person::new("void"));
    admin.principal_disable(&disabled.name).await.unwrap();
    enrol(world, &enroller, true).await;
    enrol(world, &gone, true).await;
    admit_by(world, &gone, &void, &["admins"]).await;
    enrol(world, &gone, false).await;
    let text = "permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"transit\"], resource) \
                when { principal.name == \"alice\" };";
    for name in ["kv", "transit", "doomed"] {
        let put = api::PutPolicy { text: text.to_owned(), replaces: None };
        admin.policy_put(&name.parse().unwrap(), &put).await.unwrap();
    }
    BTreeMap::from([
        (Actor::Admin, world.admins[0].identity.clone()),
        (Actor::Enroller, enroller.identity),
        (Actor::Writer, cast.alice_person.identity.clone()),
        (Actor::Recipient, cast.bob_person.identity.clone()),
        (Actor::Stranger, stranger.identity),
        (Actor::Disabled, disabled.identity),
        (Actor::Void, void.identity),
        (Actor::DisabledAdmin, world.admins[2].identity.clone()),
    ])
}

/// Every route of an unsealed node. The requests are given back, for the nodes that do not read them.
async fn unsealed(world: &World, cast: &mut Cast, keys: &Keys, answers: &mut Answers) -> Vec<Good> {
    let admin = world.client(&world.admins[0]);
    let mut requests = Vec::new();
    for (at, route) in ROUTES.iter().enumerate() {
        let mut last = Good::open(route);
        for actor in Actor::by_rights() {
            // A recovery of policies enables the admins who signed it.
            admin.principal_disable(&world.admins[2].name).await.unwrap();
            last = match Good::without_session(route.endpoint, world) {
                Some(good) => good,
                None if route.auth == Auth::Open => Good::open(route),
                None if route.auth == Auth::Init => init(world),
                None => {
                    let (_, (target, body)) = cast.good(world, route).await;
                    Good::new(target, body)
                }
            };
            let reply = send(world, keys, Audience::Cluster(world.cluster), actor, route, last.clone()).await;
            answers.insert((Standing::Unsealed, at, actor), (reply.status, reply.code()));
            if matches!(world.server().node.phase(), Phase::Sealed(_)) {
                world.unseal().await;
                for who in [crate::cases::Who::Admin, crate::cases::Who::Alice, crate::cases::Who::Bob] {
                    cast.caller(who).send(&open("POST", "/v1/challenge")).await.ok();
                }
            }
            // Two may be taken at once; here one actor comes after the other.
            unsealed_of(world).snapshots.lock().unwrap().sweep(u64::MAX);
        }
        requests.push(last);
    }
    requests
}

/// Every route of a sealed node, in the midst of a session that needs one more share than the admin gives.
async fn sealed(world: &World, keys: &Keys, requests: &[Good], answers: &mut Answers) {
    let mut admin = Caller::new(world, &world.admins[0]).await;
    for (at, route) in ROUTES.iter().enumerate() {
        for actor in Actor::by_rights() {
            let session: api::UnsealSession = admin.call("POST", "/v1/seal/session").await.ok().json();
            let path = format!("/v1/seal/session/{}", session.id);
            let good = match route.endpoint {
                Endpoint::SealKey => Good::new(path + "/key", vec![]),
                Endpoint::SealShare => {
                    let key: api::EncryptedShareKey = admin.call("GET", &format!("{path}/key")).await.ok().json();
                    Good::new(path + "/share", json::to_vec(&share(world, &world.admins[0], &session, &key)))
                }
                Endpoint::DocumentPut => Good::new("/v1/document", crate::cases::next_document(world)),
                _ => requests[at].clone(),
            };
            let reply = send(world, keys, Audience::Cluster(world.cluster), actor, route, good).await;
            answers.insert((Standing::Sealed, at, actor), (reply.status, reply.code()));
            assert!(matches!(world.server().node.phase(), Phase::Sealed(_)), "{route:?} {actor:?}");
        }
    }
}

/// Every route of a node without a cluster. The admin's init comes last, since it ends that.
async fn uninitialised(requests: &[Good], answers: &mut Answers) {
    let mut world = World::bare(&shape()).await;
    let audience = Audience::Node(world.server().ready.node);
    let keys: Keys = Actor::ALL
        .into_iter()
        .filter_map(|actor| match actor {
            Actor::Anonymous => None,
            Actor::Admin => Some((actor, world.admins[0].identity.clone())),
            Actor::DisabledAdmin => Some((actor, Person::new("other").identity)),
            _ => Some((actor, Person::new("nobody").identity)),
        })
        .collect();
    let (inits, others): (Vec<_>, Vec<_>) = ROUTES.iter().enumerate().partition(|(_, route)| route.auth == Auth::Init);
    for (at, route) in others.into_iter().chain(inits) {
        for actor in Actor::by_rights() {
            assert!(matches!(world.server().node.phase(), Phase::Uninitialised), "{route:?} {actor:?}");
            let good = if route.auth == Auth::Init { init(&world) } else { requests[at].clone() };
            let reply = send(&world, &keys, audience, actor, route, good).await;
            answers.insert((Standing::Uninitialised, at, actor), (reply.status, reply.code()));
        }
    }
    let Phase::Sealed(made) = world.server().node.phase() else { panic!("the admin made no cluster") };
    world.cluster = made.view.id();
    finish(world).await;
}

/// The table as a reviewer reads it.
fn table(answers: &Answers) -> String {
    let mut text = "# What a real server answers: every route, to everybody, in every state. A number is a success or\n\
                    # an answer without an error; a word is the code of an error, whose status stands at the end.\n\
                    # The writer and the recipient are those of the wrap that is asked for, and each request is good\n\
                    # but for who signs it: the wrap is the writer's, the admission the admin's, the share that of the\n\
                    # first admin. Policy is the first set, and lets the writer read and write secrets\n\
                    # and use transit keys.\n"
        .to_owned();
    let mut codes = BTreeMap::new();
    for (name, standing) in [
        ("Unsealed", Standing::Unsealed),
        ("Sealed, in an unseal session", Standing::Sealed),
        ("Uninitialised; nobody but the admin is known to the node", Standing::Uninitialised),
    ] {
        let mut rows =
            vec![[String::new()].into_iter().chain(Actor::ALL.map(|actor| actor.title().to_owned())).collect()];
        for (at, route) in ROUTES.iter().enumerate() {
            let mut row = vec![format!("{} {}", route.method, route.template)];
            for actor in Actor::ALL {
                let (status, code) = answers[&(standing, at, actor)];
                row.push(code.map_or(status.to_string(), |code| code.to_string()));
                if let Some(code) = code {
                    assert_eq!(status, code.status(), "{route:?} {actor:?}");
                    codes.insert(code.to_string(), status);
                }
            }
            rows.push(row);
        }
        let width = |column: usize| rows.iter().map(|row: &Vec<String>| row[column].len()).max().unwrap();
        let widths: Vec<_> = (0..=Actor::ALL.len()).map(width).collect();
        writeln!(text, "\n## {name}\n").unwrap();
        for row in &rows {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
    }
    writeln!(text, "\n## Codes\n").unwrap();
    for (code, status) in codes {
        writeln!(text, "{status}  {code}").unwrap();
    }
    text
}

/// Every route × actor × state. Beyond the golden table: who is disabled or void gets nothing, a stranger nothing of a
/// wrap, and a sealed node gives nothing but what unsealing needs.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_what_the_table_says() {
    let world = World::new(shape()).await;
    let mut cast = Cast::new(&world).await;
    let keys = people(&world, &cast).await;
    let mut answers = Answers::new();
    let requests = unsealed(&world, &mut cast, &keys, &mut answers).await;
    world.client(&world.admins[0]).seal().await.unwrap();
    sealed(&world, &keys, &requests, &mut answers).await;
    finish(world).await;
    uninitialised(&requests, &mut answers).await;

    assert_eq!(answers.len(), 3 * ROUTES.len() * Actor::ALL.len());
    for ((standing, at, actor), (status, code)) in &answers {
        let route = &ROUTES[*at];
        let told = format!("{standing:?}, {actor:?}, {} {}: {status} {code:?}", route.method, route.template);
        if !(200..300).contains(status) {
            assert!(code.is_some() || route.endpoint == Endpoint::Health, "{told}");
            continue;
        }
        if route.auth != Auth::Open {
            assert!(!matches!(actor, Actor::Anonymous | Actor::Disabled | Actor::Void), "{told}");
        }
        if *actor == Actor::Stranger {
            assert!(!route.template.contains("/wrap/{id}"), "{told}");
        }
        if *actor == Actor::DisabledAdmin && *standing == Standing::Unsealed && route.auth != Auth::Open {
            // What lets admins take each other back. The rights of unsealing are the document's to take.
            assert!(matches!(route.endpoint, Endpoint::PolicyReplaced | Endpoint::PolicyRecover), "{told}");
        }
        let (opens, starts) = match route.endpoint {
            Endpoint::Health | Endpoint::Cluster | Endpoint::Challenge => (true, true),
            Endpoint::SealStatus | Endpoint::SealSession | Endpoint::SealKey | Endpoint::SealShare => (true, false),
            // Signed by k admins, as the way in for the key of a new node.
            Endpoint::DocumentPut => (true, false),
            Endpoint::Init => (false, *actor == Actor::Admin),
            _ => (false, false),
        };
        assert!(*standing != Standing::Sealed || opens, "{told}");
        assert!(*standing != Standing::Uninitialised || starts, "{told}");
    }
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/answers.txt"));
    bulla_testkit::golden(path, &table(&answers));
}

/// What somebody hears of a wrap who is no party to it.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    status: u16,
    code: Option<Code>,
    /// Message, field and hint. What the caller gave himself is left out: the wrap's id; and the request's.
    words: Vec<Option<String>>,
    bytes: usize,
    headers: Vec<String>,
    /// Commits by the answer's state, and by the state of the next one. Whoever is alone on a cluster could count them.
    commits: (Option<u64>, u64),
}

/// Asks for a wrap by hand. `claim` is the digest of one.
async fn ask(world: &World, caller: &mut Caller, route: &Route, slip: &Slip, claim_sha256: Digest) -> Heard {
    let statement_sha256 = slip.statement_sha256;
    let body = match route.endpoint {
        Endpoint::WrapInspect => vec![],
        Endpoint::WrapOpen => json::to_vec(&open_body(slip, &claim())),
        Endpoint::WrapAck | Endpoint::WrapNack => json::to_vec(&api::FinishWrap { statement_sha256, claim_sha256 }),
        Endpoint::WrapRevoke | Endpoint::WrapRelease => json::to_vec(&api::RevokeWrap { statement_sha256 }),
        endpoint => panic!("no case for {endpoint:?}"),
    };
    let wrap = slip.wrap.to_string();
    let before = caller.call("GET", "/v1/alarms").await.state().sequence.unwrap();
    let request = caller.of_route(world, route, &route.template.replace("{id}", &wrap), body);
    let reply = caller.send(&request).await;
    let after = caller.call("GET", "/v1/alarms").await.state();
    assert_eq!((reply.state().alarms, after.alarms), (0, 0), "{route:?}");
    let error = reply.error().unwrap();
    let headers = lasting(&reply.headers).into_iter().filter(|(name, _)| name != "content-digest");
    Heard {
        status: reply.status,
        code: Some(error.code),
        words: vec![Some(error.message.replace(&wrap, "<wrap>")), error.field, error.hint],
        bytes: reply.body.len(),
        headers: headers.map(|(name, value)| format!("{name}: {value:?}")).collect(),
        commits: (reply.state().sequence.map(|sequence| sequence - before), after.sequence.unwrap() - before),
    }
}

/// Whatever became of a wrap, a stranger hears the same as of one that never was, however often.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_tell_whether_a_wrap_exists() {
    let world = World::new(Shape::default()).await;
    let mut cast = Cast::new(&world).await;
    let mut stranger = Caller::new(&world, &world.admit("stranger").await).await;
    let (opened, opened_claim) = cast.opened().await;
    let (acked, acked_claim) = cast.opened().await;
    let (nacked, nacked_claim) = cast.opened().await;
    for (slip, verb, claim_sha256) in [(&acked, "ack", acked_claim), (&nacked, "nack", nacked_claim)] {
        let body = api::FinishWrap { statement_sha256: slip.statement_sha256, claim_sha256 };
        cast.bob.call_json("POST", &format!("/v1/wrap/{}:{verb}", slip.wrap), &body).await.ok();
    }
    let (fresh, revoked) = (cast.wrap().await, cast.wrap().await);
    let revoke = api::RevokeWrap { statement_sha256: revoked.statement_sha256 };
    cast.alice.call_json("POST", &format!("/v1/wrap/{}:revoke", revoked.wrap), &revoke).await.ok();
    let never = WrapId::new([7; 16]);

    let routes: Vec<_> = ROUTES.iter().filter(|route| route.template.contains("/wrap/{id}")).collect();
    assert_eq!(routes.len(), 6);
    for (name, slip) in
        [("fresh", fresh.clone()), ("opened", opened), ("acked", acked), ("nacked", nacked), ("revoked", revoked)]
    {
        for statement_sha256 in [slip.statement_sha256, Digest::new([9; 32])] {
            for route in &routes {
                let there = Slip { statement_sha256, ..slip.clone() };
                let not = Slip { wrap: never, ..there.clone() };
                let there = ask(&world, &mut stranger, route, &there, opened_claim).await;
                let not = ask(&world, &mut stranger, route, &not, opened_claim).await;
                assert_eq!(there, not, "{name}, {route:?}");
                assert_eq!((there.status, there.code), (404, Some(Code::NotFound)), "{name}, {route:?}");
            }
        }
    }
    // The parties are told of so many strangers and no more; the stranger does not notice.
    let open = routes.iter().find(|route| route.endpoint == Endpoint::WrapOpen).unwrap();
    let not = ask(&world, &mut stranger, open, &Slip { wrap: never, ..fresh.clone() }, opened_claim).await;
    let alarms = |reply: Reply| reply.json::<api::Alarms>().alarms.len();
    for n in 0..usize::from(MAX_STRANGERS) + 2 {
        let there = ask(&world, &mut stranger, open, &fresh, opened_claim).await;
        assert_eq!(there, not, "attempt {n}");
    }
    // Two alarms about each of the others, and one about the claim that was nacked.
    let told = alarms(cast.alice.call("GET", "/v1/alarms?all=true").await.ok());
    assert_eq!(told, usize::from(MAX_STRANGERS) + 4 * 2 + 1);
    finish(world).await;
}
