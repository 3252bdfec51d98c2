//! One good request for every signed route. A route without one makes the tests that use them fail.

use crate::support::{Caller, view};
use bulla_client::{Client, MemoryOutput, Outgoing, content};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Binding};
use bulla_crypto::evidence::{self, AdmissionDraft, DocumentDraft, Node, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::sign::SigningKey;
use bulla_server::route::{Endpoint, Route};
use bulla_testkit::world::{Person, World};
use bulla_wire::api;
use bulla_wire::encoding::base64url;
use bulla_wire::evidence::{NodeState, PolicyRecovery};
use bulla_wire::id::{Digest, LeaseId, WrapId};
use bulla_wire::json::{self, StrictMap, V1};
use bulla_wire::snapshot::Begun;
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, Parcel, Slip, Statement, to_lines};
use rcgen::PublicKeyData as _;

use crate::support::Request;
use crate::transit;

/// Everyone who plays, and what they have at hand.
pub struct Cast {
    pub admin: Caller,
    pub alice: Caller,
    pub bob: Caller,
    pub alice_person: Person,
    pub bob_person: Person,
    pub writer: Client,
    /// How a database is reached that says yes to everything.
    pub database: api::PutDatabase,
}

/// Who signs a case's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Admin,
    Alice,
    Bob,
}

impl Cast {
    /// Admits everyone, lets them read and write secrets, and leaves something everywhere.
    pub async fn new(world: &World) -> Self {
        let (alice_person, bob_person) = (world.admit("alice").await, world.admit("bob").await);
        for name in ["erin", "frank", "mallory"] {
            world.admit(name).await;
        }
        let admin = world.client(&world.admins[0]);
        let text = "permit (principal, action in Bulla::Action::\"kv\", resource);".to_owned();
        let put = |text| api::PutPolicy { text, replaces: None };
        admin.policy_put(&"kv".parse().unwrap(), &put(text.clone())).await.unwrap();
        admin.policy_put(&"doomed".parse().unwrap(), &put(text)).await.unwrap();
        let text = "permit (principal, action in Bulla::Action::\"transit\", resource);".to_owned();
        admin.policy_put(&"transit".parse().unwrap(), &put(text)).await.unwrap();
        let text = "permit (principal, action == Bulla::Action::\"snapshot.save\", resource) \
                    when { [\"alice\", \"bob\"].contains(principal.name) };"
            .to_owned();
        admin.policy_put(&"snapshots".parse().unwrap(), &put(text)).await.unwrap();
        let text = "permit (principal, action in Bulla::Action::\"database\", resource) \
                    when { [\"alice\", \"bob\"].contains(principal.name) };"
            .to_owned();
        admin.policy_put(&"databases".parse().unwrap(), &put(text)).await.unwrap();
        admin.principal_disable(&"frank".parse().unwrap()).await.unwrap();
        let writer = world.client(&alice_person);
        let data = StrictMap([("password".to_owned(), "hunter2".to_owned())].into());
        writer.kv_put(&"app/db".parse().unwrap(), &api::PutKv::fields(data)).await.unwrap();
        for (name, kind) in transit::KEYS {
            let key = api::CreateTransitKey { kind, exportable: true, deletion_allowed: true };
            writer.transit_create(&name.parse().unwrap(), &key).await.unwrap();
        }
        let database = database(crate::yes::start().await);
        for name in ["app", "spare"] {
            // Each by a user of its own, since a rotation would lock out the others.
            let put = api::PutDatabase { user: name.to_owned(), ..database.clone() };
            writer.database_put(&name.parse().unwrap(), &put).await.unwrap();
        }
        for role in ["reader", "spare"] {
            writer.database_role_put(&"app".parse().unwrap(), &role.parse().unwrap(), &role_body()).await.unwrap();
        }
        writer.database_role_put(&"app".parse().unwrap(), &"cert".parse().unwrap(), &certified()).await.unwrap();
        writer
            .database_static_put(&"app".parse().unwrap(), &"fixed".parse().unwrap(), &static_body("fixed"))
            .await
            .unwrap();
        Self {
            admin: Caller::new(world, &world.admins[0]).await,
            alice: Caller::new(world, &alice_person).await,
            bob: Caller::new(world, &bob_person).await,
            alice_person,
            bob_person,
            writer,
            database,
        }
    }

    /// A lease of Bob's.
    async fn lease(&mut self, world: &World) -> LeaseId {
        let bob = world.client(&self.bob_person);
        bob.database_issue(&"app".parse().unwrap(), &"reader".parse().unwrap(), None).await.unwrap().lease
    }

    /// A caller.
    pub fn caller(&mut self, who: Who) -> &mut Caller {
        match who {
            Who::Admin => &mut self.admin,
            Who::Alice => &mut self.alice,
            Who::Bob => &mut self.bob,
        }
    }

    /// A wrap from Alice to Bob.
    pub async fn wrap(&self) -> Slip {
        let bob = self.writer.resolve("bob").await.unwrap();
        self.writer.wrap_create(Outgoing::new(vec![bob], 3600), content(b"x".to_vec())).await.unwrap().slip
    }

    /// A secret that nobody else looks at.
    pub async fn secret(&self) -> String {
        let path = format!("own/{}", WrapId::new(bulla_crypto::random::draw(&mut SystemRng)));
        self.writer.kv_put(&path.parse().unwrap(), &api::PutKv::bytes(b"x".to_vec())).await.unwrap();
        path
    }

    /// A wrap that Bob has opened by hand, and the claim.
    pub async fn opened(&mut self) -> (Slip, Digest) {
        let slip = self.wrap().await;
        let claim = claim();
        let body = open_body(&slip, &claim);
        self.bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &body).await.ok();
        (slip, claim.recipients()[0].digest())
    }

    /// A good request to a route of an unsealed node, everything that it needs in place.
    pub async fn request(&mut self, world: &World, route: &Route) -> (Who, Request) {
        let (who, (target, body)) = self.good(world, route).await;
        (who, self.caller(who).of_route(world, route, &target, body))
    }

    /// Who sends a good request to a route of an unsealed node, its target, and its body before it is encrypted.
    pub async fn good(&mut self, world: &World, route: &Route) -> (Who, (String, Vec<u8>)) {
        let empty = |target: String| (target, vec![]);
        match route.endpoint {
            Endpoint::SealStatus => (Who::Admin, empty("/v1/seal".into())),
            Endpoint::SealSeal => (Who::Admin, empty("/v1/seal:seal".into())),
            Endpoint::SealConfirmClock => (Who::Admin, empty("/v1/seal:confirm-clock".into())),
            Endpoint::SealRekey => (Who::Admin, empty("/v1/seal:rekey".into())),
            Endpoint::DocumentPut => (Who::Admin, ("/v1/document".into(), next_document(world))),
            Endpoint::SnapshotSave => (Who::Alice, empty("/v1/snapshot".into())),
            Endpoint::SnapshotPage => {
                let begun: Begun = self.bob.call("POST", "/v1/snapshot").await.ok().json();
                (Who::Bob, empty(format!("/v1/snapshot/{}?page=0", begun.id)))
            }
            Endpoint::PrincipalList => (Who::Bob, empty("/v1/principal?limit=5".into())),
            Endpoint::PrincipalRead => (Who::Bob, empty("/v1/principal/alice".into())),
            Endpoint::PrincipalPut => (Who::Admin, admission(world, &Person::new("dave"), "/v1/principal/dave")),
            Endpoint::PrincipalDisable => (Who::Admin, empty("/v1/principal/erin".into())),
            Endpoint::PrincipalEnable => (Who::Admin, empty("/v1/principal/frank:enable".into())),
            Endpoint::Whoami => (Who::Bob, empty("/v1/whoami".into())),
            Endpoint::PolicyList => (Who::Admin, empty("/v1/policy".into())),
            Endpoint::PolicyRead => (Who::Admin, empty("/v1/policy/first".into())),
            Endpoint::PolicyPut => {
                let text = "forbid (principal, action, resource in Bulla::Kv::\"never\");".to_owned();
                let body = api::PutPolicy { text, replaces: None };
                (Who::Admin, ("/v1/policy/extra".into(), json::to_vec(&body)))
            }
            Endpoint::PolicyDelete => (Who::Admin, empty("/v1/policy/doomed".into())),
            Endpoint::PolicyCheck => (Who::Admin, ("/v1/policy:check".into(), policy_check())),
            Endpoint::PolicyExplain => {
                let id = crate::support::lines(world).await.iter().find_map(|line| match &line.body {
                    bulla_core::audit::Body::Request(line) => Some(line.id.to_string()),
                    _ => None,
                });
                let body = api::ExplainPolicy { id: id.unwrap() };
                (Who::Admin, ("/v1/policy:explain".into(), json::to_vec(&body)))
            }
            Endpoint::PolicyReplaced => (Who::Admin, empty("/v1/policy:recover".into())),
            Endpoint::PolicyRecover => (Who::Admin, ("/v1/policy:recover".into(), recovery(world))),
            Endpoint::AuditRead => (Who::Admin, empty("/v1/audit?limit=3".into())),
            Endpoint::AlarmRead => (Who::Bob, empty("/v1/alarms?all=true".into())),
            Endpoint::AlarmSeen => {
                let slip = self.wrap().await;
                self.bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim())).await;
                self.bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim())).await;
                let alarms: api::Alarms = self.bob.call("GET", "/v1/alarms?all=true").await.ok().json();
                let up_to = alarms.alarms.last().unwrap().id.clone();
                (Who::Bob, ("/v1/alarms:seen".into(), json::to_vec(&api::SeenAlarms { up_to })))
            }
            Endpoint::WrapCreate => {
                let (body, _) = parcel(world, &self.alice_person, &[&self.bob_person], |_| {});
                (Who::Alice, ("/v1/wrap".into(), body))
            }
            Endpoint::WrapList => (Who::Bob, empty("/v1/wrap".into())),
            Endpoint::WrapInspect => (Who::Bob, empty(format!("/v1/wrap/{}", self.wrap().await.wrap))),
            Endpoint::WrapOpen => {
                let slip = self.wrap().await;
                (Who::Bob, (format!("/v1/wrap/{}:open", slip.wrap), json::to_vec(&open_body(&slip, &claim()))))
            }
            Endpoint::WrapAck | Endpoint::WrapNack => {
                let (slip, claim_sha256) = self.opened().await;
                let verb = if route.endpoint == Endpoint::WrapAck { "ack" } else { "nack" };
                let body = api::FinishWrap { statement_sha256: slip.statement_sha256, claim_sha256 };
                (Who::Bob, (format!("/v1/wrap/{}:{verb}", slip.wrap), json::to_vec(&body)))
            }
            Endpoint::WrapRevoke | Endpoint::WrapRelease => {
                let slip = self.wrap().await;
                let verb = if route.endpoint == Endpoint::WrapRevoke { "revoke" } else { "release" };
                let body = api::RevokeWrap { statement_sha256: slip.statement_sha256 };
                (Who::Alice, (format!("/v1/wrap/{}:{verb}", slip.wrap), json::to_vec(&body)))
            }
            Endpoint::KvGet => (Who::Bob, empty("/v1/kv/app/db".into())),
            Endpoint::KvPut => (Who::Alice, ("/v1/kv/app/cache".into(), kv_body())),
            Endpoint::KvPatch => {
                let data = StrictMap([("note".to_owned(), Some("seen".to_owned()))].into());
                let body = api::PatchKv { data, cas: None, ttl_s: None };
                (Who::Alice, ("/v1/kv/app/db".into(), json::to_vec(&body)))
            }
            Endpoint::KvWatch => (Who::Bob, empty("/v1/kv/app/db:watch".into())),
            Endpoint::KvInspect => (Who::Bob, empty("/v1/kv/app/db:metadata".into())),
            Endpoint::KvConfigure => {
                let body = api::SetKvSettings { max_versions: Some(7), ..api::SetKvSettings::default() };
                (Who::Alice, ("/v1/kv/app/db:metadata".into(), json::to_vec(&body)))
            }
            Endpoint::KvDelete | Endpoint::KvUndelete => {
                let verb = if route.endpoint == Endpoint::KvDelete { "delete" } else { "undelete" };
                let path = self.secret().await;
                (
                    Who::Alice,
                    (format!("/v1/kv/{path}:{verb}"), json::to_vec(&api::KvVersions { versions: Some(vec![1]) })),
                )
            }
            Endpoint::KvDestroy => {
                let path = self.secret().await;
                let body = api::DestroyKv { versions: None, all: true };
                (Who::Alice, (format!("/v1/kv/{path}:destroy"), json::to_vec(&body)))
            }
            Endpoint::KvList if route.template.contains('{') => (Who::Bob, empty("/v1/kv/app:list?limit=2".into())),
            Endpoint::KvList => (Who::Bob, empty("/v1/kv:list".into())),
            Endpoint::DatabaseList => (Who::Bob, empty("/v1/database?limit=5".into())),
            Endpoint::DatabaseRead => (Who::Bob, empty("/v1/database/app".into())),
            Endpoint::DatabasePut => (Who::Alice, ("/v1/database/other".into(), json::to_vec(&self.database))),
            Endpoint::DatabaseDelete => {
                self.writer.database_put(&"spare".parse().unwrap(), &self.database).await.unwrap();
                (Who::Alice, empty("/v1/database/spare".into()))
            }
            Endpoint::DatabaseRelease => (Who::Alice, empty("/v1/database/app:release".into())),
            Endpoint::DatabaseRotate => (Who::Alice, empty("/v1/database/app:rotate".into())),
            Endpoint::DatabaseRoles => (Who::Bob, empty("/v1/database/app:list".into())),
            Endpoint::DatabaseRoleRead => (Who::Bob, empty("/v1/database/app/reader".into())),
            Endpoint::DatabaseRolePut => (Who::Alice, ("/v1/database/app/writer".into(), json::to_vec(&role_body()))),
            Endpoint::DatabaseRoleDelete => {
                let (app, spare) = ("app".parse().unwrap(), "spare".parse().unwrap());
                self.writer.database_role_put(&app, &spare, &role_body()).await.unwrap();
                (Who::Alice, empty("/v1/database/app/spare".into()))
            }
            Endpoint::DatabaseIssue => {
                let body = api::IssueCredentials { ttl_s: Some(600) };
                (Who::Bob, ("/v1/database/app/reader:issue".into(), json::to_vec(&body)))
            }
            Endpoint::DatabaseAuthority => (Who::Bob, empty("/v1/database/app:ca".into())),
            Endpoint::DatabaseCertify => {
                let public_key = base64url(&rcgen::KeyPair::generate().unwrap().subject_public_key_info());
                let body = api::CertifyCredentials { public_key, ttl_s: Some(600) };
                (Who::Bob, ("/v1/database/app/cert:certify".into(), json::to_vec(&body)))
            }
            Endpoint::DatabaseStaticList => (Who::Bob, empty("/v1/database/app:static".into())),
            Endpoint::DatabaseStaticRead => (Who::Bob, empty("/v1/database/app/fixed:static".into())),
            Endpoint::DatabaseStaticPut => {
                let path = "/v1/database/app/fixed:static".into();
                (Who::Alice, (path, json::to_vec(&static_body("fixed"))))
            }
            Endpoint::DatabaseStaticDelete => {
                let (app, loose) = ("app".parse().unwrap(), "loose".parse().unwrap());
                self.writer.database_static_put(&app, &loose, &static_body("loose")).await.unwrap();
                (Who::Alice, empty("/v1/database/app/loose:static".into()))
            }
            Endpoint::DatabaseStaticCreds => (Who::Bob, empty("/v1/database/app/fixed:creds".into())),
            Endpoint::DatabaseStaticRotate => (Who::Alice, empty("/v1/database/app/fixed:rotate".into())),
            Endpoint::LeaseList => (Who::Bob, empty("/v1/lease?limit=5".into())),
            Endpoint::LeaseListAll => (Who::Admin, empty("/v1/lease:all?stuck=true".into())),
            Endpoint::LeaseRead => (Who::Bob, empty(format!("/v1/lease/{}", self.lease(world).await))),
            Endpoint::LeaseRenew => {
                let body = json::to_vec(&api::RenewLease { ttl_s: Some(600) });
                (Who::Bob, (format!("/v1/lease/{}:renew", self.lease(world).await), body))
            }
            Endpoint::LeaseRevoke => (Who::Bob, empty(format!("/v1/lease/{}:revoke", self.lease(world).await))),
            Endpoint::LeaseRevokeMany => {
                let what = api::RevokeLeases::lease(self.lease(world).await);
                (Who::Admin, ("/v1/lease:revoke".into(), json::to_vec(&what)))
            }
            endpoint => match transit::good(self, endpoint).await {
                Some(good) => good,
                None => panic!("no case for {endpoint:?}, {} {}", route.method, route.template),
            },
        }
    }
}

/// How a database is reached on this machine.
pub fn database(port: u16) -> api::PutDatabase {
    api::PutDatabase {
        engine: api::DatabaseEngine::Postgres,
        host: "127.0.0.1".into(),
        port,
        database: None,
        user: "root".into(),
        password: "anything".into(),
        owner: None,
        moved: false,
        tls: api::DatabaseTls::Off,
        ca: None,
        connections: 16,
        check: true,
    }
}

/// A role whose users log in by certificate.
pub fn certified() -> api::PutDatabaseRole {
    let creation = vec!["CREATE ROLE {{name}} LOGIN VALID UNTIL {{expiration}} IN ROLE certified".to_owned()];
    api::PutDatabaseRole { creation, certificate: true, ..role_body() }
}

/// A static role that is not rotated while a test runs.
pub fn static_body(user: &str) -> api::PutStaticRole {
    api::PutStaticRole { user: user.to_owned(), rotate_every_s: 24 * 3600 }
}

/// A role whose users may log in.
pub fn role_body() -> api::PutDatabaseRole {
    let creation = "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}".to_owned();
    let (revocation, renewal) = (vec![], vec![]);
    api::PutDatabaseRole {
        creation: vec![creation],
        revocation,
        renewal,
        ttl_s: 3600,
        max_ttl_s: 24 * 3600,
        certificate: false,
    }
}

/// A fresh claim.
pub fn claim() -> Identity {
    Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap()
}

/// The body that opens a wrap with a claim.
pub fn open_body(slip: &Slip, claim: &Identity) -> api::OpenWrap {
    api::OpenWrap { statement_sha256: slip.statement_sha256, claim: claim.recipients()[0].to_string() }
}

/// A secret as the plaintext of a body.
pub fn kv_body() -> Vec<u8> {
    let data = StrictMap([("url".to_owned(), "redis://cache".to_owned())].into());
    json::to_vec(&api::PutKv::fields(data))
}

/// A question about policy.
pub fn policy_check() -> Vec<u8> {
    let action = "kv.get".to_owned();
    json::to_vec(&api::CheckPolicy { principal: "bob".parse().unwrap(), action, resource: "kv/app/db".into() })
}

/// An admission of somebody by the first admin.
pub fn admission(world: &World, person: &Person, target: &str) -> (String, Vec<u8>) {
    let record = Record::open(&person.record, None).unwrap();
    let serial = world.server().node.now_ms();
    let payload = AdmissionDraft { serial, ..AdmissionDraft::default() }.payload(&view(world), &record);
    let admission = evidence::sign_in_memory(&payload, &[world.admins[0].identity.signing_key().unwrap()]).unwrap();
    (target.to_owned(), json::to_vec(&api::PutPrincipal { record: person.record.clone(), admission }))
}

/// The next document: one more node, which is retired already.
pub fn next_document(world: &World) -> Vec<u8> {
    let view = view(world);
    let mut draft = DocumentDraft::of(view.newest());
    let key = SigningKey::generate(&mut SystemRng).unwrap().public_key().clone();
    draft.nodes.push(Node { key, state: NodeState::Retired, since_ms: 1 });
    let document = view.next_document(&draft).unwrap();
    let keys: Vec<_> = world.admins.iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
    json::to_vec(&api::Signed { envelope: evidence::sign_in_memory(&document, &keys).unwrap() })
}

/// A recovery of the policies that are there, signed by all admins.
pub fn recovery(world: &World) -> Vec<u8> {
    let unsealed = crate::support::unsealed(world);
    let directory = unsealed.directory();
    let texts = directory.policies().texts().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    recovery_of(world, &StrictMap(texts), world.admins.len())
}

/// A recovery of these policies, signed by so many admins.
pub fn recovery_of(world: &World, texts: &StrictMap<String>, admins: usize) -> Vec<u8> {
    let admins: Vec<_> = world.admins.iter().take(admins).collect();
    recovery_by(world, texts, &admins)
}

/// A recovery of these policies, signed by these admins.
pub fn recovery_by(world: &World, texts: &StrictMap<String>, admins: &[&Person]) -> Vec<u8> {
    let policies = String::from_utf8(json::to_vec(texts)).unwrap();
    let payload = PolicyRecovery {
        v: V1,
        cluster: world.cluster,
        policies_sha256: Digest::new(sha256(&[policies.as_bytes()])),
        replaces: crate::support::unsealed(world).directory().policies().digest(),
        at_ms: world.server().node.now_ms(),
    };
    let keys: Vec<_> = admins.iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
    let approval = evidence::sign_in_memory(&payload, &keys).unwrap();
    json::to_vec(&api::RecoverPolicies { policies, approval })
}

/// The body that makes a wrap, by hand; `change` may spoil the statement before it is signed.
pub fn parcel(world: &World, from: &Person, to: &[&Person], change: impl FnOnce(&mut Statement)) -> (Vec<u8>, Slip) {
    let now_ms = world.server().node.now_ms();
    let record = |person: &Person| Record::open(&person.record, None).unwrap();
    let (cluster, wrap, from_id) = (world.cluster, WrapId::new(draw(&mut SystemRng)), record(from).principal());
    let to: Vec<_> = to.iter().map(|person| record(person)).collect();
    let addressees: Vec<Addressee> = to
        .iter()
        .map(|record| Addressee {
            principal: record.principal(),
            record_sha256: record.digest(),
            recipients: record.recipients().iter().map(|recipient| recipient.digest()).collect(),
        })
        .collect();
    let recipients: Vec<_> = to.iter().flat_map(|record| record.recipients()).cloned().collect();
    let to_sha256 = Digest::new(sha256(&[to_lines(&addressees).as_bytes()]));
    let binding = Binding { wrap, cluster, from: from_id, to_sha256 };
    let file = envelope::seal(&recipients, Some(&binding), b"by hand").unwrap();
    let mut statement = Statement {
        v: V1,
        cluster,
        wrap,
        from: from_id,
        to: addressees,
        mode: Mode::First,
        ct: Ciphertext { sha256: Digest::new(sha256(&[&file])), len: file.len() as u64 },
        nbf_ms: 0,
        exp_ms: now_ms + 3_600_000,
        ack_s: 600,
        label: None,
        origin: None,
    };
    change(&mut statement);
    let envelope = evidence::sign_in_memory(&statement, &[from.identity.signing_key().unwrap()]).unwrap();
    let slip = Slip { cluster, wrap: statement.wrap, statement_sha256: evidence::payload_digest(&envelope) };
    let mut body = Parcel::head(&json::to_vec(&envelope));
    body.extend_from_slice(&file);
    (body, slip)
}

/// Opens a wrap as its recipient would.
pub async fn open_all(client: &Client, slip: &Slip) -> Vec<u8> {
    let mut output = MemoryOutput::new();
    client.wrap_open(slip, &mut output).await.unwrap().acked.unwrap();
    output.content().to_vec()
}

/// An admin's share for a session, as the admin's client makes it.
pub fn share(
    world: &World,
    admin: &Person,
    session: &api::UnsealSession,
    key: &api::EncryptedShareKey,
) -> api::GiveShare {
    crate::support::share(&view(world), admin, session, key)
}
