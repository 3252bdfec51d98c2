//! Calls against a node that answers by script, over a local socket: what it signs is real, and whoever stands before
//! it may keep an answer or show another.

use super::*;
use crate::fixture::{World, person, world};
use crate::known::KnownError;
use crate::principal::Admit;
use bulla_crypto::envelope;
use bulla_crypto::evidence::{AdminSet, DocumentDraft, Node, Record, RecordChain, sign_in_memory};
use bulla_crypto::message::{digest_header, sign_response};
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::Kv;
use bulla_wire::api::{Cluster, LineageEntry};
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::Base64;
use bulla_wire::error::{Code, ErrorBody};
use bulla_wire::evidence::{Bytes, Consent, Document, GenesisApproval, NodeState, Position};
use bulla_wire::id::{ClusterId, Digest, Lineage};
use bulla_wire::json::StrictMap;
use bulla_wire::json::V1;
use bulla_wire::name::SecretPath;
use bulla_wire::signature::{AGE_MEDIA_TYPE, Answered, JSON_MEDIA_TYPE, ResponseParts, STATE_HEADER};
use bulla_wire::state::State;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// What comes back for a signed request.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Nothing.
    Lose,
    /// An error of the open profile.
    Open(Code),
    /// An error for this very request.
    Refuse(Code),
    /// Success.
    Done,
    /// Success, of the open profile.
    OpenDone,
    /// Success, from a node that stands at sequence 1.
    Behind,
}

/// A node and its script. The last act is repeated.
struct Stage {
    world: World,
    acts: Mutex<Vec<Act>>,
    /// Nonces of the signed requests that came.
    nonces: Mutex<Vec<String>>,
    /// The document that answers name.
    told: Mutex<u32>,
    /// How many documents are shown; none, and the route is dead.
    shown: Mutex<usize>,
    /// Admins' approvals of genesis.
    approvals: Mutex<Vec<Envelope>>,
    /// Where answers say that the cluster stands: epoch, a byte of the lineage, sequence.
    place: Mutex<(u64, u8, Option<u64>)>,
    /// What it tells of the histories of its store.
    histories: Mutex<(Vec<LineageEntry>, Vec<Envelope>)>,
    /// What is said to be the number of the newest document, if not the truth.
    newest: Mutex<Option<u32>>,
    /// Documents that are shown in the place of the world's, and the node that answers.
    instead: Mutex<Option<(ClusterView, SigningKey)>>,
    /// What somebody between answers, unsigned, to whoever wants a challenge.
    between: Mutex<Option<Code>>,
    /// Media type and body of success, if it is no empty object.
    body: Mutex<Option<(&'static str, Vec<u8>)>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: HashMap<String, String>,
}

impl Request {
    async fn read(stream: &mut UnixStream) -> Self {
        let mut bytes = Vec::new();
        let end = loop {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers: HashMap<_, _> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        while bytes.len() < end + 4 + length {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        }
        Self { method, path: path.to_owned(), query: query.to_owned(), headers }
    }

    fn open(&self) -> Answered<'_> {
        Answered::Open { method: &self.method, path: &self.path, query: &self.query }
    }

    fn signed(&self) -> Answered<'_> {
        let header = |name: &str| self.headers[name].as_str();
        Answered::Signed {
            request: RequestParts {
                method: &self.method,
                path: &self.path,
                query: &self.query,
                content_type: header("content-type"),
                content_digest: header(CONTENT_DIGEST_HEADER),
                audience: header(AUDIENCE_HEADER),
                challenge: header(CHALLENGE_HEADER),
            },
            signature_input: header(SIGNATURE_INPUT_HEADER),
            signature: header(SIGNATURE_HEADER),
        }
    }
}

fn challenge() -> String {
    Challenge::new(Challenge::covered(0, now_ms(), [0; 2], [0; 8]), [0; 16]).to_string()
}

fn refused(code: Code) -> (u16, Vec<u8>) {
    let entry = ErrorEntry { code, message: "no".into(), field: None, hint: None, id: None, receipt: None };
    (code.status(), json::to_vec(&ErrorBody { errors: vec![entry] }))
}

/// The bytes of an answer as `node` signs it.
fn answer(node: &SigningKey, answered: &Answered<'_>, state: &State, told: (u16, Vec<u8>)) -> Vec<u8> {
    answer_of(JSON_MEDIA_TYPE, node, answered, state, told)
}

fn answer_of(
    media: &str,
    node: &SigningKey,
    answered: &Answered<'_>,
    state: &State,
    (status, body): (u16, Vec<u8>),
) -> Vec<u8> {
    let (digest, challenge, state) = (digest_header(&body), challenge(), state.to_string());
    let parts =
        ResponseParts { status, content_type: media, content_digest: &digest, challenge: &challenge, state: &state };
    let signed = sign_response(&parts, answered, 1, node).unwrap();
    let headers = [
        ("content-type", media),
        (CONTENT_DIGEST_HEADER, &digest),
        (CHALLENGE_HEADER, &challenge),
        (STATE_HEADER, &state),
        (SIGNATURE_INPUT_HEADER, &signed.signature_input),
        (SIGNATURE_HEADER, &signed.signature),
        ("connection", "close"),
    ];
    let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    [format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n{head}\r\n", body.len()).as_bytes(), &body].concat()
}

impl Stage {
    /// Answers one request, or lets the connection break.
    fn play(&self, request: &Request) -> Option<Vec<u8>> {
        let (epoch, lineage, sequence) = *self.place.lock().unwrap();
        let (lineage, doc) = (Some(Lineage::new([lineage; 16])), Some(*self.told.lock().unwrap()));
        let told = &State { epoch, lineage, sequence, doc, alarms: 0 };
        let instead = self.instead.lock().unwrap();
        let (view, node) = instead.as_ref().map_or((&self.world.view, &self.world.node), |(view, node)| (view, node));
        if request.path == "/v1/challenge" {
            if let Some(code) = *self.between.lock().unwrap() {
                let (status, body) = refused(code);
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
                return Some([format!("{head}content-type: {JSON_MEDIA_TYPE}\r\n\r\n").as_bytes(), &body].concat());
            }
            let body = json::to_vec(&ChallengeReply { challenge: challenge(), lifetime_ms: 60_000 });
            return Some(answer(node, &request.open(), told, (200, body)));
        }
        if request.path == "/v1/cluster" {
            let from: usize = request.query.strip_prefix("from=").unwrap().parse().unwrap();
            let shown = *self.shown.lock().unwrap();
            let newest = u32::try_from(shown.checked_sub(1)?).unwrap();
            let newest = self.newest.lock().unwrap().unwrap_or(newest);
            let all: Vec<_> = view.documents().map(|document| document.envelope().clone()).collect();
            let documents = all.into_iter().take(shown).skip(from).collect();
            let approvals = self.approvals.lock().unwrap().clone();
            let (lineages, consents) = self.histories.lock().unwrap().clone();
            let body = json::to_vec(&Cluster { documents, newest, approvals, lineages, consents });
            return Some(answer(node, &request.open(), told, (200, body)));
        }
        let input = &request.headers[SIGNATURE_INPUT_HEADER];
        let nonce = input.split(";nonce=").nth(1).unwrap().split(';').next().unwrap();
        // Where the cluster stands is asked for besides.
        if request.path != "/v1/wrap" {
            self.nonces.lock().unwrap().push(nonce.to_owned());
        }
        let mut acts = self.acts.lock().unwrap();
        let act = if acts.len() > 1 { acts.remove(0) } else { acts[0] };
        match act {
            Act::Lose => None,
            Act::Open(code) => Some(answer(node, &request.open(), told, refused(code))),
            Act::Refuse(code) => Some(answer(node, &request.signed(), told, refused(code))),
            Act::Done => {
                let held = self.body.lock().unwrap().clone();
                let (media, body) = held.unwrap_or_else(|| (JSON_MEDIA_TYPE, b"{}".to_vec()));
                Some(answer_of(media, node, &request.signed(), told, (200, body)))
            }
            Act::OpenDone => Some(answer(node, &request.open(), told, (200, b"{}".to_vec()))),
            Act::Behind => {
                let behind = State { sequence: Some(1), ..told.clone() };
                Some(answer(node, &request.signed(), &behind, (200, b"{}".to_vec())))
            }
        }
    }

    /// Raises the curtain: a client of this node.
    fn open(world: World) -> (Arc<Self>, Client, tempfile::TempDir) {
        let (told, shown) = (world.view.newest().number(), world.view.documents().count());
        let stage = Arc::new(Self {
            world,
            acts: Mutex::new(vec![Act::Done]),
            nonces: Mutex::default(),
            told: Mutex::new(told),
            shown: Mutex::new(shown),
            approvals: Mutex::default(),
            place: Mutex::new((1, 1, None)),
            histories: Mutex::default(),
            newest: Mutex::default(),
            instead: Mutex::default(),
            between: Mutex::default(),
            body: Mutex::default(),
        });
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let played = Arc::clone(&stage);
        drop(tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = Request::read(&mut stream).await;
                if let Some(bytes) = played.play(&request) {
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }));
        let client = stage.client(&directory, Duration::from_secs(60));
        (stage, client, directory)
    }

    /// Alice, the only admin, gives her first share.
    fn approve(&self) {
        let payload = GenesisApproval { v: V1, cluster: self.world.view.id() };
        let approval = sign_in_memory(&payload, &[self.world.alice.identity.signing_key().unwrap()]).unwrap();
        self.approvals.lock().unwrap().push(approval);
    }

    fn client(&self, directory: &tempfile::TempDir, timeout: Duration) -> Client {
        Client::builder(format!("unix:{}", directory.path().join("node.sock").display()))
            .identity(Arc::new(person("alice", 1).identity))
            .pin(Pin::Cluster(self.world.view.id()))
            .timeout(timeout)
            .build()
            .unwrap()
    }

    /// Plays `acts` for a call; how it ended, and how many requests came, all with one nonce.
    async fn run(&self, client: &Client, call: Call, acts: &[Act]) -> (Result<Answer, ClientError>, usize) {
        *self.acts.lock().unwrap() = acts.to_vec();
        self.nonces.lock().unwrap().clear();
        let ended = client.call(call).await;
        let mut nonces = self.nonces.lock().unwrap().clone();
        let came = nonces.len();
        nonces.dedup();
        assert_eq!(nonces.len(), 1, "a retry keeps its nonce");
        (ended, came)
    }
}

fn change() -> Call {
    Call::change("POST", "/v1/x", &())
}

/// The code inside an unknown outcome.
fn unknown(ended: Result<Answer, ClientError>) -> Code {
    match ended {
        Err(ClientError::UnknownOutcome { cause }) => cause.code().unwrap(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn a_change_that_was_lost_once_is_never_told_as_refused() {
    let (stage, client, directory) = Stage::open(world());
    // It was committed, the node died, and came back sealed: it is waited for as long as there is time.
    let hasty = stage.client(&directory, Duration::from_secs(1));
    let (ended, came) = stage.run(&hasty, change(), &[Act::Lose, Act::Open(Code::Sealed)]).await;
    assert_eq!(unknown(ended), Code::Sealed);
    assert!(came > 2, "{came}");
    let sealed = Act::Open(Code::Sealed);
    let (ended, came) = stage.run(&client, change(), &[Act::Lose, sealed, sealed, sealed, Act::Done]).await;
    assert!(ended.is_ok() && came == 5, "{came}");
    let (ended, _) = stage.run(&client, change(), &[Act::Lose, Act::Open(Code::Unauthenticated)]).await;
    assert_eq!(unknown(ended), Code::Unauthenticated);
    // A refusal of the retry tells what became of the first attempt only if its nonce was looked up.
    let (ended, _) = stage.run(&client, change(), &[Act::Lose, Act::Refuse(Code::AlreadyOpened)]).await;
    assert!(matches!(ended, Err(ClientError::Refused { verified: true, .. })));
    let (ended, _) = stage.run(&client, change(), &[Act::Lose, Act::Open(Code::AlreadyOpened)]).await;
    assert_eq!(unknown(ended), Code::AlreadyOpened);
    let (ended, came) = stage.run(&client, change(), &[Act::Lose, Act::Refuse(Code::Denied)]).await;
    assert_eq!((unknown(ended), came), (Code::Denied, 2));
    let (ended, _) = stage.run(&client, change(), &[Act::Lose, Act::Done]).await;
    assert!(ended.is_ok());
}

/// Somebody between hands the change in and shows what the node said to another request of the same path.
#[tokio::test]
async fn an_open_refusal_of_a_change_is_no_proof() {
    let (stage, client, _directory) = Stage::open(world());
    for code in [Code::SignatureTemplate, Code::WrongMediaType, Code::Malformed] {
        let (ended, came) = stage.run(&client, change(), &[Act::Open(code)]).await;
        assert_eq!((unknown(ended), came), (code, 3));
    }
    let (ended, came) = stage.run(&client, change(), &[Act::Open(Code::SignatureTemplate), Act::Done]).await;
    assert!(ended.is_ok() && came == 2, "the retry found the answer");
    let (ended, came) = stage.run(&client, change(), &[Act::Open(Code::StaleChallenge), Act::Done]).await;
    assert!(ended.is_ok() && came == 2);
    // What a person must mend first keeps its code, but not as proof.
    for code in [Code::Sealed, Code::Unauthenticated] {
        for acts in [&[Act::Open(code)][..], &[Act::Open(Code::StaleChallenge), Act::Open(code)]] {
            let (ended, came) = stage.run(&client, change(), acts).await;
            let error = ended.err().unwrap();
            assert_eq!((error.code(), came), (Some(code), acts.len()));
            assert!(
                matches!(error, ClientError::Refused { verified: false, may_have_happened: true, .. }),
                "{error:?}"
            );
            assert!(error.to_string().ends_with("(this answer could not be verified)"), "{error}");
            assert!(error.caution().is_some_and(|caution| caution.contains("read the state")));
        }
    }
    // The answer to the request itself is proof, and a read has no outcome to be unsure of.
    let read = || Call::read("/v1/x");
    for (call, act) in [(change(), Act::Refuse(Code::Denied)), (read(), Act::Open(Code::Sealed))] {
        let (ended, came) = stage.run(&client, call, &[act]).await;
        assert!(matches!(ended, Err(ClientError::Refused { verified: true, .. })) && came == 1);
    }
}

#[test]
fn waits_grow_to_a_bound() {
    for tries in 1..40 {
        let full = FIRST_WAIT.saturating_mul(1 << (tries - 1).min(10)).min(LONGEST_WAIT);
        for _ in 0..20 {
            let wait = back_off(tries);
            assert!(wait <= full && wait >= full / 2, "{tries}: {wait:?}");
        }
    }
}

/// Programs run calls on other threads.
#[test]
fn calls_can_be_spawned() {
    fn spawnable<T: Send>(_: &T) {}
    let client = Client::builder("https://127.0.0.1:1").build().unwrap();
    spawnable(&client.call(Call::read("/v1/x")));
    let slip = bulla_wire::wrap::Slip {
        cluster: bulla_wire::id::ClusterId::new([0; 32]),
        wrap: bulla_wire::id::WrapId::new([0; 16]),
        statement_sha256: bulla_wire::id::Digest::new([0; 32]),
    };
    let mut output = crate::MemoryOutput::new();
    spawnable(&client.wrap_open(&slip, &mut output));
    spawnable(&client.wrap_create(crate::Outgoing::new(Vec::new(), 1), crate::content(Vec::new())));
    spawnable(&client.unseal(&crate::Unseal { approve: &|_| true, danger_older_epoch: false }));
}

#[test]
fn queries() {
    let call = Call::read("/v1/wrap").with("after", Some("x")).with("limit", None::<u32>).with("a", Some(5));
    assert_eq!(call.query, "after=x&a=5");
}

/// Whoever hides a new document lets removed nodes and admins live on.
#[tokio::test]
async fn an_answer_is_not_judged_by_older_documents_than_it_names() {
    let mut world = world();
    world.remove_erin();
    let (stage, client, _directory) = Stage::open(world);
    let hide = |told: u32, shown: usize| {
        *stage.told.lock().unwrap() = told;
        *stage.shown.lock().unwrap() = shown;
    };
    hide(1, 2);
    assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
    // An old answer is shown again, or none at all.
    for shown in [2, 0] {
        hide(2, shown);
        let (ended, came) = stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await;
        let error = ended.err().unwrap();
        assert!(matches!(error, ClientError::Untrusted(_)) && came == 3, "{error:?}");
        assert!(error.to_string().contains("newer cluster document"), "{error}");
        let (ended, _) = stage.run(&client, change(), &[Act::Done]).await;
        assert!(matches!(ended, Err(ClientError::UnknownOutcome { .. })));
        let (ended, _) = stage.run(&client, Call::read("/v1/x"), &[Act::Open(Code::Sealed)]).await;
        assert!(matches!(ended, Err(ClientError::Untrusted(_))));
    }
    assert_eq!(client.view().await.unwrap().newest().number(), 1);
    hide(2, 3);
    assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
    assert_eq!(client.view().await.unwrap().newest().number(), 2);
}

/// A server that goes on from an older copy makes nobody forget who was removed since, whatever is asked first.
#[tokio::test]
async fn fewer_documents_than_before_are_no_news() {
    let mut world = world();
    world.remove_erin();
    let (stage, _, directory) = Stage::open(world);
    stage.approve();
    let show = |shown: usize| {
        *stage.told.lock().unwrap() = u32::try_from(shown - 1).unwrap();
        *stage.shown.lock().unwrap() = shown;
    };
    let admins = AdminSet::of(stage.world.view.genesis()).unwrap();
    for pin in [Pin::Cluster(stage.world.view.id()), Pin::Admins(admins)] {
        let state = tempfile::tempdir().unwrap();
        // A run of its own each time.
        let open = || {
            let builder = Client::builder(format!("unix:{}", directory.path().join("node.sock").display()));
            let builder = builder.identity(Arc::new(person("alice", 1).identity)).pin(pin.clone());
            builder.state(crate::builder::State::Directory(state.path().to_owned())).build().unwrap()
        };
        show(3);
        assert_eq!(open().cluster().await.unwrap().view.newest().number(), 2);
        for shown in [1, 2] {
            show(shown);
            assert_eq!(open().cluster().await.unwrap().view.newest().number(), 2);
            assert_eq!(open().probe_documents().await.0.unwrap().newest().number(), 2);
            assert_eq!(open().view().await.unwrap().newest().number(), 2);
        }
        // A loss that was accepted takes them with it.
        let shown = agreed(&open()).await;
        open().documents_anew(shown).await.unwrap();
        assert_eq!(open().view().await.unwrap().newest().number(), 1);
        assert_eq!(open().cluster().await.unwrap().view.newest().number(), 1);
    }
}

/// What the cluster shows now, agreed to.
async fn agreed(client: &Client) -> (ClusterId, Digest) {
    let facts = client.shown().await.unwrap();
    (facts.view.id(), facts.view.newest().digest())
}

fn lineage(byte: u8) -> Lineage {
    Lineage::new([byte; 16])
}

/// The next document of `view`, signed by Alice.
fn next(world: &World, view: &ClusterView, change: impl FnOnce(&mut DocumentDraft)) -> Envelope {
    let mut draft = DocumentDraft::of(view.newest());
    change(&mut draft);
    let payload = view.next_document(&draft).unwrap();
    sign_in_memory(&payload, &[world.alice.identity.signing_key().unwrap()]).unwrap()
}

/// A node that went back, with the world's documents until `kept`, and others behind them: by the first the node has
/// another key. It says that it went on from (1, 50) in another history, and `consent` if k admins accepted that.
impl Stage {
    fn go_back(&self, kept: usize, others: bool, consent: bool) {
        let all: Vec<_> = self.world.view.documents().map(|document| document.envelope().clone()).collect();
        let mut view = ClusterView::unpinned(&all[0]).unwrap();
        all[1..=kept].iter().for_each(|document| view.push(document).unwrap());
        // The world's own is made of nines.
        let seed = if others { 77 } else { 9 };
        let node = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(seed))).unwrap();
        if others {
            let entered = next(&self.world, &view, |draft| {
                draft.nodes[0].state = NodeState::Retired;
                draft.nodes.push(Node { key: node.public_key().clone(), state: NodeState::Active, since_ms: 5 });
            });
            view.push(&entered).unwrap();
            let bob = &self.world.bob.record;
            let enroller = next(&self.world, &view, |draft| {
                draft.records.push(bob.clone());
                draft.enrollers.push(bob.principal());
            });
            view.push(&enroller).unwrap();
        }
        let entry = |epoch, byte, first_sequence| LineageEntry { epoch, lineage: lineage(byte), first_sequence };
        let position = |sequence| Position { lineage: lineage(1), sequence };
        let (cluster, lost, kept) = (view.id(), position(100), position(50));
        let payload = Consent { v: V1, cluster, lost, kept, earlier: vec![], excused_until_ms: None };
        let signed = sign_in_memory(&payload, &[self.world.alice.identity.signing_key().unwrap()]).unwrap();
        let consents = if consent { vec![signed] } else { vec![] };
        *self.histories.lock().unwrap() = (vec![entry(1, 1, 1), entry(2, 2, 51)], consents);
        *self.place.lock().unwrap() = (2, 2, Some(60));
        *self.told.lock().unwrap() = view.newest().number();
        *self.shown.lock().unwrap() = view.documents().count();
        *self.instead.lock().unwrap() = Some((view, node));
    }
}

/// What was only looked at, and came with no judged answer, is known all the same.
#[tokio::test]
async fn a_document_that_was_looked_at_is_not_forgotten() {
    let mut world = world();
    world.remove_erin();
    for call_before in [false, true] {
        let (stage, client, directory) = Stage::open(world.clone());
        let show = |shown: usize| {
            *stage.told.lock().unwrap() = u32::try_from(shown - 1).unwrap();
            *stage.shown.lock().unwrap() = shown;
        };
        show(2);
        *stage.place.lock().unwrap() = (1, 1, Some(10));
        if call_before {
            assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
        }
        show(3);
        assert_eq!(client.cluster().await.unwrap().view.newest().number(), 2);
        show(2);
        let ended = stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0;
        let fewer = |ended: &Result<Answer, ClientError>| {
            matches!(ended, Err(ClientError::RolledBack(StateError::Document { seen: 2, told: 1 })))
        };
        assert!(fewer(&ended), "{:?}", ended.err());
        assert!(client.cluster().await.unwrap().whole().is_err());
        // A change that was made is never told as one that was not.
        let ended = stage.run(&client, change(), &[Act::Done]).await.0;
        let Err(ClientError::UnknownOutcome { cause }) = ended else { panic!("{:?}", ended.err()) };
        assert!(fewer(&Err(*cause)));
        drop(directory);
    }
}

/// A document goes to a cluster that lost it, whatever is known here.
#[tokio::test]
async fn a_lost_document_is_put_again() {
    let mut world = world();
    world.remove_erin();
    let newest = world.view.newest().envelope().clone();
    let (stage, client, _directory) = Stage::open(world);
    client.cluster().await.unwrap();
    client.document_put(newest.clone()).await.unwrap();
    assert!(stage.nonces.lock().unwrap().is_empty(), "it is there");
    *stage.told.lock().unwrap() = 1;
    *stage.shown.lock().unwrap() = 2;
    client.document_put(newest).await.unwrap();
    assert_eq!(stage.nonces.lock().unwrap().len(), 1);
    let mut unsigned = stage.world.view.newest().envelope().clone();
    unsigned.signatures.clear();
    let refused = client.document_put(unsigned).await.unwrap_err();
    assert!(matches!(refused, ClientError::Input { .. }), "{refused}");
}

/// After a loss that k admins accepted there may be other documents under the numbers of those that are known, and another
/// node; without their consent nobody goes on but by hand.
#[tokio::test]
async fn other_documents_take_the_place_of_lost_ones_by_consent_alone() {
    let mut world = world();
    world.remove_erin();
    for pinned in [true, false] {
        for consent in [true, false] {
            let (stage, _, directory) = Stage::open(world.clone());
            stage.approve();
            let admins = AdminSet::of(stage.world.view.genesis()).unwrap();
            let pin = if pinned { Pin::Cluster(stage.world.view.id()) } else { Pin::Admins(admins) };
            let state = tempfile::tempdir().unwrap();
            let open = || {
                let builder = Client::builder(format!("unix:{}", directory.path().join("node.sock").display()));
                let builder = builder.identity(Arc::new(person("alice", 1).identity)).pin(pin.clone());
                builder.state(crate::builder::State::Directory(state.path().to_owned())).build().unwrap()
            };
            let client = open();
            *stage.place.lock().unwrap() = (1, 1, Some(100));
            assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
            client.flush().unwrap();
            stage.go_back(1, true, consent);
            let shown = stage.instead.lock().unwrap().as_ref().unwrap().0.newest().digest();
            // By the run of before, and by one of its own.
            for client in if consent { vec![client] } else { vec![client, open()] } {
                let ended = client.call(Call::read("/v1/x")).await;
                if consent {
                    assert!(ended.is_ok(), "{:?}", ended.err());
                    assert_eq!(client.losses().len(), 1, "once");
                    assert_eq!(client.view().await.unwrap().newest().digest(), shown);
                    continue;
                }
                let error = ended.err().unwrap();
                assert!(matches!(error, ClientError::RolledBack(_) | ClientError::Untrusted(_)), "{error:?}");
                if pinned {
                    let known = open().view().await.unwrap();
                    assert_eq!(known.newest().digest(), stage.world.view.newest().digest(), "nothing was forgotten");
                }
            }
            let client = open();
            if !consent {
                let standing = client.standing().await.unwrap();
                assert_eq!((standing.lost, standing.dropped_from), (true, Some(2)));
                assert_eq!((standing.told.doc, standing.told.sequence), (3, 60));
                client.accept_loss(&standing).await.unwrap();
            }
            assert!(client.call(Call::read("/v1/x")).await.is_ok());
            let client = open();
            assert!(client.call(Call::read("/v1/x")).await.is_ok() && client.losses().is_empty());
            assert_eq!(client.view().await.unwrap().newest().digest(), shown);
        }
    }
}

/// The newest document was only looked at, after the last answer that told a position; it was lost, and nothing else is there.
#[tokio::test]
async fn a_lost_document_is_forgotten_by_consent_alone() {
    let mut world = world();
    world.remove_erin();
    for consent in [true, false] {
        let (stage, client, _directory) = Stage::open(world.clone());
        *stage.place.lock().unwrap() = (1, 1, Some(100));
        *stage.told.lock().unwrap() = 1;
        *stage.shown.lock().unwrap() = 2;
        assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
        *stage.shown.lock().unwrap() = 3;
        assert_eq!(client.cluster().await.unwrap().view.newest().number(), 2);
        stage.go_back(1, false, consent);
        let ended = client.call(Call::read("/v1/x")).await;
        if !consent {
            let refused = ended.err();
            assert!(matches!(&refused, Some(ClientError::RolledBack(_))), "{refused:?}");
            assert_eq!(client.view().await.unwrap().newest().number(), 2);
            let standing = client.standing().await.unwrap();
            assert_eq!((standing.lost, standing.dropped_from), (true, Some(2)));
            client.accept_loss(&standing).await.unwrap();
        }
        assert!(client.call(Call::read("/v1/x")).await.is_ok());
        assert_eq!(client.losses().len(), usize::from(consent));
        assert_eq!(client.cluster().await.unwrap().whole().unwrap().newest().number(), 1);
    }
}

/// An answer to an open route may be an old one: whoever shows it and cannot answer a request makes nobody forget anything.
#[tokio::test]
async fn a_kept_answer_takes_no_document_away() {
    let mut world = world();
    world.remove_erin();
    let (stage, _, directory) = Stage::open(world);
    let client = stage.client(&directory, Duration::from_secs(2));
    *stage.place.lock().unwrap() = (1, 1, Some(100));
    assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
    for others in [true, false] {
        stage.go_back(1, others, true);
        for act in [Act::Lose, Act::Open(Code::Sealed), Act::Refuse(Code::Denied)] {
            *stage.acts.lock().unwrap() = vec![act];
            let looked = client.cluster().await;
            assert!(looked.is_err() || looked.unwrap().whole().is_err());
            assert_eq!(client.view().await.unwrap().newest().digest(), stage.world.view.newest().digest());
            assert!(client.losses().is_empty());
        }
    }
    *stage.acts.lock().unwrap() = vec![Act::Done];
    assert!(client.cluster().await.unwrap().whole().is_ok());
    assert_eq!(client.losses().len(), 1);
}

/// Of two programs of one user both go on, whichever meets the loss first.
#[tokio::test]
async fn two_programs_with_one_memory_go_on_after_a_loss() {
    let mut world = world();
    world.remove_erin();
    let (stage, _, directory) = Stage::open(world);
    let state = tempfile::tempdir().unwrap();
    let open = || {
        let builder = Client::builder(format!("unix:{}", directory.path().join("node.sock").display()));
        let builder = builder.identity(Arc::new(person("alice", 1).identity)).pin(Pin::Cluster(stage.world.view.id()));
        builder.state(crate::builder::State::Directory(state.path().to_owned())).build().unwrap()
    };
    let programs = [open(), open()];
    *stage.place.lock().unwrap() = (1, 1, Some(100));
    for program in &programs {
        assert!(program.call(Call::read("/v1/x")).await.is_ok());
        program.flush().unwrap();
    }
    stage.go_back(1, true, true);
    for program in &programs {
        let ended = program.call(Call::read("/v1/x")).await;
        assert!(ended.is_ok(), "{:?}", ended.err());
        assert!(program.call(Call::read("/v1/x")).await.is_ok());
        assert_eq!(program.losses().len(), 1);
    }
    assert!(open().call(Call::read("/v1/x")).await.is_ok());
}

/// A consent that was there when a document was learnt is about another loss than that of this document.
#[tokio::test]
async fn a_consent_of_before_takes_no_document_away() {
    let mut world = world();
    world.remove_erin();
    for kept in [true, false] {
        let (stage, _, directory) = Stage::open(world.clone());
        let folder = tempfile::tempdir().unwrap();
        let builder = Client::builder(format!("unix:{}", directory.path().join("node.sock").display()));
        let builder = builder.identity(Arc::new(person("alice", 1).identity)).pin(Pin::Cluster(stage.world.view.id()));
        let state = if kept { crate::builder::State::Directory(folder.path().to_owned()) } else { Default::default() };
        let client = builder.state(state).build().unwrap();
        *stage.place.lock().unwrap() = (1, 1, Some(100));
        *stage.told.lock().unwrap() = 1;
        *stage.shown.lock().unwrap() = 2;
        assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
        // The admins consented to a loss, and made another document afterwards, which the client only looks at.
        stage.go_back(1, false, true);
        *stage.instead.lock().unwrap() = None;
        *stage.shown.lock().unwrap() = 3;
        assert_eq!(client.cluster().await.unwrap().view.newest().number(), 2);
        // Whoever has the old copy shows what there was before that document.
        stage.go_back(1, false, true);
        let ended = client.call(Call::read("/v1/x")).await;
        assert!(matches!(ended, Err(ClientError::RolledBack(_))), "{:?}", ended.err());
        assert_eq!(client.view().await.unwrap().newest().number(), 2);
    }
}

/// Pages that bring nothing come to an end.
#[tokio::test]
async fn pages_without_documents_are_refused() {
    let (stage, client, _directory) = Stage::open(world());
    *stage.newest.lock().unwrap() = Some(u32::MAX);
    assert!(client.cluster().await.is_err());
    *stage.newest.lock().unwrap() = None;
    assert!(client.cluster().await.is_ok());
    *stage.newest.lock().unwrap() = Some(u32::MAX);
    assert!(client.cluster().await.is_err());
}

/// What takes the place of documents is verified before, and is what was agreed to.
#[tokio::test]
async fn documents_are_replaced_by_whole_answers_alone() {
    let mut world = world();
    world.remove_erin();
    let (stage, client, _directory) = Stage::open(world);
    client.cluster().await.unwrap();
    *stage.shown.lock().unwrap() = 2;
    let shown = agreed(&client).await;
    *stage.shown.lock().unwrap() = 1;
    assert!(client.documents_anew(shown).await.is_err(), "an old answer");
    // Somebody else signs.
    let other = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(78))).unwrap();
    *stage.instead.lock().unwrap() = Some((stage.world.view.clone(), other));
    *stage.shown.lock().unwrap() = 2;
    assert!(client.documents_anew(shown).await.is_err());
    assert_eq!(client.view().await.unwrap().newest().number(), 2);
    *stage.instead.lock().unwrap() = None;
    client.documents_anew(shown).await.unwrap();
    assert_eq!(client.view().await.unwrap().newest().number(), 1);
}

/// A program that lives over a restart of a transient server meets another cluster of the same admins.
#[tokio::test]
async fn a_cluster_after_another() {
    let (stage, first, directory) = Stage::open(world());
    let admins = AdminSet::of(stage.world.view.genesis()).unwrap();
    let next = |random: u8| {
        let mut world = world();
        let mut payload: Document = json::parse(&world.view.genesis().envelope().payload, usize::MAX).unwrap();
        let node = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(random))).unwrap();
        payload.random = Bytes(vec![random; 32]);
        payload.nodes[0].spki = Bytes(node.public_key().spki().to_vec());
        world.view = ClusterView::unpinned(&sign_in_memory(&payload, &[]).unwrap()).unwrap();
        world.node = node;
        world
    };
    let client = Client::builder(format!("unix:{}", directory.path().join("node.sock").display()))
        .identity(Arc::new(person("alice", 1).identity))
        .pin(Pin::Admins(admins))
        .build()
        .unwrap();
    // Nobody approved it yet.
    let refused = client.call(Call::read("/v1/x")).await.err().unwrap();
    assert!(refused.to_string().contains("0 admins signed, 1 are needed"), "{refused}");
    assert!(refused.hint().contains("new"), "{}", refused.hint());
    stage.approve();
    assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
    let memory = client.trust().await.unwrap().memory;

    let (second, _, other) = Stage::open(next(21));
    second.approve();
    std::fs::rename(other.path().join("node.sock"), directory.path().join("node.sock")).unwrap();
    // Whoever pinned the first cluster refuses.
    assert!(matches!(first.call(Call::read("/v1/x")).await, Err(ClientError::Untrusted(_))));
    // A read goes on by itself. The challenge at hand was of the first cluster.
    second.nonces.lock().unwrap().clear();
    assert!(client.call(Call::read("/v1/x")).await.is_ok());
    assert_eq!(client.view().await.unwrap().id(), second.world.view.id());
    assert_eq!(second.nonces.lock().unwrap().len(), 2);
    // What was remembered of the first one is still there, should it come back.
    assert!(Arc::ptr_eq(&memory, client.held().memories.get(&stage.world.view.id()).unwrap()));

    let (third, _, other) = Stage::open(next(22));
    third.approve();
    std::fs::rename(other.path().join("node.sock"), directory.path().join("node.sock")).unwrap();
    // A change that was sent to the one before is told: nobody knows of it any more, and it is not made twice.
    let ended = client.call(change()).await;
    assert!(matches!(ended, Err(ClientError::UnknownOutcome { .. })), "{:?}", ended.err());
    assert_eq!(third.nonces.lock().unwrap().len(), 1, "it came once, for the cluster before");
    assert!(client.call(change()).await.is_ok());
}

/// Everything that a call asks for shares its time, also on a connection that is taken and never answered.
#[tokio::test]
async fn a_server_that_hangs_takes_no_longer_than_the_call_may() {
    let world = world();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let builder = Client::builder(format!("unix:{}", path.display())).identity(Arc::new(person("alice", 1).identity));
    let client = builder.pin(Pin::Cluster(world.view.id())).timeout(Duration::from_secs(2)).build().unwrap();
    let began = Instant::now();
    let error = client.call(Call::read("/v1/whoami")).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    let error = client.cluster().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "each has two seconds, not two for each try");
    held.abort();
}

/// Whoever stands between may refuse the challenge with any code, and nothing goes by it.
#[tokio::test]
async fn a_refusal_that_nobody_signed_proves_nothing() {
    let (stage, client, _directory) = Stage::open(world());
    for code in [Code::NotFound, Code::AlreadyOpened, Code::Expired, Code::NotSealed, Code::IngressChanged] {
        client.held().challenge = None;
        *stage.between.lock().unwrap() = Some(code);
        let error = client.call(change()).await.err().unwrap();
        assert_eq!((error.code(), error.proven()), (Some(code), None));
        assert!(error.to_string().ends_with("(this answer could not be verified)"), "{error}");
        *stage.between.lock().unwrap() = None;
        let (ended, _) = stage.run(&client, change(), &[Act::Refuse(code)]).await;
        assert_eq!(ended.err().unwrap().proven(), Some(code));
    }
}

/// The server says that nobody has the name; this client knows better, and signs nothing for somebody else.
#[tokio::test]
async fn a_name_that_is_known_is_admitted_for_nobody_else() {
    let (stage, client, _directory) = Stage::open(world());
    let [known, other] = [11, 12].map(|seed| person("frank", seed).record);
    let chain = RecordChain::open(&[known.envelope().clone()]).unwrap();
    client.trust().await.unwrap().memory.know(known.name(), &chain, None).unwrap();
    let came = async |record: &Record| {
        *stage.acts.lock().unwrap() = vec![Act::Refuse(Code::NotFound), Act::Done];
        stage.nonces.lock().unwrap().clear();
        let ended = client.admit(record.envelope(), Admit::default()).await;
        (ended, stage.nonces.lock().unwrap().len())
    };
    let (ended, asked) = came(&other).await;
    assert!(matches!(ended, Err(ClientError::Known(KnownError::OtherPrincipal { .. }))), "{ended:?}");
    assert_eq!(asked, 1, "nothing was sent");
    // Nor a name that stands in the newest document.
    let (ended, asked) = came(&person("erin", 12).record).await;
    assert!(matches!(ended, Err(ClientError::Known(KnownError::OtherPrincipal { .. }))), "{ended:?}");
    assert_eq!(asked, 1, "nothing was sent");
    assert_eq!(came(&known).await.1, 3, "it is asked for, admitted, and asked for again");
}

/// A node may lag behind for once; twice in a row the cluster has lost what was seen. A change that it answered is never told as
/// one that failed.
#[tokio::test]
async fn a_node_that_lags_behind_is_asked_once_more() {
    let (stage, client, _directory) = Stage::open(world());
    *stage.place.lock().unwrap() = (1, 1, Some(100));
    let read = || Call::read("/v1/x");
    assert!(stage.run(&client, read(), &[Act::Done]).await.0.is_ok());
    for call in [read(), change()] {
        let (ended, came) = stage.run(&client, call, &[Act::Behind, Act::Done]).await;
        assert!(ended.is_ok() && came == 2, "{came}");
    }
    let behind = StateError::Sequence { seen: 100, told: 1 };
    let (ended, came) = stage.run(&client, read(), &[Act::Behind]).await;
    let refused = ended.err().unwrap();
    assert!(matches!(&refused, ClientError::RolledBack(error) if *error == behind) && came == 2, "{refused:?}");
    let (ended, came) = stage.run(&client, change(), &[Act::Behind]).await;
    let refused = ended.err().unwrap();
    let ClientError::UnknownOutcome { cause } = refused else { panic!("{refused:?}") };
    assert!(matches!(&*cause, ClientError::RolledBack(error) if *error == behind) && came == 2, "{cause:?}");
    assert_eq!(client.trust().await.unwrap().memory.seen().unwrap().sequence, 100, "nothing was forgotten");
}

/// A node that does not serve has not checked its store: what it says of its place counts for nothing, either way.
#[tokio::test]
async fn a_node_that_does_not_serve_tells_no_place() {
    let (stage, client, _directory) = Stage::open(world());
    *stage.place.lock().unwrap() = (1, 1, Some(100));
    assert!(stage.run(&client, Call::read("/v1/x"), &[Act::Done]).await.0.is_ok());
    let seen = client.trust().await.unwrap().memory.seen();
    for place in [(1, 1, Some(5)), (9, 9, Some(500)), (0, 2, None)] {
        *stage.place.lock().unwrap() = place;
        let (ended, came) = stage.run(&client, Call::read("/v1/x"), &[Act::Refuse(Code::Sealed)]).await;
        let refused = ended.err().unwrap();
        assert!(matches!(refused, ClientError::Refused { verified: true, .. }) && came == 1, "{refused:?}");
        assert_eq!(client.trust().await.unwrap().memory.seen(), seen, "{place:?}");
    }
}

/// The open profile covers method, path and query alone: whoever stands between could show a success of before.
#[tokio::test]
async fn a_success_of_the_open_profile_belongs_to_no_request() {
    let (stage, client, _directory) = Stage::open(world());
    let (ended, came) = stage.run(&client, Call::read("/v1/x"), &[Act::OpenDone]).await;
    let refused = ended.err().unwrap();
    assert!(matches!(refused, ClientError::Untrusted(Untrusted::OpenProfile)) && came == 3, "{refused:?}");
    let (ended, came) = stage.run(&client, change(), &[Act::OpenDone]).await;
    let refused = ended.err().unwrap();
    assert!(matches!(refused, ClientError::UnknownOutcome { .. }) && came == 3, "{refused:?}");
    let (ended, came) = stage.run(&client, change(), &[Act::OpenDone, Act::Done]).await;
    assert!(ended.is_ok() && came == 2, "the retry found the answer");
}

/// A node may sign whatever it likes: a secret is taken as the one that was asked for alone, and encrypted alone.
#[tokio::test]
async fn a_secret_is_the_one_that_was_asked_for() {
    let (stage, client, _directory) = Stage::open(world());
    let [path, other] = ["app/db", "app/other"].map(|path| path.parse::<SecretPath>().unwrap());
    let by = stage.world.alice.record.principal();
    let (bytes, data) = (Some(Base64(b"content".to_vec())), Some(StrictMap([("a".to_owned(), "1".to_owned())].into())));
    let (expires_ms, sealed) = (None, None);
    let none = Kv { path: path.clone(), version: 2, written_ms: 1, by, expires_ms, data: None, bytes: None, sealed };
    let good = Kv { bytes, ..none.clone() };
    let tell = |kv: &Kv, encrypted: bool| {
        let json = json::to_vec(kv);
        let file = envelope::seal(stage.world.alice.identity.recipients(), None, &json).unwrap();
        let told = if encrypted { (AGE_MEDIA_TYPE, file) } else { (JSON_MEDIA_TYPE, json) };
        *stage.body.lock().unwrap() = Some(told);
    };
    tell(&good, true);
    assert!(client.kv_get(&path).await.is_ok() && client.kv_get_version(&path, 2).await.is_ok());
    for version in [1, 3] {
        let refused = client.kv_get_version(&path, version).await.unwrap_err();
        assert!(matches!(refused, ClientError::Untrusted(_)), "{refused}");
    }
    for (what, kv, encrypted) in [
        ("another path", Kv { path: other, ..good.clone() }, true),
        ("nothing in it", none, true),
        ("two contents", Kv { data, ..good.clone() }, true),
        ("in clear", good, false),
    ] {
        tell(&kv, encrypted);
        let refused = client.kv_get(&path).await.unwrap_err();
        assert!(matches!(refused, ClientError::Untrusted(_)), "{what}: {refused}");
    }
}
