//! JSON: the strict reader, and every document that it reads.

use bulla_wire::json::{MAX_JSON_BYTES, StrictMap, parse, parse_secret, to_vec};
use bulla_wire::{api, dsse, error, evidence, kv, snapshot, webhook, wrap};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The strict reader takes what `serde_json` takes, with an equal value, but for doubled names; and it says nothing of
/// what stands in a secret document.
pub fn strict(bytes: &[u8]) {
    document::<StrictMap<StrictMap<String>>>(bytes);
    document::<StrictMap<Vec<Option<u32>>>>(bytes);
    const FIELDS: &[&str] = &["data", "cas"];
    let open = parse::<StrictMap<StrictMap<String>>>(bytes, MAX_JSON_BYTES);
    let secret = parse_secret::<StrictMap<StrictMap<String>>>(bytes, MAX_JSON_BYTES, FIELDS);
    assert_eq!(open.as_ref().ok(), secret.as_ref().ok(), "one takes what the other refuses");
    if let Err(error) = secret {
        assert!(error.field == "." || FIELDS.contains(&error.field.as_str()), "it names {}", error.field);
        let (what, place) = error.reason.split_once(", at line ").unwrap_or_default();
        let known = ["not what is expected there", "the document ends too early", "not JSON"];
        assert!(known.contains(&what), "it says {}", error.reason);
        assert!(place.replace(" column ", "").bytes().all(|byte| byte.is_ascii_digit()), "it says {}", error.reason);
    }
}

/// A document of the protocol: its name, and what must hold when it is read; whether it was.
pub type Body = (&'static str, fn(&[u8]) -> bool);

macro_rules! bodies {
    ($($type:ty,)*) => { &[$((stringify!($type), document::<$type>),)*] };
}

/// All of them. The first byte of an input to [`body`] picks one, counted from `0`; new ones come last, so that the
/// corpus keeps its meaning.
pub const BODIES: &[Body] = bodies! {
    api::Done, api::Health, api::ChallengeReply, api::Cluster, api::Signed, api::PutPrincipal, api::Principal,
    api::Principals, api::Whoami, api::Alarm, api::SeenAlarms, api::Alarms, api::PutPolicy, api::Policy, api::Policies,
    api::CheckPolicy, api::PolicyDecision, api::ExplainPolicy, api::PolicyExplanation, api::ReplacedPolicies,
    api::RecoverPolicies, api::AuditPage, api::PutKv, api::KvWritten, api::Kv, api::KvNames, api::Init,
    api::Initialised, api::Seal, api::UnsealSession, api::EncryptedShareKey,
    api::GiveShare, api::ShareGiven, api::NextIngress, api::WrapView, api::WrapReceipts,
    api::OpenWrap, api::FinishWrap, api::RevokeWrap, api::Wraps, error::ErrorBody,
    snapshot::Begun, snapshot::Manifest, evidence::PrincipalRecord, evidence::Admission, evidence::Document,
    evidence::GenesisApproval, evidence::Consent, evidence::PolicyRecovery, evidence::Bundle, wrap::Statement,
    wrap::Receipt, dsse::Envelope, webhook::Message, api::PatchKv, api::KvMetadata, api::SetKvSettings, api::KvVersions,
    api::DestroyKv, api::TransitKey, api::ConfigureTransitKey, api::Encrypt, api::Decrypt, api::Ciphertexts,
    api::Verify, api::TransitBackup, wrap::Origin, api::KvWatched, api::PutDatabase, api::Database,
    api::PutDatabaseRole, api::Credentials, api::Leases, api::RenewLease, api::RevokeLeases,
    api::PutStaticRole, api::StaticRole, api::StaticCredentials, api::CertifyCredentials, api::CertificateCredentials,
    api::DatabaseAuthority, api::CreateTransitKey, api::ImportTransitKey, api::TransitKeys, api::Plaintexts,
    api::Signatures, api::Macs, api::Verdicts, api::NewDatakey, api::Datakey, api::WrappedDatakey, api::Sign, api::Hmac,
    api::VerifyHmac, api::ExportTransitKey, api::ExportedKey, api::DatabaseNames, api::DatabaseRole,
    api::IssueCredentials, api::Lease, kv::KvContent, kv::SealedKv, kv::SealedStatement,
};

/// One of [`BODIES`].
pub fn body(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if let Some((_, check)) = BODIES.get(usize::from(first.wrapping_sub(b'0')) % BODIES.len()) {
        check(rest);
    }
}

/// What must hold when bytes are read as a document of the type `T`; whether they were.
pub fn document<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let value = match parse::<T>(bytes, MAX_JSON_BYTES) {
        Ok(value) => value,
        Err(error) => {
            assert!(!error.field.is_empty() && !error.reason.is_empty(), "an error without a place or a reason");
            return false;
        }
    };
    let written = to_vec(&value);
    let again = parse::<T>(&written, usize::MAX).map(|again| to_vec(&again));
    assert_eq!(again.as_ref(), Ok(&written), "what was written is not read as the same");
    let said: Value = serde_json::from_slice(bytes).unwrap_or_else(|error| unreachable!("ours took it: {error}"));
    let kept: Value = serde_json::from_slice(&written).unwrap_or_default();
    assert!(within(&said, &kept), "more was said than was read, or in a second spelling: {kept}");
    true
}

/// Whether everything that `said` holds is in `kept`. An absent field may be written as `null`, and the other way round.
fn within(said: &Value, kept: &Value) -> bool {
    match (said, kept) {
        (Value::Object(said), Value::Object(kept)) => {
            said.iter().all(|(name, value)| within(value, kept.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(said), Value::Array(kept)) => {
            said.len() == kept.len() && said.iter().zip(kept).all(|(said, kept)| within(said, kept))
        }
        _ => said == kept,
    }
}
