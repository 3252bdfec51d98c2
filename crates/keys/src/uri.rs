//! URIs that name keys on tokens (RFC 7512; `spec/token.md`).
//!
//! Only attributes that choose a token, an object, a module or a PIN file are taken; whatever else stands there would
//! be ignored, and a key chosen by less than its user wrote is the wrong key. So the rest is refused, and so are
//! attributes that stand twice.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest URI, as it is written and in its canonical form. All attributes of a token and an object, percent-encoded, stay below.
pub const MAX_URI_BYTES: usize = 4096;
/// The scheme with its colon. Schemes are compared without case (RFC 3986 §3.1).
const SCHEME: &str = "pkcs11:";
/// What stands unescaped in the path besides letters and digits (RFC 7512 §2.3).
const PATH_CHARS: &[u8] = b"-._~:[]@!$'()*+,=&";
/// What stands unescaped in the query.
const QUERY_CHARS: &[u8] = b"-._~:[]@!$'()*+,=/?|";

/// Which keys on which token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenUri {
    /// The token's label.
    pub token: Option<String>,
    /// Who made the token.
    pub manufacturer: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The token's model.
    pub model: Option<String>,
    /// The number of the slot. SoftHSM and some others change it between runs.
    pub slot_id: Option<u64>,
    /// The label of the keys (`CKA_LABEL`).
    pub object: Option<String>,
    /// The id of a key (`CKA_ID`), which is no text.
    pub id: Option<Vec<u8>>,
    /// The library that talks to the token.
    pub module: Option<ModuleName>,
    /// The file with the PIN.
    pub pin_source: Option<PathBuf>,
}

/// How the URI names the library that talks to the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleName {
    /// By its absolute path.
    Path(PathBuf),
    /// By the name of its file in one of the usual folders, without `lib` and `.so` if so wished.
    Name(String),
}

/// Why text is no URI of a key that can be used. No variant holds a PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriError {
    /// Longer than [`MAX_URI_BYTES`].
    TooLong,
    /// It does not begin with `pkcs11:`.
    Scheme,
    /// A part that is not `name=value`.
    Part(String),
    /// An attribute that is not known, or means something that is not done here.
    Unknown(String),
    /// An attribute stands twice.
    Twice(&'static str),
    /// An attribute says nothing.
    Empty(&'static str),
    /// A character that must be percent-encoded.
    Character(&'static str, char),
    /// A percent sign without two hexadecimal digits.
    Percent(&'static str),
    /// The value is no text.
    Text(&'static str),
    /// `slot-id` is no decimal number.
    Slot,
    /// `type` names another kind of object than private keys.
    Type,
    /// Both `module-path` and `module-name`.
    TwoModules,
    /// `module-path` is not absolute.
    ModulePath,
    /// `module-name` is a path.
    ModuleName,
    /// `pin-source` is no absolute path of a file.
    PinSource,
    /// The PIN itself.
    PinValue,
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {MAX_URI_BYTES} bytes"),
            Self::Scheme => write!(f, "it does not begin with {SCHEME}"),
            Self::Part(part) => write!(f, "{part:?} is not name=value"),
            Self::Unknown(name) => write!(
                f,
                "the attribute {name:?} is not taken; those that are: token, manufacturer, serial, model, slot-id, object, \
                 id, type, and after ? module-path, module-name, pin-source"
            ),
            Self::Twice(name) => write!(f, "{name} stands twice"),
            Self::Empty(name) => write!(f, "{name} is empty"),
            Self::Character(name, found) => {
                let mut bytes = [0; 4];
                write!(f, "{name} holds {found:?}, which is written ")?;
                found.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))
            }
            Self::Percent(name) => write!(f, "{name} holds a % without two hexadecimal digits after it"),
            Self::Text(name) => write!(f, "{name} is no text in UTF-8, or holds a control character"),
            Self::Slot => f.write_str("slot-id is no decimal number"),
            Self::Type => f.write_str("type can only be private: an identity is a private key"),
            Self::TwoModules => f.write_str("it names both module-path and module-name"),
            Self::ModulePath => f.write_str("module-path is not absolute, such as /usr/lib/softhsm/libsofthsm2.so"),
            Self::ModuleName => f.write_str("module-name is a path: that is module-path"),
            Self::PinSource => {
                f.write_str("pin-source is not file:/PATH, the absolute path of a file with the PIN in its first line")
            }
            Self::PinValue => f.write_str(
                "pin-value is refused: every process of this machine sees a command line; write the PIN to a file and \
                 name it by pin-source",
            ),
        }
    }
}

impl std::error::Error for UriError {}

impl TokenUri {
    /// Whether text is meant as such a URI.
    pub fn is_meant(text: &str) -> bool {
        text.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    }

    fn take_path(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "token" => put("token", &mut self.token, text("token", value)?),
            "manufacturer" => put("manufacturer", &mut self.manufacturer, text("manufacturer", value)?),
            "serial" => put("serial", &mut self.serial, text("serial", value)?),
            "model" => put("model", &mut self.model, text("model", value)?),
            "object" => put("object", &mut self.object, text("object", value)?),
            "id" => put("id", &mut self.id, bytes("id", value, PATH_CHARS)?),
            "slot-id" => {
                let decimal = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
                let number = value.parse().ok().filter(|_| decimal).ok_or(UriError::Slot)?;
                put("slot-id", &mut self.slot_id, number)
            }
            _ => Err(UriError::Unknown(name.to_owned())),
        }
    }

    fn take_query(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "module-path" | "module-name" => {
                let named = match name {
                    "module-path" => module_path(&query_text("module-path", value)?)?,
                    _ => module_name(query_text("module-name", value)?)?,
                };
                match &self.module {
                    None => put("module-path", &mut self.module, named),
                    Some(before) if std::mem::discriminant(before) == std::mem::discriminant(&named) => {
                        Err(UriError::Twice(if name == "module-path" { "module-path" } else { "module-name" }))
                    }
                    Some(_) => Err(UriError::TwoModules),
                }
            }
            "pin-source" => put("pin-source", &mut self.pin_source, pin_file(&query_text("pin-source", value)?)?),
            "pin-value" => Err(UriError::PinValue),
            _ => Err(UriError::Unknown(name.to_owned())),
        }
    }
}

impl FromStr for TokenUri {
    type Err = UriError;

    fn from_str(written: &str) -> Result<Self, UriError> {
        if written.len() > MAX_URI_BYTES {
            return Err(UriError::TooLong);
        }
        let rest = written.get(SCHEME.len()..).filter(|_| Self::is_meant(written)).ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut uri = Self::default();
        let mut typed = None;
        for part in path.split(';').filter(|_| !path.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| UriError::Part(part.to_owned()))?;
            match (name, value) {
                ("type", "private") => put("type", &mut typed, ())?,
                ("type", _) => return Err(UriError::Type),
                _ => uri.take_path(name, value)?,
            }
        }
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            // The value of a part that is no pair may be a PIN, so it is not shown.
            let (name, value) = part.split_once('=').ok_or_else(|| UriError::Part("?…".to_owned()))?;
            uri.take_query(name, value)?;
        }
        // What is kept is the canonical form, which escapes more.
        if uri.to_string().len() > MAX_URI_BYTES { Err(UriError::TooLong) } else { Ok(uri) }
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot_id.map(|slot| slot.to_string());
        let path = [
            ("token", self.token.as_ref().map(String::as_bytes)),
            ("manufacturer", self.manufacturer.as_ref().map(String::as_bytes)),
            ("serial", self.serial.as_ref().map(String::as_bytes)),
            ("model", self.model.as_ref().map(String::as_bytes)),
            ("slot-id", slot.as_ref().map(String::as_bytes)),
            ("object", self.object.as_ref().map(String::as_bytes)),
            ("id", self.id.as_deref()),
        ];
        let module = self.module.as_ref().map(|module| match module {
            ModuleName::Path(path) => ("module-path", path.as_os_str().as_encoded_bytes()),
            ModuleName::Name(name) => ("module-name", name.as_bytes()),
        });
        let pin = self.pin_source.as_ref().map(|path| ("pin-source", path.as_os_str().as_encoded_bytes()));
        f.write_str(SCHEME)?;
        let there = path.into_iter().filter_map(|(name, value)| Some((name, value?)));
        write_attributes(f, there, ';', PATH_CHARS)?;
        if module.is_some() || pin.is_some() {
            f.write_str("?")?;
        }
        write_attributes(f, module.into_iter().chain(pin), '&', QUERY_CHARS)
    }
}

fn write_attributes<'a>(
    f: &mut fmt::Formatter<'_>,
    attributes: impl Iterator<Item = (&'static str, &'a [u8])>,
    separator: char,
    unescaped: &[u8],
) -> fmt::Result {
    for (index, (name, value)) in attributes.enumerate() {
        if index > 0 {
            write!(f, "{separator}")?;
        }
        write!(f, "{name}=")?;
        for byte in value {
            // An id is no text, so all of it is escaped (RFC 7512 §2.3).
            if name != "id" && (byte.is_ascii_alphanumeric() || unescaped.contains(byte)) {
                write!(f, "{}", char::from(*byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
    }
    Ok(())
}

fn put<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(name)),
    }
}

fn text(name: &'static str, value: &str) -> Result<String, UriError> {
    as_text(name, bytes(name, value, PATH_CHARS)?)
}

fn query_text(name: &'static str, value: &str) -> Result<String, UriError> {
    as_text(name, bytes(name, value, QUERY_CHARS)?)
}

fn as_text(name: &'static str, bytes: Vec<u8>) -> Result<String, UriError> {
    let text = String::from_utf8(bytes).map_err(|_| UriError::Text(name))?;
    if text.contains(char::is_control) { Err(UriError::Text(name)) } else { Ok(text) }
}

/// Undoes percent-encoding. What must be encoded is refused otherwise.
fn bytes(name: &'static str, value: &str, unescaped: &[u8]) -> Result<Vec<u8>, UriError> {
    if value.is_empty() {
        return Err(UriError::Empty(name));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(next) = rest.next() {
        match u8::try_from(next) {
            Ok(b'%') => {
                let mut digit =
                    || rest.next().and_then(|digit| digit.to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UriError::Percent(name)) };
                decoded.push((high << 4) | low);
            }
            Ok(byte) if byte.is_ascii_alphanumeric() || unescaped.contains(&byte) => decoded.push(byte),
            _ => return Err(UriError::Character(name, next)),
        }
    }
    Ok(decoded)
}

fn module_path(path: &str) -> Result<ModuleName, UriError> {
    let path = Path::new(path);
    if path.is_absolute() { Ok(ModuleName::Path(path.into())) } else { Err(UriError::ModulePath) }
}

fn module_name(name: String) -> Result<ModuleName, UriError> {
    if name.contains('/') || name.starts_with('.') { Err(UriError::ModuleName) } else { Ok(ModuleName::Name(name)) }
}

/// RFC 7512 §2.4 lets a source be a `file:` URI, a path or a program; programs are not run.
fn pin_file(source: &str) -> Result<PathBuf, UriError> {
    let path = source.strip_prefix("file:").unwrap_or(source);
    let path = path.strip_prefix("//").filter(|local| local.starts_with('/')).unwrap_or(path);
    if path.starts_with('/') && !path.starts_with("//") { Ok(path.into()) } else { Err(UriError::PinSource) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let uri = TokenUri {
            token: Some("The Ops; Token/1".into()),
            object: Some("älice & co".into()),
            id: Some(vec![0, 0x7f, b'a', 0xff]),
            slot_id: Some(7),
            module: Some(ModuleName::Path("/usr/lib/a b?.so".into())),
            pin_source: Some("/run/cred&/pin".into()),
            ..TokenUri::default()
        };
        let written = uri.to_string();
        assert_eq!(
            written,
            "pkcs11:token=The%20Ops%3B%20Token%2F1;slot-id=7;object=%C3%A4lice%20&%20co;id=%00%7F%61%FF\
             ?module-path=/usr/lib/a%20b?.so&pin-source=/run/cred%26/pin"
        );
        assert_eq!(written.parse(), Ok(uri));
        assert_eq!(TokenUri::default().to_string().parse(), Ok(TokenUri::default()));
    }

    /// What was taken is taken again from the file of contexts, where it stands in its canonical form.
    #[test]
    fn the_canonical_form_is_not_too_long() {
        let of = |bytes: usize| format!("pkcs11:id={}", "a".repeat(bytes)).parse::<TokenUri>();
        let longest = of((MAX_URI_BYTES - "pkcs11:id=".len()) / 3).unwrap();
        assert_eq!(longest.to_string().parse(), Ok(longest));
        assert_eq!(of(MAX_URI_BYTES / 3), Err(UriError::TooLong));
    }

    #[test]
    fn no_error_shows_a_pin() {
        for secret in ["pkcs11:?pin-value=canary", "pkcs11:token=a?canary", "pkcs11:?pin-value=canary&pin-value=canary"]
        {
            let told = secret.parse::<TokenUri>().unwrap_err();
            assert!(!format!("{told} {told:?}").contains("canary"), "{told}");
        }
    }
}
