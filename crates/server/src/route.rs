//! The one table of routes. Routing, who may call, limits, what the reply is, the OpenAPI document, the reference
//! and the golden list in the tests all come from it, so none of them can know a route that the others do not.
//!
//! A path has exactly one spelling (`spec/request.md`): what is not spelled so is refused here, before anything
//! else looks at it, so router, policy, storage and signature cannot mean different things.

mod needed;
pub mod openapi;
pub mod query;
pub mod reference;
mod table;

pub use needed::{Needed, needed};
pub use query::{Query, QueryError};
pub use table::ROUTES;

use bulla_core::action::{Action, Resource, RoleName};
use bulla_wire::id::{LeaseId, WrapId};
use bulla_wire::json::MAX_JSON_BYTES;
use bulla_wire::name::{Name, SecretPath};
use bulla_wire::wrap::{MAX_CIPHERTEXT_BYTES, Parcel};
use std::fmt;

/// Longest path of a request in bytes: the longest secret path (512), with what stands before and after it.
pub const MAX_REQUEST_PATH_BYTES: usize = 576;
/// Largest JSON body: what the strict parser takes.
pub const MAX_JSON_BODY_BYTES: usize = MAX_JSON_BYTES;
/// Largest body that is an age file: the ingress line and a JSON body, with room for the age header and 16 bytes
/// of tag in each 64 KiB.
pub const MAX_AGE_BODY_BYTES: usize = MAX_JSON_BYTES + 16 * 1024;
/// Largest body that is a parcel: length, statement, ciphertext.
pub const MAX_PARCEL_BODY_BYTES: usize = 4 + Parcel::MAX_DOCUMENT_BYTES + MAX_CIPHERTEXT_BYTES as usize;

/// What a route does. One variant a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the summary of each stands in the table")]
pub enum Endpoint {
    Health,
    Cluster,
    Challenge,
    Init,
    SealStatus,
    SealSession,
    SealKey,
    SealShare,
    SealSeal,
    SealConsent,
    SealConfirmClock,
    SealRekey,
    DocumentPut,
    SnapshotSave,
    SnapshotPage,
    PrincipalList,
    PrincipalRead,
    PrincipalPut,
    PrincipalDisable,
    PrincipalEnable,
    Whoami,
    PolicyList,
    PolicyRead,
    PolicyPut,
    PolicyDelete,
    PolicyCheck,
    PolicyExplain,
    PolicyReplaced,
    PolicyRecover,
    AuditRead,
    AlarmRead,
    AlarmSeen,
    WrapCreate,
    WrapList,
    WrapInspect,
    WrapOpen,
    WrapAck,
    WrapNack,
    WrapRevoke,
    WrapRelease,
    KvGet,
    KvPut,
    KvList,
    KvPatch,
    KvWatch,
    KvInspect,
    KvConfigure,
    KvDelete,
    KvUndelete,
    KvDestroy,
    TransitList,
    TransitRead,
    TransitCreate,
    TransitImport,
    TransitRestore,
    TransitRotate,
    TransitConfigure,
    TransitDelete,
    TransitExport,
    TransitBackup,
    TransitEncrypt,
    TransitDecrypt,
    TransitRewrap,
    TransitDatakey,
    TransitDatakeyWrapped,
    TransitSign,
    TransitVerify,
    TransitHmac,
    TransitVerifyHmac,
    DatabaseList,
    DatabaseRead,
    DatabasePut,
    DatabaseDelete,
    DatabaseRelease,
    DatabaseRotate,
    DatabaseRoles,
    DatabaseRoleRead,
    DatabaseRolePut,
    DatabaseRoleDelete,
    DatabaseIssue,
    DatabaseCertify,
    DatabaseAuthority,
    DatabaseStaticList,
    DatabaseStaticRead,
    DatabaseStaticPut,
    DatabaseStaticDelete,
    DatabaseStaticCreds,
    DatabaseStaticRotate,
    LeaseList,
    LeaseListAll,
    LeaseRead,
    LeaseRenew,
    LeaseRevoke,
    LeaseRevokeMany,
}

impl Endpoint {
    /// Whether the transit engine serves it.
    pub(crate) const fn is_transit(self) -> bool {
        matches!(
            self,
            Self::TransitList
                | Self::TransitRead
                | Self::TransitCreate
                | Self::TransitImport
                | Self::TransitRestore
                | Self::TransitRotate
                | Self::TransitConfigure
                | Self::TransitDelete
                | Self::TransitExport
                | Self::TransitBackup
                | Self::TransitEncrypt
                | Self::TransitDecrypt
                | Self::TransitRewrap
                | Self::TransitDatakey
                | Self::TransitDatakeyWrapped
                | Self::TransitSign
                | Self::TransitVerify
                | Self::TransitHmac
                | Self::TransitVerifyHmac
        )
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Anybody, unsigned.
    Open,
    /// Signed by an admin that the body names; over the network one that the configuration lists.
    Init,
    /// Signed by an admin of the seal configuration, which can be read while sealed. Not Cedar.
    Sealed,
    /// Signed by a principal to whom Cedar permits the action.
    Policy(Action),
}

/// What proves who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The signature of the request alone: it stays as evidence of what was asked for.
    Signature,
    /// That, or the certificate of the connection.
    Mtls,
}

/// What a route takes as body. All sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// No bytes; `application/octet-stream` in the signed content type.
    Empty,
    /// `application/json`.
    Json {
        /// Largest size.
        max: usize,
    },
    /// `application/age`: encrypted to the ingress recipient.
    Age {
        /// Largest size.
        max: usize,
    },
    /// `application/vnd.bulla.wrap`.
    Parcel {
        /// Largest size.
        max: usize,
    },
}

impl RequestBody {
    /// The media type that the request must name.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Empty => bulla_wire::signature::EMPTY_MEDIA_TYPE,
            Self::Json { .. } => bulla_wire::signature::JSON_MEDIA_TYPE,
            Self::Age { .. } => bulla_wire::signature::AGE_MEDIA_TYPE,
            Self::Parcel { .. } => bulla_wire::wrap::PARCEL_MEDIA_TYPE,
        }
    }

    /// Largest size in bytes.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Json { max } | Self::Age { max } | Self::Parcel { max } => max,
        }
    }
}

/// How an answer that is no error is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// `application/json`.
    Json,
    /// `application/age`: to the recipients that the caller's record lists under the signing key.
    Secret,
    /// `application/age` around a parcel: to the claim of the request alone.
    Claim,
    /// `application/vnd.bulla.snapshot`: a page of sealed rows.
    Snapshot,
}

impl ReplyKind {
    /// The media type of the answer.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => bulla_wire::signature::JSON_MEDIA_TYPE,
            Self::Secret => bulla_wire::signature::AGE_MEDIA_TYPE,
            Self::Claim => bulla_wire::signature::AGE_MEDIA_TYPE,
            Self::Snapshot => bulla_wire::snapshot::SNAPSHOT_MEDIA_TYPE,
        }
    }
}

/// Whether a repeated request could do harm, so that its nonce must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Doing it twice is as good as once.
    Read,
    /// Exactly once by its nonce.
    Mutation,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method in upper case.
    pub method: &'static str,
    /// The path, with at most one `{parameter}`.
    pub template: &'static str,
    /// What it does.
    pub endpoint: Endpoint,
    /// Who may call.
    pub auth: Auth,
    /// What proves who calls; open routes look at neither.
    pub proof: Proof,
    /// The action in audit and policy; none for open routes.
    pub action: Option<Action>,
    /// What it takes as body.
    pub request: RequestBody,
    /// How its answer is made.
    pub reply: ReplyKind,
    /// Whether its nonce is kept.
    pub effect: Effect,
    /// The names that its query may have.
    pub query: &'static [&'static str],
    /// What it does, in one line.
    pub summary: &'static str,
}

/// What stands for the parameter of a route's template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Param {
    /// A principal's, policy's or transit key's name.
    Name(Name),
    /// A wrap.
    Wrap(WrapId),
    /// Where a secret lies.
    Path(SecretPath),
    /// An unseal session, or one of a snapshot.
    Session(String),
    /// A role of a database.
    Role(RoleName),
    /// A lease.
    Lease(LeaseId),
}

/// A request's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched<'a> {
    /// The route.
    pub route: &'static Route,
    /// What stands for its parameter, if it has one.
    pub param: Option<Param>,
    /// The path as it stands in the request line, for signature and audit.
    pub path: &'a str,
}

impl Matched<'_> {
    /// What it is about, as far as the path tells: for what is yet to be made or listed, all of its kind.
    pub fn resource(&self) -> Resource {
        match (self.route.action.map_or("", Action::group), &self.param) {
            ("principal", Some(Param::Name(name))) => Resource::Principal(name.clone()),
            ("policy", Some(Param::Name(name))) => Resource::Policy(name.clone()),
            ("wrap", Some(Param::Wrap(wrap))) => Resource::Wrap(*wrap),
            ("kv", Some(Param::Path(path))) => Resource::Kv(path.clone()),
            ("transit", Some(Param::Name(name))) => Resource::Transit(name.clone()),
            ("database", Some(Param::Name(name))) => Resource::Database(name.clone()),
            ("database", Some(Param::Role(role))) => Resource::DatabaseRole(role.clone()),
            ("lease", Some(Param::Lease(id))) => Resource::Lease(*id),
            ("principal", _) => Resource::Principals,
            ("policy", _) => Resource::Policies,
            ("wrap", _) => Resource::Wraps,
            ("kv", _) => Resource::KvRoot,
            ("transit", _) => Resource::Transits,
            ("database", _) => Resource::Databases,
            ("lease", _) => Resource::Leases,
            ("seal", _) => Resource::Seal,
            ("audit", _) => Resource::Audit,
            ("alarm", _) => Resource::Alarms,
            ("self", _) => Resource::Own,
            _ => Resource::Cluster,
        }
    }

    /// What policy is asked for it; `None` for what asks no policy.
    pub fn needs(&self) -> Option<(Action, Resource)> {
        let Auth::Policy(action) = self.route.auth else { return None };
        action.asks_policy().then(|| (action, self.resource()))
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint && self.template == other.template
    }
}
impl Eq for Route {}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    /// No route has this path.
    Unknown,
    /// The path has routes, with other methods.
    MethodNotAllowed {
        /// The methods that it has, for the `Allow` header.
        allow: String,
    },
    /// The path is a route's, but not in its one spelling.
    BadPath(String),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such path"),
            Self::MethodNotAllowed { allow } => write!(f, "this path takes {allow}"),
            Self::BadPath(reason) => write!(f, "the path is not in its one spelling: {reason}"),
        }
    }
}
impl std::error::Error for RouteError {}

/// Finds the route of a request. `path` is the path of the request line, without the query.
pub fn find<'a>(method: &str, path: &'a str) -> Result<Matched<'a>, RouteError> {
    if path.len() > MAX_REQUEST_PATH_BYTES {
        return Err(RouteError::BadPath(format!("at most {MAX_REQUEST_PATH_BYTES} bytes")));
    }
    let mut allow: Vec<&'static str> = Vec::new();
    for route in ROUTES {
        let Some(value) = route.fits(path) else { continue };
        if route.method != method {
            allow.push(route.method);
            continue;
        }
        let param = match value {
            Some((kind, text)) => Some(kind.parse(text).map_err(RouteError::BadPath)?),
            None => None,
        };
        return Ok(Matched { route, param, path });
    }
    match allow.as_slice() {
        [] => Err(RouteError::Unknown),
        methods => Err(RouteError::MethodNotAllowed { allow: methods.join(", ") }),
    }
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// [`Param::Name`].
    Name,
    /// [`Param::Wrap`].
    Wrap,
    /// [`Param::Path`].
    Path,
    /// [`Param::Session`].
    Session,
    /// [`Param::Role`].
    Role,
    /// [`Param::Lease`].
    Lease,
}

impl ParamKind {
    fn parse(self, text: &str) -> Result<Param, String> {
        match self {
            Self::Name => text.parse().map(Param::Name).map_err(|error| error.to_string()),
            Self::Wrap => text.parse().map(Param::Wrap).map_err(|error| error.to_string()),
            Self::Path => text.parse().map(Param::Path).map_err(|error| error.to_string()),
            Self::Role => text.parse::<RoleName>().map(Param::Role).map_err(|error| error.to_string()),
            Self::Lease => text.parse::<LeaseId>().map(Param::Lease).map_err(|error| error.to_string()),
            Self::Session => match text.parse::<Name>() {
                Ok(_) => Ok(Param::Session(text.to_owned())),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

impl Route {
    /// The template cut at its parameter: before it, its name, its type, after it.
    pub fn parameter(&self) -> Option<(&'static str, &'static str, ParamKind, &'static str)> {
        let (before, rest) = self.template.split_once('{')?;
        let (name, after) = rest.split_once('}')?;
        let kind = match (name, before) {
            ("path", _) => ParamKind::Path,
            ("id", "/v1/wrap/") => ParamKind::Wrap,
            ("role", _) => ParamKind::Role,
            ("lease", _) => ParamKind::Lease,
            ("id", _) => ParamKind::Session,
            _ => ParamKind::Name,
        };
        Some((before, name, kind, after))
    }

    /// Whether `path` has the shape of the template, and what stands for its parameter. The value is not parsed yet.
    fn fits<'a>(&self, path: &'a str) -> Option<Option<(ParamKind, &'a str)>> {
        let Some((before, _, kind, after)) = self.parameter() else {
            return (path == self.template).then_some(None);
        };
        let value = path.strip_prefix(before)?.strip_suffix(after)?;
        // A verb belongs to the last segment, and no parameter holds a colon: another verb is another route.
        let (text, last) = (value, value.rsplit('/').next().unwrap_or_default());
        let slashes = text.matches('/').count();
        let deep = match kind {
            ParamKind::Path => false,
            ParamKind::Role => slashes != 1,
            _ => slashes > 0,
        };
        if last.contains(':') || deep {
            return None;
        }
        Some(Some((kind, text)))
    }
}
