//! JSON bodies of the HTTP API (`docs/openapi.json` is generated from these types).

mod database;
mod kv;
mod lease;
mod seal;
mod transit;
mod wrap;

pub use database::*;
pub use kv::*;
pub use lease::*;
pub use seal::*;
pub use transit::*;
pub use wrap::*;

use crate::dsse::Envelope;
use crate::id::{ClusterId, Digest, KeyId, Lineage, PrincipalId, WrapId};
use crate::json::StrictMap;
use crate::name::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Largest page of any listing.
pub const MAX_PAGE: usize = 1000;

/// An answer that says nothing more than that it was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Done {}

/// `GET /v1/health`. Status 200 unsealed, 501 uninitialised, 503 sealed or not able to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Whether it serves.
    pub state: SealState,
    /// The server's version.
    pub version: String,
    /// The node's key.
    pub node: KeyId,
    /// The cluster, once there is one.
    pub cluster: Option<ClusterId>,
    /// The cluster's name for people.
    pub name: Option<Name>,
    /// Whether the installation keeps nothing over a restart.
    pub transient: bool,
    /// The audit log takes lines.
    pub audit_ok: bool,
    /// The clock runs evenly; if not, deleting waits.
    pub clock_ok: bool,
    /// Shares given and needed, while sealed and a session is open.
    pub unseal: Option<Progress>,
}

/// `POST /v1/challenge`: the challenge is in the response's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChallengeReply {
    /// The same as in the header.
    pub challenge: String,
    /// For how many milliseconds it may be used.
    pub lifetime_ms: u64,
}

/// One history of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineageEntry {
    /// The epoch that began it.
    pub epoch: u64,
    /// Its id.
    pub lineage: Lineage,
    /// The first sequence in it.
    pub first_sequence: u64,
}

/// `GET /v1/cluster`: everything a client needs to judge answers from its pin on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The documents from number `from` of the query on, at most 100.
    pub documents: Vec<Envelope>,
    /// The number of the newest document.
    pub newest: u32,
    /// Admins' approvals of genesis.
    pub approvals: Vec<Envelope>,
    /// Histories of the store, oldest first.
    pub lineages: Vec<LineageEntry>,
    /// Consents to lost commits, with their signatures.
    pub consents: Vec<Envelope>,
}

/// `POST /v1/document`, `POST /v1/seal:consent`: one signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The statement with its signatures.
    pub envelope: Envelope,
}

/// `PUT /v1/principal/{name}`: a new record, or a new admission of the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPrincipal {
    /// The principal's record.
    pub record: Envelope,
    /// The enroller's word about it.
    pub admission: Envelope,
}

/// A principal as the server knows it. The client believes the envelopes, not the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// Its name.
    pub name: Name,
    /// The server refuses its keys.
    pub disabled: bool,
    /// Its admission does not hold by the newest document, so its keys are refused until somebody admits it again.
    pub void: bool,
    /// All its records, version 1 first.
    pub records: Vec<Envelope>,
    /// The newest admission; none for an admin who stands in the document alone.
    pub admission: Option<Envelope>,
}

/// `GET /v1/principal?id=&recipient=&after=&limit=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principals {
    /// In the order of their names.
    pub principals: Vec<PrincipalSummary>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// A line of a listing of principals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalSummary {
    /// Its id.
    pub id: PrincipalId,
    /// Its name.
    pub name: Name,
    /// Version of its newest record.
    pub version: u32,
    /// Its groups.
    pub groups: Vec<Name>,
    /// Its attributes.
    pub attributes: StrictMap<String>,
    /// The server refuses its keys.
    pub disabled: bool,
    /// Its admission does not hold by the newest document, so its keys are refused until somebody admits it again.
    pub void: bool,
}

/// `GET /v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Whoami {
    /// The caller.
    pub principal: PrincipalSummary,
    /// The key that signed the request.
    pub key: KeyId,
    /// Whether the caller holds a seal share.
    pub admin: bool,
    /// Whether the caller's signature admits principals.
    pub enroller: bool,
}

/// What raised an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Somebody with a recipient's key, but not the claim, tried to open an opened wrap.
    SecondClaim,
    /// Somebody who is no party tried to open a wrap.
    ClaimByStranger,
    /// An opener could not open the content.
    Nack,
    /// An opener never acknowledged.
    Lapse,
    /// A wrap was delivered more than three times.
    Redelivery,
    /// Nobody opened a wrap in time.
    ExpiredUnopened,
    /// A used nonce came with another request.
    ReplayMutation,
    /// A principal's keys changed.
    KeyRotated,
    /// An admin gave a bad share.
    BadShare,
    /// The policy set was replaced by the admins.
    PolicyRecovered,
    /// The store lost commits, and the admins accepted it.
    StoreRolledBack,
    /// The clock moved.
    ClockStepped,
    /// The admins of the seal, or their keys, were changed.
    Rekeyed,
}

/// An alarm, as the parties see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// Its place in the caller's list, for `after`.
    pub id: String,
    /// What raised it.
    pub kind: AlarmKind,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The wrap that it is about.
    pub wrap: Option<WrapId>,
    /// Who caused it, as far as known.
    pub actor: Option<crate::evidence::Actor>,
    /// The receipt that proves it.
    pub receipt: Option<Envelope>,
    /// What happened, for people.
    pub message: String,
}

/// `POST /v1/alarms:seen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeenAlarms {
    /// The id of the last alarm that the caller has seen.
    pub up_to: String,
}

/// `GET /v1/alarms?after=&limit=&all=`. Without `after` and `all` those that were not marked as seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alarms {
    /// Oldest first.
    pub alarms: Vec<Alarm>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// `PUT /v1/policy/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPolicy {
    /// Cedar text, one or more policies.
    pub text: String,
    /// Digest of the text that is to be replaced; `null` to create; absent to write whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Option<Digest>")]
    pub replaces: Option<Option<Digest>>,
}

/// A field that is there, be it `null`: serde alone takes `null` for a field that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `GET /v1/policy/{name}` and answer of `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name.
    pub name: Name,
    /// Cedar text.
    pub text: String,
    /// SHA-256 of the text.
    pub sha256: Digest,
}

/// `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policies {
    /// In the order of their names.
    pub policies: Vec<PolicySummary>,
}

/// A policy in a list. Its text is at `GET /v1/policy/{name}`: all texts together may have 12.5 MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySummary {
    /// Its name.
    pub name: Name,
    /// Length of its text in bytes.
    pub bytes: u64,
    /// SHA-256 of its text.
    pub sha256: Digest,
}

/// `POST /v1/policy:check`: may X do Y on Z?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckPolicy {
    /// X: a principal's name.
    pub principal: Name,
    /// Y: an action, such as `kv.get`.
    pub action: String,
    /// Z: a resource, such as `kv/app/db`.
    pub resource: String,
}

/// Answer of `POST /v1/policy:check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyDecision {
    /// The answer.
    pub allowed: bool,
    /// The statements that decided, as `<policy name>#<number>` from 0.
    pub because: Vec<String>,
    /// Statements whose evaluation failed; any of them denies.
    pub errors: Vec<String>,
}

/// `POST /v1/policy:explain`: why was this request allowed or denied?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainPolicy {
    /// The request's id, as its error or its audit line tells it.
    pub id: String,
}

/// Answer of `POST /v1/policy:explain`: what the audit log says of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyExplanation {
    /// The request's id.
    pub id: String,
    /// When it arrived, Unix milliseconds.
    pub received_ms: u64,
    /// Who asked.
    pub principal: PrincipalId,
    /// The caller's name, as the log shows it.
    pub name: String,
    /// What was asked for; none if no route fitted.
    pub action: Option<String>,
    /// On what, as the log shows it; none if the request did not parse.
    pub resource: Option<String>,
    /// What was decided; none if the request failed before.
    pub allowed: Option<bool>,
    /// The statements that decided, as `<policy name>#<number>` from 0; at most eight. None of them permitted it if it
    /// is empty and the request was denied.
    pub reasons: Vec<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The code of the answer, if it was an error.
    pub code: Option<crate::error::Code>,
}

/// `GET /v1/policy:recover`: what a recovery would replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplacedPolicies {
    /// Digest of the policy set: SHA-256 of the JSON text `{"<name>":"<SHA-256 of its text>",…}`, without spaces and
    /// in the order of the names.
    pub sha256: Digest,
}

/// `POST /v1/policy:recover`: k admins replace the whole set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverPolicies {
    /// JSON text of the new set, `{"<name>":"<cedar text>",…}`, over whose bytes the digest is taken.
    pub policies: String,
    /// `policy-recovery` statement with k admins' signatures.
    pub approval: Envelope,
}

/// `GET /v1/audit?after=&limit=&resource=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditPage {
    /// The lines exactly as they stand in the file.
    pub lines: Vec<String>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LeaseId;
    use crate::json;

    #[test]
    fn a_body_holds_what_it_was_made_of() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("JSON");
        let fields = StrictMap([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(text(json::to_vec(&PutKv::fields(fields))), r#"{"data":{"a":"b"}}"#);
        assert_eq!(text(json::to_vec(&PutKv::bytes(vec![0xff]))), r#"{"bytes":"/w=="}"#);
        let (lease, principal) = (LeaseId::new([1; 16]), PrincipalId::new([1; 32]));
        for (body, expected) in [
            (RevokeLeases::lease(lease), format!(r#"{{"lease":"{lease}"}}"#)),
            (RevokeLeases::resource("database/app"), r#"{"resource":"database/app"}"#.to_owned()),
            (RevokeLeases::principal(principal), format!(r#"{{"principal":"{principal}"}}"#)),
            (RevokeLeases::all(), r#"{"all":true}"#.to_owned()),
        ] {
            assert_eq!(text(json::to_vec(&body)), expected);
        }
    }

    #[test]
    fn what_a_database_has_unless_told() {
        let text = r#"{"engine":"postgres","host":"db","port":5432,"user":"bulla","password":"x"}"#;
        let put: PutDatabase = serde_json::from_str(text).expect("a database");
        assert_eq!((put.connections, put.check, put.moved, put.tls), (4, true, false, DatabaseTls::Verify));
    }

    #[test]
    fn null_is_not_absent() {
        let parse = |text: &str| serde_json::from_str::<PutPolicy>(text).map(|put| put.replaces).ok();
        assert_eq!(parse(r#"{"text":""}"#), Some(None));
        assert_eq!(parse(r#"{"text":"","replaces":null}"#), Some(Some(None)));
        let digest = Digest::new([1; 32]);
        assert_eq!(parse(&format!(r#"{{"text":"","replaces":"{digest}"}}"#)), Some(Some(Some(digest))));
        assert_eq!(parse(r#"{"text":"","replaces":""}"#), None);
    }
}
