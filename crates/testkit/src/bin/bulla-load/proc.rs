//! What the kernel counts for a process (proc(5)).

use crate::Fault;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux but a few of other centuries.
const TICKS_A_SECOND: u64 = 100;
/// Bytes at the end of the audit log that surely hold a line with a commit, and are read in no time.
const AUDIT_TAIL_BYTES: u64 = 256 * 1024;

/// CPU time in user and kernel of all threads of a process, those that ended too.
pub fn cpu(pid: u32) -> Result<Duration, Fault> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name stands in brackets and may hold anything; utime and stime are the 12th and 13th field behind it.
    let fields = text.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let ticks: u64 = ticks.iter().sum();
    Ok(Duration::from_millis(ticks.saturating_mul(1000 / TICKS_A_SECOND)))
}

/// Resident memory in bytes.
pub fn resident(pid: u32) -> Result<u64, Fault> {
    Ok(field(&format!("/proc/{pid}/status"), "VmRSS:")?.saturating_mul(1024))
}

/// Bytes that a process had written to the disk.
pub fn written(pid: u32) -> Result<u64, Fault> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

fn field(path: &str, name: &str) -> Result<u64, Fault> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("{path} has no {name}"))?.parse()?)
}

/// The newest commit that the audit log quotes: the store's sequence, which grows by one with each transaction.
/// `log` is the file, or the directory of numbered files.
pub fn sequence(log: &Path) -> Result<u64, Fault> {
    let file = newest(log)?;
    let len = fs::metadata(&file)?.len();
    let mut bytes = Vec::new();
    let mut open = fs::File::open(&file)?;
    std::io::Seek::seek(&mut open, std::io::SeekFrom::Start(len.saturating_sub(AUDIT_TAIL_BYTES)))?;
    std::io::Read::read_to_end(&mut open, &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let quoted = text.split("\"sequence\":").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    });
    Ok(quoted.max().unwrap_or_default())
}

fn newest(log: &Path) -> Result<PathBuf, Fault> {
    if log.is_file() {
        return Ok(log.to_owned());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(log)? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.into_iter().max().ok_or_else(|| format!("no audit file in {}", log.display()).into())
}

/// The first line of a file that begins with `name`, behind its colon.
fn line(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// The machine in one line.
pub fn machine() -> String {
    let model = line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let cores = fs::read_to_string("/proc/cpuinfo").map(|text| text.matches("\nprocessor").count() + 1).unwrap_or(1);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal:").unwrap_or_default() / (1024 * 1024);
    format!("{model}, {cores} cores, {memory} GiB, Linux {}", kernel.trim())
}

/// How many processes wanted to run in the last minute, on average.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_this_process() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 1024 * 1024);
        let before = cpu(own).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        // On a busy machine this thread may get little of that time; it surely gets more than one tick.
        assert!(cpu(own).unwrap() > before);
        assert!(machine().contains("cores"));
    }

    #[test]
    fn the_newest_commit_is_found_in_file_and_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("000002.jsonl");
        fs::write(folder.path().join("000001.jsonl"), "{\"committed\":{\"sequence\":99}}\n").unwrap();
        fs::write(&file, "{\"committed\":{\"sequence\":12}}\n{\"committed\":{\"sequence\":11}}\n{}\n").unwrap();
        assert_eq!(sequence(folder.path()).unwrap(), 12);
        assert_eq!(sequence(&file).unwrap(), 12);
    }
}
