//! Processes that end with the test.
//!
//! Every child runs under `setpriv --pdeathsig KILL`, so the kernel kills it when its parent goes, even if that is
//! by SIGKILL. The kernel means the parent *thread* by that: a child of a test's own thread would die with it, so one
//! thread, which lives as long as the process, starts them all.

use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// `program` as a command that dies with this process. Add arguments as usual, then [`spawn`] it.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a command made by [`command`].
///
/// # Panics
/// If it cannot be started.
pub fn spawn(command: Command) -> Child {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                // A test that no longer waits has failed already.
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(sender)
    });
    let shown = format!("{command:?}");
    let (sender, answer) = mpsc::channel();
    starter.lock().expect("the starter's lock").send((command, sender)).expect("the starter lives");
    match answer.recv().expect("the starter answers") {
        Ok(child) => child,
        Err(error) => panic!("cannot start {shown}: {error} (setpriv is in Debian's util-linux)"),
    }
}

/// Waits for the end, at most so long.
pub fn wait(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Asks a process to end, as `kill` does.
pub fn terminate(child: &Child) {
    signal(child, rustix::process::Signal::TERM);
}

/// Sends a signal. A process that is gone already does not mind.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    signal_id(child.id(), signal);
}

/// The same by the process's id, while somebody else waits for its end.
pub fn signal_id(id: u32, signal: rustix::process::Signal) {
    let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        let _gone = rustix::process::kill_process(id, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_can_be_ended() {
        let mut child = std::thread::spawn(|| {
            let mut sleep = command("sleep");
            sleep.arg("60");
            spawn(sleep)
        })
        .join()
        .unwrap();
        assert!(wait(&mut child, Duration::from_millis(200)).is_none(), "the child died with the thread");
        terminate(&child);
        let status = wait(&mut child, Duration::from_secs(10)).expect("it ends");
        assert!(!status.success());
    }
}
