//! A token that a service uses for as long as it runs.
//!
//! Unlike a command, a service cannot end when a token hangs, so what hung may come back: the thread goes on once the
//! module returns, and whoever waited has long given up. There is one thread for each token, and a limit to what waits for
//! it, so nothing piles up behind a module that never returns. Nothing is loaded, and no PIN is read, before the first job.
//!
//! Held: a PIN that the token refused is never sent again by this process, by whatever loop or worker; another one in the file is. The last try
//! before the token locks is left to people.

use crate::agree::TokenAgreement;
use crate::error::TokenError;
use crate::module::Module;
use crate::object::Keys;
use crate::pin;
use crate::refused::Print;
use crate::token::{Connection, Login, LoginNeeded};
use crate::tokens::opener_of;
use crate::uri::TokenUri;
use crate::wait::Thread;
use bulla_crypto::envelope::Decrypter;
use cryptoki::session::Session;
use cryptoki::types::RawAuthPin;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// How many jobs wait: as many as a plugin has seeds under way. A token that works does each in milliseconds.
const WAITING: usize = 64;

type Job = Box<dyn FnOnce(&mut Post) + Send>;

/// The way to one token.
pub struct TokenWorker {
    /// `None` when it ends.
    jobs: Option<mpsc::SyncSender<Job>>,
    /// `None` when it ended.
    thread: Option<Thread>,
    shown: String,
    limit: Duration,
}

impl TokenWorker {
    /// Makes ready to use the token that `uri` names. The PIN is the first line of the URI's `pin-source`, or else of
    /// `pin_file`; a token that needs none gets none. `limit` is how long one answer of the token is waited for.
    ///
    /// # Errors
    /// [`TokenError::Gone`], if there is no thread to be had.
    pub fn start(uri: &TokenUri, pin_file: Option<PathBuf>, limit: Duration) -> Result<Self, TokenError> {
        let place = Self::place(uri);
        let mut post = Post {
            pin_file: uri.pin_source.clone().or(pin_file),
            shown: place.to_string(),
            uri: place,
            connection: None,
        };
        let shown = post.shown.clone();
        let (jobs, inbox) = mpsc::sync_channel::<Job>(WAITING);
        let thread = Thread::start(thread::Builder::new().name("token".to_owned()), move || {
            for job in inbox {
                job(&mut post);
            }
        });
        let thread = Some(thread.ok_or(TokenError::Gone)?);
        Ok(Self { jobs: Some(jobs), thread, shown, limit })
    }

    /// The part of a URI that names the token, without a key on it: two keys with the same are on one token.
    pub fn place(uri: &TokenUri) -> TokenUri {
        TokenUri { object: None, id: None, ..uri.clone() }
    }

    /// The key that `uri` names for decryption (`spec/token.md`), which is on this token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn decrypter(self: &Arc<Self>, uri: &TokenUri) -> Result<Arc<dyn Decrypter>, TokenError> {
        let uri = uri.clone();
        let found = self.run("show its keys", move |session, connection| {
            let missing =
                || TokenError::NoKey { token: connection.label().to_owned(), purpose: "decrypts", there: Vec::new() };
            let key = Keys::find(session, connection, &uri)?.agrees.ok_or_else(missing)?;
            TokenAgreement::demand(connection)?;
            let seed = key.name.seed(session)?;
            Ok((key, seed.map(Arc::new)))
        });
        let (key, seed) = found.await?;
        opener_of(Holder::Worker(self.clone()), &key, seed.as_deref())
    }

    /// Ends the session, and forgets the PIN: for keys that are used now and then.
    ///
    /// # Errors
    /// [`TokenError::TimedOut`].
    pub async fn release(&self) -> Result<(), TokenError> {
        self.job("end the session", |post| {
            post.connection = None;
            Ok(())
        })
        .await
    }

    /// Does something in a session that is logged in; if the session turns out to be lost, once more in a new one.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        self.job(what, move |post| post.perform(&work)).await
    }

    async fn job<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Post) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let late = || TokenError::TimedOut { who: self.shown.clone(), what, limit: self.limit };
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |post| {
            // Nobody waits for it any more: it was given up while the token hung.
            if !tell.is_closed() {
                drop(tell.send(work(post)));
            }
        });
        match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(mpsc::TrySendError::Full(_))) => return Err(late()),
            None | Some(Err(mpsc::TrySendError::Disconnected(_))) => return Err(TokenError::Gone),
        }
        match tokio::time::timeout(self.limit, told).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(TokenError::Gone),
            Err(_) => Err(late()),
        }
    }
}

impl Drop for TokenWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.farewell();
        }
    }
}

/// What the thread holds.
struct Post {
    uri: TokenUri,
    shown: String,
    pin_file: Option<PathBuf>,
    connection: Option<Connection>,
}

impl Post {
    fn perform<T>(&mut self, work: &impl Fn(&Session, &Connection) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let done = connection.perform(work);
        // A token in its place may have another serial number: it is looked for anew. And where the PIN was refused, whether it
        // was wrong from the start or was changed on the token since, the file may hold another one.
        if !connection.is_refused() && !matches!(done, Err(TokenError::NoToken { .. })) {
            self.connection = Some(connection);
        }
        done
    }

    fn connect(&self) -> Result<Connection, TokenError> {
        let (module, id) = Module::with_token_here(&self.uri)?;
        let mut connection = Connection::new(module, id).cautious();
        let login = match connection.login_needed()? {
            LoginNeeded::Nothing => Login::Nothing,
            LoginNeeded::Keypad => return Err(TokenError::Keypad { token: connection.label().to_owned() }),
            LoginNeeded::Pin => {
                let none = || pin::PinError::NoSource { token: connection.label().to_owned() };
                let pin = pin::read(self.pin_file.as_deref().ok_or_else(none)?)?;
                let print = Print::of(pin.expose());
                if connection.knows_refused(print) {
                    return Err(TokenError::RefusedBefore { token: connection.label().to_owned() });
                }
                Login::Pin(RawAuthPin::new(Box::new(pin.expose().clone())), print)
            }
        };
        connection.log_in_with(login);
        Ok(connection)
    }
}

/// Who talks to a token: for a command, or for a service.
#[derive(Clone)]
pub(crate) enum Holder {
    Token(Arc<crate::token::Token>),
    Worker(Arc<TokenWorker>),
}

impl Holder {
    /// Does something in a session.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(&Session, &Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        match self {
            Self::Token(token) => token.run(what, work).await,
            Self::Worker(worker) => worker.run(what, work).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::timeout;

    fn worker(limit: Duration) -> TokenWorker {
        let uri: TokenUri = "pkcs11:token=ops;object=k8s?module-path=/nonexistent/module.so".parse().unwrap();
        TokenWorker::start(&uri, None, limit).unwrap()
    }

    /// A token that hangs and comes back works off nothing for those who have gone: a PIN among it, or a key that nobody
    /// would learn of.
    #[tokio::test]
    async fn what_was_given_up_is_not_done_when_the_token_is_back() {
        let worker = worker(Duration::from_millis(20));
        let (release, hangs) = mpsc::channel::<()>();
        let hung = worker.job("hang", move |_| {
            // Until the other end is gone.
            hangs.recv().ok();
            Ok(())
        });
        assert!(matches!(hung.await, Err(TokenError::TimedOut { .. })));
        let done = Arc::new(AtomicU32::new(0));
        for _ in 0..8 {
            let done = Arc::clone(&done);
            let late = worker.job("count", move |_| {
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            assert!(matches!(late.await, Err(TokenError::TimedOut { .. })));
        }
        drop(release);
        let mut answers = false;
        for _ in 0..500 {
            answers = answers || worker.job("answer", |_| Ok(())).await.is_ok();
        }
        assert!(answers, "it is in use again");
        assert_eq!(done.load(Ordering::Relaxed), 0);
    }

    /// However many ask while it hangs, only so many wait, and the others are told at once and not when their time is over.
    #[tokio::test]
    async fn only_so_many_wait_for_a_token_that_hangs() {
        let worker = worker(Duration::from_secs(3600));
        let (release, hangs) = mpsc::channel::<()>();
        let (begin, began) = mpsc::channel::<()>();
        let mut hung = Box::pin(worker.job("hang", move |_| {
            begin.send(()).ok();
            hangs.recv().ok();
            Ok(())
        }));
        assert!(timeout(Duration::ZERO, &mut hung).await.is_err());
        began.recv().unwrap();
        for _ in 0..WAITING {
            assert!(timeout(Duration::ZERO, worker.job("wait", |_| Ok(()))).await.is_err(), "it waits");
        }
        let told = worker.job("wait", |_| Ok(())).await;
        assert!(matches!(told, Err(TokenError::TimedOut { .. })));
        drop(release);
        hung.await.unwrap();
    }
}
