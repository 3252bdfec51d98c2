//! Bodies of the wrap routes; statement and receipt are in [`crate::wrap`].

use crate::dsse::Envelope;
use crate::id::{Digest, PrincipalId, WrapId};
use crate::wrap::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a wrap's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Nobody opened it.
    Sealed,
    /// A claim won; not acknowledged yet.
    Opened,
    /// The opener has it.
    Acked,
    /// The opener never said so.
    Lapsed,
    /// The opener could not open the content.
    Nacked,
    /// Nobody opened it in time.
    Expired,
    /// The writer took it back.
    Revoked,
    /// Waits for its writer's release after a restore.
    Parked,
}

/// A slot as its parties see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// For whom; none with mode `first`, where it is for any of them.
    pub principal: Option<PrincipalId>,
    /// Its state.
    pub state: SlotState,
    /// Its receipts, oldest first, without the created one.
    pub receipts: Vec<Envelope>,
}

/// `GET /v1/wrap/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrapView {
    /// The writer's statement.
    pub statement: Envelope,
    /// The receipt of its creation.
    pub created: Envelope,
    /// Its slots.
    pub slots: Vec<Slot>,
}

/// Answer of `POST /v1/wrap` and of `:ack`, `:nack`, `:revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrapReceipts {
    /// One receipt a slot that the call concerned.
    pub receipts: Vec<Envelope>,
}

/// `POST /v1/wrap/{id}:open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenWrap {
    /// SHA-256 of the statement's payload bytes, from the slip.
    pub statement_sha256: Digest,
    /// Fresh age recipient, mlkem768x25519, whose key was stored safely before the call.
    pub claim: String,
}

/// `POST /v1/wrap/{id}:ack` and `:nack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishWrap {
    /// SHA-256 of the statement's payload bytes.
    pub statement_sha256: Digest,
    /// SHA-256 of the claim recipient's text.
    pub claim_sha256: Digest,
}

/// `POST /v1/wrap/{id}:revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeWrap {
    /// SHA-256 of the statement's payload bytes.
    pub statement_sha256: Digest,
}

/// `GET /v1/wrap?after=&limit=`: the caller's own, sent and received, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wraps {
    /// One line a wrap.
    pub wraps: Vec<WrapSummary>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// A line of a listing of wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrapSummary {
    /// The wrap.
    pub wrap: WrapId,
    /// SHA-256 of its statement.
    pub statement_sha256: Digest,
    /// Its writer.
    pub from: PrincipalId,
    /// For whom it is, in the statement's order.
    pub to: Vec<PrincipalId>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it expires, Unix milliseconds.
    pub exp_ms: u64,
    /// First or each.
    pub mode: Mode,
    /// The slots' states.
    pub states: Vec<SlotState>,
    /// The writer's label.
    pub label: Option<String>,
}
