//! The listeners over real sockets of this machine.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use bulla_crypto::BoxFuture;
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::SigningKey;
use bulla_server::config;
use bulla_server::listen::{
    Arrived, BODY_TIMEOUT, BodyBudget, CONNECTION_GRACE, DEFAULT_BODY_BUDGET_BYTES, HANDSHAKE_TIMEOUT, Handler, Limits,
    Listeners, MAX_H2_PENDING_RESETS, MAX_H2_STREAMS, MAX_HEADERS, MAX_LOCAL_CONNECTIONS, Peer, bind_local, read_body,
    serve,
};
use bulla_server::metrics::{Metrics, serve_metrics};
use bulla_server::tls::Tls;
use bulla_server::unsealed::REFUSALS_EACH;
use bulla_testkit::tls::{certificate, client as shown, offer};
use bulla_wire::signature::MAX_HEADER_BYTES;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const LONG: Duration = Duration::from_secs(20);

/// Answers by path.
struct Probe {
    budget: BodyBudget,
    go: Notify,
    begun: Notify,
    finished: AtomicUsize,
    held: Arc<AtomicUsize>,
}

/// Bytes of a large answer.
const LARGE: usize = 8 * 1024 * 1024;

/// A large answer, counted while it is in memory.
struct Large(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Probe {
    fn handle(&self, request: Arrived) -> BoxFuture<'_, Response<Bytes>> {
        Box::pin(async move {
            match request.head.uri.path() {
                "/panic" => panic!("on purpose"),
                "/wait" => {
                    self.begun.notify_one();
                    self.go.notified().await;
                    self.finished.fetch_add(1, Ordering::SeqCst);
                    Response::new("waited".into())
                }
                "/body" => match read_body(request.body, 1000, &self.budget, BODY_TIMEOUT).await {
                    Ok(read) => Response::new(format!("{} bytes", read.bytes.len()).into()),
                    Err(error) => {
                        let mut response = Response::new(error.to_string().into());
                        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                        response
                    }
                },
                "/large" => {
                    self.held.fetch_add(1, Ordering::SeqCst);
                    Response::new(Bytes::from_owner(Large(vec![b'x'; LARGE], Arc::clone(&self.held))))
                }
                "/key" => Response::new(request.certificate.map_or("nobody".to_owned(), |key| key.to_string()).into()),
                _ => Response::new(format!("{:?} {:?}", request.peer, request.head.version).into()),
            }
        })
    }
}

struct Server {
    address: SocketAddr,
    probe: Arc<Probe>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<bool>,
}

impl Server {
    async fn start(limits: Limits, require_pq: bool, local: Option<&Path>) -> Self {
        let tls = Tls::open(&config::Tls { files: None, require_pq }, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let probe = Arc::new(Probe {
            budget: BodyBudget::new(4096),
            go: Notify::new(),
            begun: Notify::new(),
            finished: AtomicUsize::new(0),
            held: Arc::default(),
        });
        let metrics = Arc::new(Metrics::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let listeners =
            Listeners { network: Some((listener, tls.config())), local: local.map(|path| bind_local(path).unwrap()) };
        let served = tokio::spawn(serve(listeners, Arc::<Probe>::clone(&probe), Arc::clone(&metrics), limits, async {
            let _ = stopped.await;
        }));
        Self { address, probe, metrics, stop, served }
    }

    async fn plain() -> Self {
        Self::start(Limits::default(), false, None).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_with(client(&[aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519], &["http/1.1"]))
            .await
            .unwrap()
    }

    async fn connect_with(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn client(groups: &[&'static dyn SupportedKxGroup], protocols: &[&str]) -> ClientConfig {
    offer(&[&rustls::version::TLS13], groups, protocols)
}

/// Sends a request and reads its answer: status, head in lower case, body.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await.expect("an answer")
}

async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(u16, String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.expect("no answer in time").ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, head, String::from_utf8(body).unwrap()))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

#[tokio::test]
async fn answers_over_http1_with_the_right_headers() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let forged = "GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\nforwarded: for=192.0.2.1\r\n\r\n";
    let (status, head, body) = ask(&mut stream, forged).await;
    assert_eq!((status, body.as_str()), (200, "Network(127.0.0.1) HTTP/1.1"));
    assert!(head.contains("\r\ndate: ") && head.contains("\r\ncache-control: no-store, no-transform\r\n"), "{head}");
    assert!(!head.contains("\r\nserver:"), "{head}");
    // Again on the same connection.
    assert_eq!(ask(&mut stream, &get("/")).await.0, 200);
    assert!(server.metrics.text().contains("bulla_connections 1\n"));
}

#[tokio::test]
async fn answers_over_http2() {
    let server = Server::plain().await;
    let groups = [aws_lc_rs::kx_group::X25519MLKEM768];
    let stream = server.connect_with(client(&groups, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut running = Vec::new();
    for _ in 0..200 {
        sender.ready().await.unwrap();
        let request = Request::get("https://localhost/").body(Full::new(Bytes::new())).unwrap();
        running.push(tokio::spawn(sender.send_request(request)));
    }
    for answer in running {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store, no-transform");
        assert!(answer.headers().contains_key("date") && !answer.headers().contains_key("server"));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "Network(127.0.0.1) HTTP/2.0");
    }
    let large = Request::get("https://localhost/").header("x", "y".repeat(16 * 1024));
    let refused = sender.send_request(large.body(Full::new(Bytes::new())).unwrap()).await;
    assert!(refused.is_ok_and(|answer| answer.status() == 431));
}

#[tokio::test]
async fn tls_is_of_one_kind() {
    let server = Server::plain().await;
    let both: [&'static dyn SupportedKxGroup; 2] = [aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::X25519MLKEM768];
    let group = |stream: &TlsStream<TcpStream>| stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    let stream = server.connect().await;
    assert_eq!(group(&stream), NamedGroup::X25519MLKEM768);
    let classical = server.connect_with(client(&both[..1], &[])).await.unwrap();
    assert_eq!(group(&classical), NamedGroup::X25519);
    for groups in [[aws_lc_rs::kx_group::SECP256R1], [aws_lc_rs::kx_group::SECP384R1]] {
        assert!(server.connect_with(client(&groups, &[])).await.is_err());
    }
    let old = offer(&[&rustls::version::TLS12], &both, &[]);
    assert!(server.connect_with(old).await.is_err());
    assert!(server.connect_with(client(&both[..1], &["spdy/3"])).await.is_err());

    let strict = Server::start(Limits::default(), true, None).await;
    assert!(strict.connect_with(client(&both[..1], &[])).await.is_err());
    // A client that guesses X25519 first is asked again.
    let stream = strict.connect_with(client(&both, &[])).await.unwrap();
    assert_eq!(group(&stream), NamedGroup::X25519MLKEM768);
    assert!(strict.metrics.text().contains("bulla_handshakes_failed_total 1\n"));
}

#[tokio::test]
async fn connections_leave_nothing_to_resume() {
    let server = Server::plain().await;
    let config = client(&[aws_lc_rs::kx_group::X25519MLKEM768], &["http/1.1"]);
    for _ in 0..2 {
        let mut stream = server.connect_with(config.clone()).await.unwrap();
        assert_eq!(ask(&mut stream, &get("/")).await.0, 200);
        // Both share one store of tickets; were there one, the second handshake would have used it.
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        assert!(matches!(kind, rustls::HandshakeKind::Full), "{kind:?}");
    }
}

#[tokio::test]
async fn the_unix_socket_tells_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bulla.sock");
    let server = Server::start(Limits::default(), false, Some(&path)).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let own = stream.peer_cred().unwrap().uid();
    let (_, _, body) = ask(&mut stream, &get("/")).await;
    assert_eq!(body, format!("{:?} HTTP/1.1", Peer::Local { uid: own }));
    // HTTP/2 is not spoken there.
    let mut other = UnixStream::connect(&path).await.unwrap();
    other.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let refused = answer(&mut other).await;
    assert!(refused.is_none_or(|(status, ..)| status == 400 || status == 505));
    // Another server does not take a socket that is served, but one that is left over.
    assert_eq!(bind_local(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop((stream, other));
    server.stop.send(()).unwrap();
    assert!(server.served.await.unwrap());
    bind_local(&path).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(bind_local(&file).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn headers_and_bodies_have_limits() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let request = |bytes: usize| format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    // The gate refuses what is above 12 KiB; here is the end of what hyper reads.
    assert_eq!(ask(&mut stream, &request(13 * 1024)).await.0, 200);
    assert_eq!(ask(&mut server.connect().await, &request(33 * 1024)).await.0, 431);
    let many: String = (0..70).map(|i| format!("x{i}: y\r\n")).collect();
    assert_eq!(ask(&mut stream, &format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await.0, 431);

    let mut stream = server.connect().await;
    let body = "z".repeat(1000);
    let (status, _, text) =
        ask(&mut stream, &format!("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{body}")).await;
    assert_eq!((status, text.as_str()), (200, "1000 bytes"));
    // A length that is too large is refused before a byte of it is sent.
    let announced = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n";
    assert_eq!(ask(&mut stream, announced).await.0, 413);
    let mut stream = server.connect().await;
    let chunked = "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let (status, ..) = ask(&mut stream, &format!("{chunked}3e8\r\n{body}\r\n1\r\nz\r\n0\r\n\r\n")).await;
    assert_eq!(status, 413);
    assert_eq!(server.probe.budget.free_bytes(), 4096);
}

#[tokio::test]
async fn a_panic_is_an_empty_500() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let (status, _, body) = ask(&mut stream, &get("/panic")).await;
    assert_eq!((status, body.as_str()), (500, ""));
    assert_eq!(ask(&mut stream, &get("/")).await.0, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_nothing() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    stream.write_all(get("/wait").as_bytes()).await.unwrap();
    server.probe.begun.notified().await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.probe.go.notify_one();
    // The running request counts as one to wait for.
    server.stop.send(()).unwrap();
    assert!(timeout(LONG, server.served).await.unwrap().unwrap());
    assert_eq!(server.probe.finished.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let mut idle = server.connect().await;
    assert_eq!(ask(&mut idle, &get("/")).await.0, 200);
    stream.write_all(get("/wait").as_bytes()).await.unwrap();
    server.probe.begun.notified().await;
    server.stop.send(()).unwrap();
    // Idle connections end at once, new ones are refused, the running request gets its answer.
    assert_eq!(timeout(LONG, idle.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    assert!(TcpStream::connect(server.address).await.is_err());
    server.probe.go.notify_one();
    let (status, _, body) = answer(&mut stream).await.unwrap();
    assert_eq!((status, body.as_str()), (200, "waited"));
    assert!(timeout(LONG, server.served).await.unwrap().unwrap());
}

#[tokio::test]
async fn connections_have_a_number_and_an_end() {
    let limits = Limits {
        connections: 1,
        first_head: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        age: Duration::from_millis(2500),
    };
    let server = Server::start(limits, false, None).await;
    // One that never asks anything ends after the first timeout.
    let began = Instant::now();
    let mut silent = server.connect().await;
    assert_eq!(timeout(LONG, silent.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    // One over which nobody proved a key gives its place to the next.
    let mut silent = server.connect().await;
    let mut second = server.connect().await;
    assert_eq!(timeout(LONG, silent.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    assert!(server.metrics.text().contains("bulla_connections_turned_away_total 1\n"));
    // Half a head is no head.
    second.write_all(b"GET / HT").await.unwrap();
    assert!(answer(&mut second).await.is_none_or(|(status, ..)| status == 408));
    // One that asked ends when it is quiet.
    let mut third = server.connect().await;
    assert_eq!(ask(&mut third, &get("/")).await.0, 200);
    let began = Instant::now();
    assert_eq!(timeout(LONG, third.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    // One that is never quiet ends by its age.
    let mut busy = server.connect().await;
    let began = Instant::now();
    loop {
        if busy.write_all(get("/").as_bytes()).await.is_err() || answer(&mut busy).await.is_none() {
            break;
        }
        assert!(began.elapsed() < LONG, "it never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(2000), "{:?}", began.elapsed());
}

/// A client that reads its answer slowly is not idle, and goes on with its connection afterwards.
#[tokio::test]
async fn whoever_reads_slowly_is_not_idle() {
    let limits = Limits { idle: Duration::from_secs(3), ..Limits::default() };
    let server = Server::start(limits, false, None).await;
    // What the kernel takes at once is out of the server's sight, so little of it is let through.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let config = client(&[aws_lc_rs::kx_group::X25519], &["http/1.1"]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let began = Instant::now();
    stream.write_all(get("/large").as_bytes()).await.unwrap();
    let mut read = 0;
    while read < LARGE {
        let mut piece = vec![0; 256 * 1024];
        let got = timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(got > 0, "cut after {read} bytes and {:?}", began.elapsed());
        read += got;
        // 1.6 megabytes in a second.
        tokio::time::sleep_until((began + Duration::from_nanos(read as u64 * 625)).into()).await;
    }
    assert!(began.elapsed() > limits.idle * 3 / 2, "{:?}", began.elapsed());
    while timeout(Duration::from_millis(200), stream.read(&mut [0; 1024])).await.is_ok_and(|got| got.unwrap() > 0) {}
    assert_eq!(ask(&mut stream, &get("/")).await.0, 200, "the connection is not closing");
    assert_eq!(server.probe.held.load(Ordering::SeqCst), 0);
}

/// Of an answer nothing is read: it is in memory no longer than a connection may be idle, over either protocol.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_dropped() {
    let limits = Limits { idle: Duration::from_millis(500), ..Limits::default() };
    let server = Server::start(limits, false, None).await;
    let becomes = |expected: usize| {
        let held = Arc::clone(&server.probe.held);
        async move {
            let began = Instant::now();
            while held.load(Ordering::SeqCst) != expected {
                assert!(began.elapsed() < LONG, "never {expected} in memory");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            began.elapsed()
        }
    };
    let mut stream = server.connect().await;
    stream.write_all(get("/large").as_bytes()).await.unwrap();
    becomes(1).await;
    assert!(becomes(0).await > limits.idle / 2);
    // TCP takes everything here; what stands still is the stream's window.
    let h2 = server.connect_with(client(&[aws_lc_rs::kx_group::X25519], &["h2"])).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.initial_stream_window_size(1).handshake(TokioIo::new(h2)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/large").body(Full::new(Bytes::new())).unwrap();
    let unread = sender.send_request(request).await.unwrap();
    assert!(becomes(0).await > limits.idle / 2);
    drop((stream, unread));
}

/// Another takes the place of a connection whose answer is on its way: that is read to its end all the same.
#[tokio::test]
async fn an_answer_on_its_way_is_not_cut() {
    let server = Server::start(Limits { connections: 1, ..Limits::default() }, false, None).await;
    let mut first = server.connect().await;
    first.write_all(get("/large").as_bytes()).await.unwrap();
    let mut begin = [0; 1024];
    first.read_exact(&mut begin).await.unwrap();
    let mut second = server.connect().await;
    assert_eq!(ask(&mut second, &get("/")).await.0, 200);
    let mut rest = Vec::new();
    let end = timeout(LONG, first.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() + begin.len() > LARGE, "{} bytes, {end:?}", rest.len());
}

/// A client that does not go when it is told to: its certificate counts no longer than a connection lives, and the
/// connection ends for all that.
#[tokio::test]
async fn a_certificate_counts_for_the_age_of_a_connection() {
    let limits = Limits { age: Duration::from_millis(1500), ..Limits::default() };
    assert_eq!(Limits::default().age, Duration::from_secs(600));
    let server = Server::start(limits, false, None).await;
    let key = SigningKey::generate(&mut SystemRng).unwrap();
    let own = key.public_key().key_id().to_string();
    let mut stream = server.connect_with(shown("http/1.1", Some(certificate(&key, |_| {})))).await.unwrap();
    let mut nobody = server.connect_with(shown("http/1.1", None)).await.unwrap();
    let began = Instant::now();
    assert_eq!(ask(&mut stream, &get("/key")).await.2, own);
    assert_eq!(ask(&mut nobody, &get("/key")).await.2, "nobody");
    // A request under way keeps the connection open beyond its age; a second one that was sent behind it is taken.
    stream.write_all((get("/wait") + &get("/key")).as_bytes()).await.unwrap();
    server.probe.begun.notified().await;
    tokio::time::sleep_until((began + Duration::from_millis(1700)).into()).await;
    server.probe.go.notify_one();
    assert_eq!(answer(&mut stream).await.unwrap().2, "waited");
    let later = answer(&mut stream).await;
    assert!(later.is_none_or(|(_, _, body)| body == "nobody"), "the handshake is too long ago");

    // Over HTTP/2 streams can be begun until the client takes notice.
    let stream = server.connect_with(shown("h2", Some(certificate(&key, |_| {})))).await.unwrap();
    let began = Instant::now();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut last = String::new();
    while let Ok(()) = sender.ready().await {
        let request = Request::get("https://localhost/key").body(Full::new(Bytes::new())).unwrap();
        let sent = Instant::now();
        let Ok(answer) = sender.send_request(request).await else { break };
        last = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        // The server's clock for the connection began a little later.
        if sent.duration_since(began) < Duration::from_millis(1400) {
            assert_eq!(last, own);
        } else if sent.duration_since(began) > Duration::from_millis(1700) {
            assert_eq!(last, "nobody");
        }
        assert!(began.elapsed() < LONG, "it never ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!last.is_empty() && began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn metrics_have_one_page() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve_metrics(listener, Arc::new(Metrics::new())));
    for (method, path, expected) in [("GET", "/metrics", 200), ("GET", "/", 404), ("POST", "/metrics", 405)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let (status, head, body) = ask(&mut stream, &request).await;
        assert_eq!(status, expected, "{method} {path}");
        assert_eq!(expected == 200, body.contains("bulla_seal_state 0\n"));
        assert_eq!(expected == 200, head.contains("application/openmetrics-text"));
    }
    serving.abort();
}

/// A number as the manual writes it.
fn thousands(number: usize) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}

/// Operators go by that page, so whoever changes a limit changes it there too.
#[test]
fn the_manual_tells_the_limits_that_hold() {
    let page = include_str!("../../../docs/manual/operations.md");
    let limits = Limits::default();
    assert_eq!(limits.first_head, HANDSHAKE_TIMEOUT, "the manual has one number for both");
    let (idle, age, grace) = (limits.idle.as_secs(), limits.age.as_secs() / 60, CONNECTION_GRACE.as_secs());
    assert_eq!(grace, 60, "the manual says a minute");
    for told in [
        format!(
            "| connections over the network | {} (`limits.connections`), {MAX_LOCAL_CONNECTIONS} over the local socket |",
            thousands(limits.connections)
        ),
        format!("| TLS handshake, first request | {} s each |", HANDSHAKE_TIMEOUT.as_secs()),
        format!("any connection | {idle} s; {age} min | it ends, after {age} min with a minute for what is read |"),
        format!("| HTTP/2 | {MAX_H2_STREAMS} streams at once; {MAX_H2_PENDING_RESETS} resets before an answer |"),
        format!("| headers | {MAX_HEADERS}, {} KiB |", MAX_HEADER_BYTES / 1024),
        format!("JSON 1 MiB, wraps 16 MiB; {} s to arrive", BODY_TIMEOUT.as_secs()),
        format!("| {} MiB (`limits.body_mib`);", DEFAULT_BODY_BUDGET_BYTES / (1024 * 1024)),
        format!("| refused requests of one principal | {} a minute |", thousands(REFUSALS_EACH)),
    ] {
        assert!(page.contains(&told), "{told}");
    }
}

/// What the server tells of its limits in its first frame (RFC 9113 §6.5.2): streams, the window of each, headers. Left to
/// the library's defaults, a connection could hold many times as much.
#[tokio::test]
async fn http2_tells_its_limits() {
    let server = Server::plain().await;
    let mut stream = server.connect_with(client(&[aws_lc_rs::kx_group::X25519], &["h2"])).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    timeout(LONG, stream.read_exact(&mut head)).await.unwrap().unwrap();
    let [high, middle, low, kind, ..] = head;
    assert_eq!(kind, 4, "SETTINGS come first");
    let length = u32::from_be_bytes([0, high, middle, low]);
    let mut body = vec![0; usize::try_from(length).unwrap()];
    timeout(LONG, stream.read_exact(&mut body)).await.unwrap().unwrap();
    let told = body.chunks_exact(6).filter_map(|pair| {
        let (id, value) = pair.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*id), u32::from_be_bytes(value.try_into().ok()?)))
    });
    let told: BTreeMap<u16, u32> = told.collect();
    assert_eq!(told.get(&3), Some(&MAX_H2_STREAMS), "{told:?}");
    assert_eq!(told.get(&4), Some(&(1024 * 1024)), "{told:?}");
    let headers = usize::try_from(told.get(&6).copied().expect("a limit of headers")).unwrap();
    assert!((MAX_HEADER_BYTES..2 * MAX_HEADER_BYTES).contains(&headers), "{told:?}");
}

/// Whoever sits on the machine has places of their own, so many, and the next one waits for one of them.
#[tokio::test]
async fn the_local_socket_has_places_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bulla.sock");
    let server = Server::start(Limits { connections: 1, ..Limits::default() }, false, Some(&path)).await;
    let mut network = server.connect().await;
    let mut held = Vec::new();
    for _ in 0..MAX_LOCAL_CONNECTIONS {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        assert_eq!(ask(&mut stream, &get("/")).await.0, 200);
        held.push(stream);
    }
    let mut next = UnixStream::connect(&path).await.unwrap();
    next.write_all(get("/").as_bytes()).await.unwrap();
    assert!(timeout(Duration::from_millis(200), next.read_u8()).await.is_err(), "it waits");
    drop(held.pop());
    assert_eq!(answer(&mut next).await.unwrap().0, 200);
    assert_eq!(ask(&mut network, &get("/")).await.0, 200, "nobody took the place over the network");
}
