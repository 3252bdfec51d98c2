//! Hostile clients: whatever they send and however much, memory stays bounded, and somebody honest is served meanwhile.
//!
//! Everything runs in this process. Attackers have threads of their own, and those who flood send what was made before:
//! see [`ELSEWHERE`]. How long the honest wait is printed beside what they wait in peace; held is that each is answered,
//! since a busy machine makes times lie.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use bulla_server::listen::DEFAULT_MAX_CONNECTIONS;
use bulla_testkit::long;
use bulla_testkit::raw::{self, Caller, Request, h2, open};
use bulla_testkit::tls;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::SealState;
use bulla_wire::error::Code;
use bulla_wire::signature::{EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use bulla_wire::wrap::PARCEL_MEDIA_TYPE;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// Most memory that this process may hold at any time, in MiB: 256 are put aside for bodies.
const RSS_MAX_MIB: u64 = 512;
/// How long somebody honest may wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Calls of the honest in each scene: the 99th percentile is the longest but one.
const HONEST: usize = 100;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// A new connection of somebody honest, and one call over it.
async fn once(world: &World, person: &Person) -> Duration {
    let began = Instant::now();
    let client = world.client(person);
    let answer = tokio::time::timeout(PATIENCE, client.whoami()).await;
    answer.unwrap_or_else(|_| panic!("an honest client waits for more than {} s", PATIENCE.as_secs())).unwrap();
    began.elapsed()
}

/// The 99th percentile of what honest clients wait, half of them over connections that they have and half over new ones.
async fn honest(world: &World, person: &Person) -> Duration {
    let client = world.client(person);
    let mut waits = Vec::new();
    for number in 0..HONEST {
        if number % 2 == 0 {
            waits.push(once(world, person).await);
        } else {
            let began = Instant::now();
            tokio::time::timeout(PATIENCE, client.whoami()).await.expect("an answer in time").unwrap();
            waits.push(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waits.sort_unstable();
    waits.get(HONEST * 99 / 100 - 1).copied().unwrap()
}

/// Where attackers run: on threads of their own, since the server's must not wait for them. Their processors are not the
/// server's, but here they share its cores, so that what they compute would count as its fault. Were those who flood to sign
/// each request, that were more work than to refuse it: so a flood is made before, as a stranger may do it too, and its
/// answers are hardly looked at. It is as fast as the server answers, at any priority.
static ELSEWHERE: LazyLock<Runtime> = LazyLock::new(|| attackers(0));
/// The same for attackers who wait for no answer, and so would take all the time that there is: they get what is left.
static LEFT_OVER: LazyLock<Runtime> = LazyLock::new(|| attackers(19));

fn attackers(nice: i32) -> Runtime {
    let begin = move || assert_eq!(rustix::process::nice(nice).unwrap(), nice);
    Builder::new_multi_thread().worker_threads(2).on_thread_start(begin).enable_all().build().unwrap()
}

/// One flood at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Scene {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    world: World,
    alice: Person,
    mallory: Person,
    peace: Duration,
}

async fn scene() -> Scene {
    scene_with(DEFAULT_MAX_CONNECTIONS).await
}

/// With so many places for connections.
async fn scene_with(connections: usize) -> Scene {
    let alone = ALONE.lock().await;
    let mut world = World::new(Shape::durable()).await;
    if connections != DEFAULT_MAX_CONNECTIONS {
        world.stop().await;
        world.config.limits.connections = connections;
        world.start().await;
        world.unseal().await;
    }
    let (alice, mallory) = (world.admit("alice").await, world.admit("mallory").await);
    honest(&world, &alice).await;
    let peace = honest(&world, &alice).await;
    Scene { _alone: alone, world, alice, mallory, peace }
}

impl Scene {
    fn address(&self) -> SocketAddr {
        self.world.server().ready.address
    }

    /// The honest meanwhile, and what it cost them.
    async fn judge(&self, what: &str) {
        let under = honest(&self.world, &self.alice).await;
        let (times, resident) = (under.as_secs_f64() / self.peace.as_secs_f64(), resident_mib());
        println!("{what}: p99 {under:.1?}, {times:.1} times that in peace ({:.1?}); {resident} MiB", self.peace);
        assert!(resident <= RSS_MAX_MIB, "{what}: {resident} MiB");
    }
}

/// A connection from one of many addresses of this machine.
async fn from_address(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let last = u8::try_from(number % 50).unwrap_or(0) + 2;
    socket.bind((IpAddr::from(Ipv4Addr::new(127, 0, 1, last)), 0).into())?;
    socket.connect(to).await
}

/// More connections than there are places, from many addresses, which say nothing after their handshake or not even that.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_lock_nobody_out() {
    // So many, of which one in so many does its handshake.
    let (places, count, shaken) = if long() { (DEFAULT_MAX_CONNECTIONS, 10_000, 1) } else { (1_000, 1_300, 10) };
    // Both ends are in this process.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum.or(Some(65_536)), ..files }).unwrap();
    let scene = scene_with(places).await;
    let to = scene.address();
    let config = Arc::new(tls::client("http/1.1", None));
    let mut held = Vec::new();
    for first in (0..count).step_by(100) {
        let mut arriving = JoinSet::new();
        for number in first..first + 100 {
            let config = Arc::clone(&config);
            arriving.spawn(async move {
                let stream = from_address(number, to).await.ok()?;
                if number % shaken > 0 {
                    return Some((Some(stream), None));
                }
                let connector = tokio_rustls::TlsConnector::from(config);
                let shaken = connector.connect("localhost".try_into().ok()?, stream).await.ok()?;
                Some((None, Some(shaken)))
            });
        }
        while let Some(stream) = arriving.join_next().await {
            held.extend(stream.unwrap());
        }
    }
    let metrics = scene.world.server().node.parts.metrics.text();
    let turned = metrics.lines().find_map(|line| line.strip_prefix("bulla_connections_turned_away_total "));
    let turned: usize = turned.unwrap().parse().unwrap();
    scene.judge(&format!("{} idle connections, {turned} gave way", held.len())).await;
    assert!(turned >= count - places - 20, "{turned} of {count} gave way");
}

/// Somebody known sends the largest bodies, a byte at a time.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_take_no_more_than_their_share() {
    let scene = scene().await;
    let mallory = Caller::new(&scene.world, &scene.mallory).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (waiting, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut slow = JoinSet::new();
    for _ in 0..64 {
        let request = mallory.request("POST", "/v1/wrap", PARCEL_MEDIA_TYPE, vec![], mallory.nonce());
        let (stop, waiting, refused, to) = (stop.clone(), waiting.clone(), refused.clone(), scene.address());
        slow.spawn(async move {
            let mut stream = tls::connect(to, "http/1.1").await;
            stream.write_all(head(&request, 16 * 1024 * 1024).as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            tokio::select! {
                read = stream.read_exact(&mut answer) => {
                    read.unwrap();
                    assert_eq!(answer.get(9..), Some(&b"503"[..]), "{}", String::from_utf8_lossy(&answer));
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                () = tokio::time::sleep(Duration::from_secs(2)) => {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    while !stop.load(Ordering::Relaxed) && stream.write_all(b"x").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.judge("64 bodies of 16 MiB, a byte at a time").await;
    // Somebody else still sends a large wrap.
    let alice = scene.world.client(&scene.alice);
    scene.world.wrap(&alice, &scene.mallory, &vec![7; 8 * 1024 * 1024]).await;
    let (waiting, refused) = (waiting.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!((1..=4).contains(&waiting), "{waiting} wait, {refused} were refused");
    assert_eq!(waiting + refused, 64);
    stop.store(true, Ordering::Relaxed);
    while slow.join_next().await.is_some() {}
}

fn head(request: &Request, length: usize) -> String {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n", request.method, request.path);
    request.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head + "\r\n"
}

/// A connection over HTTP/2 that takes no answer: one byte of each is let through.
async fn deaf(to: SocketAddr) -> raw::Http2 {
    let stream = TokioIo::new(tls::connect(to, "h2").await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(1).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Asks so many times, on so many connections as it takes, and gives what must be kept so that no answer is fetched.
async fn ask_and_fetch_nothing(to: SocketAddr, request: &Request, count: usize) -> (Vec<raw::Http2>, Vec<u16>, Unread) {
    let (mut connections, mut codes, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..count).step_by(100) {
        let mut connection = deaf(to).await;
        for _ in first..count.min(first + 100) {
            let answer = connection.send_request(request.http(Some("localhost")).unwrap()).await.unwrap();
            codes.push(answer.status().as_u16());
            unread.push(answer);
        }
        connections.push(connection);
    }
    (connections, codes, unread)
}

type Unread = Vec<http::Response<hyper::body::Incoming>>;

/// Somebody known asks and fetches no answer: its requests are under way until then, and nobody else's are fewer.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_fetched_are_their_callers() {
    let scene = scene().await;
    let mut mallory = Caller::new(&scene.world, &scene.mallory).await;
    let request = mallory.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], mallory.nonce());
    let (connections, codes, unread) = ask_and_fetch_nothing(scene.address(), &request, 1_000).await;
    assert!(codes.iter().all(|status| *status == 200), "{codes:?}");
    mallory.call("GET", "/v1/whoami").await.refused(Code::Overloaded);
    scene.judge("1,000 answers that their caller does not fetch").await;
    drop((connections, unread));
    let began = Instant::now();
    while mallory.call("GET", "/v1/whoami").await.status != 200 {
        assert!(began.elapsed() < PATIENCE, "its requests are over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who asks more often than the rate is told to try again later; it costs nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_each_principal() {
    let mut scene = scene().await;
    scene.world.stop().await;
    scene.world.config.limits.requests_per_s = 10;
    scene.world.start().await;
    scene.world.unseal().await;
    let mut mallory = Caller::new(&scene.world, &scene.mallory).await;
    let mut refused = 0;
    for _ in 0..200 {
        let reply = mallory.call("GET", "/v1/whoami").await;
        if reply.status != 200 {
            let reply = reply.refused(Code::Overloaded);
            assert!(reply.headers.contains_key("retry-after"));
            assert!(reply.error().unwrap().message.contains("within a second"));
            refused += 1;
        }
    }
    assert!(refused > 0, "200 requests in sequence took less than 19 s");
    let mut admin = Caller::new(&scene.world, &scene.world.admins[0]).await;
    admin.call("GET", "/v1/whoami").await.ok();
}

/// Strangers ask for the cluster's documents and do not fetch them: all of them together hold the documents once, and whoever
/// comes anew gets them too.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_strangers_do_not_fetch_are_one() {
    let mut scene = scene().await;
    scene.world.stop().await;
    scene.world.config.limits.body_mib = 64;
    scene.world.start().await;
    scene.world.unseal().await;
    let (to, request) = (scene.address(), open("GET", "/v1/cluster"));
    let bytes = raw::Wire::new(to).send(&request).await.ok().body.len();
    // More than the quarter of the memory that strangers have.
    let count = 16 * 1024 * 1024 / bytes + 100;
    let (connections, codes, unread) = ask_and_fetch_nothing(to, &request, count).await;
    assert!(bytes > 4 * 1024 && codes.iter().all(|status| *status == 200), "{bytes} bytes: {codes:?}");
    let bodies = &scene.world.server().node.parts.bodies;
    assert_eq!(bodies.free_bytes(), 64 * 1024 * 1024 - bytes);
    scene.judge(&format!("{count} times the documents, {bytes} bytes, not fetched")).await;
    drop((connections, unread));
}

/// JSON that is deep, wide or long: refused, each in its way, and nothing grows.
#[tokio::test(flavor = "multi_thread")]
async fn monstrous_json_is_refused() {
    let scene = scene().await;
    let mut mallory = Caller::new(&scene.world, &scene.mallory).await;
    let deep = "[".repeat(100_000);
    let deep_object = r#"{"a":"#.repeat(50_000);
    let wide = format!("[{}0]", "0,".repeat(120_000));
    let number = format!("{{\"principal\":{}}}", "9".repeat(200_000));
    let escaped = format!("{{\"principal\":\"{}\"}}", "\\u0041".repeat(40_000));
    let keys: String = (0..20_000).map(|n| format!("\"k{n}\":1,")).collect();
    let keys = format!("{{{keys}\"principal\":\"x\"}}");
    for body in [deep, deep_object, wide, number, escaped, keys] {
        for _ in 0..20 {
            let bytes = body.clone().into_bytes();
            let request = mallory.request("POST", "/v1/policy:check", JSON_MEDIA_TYPE, bytes, mallory.nonce());
            let reply = mallory.send(&request).await;
            assert!((400..=413).contains(&reply.status), "{} to {}…", reply.status, body.get(..20).unwrap());
        }
    }
    scene.judge("120 monstrous JSON bodies").await;
}

/// Streams that are opened and reset at once (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread")]
async fn reset_streams_lock_nobody_out() {
    let scene = scene().await;
    let mallory = Caller::new(&scene.world, &scene.mallory).await;
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicUsize::new(0));
    let mut resets = JoinSet::new();
    for _ in 0..4 {
        let request = mallory.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], mallory.nonce());
        let (stop, ended, to) = (stop.clone(), ended.clone(), scene.address());
        let attack = async move {
            while !stop.load(Ordering::Relaxed) {
                let mut connection = h2(to).await;
                for number in 0..5_000_usize {
                    let http = request.http(Some("localhost")).unwrap();
                    let answer = connection.send_request(http);
                    // Polled once, so that it is sent, and dropped, so that it is reset.
                    let _ = tokio::time::timeout(Duration::ZERO, answer).await;
                    if number % 50 == 0 {
                        tokio::task::yield_now().await;
                    }
                    if connection.is_closed() || connection.ready().await.is_err() {
                        ended.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
            }
        };
        resets.spawn_on(attack, LEFT_OVER.handle());
    }
    scene.judge("four connections that reset each stream").await;
    stop.store(true, Ordering::Relaxed);
    while resets.join_next().await.is_some() {}
    println!("{} connections were ended for it", ended.load(Ordering::Relaxed));
    once(&scene.world, &scene.alice).await;
}

/// Strangers ask for challenges and send requests with wrong signatures as fast as they can.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_is_counted_and_no_more() {
    let scene = scene().await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut flood = strangers(&scene.world, &stop, &sent, "GET", "/v1/whoami").await;
    scene.judge("four strangers who flood").await;
    stop.store(true, Ordering::Relaxed);
    while flood.join_next().await.is_some() {}
    let count = sent.load(Ordering::Relaxed);
    let lines = scene.world.server().node.parts.sink.flush().await;
    lines.unwrap();
    let log = std::fs::read_dir(scene.world.directory().join("audit")).unwrap();
    let bytes: u64 = log.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("{count} requests of strangers, {bytes} bytes of log");
    assert!(count > 200, "{count}");
    assert!(bytes < 4 * 1024 * 1024 + count as u64 * 16, "strangers fill the log: {bytes} bytes");
}

/// Four connections that ask for a challenge and then send a request with a wrong signature, again and again.
async fn strangers(
    world: &World,
    stop: &Arc<AtomicBool>,
    sent: &Arc<AtomicUsize>,
    method: &'static str,
    path: &'static str,
) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    for _ in 0..4 {
        let (stop, sent) = (Arc::clone(stop), Arc::clone(sent));
        let stranger = Caller::new(world, &Person::new("stranger")).await;
        let to = world.server().ready.address;
        let challenge = head(&open("POST", "/v1/challenge"), 0);
        let wrong = head(&stranger.request(method, path, EMPTY_MEDIA_TYPE, vec![], stranger.nonce()), 0);
        let attack = async move {
            let mut stream = tls::connect(to, "http/1.1").await;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(exchange(&mut stream, &challenge).await, "200");
                assert_eq!(exchange(&mut stream, &wrong).await, "401");
                sent.fetch_add(2, Ordering::Relaxed);
            }
        };
        flood.spawn_on(attack, ELSEWHERE.handle());
    }
    flood
}

/// Sends a request, reads the whole answer, and tells its status.
async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    loop {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the connection ended");
        let text = std::str::from_utf8(&answer).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return text.get(9..12).unwrap().to_owned();
        }
    }
}

/// The admins unseal while strangers try to open sessions without end.
#[tokio::test(flavor = "multi_thread")]
async fn an_unseal_goes_on_in_a_flood() {
    let _alone = ALONE.lock().await;
    let world =
        World::sealed(Shape { k: 2, n: 3, mode: bulla_wire::evidence::SealMode::Quorum, ..Shape::default() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut flood = strangers(&world, &stop, &sent, "POST", "/v1/seal/session").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(30), world.unseal()).await.expect("the admins are heard");
    let health = world.client(&world.admins[0]).seal_status().await.unwrap();
    assert_eq!(health.state, SealState::Unsealed);
    stop.store(true, Ordering::Relaxed);
    while flood.join_next().await.is_some() {}
    println!("unsealed within {:.1?} and {} requests of strangers", began.elapsed(), sent.load(Ordering::Relaxed));
    assert!(resident_mib() <= RSS_MAX_MIB);
}
