//! The vectors of `spec/token.md`.

use bulla_keys::uri::{MAX_URI_BYTES, ModuleName, TokenUri, UriError};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    uri: String,
    #[serde(default)]
    canonical: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[test]
fn the_vectors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/pkcs11/uri.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 40);
    for Case { uri, canonical, error } in cases {
        let parsed = uri.parse::<TokenUri>();
        match (canonical, error) {
            (Some(canonical), None) => {
                let parsed = parsed.unwrap_or_else(|error| panic!("{uri}: {error}"));
                assert_eq!(parsed.to_string(), canonical, "{uri}");
                assert_eq!(canonical.parse(), Ok(parsed));
            }
            (None, Some(error)) => assert_eq!(name(&parsed.unwrap_err()), error, "{uri}"),
            _ => panic!("{uri}: either a canonical form or an error"),
        }
    }
}

#[test]
fn attributes_arrive_where_they_belong() {
    let uri: TokenUri = "pkcs11:token=a;manufacturer=b;serial=c;model=d;slot-id=5;object=e;id=%00f;type=private?module-path=/g&pin-source=file:///h"
        .parse()
        .unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        uri,
        TokenUri {
            token: text("a"),
            manufacturer: text("b"),
            serial: text("c"),
            model: text("d"),
            slot_id: Some(5),
            object: text("e"),
            id: Some(b"\0f".to_vec()),
            module: Some(ModuleName::Path("/g".into())),
            pin_source: Some(PathBuf::from("/h")),
        }
    );
    let long = format!("pkcs11:token={}", "a".repeat(MAX_URI_BYTES));
    assert_eq!(long.parse::<TokenUri>(), Err(UriError::TooLong));
}

fn name(error: &UriError) -> &'static str {
    match error {
        UriError::TooLong => "too long",
        UriError::Scheme => "scheme",
        UriError::Part(_) => "part",
        UriError::Unknown(_) => "unknown",
        UriError::Twice(_) => "twice",
        UriError::Empty(_) => "empty",
        UriError::Character(..) => "character",
        UriError::Percent(_) => "percent",
        UriError::Text(_) => "text",
        UriError::Slot => "slot-id",
        UriError::Type => "type",
        UriError::TwoModules => "two modules",
        UriError::ModulePath => "module-path",
        UriError::ModuleName => "module-name",
        UriError::PinSource => "pin-source",
        UriError::PinValue => "pin-value",
    }
}
