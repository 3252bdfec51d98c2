//! What `bulla-server` reads: its configuration, request lines, certificate and key.

use bulla_server::config::{CertificateFiles, Tls as Settings, layer};
use bulla_server::route::{MAX_REQUEST_PATH_BYTES, Param, Query, RouteError, find};
use bulla_server::tls::Tls;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io::{Seek, SeekFrom, Write};
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
