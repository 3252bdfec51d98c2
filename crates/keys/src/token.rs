//! A token, and the thread on which it is talked to.
//!
//! A session is one conversation: it keeps the state of an operation that failed, so after any error it is dropped and
//! the next job begins with a new one. The PIN is kept while the token is in use, because a token that lost its sessions
//! forgets who logged in; it is never sent again after the token refused it.

use crate::error::{TokenError, refused_login, tried};
use crate::module::{Module, TokenId, Waiting};
use crate::pin::PinError;
use crate::refused::{self, Print};
use crate::wait::{Thread, beside};
use bulla_crypto::secret::SecretBytes;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::RawAuthPin;
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long a token may take for one thing. A person may have to touch it, for which cards wait a quarter of a minute, and
/// some sign with a long RSA key for several seconds.
const ANSWER: Duration = Duration::from_secs(60);
/// The same where the PIN is typed on the reader, which the person may first have to look for.
const KEYPAD: Duration = Duration::from_secs(180);
/// How long the end of a token's thread is waited for: it only closes a session, unless the token hangs.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long tokens are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For whatever needs no more than a touch.
    pub answer: Duration,
    /// For whatever may need a PIN on the reader's keypad.
    keypad: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: ANSWER, keypad: KEYPAD }
    }
}

impl Limits {
    pub fn at_most(self, limit: Duration) -> Self {
        Self { answer: self.answer.min(limit), keypad: self.keypad.min(limit) }
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The way to a token's thread. Jobs go there one at a time, so that nobody's time passes while others are served.
#[derive(Clone)]
struct Way {
    /// `None` once one did not come back.
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
    module: Module,
    /// The thread's own: what it keeps once it is given up, for as long as it is there.
    kept: Weak<Mutex<Option<Waiting>>>,
}

impl Way {
    /// Gives the thread up. It keeps a place at the module until it ends, so that not any number of them is left behind.
    fn give_up(&self, jobs: &mut Option<mpsc::Sender<Job>>) {
        *jobs = None;
        if let Some(kept) = self.kept.upgrade() {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.module.given_up());
        }
    }
}

/// A token that was logged in to. Its thread ends with it, unless the token hangs: then it is left behind.
pub(crate) struct Token {
    id: TokenId,
    limit: Duration,
    way: Way,
    /// `None` when it ended.
    thread: Option<Thread>,
}

impl Token {
    /// Logs in, and keeps the session on a thread of its own. `ask` gives the PIN; it is asked at most once, and not at
    /// all if the token needs none or has keys of its own to type it on. One that is cautious leaves the last try to people.
    pub fn open(
        module: Module,
        id: TokenId,
        limits: Limits,
        cautious: bool,
        ask: &dyn Fn() -> Result<SecretBytes, TokenError>,
    ) -> Result<Self, TokenError> {
        let mut connection = Connection { cautious, ..Connection::new(module.clone(), id.clone()) };
        let keeps = Arc::default();
        let kept = Arc::downgrade(&keeps);
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = Thread::start(thread::Builder::new().name("token".to_owned()), move || {
            for job in inbox {
                job(&mut connection);
            }
            drop(connection);
            drop(keeps);
        });
        let thread = Some(thread.ok_or(TokenError::Gone)?);
        let way = Way { jobs: Arc::new(Mutex::new(Some(jobs))), module, kept };
        let mut token = Self { id, limit: limits.answer, way, thread };
        let done =
            wait(&token.way, token.label(), "say how to log in", token.limit, |connection| connection.login_needed());
        let login = match done? {
            LoginNeeded::Nothing => Login::Nothing,
            LoginNeeded::Keypad => {
                token.limit = limits.keypad;
                Login::Keypad
            }
            LoginNeeded::Pin => {
                let mut pin = ask()?;
                // The token would count it as a try.
                if pin.expose().is_empty() {
                    return Err(PinError::Cancelled.into());
                }
                let print = Print::of(pin.expose());
                if cautious && refused::is_known(&token.id, print) {
                    return Err(TokenError::RefusedBefore { token: token.id.label.clone() });
                }
                Login::Pin(RawAuthPin::new(Box::new(std::mem::take(pin.expose_mut()))), print)
            }
        };
        wait(&token.way, token.label(), "log in", token.limit, move |connection| {
            connection.login = login;
            connection.open()
        })?;
        Ok(token)
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.id.label
    }

    /// Does something in a session, and waits for it. Not to be called where nothing may block.
    pub fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        wait(&self.way, self.label(), what, self.limit, move |connection| connection.perform(&work))
    }

    /// Does something in a session.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let (way, label, limit) = (self.way.clone(), self.id.label.clone(), self.limit);
        let done = beside(move || wait(&way, &label, what, limit, move |connection| connection.perform(&work)));
        done.await.unwrap_or(Err(TokenError::Gone))
    }
}

/// Has a token's thread do something, and waits for it no longer than `limit`.
fn wait<T: Send + 'static>(
    way: &Way,
    token: &str,
    what: &'static str,
    limit: Duration,
    work: impl FnOnce(&mut Connection) -> Result<T, TokenError> + Send + 'static,
) -> Result<T, TokenError> {
    let mut jobs = way.jobs.lock().unwrap_or_else(PoisonError::into_inner);
    let open = jobs.as_ref().ok_or_else(|| TokenError::NotTriedAgain { token: token.to_owned() })?;
    let (tell, told) = mpsc::channel();
    open.send(Box::new(move |connection| drop(tell.send(work(connection))))).map_err(|_| TokenError::Gone)?;
    match told.recv_timeout(limit) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(TokenError::Gone),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            way.give_up(&mut jobs);
            Err(TokenError::TimedOut { who: format!("token {token:?}"), what, limit })
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // What still works when nobody waits for it any more has as long as it takes to close a session; what hangs is left
        // behind at once.
        let start = Instant::now();
        let hangs = loop {
            match self.way.jobs.try_lock() {
                Ok(mut jobs) => break jobs.take().is_none(),
                Err(TryLockError::Poisoned(jobs)) => break jobs.into_inner().take().is_none(),
                Err(TryLockError::WouldBlock) if start.elapsed() < FAREWELL => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => break true,
            }
        };
        if let Some(thread) = self.thread.take().filter(|_| !hangs) {
            thread.farewell();
        }
    }
}

/// What logging in takes.
pub(crate) enum LoginNeeded {
    Nothing,
    Keypad,
    Pin,
}

/// How to log in.
pub(crate) enum Login {
    /// The token needs nothing.
    Nothing,
    /// The PIN is typed on the token's reader.
    Keypad,
    /// With this PIN, which is known by its print if it is refused.
    Pin(RawAuthPin, Print),
    /// The token refused it; nothing is sent any more.
    Refused,
}

/// What the thread holds.
pub(crate) struct Connection {
    module: Module,
    id: TokenId,
    login: Login,
    session: Option<Session>,
    /// The last try before the token locks is left to people.
    cautious: bool,
}

impl Connection {
    /// To that token, as somebody who does not log in.
    pub fn new(module: Module, id: TokenId) -> Self {
        Self { module, id, login: Login::Nothing, session: None, cautious: false }
    }

    /// The same, but it logs in only where a wrong PIN would not lock the token.
    pub fn cautious(self) -> Self {
        Self { cautious: true, ..self }
    }

    /// From the next session on logs in like this.
    pub fn log_in_with(&mut self, login: Login) {
        self.login = login;
    }

    /// Whether the token refused this PIN before, whoever sent it.
    pub fn knows_refused(&self, pin: Print) -> bool {
        refused::is_known(&self.id, pin)
    }

    /// Whether the token refused to log in, so that nothing is sent any more.
    pub fn is_refused(&self) -> bool {
        matches!(self.login, Login::Refused)
    }

    /// Does `work` in the session. If the session turns out to be lost, once more in a new one.
    pub fn perform<T>(&mut self, work: &impl Fn(&Session, &Self) -> Result<T, TokenError>) -> Result<T, TokenError> {
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

    /// Whether keys lie behind a PIN.
    pub fn has_pin(&self) -> bool {
        !matches!(self.login, Login::Nothing)
    }

    /// Finds out what logging in takes.
    pub fn login_needed(&self) -> Result<LoginNeeded, TokenError> {
        let info = self.module.info(self.module.slot_of(&self.id)?)?;
        let token = || self.id.label.clone();
        if !info.login_required() {
            return Ok(LoginNeeded::Nothing);
        }
        if info.user_pin_locked() {
            return Err(TokenError::PinLocked { token: token() });
        }
        if !info.user_pin_initialized() {
            return Err(TokenError::PinNotSet { token: token() });
        }
        Ok(if info.protected_authentication_path() { LoginNeeded::Keypad } else { LoginNeeded::Pin })
    }

    fn log_in(&mut self, session: &Session) -> Result<(), TokenError> {
        let Login::Pin(_, print) = &self.login else { return self.log_in_now(session) };
        let (print, turn) = (*print, refused::turn(&self.id));
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cautious && !self.is_logged_in(session)? && self.knows_refused(print) {
            // Somebody else sent it since it was read; the file may hold another one by now.
            self.login = Login::Refused;
            return Err(TokenError::RefusedBefore { token: self.id.label.clone() });
        }
        self.log_in_now(session)
    }

    /// Who logged in is a matter of the whole process.
    fn is_logged_in(&self, session: &Session) -> Result<bool, TokenError> {
        let state = session.get_session_info().map_err(tried("describe a session"))?.session_state();
        Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
    }

    /// With a PIN, in one's turn.
    fn log_in_now(&mut self, session: &Session) -> Result<(), TokenError> {
        if self.is_logged_in(session)? {
            return Ok(());
        }
        if self.cautious && matches!(self.login, Login::Pin(..)) {
            let info = self.module.info(self.module.slot_of(&self.id)?)?;
            if info.user_pin_final_try() {
                return Err(TokenError::LastTry { token: self.id.label.clone() });
            }
        }
        let done = match &self.login {
            Login::Nothing => return Ok(()),
            Login::Keypad => session.login(UserType::User, None),
            Login::Pin(pin, _) => session.login_with_raw(UserType::User, pin),
            Login::Refused => return Err(TokenError::NotTriedAgain { token: self.id.label.clone() }),
        };
        let print = if let Login::Pin(_, print) = &self.login { Some(*print) } else { None };
        let Err(error) = done else {
            print.into_iter().for_each(|print| refused::forget(&self.id, print));
            return Ok(());
        };
        let last = self.module.slot_of(&self.id).and_then(|slot| self.module.info(slot));
        let last = last.is_ok_and(|info| info.user_pin_final_try());
        let Some(error) = refused_login(error, &self.id.label, last) else { return Ok(()) };
        // A token that is gone or failed judged no PIN; a service tries again when it is back.
        if !(self.cautious && (error.lost_session() || error.is_of_the_device())) {
            // Whatever the reason was, the token may have counted it.
            self.login = Login::Refused;
            print.into_iter().for_each(|print| refused::remember(&self.id, print));
        }
        Err(error)
    }
}
