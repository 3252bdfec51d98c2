//! The harness that proves the plugin for Kubernetes (`tests/apiserver`), which is built with Go.

use super::{GO_PYPI, Missing, Tools, go_is_at_least};
use crate::workspace::{Stop, root};
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Go that builds Kubernetes 1.36.
const GO_MIN_KUBERNETES: (u32, u32) = (1, 26);
/// The harness and a fake plugin; a real kube-apiserver with etcd; plain clients of each release that writes a socket's path in
/// a way of its own.
const PROGRAMS: &[&str] =
    &["fake", "kmscheck", "kapiserver", "client-0.29", "client-0.30", "client-0.31", "client-0.32", "client-0.36"];
/// The file that says from what the programs were built.
const SOURCES: &str = "built-from";

impl Tools {
    /// The programs that prove the plugin for Kubernetes.
    pub(super) fn apiserver(&self) -> PathBuf {
        self.folder.join("apiserver")
    }

    /// Whether they were built from what lies in the repository now.
    pub(super) fn has_apiserver(&self) -> bool {
        let built = std::fs::read_to_string(self.apiserver().join(SOURCES)).unwrap_or_default();
        let there = |name: &&str| self.apiserver().join(name).exists();
        built.trim() == sources() && PROGRAMS.iter().all(there)
    }

    /// The folder of these programs, a kube-apiserver among them; with `install` what is missing or
    /// out of date is built.
    pub fn kube_apiserver(&self, install: bool) -> Result<PathBuf, Stop> {
        if let Some(Missing { what, commands, .. }) = self.missing_apiserver() {
            // A newer Go comes out of the virtual environment.
            let before = if go_is_at_least(GO_MIN_KUBERNETES) { Vec::new() } else { self.virtual_environment() };
            let commands = before.into_iter().chain(commands).collect();
            self.installed(&format!("an up-to-date build of {what}"), commands, install)?;
        }
        Ok(self.apiserver())
    }

    pub(super) fn missing_apiserver(&self) -> Option<Missing> {
        if self.has_apiserver() {
            return None;
        }
        let mut build = Command::new(root().join("tests/apiserver/build"));
        build.arg(self.apiserver()).args(PROGRAMS);
        self.go_folders(&mut build);
        let mut commands = Vec::new();
        if !go_is_at_least(GO_MIN_KUBERNETES) {
            let mut pip = self.pip();
            pip.arg(GO_PYPI);
            commands.push(pip);
            let mut path = self.folder.join("python/bin").into_os_string();
            path.push(":");
            path.push(std::env::var_os("PATH").unwrap_or_default());
            build.env("PATH", path);
        }
        commands.push(build);
        let mut mark = Command::new("sh");
        mark.args(["-c", "echo $0 > $1"]).arg(sources()).arg(self.apiserver().join(SOURCES));
        commands.push(mark);
        let what = format!("{} from tests/apiserver", PROGRAMS.join(", "));
        Some(Missing { what, why: "the plugin for Kubernetes is judged by the code that Kubernetes runs", commands })
    }
}

/// What the programs are built from: a hash of all names and contents, for this machine alone.
fn sources() -> String {
    let folder = root().join("tests/apiserver");
    let mut files = Vec::new();
    gather(&folder, &mut files);
    files.sort();
    let mut hash = DefaultHasher::new();
    for file in files {
        hash.write(file.as_os_str().as_encoded_bytes());
        hash.write(&std::fs::read(&file).unwrap_or_default());
    }
    format!("{:016x}", hash.finish())
}

/// All files of Go below a folder, and what builds them; descriptions of plugins and what judges manifests are read when
/// they are used.
fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let kind = path.extension().unwrap_or_default();
        if path.ends_with("plugins") || path.ends_with("manifests") {
            continue;
        }
        if path.is_dir() {
            gather(&path, files);
        } else if ["go", "mod", "sum", "json", ""].iter().any(|known| kind == *known) {
            files.push(path);
        }
    }
}
