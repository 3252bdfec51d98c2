//! A token, and the thread on which it is talked to.
//!
//! A session is one conversation: it keeps the state of an operation that failed, so after any error it is dropped and
//! the next job begins with a new one. The PIN is kept while the token is in use, because a token that lost its sessions
//! forgets who logged in; it is never sent again after the token refused it.

use crate::error::{TokenError, refused_login, tried};
use crate::module::{Module, TokenId};
use crate::pin::PinError;
use bulla_crypto::secret::SecretBytes;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::RawAuthPin;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long the end of a token's thread is waited for: it only closes a session, unless the token hangs.
const FAREWELL: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A token that was logged in to. Its thread ends with it.
pub(crate) struct Token {
    id: TokenId,
    jobs: Option<mpsc::Sender<Job>>,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Token {
    /// Logs in, and keeps the session on a thread of its own. `ask` gives the PIN; it is asked at most once, and not at
    /// all if the token needs none or has keys of its own to type it on.
    pub fn open(
        module: Module,
        id: TokenId,
        ask: &dyn Fn() -> Result<SecretBytes, TokenError>,
    ) -> Result<Self, TokenError> {
        let mut connection = Connection { module, id: id.clone(), login: Login::Nothing, session: None };
        connection.login = connection.login_needed(ask)?;
        connection.open()?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("token".to_owned());
        let spawned = thread.spawn(move || {
            for job in inbox {
                job(&mut connection);
            }
            drop(connection);
            drop(end);
        });
        spawned.map_err(|_| TokenError::Gone)?;
        Ok(Self { id, jobs: Some(jobs), ended: Mutex::new(ended) })
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.id.label
    }

    /// Does something in a session, and waits for it. Not to be called where nothing may block.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let (tell, told) = mpsc::channel();
        self.submit(Box::new(move |connection| drop(tell.send(connection.perform(&work)))))?;
        told.recv().map_err(|_| TokenError::Gone)?
    }

    /// Does something in a session.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.submit(Box::new(move |connection| drop(tell.send(connection.perform(&work)))))?;
        told.await.map_err(|_| TokenError::Gone)?
    }

    fn submit(&self, job: Job) -> Result<(), TokenError> {
        self.jobs.as_ref().ok_or(TokenError::Gone)?.send(job).map_err(|_| TokenError::Gone)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // A process that ends while a module works may crash in it.
        self.jobs = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The thread tells its end by dropping the other side, and a token that hangs tells nothing.
        let _: Result<(), mpsc::RecvTimeoutError> = ended.recv_timeout(FAREWELL);
    }
}

/// How to log in.
enum Login {
    /// The token needs nothing.
    Nothing,
    /// The PIN is typed on the token's reader.
    PinPad,
    /// With this PIN.
    Pin(RawAuthPin),
    /// The token refused it; nothing is sent any more.
    Refused,
}

/// What the thread holds.
pub(crate) struct Connection {
    module: Module,
    id: TokenId,
    login: Login,
    session: Option<Session>,
}

impl Connection {
    /// Does `work` in the session. If the session turns out to be lost, once more in a new one.
    fn perform<T>(&mut self, work: &impl Fn(&Session, &Self) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let kept = self.session.is_some();
        match self.once(work) {
            Err(error) if kept && error.lost_session() => self.once(work),
            done => done,
        }
    }

    fn once<T>(&mut self, work: &impl Fn(&Session, &Self) -> Result<T, TokenError>) -> Result<T, TokenError> {
        if self.session.is_none() {
            self.open()?;
        }
        let session = self.session.take().ok_or(TokenError::Gone)?;
        let done = work(&session, self);
        if done.is_ok() {
            self.session = Some(session);
        }
        done
    }

    fn open(&mut self) -> Result<(), TokenError> {
        let slot = self.module.slot_of(&self.id)?;
        let session = self.module.context().open_ro_session(slot).map_err(tried("open a session"))?;
        self.log_in(&session)?;
        self.session = Some(session);
        Ok(())
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.id.label
    }

    /// A session that may write, logged in.
    pub fn writing(&self) -> Result<Session, TokenError> {
        let slot = self.module.slot_of(&self.id)?;
        self.module.context().open_rw_session(slot).map_err(tried("open a session that writes"))
    }

    /// Refuses a token that lacks a mechanism.
    pub fn demand(&self, mechanism: (MechanismType, &'static str), purpose: &'static str) -> Result<(), TokenError> {
        self.module.demand(self.module.slot_of(&self.id)?, mechanism, purpose)
    }

    /// Finds out what logging in takes, and asks for it.
    fn login_needed(&self, ask: &dyn Fn() -> Result<SecretBytes, TokenError>) -> Result<Login, TokenError> {
        let info = self.module.info(self.module.slot_of(&self.id)?)?;
        let token = || self.id.label.clone();
        if !info.login_required() {
            return Ok(Login::Nothing);
        }
        if info.user_pin_locked() {
            return Err(TokenError::PinLocked { token: token() });
        }
        if !info.user_pin_initialized() {
            return Err(TokenError::PinNotSet { token: token() });
        }
        if info.protected_authentication_path() {
            return Ok(Login::PinPad);
        }
        let mut pin = ask()?;
        // The token would count it as a try.
        if pin.expose().is_empty() {
            return Err(PinError::Cancelled.into());
        }
        Ok(Login::Pin(RawAuthPin::new(Box::new(std::mem::take(pin.expose_mut())))))
    }

    fn log_in(&mut self, session: &Session) -> Result<(), TokenError> {
        let state = session.get_session_info().map_err(tried("describe a session"))?.session_state();
        if matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let done = match &self.login {
            Login::Nothing => return Ok(()),
            Login::PinPad => session.login(UserType::User, None),
            Login::Pin(pin) => session.login_with_raw(UserType::User, pin),
            Login::Refused => return Err(TokenError::NotTriedAgain { token: self.id.label.clone() }),
        };
        let Err(error) = done else { return Ok(()) };
        let last = self.module.slot_of(&self.id).and_then(|slot| self.module.info(slot));
        let last = last.is_ok_and(|info| info.user_pin_final_try());
        let Some(error) = refused_login(error, &self.id.label, last) else { return Ok(()) };
        // Whatever the reason was, the token may have counted it.
        self.login = Login::Refused;
        Err(error)
    }
}
