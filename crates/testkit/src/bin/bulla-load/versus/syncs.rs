//! How often a server has the disk sync for an operation, as strace counts.

use crate::Fault;
use bulla_testkit::{process, tools};
use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Operations that are counted over.
const OPERATIONS: u32 = 20;
/// How long strace may take to take hold of a process, and to let it go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Syncs for one `once` of the server with this process id; none without strace, or without the right to trace.
pub async fn count<Doing>(pid: u32, mut once: impl FnMut() -> Doing) -> Result<Option<f64>, Fault>
where
    Doing: Future<Output = Result<(), Fault>>,
{
    let Some(strace) = tools::find("strace") else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let mut command = process::command(strace);
    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-p", &pid.to_string(), "-o"]).arg(&trace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = process::spawn(command);
    let began = Instant::now();
    while !traced(pid) {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) || began.elapsed() > PATIENCE {
            drop(child.kill());
            drop(child.wait());
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut done = Ok(());
    for _ in 0..OPERATIONS {
        done = Box::pin(once()).await;
        if done.is_err() {
            break;
        }
    }
    process::terminate(&child);
    if process::wait(&mut child, PATIENCE).is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    done?;
    Ok(Some(f64::from(calls(&trace)?) / f64::from(OPERATIONS)))
}

/// A process that is gone is not traced.
fn traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

fn calls(trace: &Path) -> Result<u32, Fault> {
    let text = std::fs::read_to_string(trace)?;
    Ok(u32::try_from(text.lines().filter(|line| is_call(line)).count())?)
}

/// A call that is interrupted by that of another thread has a second line, which says that it is resumed.
fn is_call(line: &str) -> bool {
    line.contains(" fsync(") || line.contains(" fdatasync(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let text = "12 fsync(3)                     = 0\n12 fdatasync(7 <unfinished ...>\n13 fdatasync(8) = 0\n\
                    12 <... fdatasync resumed>) = 0\n13 --- SIGURG {si_signo=SIGURG} ---\n13 +++ exited with 0 +++\n";
        std::fs::write(&trace, text).unwrap();
        assert_eq!(calls(&trace).unwrap(), 3);
    }
}
