//! Keys among the objects of a token.

use crate::error::{TokenError, tried};
use crate::token::Connection;
use crate::uri::TokenUri;
use bulla_crypto::certificate::Certificate;
use bulla_crypto::kem::ML_KEM_SEED_BYTES;
use bulla_crypto::secret::{Secret, SecretBytes};
use bulla_crypto::sign::{Algorithm, PublicKey, PublicKeyError, RsaMinimum};
use cryptoki::object::{Attribute, AttributeType, CertificateType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

/// The object identifiers of the curves in DER, as `CKA_EC_PARAMS` holds them, and the name that some tokens write
/// for edwards25519 (PKCS#11 3.0 §6.3.2).
pub(crate) const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
const ED25519: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"];
/// Lengths of the points.
pub(crate) const P256_BYTES: usize = 65;
const P384_BYTES: usize = 97;
const ED25519_BYTES: usize = 32;
/// The tag of a DER OCTET STRING, in which `CKA_EC_POINT` is wrapped.
pub(crate) const OCTET_STRING: u8 = 4;

/// `CKA_APPLICATION` of the data object that holds the ML-KEM seed of the key with the same label.
pub(crate) const SEED_APPLICATION: &[u8] = b"bulla mlkem768p256tag";

/// What names one private key on its token, in whatever session.
#[derive(Debug, Clone)]
pub(crate) struct KeyName {
    kind: KeyType,
    id: Vec<u8>,
    label: Vec<u8>,
    /// The token has a PIN, and the key lies behind it.
    guarded: bool,
}

impl KeyName {
    /// The label for people.
    pub fn shown(&self) -> String {
        let label = String::from_utf8_lossy(&self.label).into_owned();
        if label.is_empty() { self.shown_id() } else { label }
    }

    fn shown_with_id(&self) -> String {
        format!("{} ({})", String::from_utf8_lossy(&self.label), self.shown_id())
    }

    fn shown_id(&self) -> String {
        self.id.iter().fold("id=".to_owned(), |shown, byte| format!("{shown}%{byte:02X}"))
    }

    /// What ties objects of the token to the key: the id, or the label where there is none. A card's public key often has
    /// another label, or none.
    fn tie(&self) -> Attribute {
        if self.id.is_empty() { Attribute::Label(self.label.clone()) } else { Attribute::Id(self.id.clone()) }
    }

    /// The private key in this session.
    pub fn find(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        let mut template = private_keys(self.guarded);
        template.extend([Attribute::KeyType(self.kind), Attribute::Label(self.label.clone())]);
        // A token may have no attribute where it has no value.
        template.extend((!self.id.is_empty()).then(|| Attribute::Id(self.id.clone())));
        match session.find_objects(&template).map_err(tried("find its key"))?.as_slice() {
            [] => Err(TokenError::KeyGone { key: self.shown() }),
            [key] => Ok(*key),
            // Which of them comes first is the token's whim, or that of whoever made the second.
            _ => Err(TokenError::Twins { key: self.shown_with_id() }),
        }
    }

    /// The ML-KEM seed that belongs to the key, if the token keeps one.
    pub fn seed(&self, session: &Session) -> Result<Option<Secret<[u8; ML_KEM_SEED_BYTES]>>, TokenError> {
        let template = [
            Attribute::Class(ObjectClass::DATA),
            // One that could be written without the PIN may be anybody's.
            Attribute::Private(true),
            Attribute::Token(true),
            Attribute::Label(self.label.clone()),
            Attribute::Application(SEED_APPLICATION.to_vec()),
        ];
        let found = session.find_objects(&template).map_err(tried("find the seed"))?;
        let object = match found.as_slice() {
            [] => return Ok(None),
            [object] => *object,
            _ => return Err(TokenError::Seed),
        };
        match session.get_attributes(object, &[AttributeType::Value]).map_err(tried("give the seed"))?.pop() {
            Some(Attribute::Value(value)) => {
                let value = SecretBytes::new(value);
                Secret::from_slice(value.expose()).map(Some).ok_or(TokenError::Seed)
            }
            _ => Err(TokenError::Seed),
        }
    }
}

/// A private key, and what it may do.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub name: KeyName,
    pub public: PublicKey,
    pub signs: bool,
    pub agrees: bool,
    always_authenticate: bool,
}

/// The keys that the URI means: the one that signs, and the one that agrees if there is one. Both may be the same.
pub(crate) struct Keys {
    pub signs: Option<Key>,
    pub agrees: Option<Key>,
}

impl Keys {
    /// Finds them.
    pub fn find(session: &Session, connection: &Connection, uri: &TokenUri) -> Result<Self, TokenError> {
        let (token, guarded) = (connection.label(), connection.has_pin());
        let mut usable = Vec::new();
        let mut unusable = None;
        for handle in session.find_objects(&wanted(uri, guarded)).map_err(tried("list its keys"))? {
            match read(session, handle, guarded) {
                Ok(Some(key)) => usable.push(key),
                Ok(None) => {}
                Err(error @ (TokenError::Twins { .. } | TokenError::SeveralPublicKeys { .. })) => return Err(error),
                // Told only if nothing else can be taken.
                Err(error) => unusable = Some(error),
            }
        }
        let one = |purpose: &'static str, does: &dyn Fn(&Key) -> bool| {
            let mut doing: Vec<&Key> = usable.iter().filter(|key| does(key)).collect();
            // Tokens let a key sign unless told otherwise, so one that was made to agree often does both.
            if doing.len() > 1 && doing.iter().filter(|key| !(key.signs && key.agrees)).count() == 1 {
                doing.retain(|key| !(key.signs && key.agrees));
            }
            match doing.as_slice() {
                [] => Ok(None),
                [key] => Ok(Some((*key).clone())),
                several => {
                    let mut there: Vec<_> = several.iter().map(|key| key.name.shown_with_id()).collect();
                    there.sort();
                    Err(TokenError::SeveralKeys { token: token.to_owned(), purpose, there })
                }
            }
        };
        let keys = Self { signs: one("sign", &|key| key.signs)?, agrees: one("decrypt", &|key| key.agrees)? };
        for key in [&keys.signs, &keys.agrees].into_iter().flatten() {
            if key.always_authenticate {
                return Err(TokenError::AlwaysAuthenticate { key: key.name.shown_with_id() });
            }
        }
        match (keys.signs.is_some() || keys.agrees.is_some(), unusable) {
            (true, _) => Ok(keys),
            (false, Some(error)) => Err(error),
            (false, None) => Err(TokenError::NoKey {
                token: token.to_owned(),
                purpose: "can be used",
                there: labels(session, guarded)?,
            }),
        }
    }
}

/// Refuses a label that something on the token has.
pub(crate) fn demand_free(session: &Session, token: &str, label: &str) -> Result<(), TokenError> {
    let template = [Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())];
    let found = session.find_objects(&template).map_err(tried("list its objects"))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(TokenError::Exists { token: token.to_owned(), object: label.to_owned() })
}

/// The private keys of the token. Where there is a PIN, one that could be written without it may be anybody's.
fn private_keys(guarded: bool) -> Vec<Attribute> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    template.extend(guarded.then_some(Attribute::Private(true)));
    template
}

fn wanted(uri: &TokenUri, guarded: bool) -> Vec<Attribute> {
    let mut template = private_keys(guarded);
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
    template
}

fn labels(session: &Session, guarded: bool) -> Result<Vec<String>, TokenError> {
    let mut labels = Vec::new();
    for handle in session.find_objects(&private_keys(guarded)).map_err(tried("list its keys"))? {
        let found = attributes(session, handle, &[AttributeType::Label, AttributeType::Id])?;
        let name = KeyName { kind: KeyType::EC, id: found.id, label: found.label, guarded };
        labels.push(name.shown());
    }
    labels.sort();
    labels.dedup();
    Ok(labels)
}

/// The attributes that are looked at. What an object lacks is empty or false.
#[derive(Debug, Default)]
struct Attributes {
    kind: Option<KeyType>,
    id: Vec<u8>,
    label: Vec<u8>,
    signs: bool,
    derives: bool,
    always_authenticate: bool,
    curve: Vec<u8>,
    point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    value: Vec<u8>,
}

fn attributes(session: &Session, object: ObjectHandle, which: &[AttributeType]) -> Result<Attributes, TokenError> {
    let mut all = Attributes::default();
    for attribute in session.get_attributes(object, which).map_err(tried("describe its key"))? {
        match attribute {
            Attribute::KeyType(kind) => all.kind = Some(kind),
            Attribute::Id(id) => all.id = id,
            Attribute::Label(label) => all.label = label,
            Attribute::Sign(signs) => all.signs = signs,
            Attribute::Derive(derives) => all.derives = derives,
            Attribute::AlwaysAuthenticate(always) => all.always_authenticate = always,
            Attribute::EcParams(curve) => all.curve = curve,
            Attribute::EcPoint(point) => all.point = point,
            Attribute::Modulus(modulus) => all.modulus = modulus,
            Attribute::PublicExponent(exponent) => all.exponent = exponent,
            Attribute::Value(value) => all.value = value,
            _ => {}
        }
    }
    Ok(all)
}

/// Reads a private key and its public half. `None` for one of a kind that is not used here.
fn read(session: &Session, handle: ObjectHandle, guarded: bool) -> Result<Option<Key>, TokenError> {
    let own = attributes(
        session,
        handle,
        &[
            AttributeType::KeyType,
            AttributeType::Id,
            AttributeType::Label,
            AttributeType::Sign,
            AttributeType::Derive,
            AttributeType::AlwaysAuthenticate,
        ],
    )?;
    let Some(kind) = own.kind else { return Ok(None) };
    let name = KeyName { kind, id: own.id, label: own.label, guarded };
    name.find(session)?;
    let Some(public) = public(session, &name)? else { return Ok(None) };
    Ok(Some(Key {
        signs: own.signs,
        agrees: own.derives && public.algorithm() == Algorithm::EcdsaP256,
        always_authenticate: own.always_authenticate,
        name,
        public,
    }))
}

/// What an object beside a private key says of its public half; `None` for a kind that is not used here.
#[derive(PartialEq)]
struct Told {
    key: Result<Option<PublicKey>, PublicKeyError>,
    label: Vec<u8>,
}

/// The public key beside a private one, or that of a certificate there: a private key need not tell its own (PKCS#11 3.0
/// §6.3.4). Both can be written without the PIN, so it is a claim until the private key proved it.
fn public(session: &Session, name: &KeyName) -> Result<Option<PublicKey>, TokenError> {
    let mut told = public_keys(session, name)?;
    if told.is_empty() {
        told = certificates(session, name)?;
    }
    let agree = |told: &[Told]| told.iter().zip(told.iter().skip(1)).all(|(one, next)| one.key == next.key);
    if !agree(&told) {
        told.retain(|told| told.label == name.label);
        if told.is_empty() || !agree(&told) {
            return Err(TokenError::SeveralPublicKeys { key: name.shown_with_id() });
        }
    }
    let told = told.pop().ok_or_else(|| TokenError::NoPublicKey { key: name.shown() })?;
    told.key.map_err(|cause| TokenError::PublicKey { key: name.shown(), cause })
}

fn public_keys(session: &Session, name: &KeyName) -> Result<Vec<Told>, TokenError> {
    let template =
        [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::KeyType(name.kind), Attribute::Token(true), name.tie()];
    let told = |object| {
        let all = attributes(
            session,
            object,
            &[
                AttributeType::Label,
                AttributeType::EcParams,
                AttributeType::EcPoint,
                AttributeType::Modulus,
                AttributeType::PublicExponent,
            ],
        )?;
        let key = match name.kind {
            KeyType::EC if all.curve == P256 => PublicKey::from_p256_point(unwrapped(&all.point, P256_BYTES)).map(Some),
            KeyType::EC if all.curve == P384 => PublicKey::from_p384_point(unwrapped(&all.point, P384_BYTES)).map(Some),
            KeyType::EC_EDWARDS if ED25519.contains(&all.curve.as_slice()) => {
                let point = unwrapped(&all.point, ED25519_BYTES);
                point.try_into().map_err(|_| PublicKeyError::Malformed).and_then(PublicKey::from_ed25519).map(Some)
            }
            KeyType::RSA => PublicKey::from_rsa(&all.modulus, &all.exponent, RsaMinimum::Bits3072).map(Some),
            _ => Ok(None),
        };
        Ok(Told { key, label: all.label })
    };
    session.find_objects(&template).map_err(tried("find its public key"))?.into_iter().map(told).collect()
}

/// What the certificates beside a key certify. Nobody looks at who issued them.
fn certificates(session: &Session, name: &KeyName) -> Result<Vec<Told>, TokenError> {
    let template = [
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        name.tie(),
    ];
    let mut told = Vec::new();
    for object in session.find_objects(&template).map_err(tried("find its certificate"))? {
        let all = attributes(session, object, &[AttributeType::Label, AttributeType::Value])?;
        // Another's certificate says nothing of this key.
        let Ok(certificate) = Certificate::parse(&all.value) else { continue };
        let key = PublicKey::from_spki(certificate.spki(), RsaMinimum::Bits3072).map(Some);
        if key.as_ref().is_ok_and(|key| key.as_ref().is_some_and(|key| kind(key.algorithm()) != name.kind)) {
            continue;
        }
        told.push(Told { key, label: all.label });
    }
    Ok(told)
}

fn kind(algorithm: Algorithm) -> KeyType {
    match algorithm {
        Algorithm::Ed25519 => KeyType::EC_EDWARDS,
        Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => KeyType::EC,
        Algorithm::RsaPssSha512 => KeyType::RSA,
    }
}

/// The point out of its DER OCTET STRING; some tokens leave the wrapping out. By length, since an uncompressed point
/// begins with the tag's byte too.
fn unwrapped(point: &[u8], bytes: usize) -> &[u8] {
    match point {
        [OCTET_STRING, length, inner @ ..] if inner.len() == bytes && usize::from(*length) == bytes => inner,
        _ => point,
    }
}
