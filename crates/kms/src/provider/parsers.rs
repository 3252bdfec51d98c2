//! What is read of the clouds, from bytes alone: for the fuzz targets (`fuzz/src/kms.rs`), since nothing else is to know
//! what a cloud's answer looks like.

use super::cloud::{Place, Text, answer, decoded, oauth};
use super::http::{Origin, Reply};
use super::{ProviderError, aws, azure, gcp};
use bulla_crypto::secret::SecretBytes;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::str::FromStr as _;

fn reply(bytes: &[u8]) -> Reply {
    Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: SecretBytes::new(bytes.to_vec()) }
}

/// Bytes as every answer and every file of credentials: what refused them. `name` is that of a section of such a file.
pub fn refusals(from: &Origin, name: &str, bytes: &[u8]) -> Vec<ProviderError> {
    let reply = reply(bytes);
    let file = Path::new("/credentials");
    let of = gcp::source::Of { path: file, ca: None };
    let read = [
        parsed::<aws::api::Described>(from, &reply),
        parsed::<aws::api::Rotations>(from, &reply),
        parsed::<aws::api::Encrypted>(from, &reply),
        parsed::<aws::api::Decrypted>(from, &reply),
        parsed::<azure::Versions>(from, &reply),
        parsed::<azure::Bundle>(from, &reply),
        parsed::<azure::Operated>(from, &reply),
        parsed::<gcp::Seen>(from, &reply),
        parsed::<gcp::Versions>(from, &reply),
        parsed::<gcp::Encrypted>(from, &reply),
        parsed::<gcp::Decrypted>(from, &reply),
        parsed::<oauth::Token>(from, &reply),
        aws::source::given(from, &reply).map(|_| ()),
        aws::source::shared(file, name, &reply.body).map(|_| ()),
        of.parse(&reply.body).map(|_| ()),
    ];
    read.into_iter().filter_map(Result::err).collect()
}

fn parsed<T: DeserializeOwned>(from: &Origin, reply: &Reply) -> Result<(), ProviderError> {
    answer::<T>(from, reply, &["value"]).map(|_| ())
}

/// What of a failure is repeated in an error.
pub fn words(bytes: &[u8]) -> [String; 3] {
    let reply = reply(bytes);
    [aws::api::code(&reply), azure::code(&reply), gcp::status(&reply)]
}

/// What the only element of this name holds.
pub fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    aws::source::element(text, name)
}

/// What a field in base64 holds, if that is at most `max` bytes.
pub fn field(from: &Origin, text: &[u8], max: usize) -> Option<SecretBytes> {
    decoded(from, "value", &Text::new(text)?, max).ok()
}

/// A URL with a path, put together again.
pub fn place(text: &str) -> Option<String> {
    Place::parse(text, Origin::from_str).ok().map(|place| format!("{}{}", place.origin, place.path))
}
