//! What can be seen from a user's machine: files, the way to the server, and what the cluster answers.

use super::super::seal::check_key;
use super::{Check, Verdict, judge};
use crate::exit::Failure;
use crate::session::{Session, Settled};
use bulla_client::Client;
use bulla_client::certificate::Certificate;
use bulla_client::probe::{Judged, Look};
use bulla_crypto::evidence::{ClusterView, Record, RecordChain};
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::Signer as _;
use bulla_wire::api::{Health, PrincipalSummary, Whoami};
use bulla_wire::error::Code;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::name::Name;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

/// Principals whose keys are looked at, with a request for each: so many take seconds.
const PRINCIPALS: u32 = 200;

pub async fn checks(session: &Session<'_>) -> Vec<Check> {
    let settled = session.settled();
    let mut checks = vec![context(session, settled.as_ref())];
    let identity = session.identity();
    checks.push(match &identity {
        Ok(identity) if identity.recipients().is_empty() => judge::signs_only(&identity.public_key().key_id()),
        Ok(identity) => {
            let decrypts = check_key(session).await;
            judge::identity(&decrypts.map(|_| identity.public_key().key_id()))
        }
        Err(failure) => Check::failed("identity", failure),
    });
    let identity = identity.ok();
    let decrypts = identity.as_deref().filter(|identity| !identity.recipients().is_empty());
    checks.extend(decrypts.map(keys));
    let Ok(settled) = settled else { return checks };
    let identity = identity.filter(|_| settled.trust.is_some());
    let client = if identity.is_some() { session.client() } else { session.open_client() };
    match client {
        Ok(client) => network(session, &client, identity, &mut checks).await,
        Err(failure) => checks.push(Check::failed("address", &failure)),
    }
    checks
}

fn context(session: &Session<'_>, settled: Result<&Settled, &Failure>) -> Check {
    // Who may write into the folder puts another file in the place of this one.
    let file = session.config_path().ok();
    let folder = file.and_then(Path::parent);
    let seen = |path: &Path| Some((path.to_owned(), std::fs::metadata(path).ok()?.permissions().mode() & 0o1777));
    judge::context(settled, &[file, folder].into_iter().flatten().filter_map(seen).collect::<Vec<_>>())
}

fn keys(identity: &Identity) -> Check {
    let classical = identity.recipients().iter().filter(|recipient| !recipient.is_hybrid());
    let classical: Vec<_> = classical.map(|recipient| recipient.as_str().to_owned()).collect();
    judge::keys(&classical, identity.dual_use())
}

async fn network(session: &Session<'_>, client: &Client, identity: Option<Arc<Identity>>, checks: &mut Vec<Check>) {
    let handshake = client.probe_tls().await;
    checks.push(judge::address(&handshake));
    let Ok(handshake) = handshake else { return };
    checks.extend(handshake.as_ref().map(judge::tls));
    let certificate = handshake.and_then(|handshake| handshake.certificate);
    let now_ms = crate::session::now_ms();
    checks.extend(certificate.as_ref().map(|certificate| judge::shown(certificate, now_ms)));
    // Documents are asked for as in every call, patiently: not where nothing answers at all.
    if let Err(error) = client.probe_open("/v1/health", "", None).await {
        return checks.push(Check::failed("answer", &error.into()));
    }
    let (view, missing) = client.probe_documents().await;
    let health = match client.probe_open("/v1/health", "", view.as_deref()).await {
        Ok(health) => health,
        Err(error) => return checks.push(Check::failed("answer", &error.into())),
    };
    let whole = matches!(health.judged, Judged::Whole { .. });
    let newest = view.as_deref().map(|view| (view.id(), view.newest().number()));
    let query = match view.as_deref().filter(|_| whole) {
        Some(view) => Some(query(client, view, certificate.as_ref()).await),
        None => None,
    };
    // Where nothing verifies the answer, it is the documents' own failure that has to be mended.
    let seen = whole || health.judged == Judged::Unjudged;
    let changed = !seen || query.as_ref().is_some_and(|check| check.verdict == Verdict::Fail);
    // Before there is a cluster there are no documents, and the state says that.
    if missing.as_ref().is_none_or(|error| error.code() != Some(Code::Uninitialised)) {
        checks.push(judge::documents(newest, missing.map(Failure::from).as_ref(), changed));
    }
    checks.push(judge::answer("answer", &health, certificate.as_ref()));
    checks.extend(query);
    checks.extend(whole.then(|| judge::clock(&health)).flatten());
    if whole {
        let told = json::parse::<Health>(&health.body, MAX_JSON_BYTES).ok();
        checks.extend(told.iter().flat_map(judge::health));
    }
    let Some(view) = view else { return };
    checks.push(admins(&view));
    let Some(identity) = identity.filter(|_| whole) else { return };
    let known = request(client, &identity, &view, &health, certificate.as_ref(), checks).await;
    if known {
        session.alarms_shown();
    }
    // A listing has a query.
    if known && !changed {
        checks.push(principals(client).await);
    }
}

/// An open route that takes a query, which asks for documents that are not there yet.
async fn query(client: &Client, view: &ClusterView, certificate: Option<&Certificate>) -> Check {
    let query = format!("from={}", view.newest().number().saturating_add(1));
    match client.probe_open("/v1/cluster", &query, Some(view)).await {
        Ok(look) => judge::answer("query", &look, certificate),
        Err(error) => Check::failed("query", &error.into()),
    }
}

/// A signed request, and what only a known caller learns. True if the caller is known.
async fn request(
    client: &Client,
    identity: &Identity,
    view: &ClusterView,
    health: &Look,
    certificate: Option<&Certificate>,
    checks: &mut Vec<Check>,
) -> bool {
    let Some(challenge) = health.challenge else { return false };
    let key = identity.public_key().key_id();
    let look = match client.probe_signed("/v1/whoami", "", challenge, view).await {
        Ok(look) => look,
        Err(error) => {
            checks.push(Check::failed("request", &error.into()));
            return false;
        }
    };
    checks.push(judge::request(&look, &key, certificate));
    let answered = look.judged == Judged::Whole { open: false } && look.status < 400;
    let whoami = answered.then(|| json::parse::<Whoami>(&look.body, MAX_JSON_BYTES).ok()).flatten();
    let Some(whoami) = whoami else { return false };
    checks.push(judge::principal(&whoami));
    checks.push(judge::alarms(look.alarms));
    // Before any call that is judged, and so remembered.
    let first = client.standing().await.is_ok_and(|standing| standing.seen.is_none());
    checks.extend(replies(client, identity, &whoami.principal.name).await);
    // A call, which also compares where the cluster stands with what was seen of it.
    let called = client.whoami().await.map(drop).map_err(Failure::from);
    checks.push(judge::history(called.as_ref().err(), first));
    true
}

/// What the caller's record lists under the key that signs; nothing if a policy does not let the caller see it.
async fn replies(client: &Client, identity: &Identity, name: &Name) -> Option<Check> {
    let principal = client.principal(name).await.ok()?;
    let chain = RecordChain::open(&principal.records).ok()?;
    let key = chain.newest().key(&identity.public_key().key_id())?;
    Some(judge::replies(&key.recipients, identity.recipients()))
}

fn admins(view: &ClusterView) -> Check {
    let document = view.newest();
    let weak = document.admins().filter(|record| !record.is_hybrid()).map(|record| record.name().to_string());
    judge::admins(document.quorum(), document.admins().count(), &weak.collect::<Vec<_>>())
}

async fn principals(client: &Client) -> Check {
    let page = match client.principals(None, None, None, Some(PRINCIPALS)).await {
        Ok(page) => page,
        Err(error) if error.code() == Some(Code::Denied) => return judge::principals(None, false),
        Err(error) => return Check::failed("principals", &error.into()),
    };
    let mut found = Vec::with_capacity(page.principals.len());
    for PrincipalSummary { name, disabled, .. } in &page.principals {
        if *disabled {
            continue;
        }
        match client.principal(name).await {
            Ok(principal) => {
                if let Ok(chain) = RecordChain::open(&principal.records) {
                    found.push(held(chain.newest()));
                }
            }
            Err(error) if error.code() == Some(Code::Denied) => return judge::principals(None, false),
            Err(error) => return Check::failed("principals", &error.into()),
        }
    }
    judge::principals(Some(&found), page.next.is_some())
}

fn held(record: &Record) -> judge::Held {
    let dual_use = record.keys().iter().any(|key| key.dual_use);
    judge::Held { name: record.name().to_string(), is_hybrid: record.is_hybrid(), dual_use }
}
