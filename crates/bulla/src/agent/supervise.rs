//! Runs the child: starts it, passes signals on, takes leave of the dead. [`super::child`] decides.
//!
//! As a container's first process the agent gets every orphan of the container, and elsewhere those of its child: both
//! by the same way, which waits for whatever ended.

use super::child::{Act, Child, Event};
use super::config::ChildConfig;
use super::keeper::Order;
use crate::exit::{Exit, Failure};
use crate::systemd::Manager;
use bulla_crypto::secret::SecretBytes;
use bulla_server::clock::{Clock as _, SystemClock};
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};
use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::Duration;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

/// Makes this process the parent of what its descendants leave behind.
pub fn adopt_orphans() -> Result<(), Failure> {
    process::set_child_subreaper(Some(process::getpid()))
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot take orphans in: {error}")))
}

/// Signals that come to this process.
pub struct Signals {
    ended: unix::Signal,
    passed_on: [(Signal, unix::Signal); 7],
}

impl Signals {
    /// Takes them from now on; before that they end the process.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ended: signal(SignalKind::child())?,
            passed_on: [
                (Signal::TERM, signal(SignalKind::terminate())?),
                (Signal::INT, signal(SignalKind::interrupt())?),
                (Signal::HUP, signal(SignalKind::hangup())?),
                (Signal::QUIT, signal(SignalKind::quit())?),
                (Signal::USR1, signal(SignalKind::user_defined1())?),
                (Signal::USR2, signal(SignalKind::user_defined2())?),
                (Signal::WINCH, signal(SignalKind::window_change())?),
            ],
        })
    }

    /// The next that is for the child; none if a child or an orphan ended.
    async fn next(&mut self) -> Option<Signal> {
        std::future::poll_fn(|context| {
            if self.ended.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(None);
            }
            for (number, stream) in &mut self.passed_on {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Some(*number));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// The child and whom it concerns.
pub struct Supervisor<'a> {
    config: Option<&'a ChildConfig>,
    manager: &'a Manager,
    stop: &'a watch::Sender<bool>,
    wake: &'a Notify,
    clock: SystemClock,
    child: Child,
    pid: Option<Pid>,
    variables: Vec<(String, SecretBytes)>,
    /// Somebody waits for the word that all is ready.
    announced: bool,
}

impl<'a> Supervisor<'a> {
    /// Nothing runs yet.
    pub fn new(
        config: Option<&'a ChildConfig>,
        manager: &'a Manager,
        stop: &'a watch::Sender<bool>,
        wake: &'a Notify,
    ) -> Self {
        let child = config.map_or_else(Child::none, |config| {
            Child::new(config.on_change, u64::try_from(config.grace.as_millis()).unwrap_or(u64::MAX))
        });
        let (clock, pid, variables) = (SystemClock::default(), None, Vec::new());
        Self { config, manager, stop, wake, clock, child, pid, variables, announced: false }
    }

    /// Runs until the end.
    pub async fn run(&mut self, mut orders: mpsc::Receiver<Order>, mut signals: Signals) -> Result<Exit, Failure> {
        let mut signs = self.manager.watchdog().map(|every| {
            let mut signs = interval(every);
            signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
            signs
        });
        loop {
            let event = tokio::select! {
                signal = signals.next() => match signal {
                    Some(signal) => Some(Event::Signal(signal)),
                    None => self.bury()?.map(Event::Ended),
                },
                () = until(self.child.deadline_ms(), &self.clock) => Some(Event::Deadline),
                () = tick(signs.as_mut()) => {
                    self.manager.tell("WATCHDOG=1");
                    None
                }
                Some(Order { variables, change }) = orders.recv() => {
                    self.variables = variables;
                    Some(Event::Values(change))
                }
            };
            let Some(event) = event else { continue };
            let restarting = self.child.restarts();
            for act in self.child.step(event, self.clock.monotonic_ms()) {
                if let Some(code) = self.act(act)? {
                    return Ok(if code == 0 { Exit::Ok } else { Exit::Child(code) });
                }
            }
            self.announce(event, restarting);
        }
    }

    /// Does it; the exit code if that is the end.
    fn act(&mut self, act: Act) -> Result<Option<u8>, Failure> {
        match act {
            Act::Start => self.start()?,
            Act::Send(signal) => self.send(signal),
            Act::Stop => {
                self.manager.tell("STOPPING=1");
                // Without a keeper nobody needs to be stopped.
                let _ = self.stop.send(true);
            }
            Act::Look => self.wake.notify_one(),
            Act::End(code) => return Ok(Some(code)),
        }
        Ok(None)
    }

    /// Tells the manager what an event came to.
    fn announce(&mut self, event: Event, restarting: bool) {
        match (restarting, self.child.restarts()) {
            (false, true) => self.manager.tell("RELOADING=1"),
            (true, false) if !*self.stop.borrow() => self.manager.tell("READY=1"),
            _ => {}
        }
        if matches!(event, Event::Values(_)) && !self.announced {
            self.announced = true;
            self.manager.tell("READY=1");
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        let Some(ChildConfig { program, arguments, .. }) = self.config else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments);
        for name in Manager::VARIABLES {
            command.env_remove(name);
        }
        for (name, value) in &self.variables {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        let child = command.spawn().map_err(|error| {
            let failure = Failure::new(Exit::Failed, format!("cannot run {program}: {error}"));
            match error.kind() {
                io::ErrorKind::NotFound => failure.hint("give child.command a path, or a program that PATH leads to"),
                _ => failure,
            }
        })?;
        // The handle waits for nothing when it is dropped: the end is learnt where all ends are.
        self.pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        tracing::info!(pid = child.id(), program, "the child was started");
        Ok(())
    }

    fn send(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        tracing::info!(pid = pid.as_raw_pid(), ?signal, "the child gets a signal");
        // It is not buried yet, so the number is still its own.
        if let Err(error) = process::kill_process(pid, signal) {
            tracing::warn!(%error, ?signal, "the child did not get its signal");
        }
    }

    /// Waits for all that ended; the child's code if it is among them.
    fn bury(&mut self) -> Result<Option<u8>, Failure> {
        let mut code = None;
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.pid => {
                    self.pid = None;
                    code = Some(code_of(status));
                    tracing::info!(pid = pid.as_raw_pid(), code, "the child ended");
                }
                Ok(Some((pid, _))) => tracing::debug!(pid = pid.as_raw_pid(), "an orphan ended"),
                Ok(None) | Err(Errno::CHILD) => return Ok(code),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Failure::new(Exit::Failed, format!("cannot wait for the child: {error}")));
                }
            }
        }
    }
}

/// The exit code, or 128 and the number of the signal, as a shell says it.
fn code_of(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| signal.saturating_add(128));
    status.exit_status().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

async fn until(deadline_ms: Option<u64>, clock: &SystemClock) {
    match deadline_ms {
        Some(at_ms) => sleep(Duration::from_millis(at_ms.saturating_sub(clock.monotonic_ms()))).await,
        None => pending().await,
    }
}

async fn tick(signs: Option<&mut Interval>) {
    match signs {
        Some(signs) => drop(signs.tick().await),
        None => pending().await,
    }
}
