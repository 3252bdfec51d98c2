//! What `bulla-server` reads: its configuration, requests, certificate and key.

use crate::evidence::{Keys, NOW_MS};
use crate::kms::CANARY;
use bulla_core::action::Resource;
use bulla_core::directory::{Directory, Principal};
use bulla_core::operation::{Context, Now};
use bulla_crypto::sign::Signer as _;
use bulla_server::config::{CertificateFiles, Tls as Settings, layer};
use bulla_server::dispatch::{Op, parse_op};
use bulla_server::route::{Effect, MAX_REQUEST_PATH_BYTES, Param, Query, RequestBody, RouteError, find};
use bulla_server::tls::Tls;
use bulla_wire::evidence::Actor;
use bulla_wire::id::Lineage;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::mem::discriminant;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// TOML, and behind a zero byte lines of an environment. A refusal names the key and the way out.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (file, environment) = text.split_once('\0').unwrap_or((text, ""));
    let variables = || {
        environment
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let read = || layer(Some((Path::new("server.toml"), file)), variables(), &[]);
    match read() {
        Ok(config) => assert_eq!(read().as_ref().ok(), Some(&config), "one text, two configurations"),
        Err(error) => {
            assert!(!error.key.is_empty() && !error.problem.is_empty() && !error.hint.is_empty(), "{error:?}");
            assert_eq!(read().err().map(|again| again.to_string()), Some(error.to_string()));
        }
    }
}

/// `METHOD path?query`: what a route takes has one spelling.
pub fn route(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let matched = match find(method, path) {
        Ok(matched) => matched,
        Err(RouteError::MethodNotAllowed { allow }) => {
            let found =
                allow.split(", ").all(|method| !matches!(find(method, path), Err(RouteError::MethodNotAllowed { .. })));
            return assert!(found && !allow.split(", ").any(|allowed| allowed == method), "{allow}");
        }
        Err(RouteError::Unknown | RouteError::BadPath(_)) => return,
    };
    assert!(
        path.len() <= MAX_REQUEST_PATH_BYTES && !path.contains(['%', '?', '#', ' ']),
        "a second spelling of a path"
    );
    assert_eq!((matched.route.method, matched.path), (method, path));
    let value = match &matched.param {
        None => String::new(),
        Some(Param::Name(name)) => name.to_string(),
        Some(Param::Wrap(id)) => id.to_string(),
        Some(Param::Path(path)) => path.to_string(),
        Some(Param::Session(id)) => id.clone(),
        Some(Param::Role(role)) => role.to_string(),
        Some(Param::Lease(id)) => id.to_string(),
    };
    let (before, after) = match matched.route.parameter() {
        Some((before, _, _, after)) => (before, after),
        None => (matched.route.template, ""),
    };
    assert_eq!(format!("{before}{value}{after}"), path);
    let Ok(parsed) = Query::parse(query, matched.route.query) else { return };
    let pairs = matched.route.query.iter().filter_map(|name| parsed.get(name).map(|value| format!("{name}={value}")));
    let (mut pairs, mut said): (Vec<_>, Vec<_>) =
        (pairs.collect(), query.split('&').filter(|part| !part.is_empty()).collect());
    pairs.sort_unstable();
    said.sort_unstable();
    assert_eq!(pairs, said, "a query holds more than was read");
    if let Ok(limit) = parsed.limit() {
        assert!((1..=bulla_wire::api::MAX_PAGE).contains(&limit));
    }
    let _ = (parsed.flag("all"), parsed.number("after", 0..=u64::MAX), parsed.number("page", 0..=9));
}

/// What is known to the node of [`dispatch`]: the fixed cluster and its admins, of whom the first asks.
struct Node {
    directory: Directory,
    actor: Actor,
}

impl Node {
    fn get() -> &'static Self {
        static NODE: LazyLock<Node> = LazyLock::new(|| {
            let Keys { people: [alice, ..], records, view, .. } = Keys::get();
            let admins =
                records.iter().take(3).map(|record| Principal::from_stored(&Principal::founder(record, vec![])));
            let admins: Result<Vec<Principal>, _> = admins.collect();
            let admins = admins.unwrap_or_else(|fault| unreachable!("the fixed keys have records: {fault}"));
            let directory = Directory::new(view.clone(), admins, BTreeMap::new());
            let directory = directory.unwrap_or_else(|error| unreachable!("there is no policy: {error}"));
            let Some(record) = records.first() else { unreachable!("five people have records") };
            let actor = Actor { principal: record.principal(), key: alice.public_key().key_id(), address: None };
            Node { directory, actor }
        });
        &NODE
    }
}

/// A request line as of [`route`], and behind its end a body in clear: what it asks for is about what the path says,
/// only what is kept from repeats changes something, and a refusal repeats nothing of a body that travels encrypted.
pub fn dispatch(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (line, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Ok(matched) = find(method, path) else { return };
    let Ok(query) = Query::parse(query, matched.route.query) else { return };
    let (Keys { node, view, .. }, Node { directory, actor }) = (Keys::get(), Node::get());
    let Some(node) = node.signing_key() else { unreachable!("keys in memory") };
    let context = Context {
        now: Now { unix_ms: NOW_MS, steady_ms: NOW_MS, active_ms: 0 },
        cluster: view.id(),
        epoch: 1,
        lineage: Lineage::new([7; 16]),
        doc: view.newest().number(),
        node,
        directory,
        actor: Some(actor),
        repeated: None,
        webhook: false,
        losses: 0,
    };
    let asked = || parse_op(matched.clone(), &query, body.to_vec(), &context);
    let (op, resource) = match (asked(), asked()) {
        (Ok((op, resource)), Ok((again, same))) => {
            assert!(resource == same && discriminant(&op) == discriminant(&again), "one request, two operations");
            (op, resource)
        }
        (Err(refusal), Err(again)) => {
            assert!(refusal == again && !refusal.message.is_empty(), "{refusal:?} or {again:?}");
            let encrypted = matches!(matched.route.request, RequestBody::Age { .. });
            let repeated = format!("{refusal:?}").contains(CANARY) && !line.contains(CANARY);
            return assert!(!encrypted || !repeated, "a secret in a refusal: {refusal:?}");
        }
        _ => unreachable!("taken once, and once not"),
    };
    match &op {
        Op::WrapCreate(draft, file) => {
            let statement = draft.statement();
            assert_eq!((&resource, statement.from), (&Resource::Wrap(statement.wrap), actor.principal));
            assert!(body.ends_with(file), "a ciphertext from elsewhere");
        }
        _ => assert_eq!(resource, matched.resource(), "it is about something else than the path says"),
    }
    if let Some(path) = op.changes_secret() {
        assert_eq!(resource, Resource::Kv(path.clone()), "another secret is changed");
    }
    let changes = op.changes_secret().is_some() || op.changes_directory();
    assert!(!changes || matched.route.effect == Effect::Mutation, "a read that changes something");
}

/// Certificate and key in one file: what is taken once is taken again, and what is not is refused in words.
pub fn tls(bytes: &[u8]) {
    static FILE: LazyLock<Mutex<std::fs::File>> = LazyLock::new(|| {
        let file = memfd_create("bulla-fuzz", MemfdFlags::CLOEXEC).map(std::fs::File::from);
        Mutex::new(file.unwrap_or_else(|error| unreachable!("Linux has files in memory: {error}")))
    });
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes));
    let length = u64::try_from(bytes.len()).unwrap_or_default();
    assert!(written.is_ok() && ftruncate(&*file, length).is_ok(), "a file in memory cannot be written");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let files = Some(CertificateFiles { cert: path.clone(), key: path });
    match Tls::open(&Settings { files, require_pq: true }, None) {
        Ok(tls) => {
            assert!(tls.reload().is_ok(), "taken once, and not again");
            assert_eq!(tls.config().alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
