//! The closed set of public error codes and the body that carries them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal, $status:literal;)*) => {
        /// A public error code. The text is stable; messages may change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])* #[serde(rename = $text)] $variant,)*
        }
        impl Code {
            /// Every code, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The code as it stands in JSON, audit and CLI output.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
            /// What it means, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)*),)* }
            }
        }
    };
}

codes! {
    #[doc = "A part of the request has the wrong form."]
    Malformed = "malformed", 400;
    #[doc = "The path is not one that Bulla serves, or not in its one spelling."]
    UnknownRoute = "unknown_route", 404;
    #[doc = "The path exists, with other methods."]
    MethodNotAllowed = "method_not_allowed", 405;
    #[doc = "The body is larger than the route takes."]
    TooLarge = "too_large", 413;
    #[doc = "The body is not of the route's media type."]
    WrongMediaType = "wrong_media_type", 415;
    #[doc = "The body does not have the digest that its header tells."]
    DigestMismatch = "digest_mismatch", 400;
    #[doc = "A header of the signature profile is missing, doubled, or not in its one spelling."]
    SignatureTemplate = "signature_template", 401;
    #[doc = "The request is for another cluster or node."]
    WrongAudience = "wrong_audience", 401;
    #[doc = "The challenge is older than a minute, from another node or of another epoch; the response carries a new one."]
    StaleChallenge = "stale_challenge", 401;
    #[doc = "The key is not known here, or the signature is not its own."]
    Unauthenticated = "unauthenticated", 401;
    #[doc = "A client certificate does not do: the route takes a signature alone, as evidence, or a page in a browser asks."]
    SignatureRequired = "signature_required", 401;
    #[doc = "The nonce's minute lies outside the window: the outcome of its first attempt is unknown, read the state."]
    NonceExpired = "nonce_expired", 409;
    #[doc = "The nonce was used for another request."]
    NonceReused = "nonce_reused", 409;
    #[doc = "Policy does not permit it."]
    Denied = "denied", 403;
    #[doc = "There is no such thing, or the caller may not know of it."]
    NotFound = "not_found", 404;
    #[doc = "It exists already, with other content."]
    Exists = "exists", 409;
    #[doc = "Somebody else changed it meanwhile, or it is not of the version that was expected."]
    VersionMismatch = "version_mismatch", 409;
    #[doc = "The secret's settings demand the version that a write replaces."]
    CasRequired = "cas_required", 400;
    #[doc = "The version of the secret is deleted, and can be undeleted."]
    Deleted = "deleted", 410;
    #[doc = "The content of the version is gone."]
    Destroyed = "destroyed", 410;
    #[doc = "Too many others change the same thing at once; nothing was done."]
    Busy = "busy", 409;
    #[doc = "The cluster exists already."]
    AlreadyInitialised = "already_initialised", 409;
    #[doc = "There is no cluster yet."]
    Uninitialised = "uninitialised", 501;
    #[doc = "The cluster is sealed."]
    Sealed = "sealed", 503;
    #[doc = "The cluster is not sealed, and this is for sealed ones."]
    NotSealed = "not_sealed", 409;
    #[doc = "The caller's key is not in the list of admins."]
    NotAdmin = "not_admin", 403;
    #[doc = "The share or the key under it is not the one that this admin holds."]
    BadShare = "bad_share", 400;
    #[doc = "The session, of an unseal or a snapshot, ended or never was."]
    UnknownSession = "unknown_session", 404;
    #[doc = "The store holds less than the audit file remembers; k admins must consent."]
    LostCommits = "lost_commits", 409;
    #[doc = "A recipient's key encapsulation is weaker than the cluster takes."]
    KemTooWeak = "kem_too_weak", 400;
    #[doc = "Another principal holds this key or recipient."]
    RecipientTaken = "recipient_taken", 409;
    #[doc = "No admitted principal holds this recipient."]
    UnknownRecipient = "unknown_recipient", 404;
    #[doc = "Hybrid and classical recipients in one wrap."]
    MixedRecipients = "mixed_recipients", 400;
    #[doc = "The record of the caller lists no recipient for a secret reply."]
    NoReplyRecipient = "no_reply_recipient", 409;
    #[doc = "A signed statement does not verify, or does not fit what it is about."]
    BadStatement = "bad_statement", 400;
    #[doc = "The body was encrypted to an ingress key that is no longer valid."]
    IngressChanged = "ingress_changed", 409;
    #[doc = "Another claim opened it before."]
    AlreadyOpened = "already_opened", 409;
    #[doc = "It may not be opened yet."]
    NotYet = "not_yet", 409;
    #[doc = "Its time is over: nobody opened the wrap, or nobody renewed the secret."]
    Expired = "expired", 410;
    #[doc = "The writer took it back."]
    Revoked = "revoked", 410;
    #[doc = "It was opened and acknowledged; the ciphertext is gone."]
    Acked = "acked", 410;
    #[doc = "It was opened and never acknowledged; the ciphertext is gone."]
    Lapsed = "lapsed", 410;
    #[doc = "The opener reported that the content was bad; the ciphertext is kept from everyone."]
    Nacked = "nacked", 410;
    #[doc = "It was delivered to its claim as often as allowed."]
    TooManyDeliveries = "too_many_deliveries", 409;
    #[doc = "It waits for its writer's release after a restore."]
    Parked = "parked", 409;
    #[doc = "The ciphertext was made by another transit key, or its head is damaged."]
    CiphertextOfOtherKey = "ciphertext_of_other_key", 400;
    #[doc = "The ciphertext was altered, or is given with other associated data than it was made with."]
    CiphertextDamaged = "ciphertext_damaged", 400;
    #[doc = "The version of the key lies below the oldest one that is still used."]
    VersionArchived = "version_archived", 409;
    #[doc = "The key has no such version yet."]
    UnknownVersion = "unknown_version", 404;
    #[doc = "The key has as many versions as it may have."]
    TooManyVersions = "too_many_versions", 409;
    #[doc = "A key of this kind cannot do that."]
    WrongKeyKind = "wrong_key_kind", 400;
    #[doc = "The settings of the key do not allow it: it is not exportable, or may not be deleted."]
    KeyProtected = "key_protected", 409;
    #[doc = "A policy does not parse or does not fit the schema."]
    BadPolicy = "bad_policy", 400;
    #[doc = "A statement for a database could change its meaning with what fills it, or something in it is missing."]
    BadTemplate = "bad_template", 400;
    #[doc = "The caller holds as many leases as one principal may."]
    TooManyLeases = "too_many_leases", 409;
    #[doc = "The database was not reached, or refused what it was asked for."]
    DatabaseFailed = "database_failed", 502;
    #[doc = "The audit log takes no lines, so nothing is answered."]
    AuditBlocked = "audit_blocked", 503;
    #[doc = "The outcome is not known; try again with the same nonce."]
    Unknown = "unknown", 503;
    #[doc = "Too much at once; try again after the time in Retry-After."]
    Overloaded = "overloaded", 503;
    #[doc = "The clock moved; deleting waits until an admin confirms the time."]
    ClockStepped = "clock_stepped", 503;
    #[doc = "A fault of the server; the log has the details under the id."]
    Internal = "internal", 500;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One error of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorEntry {
    /// What kind of error.
    pub code: Code,
    /// What was wrong, for people.
    pub message: String,
    /// The offending field or header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the request in audit and log; null where the request was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Signed receipt that proves the refusal, a DSSE envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<crate::dsse::Envelope>,
}

/// The body of every response with status 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// At least one.
    pub errors: Vec<ErrorEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_one_text() {
        for code in Code::ALL {
            let text = code.to_string();
            assert_eq!(text, code.as_str());
            assert_eq!(serde_json::from_str::<Code>(&format!("\"{text}\"")).expect("a code"), *code);
            assert!((400..600).contains(&code.status()) && code.meaning().ends_with('.'), "{code}");
        }
    }
}
