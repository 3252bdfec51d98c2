//! Signed routes of an unsealed node: nonce, policy, audit, effect, reply, in this order.

mod answer;
mod audit;
mod outside;
mod snapshot;
pub mod static_role;
mod watch;
mod wrapped;

use crate::ceremony;
use crate::database::{Look, Turn};
use crate::dispatch::{Op, Outside, bad_query, parse_op};
use crate::drive::{DriveError, Driven, Machine, Once};
use crate::failpoint;
use crate::gate::{Holder, Verified};
use crate::listen::BodyBudget;
use crate::node::{Node, NonceReused, Phase};
use crate::reply::{Answer, internal};
use crate::route::{Auth, Effect, Endpoint, Matched, Query, ReplyKind, RequestBody};
use crate::sealed::{ANY_WARNING, audit_blocked, ceremony_refusal, done_unlogged, refuse};
use crate::unsealed::{Unsealed, lock};
use bulla_core::action::{Action, Resource};
use bulla_core::audit::{Demanded, Event, Logged, Outcome, Refusal as RefusedLine};
use bulla_core::barrier::{self, RecordKey};
use bulla_core::directory::{Directory, Principal};
use bulla_core::engine::chunk::{CHUNK_BYTES, Upload};
use bulla_core::engine::rekey::Rekey;
use bulla_core::engine::wrap;
use bulla_core::operation::{Content, Context, Fault, Operation, Refusal, Reply};
use bulla_core::policy::Denied;
use bulla_core::seen::in_window;
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Decrypter};
use bulla_crypto::message::{after_ingress_line, ingress_line};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{Done, Seal, SealAdmin, SealState};
use bulla_wire::error::Code;
use bulla_wire::evidence::SealMode;
use bulla_wire::id::{Digest, KeyId};
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex};
use tokio::sync::SemaphorePermit;
use wrapped::WrapTo;

fn nonce_expired() -> Refusal {
    Refusal::new(Code::NonceExpired, "the nonce's minute is over: what came of its first attempt is unknown")
        .field("nonce")
        .hint("read the state, then ask again with a new nonce")
}

fn sealed_meanwhile() -> Refusal {
    Refusal::new(Code::Sealed, "the cluster was sealed meanwhile").hint("ask again when it is unsealed")
}

/// Most recipients of a secret reply.
const REPLY_RECIPIENTS_MAX: usize = 4;
/// Age files larger than this are made on a blocking thread, in bytes: it takes about a millisecond.
const INLINE_SEAL_BYTES: usize = 256 * 1024;
/// Unseen alarms are counted up to here.
const UNSEEN_MAX: usize = 1000;

/// Whether this principal is heard. A disabled one is not, unless it is an admin who brings a recovery: else one
/// admin could lock out all the others for ever, and k of them could not repair it.
fn heard(directory: &Directory, principal: &Principal, action: Option<Action>) -> bool {
    principal.may_sign() || (action == Some(Action::PolicyRecover) && directory.is_admin(&principal.subject.id))
}

/// The principal who signs with this key, if it is heard.
pub fn holder(unsealed: &Unsealed, key: &KeyId, action: Option<Action>) -> Option<Holder> {
    let directory = unsealed.directory();
    let (principal, active) = directory.by_key(key)?;
    if !heard(&directory, principal, action) {
        return None;
    }
    Some(Holder { key: active.public.clone(), subject: principal.subject.clone() })
}

/// One request while it is served.
struct Request<'a> {
    node: &'a Arc<Node>,
    unsealed: &'a Arc<Unsealed>,
    verified: &'a Verified,
    /// The memory that its answer may take.
    bodies: &'a BodyBudget,
    phase: Phase,
    /// Who gets its secret answer in place of the caller, or why nobody does: that is told to whom policy permits to ask.
    wrap_to: Option<Result<WrapTo, Refusal>>,
    /// Its turn at the password of a static role, which it changes.
    turn: Option<Turn>,
    /// The same for one that is told it.
    look: Option<Look>,
    /// While it is there, a sealing or a rekey waits for the request.
    under_way: Mutex<Option<SemaphorePermit<'a>>>,
}

/// Answers a signed route.
pub async fn answer(
    node: &Arc<Node>,
    unsealed: &Arc<Unsealed>,
    verified: &Verified,
    matched: Matched<'_>,
    body: Result<Vec<u8>, Refusal>,
    bodies: &BodyBudget,
) -> Answer {
    // The semaphore is never closed, so there is always a permit in the end.
    let under_way = Mutex::new(unsealed.in_flight.acquire().await.ok());
    let phase = Phase::Unsealed(unsealed.clone());
    let mut request =
        Request { node, unsealed, verified, bodies, phase, wrap_to: None, turn: None, look: None, under_way };
    if unsealed.is_closed() {
        // The body came while the keys were forgotten, or exchanged: then what was verified holds as before.
        return match node.phase() {
            Phase::Unsealed(next) if !Arc::ptr_eq(&next, unsealed) => {
                Box::pin(self::answer(node, &next, verified, matched, body, bodies)).await
            }
            _ => refuse(node, &request.phase, verified, matched.route.action, &sealed_meanwhile()).await,
        };
    }
    let action = matched.route.action;
    let mutation = matched.route.effect == Effect::Mutation;
    let reply = matched.route.reply;
    let mut answer = match request.prepare(matched, body).await {
        Ok((op, resource)) => match action {
            Some(action) => {
                match &op {
                    Op::KvWatch(watch) => request.await_change(watch, action, &resource).await,
                    Op::Outside(Outside::Static(of)) => request.await_turn(of, action, &resource).await,
                    _ => {}
                }
                Box::pin(request.decide(op, action, resource, mutation, reply)).await
            }
            None => Answer::refusal(&internal(&"a signed route without an action", "-"), None),
        },
        Err(refusal) => refuse(node, &request.phase, verified, action, &refusal).await,
    };
    answer.alarms = request.unseen().await;
    answer
}

impl Request<'_> {
    /// Parses what is asked for. Nothing has happened yet.
    async fn prepare(
        &mut self,
        matched: Matched<'_>,
        body: Result<Vec<u8>, Refusal>,
    ) -> Result<(Op, Resource), Refusal> {
        let mut body = body?;
        // Looking at the seal and repairing the policy set are rights of the admins that an open seal does not end.
        let open_too =
            matches!(matched.route.endpoint, Endpoint::SealStatus | Endpoint::PolicyReplaced | Endpoint::PolicyRecover);
        if matched.route.auth == Auth::Sealed && !open_too {
            return Err(Refusal::new(Code::NotSealed, "the cluster is not sealed")
                .hint("it is open already; nothing is to be done"));
        }
        let query = Query::parse(&self.verified.asked.line.query, matched.route.query).map_err(|e| bad_query(&e))?;
        let secret = matches!(matched.route.request, RequestBody::Age { .. });
        if secret {
            body = self.open_ingress(&body).await?;
        }
        let directory = self.unsealed.directory();
        self.wrap_to = WrapTo::of(&matched, &query, &directory).transpose();
        if matched.route.reply == ReplyKind::Secret && self.wrap_to.is_none() {
            self.recipients(&directory)?;
        }
        parse_op(matched, &query, body, &self.context(&directory)).map_err(|mut refusal| {
            if secret {
                // The parser quotes what it found, and this answer is not encrypted.
                refusal.message = "the encrypted body is not of the form that this route takes".into();
            }
            refusal
        })
    }

    /// Where a secret answer goes: to the recipients that the caller's record lists now.
    fn recipients<'d>(&self, directory: &'d Directory) -> Result<&'d [Recipient], Refusal> {
        let all = directory.by_key(&self.verified.asked.key).map(|(_, active)| active.reply_to()).unwrap_or_default();
        if all.is_empty() {
            let refusal = Refusal::new(Code::NoReplyRecipient, "your record lists no recipient under this signing key");
            return Err(refusal.hint("put a recipient into your record, or sign with another key"));
        }
        Ok(all.get(..REPLY_RECIPIENTS_MAX).unwrap_or(all))
    }

    /// What the audit log is told of who gets the answer.
    fn told_wrap_to(&self) -> Option<bulla_core::audit::WrapTo> {
        self.wrap_to.as_ref()?.as_ref().ok().map(|to| to.told(&self.unsealed.keys.names))
    }

    fn machine(&self) -> Machine<'_> {
        Machine { bodies: self.bodies, ..self.node.machine() }
    }

    fn context<'a>(&'a self, directory: &'a Directory) -> Context<'a> {
        self.unsealed.context(self.machine(), directory, Some(&self.verified.actor))
    }

    /// Opens a body that is encrypted to the ingress key, and checks that this signer made it for this request.
    async fn open_ingress(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let decrypters: Vec<&dyn Decrypter> =
            self.unsealed.keys.ingress.iter().map(|identity| identity as &dyn Decrypter).collect();
        let opened = match envelope::open(&decrypters, body, bulla_wire::json::MAX_JSON_BYTES).await {
            Ok(opened) => opened,
            Err(envelope::OpenError::NoMatch) => {
                let refusal =
                    Refusal::new(Code::IngressChanged, "the body is not encrypted to the ingress key of today");
                return Err(refusal.field("body").hint("read the newest cluster document and encrypt again"));
            }
            Err(error) => {
                let refusal = Refusal::new(Code::Malformed, format!("the body is no age file: {error}")).field("body");
                return Err(
                    refusal.hint("encrypt it to the ingress key of the newest cluster document, without armour")
                );
            }
        };
        let line = &self.verified.asked.line;
        let expected = ingress_line(
            &self.unsealed.keys.cluster,
            &self.verified.asked.key,
            &line.method,
            &line.path,
            &line.query,
            &self.verified.asked.nonce,
        );
        after_ingress_line(opened.plaintext.expose(), &expected).map(<[u8]>::to_vec).map_err(|error| {
            Refusal::new(Code::Malformed, error.to_string())
                .field("body")
                .hint("encrypt the body anew for each request")
        })
    }

    async fn decide(&self, op: Op, action: Action, resource: Resource, mutation: bool, reply: ReplyKind) -> Answer {
        let nonce = &self.verified.asked.nonce;
        let (key, request) = (self.verified.asked.seen_key(), self.verified.asked.digest());
        let now_ms = self.node.now_ms();
        if mutation {
            let refused = lock(&self.unsealed.refusals).get(&key, &request, &self.verified.subject.id, now_ms);
            if let Some(refusal) = refused {
                return refuse(self.node, &self.phase, self.verified, Some(action), &refusal).await;
            }
            if !in_window(self.unsealed.keys.head.floor(), nonce.minute(), now_ms) {
                return refuse(self.node, &self.phase, self.verified, Some(action), &nonce_expired()).await;
            }
        }
        let directory = self.unsealed.directory();
        // The body may have taken its time: the caller is who the key says now, not when the request began.
        let subject = match directory.by_key(&self.verified.asked.key) {
            Some((principal, _)) if heard(&directory, principal, Some(action)) => principal.subject.clone(),
            _ => {
                let message = "the key was disabled or rotated meanwhile, or its admission is void";
                let refusal = Refusal::new(Code::Unauthenticated, message);
                return refuse(self.node, &self.phase, self.verified, Some(action), &refusal).await;
            }
        };
        let demanded = op.demanded(&self.unsealed.keys.names);
        // The verbs that ask no policy carry their right in k admins' signatures, which the operation verifies.
        let authorized = if action.asks_policy() {
            directory.policies().authorize(&subject, action, resource, op)
        } else {
            let admins = &directory.view().newest().body().admins;
            match bulla_core::policy::exempt::SealRight::assertion(admins, subject) {
                Ok(right) => bulla_core::policy::Authorized::exempt(right, action, resource.clone(), op)
                    .map_err(|_| self.not_admin(action, resource)),
                Err(_) => Err(self.not_admin(action, resource)),
            }
        };
        let authorized = match authorized {
            Ok(authorized) => authorized,
            Err(denied) => return Box::pin(self.deny(&denied, demanded, mutation.then_some((key, request)))).await,
        };
        let wrap_to = self.wrap_to.as_ref().map_or(Ok(()), |to| to.as_ref().map_err(Refusal::clone)?.holds(&directory));
        if let Err(refusal) = wrap_to {
            return refuse(self.node, &self.phase, self.verified, Some(action), &refusal).await;
        }
        let event = Event::new(self.verified.facts(self.node, &self.phase), &self.unsealed.keys.names, authorized)
            .demanding(demanded)
            .wrapping(self.told_wrap_to());
        let sealing = matches!(action, Action::SealSeal);
        let reserved = if sealing { self.node.parts.sink.reserve_for_seal() } else { self.node.parts.sink.reserve() };
        let logged = match reserved {
            Ok(accepted) => event.accepted(accepted),
            Err(blocked) => return audit_blocked(&blocked),
        };
        self.perform(logged, mutation.then_some((key, request)), reply).await
    }

    fn not_admin(&self, action: Action, resource: Resource) -> Box<Denied> {
        Box::new(Denied {
            subject: self.verified.subject.clone(),
            action,
            resource,
            decision: bulla_core::policy::Decision { allowed: false, because: vec![], errors: vec![] },
        })
    }

    async fn deny(&self, denied: &Denied, demanded: Option<Demanded>, once: Option<(Digest, Digest)>) -> Answer {
        for error in &denied.decision.errors {
            tracing::warn!(%error, "policy evaluation failed, which denies");
        }
        let line = RefusedLine::denied(self.verified.facts(self.node, &self.phase), &self.unsealed.keys.names, denied)
            .demanding(demanded)
            .wrapping(self.told_wrap_to());
        let id = line.id().to_string();
        let message = format!("{} may not {} on {}", denied.subject.name, denied.action, denied.resource);
        let refusal = Refusal::new(Code::Denied, message).hint(format!(
            "whoever has policy.explain sees why with `bulla policy explain {id}`; an admin can change policy, and \
             `--output-policy` after the command prints what to add"
        ));
        if let Some((key, request)) = once {
            let principal = self.verified.subject.id;
            lock(&self.unsealed.refusals).keep(key, request, principal, &refusal, self.node.now_ms());
        }
        let accepted = match self.node.parts.sink.reserve() {
            Ok(accepted) => accepted,
            Err(blocked) => return audit_blocked(&blocked),
        };
        match line.accepted(accepted).finish(Outcome::failed(Code::Denied)).await {
            Ok(()) => Answer::refusal(&refusal, Some(id)),
            Err(blocked) => audit_blocked(&blocked),
        }
    }

    /// Carries a logged operation out and answers.
    async fn perform(&self, logged: Logged<Op>, once: Option<(Digest, Digest)>, reply: ReplyKind) -> Answer {
        let (request_id, id) = (logged.id(), logged.id().to_string());
        let line = |code: Option<Code>, receipts: &[Digest]| {
            let outcome = code.map_or_else(|| Outcome::done(200), Outcome::failed);
            let outcome = outcome.with_receipts(receipts.iter().copied());
            let line = String::from_utf8(logged.line(&outcome).to_bytes()).unwrap_or_default();
            RawValue::from_string(line).unwrap_or_else(|_| RawValue::NULL.to_owned())
        };
        let minute = self.verified.asked.nonce.minute();
        let once_value = once.map(|(key, request)| Once { id: request_id, minute, key, request, line: &line });
        // Until its line is with the log: the nonce's row is what a lost line is written again from.
        let _under_way = once.map(|_| self.unsealed.keys.head.under_way(minute));
        let driven = self.carry_out(logged.op(), once_value.as_ref()).await;
        let (answer, outcome) = match driven {
            Ok(driven) => self.conclude(driven, once, reply, &id).await,
            Err(error) => self.fail(&error, once, &id).await,
        };
        let committed = outcome.committed.is_some();
        // A change that had its place may be done, whatever was to be answered. Who sealed can see it.
        let unknown = committed || (once.is_some() && !matches!(logged.op(), Op::SealSeal));
        if committed {
            failpoint::hit(failpoint::SERVE_BEFORE_LINE);
        }
        match logged.finish(outcome).await {
            Ok(()) => {
                if committed {
                    failpoint::hit(failpoint::SERVE_AFTER_LINE);
                }
                answer
            }
            Err(blocked) if unknown => done_unlogged(&blocked, id),
            Err(blocked) => audit_blocked(&blocked),
        }
    }

    async fn carry_out(&self, op: &Op, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        if let Op::DocumentPut(document) = op
            && let Some(rekey) = Rekey::of(self.unsealed.directory().view(), &document.envelope)
        {
            let dealt = crate::rekey::rekey(self.node, self.unsealed, &rekey, &self.verified.actor, once, 1).await;
            let dealt = dealt.unwrap_or_else(|error| Err(ceremony_refusal(self.node, &error, "rekey")));
            let result = dealt.map(|()| Reply::json(&Done {}));
            return Ok(Driven::said(result));
        }
        let _order = if op.changes_directory() { Some(self.unsealed.changing.lock().await) } else { None };
        let plain = Driven::said;
        match op {
            Op::WrapCreate(draft, file) => self.create_wrap(draft, file, once).await,
            Op::AuditRead(query) => self.machine().said(self.read_audit(query).await),
            Op::PolicyExplain(id) => Ok(plain(self.explain(*id).await)),
            Op::SealStatus => Ok(plain(Ok(Reply::json(&self.seal_status())))),
            // A retry must not seal what somebody has unsealed since.
            Op::SealSeal if !self.first_time(once)? => Ok(plain(Ok(Reply::json(&Done {})))),
            Op::SealSeal => match ceremony::seal(self.node, 1).await {
                Ok(()) => Ok(plain(Ok(Reply::json(&Done {})))),
                Err(error) => {
                    if let Some(once) = once {
                        self.node.forget(&once.key);
                    }
                    Ok(plain(Err(ceremony_refusal(self.node, &error, "seal"))))
                }
            },
            Op::SealConfirmClock => {
                // A retry must not confirm a later step.
                if self.first_time(once)? && self.node.confirm_clock() {
                    tracing::warn!("an admin confirmed the time: deleting goes on");
                }
                Ok(plain(Ok(Reply::json(&Done {}))))
            }
            Op::Outside(outside) => Box::pin(self.outside(outside, once)).await,
            Op::SnapshotSave => self.begin_snapshot(once).await,
            Op::SnapshotPage { id, page } => self.snapshot_page(id, *page).await,
            Op::AlarmSeen(seen) => {
                let driven = self.drive(seen, once).await;
                lock(&self.unsealed.unseen).forget(&self.verified.subject.id);
                driven
            }
            op => match op.operation() {
                Some(operation) => {
                    let driven = self.drive(operation, once).await;
                    // Even if nobody knows whether it happened: who is woken looks.
                    if let Some(path) = op.changes_secret() {
                        self.unsealed.watchers.wake(path);
                    }
                    driven
                }
                None => Err(DriveError::Fault(Fault::Key("dispatcher"))),
            },
        }
    }

    /// Whether a request comes for the first time whose effect no store remembers.
    fn first_time(&self, once: Option<&Once<'_>>) -> Result<bool, DriveError> {
        let Some(once) = once else { return Ok(true) };
        let first = self.node.first_time(once.key, once.minute, once.request);
        first.map_err(|NonceReused| DriveError::NonceReused)
    }

    async fn drive(&self, operation: &(dyn Operation + Sync), once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        self.unsealed.drive(self.machine(), operation, Some(&self.verified.actor), once).await
    }

    /// Stores a wrap; a large ciphertext goes in pieces first.
    async fn create_wrap(
        &self,
        draft: &wrap::Draft,
        file: &[u8],
        once: Option<&Once<'_>>,
    ) -> Result<Driven, DriveError> {
        let refused = |refusal| Driven::said(Err(refusal));
        if file.len() <= CHUNK_BYTES {
            return match wrap::Create::new(draft.clone(), Content::Inline(file.to_vec())) {
                Ok(create) => self.drive(&create, once).await,
                Err(refusal) => Ok(refused(refusal)),
            };
        }
        let machine = self.machine();
        let now_ms = self.node.now_ms();
        let digest = Digest::new(sha256(&[file]));
        let upload = Upload::new(draw(&mut SystemRng), self.verified.subject.id, file.len() as u64, digest, now_ms);
        let create = match wrap::Create::new(draft.clone(), Content::Chunked(upload.clone())) {
            Ok(create) => create,
            Err(refusal) => return Ok(refused(refusal)),
        };
        if let Some(answer) = self.early(draft).await? {
            return Ok(Driven::said(answer));
        }
        self.unsealed.write(machine, &upload.begin()).await?;
        failpoint::hit(failpoint::UPLOAD_AFTER_MARKER);
        // An upload that is not published goes with the sweep, once its deadline is over.
        for (index, chunk) in (0u32..).zip(file.chunks(CHUNK_BYTES)) {
            self.unsealed.write(machine, &upload.write(index, chunk.to_vec())).await?;
            failpoint::hit(failpoint::UPLOAD_AFTER_PIECE);
        }
        failpoint::hit(failpoint::UPLOAD_BEFORE_PUBLISH);
        self.drive(&create, once).await
    }

    /// What can be said of a wrap before its pieces are written.
    async fn early(&self, draft: &wrap::Draft) -> Result<Option<Result<Reply, Refusal>>, DriveError> {
        let key: RecordKey = draft.head_key();
        let records = self.unsealed.read(&self.node.parts.store, &[barrier::Query::Get(key.clone())]).await?;
        let directory = self.unsealed.directory();
        match draft.early(records.get(&key).flatten(), &self.context(&directory))? {
            wrap::Early::Answer(answer) => Ok(Some(answer)),
            wrap::Early::Wanted => Ok(None),
        }
    }

    fn seal_status(&self) -> Seal {
        let directory = self.unsealed.directory();
        let document = directory.view().newest();
        let body = document.body();
        let admins = document.admins().map(|record| SealAdmin {
            principal: record.principal(),
            name: record.name().clone(),
            given: false,
        });
        Seal {
            state: SealState::Unsealed,
            epoch: self.unsealed.keys.epoch,
            mode: body.mode,
            k: body.k,
            admins: admins.collect(),
            warning: (body.mode == SealMode::Any).then(|| ANY_WARNING.to_owned()),
        }
    }
}
