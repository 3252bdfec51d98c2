//! DSSE envelopes (<https://github.com/secure-systems-lab/dsse>, protocol version 1): raw bytes with
//! their type, and signatures over both.

use crate::encoding::{base64, base64_decode};
use crate::id::KeyId;
use crate::json::MAX_STATEMENT_BYTES;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most signatures of an envelope: all admins of the largest cluster.
pub const MAX_SIGNATURES: usize = 16;

/// A payload, its type, and signatures over [`pae`] of both. The payload's bytes are kept as they came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// Media type of the payload.
    pub payload_type: String,
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// Who signed.
    pub signatures: Vec<Signature>,
}

/// One signature of an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The key that signed.
    pub key: KeyId,
    /// The signature in the key's own format (`spec/evidence.md`).
    pub bytes: Vec<u8>,
}

/// Pre-authentication encoding: the bytes that are signed.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawEnvelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<RawSignature>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawSignature {
    keyid: KeyId,
    sig: String,
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawEnvelope {
            payload_type: self.payload_type.clone(),
            payload: base64(&self.payload),
            signatures: self.signatures.iter().map(|s| RawSignature { keyid: s.key, sig: base64(&s.bytes) }).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawEnvelope { payload_type, payload, signatures } = RawEnvelope::deserialize(deserializer)?;
        let payload = base64_decode(&payload).ok_or_else(|| de::Error::custom("payload: expected padded base64"))?;
        if payload.len() > MAX_STATEMENT_BYTES {
            return Err(de::Error::custom(format_args!("payload: at most {MAX_STATEMENT_BYTES} bytes")));
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(de::Error::custom(format_args!("signatures: at most {MAX_SIGNATURES}")));
        }
        let signatures = signatures
            .into_iter()
            .map(|RawSignature { keyid, sig }| {
                let bytes = base64_decode(&sig).ok_or_else(|| de::Error::custom("sig: expected padded base64"))?;
                Ok(Signature { key: keyid, bytes })
            })
            .collect::<Result<_, D::Error>>()?;
        Ok(Self { payload_type, payload, signatures })
    }
}

impl JsonSchema for Envelope {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Envelope".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RawEnvelope::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pae_as_published() {
        // The example of the protocol's own page.
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn round_trip_and_refusals() {
        let envelope = Envelope {
            payload_type: "t".into(),
            payload: vec![0xff, 0],
            signatures: vec![Signature { key: KeyId::new([1; 32]), bytes: vec![2] }],
        };
        let text = serde_json::to_string(&envelope).expect("serialises");
        assert_eq!(serde_json::from_str::<Envelope>(&text).expect("parses"), envelope);
        for bad in [
            text.replace("\"keyid\"", "\"x\":1,\"keyid\""),
            text.replace("/wA=", "/wA"),
            text.replace("/wA=", "_wA="),
            text.replace("\"payload\":", "\"payload\":\"\",\"payload\":"),
        ] {
            assert_ne!(bad, text);
            assert!(serde_json::from_str::<Envelope>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        let signature = Signature { key: KeyId::new([1; 32]), bytes: vec![2] };
        let read = |payload: usize, signatures: usize| {
            let signatures = vec![signature.clone(); signatures];
            let envelope = Envelope { payload_type: "t".into(), payload: vec![0; payload], signatures };
            let text = serde_json::to_string(&envelope).expect("serialises");
            serde_json::from_str::<Envelope>(&text).is_ok_and(|read| read == envelope)
        };
        assert!(read(0, 0) && read(MAX_STATEMENT_BYTES, MAX_SIGNATURES));
        assert!(!read(MAX_STATEMENT_BYTES + 1, 1) && !read(1, MAX_SIGNATURES + 1));
    }
}
