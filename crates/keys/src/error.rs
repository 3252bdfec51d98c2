//! Why a key on a token could not be used, and what to do about it.

use crate::pin::PinError;
use bulla_crypto::sign::PublicKeyError;
use cryptoki::context::Function;
use cryptoki::error::{Error as CryptokiError, RvError};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a key on a token could not be used. No variant holds a PIN.
#[derive(Debug)]
pub enum TokenError {
    /// The URI names no module.
    NoModule,
    /// No file of that name is in the usual folders.
    ModuleNotFound {
        /// The name that was looked for.
        name: String,
    },
    /// The module is not there, or is none.
    Module {
        /// Which file.
        path: PathBuf,
        /// What the system or the module said.
        cause: CryptokiError,
    },
    /// No token is as the URI says.
    NoToken {
        /// The labels of the tokens that are there.
        there: Vec<String>,
    },
    /// Several tokens are as the URI says.
    SeveralTokens {
        /// Label and serial number of each.
        there: Vec<String>,
    },
    /// The token has no such private key that can be used.
    NoKey {
        /// The token's label.
        token: String,
        /// What it would do.
        purpose: &'static str,
        /// The labels of the private keys that are there.
        there: Vec<String>,
    },
    /// The key was there and no longer is.
    KeyGone {
        /// The key's label.
        key: String,
    },
    /// The ML-KEM seed beside the key is damaged, or there are two.
    Seed,
    /// An id for keys that are yet to be made.
    IdOfNewKeys,
    /// Several keys are as the URI says and do the same.
    SeveralKeys {
        /// The token's label.
        token: String,
        /// What they do.
        purpose: &'static str,
        /// Label and id of each.
        there: Vec<String>,
    },
    /// Several private keys have one label and one id, so which is meant cannot be said.
    Twins {
        /// The label and id.
        key: String,
    },
    /// Objects beside a private key tell different public keys.
    SeveralPublicKeys {
        /// The private key's label and id.
        key: String,
    },
    /// Something with that label is on the token already.
    Exists {
        /// The token's label.
        token: String,
        /// The label.
        object: String,
    },
    /// The URI does not say what to call the new keys.
    NoLabel,
    /// The token has the private key alone.
    NoPublicKey {
        /// The key's label.
        key: String,
    },
    /// The public key is not one that can be used.
    PublicKey {
        /// The key's label.
        key: String,
        /// What is wrong with it.
        cause: PublicKeyError,
    },
    /// The token wants its PIN before each use of the key.
    AlwaysAuthenticate {
        /// The key's label.
        key: String,
    },
    /// The token cannot do what is needed.
    Mechanism {
        /// The token's label.
        token: String,
        /// The name of the mechanism in PKCS#11.
        name: &'static str,
        /// What it would do.
        purpose: &'static str,
    },
    /// What the token returned is not by the key that its public key says.
    WrongAnswer {
        /// What was asked for.
        what: &'static str,
    },
    /// The URI names no id, by which a secret key is told from others of its label.
    NoId {
        /// The ids of the secret keys that fit the rest, as they stand in a URI.
        there: Vec<String>,
    },
    /// The token has no such secret key.
    NoSecretKey {
        /// The token's label.
        token: String,
        /// Label and id of each AES key that is there.
        there: Vec<String>,
    },
    /// The secret key is there, and must not be used.
    Unfit {
        /// Its label and id.
        key: String,
        /// Why.
        why: &'static str,
    },
    /// Under the same name there is another key than before.
    OtherKey {
        /// Its label and id.
        key: String,
    },
    /// What was to be decrypted was altered, or is by another key.
    NotAuthentic,
    /// The PIN in the file is the one that the token refused.
    RefusedBefore {
        /// The token's label.
        token: String,
    },
    /// The next wrong PIN locks the token.
    LastTry {
        /// The token's label.
        token: String,
    },
    /// The PIN is typed on the token's reader, where a service has nobody.
    Keypad {
        /// The token's label.
        token: String,
    },
    /// There is no PIN.
    Pin(PinError),
    /// The token refused the PIN.
    WrongPin {
        /// The token's label.
        token: String,
        /// Whether the next wrong one locks it.
        last: bool,
    },
    /// The token refused a PIN before, or gave no answer, so it is asked nothing more.
    NotTriedAgain {
        /// The token's label.
        token: String,
    },
    /// Too many wrong PINs.
    PinLocked {
        /// The token's label.
        token: String,
    },
    /// The token has no user PIN yet.
    PinNotSet {
        /// The token's label.
        token: String,
    },
    /// A token or its module gave no answer.
    TimedOut {
        /// The token or the module's file.
        who: String,
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The thread that talks to the token ended.
    Gone,
    /// The module refused something.
    Refused {
        /// What was tried.
        what: &'static str,
        /// Which function refused, and with which code.
        cause: CryptokiError,
    },
}

impl TokenError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NoModule => "add ?module-path=/PATH/TO/MODULE.so to the URI; its vendor says which file that is".into(),
            Self::ModuleNotFound { .. } | Self::Module { .. } => {
                "name the vendor's library with ?module-path=/PATH; for SoftHSM that is \
                 /usr/lib/softhsm/libsofthsm2.so, for smart cards opensc-pkcs11.so"
                    .into()
            }
            Self::NoToken { .. } => "check that it is plugged in, and token= in the URI".into(),
            Self::SeveralTokens { .. } => "say which one with serial= in the URI".into(),
            Self::NoKey { .. } => {
                "check object= in the URI; `bulla keygen --pkcs11 URI` makes keys, `pkcs11-tool --list-objects` shows them"
                    .into()
            }
            Self::SeveralKeys { .. } => "say which one with id= in the URI, or with object= where ids are the same".into(),
            Self::Twins { .. } => {
                "give one of them another id with the token's own tools, or delete the one that you did not make: \
                 `pkcs11-tool --list-objects --type privkey` shows them"
                    .into()
            }
            Self::SeveralPublicKeys { .. } => {
                "delete those that are not its own: `pkcs11-tool --list-objects` shows public keys and certificates with their ids"
                    .into()
            }
            Self::Exists { .. } => "choose another object= in the URI; `bulla keygen --from URI` takes what is there".into(),
            Self::KeyGone { .. } => "check that the token is plugged in, and what is on it".into(),
            Self::Seed => "restore it from a copy, or make new keys".into(),
            Self::IdOfNewKeys => "leave id= out of the URI: new keys get ids of their own".into(),
            Self::NoLabel => "add object=NAME to the URI".into(),
            Self::NoPublicKey { .. } => {
                "store the public key beside it, with the same id: `pkcs11-tool --write-object FILE --type pubkey --id ID`; a \
                 certificate with that id serves too"
                    .into()
            }
            Self::PublicKey { cause: PublicKeyError::RsaTooShort { .. }, .. } => "make a longer key, or a P-256 one".into(),
            Self::PublicKey { .. } => "use an Ed25519, P-256, P-384 or RSA key".into(),
            Self::AlwaysAuthenticate { .. } => {
                "name keys without this rule with id= in the URI: on a PIV card, one of another slot than 9c".into()
            }
            Self::Mechanism { .. } => {
                "use a key of another kind, or another token; --decrypt-with names a key elsewhere that decrypts".into()
            }
            Self::WrongAnswer { .. } => "its objects do not belong together: check with `pkcs11-tool --test`".into(),
            Self::NoId { .. } => "add id= to the URI: a second key of the same label would take the place of the first".into(),
            Self::NoSecretKey { .. } => {
                "check id= in the URI; `bulla kms keygen --pkcs11 URI` makes a key, `pkcs11-tool --login --list-objects --type secrkey` \
                 shows them"
                    .into()
            }
            Self::Unfit { .. } => "make a key with `bulla kms keygen --pkcs11 URI`".into(),
            Self::OtherKey { .. } => "restore the key that was there, or give the new one an id of its own".into(),
            Self::NotAuthentic => "check which key it was encrypted by".into(),
            Self::RefusedBefore { .. } => "write the right PIN to the file, which is read again; if it is right by now, start again".into(),
            Self::LastTry { .. } => {
                "log in once with the right PIN by hand, such as with `pkcs11-tool --login --list-objects`, and check the file".into()
            }
            Self::Keypad { .. } => "use a token that takes its PIN from a program".into(),
            Self::Pin(error) => error.hint().into(),
            Self::WrongPin { last: true, .. } => "one more wrong PIN locks the token: make sure before you try again".into(),
            Self::WrongPin { last: false, .. } => "nothing tries again by itself, for the token would lock".into(),
            Self::NotTriedAgain { .. } => "start again, with the right PIN".into(),
            Self::TimedOut { .. } => {
                "check that the token is plugged in and waits for no touch and no PIN on its reader, that nothing else uses it, \
                 and that --timeout leaves it time"
                    .into()
            }
            Self::PinLocked { .. } => "who has its SO PIN or PUK can unlock it, with the vendor's tool".into(),
            Self::PinNotSet { .. } => "initialise it: `pkcs11-tool --init-pin`".into(),
            Self::Gone => "start again".into(),
            Self::Refused { .. } => "check that the token is plugged in, and look at its log".into(),
        }
    }

    /// Whether nothing more may be sent to the token: it may have counted a wrong PIN, or hangs.
    pub(crate) fn ends_all(&self) -> bool {
        matches!(
            self,
            Self::WrongPin { .. }
                | Self::PinLocked { .. }
                | Self::TimedOut { .. }
                | Self::Refused { cause: CryptokiError::Pkcs11(_, Function::Login), .. }
        )
    }

    /// Whether the session is to blame, so that the same thing may succeed in a new one.
    pub(crate) fn lost_session(&self) -> bool {
        use RvError::{
            DeviceRemoved, KeyHandleInvalid, ObjectHandleInvalid, OperationActive, SessionClosed, SessionHandleInvalid,
            TokenNotPresent, UserNotLoggedIn,
        };
        matches!(
            self,
            Self::Refused {
                cause: CryptokiError::Pkcs11(
                    SessionHandleInvalid
                        | SessionClosed
                        | DeviceRemoved
                        | TokenNotPresent
                        | UserNotLoggedIn
                        | ObjectHandleInvalid
                        | KeyHandleInvalid
                        | OperationActive,
                    _
                ),
                ..
            }
        )
    }
}

impl TokenError {
    /// Whether the device failed, whatever it was asked: that says nothing of a PIN.
    pub(crate) fn is_of_the_device(&self) -> bool {
        use RvError::{DeviceError, DeviceMemory, FunctionFailed, GeneralError, HostMemory};
        let Self::Refused { cause: CryptokiError::Pkcs11(code, _), .. } = self else { return false };
        matches!(code, DeviceError | DeviceMemory | FunctionFailed | GeneralError | HostMemory)
    }
}

/// A refusal of the module while something was tried.
pub(crate) fn tried(what: &'static str) -> impl Fn(CryptokiError) -> TokenError {
    move |cause| TokenError::Refused { what, cause }
}

/// What to say of a login that was refused. `None` is success: another session logged in already.
pub(crate) fn refused_login(error: CryptokiError, token: &str, last: bool) -> Option<TokenError> {
    let token = token.to_owned();
    Some(match error {
        CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, Function::Login) => return None,
        CryptokiError::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
            TokenError::WrongPin { token, last }
        }
        CryptokiError::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked { token },
        CryptokiError::Pkcs11(RvError::UserPinNotInitialized, _) => TokenError::PinNotSet { token },
        cause => TokenError::Refused { what: "log in", cause },
    })
}

impl From<PinError> for TokenError {
    fn from(error: PinError) -> Self {
        Self::Pin(error)
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str("the URI does not say which module talks to the token"),
            Self::ModuleNotFound { name } => write!(f, "no module {name:?} is in the usual folders"),
            Self::Module { path, .. } => write!(f, "{} cannot be used as a PKCS#11 module", path.display()),
            Self::NoToken { there } => write!(f, "there is no such token; {}", listed("there are", there)),
            Self::SeveralTokens { there } => write!(f, "several tokens are so: {}", there.join(", ")),
            Self::NoKey { token, purpose, there } if there.is_empty() => {
                write!(f, "token {token:?} has no such private key that {purpose}")
            }
            Self::NoKey { token, purpose, there } => {
                let there = there.join(", ");
                write!(f, "token {token:?} has no such private key that {purpose}; its keys are: {there}")
            }
            Self::KeyGone { key } => write!(f, "the key {key:?} is no longer on the token"),
            Self::Seed => f.write_str("the ML-KEM seed beside the key is damaged, or stands there twice"),
            Self::IdOfNewKeys => f.write_str("the URI names an id, and there are no keys yet"),
            Self::SeveralKeys { token, purpose, there } => {
                write!(f, "several keys of token {token:?} {purpose}: {}", there.join(", "))
            }
            Self::Twins { key } => write!(f, "several private keys of the token are {key}"),
            Self::SeveralPublicKeys { key } => write!(f, "the token tells several public keys of {key}"),
            Self::Exists { token, object } => {
                write!(f, "token {token:?} has an object {object:?} already, and nothing is overwritten")
            }
            Self::NoLabel => f.write_str("the URI does not say what to call the new keys"),
            Self::NoPublicKey { key } => write!(f, "the token does not tell the public key of {key:?}"),
            Self::PublicKey { key, cause } => write!(f, "the key {key:?} cannot be used: {cause}"),
            Self::AlwaysAuthenticate { key } => {
                write!(f, "the token wants its PIN before each use of {key:?}, which is not done")
            }
            Self::Mechanism { token, name, purpose } => {
                write!(f, "token {token:?} lacks {name}, so it cannot {purpose}")
            }
            Self::WrongAnswer { what } => write!(f, "{what} does not fit the public key on the token"),
            Self::NoId { there } => {
                write!(f, "the URI does not name the key by its id; {}", listed("those that fit are", there))
            }
            Self::NoSecretKey { token, there } => {
                write!(f, "token {token:?} has no such AES key; {}", listed("there are", there))
            }
            Self::Unfit { key, why } => write!(f, "the key {key} {why}"),
            Self::OtherKey { key } => write!(f, "under the name of {key} there is another key than before"),
            Self::NotAuthentic => f.write_str("what was to be decrypted was altered, or is by another key"),
            Self::RefusedBefore { token } => {
                write!(f, "token {token:?} refused the PIN that is in the file, and does not get it again")
            }
            Self::LastTry { token } => write!(f, "one more wrong PIN would lock token {token:?}, so none is sent"),
            Self::Keypad { token } => write!(f, "token {token:?} wants its PIN on its reader"),
            Self::Pin(error) => error.fmt(f),
            Self::WrongPin { token, .. } => write!(f, "token {token:?} refused the PIN"),
            Self::NotTriedAgain { token } => {
                write!(f, "token {token:?} refused the PIN or gave no answer before, and is not asked again")
            }
            Self::PinLocked { token } => write!(f, "the PIN of token {token:?} is locked"),
            Self::PinNotSet { token } => write!(f, "token {token:?} has no user PIN yet"),
            Self::TimedOut { who, what, limit } => {
                write!(f, "{who} gave no answer within {} s, when it was to {what}", limit.as_secs())
            }
            Self::Gone => f.write_str("the thread that talks to the token ended"),
            Self::Refused { what, .. } => write!(f, "the token could not {what}"),
        }
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Module { cause, .. } | Self::Refused { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

fn listed(introduction: &str, labels: &[String]) -> String {
    if labels.is_empty() { "there is none".to_owned() } else { format!("{introduction}: {}", labels.join(", ")) }
}
