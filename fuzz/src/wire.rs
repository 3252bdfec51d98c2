//! What `bulla-wire` reads besides JSON documents.

use crate::json::document;
use bulla_wire::api::{DigestAlgorithm, KeyKind, Versioned};
use bulla_wire::challenge::Challenge;
use bulla_wire::dsse::{Envelope, MAX_SIGNATURES, pae};
use bulla_wire::encoding::{base32, base32_decode, base64, base64_decode, base64url, base64url_decode};
use bulla_wire::evidence::{Bytes, Scope};
use bulla_wire::id::{ClusterId, Digest, KeyId, LeaseId, Lineage, Nonce, PrincipalId, WrapId};
use bulla_wire::json::{MAX_JSON_BYTES, parse};
use bulla_wire::kv::{FieldName, MAX_FIELD_NAME_BYTES};
use bulla_wire::name::{MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_SEGMENTS, Name, SecretPath};
use bulla_wire::signature::{
    Answered, Audience, RequestParameters, RequestParts, ResponseParameters, content_digest, parse_content_digest,
    parse_signature, signature,
};
use bulla_wire::snapshot::{Frame, MAX_FRAME_BYTES, Row, write_end};
use bulla_wire::state::State;
use bulla_wire::wrap::{Parcel, Slip, is_label, is_obeyed};
use std::fmt::Display;
use std::str::FromStr;

/// What is read from a text is written as that text.
pub(crate) fn one_spelling<T: FromStr + Display>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string(), text, "a second spelling");
    Some(value)
}

/// An envelope that is read is within its limits, and what is signed names type and payload without doubt.
pub fn envelope(bytes: &[u8]) {
    document::<Envelope>(bytes);
    let Ok(envelope) = parse::<Envelope>(bytes, MAX_JSON_BYTES) else { return };
    assert!(envelope.signatures.len() <= MAX_SIGNATURES, "too many signatures");
    let signed = pae(&envelope.payload_type, &envelope.payload);
    let head = format!("DSSEv1 {} {} {} ", envelope.payload_type.len(), envelope.payload_type, envelope.payload.len());
    assert_eq!(signed.strip_prefix(head.as_bytes()), Some(envelope.payload.as_slice()), "another PAE");
}

/// Each header has one spelling, and is short.
pub fn header(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    one_spelling::<Audience>(text);
    one_spelling::<Challenge>(text);
    one_spelling::<State>(text);
    if let Ok(digest) = parse_content_digest(text) {
        assert_eq!(content_digest(&digest), text);
    }
    if let Ok(bytes) = parse_signature(text) {
        assert_eq!(signature(&bytes), text);
        assert!(!bytes.is_empty() && bytes.len() <= bulla_wire::signature::MAX_SIGNATURE_BYTES, "a signature's length");
    }
    let request = RequestParts {
        method: "GET",
        path: "/v1/whoami",
        query: "",
        content_type: bulla_wire::signature::EMPTY_MEDIA_TYPE,
        content_digest: "",
        audience: "",
        challenge: "",
    };
    if let Ok(parameters) = RequestParameters::parse(text) {
        assert_eq!(parameters.header(), text);
        let base = parameters.signature_base(&request);
        assert_eq!(base.lines().count(), 8, "a line was smuggled into the signature base");
        assert!(base.ends_with(text.trim_start_matches("bulla=")));
    }
    let connection = |nonce| Answered::Connection {
        method: "GET",
        path: "/v1/whoami",
        query: "",
        caller: KeyId::new([3; 32]),
        nonce,
    };
    let answered = [
        Answered::Open { method: "GET", path: "/v1/cluster", query: "from=0" },
        Answered::Signed { request, signature_input: "bulla=()", signature: "bulla=:AA==:" },
        connection(None),
        connection(Some(Nonce::new(1, [7; 12]))),
    ];
    let fits = answered.iter().filter(|answered| {
        let parsed = ResponseParameters::parse(text, answered);
        parsed.is_ok_and(|parameters| parameters.header(answered) == text)
    });
    assert!(fits.count() <= 1, "one header for two profiles");
}

/// Names, ids and encodings have one spelling, and their limits hold.
pub fn name(bytes: &[u8]) {
    for (encode, decode) in [
        (base64 as fn(&[u8]) -> String, base64_decode as fn(&str) -> Option<Vec<u8>>),
        (base64url, base64url_decode),
        (base32, base32_decode),
    ] {
        assert_eq!(decode(&encode(bytes)).as_deref(), Some(bytes), "an encoding loses something");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for (encode, decode) in [
        (base64 as fn(&[u8]) -> String, base64_decode as fn(&str) -> Option<Vec<u8>>),
        (base64url, base64url_decode),
        (base32, base32_decode),
    ] {
        if let Some(bytes) = decode(text) {
            assert_eq!(encode(&bytes), text, "a second spelling of an encoding");
        }
    }
    if let Some(name) = one_spelling::<Name>(text) {
        assert!((1..=MAX_NAME_BYTES).contains(&name.as_str().len()) && !text.contains(['/', '%', ':']));
    }
    if let Some(made) = one_spelling::<Versioned>(text) {
        assert!(made.version > 0 && text.starts_with("bulla:v"));
    }
    if let Some(path) = one_spelling::<SecretPath>(text) {
        assert!(text.len() <= MAX_PATH_BYTES && text.split('/').count() <= MAX_PATH_SEGMENTS);
        let (directory, last) = path.split();
        let joined = if directory.is_empty() { last.to_owned() } else { format!("{directory}/{last}") };
        assert_eq!(joined, text);
        assert!(path.ancestors().all(|ancestor| text.starts_with(ancestor)));
        assert!(text.split('/').all(|segment| segment.parse::<Name>().is_ok()), "a segment that is no name");
    }
    one_spelling::<ClusterId>(text);
    one_spelling::<KeyId>(text);
    one_spelling::<PrincipalId>(text);
    one_spelling::<Digest>(text);
    one_spelling::<WrapId>(text);
    one_spelling::<Lineage>(text);
    one_spelling::<LeaseId>(text);
    one_spelling::<KeyKind>(text);
    one_spelling::<DigestAlgorithm>(text);
    one_spelling::<Scope>(text);
    one_spelling::<Slip>(text);
    one_spelling::<Bytes>(text);
    if let Some(nonce) = one_spelling::<Nonce>(text) {
        assert_eq!(Nonce::new(nonce.minute(), *nonce.as_bytes().last_chunk().unwrap_or(&[0; 12])), nonce);
    }
    if let Ok(field) = text.parse::<FieldName>() {
        assert!(field.as_str() == text && (1..=MAX_FIELD_NAME_BYTES).contains(&text.len()));
        assert!(!text.contains('=') && !text.contains(is_obeyed), "a field that ends early, or that a terminal obeys");
    }
    if is_label(text) {
        assert!(!text.contains(is_obeyed), "a label that a terminal obeys");
    }
}

/// A parcel is its head and its file.
pub fn parcel(bytes: &[u8]) {
    let Ok(parcel) = Parcel::parse(bytes) else { return };
    assert_eq!([&Parcel::head(parcel.document)[..], parcel.file].concat(), bytes);
    assert!(parcel.document.len() <= Parcel::MAX_DOCUMENT_BYTES);
}

/// Frames are written as they were read, and none is seen in less than its bytes.
pub fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, length))) = Frame::parse(rest) {
        let Some((raw, after)) = rest.split_at_checked(length) else { unreachable!("longer than what was given") };
        assert!((1..=MAX_FRAME_BYTES).contains(&length), "a frame of {length} bytes");
        let mut written = Vec::new();
        let done = match &frame {
            Frame::Row(row) => row.write(&mut written),
            Frame::End(manifest) => write_end(manifest, &mut written),
        };
        assert!(done.is_ok() && written == raw, "a frame is written in another way");
        let cut = raw.get(..length.saturating_sub(1)).unwrap_or_default();
        assert!(matches!(Frame::parse(cut), Ok(None)), "a frame was seen before its last byte");
        if let Frame::Row(row) = frame {
            stored(&row);
        }
        rest = after;
    }
}

/// A row of a snapshot is one of a store.
fn stored(row: &Row<'_>) {
    let Ok((_, key, value)) = bulla_core::snapshot::stored(row) else { unreachable!("outside a store's limits") };
    assert_eq!((key.as_bytes(), value.as_bytes()), (row.key, row.value));
}
