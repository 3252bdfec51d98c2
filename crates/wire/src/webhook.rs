//! What a webhook is told of an alarm, and over what the node's signature goes (`spec/webhook.md`): the Standard
//! Webhooks specification with asymmetric signatures (`v1a`, Ed25519).

use crate::api::Alarm;
use crate::encoding::base64url;
use crate::id::{ClusterId, KeyId, Lineage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The header that names a message; all attempts to deliver it carry the same.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time of the attempt, Unix seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signature, `v1a,` and base64.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How the value of [`SIGNATURE_HEADER`] begins.
pub const SIGNATURE_PREFIX: &str = "v1a,";
/// The only `type` of messages.
pub const ALARM_TYPE: &str = "bulla.alarm";

/// The body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// [`ALARM_TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that tells it, whose key signed.
    pub node: KeyId,
    /// The history of the store that holds the alarm. `None`: a sealed node tells it, and `number` and `dropped` count
    /// since that node started.
    pub lineage: Option<Lineage>,
    /// One more than that of the alarm before. An alarm that was refused can come after later ones.
    pub number: u64,
    /// How many alarms before this one got a number and are not told, since too many waited.
    pub dropped: u64,
    /// What happened.
    pub alarm: Alarm,
}

/// The name of a message: of the digest of its body, so every attempt finds the same, and no other message has it.
/// With its prefix nothing that is signed for a webhook can be a signed request, answer or statement.
pub fn id(body_sha256: &[u8; 32]) -> String {
    format!("msg_{}", base64url(body_sha256))
}

/// What is signed: `id.timestamp.body`.
pub fn signed(id: &str, timestamp_s: u64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{timestamp_s}.").as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed() {
        let id = id(&[0xff; 32]);
        assert_eq!(id, format!("msg_{}", "_".repeat(42) + "8"));
        assert_eq!(signed("msg_a", 12, b"{}\xff"), b"msg_a.12.{}\xff");
    }
}
