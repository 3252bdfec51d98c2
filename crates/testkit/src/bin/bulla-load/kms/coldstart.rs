//! A kube-apiserver that starts over many Secrets: the harness in Go does it (`tests/apiserver`), and tells in JSON.

use crate::Fault;
use bulla_testkit::process;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;

/// Where what is said of Bulla's plugin to the harness lies.
const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/apiserver/plugins");
/// What the line with the figures begins with.
const FIGURE: &str = "figure coldstart: ";

/// What was measured; each list has a number for each start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cold {
    /// Whose plugin.
    pub plugin: String,
    /// Secrets in etcd.
    pub secrets: u64,
    /// Seeds that they are of.
    pub seeds: u64,
    /// How long it took to write them, in seconds.
    pub written_s: f64,
    /// Their size in etcd.
    pub stored_mib: f64,
    /// Until kube-apiserver was ready over no Secret.
    pub empty_ready_s: f64,
    /// Until kube-apiserver was ready.
    pub ready_s: Vec<f64>,
    /// Decrypt as kube-apiserver counts it.
    pub decrypts_asked: Vec<u64>,
    /// Decrypt as the plugin's own metrics count it.
    #[serde(default)]
    pub decrypts_answered: Vec<u64>,
    /// How long the first list of all Secrets took.
    pub listed_s: Vec<f64>,
}

/// Has the harness of this folder measure. It may use every core: so may what runs on a node.
pub async fn run(harness: &Path, binary: &Path, secrets: u64) -> Result<Cold, Fault> {
    let cores = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let mut command = process::command("taskset");
    command.args(["--cpu-list", cores.trim()]).arg(harness.join("kmscheck")).arg("coldstart");
    command.arg("--plugin").arg(Path::new(PLUGINS).join("bulla.json"));
    command.args(["--set", &format!("bulla={}", binary.display()), "--set", &format!("plugins={PLUGINS}")]);
    command.args(["--secrets", &secrets.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let output = tokio::task::spawn_blocking(|| process::spawn(command).wait_with_output()).await??;
    figures(&String::from_utf8_lossy(&output.stdout))
}

/// The figures in what the harness printed.
fn figures(printed: &str) -> Result<Cold, Fault> {
    let Some(line) = printed.lines().find_map(|line| line.strip_prefix(FIGURE)) else {
        return Err(format!("the harness gave no figures: {}", printed.trim()).into());
    };
    let cold: Cold = serde_json::from_str(line).map_err(|error| format!("{error} in {line}"))?;
    if cold.ready_s.is_empty() {
        return Err("the harness measured no start".into());
    }
    Ok(cold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_is_understood_or_quoted() {
        let printed = "ok coldstart\nfigure coldstart: {\"plugin\":\"bulla\",\"secrets\":10,\"seeds\":3,\"written_s\":0.5,\
             \"stored_mib\":0.1,\"empty_ready_s\":2.5,\"ready_s\":[2.0],\"decrypts_asked\":[3],\
             \"listed_s\":[0.1]}\nfigure all cases: 9 s\n";
        let cold = figures(printed).unwrap();
        assert_eq!((cold.secrets, cold.decrypts_asked, cold.decrypts_answered), (10, vec![3], vec![]));
        let failed = figures("FAILED coldstart: start etcd\n").unwrap_err().to_string();
        assert_eq!(failed, "the harness gave no figures: FAILED coldstart: start etcd");
        assert!(figures(&printed.replace("[2.0]", "[]")).is_err());
    }

    #[test]
    fn the_plugin_is_described() {
        assert!(Path::new(PLUGINS).join("bulla.json").exists());
    }
}
