//! From a route and its parsed body to the operation that it asks for. A closed set.

mod lease;
mod transit;

pub use lease::{Outside, Static};

use crate::route::{Endpoint, Matched, Param, Query, QueryError};
use bulla_core::action::{Action, Resource};
use bulla_core::audit::{Demanded, Names, ParseRequestIdError, RequestId};
use bulla_core::barrier::Cursor;
use bulla_core::engine::lease as leases;
use bulla_core::engine::{alarm, database, document, kv, policy, principal, rekey, wrap};
use bulla_core::operation::{Context, Operation, Refusal};
use bulla_wire::api::{self, FinishWrap, OpenWrap, PutPolicy, PutPrincipal, RevokeWrap, Signed};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, JsonError, MAX_JSON_BYTES};
use bulla_wire::name::{Name, SecretPath};
use bulla_wire::wrap::Parcel;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

/// Longest mark of a watch in bytes: two numbers and a state.
const MAX_MARK_BYTES: usize = 64;

/// A page of the audit log that somebody asked for.
#[derive(Debug, Clone)]
pub struct AuditQuery {
    /// Go on after this line number.
    pub after: Option<u64>,
    /// Page size.
    pub limit: usize,
    /// Only lines about this resource.
    pub resource: Option<Resource>,
    /// Only lines of this principal.
    pub principal: Option<ByNameOrId>,
    /// Only lines of this action.
    pub action: Option<Action>,
}

/// A principal by its name, or by its id. No text is both, since a name has no colon.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant says what it holds")]
pub enum ByNameOrId {
    Name(Name),
    Id(PrincipalId),
}

impl std::str::FromStr for ByNameOrId {
    type Err = bulla_wire::name::ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        text.parse().map(Self::Name)
    }
}

/// What is asked for.
#[expect(missing_docs, reason = "each variant is named after its endpoint")]
pub enum Op {
    AlarmList(alarm::List),
    AlarmSeen(alarm::Seen),
    DocumentPut(document::Put),
    SealRekey(rekey::Prepare),
    KvGet(kv::Get),
    KvPut(kv::Put),
    KvList(kv::List),
    KvPatch(kv::Patch),
    KvWatch(kv::Watch),
    KvInspect(kv::Inspect),
    KvConfigure(kv::SetSettings),
    KvDelete(kv::Delete),
    KvUndelete(kv::Undelete),
    KvDestroy(kv::Destroy),
    PolicyList(policy::List),
    PolicyRead(policy::Read),
    PolicyPut(policy::Put),
    PolicyDelete(policy::Delete),
    PolicyCheck(policy::Check),
    PolicyReplaced(policy::Replaced),
    PolicyRecover(policy::Recover),
    PrincipalList(principal::List),
    PrincipalRead(principal::Read),
    PrincipalPut(principal::Put),
    PrincipalSetDisabled(principal::SetDisabled),
    /// One of the engine's operations, none of which needs more than records.
    Transit(Box<dyn Operation + Send + Sync>),
    Whoami(principal::Me),
    WrapList(wrap::List),
    WrapInspect(wrap::Inspect),
    WrapOpen(wrap::Open),
    WrapAck(wrap::Ack),
    WrapNack(wrap::Nack),
    WrapRevoke(wrap::Revoke),
    WrapRelease(wrap::Release),
    DatabaseList(database::List),
    DatabaseRead(database::Read),
    DatabaseDelete(database::Delete),
    DatabaseRelease(database::Release),
    DatabaseRolePut(Box<database::PutRole>),
    DatabaseAuthority(database::ReadAuthority),
    DatabaseRoleRead(database::ReadRole),
    DatabaseRoleDelete(database::DeleteRole),
    DatabaseStaticRead(database::static_role::ReadStatic),
    LeaseList(leases::List),
    LeaseListAll(leases::ListAll),
    LeaseRead(leases::Read),
    LeaseRevoke(leases::Revoke),
    LeaseDemand(leases::Demand),
    Outside(Outside),
    /// The statement, and where the ciphertext begins in the body.
    WrapCreate(Box<wrap::Draft>, Vec<u8>),
    AuditRead(AuditQuery),
    PolicyExplain(RequestId),
    SealStatus,
    SealSeal,
    SealConfirmClock,
    SnapshotSave,
    SnapshotPage {
        id: String,
        page: u64,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Op")
    }
}

impl Op {
    /// The operation over records; none for those that need more than records.
    pub fn operation(&self) -> Option<&(dyn Operation + Sync)> {
        Some(match self {
            Self::AlarmList(op) => op,
            Self::AlarmSeen(op) => op,
            Self::DocumentPut(op) => op,
            Self::SealRekey(op) => op,
            Self::KvGet(op) => op,
            Self::KvPut(op) => op,
            Self::KvList(op) => op,
            Self::KvPatch(op) => op,
            Self::KvWatch(op) => op,
            Self::KvInspect(op) => op,
            Self::KvConfigure(op) => op,
            Self::KvDelete(op) => op,
            Self::KvUndelete(op) => op,
            Self::KvDestroy(op) => op,
            Self::PolicyList(op) => op,
            Self::PolicyRead(op) => op,
            Self::PolicyPut(op) => op,
            Self::PolicyDelete(op) => op,
            Self::PolicyCheck(op) => op,
            Self::PolicyReplaced(op) => op,
            Self::PolicyRecover(op) => op,
            Self::PrincipalList(op) => op,
            Self::PrincipalRead(op) => op,
            Self::PrincipalPut(op) => op,
            Self::PrincipalSetDisabled(op) => op,
            Self::Transit(op) => op.as_ref(),
            Self::Whoami(op) => op,
            Self::WrapList(op) => op,
            Self::WrapInspect(op) => op,
            Self::WrapOpen(op) => op,
            Self::WrapAck(op) => op,
            Self::WrapNack(op) => op,
            Self::WrapRevoke(op) => op,
            Self::WrapRelease(op) => op,
            Self::DatabaseList(op) => op,
            Self::DatabaseRead(op) => op,
            Self::DatabaseDelete(op) => op,
            Self::DatabaseRelease(op) => op,
            Self::DatabaseRolePut(op) => op.as_ref(),
            Self::DatabaseAuthority(op) => op,
            Self::DatabaseRoleRead(op) => op,
            Self::DatabaseRoleDelete(op) => op,
            Self::DatabaseStaticRead(op) => op,
            Self::LeaseList(op) => op,
            Self::LeaseListAll(op) => op,
            Self::LeaseRead(op) => op,
            Self::LeaseRevoke(op) => op,
            Self::LeaseDemand(op) => op,
            Self::WrapCreate(..)
            | Self::Outside(_)
            | Self::AuditRead(_)
            | Self::PolicyExplain(_)
            | Self::SealStatus
            | Self::SealSeal
            | Self::SealConfirmClock
            | Self::SnapshotSave
            | Self::SnapshotPage { .. } => return None,
        })
    }

    /// Which of many things it is about, where its resource does not say it.
    pub fn demanded(&self, names: &Names) -> Option<Demanded> {
        match self {
            Self::LeaseDemand(demand) => demand.told(names),
            _ => None,
        }
    }

    /// The secret that it changes.
    pub fn changes_secret(&self) -> Option<&SecretPath> {
        match self {
            Self::KvPut(kv::Put { path, .. })
            | Self::KvPatch(kv::Patch { path, .. })
            | Self::KvDelete(kv::Delete { path, .. })
            | Self::KvUndelete(kv::Undelete { path, .. })
            | Self::KvDestroy(kv::Destroy { path, .. }) => Some(path),
            _ => None,
        }
    }

    /// Whether it changes the directory, so that such operations must come one after the other.
    pub fn changes_directory(&self) -> bool {
        matches!(
            self,
            Self::DocumentPut(_)
                | Self::PolicyPut(_)
                | Self::PolicyDelete(_)
                | Self::PolicyRecover(_)
                | Self::PrincipalPut(_)
                | Self::PrincipalSetDisabled(_)
        )
    }
}

/// A body that does not parse.
pub fn malformed(error: &JsonError) -> Refusal {
    Refusal::new(Code::Malformed, error.to_string())
        .field(error.field.clone())
        .hint("the body must be exactly as the API reference says; unknown and doubled fields are refused")
}

/// A query that does not parse.
pub fn bad_query(error: &QueryError) -> Refusal {
    let refusal = Refusal::new(Code::Malformed, error.to_string())
        .hint("`bulla openapi` lists the parameters of each route; each stands there once at most");
    match error.field() {
        Some(field) => refusal.field(field),
        None => refusal.field("query"),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    json::parse(body, MAX_JSON_BYTES).map_err(|e| malformed(&e))
}

fn parsed<T: std::str::FromStr>(query: &Query, name: &'static str, expected: &str) -> Result<Option<T>, Refusal> {
    query.parsed(name, expected).map_err(|e| bad_query(&e))
}

/// An action or a resource.
fn named<T: std::str::FromStr<Err: fmt::Display>>(field: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| {
        let refusal = Refusal::new(Code::Malformed, error.to_string()).field(field);
        refusal.hint("spec/policy.md lists actions and resources, such as kv.get and kv/app/db")
    })
}

fn resource(query: &Query) -> Result<Option<Resource>, Refusal> {
    query.get("resource").map(|text| named("resource", text)).transpose()
}

fn cursor(query: &Query, name: &'static str) -> Result<Option<Cursor>, Refusal> {
    query
        .get(name)
        .map(|text| {
            let refusal = || Refusal::new(Code::Malformed, "not a cursor of ours").field(name);
            Cursor::parse(text)
                .ok_or_else(|| refusal().hint("give what `next` of the page before says, or leave it out"))
        })
        .transpose()
}

/// A route's parameter, which the route table says is there.
struct Given(Option<Param>);

fn absent(what: &str) -> Refusal {
    let refusal = Refusal::new(Code::Malformed, format!("the path holds no {what}")).field("path");
    refusal.hint("`bulla openapi` lists all routes")
}

impl Given {
    fn name(self) -> Result<Name, Refusal> {
        match self.0 {
            Some(Param::Name(name)) => Ok(name),
            _ => Err(absent("name")),
        }
    }
    fn wrap(self) -> Result<WrapId, Refusal> {
        match self.0 {
            Some(Param::Wrap(id)) => Ok(id),
            _ => Err(absent("wrap id")),
        }
    }
    fn session(self) -> Result<String, Refusal> {
        match self.0 {
            Some(Param::Session(id)) => Ok(id),
            _ => Err(absent("session")),
        }
    }
    fn path(self) -> Result<SecretPath, Refusal> {
        match self.0 {
            Some(Param::Path(path)) => Ok(path),
            _ => Err(absent("secret path")),
        }
    }
}

/// Parses query and body of a request into the operation and the resource it is about. `body` is in clear: what
/// came encrypted to the ingress key was opened before.
///
/// # Errors
/// What is wrong with it.
pub fn parse_op(
    matched: Matched<'_>,
    query: &Query,
    body: Vec<u8>,
    context: &Context<'_>,
) -> Result<(Op, Resource), Refusal> {
    let (resource, endpoint, given) = (matched.resource(), matched.route.endpoint, Given(matched.param));
    let op = match matched.route.action.map(Action::group) {
        Some("database") => lease::database_op(endpoint, given, query, &body, context)?,
        Some("lease") => lease::lease_op(endpoint, given, query, &body)?,
        _ => op(endpoint, given, query, body, context)?,
    };
    Ok(match op {
        // What is yet to be made is named by its body alone.
        Op::WrapCreate(draft, file) => {
            let resource = Resource::Wrap(draft.statement().wrap);
            (Op::WrapCreate(draft, file), resource)
        }
        op => (op, resource),
    })
}

fn op(endpoint: Endpoint, given: Given, query: &Query, body: Vec<u8>, context: &Context<'_>) -> Result<Op, Refusal> {
    let limit = query.limit().map_err(|e| bad_query(&e))?;
    Ok(match endpoint {
        Endpoint::WrapCreate => wrap_create(&body, context)?,
        Endpoint::WrapList => Op::WrapList(wrap::List { after: cursor(query, "after")?, limit }),
        Endpoint::WrapInspect => Op::WrapInspect(wrap::Inspect { wrap: given.wrap()? }),
        Endpoint::WrapOpen => Op::WrapOpen(wrap::Open::new(given.wrap()?, parse::<OpenWrap>(&body)?)?),
        Endpoint::WrapAck => Op::WrapAck(wrap::Ack { wrap: given.wrap()?, body: parse::<FinishWrap>(&body)? }),
        Endpoint::WrapNack => Op::WrapNack(wrap::Nack { wrap: given.wrap()?, body: parse::<FinishWrap>(&body)? }),
        Endpoint::WrapRevoke => Op::WrapRevoke(wrap::Revoke { wrap: given.wrap()?, body: parse::<RevokeWrap>(&body)? }),
        Endpoint::WrapRelease => {
            Op::WrapRelease(wrap::Release { wrap: given.wrap()?, body: parse::<RevokeWrap>(&body)? })
        }
        Endpoint::KvGet
        | Endpoint::KvPut
        | Endpoint::KvPatch
        | Endpoint::KvWatch
        | Endpoint::KvInspect
        | Endpoint::KvConfigure
        | Endpoint::KvDelete
        | Endpoint::KvUndelete
        | Endpoint::KvDestroy => kv_op(endpoint, given.path()?, query, &body)?,
        Endpoint::KvList => {
            let path = match given.0 {
                None => None,
                some => Some(Given(some).path()?),
            };
            Op::KvList(kv::List { path, after: cursor(query, "after")?, limit })
        }
        Endpoint::AlarmRead => {
            let all = parsed::<bool>(query, "all", "true or false")?.unwrap_or(false);
            Op::AlarmList(alarm::List { after: cursor(query, "after")?, limit, all })
        }
        Endpoint::AlarmSeen => {
            let body: api::SeenAlarms = parse(&body)?;
            let up_to = Cursor::parse(&body.up_to).ok_or_else(|| {
                let refusal = Refusal::new(Code::Malformed, "not the id of an alarm").field("up_to");
                refusal.hint("give the `id` of an alarm as it was listed")
            })?;
            Op::AlarmSeen(alarm::Seen { up_to })
        }
        Endpoint::AuditRead => Op::AuditRead(AuditQuery {
            after: query.number("after", 0..=u64::MAX).map_err(|e| bad_query(&e))?,
            limit,
            resource: resource(query)?,
            principal: parsed(query, "principal", "a principal's name or id")?,
            action: query.get("action").map(|text| named("action", text)).transpose()?,
        }),
        Endpoint::SealStatus => Op::SealStatus,
        Endpoint::SealSeal => Op::SealSeal,
        Endpoint::SealConfirmClock => Op::SealConfirmClock,
        Endpoint::SealRekey => Op::SealRekey(rekey::Prepare),
        Endpoint::SnapshotSave => Op::SnapshotSave,
        Endpoint::SnapshotPage => {
            let page = query.number("page", 0..=u64::MAX).map_err(|e| bad_query(&e))?.unwrap_or_default();
            Op::SnapshotPage { id: given.session()?, page }
        }
        Endpoint::DocumentPut => {
            let Signed { envelope } = parse(&body)?;
            Op::DocumentPut(document::Put { envelope })
        }
        endpoint if endpoint.is_transit() => transit::transit_op(endpoint, given, query, limit, &body)?,
        endpoint => names_op(endpoint, given, query, limit, &body)?,
    })
}

/// Principals and policies.
fn names_op(endpoint: Endpoint, given: Given, query: &Query, limit: usize, body: &[u8]) -> Result<Op, Refusal> {
    Ok(match endpoint {
        Endpoint::PrincipalList => {
            let id = parsed(query, "id", "a principal's id")?;
            let recipient = parsed::<Digest>(query, "recipient", "the SHA-256 of a recipient, sha256:…")?;
            Op::PrincipalList(principal::List { id, recipient, after: parsed(query, "after", "a name")?, limit })
        }
        Endpoint::PrincipalRead => Op::PrincipalRead(principal::Read { name: given.name()? }),
        Endpoint::PrincipalPut => {
            let PutPrincipal { record, admission } = parse(body)?;
            Op::PrincipalPut(principal::Put { name: given.name()?, record, admission })
        }
        Endpoint::PrincipalDisable | Endpoint::PrincipalEnable => {
            let disabled = endpoint == Endpoint::PrincipalDisable;
            Op::PrincipalSetDisabled(principal::SetDisabled { name: given.name()?, disabled })
        }
        Endpoint::Whoami => Op::Whoami(principal::Me),
        Endpoint::PolicyList => Op::PolicyList(policy::List),
        Endpoint::PolicyRead => Op::PolicyRead(policy::Read { name: given.name()? }),
        Endpoint::PolicyPut => {
            let body: PutPolicy = parse(body)?;
            Op::PolicyPut(policy::Put { name: given.name()?, body })
        }
        Endpoint::PolicyDelete => Op::PolicyDelete(policy::Delete { name: given.name()? }),
        Endpoint::PolicyCheck => {
            let api::CheckPolicy { principal, action, resource } = parse(body)?;
            let action = named("action", &action)?;
            let resource = named("resource", &resource)?;
            Op::PolicyCheck(policy::Check { principal, action, resource })
        }
        Endpoint::PolicyExplain => {
            let api::ExplainPolicy { id } = parse(body)?;
            let id = id.parse().map_err(|e: ParseRequestIdError| {
                let refusal = Refusal::new(Code::Malformed, e.to_string()).field("id");
                refusal.hint("an error and an audit line tell the request's id")
            })?;
            Op::PolicyExplain(id)
        }
        Endpoint::PolicyReplaced => Op::PolicyReplaced(policy::Replaced),
        Endpoint::PolicyRecover => {
            let api::RecoverPolicies { policies, approval } = parse(body)?;
            Op::PolicyRecover(policy::Recover { policies, approval })
        }
        _ => return Err(Refusal::new(Code::UnknownRoute, "this route is not for an unsealed node")),
    })
}

/// Secrets. Bodies that hold content are parsed so that an error repeats nothing of it.
fn kv_op(endpoint: Endpoint, path: SecretPath, query: &Query, body: &[u8]) -> Result<Op, Refusal> {
    fn secret<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
        json::parse_secret(body, MAX_JSON_BYTES, &["data", "bytes", "sealed", "cas", "ttl_s"])
            .map_err(|e| malformed(&e))
    }
    Ok(match endpoint {
        Endpoint::KvPut => Op::KvPut(kv::Put { path, body: secret(body)? }),
        Endpoint::KvPatch => Op::KvPatch(kv::Patch { path, body: secret(body)? }),
        Endpoint::KvWatch => {
            let after = query.get("after");
            if after.is_some_and(|mark| mark.len() > MAX_MARK_BYTES) {
                let refusal = Refusal::new(Code::Malformed, format!("a mark has at most {MAX_MARK_BYTES} bytes"));
                return Err(refusal.field("after").hint("give the `mark` of the answer before, or leave it out"));
            }
            let wait_s = query.number("wait_s", 0..=api::MAX_WATCH_S).map_err(|e| bad_query(&e))?;
            let patience = Duration::from_secs(wait_s.unwrap_or(api::DEFAULT_WATCH_S));
            Op::KvWatch(kv::Watch { path, after: after.map(str::to_owned), patience })
        }
        Endpoint::KvInspect => Op::KvInspect(kv::Inspect { path }),
        Endpoint::KvConfigure => Op::KvConfigure(kv::SetSettings { path, body: parse(body)? }),
        Endpoint::KvDelete => Op::KvDelete(kv::Delete { path, body: parse(body)? }),
        Endpoint::KvUndelete => Op::KvUndelete(kv::Undelete { path, body: parse(body)? }),
        Endpoint::KvDestroy => Op::KvDestroy(kv::Destroy { path, body: parse(body)? }),
        _ => {
            let version = query.number("version", 1..=u64::MAX).map_err(|e| bad_query(&e))?;
            Op::KvGet(kv::Get { path, version })
        }
    })
}

fn wrap_create(body: &[u8], context: &Context<'_>) -> Result<Op, Refusal> {
    let parcel = Parcel::parse(body).map_err(|e| {
        let refusal = Refusal::new(Code::Malformed, e.to_string()).field("body");
        refusal.hint("spec/wrap.md says how statement and file follow each other")
    })?;
    let envelope: Envelope = json::parse(parcel.document, Parcel::MAX_DOCUMENT_BYTES).map_err(|e| malformed(&e))?;
    let draft = wrap::Draft::check(&envelope, context)?;
    Ok(Op::WrapCreate(Box::new(draft), parcel.file.to_vec()))
}
