//! The headers of a request as the gate reads them, each there once, and the words for what is wrong with a request
//! before its key is known.

use crate::listen::BodyError;
use crate::reply::Answer;
use crate::route::RouteError;
use bulla_core::operation::Refusal;
use bulla_wire::error::Code;
use bulla_wire::signature::{
    AUDIENCE_HEADER, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, MAX_HEADER_BYTES, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, TemplateError,
};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// The headers of the signature profile, each there once.
#[derive(Debug, Clone)]
pub struct Headers {
    /// `Content-Type`
    pub content_type: String,
    /// `Content-Digest`
    pub content_digest: String,
    /// `Bulla-Audience`
    pub audience: String,
    /// `Bulla-Challenge`
    pub challenge: String,
    /// `Signature-Input`
    pub signature_input: String,
    /// `Signature`
    pub signature: String,
}

/// An error before the key was known: no id, since nothing was recorded.
pub(super) fn anonymous(refusal: &Refusal) -> Answer {
    Answer::refusal(refusal, None)
}

pub(super) fn no_route(error: &RouteError) -> Answer {
    match error {
        RouteError::MethodNotAllowed { allow } => {
            let refusal =
                Refusal::new(Code::MethodNotAllowed, error.to_string()).hint("`bulla openapi` lists all routes");
            Answer { allow: Some(allow.clone()), ..anonymous(&refusal) }
        }
        RouteError::Unknown => {
            anonymous(&Refusal::new(Code::UnknownRoute, error.to_string()).hint("`bulla openapi` lists all routes"))
        }
        RouteError::BadPath(_) => {
            let refusal = Refusal::new(Code::UnknownRoute, error.to_string()).field("path");
            anonymous(&refusal.hint("write each character that needs no escape as it is, and each other one as %XX"))
        }
    }
}

pub(super) fn template(error: &TemplateError) -> Refusal {
    Refusal::new(Code::SignatureTemplate, error.to_string())
        .field(error.header)
        .hint("see spec/request.md; `bulla curl` signs for you")
}

/// A body that was not read.
pub fn body_refusal(error: &BodyError) -> Refusal {
    let (code, hint) = match error {
        BodyError::TooLarge { max: 0 } => (Code::TooLarge, "send no body here"),
        BodyError::TooLarge { .. } => (Code::TooLarge, "keep large things elsewhere, and wrap the key to them"),
        BodyError::Overloaded => (Code::Overloaded, "try again later"),
        _ => (Code::Malformed, "send the body whole, and as long as its headers say"),
    };
    Refusal::new(code, error.to_string()).field("body").hint(hint)
}

/// Names and values together have a limit, on open routes too.
pub(super) fn header_size(headers: &HeaderMap) -> Result<(), Refusal> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum();
    if bytes > MAX_HEADER_BYTES {
        let message = format!("the headers have {bytes} bytes, at most {MAX_HEADER_BYTES}");
        let refusal = Refusal::new(Code::SignatureTemplate, message).field("headers");
        return Err(refusal.hint("leave out what no route reads"));
    }
    Ok(())
}

/// Takes the headers of the profile; each must be there once, in visible ASCII.
pub(super) fn signed_headers(headers: &HeaderMap) -> Result<Headers, Refusal> {
    let one = |name: &'static str| -> Result<String, Refusal> {
        let mut values = headers.get_all(name).iter();
        let refused = |reason: &str| Refusal::new(Code::SignatureTemplate, format!("{name}: {reason}")).field(name);
        let value = values.next().ok_or_else(|| refused("the header is missing").hint("`bulla curl` signs for you"))?;
        if values.next().is_some() {
            return Err(refused("the header stands twice").hint("send it once"));
        }
        let ascii = value.to_str().map(str::to_owned);
        ascii.map_err(|_| {
            refused("the header is not visible ASCII").hint("see spec/request.md; `bulla curl` signs for you")
        })
    };
    if headers.contains_key(http::header::CONTENT_ENCODING) {
        let refusal = Refusal::new(Code::Malformed, "content codings are not taken");
        return Err(refusal.field("content-encoding").hint("send the body as it is"));
    }
    Ok(Headers {
        content_type: one(CONTENT_TYPE.as_str())?,
        content_digest: one(CONTENT_DIGEST_HEADER)?,
        audience: one(AUDIENCE_HEADER)?,
        challenge: one(CHALLENGE_HEADER)?,
        signature_input: one(SIGNATURE_INPUT_HEADER)?,
        signature: one(SIGNATURE_HEADER)?,
    })
}
