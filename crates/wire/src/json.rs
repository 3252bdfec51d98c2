//! Strict JSON: one parser for every document, with limits, whose errors name the field.

mod shape;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, de};
use shape::Shaped;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Largest JSON body of an ordinary request or answer in bytes: a policy set or a cluster document fits.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;
/// Largest payload of a signed statement in bytes (`spec/evidence.md`): a document with the hybrid records of 16 admins
/// and 32 enrollers fits.
pub const MAX_STATEMENT_BYTES: usize = 192 * 1024;

/// Why bytes are not the JSON document that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The path of the offending field, such as `to[0].principal`; `.` for the document as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole is nobody's field.
        if self.field == "." { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.field, self.reason) }
    }
}
impl std::error::Error for JsonError {}

/// Parses `bytes` as one JSON value of type `T`. Unknown and duplicate fields are refused by the types,
/// nesting beyond 128 levels by `serde_json`, trailing bytes, arrays for objects and anything above `limit` here.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError {
            field: ".".into(),
            reason: format!("{} bytes, at most {limit} are allowed", bytes.len()),
        });
    }
    if let Some(value) = whole(bytes) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Shaped(&mut deserializer))
        .map_err(|e| JsonError { field: named(e.path().to_string()), reason: e.inner().to_string() })?;
    deserializer.end().map_err(|e| JsonError { field: ".".into(), reason: e.to_string() })?;
    Ok(value)
}

/// A path that names something: that of a field with an empty name is empty.
fn named(path: String) -> String {
    if path.is_empty() { ".".into() } else { path }
}

/// What nearly always is parsed well; keeping account of where it goes wrong would cost half as much again.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Shaped(&mut deserializer)).ok()?;
    deserializer.end().ok().map(|()| value)
}

/// [`parse`] for bytes that hold secrets: the error tells where it went wrong and repeats nothing that stands there,
/// be it a value or a name. `fields` are the names that the document may have at its top, which are none.
pub fn parse_secret<T: DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
    fields: &'static [&'static str],
) -> Result<T, JsonError> {
    let top = |reason: String| JsonError { field: ".".into(), reason };
    if bytes.len() > limit {
        return Err(top(format!("{} bytes, at most {limit} are allowed", bytes.len())));
    }
    if let Some(value) = whole(bytes) {
        return Ok(value);
    }
    let place = |e: &serde_json::Error| {
        let what = match e.classify() {
            serde_json::error::Category::Data => "not what is expected there",
            serde_json::error::Category::Eof => "the document ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not JSON",
        };
        format!("{what}, at line {} column {}", e.line(), e.column())
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Shaped(&mut deserializer)).map_err(|e| {
        let path = e.path().to_string();
        let first = path.split(['.', '[']).next().unwrap_or_default();
        let field = fields.iter().find(|field| **field == first).map_or(".", |field| field);
        JsonError { field: field.to_owned(), reason: place(e.inner()) }
    })?;
    deserializer.end().map_err(|e| top(place(&e)))?;
    Ok(value)
}

/// Writes `value` as compact JSON.
pub fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "our types have string keys and no failing serialisers, so this cannot fail"
    )]
    serde_json::to_vec(value).expect("wire types serialise")
}

/// A string map that refuses duplicate keys, as `serde_json`'s maps do not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct StrictMap<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for StrictMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for MapVisitor<V> {
            type Value = StrictMap<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(de::Error::custom(format_args!("duplicate field `{key}`")));
                    }
                    map.insert(key, value);
                }
                Ok(StrictMap(map))
            }
        }
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// The version field `v` of a statement: accepts 1 and nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct V1;

impl Serialize for V1 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}
impl<'de> Deserialize<'de> for V1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(de::Error::custom(format_args!("version {other} is not known here, only 1; upgrade Bulla"))),
        }
    }
}
impl schemars::JsonSchema for V1 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "V1".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"const": 1})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Doc {
        v: V1,
        map: StrictMap<u8>,
    }

    fn check(text: &str, expected: Result<(), &str>) {
        let got = parse::<Doc>(text.as_bytes(), 64);
        match expected {
            Ok(()) => assert!(got.is_ok(), "{text}: {got:?}"),
            Err(part) => {
                let error = got.expect_err(text).to_string();
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn an_error_about_a_secret_repeats_nothing_of_it() {
        type Map = StrictMap<StrictMap<String>>;
        let read = |text: &str| parse_secret::<Map>(text.as_bytes(), 100, &["data"]).map(|_| ()).unwrap_err();
        for text in [
            r#"{"data":{"a":77777}}"#,
            r#"{"data":{"77777":1}}"#,
            r#"{"data":"77777"}"#,
            r#"{"77777":1}"#,
            r#"{"data":{"77777":"a","77777":"b"}}"#,
            r#"{"data":{"a":"77777"#,
            r#"{} 77777"#,
            "77777",
        ] {
            let error = read(text);
            assert!(!error.to_string().contains("77777"), "{error}");
            assert!(error.reason.contains("at line 1 column "), "{error}");
        }
        assert_eq!(read(r#"{"data":{"a":77777}}"#).field, "data");
        assert_eq!(read(r#"{"other":1}"#).field, ".");
        assert!(read(&" ".repeat(101)).reason.contains("at most 100"));
    }

    #[test]
    fn a_value_has_one_shape() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only whether it is read matters")]
        struct Outer {
            inner: Vec<Option<Doc>>,
            mode: crate::evidence::SealMode,
        }
        let outer = |inner: &str, mode: &str| {
            let text = format!(r#"{{"inner":[{inner}],"mode":{mode}}}"#);
            parse::<Outer>(text.as_bytes(), 200).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(outer(r#"{"v":1,"map":{}},null"#, r#""any""#), Ok(()));
        // What serde's derived types take besides: an array for a struct, an object for the name of a variant.
        let array = outer(r#"[1,{}]"#, r#""any""#).unwrap_err();
        assert!(array.starts_with("inner[0]: invalid type: sequence, expected struct Doc"), "{array}");
        let object = outer("", r#"{"any":null}"#).unwrap_err();
        assert!(object.contains("a variant without content is a text"), "{object}");
        assert!(parse::<Outer>(br#"[[],"any"]"#, 200).is_err());
        assert!(outer("", r#""none""#).unwrap_err().starts_with("mode: unknown variant `none`"));
        let number = outer("", "7").unwrap_err();
        assert!(number.starts_with("mode: invalid type: integer `7`, expected enum SealMode"), "{number}");
    }

    #[test]
    fn a_variant_with_content_is_an_object_of_one_field() {
        #[derive(Debug, Deserialize, PartialEq)]
        #[serde(rename_all = "lowercase", deny_unknown_fields)]
        enum State {
            Bare,
            One(Doc),
            Maybe(Option<Doc>),
            Fields { doc: Doc, kept: bool },
        }
        let read = |text: &str| parse::<Vec<State>>(format!("[{text}]").as_bytes(), 200).map_err(|e| e.to_string());
        let doc = || Doc { v: V1, map: StrictMap::default() };
        for (text, state) in [
            (r#""bare""#, State::Bare),
            (r#"{"one":{"v":1,"map":{}}}"#, State::One(doc())),
            (r#"{"maybe":null}"#, State::Maybe(None)),
            (r#"{"maybe":{"v":1,"map":{}}}"#, State::Maybe(Some(doc()))),
            (r#"{"fields":{"kept":true,"doc":{"v":1,"map":{}}}}"#, State::Fields { doc: doc(), kept: true }),
        ] {
            assert_eq!(read(text), Ok(vec![state]), "{text}");
        }
        for (text, told) in [
            (r#"{"bare":null}"#, "a variant without content is a text"),
            (r#""one""#, "expected newtype variant"),
            ("{}", "an object without a variant"),
            (r#"{"maybe":null,"bare":null}"#, "more than one variant"),
            (r#"{"maybe":null,"maybe":null}"#, "more than one variant"),
            (r#"{"one":[1,{}]}"#, "invalid type: sequence"),
            (r#"{"fields":[{"v":1,"map":{}},true]}"#, "invalid type: sequence"),
            (r#"{"fields":{"kept":true,"kept":true,"doc":{"v":1,"map":{}}}}"#, "duplicate field `kept`"),
            (r#"{"fields":{"kept":true,"doc":{"v":1,"map":{}},"x":1}}"#, "unknown field `x`"),
            (r#"["one",{}]"#, "invalid type: sequence"),
            (r#"{"other":1}"#, "unknown variant `other`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told) && error.starts_with("[0]"), "{text}: {error}");
        }
    }

    #[test]
    fn strictness() {
        check(r#"{"v":1,"map":{"a":1}}"#, Ok(()));
        check(r#"{"v":1,"map":{"a":1,"a":1}}"#, Err("duplicate field `a`"));
        check(r#"{"v":1,"v":1,"map":{}}"#, Err("duplicate field `v`"));
        check(r#"{"v":1,"map":{},"x":0}"#, Err("unknown field `x`"));
        check(r#"{"v":2,"map":{}}"#, Err("v: version 2"));
        check(r#"{"v":1,"map":{"a":256}}"#, Err("map.a"));
        check(r#"{"v":1,"map":{}} "#, Ok(()));
        check(r#"{"v":1,"map":{}}x"#, Err("trailing"));
        assert_eq!(parse::<StrictMap<u8>>(br#"{"":x}"#, 64).unwrap_err().field, ".");
        let long = |length: usize| format!(r#"{{"v":1,"map":{{}}{}}}"#, " ".repeat(length - 16));
        check(&long(64), Ok(()));
        check(&long(65), Err("65 bytes, at most 64"));
        let secret = |length: usize| parse_secret::<Doc>(long(length).as_bytes(), 64, &[]).is_ok();
        assert!(secret(64) && !secret(65));
        check(r#"{"v":1,"map":"a"}"#, Err("expected an object"));
    }
}
