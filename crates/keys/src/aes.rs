//! AES-256 keys that stay on their token: AES-GCM, and a check value by which one is known again (`spec/token.md`).
//!
//! Threat: two keys with one label, of which a token shows the one or the other first; a key that somebody wrote without
//! the PIN, and so knows; another key under the name of the first. So a key is named by its id, lies behind the PIN where
//! there is one, cannot be read, and is asked for its check value in the same session before it is used.

use crate::error::{TokenError, tried};
use crate::token::Connection;
use crate::uri::TokenUri;
use crate::worker::TokenWorker;
use bulla_crypto::digest::{equal, framed, sha256};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use cryptoki::context::Function;
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of the id of a key that is made here: it tells keys of all tokens apart.
pub(crate) const AES_ID_BYTES: usize = 16;
/// The mechanism by which keys are used.
const GCM: (MechanismType, &str) = (MechanismType::AES_GCM, "CKM_AES_GCM");
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const TAG_BITS: u64 = 128;
const KEY_BYTES: u64 = 32;
/// The IV and the additional data of the check value. Random IVs meet it once in 2^96, and nothing else is ever encrypted
/// by it.
const CHECK_IV: [u8; IV_BYTES] = *b"bulla/kcheck";
const CHECK_DOMAIN: &[u8] = b"bulla/v1/token/check";
const CHECK_BYTES: usize = 16;

/// One AES-256 key on a token.
pub struct AesKey {
    worker: Arc<TokenWorker>,
    name: AesName,
    /// The token takes no IV, and makes its own.
    makes_iv: Arc<AtomicBool>,
}

/// What names the key.
#[derive(Debug, Clone)]
struct AesName {
    id: Vec<u8>,
    label: Option<Vec<u8>>,
}

impl fmt::Display for AesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("id=")?;
        self.id.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
    }
}

impl AesKey {
    /// Bytes of what [`AesKey::encrypt`] makes of a 32-byte key: IV, ciphertext and tag.
    pub const SEALED_BYTES: usize = IV_BYTES + 32 + TAG_BYTES;

    /// The key that `uri` names on the token of `worker`. Nothing is asked of the token yet.
    ///
    /// # Errors
    /// `None` for a URI without an id; [`AesKey::ids`] shows those there are.
    pub fn new(worker: Arc<TokenWorker>, uri: &TokenUri) -> Option<Self> {
        let label = uri.object.as_ref().map(|label| label.as_bytes().to_vec());
        let name = AesName { id: uri.id.clone()?, label };
        Some(Self { worker, name, makes_iv: Arc::default() })
    }

    /// The error for a URI without an id: the ids of the keys that it could mean.
    pub async fn ids(worker: &TokenWorker, uri: &TokenUri) -> TokenError {
        let label = uri.object.as_ref().map(|label| label.as_bytes().to_vec());
        let found = worker.run("list its keys", move |session, connection| {
            let mut template = secret_keys(connection);
            template.extend(label.clone().map(Attribute::Label));
            shown(session, &template)
        });
        found.await.map_or_else(|error| error, |there| TokenError::NoId { there })
    }

    /// The key's id, in hex.
    pub fn id(&self) -> String {
        hex(&self.name.id)
    }

    /// The check value: equal on all tokens that hold this key, different for every other key, and of no use to who wants to
    /// know the key. `gcm:` and 32 hex digits of a hash over an encrypted constant; or, of a token that takes no IV, `kcv:`
    /// and what it has as `CKA_CHECK_VALUE`, which may be empty.
    ///
    /// # Errors
    /// [`TokenError`], also for a key that could be read out of the token.
    pub async fn check(&self) -> Result<String, TokenError> {
        self.run("look at its key", check).await
    }

    /// Encrypts a 32-byte key, if this is still the key with this check value: IV ‖ ciphertext ‖ tag.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn encrypt(&self, expected: &str, plain: &SecretKey, aad: Vec<u8>) -> Result<Vec<u8>, TokenError> {
        let (expected, plain, shown) = (expected.to_owned(), Arc::new(plain.copy()), self.name.to_string());
        self.run("encrypt", move |session, key, makes_iv| {
            if check(session, key, makes_iv)? != expected {
                return Err(TokenError::OtherKey { key: shown.clone() });
            }
            let mut iv = if makes_iv { [0; IV_BYTES] } else { draw(&mut SystemRng) };
            let sealed = encrypt(session, key, &mut iv, &aad, plain.expose())?;
            demand_fresh(&iv)?;
            Ok([iv.as_slice(), &sealed].concat())
        })
        .await
    }

    /// Decrypts what [`AesKey::encrypt`] made with the same check value and `aad`.
    ///
    /// # Errors
    /// [`TokenError::NotAuthentic`] if it was altered, and the others.
    pub async fn decrypt(&self, expected: &str, sealed: &[u8], aad: Vec<u8>) -> Result<SecretKey, TokenError> {
        if sealed.len() != Self::SEALED_BYTES {
            return Err(TokenError::NotAuthentic);
        }
        let (expected, sealed, shown) = (expected.to_owned(), sealed.to_vec(), self.name.to_string());
        let done = self.run("decrypt", move |session, key, makes_iv| {
            if check(session, key, makes_iv)? != expected {
                return Err(TokenError::OtherKey { key: shown.clone() });
            }
            let (iv, rest) = sealed.split_first_chunk::<IV_BYTES>().ok_or(TokenError::NotAuthentic)?;
            let mut iv = *iv;
            let params = gcm(&mut iv, &aad)?;
            let plain = session.decrypt(&Mechanism::AesGcm(params), key, rest).map(SecretBytes::new);
            let plain = plain.map_err(tried("decrypt"))?;
            SecretKey::from_slice(plain.expose()).ok_or(TokenError::WrongAnswer { what: "the length of a key" })
        });
        match done.await {
            // Tokens have many words for a tag that does not fit, some of which they also say of themselves.
            Err(error) if error.blames_the_data() => match self.check().await {
                Ok(_) => Err(TokenError::NotAuthentic),
                Err(error) => Err(error),
            },
            done => done,
        }
    }

    /// Does something with the key. Whether the token makes its IVs by itself is found out once.
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(&Session, ObjectHandle, bool) -> Result<T, TokenError> + Send + Sync + 'static,
    ) -> Result<T, TokenError> {
        let work = Arc::new(work);
        let makes_iv = self.makes_iv.load(Ordering::Relaxed);
        match self.once(what, work.clone(), makes_iv).await {
            Err(error) if !makes_iv && error.wants_no_iv() => {
                let done = self.once(what, work, true).await;
                self.makes_iv.store(done.is_ok(), Ordering::Relaxed);
                done
            }
            done => done,
        }
    }

    async fn once<T: Send + 'static>(
        &self,
        what: &'static str,
        work: Arc<impl Fn(&Session, ObjectHandle, bool) -> Result<T, TokenError> + Send + Sync + 'static>,
        makes_iv: bool,
    ) -> Result<T, TokenError> {
        let name = self.name.clone();
        self.worker
            .run(what, move |session, connection| {
                let key = name.find(session, connection)?;
                work(session, key, makes_iv)
            })
            .await
    }
}

impl AesName {
    /// The key in this session, if it may be used.
    fn find(&self, session: &Session, connection: &Connection) -> Result<ObjectHandle, TokenError> {
        let mut template = secret_keys(connection);
        template.push(Attribute::Id(self.id.clone()));
        template.extend(self.label.clone().map(Attribute::Label));
        let key = match session.find_objects(&template).map_err(tried("find its key"))?.as_slice() {
            [] => {
                let (token, there) = (connection.label().to_owned(), shown(session, &secret_keys(connection))?);
                return Err(TokenError::NoSecretKey { token, there });
            }
            [key] => *key,
            // Which of them comes first is the token's whim, or that of whoever made the second.
            _ => return Err(TokenError::Twins { key: self.to_string() }),
        };
        connection.demand(GCM, "encrypt with an AES key")?;
        self.judge(session, key)?;
        Ok(key)
    }

    /// Refuses a key that who has the PIN could read, or that is too short.
    fn judge(&self, session: &Session, key: ObjectHandle) -> Result<(), TokenError> {
        const ASKED: [AttributeType; 5] = [
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::Encrypt,
            AttributeType::Decrypt,
            AttributeType::ValueLen,
        ];
        let unfit = |why| Err(TokenError::Unfit { key: self.to_string(), why });
        let (mut sensitive, mut extractable, mut encrypts, mut decrypts, mut length) =
            (false, true, false, false, None);
        for attribute in session.get_attributes(key, &ASKED).map_err(tried("describe its key"))? {
            match attribute {
                Attribute::Sensitive(is) => sensitive = is,
                Attribute::Extractable(is) => extractable = is,
                Attribute::Encrypt(is) => encrypts = is,
                Attribute::Decrypt(is) => decrypts = is,
                Attribute::ValueLen(bytes) => length = Some(*bytes),
                _ => {}
            }
        }
        if !sensitive || extractable {
            return unfit("can be read out of the token (CKA_SENSITIVE is false, or CKA_EXTRACTABLE is true)");
        }
        if !(encrypts && decrypts) {
            return unfit("may not encrypt and decrypt (CKA_ENCRYPT, CKA_DECRYPT)");
        }
        if length.is_some_and(|bytes| bytes != KEY_BYTES) { unfit("has not 256 bits") } else { Ok(()) }
    }
}

impl TokenError {
    /// Whether the token refused to encrypt with an IV that it did not make.
    fn wants_no_iv(&self) -> bool {
        use RvError::{ArgumentsBad, MechanismParamInvalid};
        matches!(
            self,
            Self::Refused {
                cause: CryptokiError::Pkcs11(
                    MechanismParamInvalid | ArgumentsBad,
                    Function::EncryptInit | Function::Encrypt
                ),
                ..
            }
        )
    }

    /// Whether the data may be why the token did not decrypt.
    fn blames_the_data(&self) -> bool {
        matches!(self, Self::Refused { cause: CryptokiError::Pkcs11(_, Function::Decrypt), .. }) && !self.lost_session()
    }
}

/// Makes a key.
pub(crate) fn generate(connection: &Connection, label: &str, id: &[u8]) -> Result<(), TokenError> {
    connection.demand((MechanismType::AES_KEY_GEN, "CKM_AES_KEY_GEN"), "make an AES key")?;
    connection.demand(GCM, "encrypt with it")?;
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::ValueLen(KEY_BYTES.into()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    let session = connection.writing()?;
    session.generate_key(&Mechanism::AesKeyGen, &template).map_err(tried("make a key")).map(drop)
}

/// The AES keys of the token. Where there is a PIN, one that could be written without it may be anybody's.
fn secret_keys(connection: &Connection) -> Vec<Attribute> {
    let mut template =
        vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES), Attribute::Token(true)];
    template.extend(connection.has_pin().then_some(Attribute::Private(true)));
    template
}

/// Label and id of each key that fits.
fn shown(session: &Session, template: &[Attribute]) -> Result<Vec<String>, TokenError> {
    let mut all = Vec::new();
    for key in session.find_objects(template).map_err(tried("list its keys"))? {
        let (mut label, mut id) = (String::new(), Vec::new());
        for attribute in session
            .get_attributes(key, &[AttributeType::Label, AttributeType::Id])
            .map_err(tried("describe its key"))?
        {
            match attribute {
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                Attribute::Id(bytes) => id = bytes,
                _ => {}
            }
        }
        all.push(format!("{label} ({})", AesName { id, label: None }));
    }
    all.sort();
    Ok(all)
}

fn check(session: &Session, key: ObjectHandle, makes_iv: bool) -> Result<String, TokenError> {
    if makes_iv {
        // Whether it does.
        encrypt_by_its_iv(session, key)?;
    } else {
        let mut iv = CHECK_IV;
        let sealed = encrypt(session, key, &mut iv, CHECK_DOMAIN, &[0; 32])?;
        if equal(&iv, &CHECK_IV) {
            // The encrypted block is nobody's business: it is a part of the key stream of one IV.
            let hash = sha256(&[&framed(&[CHECK_DOMAIN, &sealed])]);
            return Ok(format!("gcm:{}", hex(hash.get(..CHECK_BYTES).unwrap_or_default())));
        }
    }
    let found = session.get_attributes(key, &[AttributeType::CheckValue]).map_err(tried("describe its key"))?;
    let value = found.into_iter().find_map(|attribute| match attribute {
        Attribute::CheckValue(value) => Some(value),
        _ => None,
    });
    Ok(format!("kcv:{}", hex(&value.unwrap_or_default())))
}

fn encrypt_by_its_iv(session: &Session, key: ObjectHandle) -> Result<(), TokenError> {
    let mut iv = [0; IV_BYTES];
    encrypt(session, key, &mut iv, CHECK_DOMAIN, &[0; 32])?;
    demand_fresh(&iv)
}

/// A token that leaves the zeros that it got would use one IV for all.
fn demand_fresh(iv: &[u8; IV_BYTES]) -> Result<(), TokenError> {
    if *iv == [0; IV_BYTES] || *iv == CHECK_IV { Err(TokenError::WrongAnswer { what: "the IV" }) } else { Ok(()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Ciphertext and tag. Afterwards `iv` is the one that was used, also where the token made it.
fn encrypt(
    session: &Session,
    key: ObjectHandle,
    iv: &mut [u8; IV_BYTES],
    aad: &[u8],
    plain: &[u8; 32],
) -> Result<Vec<u8>, TokenError> {
    let params = gcm(iv, aad)?;
    let sealed = session.encrypt(&Mechanism::AesGcm(params), key, plain).map_err(tried("encrypt"))?;
    if sealed.len() == plain.len().saturating_add(TAG_BYTES) {
        Ok(sealed)
    } else {
        Err(TokenError::WrongAnswer { what: "the length of what was encrypted" })
    }
}

fn gcm<'a>(iv: &'a mut [u8; IV_BYTES], aad: &'a [u8]) -> Result<GcmParams<'a>, TokenError> {
    GcmParams::new(iv, aad, TAG_BITS.into()).map_err(tried("take an IV"))
}
