//! A plugin as a process of its own (`bulla kms serve`) on the measured core, as a node has it: with a state file, an audit
//! file, and the listener for monitors, whose metrics tell how often members were called.

use super::grpc::Client;
use super::members::Setting;
use crate::{Fault, proc, scale};
use bulla_testkit::process;
use bulla_testkit::tpm::Tpm;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a plugin that starts is asked for its status.
const POLL: Duration = Duration::from_millis(2);
/// The counter of calls of members.
const CALLS: &str = "bulla_kms_member_calls_total{";

/// A plugin.
pub struct Plugin {
    setting: Setting,
    binary: PathBuf,
    core: usize,
    folder: TempDir,
    /// The TPM that opens its key file.
    tpm: Option<Arc<Tpm>>,
    metrics: SocketAddr,
    child: Option<Child>,
}

impl Plugin {
    /// One that does not run yet.
    pub fn new(binary: &Path, core: usize, setting: Setting, tpm: Option<Arc<Tpm>>) -> Result<Self, Fault> {
        let folder = tempfile::Builder::new().prefix("bulla-bench-").tempdir()?;
        // Nobody listened there a moment ago.
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::write(folder.path().join("kms.toml"), configuration(folder.path(), metrics, &setting.sections))?;
        Ok(Self { setting, binary: binary.to_owned(), core, folder, tpm, metrics, child: None })
    }

    /// Its members, as tables name them.
    pub fn name(&self) -> &str {
        &self.setting.name
    }

    /// Starts it, after a kill if it runs: a client, and the milliseconds from exec to its first good status.
    pub async fn start(&mut self) -> Result<(Client, f64), Fault> {
        self.kill();
        if let Some(tpm) = &self.tpm {
            tpm.forget();
        }
        let log = File::create(self.folder.path().join("log"))?;
        let mut command = process::command("taskset");
        command.args(["--cpu-list", &self.core.to_string()]).arg(&self.binary).args(["kms", "serve", "--config"]);
        command.arg(self.folder.path().join("kms.toml"));
        // Nothing of the caller's environment configures it.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path());
        command.envs(self.setting.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        let child = self.child.insert(process::spawn(command));
        loop {
            if let Ok(client) = Client::connect(&self.folder.path().join("kms.sock")).await
                && client.status().await.is_ok()
            {
                return Ok((client, began.elapsed().as_secs_f64() * 1000.0));
            }
            if child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(format!("the plugin of {} has no good status: {log}", self.name()).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32, Fault> {
        Ok(self.child.as_ref().ok_or("the plugin does not run")?.id())
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> Result<f64, Fault> {
        scale::resident(self.pid()?)
    }

    /// CPU time of the servers behind it.
    pub fn backends_cpu(&self) -> Result<Duration, Fault> {
        self.setting.backends.iter().map(|pid| proc::cpu(*pid)).sum()
    }

    /// How often its members have wrapped and unwrapped since it started, as it counts that itself.
    pub async fn member_calls(&self) -> Result<u64, Fault> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let head = answer.lines().next().unwrap_or_default();
        if !head.contains(" 200 ") {
            return Err(format!("no metrics: {head}").into());
        }
        calls(&answer)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configuration(folder: &Path, metrics: SocketAddr, sections: &str) -> String {
    format!(
        "cluster = 'bench'\nstate = '{0}/state.json'\n[socket]\npath = '{0}/kms.sock'\n[operations]\naddress = '{metrics}'\n\
         [audit]\nfile = '{0}/audit.jsonl'\n{sections}",
        folder.display()
    )
}

/// All calls that wrap or unwrap, in the text of the metrics; looks at members are none.
fn calls(metrics: &str) -> Result<u64, Fault> {
    let wraps = |line: &&str| line.contains("call=\"wrap\"") || line.contains("call=\"unwrap\"");
    let lines = metrics.lines().filter(|line| line.starts_with(CALLS)).filter(wraps);
    let mut sum = 0;
    for line in lines {
        let number = line.rsplit(' ').next().unwrap_or_default();
        sum += number.parse::<u64>().map_err(|error| format!("{line}: {error}"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_members_are_added_up() {
        let metrics = "HTTP/1.0 200 OK\r\n\r\n# HELP bulla_kms_member_calls Calls.\n\
             bulla_kms_member_calls_total{member=\"hsm\",call=\"observe\",outcome=\"ok\"} 4\n\
             bulla_kms_member_calls_total{member=\"hsm\",call=\"wrap\",outcome=\"ok\"} 10\n\
             bulla_kms_member_calls_total{member=\"hsm\",call=\"unwrap\",outcome=\"unavailable\"} 2\n\
             bulla_kms_hedges_total 7\n";
        assert_eq!(calls(metrics).unwrap(), 12);
        assert_eq!(calls("").unwrap(), 0);
        assert!(calls("bulla_kms_member_calls_total{call=\"wrap\"} many").is_err());
    }

    #[test]
    fn the_configuration_names_everything_of_its_own_folder() {
        let text = configuration(Path::new("/run/x"), "127.0.0.1:7".parse().unwrap(), "[members.a.age]\n");
        assert!(
            text.contains("'/run/x/kms.sock'") && text.contains("'127.0.0.1:7'") && text.ends_with("[members.a.age]\n")
        );
    }

    #[tokio::test]
    async fn a_plugin_that_ends_is_told_with_what_it_printed() {
        let setting = Setting { name: "none".into(), ..Setting::default() };
        let mut plugin = Plugin::new(Path::new("/bin/cat"), 0, setting, None).unwrap();
        let ended = plugin.start().await.err().expect("cat serves nobody").to_string();
        assert!(ended.starts_with("the plugin of none has no good status: ") && ended.contains("--config"), "{ended}");
    }
}
