//! Keys that an SSH agent holds: they sign, and never decrypt.
//!
//! Each request is a connection of its own, so an agent that was started anew is found again, and one that hangs keeps
//! nobody longer than the limits below.

mod error;
mod name;

pub use error::AgentError;
pub use name::{AgentKeyName, AgentNameError};

use crate::wait::{beside, within};
use bulla_crypto::BoxFuture;
use bulla_crypto::identity::Identity;
use bulla_crypto::openssh::agent::{self as protocol, AgentKey, AnswerError, Fingerprint, MAX_MESSAGE_BYTES};
use bulla_crypto::sign::{PublicKey, SignError, Signer};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the list of keys may take: nobody has to do anything for it.
const LIST: Duration = Duration::from_secs(10);
/// How long a signature may take: somebody may have to confirm it (`ssh-add -c`), or to touch a device.
const SIGN: Duration = Duration::from_secs(60);

/// The agent at a socket.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    list: Duration,
    sign: Duration,
}

impl Agent {
    /// The agent that the environment names in `SSH_AUTH_SOCK`.
    ///
    /// # Errors
    /// [`AgentError::NoSocket`], without one.
    pub fn new(socket: Option<OsString>) -> Result<Self, AgentError> {
        let socket = socket.filter(|socket| !socket.is_empty()).ok_or(AgentError::NoSocket)?;
        Ok(Self { socket: socket.into(), list: LIST, sign: SIGN })
    }

    /// The same with at most this time for each answer.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { list: self.list.min(limit), sign: self.sign.min(limit), ..self }
    }

    /// The identity with this key, which only signs. Blocks.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn identity(&self, name: &AgentKeyName) -> Result<Identity, AgentError> {
        let wanted = name.fingerprint()?;
        let key = choose(self.list()?, wanted)?;
        let public = key.public_key().cloned();
        let public = public.map_err(|cause| AgentError::Unusable { key: key.fingerprint(), cause: cause.clone() })?;
        let signer = AgentSigner { agent: self.clone(), key, public };
        Ok(Identity::from_parts(Arc::new(signer), None, false))
    }

    fn list(&self) -> Result<Vec<AgentKey>, AgentError> {
        let body = self.ask(protocol::list_request(), self.list)?;
        protocol::keys(&body).map_err(|error| match error {
            AnswerError::Refused => AgentError::Empty,
            AnswerError::Malformed(what) => AgentError::Protocol(what),
        })
    }

    /// One request, and the body of its answer.
    fn ask(&self, request: Vec<u8>, limit: Duration) -> Result<Vec<u8>, AgentError> {
        let socket = self.socket.clone();
        within(limit, move || converse(&socket, &request)).unwrap_or(Err(AgentError::TimedOut { limit }))
    }

    fn signature(&self, key: &AgentKey, public: &PublicKey, message: &[u8]) -> Result<Vec<u8>, AgentError> {
        let request = key.sign_request(message).ok_or(AgentError::TooLong)?;
        let signature = match key.signature(&self.ask(request, self.sign)?) {
            Ok(signature) => signature,
            Err(AnswerError::Malformed(what)) => return Err(AgentError::Protocol(what)),
            Err(AnswerError::Refused) => return Err(self.refused(key)),
        };
        public.verify(message, &signature).map_err(|_| AgentError::Protocol("a signature that does not verify"))?;
        Ok(signature)
    }

    /// Finds out what the agent did not say.
    fn refused(&self, key: &AgentKey) -> AgentError {
        let fingerprint = key.fingerprint();
        match self.list() {
            Ok(keys) if keys.iter().any(|there| there.fingerprint() == fingerprint) => {
                AgentError::Refused { key: fingerprint }
            }
            Ok(_) | Err(AgentError::Empty) => AgentError::Gone { key: fingerprint },
            Err(error) => error,
        }
    }
}

/// The key that is meant; without a name the only one that can be used, or else the only one.
fn choose(mut keys: Vec<AgentKey>, wanted: Option<Fingerprint>) -> Result<AgentKey, AgentError> {
    let names = |keys: &[AgentKey]| keys.iter().map(|key| key.fingerprint().to_string()).collect::<Vec<_>>();
    if keys.is_empty() {
        return Err(AgentError::Empty);
    }
    if let Some(wanted) = wanted {
        let found = keys.iter().find(|key| key.fingerprint() == wanted).cloned();
        return found.ok_or_else(|| AgentError::NoKey { wanted, there: names(&keys) });
    }
    if keys.len() > 1 {
        let there = names(&keys);
        keys.retain(|key| key.public_key().is_ok());
        if keys.is_empty() {
            return Err(AgentError::NoneUsable { there });
        }
    }
    match keys.as_slice() {
        [only] => Ok(only.clone()),
        several => Err(AgentError::Several { there: names(several) }),
    }
}

fn converse(socket: &Path, request: &[u8]) -> Result<Vec<u8>, AgentError> {
    let unreachable = |cause| AgentError::Unreachable { socket: socket.into(), cause };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.write_all(request).map_err(AgentError::Io)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(AgentError::Io)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(AgentError::Protocol("an answer that is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(AgentError::Io)?;
    Ok(body)
}

/// A signing key that stays in its agent.
struct AgentSigner {
    agent: Agent,
    key: AgentKey,
    public: PublicKey,
}

impl Signer for AgentSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        let (agent, key, public) = (self.agent.clone(), self.key.clone(), self.public.clone());
        let message = message.to_vec();
        Box::pin(async move {
            let limit = agent.sign;
            let signed = beside(move || agent.signature(&key, &public, &message)).await;
            let signed = signed.unwrap_or(Err(AgentError::TimedOut { limit }));
            signed.map_err(|error| SignError::Holder(Box::new(error)))
        })
    }
}
