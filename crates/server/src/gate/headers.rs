//! The headers of a request as the gate reads them, each there once, and the words for what is wrong with a request
//! before its key is known.

use crate::listen::BodyError;
use crate::reply::Answer;
use crate::route::{RequestBody, RouteError};
use bulla_core::operation::Refusal;
use bulla_wire::error::Code;
use bulla_wire::signature::{
    AUDIENCE_HEADER, Audience, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, MAX_HEADER_BYTES, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, TemplateError,
};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

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
            anonymous(&refusal.hint("names hold only A-Z a-z 0-9 . _ ~ @ + = -, and nothing is written as %XX"))
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

/// The cluster is not there yet.
pub(super) fn uninitialised() -> Refusal {
    Refusal::new(Code::Uninitialised, "there is no cluster yet").hint("`bulla init` makes one")
}

/// The request is for another.
pub(super) fn wrong_audience(own: Option<&Audience>) -> Refusal {
    let own = own.map(Audience::to_string).unwrap_or_default();
    let refusal = Refusal::new(Code::WrongAudience, format!("this is {own}")).field(AUDIENCE_HEADER);
    refusal.hint("check the context's cluster; `bulla context add` pins it")
}

/// Nobody's key, a disabled one, or not its signature: whoever asks must not learn which.
pub(super) fn unauthenticated() -> Refusal {
    let refusal = Refusal::new(Code::Unauthenticated, "the key is not known here, or the signature is not its own");
    refusal.hint("ask an enroller whether your key is admitted and enabled")
}

/// The body is of the route's media type.
pub(super) fn media_type(told: &str, taken: RequestBody) -> Result<(), Refusal> {
    if told == taken.media_type() {
        return Ok(());
    }
    let refusal = Refusal::new(Code::WrongMediaType, format!("this route takes {}", taken.media_type()));
    Err(refusal.field("content-type").hint("send the body in that form, and say so"))
}

/// A coded body would not be what its digest tells.
pub(super) fn uncoded(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(CONTENT_ENCODING) {
        let refusal = Refusal::new(Code::Malformed, "content codings are not taken");
        return Err(refusal.field("content-encoding").hint("send the body as it is"));
    }
    Ok(())
}

/// Why a header is not what it should be.
pub(super) enum Flaw {
    Missing,
    Twice,
    NotAscii,
}

/// The value of a header, which must be there once, in visible ASCII.
pub(super) fn one(headers: &HeaderMap, name: &str) -> Result<String, Flaw> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Flaw::Missing)?;
    if values.next().is_some() {
        return Err(Flaw::Twice);
    }
    value.to_str().map(str::to_owned).map_err(|_| Flaw::NotAscii)
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

/// Takes the headers of the profile.
pub(super) fn signed_headers(headers: &HeaderMap) -> Result<Headers, Refusal> {
    let one = |name: &'static str| -> Result<String, Refusal> {
        one(headers, name).map_err(|flaw| {
            let (reason, hint) = match flaw {
                Flaw::Missing => ("the header is missing", "`bulla curl` signs for you"),
                Flaw::Twice => ("the header stands twice", "send it once"),
                Flaw::NotAscii => {
                    ("the header is not visible ASCII", "see spec/request.md; `bulla curl` signs for you")
                }
            };
            Refusal::new(Code::SignatureTemplate, format!("{name}: {reason}")).field(name).hint(hint)
        })
    };
    uncoded(headers)?;
    Ok(Headers {
        content_type: one(CONTENT_TYPE.as_str())?,
        content_digest: one(CONTENT_DIGEST_HEADER)?,
        audience: one(AUDIENCE_HEADER)?,
        challenge: one(CHALLENGE_HEADER)?,
        signature_input: one(SIGNATURE_INPUT_HEADER)?,
        signature: one(SIGNATURE_HEADER)?,
    })
}
