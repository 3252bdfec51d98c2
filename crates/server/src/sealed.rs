//! Routes of a node that is not unsealed: init and the unseal ceremony. Their right is a place among the admins of
//! the seal configuration, since policy cannot be read.

use crate::ceremony::{self, CeremonyError};
use crate::failpoint;
use crate::gate::{Holder, Verified};
use crate::listen::Peer;
use crate::node::{Node, NonceReused, Phase, Sealed};
use crate::reply::{Answer, internal};
use crate::route::{Effect, Endpoint, Matched, Param};
use crate::unsealed::lock;
use bulla_core::action::{Action, Resource};
use bulla_core::audit::{AuditBlocked, Event, Logged, Outcome, Refusal as RefusedLine};
use bulla_core::operation::Refusal;
use bulla_core::policy::exempt::SealRight;
use bulla_core::policy::{Authorized, Subject};
use bulla_core::seal::{Give, InitError, SealError, SessionError};
use bulla_crypto::evidence::Record;
use bulla_wire::api::{AlarmKind, GiveShare, Init, Seal, SealAdmin, SealState, Signed};
use bulla_wire::error::Code;
use bulla_wire::evidence::{MAX_ADMINS, SealMode};
use bulla_wire::id::{KeyId, PrincipalId};
use bulla_wire::json::{self, MAX_JSON_BYTES};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every output says of a seal that any one admin opens.
pub const ANY_WARNING: &str =
    "any one of the admins' keys, together with a copy of the storage, opens everything that the server can read";

fn subject(record: &Record) -> Subject {
    Subject {
        id: record.principal(),
        name: record.name().clone(),
        groups: bulla_core::directory::admins_group().into_iter().collect(),
        attributes: BTreeMap::new(),
    }
}

fn holder_of(record: &Record, key: &KeyId) -> Option<Holder> {
    let found = record.key(key)?;
    Some(Holder { key: found.public.clone(), subject: subject(record) })
}

/// The admin who signs with this key.
pub fn holder(sealed: &Sealed, key: &KeyId) -> Option<Holder> {
    sealed.view.newest().admin_by_key(key).and_then(|record| holder_of(record, key))
}

/// The body of an init, and the admin in it who signs with this key.
///
/// # Errors
/// What is wrong with the body.
pub fn init_holder(body: &[u8], key: &KeyId) -> Result<(Init, Option<Holder>), Refusal> {
    let init: Init = json::parse(body, MAX_JSON_BYTES).map_err(|e| crate::dispatch::malformed(&e))?;
    if init.admins.len() > MAX_ADMINS {
        let refusal = Refusal::new(Code::Malformed, format!("at most {MAX_ADMINS} admins")).field("admins");
        return Err(refusal.hint("name fewer of them"));
    }
    let mut records = init.admins.iter().filter_map(|envelope| Record::open(envelope, None).ok());
    let holder = records.find_map(|record| holder_of(&record, key));
    Ok((init, holder))
}

/// Writes the line of a request that failed before it was decided, and answers it.
pub async fn refuse(
    node: &Node,
    phase: &Phase,
    verified: &Verified,
    action: Option<Action>,
    refusal: &Refusal,
) -> Answer {
    let facts = verified.facts(node, phase);
    let line = RefusedLine::undecided(facts, phase.names(node), &verified.subject, action, None);
    let id = line.id().to_string();
    match node.parts.sink.reserve() {
        Ok(accepted) => match line.accepted(accepted).finish(Outcome::failed(refusal.code)).await {
            Ok(()) => Answer::refusal(refusal, Some(id)),
            Err(blocked) => audit_blocked(&blocked),
        },
        Err(blocked) => audit_blocked(&blocked),
    }
}

/// No audit, no answer.
pub fn audit_blocked(blocked: &AuditBlocked) -> Answer {
    tracing::error!(reason = %blocked, "audit log blocked");
    let refusal = Refusal::new(Code::AuditBlocked, "the audit log takes no lines, so nothing is answered");
    Answer::refusal(&refusal.hint("free space for the audit log, or look at the server's log"), None)
}

/// What is said of a change that had its place in the audit log and whose line is not written.
pub fn done_unlogged(blocked: &AuditBlocked, id: String) -> Answer {
    tracing::error!(reason = %blocked, "audit log blocked after a change");
    let refusal = Refusal::new(Code::Unknown, "it is done or not: the audit log blocked under way");
    Answer::refusal(&refusal.hint("ask again with the same nonce: the client does so by itself"), Some(id))
}

/// Whether a key may make the cluster from where it comes: a listed admin over the network, or the same user on the
/// local socket. Looked at before the body is read.
///
/// # Errors
/// If there is a cluster already, or the key may not.
pub fn may_init(node: &Node, phase: &Phase, key: &KeyId, peer: Peer) -> Result<(), Refusal> {
    if !matches!(phase, Phase::Uninitialised) {
        let refusal = Refusal::new(Code::AlreadyInitialised, "the cluster exists already");
        return Err(refusal.hint("`bulla status` shows it"));
    }
    let listed = node.parts.init_admins.contains(key);
    let allowed = match peer {
        Peer::Network(_) => listed,
        Peer::Local { uid } => {
            listed || (node.parts.init_admins.is_empty() && uid == rustix::process::getuid().as_raw())
        }
    };
    if allowed {
        return Ok(());
    }
    let refusal = Refusal::new(Code::NotAdmin, "this key is not among the admins that may make the cluster");
    Err(refusal.hint(
        "start the server with --admin FILE, the record of this key; or without any --admin, and run \
         `bulla init --socket DATA/bulla.sock` as the server's user",
    ))
}

/// Makes the cluster.
pub async fn init(node: &Arc<Node>, phase: &Phase, verified: &Verified, init: &Init) -> Answer {
    let Ok(right) = SealRight::assertion(&[verified.subject.id], verified.subject.clone()) else {
        return refuse(node, phase, verified, Some(Action::ClusterInit), &not_admin()).await;
    };
    let logged = match log(node, phase, verified, right, Action::ClusterInit, Resource::Cluster) {
        Ok(logged) => logged,
        Err(answer) => return answer,
    };
    let (nonce, request) = (verified.asked.seen_key(), verified.asked.digest());
    let result = match ceremony::init(node, init, verified.asked.key).await {
        Ok(made) => {
            node.remember_init(nonce, request, &made);
            Ok(Answer::json(&made))
        }
        Err(error @ CeremonyError::Phase(_)) => node.init_again(&nonce, &request).map(Answer::json).ok_or(error),
        Err(error) => Err(error),
    };
    let answer = finish(node, logged, Effect::Mutation, result).await;
    failpoint::hit(failpoint::INIT_BEFORE_ANSWER);
    answer
}

fn not_admin() -> Refusal {
    Refusal::new(Code::NotAdmin, "the caller holds no share of this seal")
}

fn log(
    node: &Node,
    phase: &Phase,
    verified: &Verified,
    right: SealRight,
    action: Action,
    resource: Resource,
) -> Result<Logged<()>, Answer> {
    let authorized = Authorized::exempt(right, action, resource, ())
        .map_err(|()| Answer::refusal(&internal(&"a right that does not cover its action", "-"), None))?;
    let event = Event::new(verified.facts(node, phase), phase.names(node), authorized);
    let accepted = node.parts.sink.reserve().map_err(|blocked| audit_blocked(&blocked))?;
    Ok(event.accepted(accepted))
}

async fn finish(node: &Node, logged: Logged<()>, effect: Effect, result: Result<Answer, CeremonyError>) -> Answer {
    let id = logged.id().to_string();
    let (answer, outcome) = match result {
        Ok(answer) => (answer, Outcome::done(200)),
        Err(error) => {
            let refusal = ceremony_refusal(node, &error, &id);
            (Answer::refusal(&refusal, Some(id.clone())), Outcome::failed(refusal.code))
        }
    };
    match logged.finish(outcome).await {
        Ok(()) => answer,
        // It may be done, whatever was to be answered.
        Err(blocked) if effect == Effect::Mutation => done_unlogged(&blocked, id),
        Err(blocked) => audit_blocked(&blocked),
    }
}

/// The public words for a ceremony that did not come to its end.
pub fn ceremony_refusal(node: &Node, error: &CeremonyError, id: &str) -> Refusal {
    match error {
        CeremonyError::Phase(SealState::Unsealed) => Refusal::new(Code::NotSealed, "the cluster is not sealed"),
        CeremonyError::Phase(SealState::Sealed) if matches!(node.phase(), Phase::Unsealed(_)) => {
            Refusal::new(Code::NotSealed, "the cluster is not sealed")
        }
        CeremonyError::Phase(SealState::Sealed) => {
            Refusal::new(Code::AlreadyInitialised, "the cluster exists already").hint("`bulla status` shows it")
        }
        CeremonyError::Phase(SealState::Uninitialised) => Refusal::new(Code::Uninitialised, "there is no cluster yet"),
        CeremonyError::Init(InitError::KemTooWeak { .. }) => Refusal::new(Code::KemTooWeak, with_cause(error))
            .field("admins")
            .hint("make a hybrid key with `bulla keygen`, or choose min_kem classical"),
        CeremonyError::Init(InitError::NotAdmin) => not_admin(),
        CeremonyError::Init(_) => Refusal::new(Code::BadStatement, with_cause(error))
            .field("admins")
            .hint("each is the first record (.pub) of another person, as `bulla keygen` wrote it"),
        CeremonyError::Bundle(error) => crate::bundle::refusal(error),
        CeremonyError::Session(error) => session_refusal(error),
        CeremonyError::Conflict => Refusal::new(Code::Busy, "another ceremony was faster").hint("try again"),
        CeremonyError::Lost(consent) if consent.is_of_unknown_loss() => Refusal::new(
            Code::LostCommits,
            format!("the audit log cannot tell what was lost after sequence {}", consent.kept.sequence),
        )
        .hint("put back the newest copy of the audit log and the store"),
        CeremonyError::Lost(consent) => Refusal::new(
            Code::LostCommits,
            format!(
                "the store holds sequence {} and the audit log remembers {}",
                consent.kept.sequence, consent.lost.sequence
            ),
        )
        .hint("put back the newest copy of the store"),
        CeremonyError::Document(reason) => Refusal::new(Code::BadStatement, reason.clone())
            .field("envelope")
            .hint("make it from the newest document, signed by k admins"),
        CeremonyError::Seal(SealError::ConsentAhead) => Refusal::new(Code::BadStatement, with_cause(error))
            .field("envelope.excused_until_ms")
            .hint("compare the clocks of the first signer's machine and of the server; the admins sign again"),
        CeremonyError::Seal(SealError::Consent(_)) => Refusal::new(Code::BadStatement, with_cause(error))
            .field("envelope")
            .hint("k admins sign the positions that the last share's answer named: `bulla seal consent sign FILE`"),
        CeremonyError::Seal(SealError::OtherConsent) => Refusal::new(Code::BadStatement, with_cause(error))
            .field("envelope")
            .hint("it is of another loss: put it away and run `bulla unseal`, which writes the consent to this one"),
        CeremonyError::NothingLost => Refusal::new(Code::NotFound, "nothing was lost that needs consent"),
        CeremonyError::Unknown(_) => {
            Refusal::new(Code::Unknown, "the outcome is not known").hint("look at `bulla status`")
        }
        CeremonyError::Seal(_) | CeremonyError::Store(_) | CeremonyError::Fault(_) => internal(&with_cause(error), id),
    }
}

fn with_cause(error: &CeremonyError) -> String {
    let mut text = error.to_string();
    let inner: Option<&dyn std::error::Error> = match error {
        CeremonyError::Init(inner) => Some(inner),
        CeremonyError::Seal(inner) => Some(inner),
        _ => None,
    };
    let mut cause = inner.and_then(std::error::Error::source);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn session_refusal(error: &SessionError) -> Refusal {
    let (code, hint) = match error {
        SessionError::Unknown => (Code::UnknownSession, "run `bulla unseal` again"),
        SessionError::TooMany => (Code::Overloaded, "wait until a session ends"),
        SessionError::NotAdmin | SessionError::NotYours { .. } => {
            (Code::NotAdmin, "use the key of the admin who holds this share")
        }
        SessionError::BadShare { .. } => {
            (Code::BadShare, "the shares of the other admins are kept; run `bulla unseal` again")
        }
        SessionError::ApprovalMissing | SessionError::BadApproval => {
            (Code::BadStatement, "the first share comes with the admin's approval of genesis")
        }
        SessionError::Identity(_) | SessionError::Seal(_) => (Code::Internal, "the server's log says more"),
    };
    Refusal::new(code, error.to_string()).hint(hint)
}

/// Answers a signed route of a sealed node.
pub async fn answer(
    node: &Arc<Node>,
    sealed: &Arc<Sealed>,
    verified: &Verified,
    matched: &Matched<'_>,
    body: Result<Vec<u8>, Refusal>,
) -> Answer {
    let phase = Phase::Sealed(sealed.clone());
    let action = matched.route.action;
    let body = match body.and_then(|body| once(node, verified).map(|()| body)) {
        Ok(body) => body,
        Err(refusal) => return refuse(node, &phase, verified, action, &refusal).await,
    };
    let admins: Vec<PrincipalId> = sealed.view.newest().body().admins.clone();
    let Ok(right) = SealRight::assertion(&admins, verified.subject.clone()) else {
        return refuse(node, &phase, verified, action, &not_admin()).await;
    };
    let Some(action) = action else {
        return refuse(node, &phase, verified, None, &Refusal::new(Code::Sealed, "the cluster is sealed")).await;
    };
    let parsed = match parse(matched, &body) {
        Ok(parsed) => parsed,
        Err(refusal) => return refuse(node, &phase, verified, Some(action), &refusal).await,
    };
    let logged = match log(node, &phase, verified, right, action, matched.resource()) {
        Ok(logged) => logged,
        Err(answer) => return answer,
    };
    let result = perform(node, sealed, verified, parsed).await;
    finish(node, logged, matched.route.effect, result).await
}

/// Whether a sealed node takes this route too, from its admins, although an unsealed one asks policy: a document, by
/// which a new node's key enters after a restore.
pub fn also_takes(endpoint: Endpoint) -> bool {
    endpoint == Endpoint::DocumentPut
}

/// What a sealed node is asked for.
enum Asked {
    Document(Box<Signed>),
    Status,
    Session,
    Key(String),
    Share(String, Box<GiveShare>),
    Consent(Box<Signed>),
}

fn parse(matched: &Matched<'_>, body: &[u8]) -> Result<Asked, Refusal> {
    let session = || match &matched.param {
        Some(Param::Session(id)) => Ok(id.clone()),
        _ => {
            let refusal = Refusal::new(Code::UnknownSession, "the path names no session").field("path");
            Err(refusal.hint("begin one with `bulla unseal`"))
        }
    };
    let malformed = |e: json::JsonError| crate::dispatch::malformed(&e);
    Ok(match matched.route.endpoint {
        Endpoint::SealStatus => Asked::Status,
        Endpoint::SealSession => Asked::Session,
        Endpoint::SealKey => Asked::Key(session()?),
        Endpoint::SealShare => {
            Asked::Share(session()?, Box::new(json::parse(body, MAX_JSON_BYTES).map_err(malformed)?))
        }
        Endpoint::DocumentPut => Asked::Document(Box::new(json::parse(body, MAX_JSON_BYTES).map_err(malformed)?)),
        Endpoint::SealConsent => Asked::Consent(Box::new(json::parse(body, MAX_JSON_BYTES).map_err(malformed)?)),
        _ => {
            return Err(
                Refusal::new(Code::Sealed, "the cluster is sealed").hint("its admins open it with `bulla unseal`")
            );
        }
    })
}

async fn perform(
    node: &Arc<Node>,
    sealed: &Sealed,
    verified: &Verified,
    asked: Asked,
) -> Result<Answer, CeremonyError> {
    match asked {
        Asked::Status => Ok(Answer::json(&status(node, sealed))),
        Asked::Session => ceremony::session(node).await.map(|session| Answer::json(&session)),
        Asked::Key(id) => ceremony::key(node, &id, &verified.subject.id).await.map(|key| Answer::json(&key)),
        Asked::Share(id, give) => {
            let GiveShare { index, file, approval } = *give;
            let give = Give { admin: verified.subject.id, index, file: &file.0, approval: approval.as_ref() };
            let given = ceremony::give(node, &id, &give).await;
            if let Err(CeremonyError::Session(SessionError::BadShare { .. })) = &given {
                node.notice(AlarmKind::BadShare, Some(verified.actor.clone()), "an admin gave a bad share");
            }
            given.map(|given| Answer::json(&given))
        }
        Asked::Document(signed) => {
            ceremony::document(node, &signed.envelope).await.map(|()| Answer::json(&bulla_wire::api::Done {}))
        }
        Asked::Consent(signed) => ceremony::consent(node, &signed.envelope).await.map(|given| Answer::json(&given)),
    }
}

fn status(node: &Node, sealed: &Sealed) -> Seal {
    let config = sealed.stored.config();
    let sessions = lock(&node.sessions);
    let running = sessions.newest(node.now_ms());
    let admins = (0u8..).zip(sealed.view.newest().admins()).map(|(index, record)| SealAdmin {
        principal: record.principal(),
        name: record.name().clone(),
        given: running.is_some_and(|session| session.has(index)),
    });
    Seal {
        state: SealState::Sealed,
        epoch: config.epoch,
        mode: config.mode,
        k: config.k,
        admins: admins.collect(),
        warning: (config.mode == SealMode::Any).then(|| ANY_WARNING.to_owned()),
    }
}

/// A sealed node remembers nonces in memory: the same request again is harmless here, another one under the same
/// nonce is not taken.
fn once(node: &Node, verified: &Verified) -> Result<(), Refusal> {
    let asked = &verified.asked;
    match node.first_time(asked.seen_key(), asked.nonce.minute(), asked.digest()) {
        Ok(_) => Ok(()),
        Err(NonceReused) => {
            Err(Refusal::new(Code::NonceReused, "the nonce was used for another request").field("nonce"))
        }
    }
}
