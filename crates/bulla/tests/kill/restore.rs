//! Killed while it accounts for commits that its store lost, with the admins' consent: the next unseal must find the
//! loss again, and until all is accounted for nothing opens. Twice in a row, at the same points and at others.

use crate::{LIFE, SIGABRT, VARIABLE, many};
use bulla_client::wire::api::{AlarmKind, PutPolicy, SealState};
use bulla_client::wire::error::Code;
use bulla_client::wire::evidence::Consent;
use bulla_client::wire::id::ClusterId;
use bulla_client::wire::wrap::Slip;
use bulla_client::{Admit, Client, ClientError, MemoryOutput, Outgoing, Pin, State, Unseal, content};
use bulla_crypto::evidence::{self, ClusterView};
use bulla_server::failpoint::{
    DRIVE_AFTER_COMMIT, DRIVE_BEFORE_COMMIT, RESTORE_AFTER_LINE, RESTORE_PARKED, RESTORE_PARKED_ONE,
    RESTORE_REPLAYED_ONE, UNSEAL_AFTER_COMMIT, UNSEAL_AFTER_LINE, UNSEAL_BEFORE_COMMIT, UNSEAL_BEFORE_LINE,
};
use bulla_testkit::world::{Person, copy_directory};
use bulla_testkit::{Cli, Options, Server, bulla, long};
use bulla_wire::api;
use bulla_wire::evidence::{MinKem, SealMode};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A store that was not closed in order.
const STORE: [&str; 2] = ["bulla.redb", "bulla.journal"];
/// Wraps that nobody opened, in any history: they are to wait for their writer.
const WAITING: usize = 3;
/// Points within the accounting, and how often each is met: the wraps that wait, one that was opened, one that was
/// taken back and one that is held stand in the index of what is due; four commits of the log are lost.
const POINTS: &[Hit] = &[
    (UNSEAL_BEFORE_COMMIT, 1),
    (UNSEAL_AFTER_COMMIT, 1),
    (RESTORE_AFTER_LINE, 1),
    (RESTORE_PARKED_ONE, 6),
    (RESTORE_PARKED, 1),
    (RESTORE_REPLAYED_ONE, 4),
    (DRIVE_BEFORE_COMMIT, 7),
    (DRIVE_AFTER_COMMIT, 7),
    (UNSEAL_BEFORE_LINE, 1),
    (UNSEAL_AFTER_LINE, 1),
];
/// The points that end a server here.
pub fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().map(|(point, _)| *point)
}

/// Deaths at each point.
const RUNS: u64 = 5;

/// One or two deaths.
#[derive(Debug, Clone)]
struct Case {
    point: &'static str,
    hit: u64,
    /// The second accounting dies too, here.
    again: Option<Hit>,
}

/// A point, and at which of its hits.
type Hit = (&'static str, u64);

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (place, &(point, hits)) in POINTS.iter().enumerate() {
        let runs = if long() { 10 * RUNS } else { RUNS };
        for run in 0..runs {
            // Every second time it dies again, at a point that goes around all of them.
            let (other, others) = POINTS[(place + usize::try_from(run).unwrap() / 2) % POINTS.len()];
            // What is parked already costs no commit any more, so operations have fewer.
            let hit = if other.starts_with("drive.") { 1 } else { 1 + run % others };
            let again = (run % 2 == 1 && point != UNSEAL_AFTER_LINE).then_some((other, hit));
            cases.push(Case { point, hit: 1 + run * hits / runs, again });
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_accounting_that_is_killed_begins_anew() {
    let scene = Arc::new(Scene::new().await);
    many(cases(), move |case| {
        let scene = Arc::clone(&scene);
        async move { one(&scene, &case).await }
    })
    .await;
}

/// An installation whose store was set back while its audit log was not. Each case works on a copy.
struct Scene {
    folder: TempDir,
    admins: Vec<Person>,
    alice: Person,
    bob: Person,
    node: String,
    cluster: ClusterId,
    /// Never opened.
    waiting: Vec<Slip>,
    /// Opened by Bob before the copy, and never acknowledged.
    held: Slip,
    /// Opened, and taken back, in the history that was lost.
    taken: Slip,
    revoked: Slip,
    /// Made in that history.
    lost: Slip,
}

const SECRET: &[u8] = b"the launch code";

fn quorum(admins: &[Person]) -> api::Init {
    api::Init {
        name: "test".parse().unwrap(),
        admins: admins.iter().map(|admin| admin.record.clone()).collect(),
        mode: SealMode::Quorum,
        k: 2,
        min_kem: MinKem::Hybrid,
    }
}

impl Scene {
    async fn new() -> Self {
        let admins: Vec<Person> = ["ann", "ben", "cleo"].into_iter().map(Person::new).collect();
        let (alice, bob, eve) = (Person::new("alice"), Person::new("bob"), Person::new("eve"));
        let mut server = Server::prepare(Options::durable(bulla!()));
        let record = server.directory().join("ann.pub");
        std::fs::write(&record, bulla_wire::json::to_vec(&admins[0].record)).unwrap();
        *server.options_mut() = Options::durable(bulla!()).admin(record);
        server.restart();
        let node = server.node().to_owned();
        let founder = admins[0].client(&address(&server), Pin::Node(node.parse().unwrap()));
        let cluster = founder.init(&quorum(&admins)).await.unwrap().id();
        let folder = TempDir::new().unwrap();
        let client = |server: &Server, person: &Person| person.client(&address(server), Pin::Cluster(cluster));

        assert!(unseal(&server, cluster, &admins).await.is_none());
        let ann = client(&server, &admins[0]);
        for person in [&alice, &bob, &eve] {
            ann.admit(&person.record, Admit::default()).await.unwrap();
        }
        let text = r#"permit (principal, action in Bulla::Action::"kv", resource);"#.to_owned();
        ann.policy_put(&"doomed".parse().unwrap(), &PutPolicy { text, replaces: None }).await.unwrap();
        let writer = client(&server, &alice);
        let wrap = async |writer: &Client| {
            let to = writer.resolve("bob").await.unwrap();
            writer.wrap_create(Outgoing::new(vec![to], 3600), content(SECRET.to_vec())).await.unwrap().slip
        };
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            waiting.push(wrap(&writer).await);
        }
        let (held, taken, revoked) = (wrap(&writer).await, wrap(&writer).await, wrap(&writer).await);
        let holder = remembering(&server, cluster, &bob, folder.path());
        holder.wrap_open(&held, &mut crate::work::Full).await.expect_err("no room for it");
        holder.flush().unwrap();
        drop(holder);

        // The copy is made between two commits. What follows is lost to the store: the rest of this history, and
        // the next.
        server.signal(Signal::STOP);
        let copy = |name: &str| folder.path().join(format!("copy of {name}"));
        for name in STORE {
            std::fs::copy(server.data().join(name), copy(name)).unwrap();
        }
        server.signal(Signal::CONT);
        let mut output = MemoryOutput::new();
        client(&server, &bob).wrap_open(&taken, &mut output).await.unwrap().acked.unwrap();
        assert_eq!(output.content(), SECRET);
        ann.principal_disable(&"eve".parse().unwrap()).await.unwrap();
        server.restart();
        assert!(unseal(&server, cluster, &admins).await.is_none());
        let (ann, writer) = (client(&server, &admins[0]), client(&server, &alice));
        writer.wrap_revoke(&revoked).await.unwrap();
        ann.policy_delete(&"doomed".parse().unwrap()).await.unwrap();
        let lost = wrap(&writer).await;
        server.kill();
        copy_directory(&server.data(), &folder.path().join("data"));
        for name in STORE {
            std::fs::rename(copy(name), folder.path().join("data").join(name)).unwrap();
        }
        Self { folder, admins, alice, bob, node, cluster, waiting, held, taken, revoked, lost }
    }

    /// A server on a copy of the scene, which dies where it is said.
    async fn start(&self, point: &str) -> Server {
        let (from, point) = (self.folder.path().join("data"), point.to_owned());
        blocking(move || {
            let mut server = Server::prepare(Options::durable(bulla!()).env(VARIABLE, point));
            copy_directory(&from, &server.data());
            server.restart();
            server
        })
        .await
    }

    fn client(&self, server: &Server, person: &Person) -> Client {
        person.client(&address(server), Pin::Cluster(self.cluster))
    }

    /// Two admins consent.
    async fn consent(&self, client: Client, consent: &Consent) -> Result<(), ClientError> {
        let keys: Vec<_> = self.admins[..2].iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
        client.consent_send(evidence::sign_in_memory(consent, &keys).unwrap()).await
    }

    /// They consent, and the server dies under it. It is started again, and may have to die once more.
    async fn death(&self, server: Server, consent: &Consent, point: &'static str, next: Option<Hit>) -> Server {
        let client = self.client(&server, &self.admins[1]);
        let died = died(server, point, next);
        tokio::pin!(died);
        tokio::select! {
            // The client would ask again for as long as it may.
            ended = self.consent(client, consent) => {
                ended.expect_err("it outlived its point");
                died.await
            }
            server = &mut died => server,
        }
    }
}

fn address(server: &Server) -> String {
    format!("https://{}", server.address())
}

/// A client of Bob's that remembers in a folder, so that a claim outlives it.
fn remembering(server: &Server, cluster: ClusterId, person: &Person, folder: &Path) -> Client {
    let builder = Client::builder(address(server)).identity(person.identity.clone()).pin(Pin::Cluster(cluster));
    builder.state(State::Directory(folder.join("bob"))).timeout(Duration::from_secs(30)).build().unwrap()
}

/// Two admins give their shares, with nothing remembered; what they have to consent to, if anything.
async fn unseal(server: &Server, cluster: ClusterId, admins: &[Person]) -> Option<Consent> {
    let approve: &(dyn Fn(&ClusterView) -> bool + Sync) = &|_| true;
    let mut given = None;
    for admin in &admins[..2] {
        let client = admin.client(&address(server), Pin::Cluster(cluster));
        given = Some(client.unseal(&Unseal { approve, danger_older_epoch: true }).await.unwrap().given);
    }
    let given = given.unwrap();
    let state = if given.consent_needed.is_some() { SealState::Sealed } else { SealState::Unsealed };
    assert_eq!(given.state, state);
    given.consent_needed
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn one(scene: &Scene, case: &Case) {
    let mut server = scene.start(&format!("{}:{}", case.point, case.hit)).await;
    let first = unseal(&server, scene.cluster, &scene.admins).await.expect("the store lost commits");
    let mut last = (case.point, first.kept);
    server = scene.death(server, &first, case.point, case.again).await;
    if let Some((point, _)) = case.again {
        let wanted = asked_again(scene, &server, &first, &last).await;
        last = (point, wanted.kept);
        server = scene.death(server, &wanted, point, None).await;
    }
    nothing_opens(scene, &server).await;
    if last.0 == UNSEAL_AFTER_LINE {
        assert!(unseal(&server, scene.cluster, &scene.admins).await.is_none(), "all was accounted for");
    } else {
        let wanted = asked_again(scene, &server, &first, &last).await;
        nothing_opens(scene, &server).await;
        scene.consent(scene.client(&server, &scene.admins[1]), &wanted).await.unwrap();
    }
    accounted(scene, &server).await;
    // Nothing is missing any more.
    let server = blocking(move || {
        server.restart();
        server
    })
    .await;
    assert!(unseal(&server, scene.cluster, &scene.admins).await.is_none(), "accounted for once and for all");
    sound(server, scene).await;
}

/// Waits until the server is dead, and starts it again.
async fn died(mut server: Server, point: &'static str, next: Option<Hit>) -> Server {
    blocking(move || {
        let status = server.wait(LIFE);
        assert_eq!(status.signal(), Some(SIGABRT), "{status}:\n{}", server.log());
        assert!(server.log().contains(&format!("failpoint {point}: abort")), "{}", server.log());
        let options = server.options_mut();
        options.without_env(VARIABLE);
        if let Some((point, hit)) = next {
            *options = options.clone().env(VARIABLE, format!("{point}:{hit}"));
        }
        server.restart();
        server
    })
    .await
}

/// The loss is found again: what the log remembers is the same, what the store holds is more at most.
async fn asked_again(
    scene: &Scene,
    server: &Server,
    first: &Consent,
    last: &(&str, bulla_wire::evidence::Position),
) -> Consent {
    let wanted = unseal(server, scene.cluster, &scene.admins).await.expect("the loss is forgotten");
    assert_eq!(wanted.lost, first.lost, "another loss");
    let (point, kept) = last;
    assert!(wanted.kept.sequence >= kept.sequence, "the store lost more");
    assert_eq!(wanted.kept == *kept, *point == UNSEAL_BEFORE_COMMIT, "{:?} after {point} at {kept:?}", wanted.kept);
    wanted
}

/// The node is sealed, whoever asks.
async fn nothing_opens(scene: &Scene, server: &Server) {
    for slip in scene.waiting.iter().chain([&scene.held, &scene.taken, &scene.revoked]) {
        refused(&scene.client(server, &scene.bob), slip, Code::Sealed).await;
    }
}

async fn refused(client: &Client, slip: &Slip, code: Code) {
    let mut output = MemoryOutput::new();
    let error = client.wrap_open(slip, &mut output).await.expect_err("it opened");
    assert_eq!(error.code(), Some(code), "{slip}: {error:?}");
    assert!(output.content().is_empty());
}

/// Everything is as a consented restore leaves it.
async fn accounted(scene: &Scene, server: &Server) {
    let [ann, alice, bob] = [&scene.admins[0], &scene.alice, &scene.bob].map(|person| scene.client(server, person));
    for slip in &scene.waiting {
        refused(&bob, slip, Code::Parked).await;
    }
    refused(&bob, &scene.taken, Code::Revoked).await;
    refused(&bob, &scene.revoked, Code::Revoked).await;
    refused(&bob, &scene.lost, Code::NotFound).await;
    refused(&bob, &scene.held, Code::AlreadyOpened).await;
    let gone = ann.policy(&"doomed".parse().unwrap()).await.expect_err("its deletion was lost");
    assert_eq!(gone.code(), Some(Code::NotFound), "{gone:?}");
    assert!(ann.resolve("eve").await.unwrap().disabled, "that she was disabled was lost");
    let alarms = ann.alarms(None, None, true).await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.kind == AlarmKind::StoreRolledBack), "{alarms:?}");

    // The claim that won before the copy still has what it won; the others have it from their writer, once.
    let memory = TempDir::new().unwrap();
    copy_directory(&scene.folder.path().join("bob"), &memory.path().join("bob"));
    opens(&remembering(server, scene.cluster, &scene.bob, memory.path()), &scene.held).await;
    for slip in &scene.waiting {
        alice.wrap_release(slip).await.unwrap();
        opens(&bob, slip).await;
        refused(&scene.client(server, &scene.bob), slip, Code::AlreadyOpened).await;
    }
}

async fn opens(client: &Client, slip: &Slip) {
    let mut output = MemoryOutput::new();
    client.wrap_open(slip, &mut output).await.unwrap().acked.unwrap();
    assert_eq!(output.content(), SECRET);
}

async fn sound(mut server: Server, scene: &Scene) {
    let (node, cluster) = (scene.node.clone(), scene.cluster.to_string());
    blocking(move || {
        assert_eq!(server.stop().code(), Some(0), "{}", server.log());
        let path = server.audit();
        let args = ["audit", "verify", "--whole", "--node", &node, "--of-cluster", &cluster, "--file"];
        let report = Cli::new(bulla!()).run(args.iter().copied().chain([path.to_str().unwrap()])).ok();
        assert!(report.ends_with("sound"), "{report}");
    })
    .await;
}
