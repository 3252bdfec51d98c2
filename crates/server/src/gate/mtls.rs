//! Requests without a signature whose connection was made with a client certificate (`spec/request.md`).
//!
//! The handshake shows that the key's holder made the connection, just now; TLS keeps what is sent in it whole and in
//! order. So neither challenge nor digest is needed. What stays is the audience: a client that was led to another cluster
//! is refused. A page in a browser that holds such a certificate cannot send that header elsewhere, and is refused besides
//! for what the browser says of it.

use super::headers::{Flaw, media_type, one, template, uncoded, wrong_audience};
use super::{Asked, Proof, Routed, address_of};
use crate::node::Node;
use crate::route::{self, Effect, RequestBody};
use bulla_core::operation::Refusal;
use bulla_crypto::random::{SystemRng, draw};
use bulla_wire::error::Code;
use bulla_wire::id::{KeyId, Nonce};
use bulla_wire::signature::{
    AUDIENCE_HEADER, CONTENT_DIGEST_HEADER, EMPTY_MEDIA_TYPE, NONCE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER,
    parse_content_digest,
};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, ORIGIN};

/// Where the page stands that asks, seen from the server (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>).
const FETCH_SITE_HEADER: &str = "sec-fetch-site";
/// Milliseconds of a minute.
const MINUTE_MS: u64 = 60_000;

/// Whether a request means to be known by a signature. Half of one is a signature that does not hold, never none.
pub(super) fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE_INPUT_HEADER) || headers.contains_key(SIGNATURE_HEADER)
}

/// Everything but the key.
pub(super) fn check(node: &Node, routed: &Routed<'_>, key: KeyId) -> Result<Asked, Refusal> {
    let Routed { phase, matched, line, headers, peer, .. } = routed;
    from_no_page(headers)?;
    if matched.route.proof != route::Proof::Mtls {
        let message = "a client certificate does not do here: this needs a signature, which stays as evidence";
        let refusal = Refusal::new(Code::SignatureRequired, message).field(SIGNATURE_INPUT_HEADER);
        return Err(
            refusal.hint("use `bulla`, or `bulla curl`, which signs; docs/reference/routes.md says what takes mTLS")
        );
    }
    uncoded(headers)?;
    let empty = matched.route.request == RequestBody::Empty;
    let content_type = match optional(headers, CONTENT_TYPE.as_str())? {
        None if empty => EMPTY_MEDIA_TYPE.to_owned(),
        told => told.unwrap_or_default(),
    };
    media_type(&content_type, matched.route.request)?;
    let content_digest = optional(headers, CONTENT_DIGEST_HEADER)?;
    if let Some(told) = &content_digest {
        parse_content_digest(told).map_err(|e| Refusal { code: Code::Malformed, ..template(&e) })?;
    }
    let hint = "send the id of the cluster that you mean, as `bulla status` shows it";
    let audience = optional(headers, AUDIENCE_HEADER)?.ok_or_else(|| malformed(AUDIENCE_HEADER, "is missing", hint))?;
    let own = phase.audience(node);
    if audience != own.to_string() {
        return Err(wrong_audience(Some(&own)));
    }
    let hint = "a new one for each change, the same one for its retries: 22 characters, see spec/request.md";
    let given = optional(headers, NONCE_HEADER)?;
    let parse = |text: String| text.parse::<Nonce>().map_err(|_| malformed(NONCE_HEADER, "is no nonce", hint));
    let given = given.map(parse).transpose()?;
    let received_ms = node.now_ms();
    let nonce = match given {
        Some(nonce) => nonce,
        // Nobody could tell a retry from a second change, and no row would keep the audit line over a crash.
        None if matched.route.effect == Effect::Mutation => {
            return Err(malformed(NONCE_HEADER, "is missing, and this is a change", hint));
        }
        // Its ingress line repeats the nonce.
        None if matches!(matched.route.request, RequestBody::Age { .. }) => {
            return Err(malformed(NONCE_HEADER, "is missing, and the body is encrypted for one request", hint));
        }
        None => Nonce::new(u32::try_from(received_ms / MINUTE_MS).unwrap_or(u32::MAX), draw(&mut SystemRng)),
    };
    Ok(Asked {
        line: (*line).clone(),
        content_type,
        content_digest,
        key,
        nonce,
        proof: Proof::Connection { nonce: given },
        address: address_of(*peer),
        received_ms,
    })
}

/// A browser shows the certificate that it holds for any page, and says for which in headers that no script can set or leave
/// out. `none` is what somebody typed.
fn from_no_page(headers: &HeaderMap) -> Result<(), Refusal> {
    let field = if headers.contains_key(ORIGIN) {
        ORIGIN.as_str()
    } else if headers.get_all(FETCH_SITE_HEADER).iter().any(|site| site != "none") {
        FETCH_SITE_HEADER
    } else {
        return Ok(());
    };
    let message = "a page in a browser asks, and a browser shows its certificate for any page";
    let refusal = Refusal::new(Code::SignatureRequired, message).field(field);
    Err(refusal
        .hint("ask with a program that is no browser, without this header; a signed request may come from a page"))
}

/// The value of a header that may stand once.
fn optional(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Refusal> {
    match one(headers, name) {
        Ok(value) => Ok(Some(value)),
        Err(Flaw::Missing) => Ok(None),
        Err(Flaw::Twice) => Err(malformed(name, "stands twice", "send it once")),
        Err(Flaw::NotAscii) => Err(malformed(name, "is not visible ASCII", "see spec/request.md")),
    }
}

fn malformed(name: &'static str, what: &str, hint: &str) -> Refusal {
    Refusal::new(Code::Malformed, format!("the header {name} {what}")).field(name).hint(hint)
}
