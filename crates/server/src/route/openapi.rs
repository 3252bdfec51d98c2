//! The OpenAPI 3.1 document: from the table of routes and the schemas of the types in `wire::api`.

use super::{Auth, Effect, Endpoint, MAX_REQUEST_PATH_BYTES, ParamKind, Proof, ROUTES, ReplyKind, RequestBody, Route};
use bulla_wire::api;
use bulla_wire::error::ErrorBody;
use bulla_wire::id::{LeaseId, WrapId};
use bulla_wire::name::{MAX_PATH_BYTES, Name, SecretPath};
use bulla_wire::signature as headers;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// How the request's signature is named among the security schemes.
const SIGNATURE_SCHEME: &str = "bulla-req-v1";

/// The same for the certificate of the connection.
const MTLS_SCHEME: &str = "mtls";

/// The whole document.
pub fn openapi() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator);
        if let Some(path) = paths.entry(route.template).or_insert_with(|| json!({})).as_object_mut() {
            path.insert(route.method.to_ascii_lowercase(), operation);
        }
    }
    let errors = generator.subschema_for::<ErrorBody>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bulla",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A secrets service that answers to keys.",
            "description": "Every request but those of open routes is signed, or comes over mTLS where the route takes it; \
                every response is signed (spec/request.md). \
                A path has one spelling; \"%\" never occurs.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "https://127.0.0.1:8250"}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "headers": response_headers(),
            "responses": {"Refused": {
                "description": "Refused or failed; the codes stand in docs/reference/errors.md.",
                "headers": header_references(),
                "content": {headers::JSON_MEDIA_TYPE: {"schema": errors}},
            }},
            "securitySchemes": {MTLS_SCHEME: {
                "type": "mutualTLS",
                "description": "A certificate, by whomever, for a key that the caller's record lists, with Bulla-Audience, \
                    and with Bulla-Nonce for a mutation, as in spec/request.md.",
            }, SIGNATURE_SCHEME: {
                "type": "apiKey",
                "in": "header",
                "name": "Signature",
                "description": "RFC 9421 with nothing to choose: Content-Digest, Bulla-Audience, Bulla-Challenge, \
                    Signature-Input and Signature as in spec/request.md.",
            }},
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (request, reply) = bodies(route.endpoint, generator);
    let mut responses = Map::new();
    let mut success = json!({
        "description": reply_description(route.reply),
        "headers": header_references(),
    });
    let content = match route.reply {
        ReplyKind::Json => json!({"schema": reply}),
        // What stands inside the envelope cannot be told in the schema of its bytes.
        ReplyKind::Secret | ReplyKind::Claim | ReplyKind::Snapshot => {
            json!({"schema": {"contentMediaType": route.reply.media_type()}})
        }
    };
    set(&mut success, "content", json!({route.reply.media_type(): content}));
    if route.reply == ReplyKind::Secret {
        set(&mut success, "x-bulla-plaintext", reply);
    }
    responses.insert("200".into(), success);
    if route.endpoint == Endpoint::Health {
        for (status, description) in [("501", "There is no cluster yet."), ("503", "Sealed, or not able to serve.")] {
            let mut other = responses.get("200").cloned().unwrap_or_default();
            set(&mut other, "description", description.into());
            responses.insert(status.into(), other);
        }
    }
    responses.insert("default".into(), json!({"$ref": "#/components/responses/Refused"}));
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [tag(route)],
        "parameters": parameters(route),
        "responses": responses,
        "security": security(route),
        "x-bulla-auth": auth(route.auth),
        "x-bulla-mutation": route.effect == Effect::Mutation,
    });
    if let Some(action) = route.action {
        set(&mut operation, "x-bulla-action", action.as_str().into());
    }
    if let Some(body) = request_body(route.request, request, &mut operation) {
        set(&mut operation, "requestBody", body);
    }
    operation
}

/// What proves who calls: one of these.
fn security(route: &Route) -> Value {
    match (route.auth, route.proof) {
        (Auth::Open, _) => json!([]),
        (_, Proof::Signature) => json!([{SIGNATURE_SCHEME: []}]),
        (_, Proof::Mtls) => json!([{SIGNATURE_SCHEME: []}, {MTLS_SCHEME: []}]),
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

fn request_body(kind: RequestBody, schema: Value, operation: &mut Value) -> Option<Value> {
    let (description, content) = match kind {
        RequestBody::Empty => return None,
        RequestBody::Json { .. } => ("JSON.", json!({"schema": schema})),
        RequestBody::Age { .. } => {
            set(operation, "x-bulla-plaintext-request", schema);
            let description = "age file to the ingress recipient of the newest document; its plaintext is one line \
                `bulla-ingress-v1 …`, then the JSON body.";
            (description, json!({"schema": {"contentMediaType": kind.media_type()}}))
        }
        RequestBody::Parcel { .. } => {
            let description = "u32 big-endian length, the signed statement as JSON, the age file.";
            (description, json!({"schema": {"contentMediaType": kind.media_type()}}))
        }
    };
    let max = kind.max_bytes();
    Some(json!({
        "description": format!("{description} At most {max} bytes."),
        "required": true,
        "content": {kind.media_type(): content},
    }))
}

const fn reply_description(reply: ReplyKind) -> &'static str {
    match reply {
        ReplyKind::Json => "Done.",
        ReplyKind::Secret => {
            "age file to at most four recipients that the caller's record lists under the signing key."
        }
        ReplyKind::Claim => {
            "age file to the claim; its plaintext is u32 big-endian length, the signed receipt as JSON, the wrap's age file."
        }
        ReplyKind::Snapshot => "The next bytes of the file; the last page ends with the manifest.",
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some((_, name, kind, _)) = route.parameter() {
        let (schema, description) = match kind {
            ParamKind::Name => (schemars::schema_for!(Name), "A name."),
            ParamKind::Wrap => (schemars::schema_for!(WrapId), "The wrap: 26 characters of lower-case base32."),
            ParamKind::Path => (
                schemars::schema_for!(SecretPath),
                "Where the secret lies: one to sixteen segments; the slashes between them stand as they are.",
            ),
            ParamKind::Session => (schemars::schema_for!(Name), "The session."),
            ParamKind::Role => (
                schemars::json_schema!({"pattern": "^[A-Za-z0-9._~@+=-]{1,128}/[A-Za-z0-9._~@+=-]{1,128}$"}),
                "The database and the role in it; the slash between them stands as it is.",
            ),
            ParamKind::Lease => (schemars::schema_for!(LeaseId), "The lease: 26 characters of lower-case base32."),
        };
        let text = schema.as_value();
        parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": description,
            "schema": {"type": "string", "pattern": text["pattern"], "maxLength": MAX_PATH_BYTES.min(MAX_REQUEST_PATH_BYTES)},
        }));
    }
    for name in route.query {
        parameters.push(json!({
            "name": name,
            "in": "query",
            "required": false,
            "description": query_description(name),
            "schema": match *name {
                "from" => json!({"type": "integer", "minimum": 0}),
                "activecode" | "sealedcode" | "uninitcode" => {
                    json!({"type": "integer", "minimum": 200, "maximum": 599})
                }
                "limit" => json!({"type": "integer", "minimum": 1, "maximum": api::MAX_PAGE}),
                "page" => json!({"type": "integer", "minimum": 0}),
                "all" | "stuck" => json!({"type": "boolean"}),
                _ => json!({"type": "string", "pattern": "^[A-Za-z0-9._~@+=/:-]+$"}),
            },
        }));
    }
    parameters
}

/// What a name of a query means; the same on every route.
pub(super) fn query_description(name: &str) -> &'static str {
    match name {
        "from" => "The number of the first document to give.",
        "activecode" => "The status if it serves, instead of 200.",
        "sealedcode" => "The status if it is sealed, instead of 503.",
        "uninitcode" => "The status if there is no cluster yet, instead of 501.",
        "id" => "Only the principal of this id.",
        "recipient" => "Only the principal that holds the age recipient with this SHA-256, `sha256:…`.",
        "after" => "Begin behind this entry: `next` of the page before.",
        "limit" => "At most so many entries.",
        "all" => "Also those that were seen before.",
        "resource" => "Only what is about this resource, such as `kv/app/db`; leases: and below it.",
        "principal" => "Only what is of this principal: lines by name or id, leases by id, `sha256:…`.",
        "stuck" => "Only leases whose end failed several times.",
        "page" => "Which page, from 0: the next one, or again the one given last.",
        "version" => "This version in place of the newest.",
        "wrap" => "A new wrap id, with `wrap_to`: the caller is about to make that wrap of the answer.",
        "wrap_to" => "The principal, by name, to whom the answer is encrypted in place of the caller.",
        "action" => "Only lines with this action, such as `kv.get`.",
        _ => "",
    }
}

/// The schemas of body and answer; null where there is none.
fn bodies(endpoint: Endpoint, generator: &mut SchemaGenerator) -> (Value, Value) {
    macro_rules! schemas {
        (-, $reply:ty) => {
            (Value::Null, generator.subschema_for::<$reply>().to_value())
        };
        ($request:ty, $reply:ty) => {
            (generator.subschema_for::<$request>().to_value(), generator.subschema_for::<$reply>().to_value())
        };
    }
    match endpoint {
        Endpoint::Health => schemas!(-, api::Health),
        Endpoint::Cluster => schemas!(-, api::Cluster),
        Endpoint::Challenge => schemas!(-, api::ChallengeReply),
        Endpoint::Init => schemas!(api::Init, api::Initialised),
        Endpoint::SealStatus => schemas!(-, api::Seal),
        Endpoint::SealSession => schemas!(-, api::UnsealSession),
        Endpoint::SealKey => schemas!(-, api::EncryptedShareKey),
        Endpoint::SealShare => schemas!(api::GiveShare, api::ShareGiven),
        Endpoint::SealSeal | Endpoint::SealConfirmClock => schemas!(-, api::Done),
        Endpoint::SealRekey => schemas!(-, api::NextIngress),
        Endpoint::SnapshotSave => schemas!(-, bulla_wire::snapshot::Begun),
        Endpoint::SnapshotPage => (Value::Null, Value::Null),
        Endpoint::SealConsent | Endpoint::DocumentPut => schemas!(api::Signed, api::Done),
        Endpoint::PrincipalList => schemas!(-, api::Principals),
        Endpoint::PrincipalRead => schemas!(-, api::Principal),
        Endpoint::PrincipalPut => schemas!(api::PutPrincipal, api::Done),
        Endpoint::PrincipalDisable | Endpoint::PrincipalEnable | Endpoint::PolicyDelete => schemas!(-, api::Done),
        Endpoint::Whoami => schemas!(-, api::Whoami),
        Endpoint::PolicyList => schemas!(-, api::Policies),
        Endpoint::PolicyRead => schemas!(-, api::Policy),
        Endpoint::PolicyPut => schemas!(api::PutPolicy, api::Policy),
        Endpoint::PolicyCheck => schemas!(api::CheckPolicy, api::PolicyDecision),
        Endpoint::PolicyExplain => schemas!(api::ExplainPolicy, api::PolicyExplanation),
        Endpoint::PolicyReplaced => schemas!(-, api::ReplacedPolicies),
        Endpoint::PolicyRecover => schemas!(api::RecoverPolicies, api::Done),
        Endpoint::AuditRead => schemas!(-, api::AuditPage),
        Endpoint::AlarmRead => schemas!(-, api::Alarms),
        Endpoint::AlarmSeen => schemas!(api::SeenAlarms, api::Done),
        Endpoint::WrapCreate => schemas!(-, api::WrapReceipts),
        Endpoint::WrapList => schemas!(-, api::Wraps),
        Endpoint::WrapInspect => schemas!(-, api::WrapView),
        Endpoint::WrapOpen => (generator.subschema_for::<api::OpenWrap>().to_value(), Value::Null),
        Endpoint::WrapAck | Endpoint::WrapNack => schemas!(api::FinishWrap, api::WrapReceipts),
        Endpoint::WrapRevoke | Endpoint::WrapRelease => schemas!(api::RevokeWrap, api::WrapReceipts),
        Endpoint::KvGet => schemas!(-, api::Kv),
        Endpoint::KvPut => schemas!(api::PutKv, api::KvWritten),
        Endpoint::KvList => schemas!(-, api::KvNames),
        Endpoint::KvPatch => schemas!(api::PatchKv, api::KvWritten),
        Endpoint::KvWatch => schemas!(-, api::KvWatched),
        Endpoint::KvInspect => schemas!(-, api::KvMetadata),
        Endpoint::KvConfigure => schemas!(api::SetKvSettings, api::KvMetadata),
        Endpoint::KvDelete | Endpoint::KvUndelete => schemas!(api::KvVersions, api::KvMetadata),
        Endpoint::KvDestroy => schemas!(api::DestroyKv, api::KvMetadata),
        endpoint => database_bodies(endpoint, generator),
    }
}

fn answer<R: JsonSchema>(generator: &mut SchemaGenerator) -> (Value, Value) {
    (Value::Null, generator.subschema_for::<R>().to_value())
}

fn both<B: JsonSchema, R: JsonSchema>(generator: &mut SchemaGenerator) -> (Value, Value) {
    (generator.subschema_for::<B>().to_value(), generator.subschema_for::<R>().to_value())
}

/// The same for databases and leases.
fn database_bodies(endpoint: Endpoint, generator: &mut SchemaGenerator) -> (Value, Value) {
    match endpoint {
        Endpoint::DatabaseList | Endpoint::DatabaseRoles => answer::<api::DatabaseNames>(generator),
        Endpoint::DatabaseRead => answer::<api::Database>(generator),
        Endpoint::DatabasePut => both::<api::PutDatabase, api::Done>(generator),
        Endpoint::DatabaseDelete
        | Endpoint::DatabaseRelease
        | Endpoint::DatabaseRotate
        | Endpoint::DatabaseRoleDelete => answer::<api::Done>(generator),
        Endpoint::DatabaseRoleRead => answer::<api::DatabaseRole>(generator),
        Endpoint::DatabaseRolePut => both::<api::PutDatabaseRole, api::Done>(generator),
        Endpoint::DatabaseIssue => both::<api::IssueCredentials, api::Credentials>(generator),
        Endpoint::DatabaseCertify => both::<api::CertifyCredentials, api::CertificateCredentials>(generator),
        Endpoint::DatabaseAuthority => answer::<api::DatabaseAuthority>(generator),
        Endpoint::DatabaseStaticList => answer::<api::DatabaseNames>(generator),
        Endpoint::DatabaseStaticRead => answer::<api::StaticRole>(generator),
        Endpoint::DatabaseStaticPut => both::<api::PutStaticRole, api::Done>(generator),
        Endpoint::DatabaseStaticDelete | Endpoint::DatabaseStaticRotate => answer::<api::Done>(generator),
        Endpoint::DatabaseStaticCreds => answer::<api::StaticCredentials>(generator),
        Endpoint::LeaseList | Endpoint::LeaseListAll => answer::<api::Leases>(generator),
        Endpoint::LeaseRead | Endpoint::LeaseRevoke => answer::<api::Lease>(generator),
        Endpoint::LeaseRenew => both::<api::RenewLease, api::Lease>(generator),
        Endpoint::LeaseRevokeMany => both::<api::RevokeLeases, api::Done>(generator),
        endpoint => transit_bodies(endpoint, generator),
    }
}

/// The same for the transit engine.
fn transit_bodies(endpoint: Endpoint, generator: &mut SchemaGenerator) -> (Value, Value) {
    match endpoint {
        Endpoint::TransitList => answer::<api::TransitKeys>(generator),
        Endpoint::TransitRead | Endpoint::TransitRotate => answer::<api::TransitKey>(generator),
        Endpoint::TransitCreate => both::<api::CreateTransitKey, api::TransitKey>(generator),
        Endpoint::TransitImport => both::<api::ImportTransitKey, api::TransitKey>(generator),
        Endpoint::TransitRestore => both::<api::TransitBackup, api::TransitKey>(generator),
        Endpoint::TransitConfigure => both::<api::ConfigureTransitKey, api::TransitKey>(generator),
        Endpoint::TransitDelete => answer::<api::Done>(generator),
        Endpoint::TransitExport => both::<api::ExportTransitKey, api::ExportedKey>(generator),
        Endpoint::TransitBackup => answer::<api::TransitBackup>(generator),
        Endpoint::TransitEncrypt => both::<api::Encrypt, api::Ciphertexts>(generator),
        Endpoint::TransitDecrypt => both::<api::Decrypt, api::Plaintexts>(generator),
        Endpoint::TransitRewrap => both::<api::Decrypt, api::Ciphertexts>(generator),
        Endpoint::TransitDatakey => both::<api::NewDatakey, api::Datakey>(generator),
        Endpoint::TransitDatakeyWrapped => both::<api::NewDatakey, api::WrappedDatakey>(generator),
        Endpoint::TransitSign => both::<api::Sign, api::Signatures>(generator),
        Endpoint::TransitVerify => both::<api::Verify, api::Verdicts>(generator),
        Endpoint::TransitHmac => both::<api::Hmac, api::Macs>(generator),
        Endpoint::TransitVerifyHmac => both::<api::VerifyHmac, api::Verdicts>(generator),
        _ => (Value::Null, Value::Null),
    }
}

/// A name for generated clients. The one endpoint with two routes gets two.
fn operation_id(route: &Route) -> String {
    let name = format!("{:?}", route.endpoint);
    if route.template == "/v1/kv:list" { format!("{name}Top") } else { name }
}

/// The first word of the path, without a verb.
fn tag(route: &Route) -> &'static str {
    route.template.trim_start_matches("/v1/").split(['/', ':']).next().unwrap_or_default()
}

/// Who may call, in a word.
pub(super) const fn auth(auth: Auth) -> &'static str {
    match auth {
        Auth::Open => "open",
        Auth::Init => "init",
        Auth::Sealed => "seal",
        Auth::Policy(_) => "policy",
    }
}

const RESPONSE_HEADERS: [(&str, &str); 5] = [
    ("Content-Digest", "SHA-256 of the body (RFC 9530)."),
    ("Bulla-Challenge", "A fresh challenge for the next request."),
    ("Bulla-State", "Where the cluster stands (spec/request.md)."),
    ("Signature-Input", "What the node's signature covers (RFC 9421)."),
    ("Signature", "The node's signature."),
];

fn response_headers() -> Value {
    let headers = RESPONSE_HEADERS.iter().map(|(name, description)| {
        ((*name).to_owned(), json!({"description": description, "required": true, "schema": {"type": "string"}}))
    });
    Value::Object(headers.collect())
}

fn header_references() -> Value {
    let headers = RESPONSE_HEADERS
        .iter()
        .map(|(name, _)| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")})));
    Value::Object(headers.collect())
}
