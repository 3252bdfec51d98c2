//! The table itself.

use super::{
    Auth, Effect, Endpoint, MAX_AGE_BODY_BYTES, MAX_JSON_BODY_BYTES, MAX_PARCEL_BODY_BYTES, Proof, ReplyKind,
    RequestBody, Route,
};
use bulla_core::action::Action;

const JSON: RequestBody = RequestBody::Json { max: MAX_JSON_BODY_BYTES };
const AGE: RequestBody = RequestBody::Age { max: MAX_AGE_BODY_BYTES };
const PARCEL: RequestBody = RequestBody::Parcel { max: MAX_PARCEL_BODY_BYTES };

/// The query of a route with a secret answer, which may go to somebody else.
const WRAP_TO: &[&str] = &["wrap", "wrap_to"];

/// Every route of the API, in the order of the reference.
pub const ROUTES: &[Route] = &[
    get("/v1/health", Endpoint::Health, "Tell whether the node serves.").query(&[
        "activecode",
        "sealedcode",
        "uninitcode",
    ]),
    get("/v1/cluster", Endpoint::Cluster, "Give the cluster's documents, approvals, histories and consents.")
        .query(&["from"]),
    post("/v1/challenge", Endpoint::Challenge, "Give a challenge to a client that has none.").read(),
    post("/v1/init", Endpoint::Init, "Make the cluster.").auth(Auth::Init, Action::ClusterInit).body(JSON),
    // The seal.
    get("/v1/seal", Endpoint::SealStatus, "Show the seal and its admins.").auth(Auth::Sealed, Action::SealStatus),
    post("/v1/seal/session", Endpoint::SealSession, "Open an unseal session, or join the running one.")
        .auth(Auth::Sealed, Action::SealSession),
    get("/v1/seal/session/{id}/key", Endpoint::SealKey, "Give the caller's own encrypted intermediate key.")
        .auth(Auth::Sealed, Action::SealKey),
    post("/v1/seal/session/{id}/share", Endpoint::SealShare, "Give a share of the seal.")
        .auth(Auth::Sealed, Action::SealShare)
        .body(JSON),
    post("/v1/seal:seal", Endpoint::SealSeal, "Forget the keys.").policy(Action::SealSeal),
    post("/v1/seal:consent", Endpoint::SealConsent, "Accept that the store lost commits, by k admins' signatures.")
        .auth(Auth::Sealed, Action::SealConsent)
        .body(JSON),
    post("/v1/seal:confirm-clock", Endpoint::SealConfirmClock, "Confirm the time after a clock step.")
        .policy(Action::SealClock),
    post("/v1/seal:rekey", Endpoint::SealRekey, "Give the ingress key that the document of the next rekey must name.")
        .policy(Action::SealRekey),
    post("/v1/document", Endpoint::DocumentPut, "Put the next cluster document.")
        .policy(Action::DocumentPut)
        .body(JSON),
    // Snapshots.
    post("/v1/snapshot", Endpoint::SnapshotSave, "Hold the state of this moment, for a snapshot.")
        .policy(Action::SnapshotSave),
    get("/v1/snapshot/{id}", Endpoint::SnapshotPage, "Give a page of a snapshot.")
        .policy(Action::SnapshotSave)
        .query(&["page"])
        .replies(ReplyKind::Snapshot),
    // Principals.
    get("/v1/principal", Endpoint::PrincipalList, "List principals.").policy(Action::PrincipalList).mtls().query(&[
        "id",
        "recipient",
        "after",
        "limit",
    ]),
    get("/v1/principal/{name}", Endpoint::PrincipalRead, "Give a principal's records and admission.")
        .policy(Action::PrincipalRead)
        .mtls(),
    put("/v1/principal/{name}", Endpoint::PrincipalPut, "Admit a principal, or take its new record or admission.")
        .policy(Action::PrincipalPut)
        .body(JSON),
    route("DELETE", "/v1/principal/{name}", Endpoint::PrincipalDisable, "Refuse a principal's keys from now on.")
        .policy(Action::PrincipalDisable),
    post("/v1/principal/{name}:enable", Endpoint::PrincipalEnable, "Take a disabled principal back.")
        .policy(Action::PrincipalEnable),
    get("/v1/whoami", Endpoint::Whoami, "Tell the caller who it is.").policy(Action::SelfRead).mtls(),
    // Policies.
    get("/v1/policy", Endpoint::PolicyList, "List the policies.").policy(Action::PolicyList).mtls(),
    get("/v1/policy/{name}", Endpoint::PolicyRead, "Give a policy.").policy(Action::PolicyRead).mtls(),
    put("/v1/policy/{name}", Endpoint::PolicyPut, "Write a policy.").policy(Action::PolicyPut).body(JSON),
    route("DELETE", "/v1/policy/{name}", Endpoint::PolicyDelete, "Delete a policy.").policy(Action::PolicyDelete),
    post(
        "/v1/policy:check",
        Endpoint::PolicyCheck,
        "Tell whether a principal may do an action on a resource, and why.",
    )
    .policy(Action::PolicyCheck)
    .mtls()
    .body(JSON)
    .read(),
    post("/v1/policy:explain", Endpoint::PolicyExplain, "Tell why an earlier request was allowed or denied.")
        .policy(Action::PolicyExplain)
        .mtls()
        .body(JSON)
        .read(),
    get("/v1/policy:recover", Endpoint::PolicyReplaced, "Give the digest of the policy set that a recovery replaces.")
        .auth(Auth::Sealed, Action::PolicyRecover),
    post("/v1/policy:recover", Endpoint::PolicyRecover, "Replace the whole policy set, by k admins' signatures.")
        .auth(Auth::Sealed, Action::PolicyRecover)
        .body(JSON),
    // What happened.
    get("/v1/audit", Endpoint::AuditRead, "Give lines of the audit log.").policy(Action::AuditRead).mtls().query(&[
        "after",
        "limit",
        "resource",
        "principal",
        "action",
    ]),
    get("/v1/alarms", Endpoint::AlarmRead, "Give the caller's alarms.")
        .policy(Action::AlarmRead)
        .mtls()
        .query(&["after", "limit", "all"]),
    post("/v1/alarms:seen", Endpoint::AlarmSeen, "Mark the caller's alarms as seen up to one of them.")
        .policy(Action::AlarmRead)
        .mtls()
        .body(JSON),
    // Wraps.
    post("/v1/wrap", Endpoint::WrapCreate, "Create a wrap.").policy(Action::WrapCreate).body(PARCEL),
    get("/v1/wrap", Endpoint::WrapList, "List the caller's own wraps, sent and received.")
        .policy(Action::WrapList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/wrap/{id}", Endpoint::WrapInspect, "Show a wrap without opening it.").policy(Action::WrapInspect).mtls(),
    post("/v1/wrap/{id}:open", Endpoint::WrapOpen, "Open a wrap, once.")
        .policy(Action::WrapOpen)
        .body(JSON)
        .replies(ReplyKind::Claim),
    post("/v1/wrap/{id}:ack", Endpoint::WrapAck, "Say that an opened wrap arrived.").policy(Action::WrapAck).body(JSON),
    post("/v1/wrap/{id}:nack", Endpoint::WrapNack, "Say that an opened wrap could not be read.")
        .policy(Action::WrapNack)
        .body(JSON),
    post("/v1/wrap/{id}:revoke", Endpoint::WrapRevoke, "Take a wrap back.").policy(Action::WrapRevoke).body(JSON),
    post("/v1/wrap/{id}:release", Endpoint::WrapRelease, "Let a wrap be opened that was parked by a restore.")
        .policy(Action::WrapRelease)
        .body(JSON),
    // Secrets.
    get("/v1/kv:list", Endpoint::KvList, "List the names at the top.")
        .policy(Action::KvList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/kv/{path}:list", Endpoint::KvList, "List the names below a path.")
        .policy(Action::KvList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/kv/{path}", Endpoint::KvGet, "Read a version of a secret.")
        .policy(Action::KvGet)
        .mtls()
        .query(&["version", "wrap", "wrap_to"])
        .replies(ReplyKind::Secret),
    put("/v1/kv/{path}", Endpoint::KvPut, "Write a version of a secret.").policy(Action::KvPut).mtls().body(AGE),
    route("PATCH", "/v1/kv/{path}", Endpoint::KvPatch, "Write a version that changes some fields of the newest.")
        .policy(Action::KvPut)
        .mtls()
        .body(AGE),
    get("/v1/kv/{path}:watch", Endpoint::KvWatch, "Wait for another version of a secret, or another state of it.")
        .policy(Action::KvWatch)
        .mtls()
        .query(&["after", "wait_s"]),
    get("/v1/kv/{path}:metadata", Endpoint::KvInspect, "Show the history and settings of a secret.")
        .policy(Action::KvInspect)
        .mtls(),
    put("/v1/kv/{path}:metadata", Endpoint::KvConfigure, "Change the settings of a secret.")
        .policy(Action::KvConfigure)
        .mtls()
        .body(JSON),
    post("/v1/kv/{path}:delete", Endpoint::KvDelete, "Make versions of a secret unreadable for now.")
        .policy(Action::KvDelete)
        .mtls()
        .body(JSON),
    post("/v1/kv/{path}:undelete", Endpoint::KvUndelete, "Take deleted versions of a secret back.")
        .policy(Action::KvUndelete)
        .mtls()
        .body(JSON),
    post("/v1/kv/{path}:destroy", Endpoint::KvDestroy, "Destroy versions of a secret, or all of it.")
        .policy(Action::KvDestroy)
        .body(JSON),
    // Transit keys. What computes leaves nothing behind, so it is a read.
    get("/v1/transit", Endpoint::TransitList, "List transit keys.")
        .policy(Action::TransitList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/transit/{name}", Endpoint::TransitRead, "Give a transit key's settings and public keys.")
        .policy(Action::TransitRead)
        .mtls(),
    put("/v1/transit/{name}", Endpoint::TransitCreate, "Make a transit key.").policy(Action::TransitCreate).body(JSON),
    route("DELETE", "/v1/transit/{name}", Endpoint::TransitDelete, "Delete a transit key, if its settings allow it.")
        .policy(Action::TransitDelete),
    post("/v1/transit/{name}:import", Endpoint::TransitImport, "Bring in a key that was made elsewhere.")
        .policy(Action::TransitImport)
        .body(AGE),
    post("/v1/transit/{name}:restore", Endpoint::TransitRestore, "Bring back a transit key from a backup.")
        .policy(Action::TransitRestore)
        .body(AGE),
    post("/v1/transit/{name}:rotate", Endpoint::TransitRotate, "Give a transit key a new version.")
        .policy(Action::TransitRotate),
    post("/v1/transit/{name}:configure", Endpoint::TransitConfigure, "Change a transit key's settings.")
        .policy(Action::TransitConfigure)
        .body(JSON),
    post("/v1/transit/{name}:export", Endpoint::TransitExport, "Give one version of a key, if its settings allow it.")
        .policy(Action::TransitExport)
        .body(JSON)
        .query(WRAP_TO)
        .replies(ReplyKind::Secret)
        .read(),
    post("/v1/transit/{name}:backup", Endpoint::TransitBackup, "Give a whole key, if its settings allow it.")
        .policy(Action::TransitBackup)
        .query(WRAP_TO)
        .replies(ReplyKind::Secret)
        .read(),
    compute("/v1/transit/{name}:encrypt", Endpoint::TransitEncrypt, "Encrypt a batch.")
        .policy(Action::TransitEncrypt)
        .body(AGE),
    compute("/v1/transit/{name}:decrypt", Endpoint::TransitDecrypt, "Decrypt a batch.")
        .policy(Action::TransitDecrypt)
        .body(JSON)
        .query(WRAP_TO)
        .replies(ReplyKind::Secret),
    compute(
        "/v1/transit/{name}:rewrap",
        Endpoint::TransitRewrap,
        "Encrypt a batch anew by the newest version, unseen.",
    )
    .policy(Action::TransitRewrap)
    .body(JSON),
    compute("/v1/transit/{name}:datakey", Endpoint::TransitDatakey, "Make a data key, in clear and encrypted.")
        .policy(Action::TransitDatakey)
        .body(JSON)
        .query(WRAP_TO)
        .replies(ReplyKind::Secret),
    compute("/v1/transit/{name}:datakey-wrapped", Endpoint::TransitDatakeyWrapped, "Make a data key, encrypted only.")
        .policy(Action::TransitDatakeyWrapped)
        .body(JSON),
    compute("/v1/transit/{name}:sign", Endpoint::TransitSign, "Sign a batch.").policy(Action::TransitSign).body(AGE),
    compute("/v1/transit/{name}:verify", Endpoint::TransitVerify, "Verify a batch of signatures.")
        .policy(Action::TransitVerify)
        .body(AGE),
    compute("/v1/transit/{name}:hmac", Endpoint::TransitHmac, "Make MACs of a batch.")
        .policy(Action::TransitHmac)
        .body(AGE),
    compute("/v1/transit/{name}:verify-hmac", Endpoint::TransitVerifyHmac, "Verify a batch of MACs.")
        .policy(Action::TransitVerify)
        .body(AGE),
    // Databases.
    get("/v1/database", Endpoint::DatabaseList, "List the databases.")
        .policy(Action::DatabaseList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/database/{name}", Endpoint::DatabaseRead, "Tell how a database is reached, without its password.")
        .policy(Action::DatabaseRead)
        .mtls(),
    put("/v1/database/{name}", Endpoint::DatabasePut, "Write how a database is reached.")
        .policy(Action::DatabaseConfigure)
        .body(AGE),
    route("DELETE", "/v1/database/{name}", Endpoint::DatabaseDelete, "Delete a database without roles and leases.")
        .policy(Action::DatabaseDelete),
    post("/v1/database/{name}:release", Endpoint::DatabaseRelease, "Let a database be acted on after a restore.")
        .policy(Action::DatabaseConfigure),
    post(
        "/v1/database/{name}:rotate",
        Endpoint::DatabaseRotate,
        "Give a database's administering user a new password.",
    )
    .policy(Action::DatabaseRotate),
    get("/v1/database/{name}:list", Endpoint::DatabaseRoles, "List the roles of a database.")
        .policy(Action::DatabaseList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/database/{role}", Endpoint::DatabaseRoleRead, "Give a role of a database.")
        .policy(Action::DatabaseRead)
        .mtls(),
    put("/v1/database/{role}", Endpoint::DatabaseRolePut, "Write a role of a database.")
        .policy(Action::DatabaseConfigure)
        .body(JSON),
    route("DELETE", "/v1/database/{role}", Endpoint::DatabaseRoleDelete, "Delete a role of a database.")
        .policy(Action::DatabaseDelete),
    post("/v1/database/{role}:issue", Endpoint::DatabaseIssue, "Make a user of a role, for as long as its lease.")
        .policy(Action::DatabaseIssue)
        .body(JSON)
        .query(WRAP_TO)
        .replies(ReplyKind::Secret),
    post("/v1/database/{role}:certify", Endpoint::DatabaseCertify, "Make a user of a role who logs in by certificate.")
        .policy(Action::DatabaseIssue)
        .body(JSON),
    get(
        "/v1/database/{name}:ca",
        Endpoint::DatabaseAuthority,
        "Give the certificate that a database's logins rest on.",
    )
    .policy(Action::DatabaseRead)
    .mtls(),
    // Static roles: users who are there already, whose passwords the cluster owns.
    get("/v1/database/{name}:static", Endpoint::DatabaseStaticList, "List the static roles of a database.")
        .policy(Action::DatabaseList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/database/{role}:static", Endpoint::DatabaseStaticRead, "Show a static role, without its password.")
        .policy(Action::DatabaseRead)
        .mtls(),
    put("/v1/database/{role}:static", Endpoint::DatabaseStaticPut, "Rotate the password of a user from now on.")
        .policy(Action::DatabaseConfigure)
        .body(JSON),
    route(
        "DELETE",
        "/v1/database/{role}:static",
        Endpoint::DatabaseStaticDelete,
        "Delete a static role; its user stays.",
    )
    .policy(Action::DatabaseDelete),
    get("/v1/database/{role}:creds", Endpoint::DatabaseStaticCreds, "Give the password of a static role.")
        .policy(Action::DatabaseStaticCreds)
        .mtls()
        .query(WRAP_TO)
        .replies(ReplyKind::Secret),
    post("/v1/database/{role}:rotate", Endpoint::DatabaseStaticRotate, "Rotate the password of a static role now.")
        .policy(Action::DatabaseRotate),
    // Leases.
    get("/v1/lease", Endpoint::LeaseList, "List the caller's own leases.")
        .policy(Action::LeaseList)
        .mtls()
        .query(&["after", "limit"]),
    get("/v1/lease:all", Endpoint::LeaseListAll, "List leases of everybody.")
        .policy(Action::LeaseManage)
        .mtls()
        .query(&["after", "limit", "resource", "principal", "stuck"]),
    post(
        "/v1/lease:revoke",
        Endpoint::LeaseRevokeMany,
        "End leases of anybody: one, or all of a resource or principal.",
    )
    .policy(Action::LeaseManage)
    .body(JSON),
    get("/v1/lease/{lease}", Endpoint::LeaseRead, "Show a lease of the caller's.").policy(Action::LeaseRead).mtls(),
    post("/v1/lease/{lease}:renew", Endpoint::LeaseRenew, "Let a lease of the caller's last longer.")
        .policy(Action::LeaseRenew)
        .body(JSON),
    post("/v1/lease/{lease}:revoke", Endpoint::LeaseRevoke, "End a lease of the caller's.").policy(Action::LeaseRevoke),
];

const fn route(method: &'static str, template: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    Route {
        method,
        template,
        endpoint,
        auth: Auth::Open,
        proof: Proof::Signature,
        action: None,
        request: RequestBody::Empty,
        reply: ReplyKind::Json,
        effect: Effect::Mutation,
        query: &[],
        summary,
    }
}

const fn get(template: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    route("GET", template, endpoint, summary).read()
}
const fn put(template: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    route("PUT", template, endpoint, summary)
}
const fn post(template: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    route("POST", template, endpoint, summary)
}
/// What computes and changes nothing.
const fn compute(template: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    post(template, endpoint, summary).mtls().read()
}

impl Route {
    const fn auth(self, auth: Auth, action: Action) -> Self {
        Self { auth, action: Some(action), ..self }
    }
    const fn policy(self, action: Action) -> Self {
        self.auth(Auth::Policy(action), action)
    }
    /// Takes the certificate of the connection too. For reads and ordinary writes only: whoever must be able to show
    /// later what was asked for, and by whom, needs the signature.
    const fn mtls(self) -> Self {
        Self { proof: Proof::Mtls, ..self }
    }
    const fn body(self, request: RequestBody) -> Self {
        Self { request, ..self }
    }
    const fn replies(self, reply: ReplyKind) -> Self {
        Self { reply, ..self }
    }
    const fn read(self) -> Self {
        Self { effect: Effect::Read, ..self }
    }
    const fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }
}
