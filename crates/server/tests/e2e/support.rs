//! Looks behind the server's back: at its store and its audit log.

use bulla_core::audit::{Body, Class, Expectations, Finding, Line};
use bulla_server::config::AuditTarget;
use bulla_server::sink;
pub use bulla_testkit::raw::{
    Caller, Http2, Reply, Request, Wire, announce, h2, open, read, rows, share, unsealed, view,
};
pub use bulla_testkit::tls::connect as tls;
use bulla_testkit::world::World;
use bulla_wire::signature::{CHALLENGE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, STATE_HEADER};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::path::PathBuf;

/// Where the audit log of a world lies.
pub fn audit_path(world: &World) -> PathBuf {
    match &world.config.audit.target {
        AuditTarget::Directory(path) | AuditTarget::File(path) => path.clone(),
        AuditTarget::Stdout => panic!("no file"),
    }
}

/// Every line of the audit log.
pub async fn lines(world: &World) -> Vec<Line> {
    world.server().node.parts.sink.flush().await.unwrap();
    written(world)
}

/// What stands in the files of the audit log.
pub fn written(world: &World) -> Vec<Line> {
    let mut all = Vec::new();
    sink::lines(&audit_path(world), 0, |found| {
        all.push(found.line);
        true
    })
    .unwrap();
    all
}

/// Number of lines of requests whose key was known.
pub async fn requests(world: &World) -> usize {
    lines(world).await.iter().filter(|line| matches!(line.body, Body::Request(_))).count()
}

/// Stops a world and judges its audit log.
pub async fn finish(world: World) {
    let findings = findings(world).await;
    assert!(findings.is_empty(), "{findings:?}");
}

/// The same for a world whose first log is gone: what is there is sound, and does not begin with the first file.
pub async fn finish_with_a_later_log(world: World) {
    let findings = findings(world).await;
    let first = |found: &Finding| found.class == Class::MissingFile && found.line == 0;
    assert!(findings.len() == 1 && findings.iter().all(first), "{findings:?}");
}

/// The same for a world whose clock went back, which the log shows and nothing else.
pub async fn finish_after_steps(world: World) {
    let findings = findings(world).await;
    assert!(findings.iter().all(|found| found.class == Class::ClockWentBack), "{findings:?}");
}

async fn findings(mut world: World) -> Vec<Finding> {
    if world.server.is_some() {
        world.stop().await;
    }
    let expected = Expectations { cluster: Some(world.cluster), whole: true, ..Expectations::default() };
    sink::verify(&audit_path(&world), expected).unwrap().findings
}

/// A header map without what differs from one answer to the next.
pub fn lasting(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let fleeting = ["date", CHALLENGE_HEADER, STATE_HEADER, SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER];
    let kept = headers.iter().filter(|(name, _)| !fleeting.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
