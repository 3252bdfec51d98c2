//! A server of OpenBao for the measurement: never in dev mode, initialised over HTTP with one share, with a file audit
//! device, on one core.

use super::certificates::Authority;
use super::https::{Header, Https};
use crate::Fault;
use crate::installation::Class;
use crate::scale::MIB;
use bulla_testkit::process;
use http::Method;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long a start, an unsealing or an upgrade may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked whether it is so far: as often as our server's ready file is looked for.
const POLL: Duration = Duration::from_millis(2);
/// How long what the measurement leaves behind may live: longer than the measurement, so that nothing expires meanwhile.
pub const LIFE: &str = "24h";
/// The names of policy and of the role of certificates.
const NAME: &str = "bench";
/// What the measured clients may.
const POLICY: &str = r#"
path "secret/data/bench/*" { capabilities = ["create", "update", "read"] }
path "sys/wrapping/wrap" { capabilities = ["update"] }
"#;

/// A running server.
pub struct OpenBao {
    binary: PathBuf,
    core: usize,
    directory: tempfile::TempDir,
    address: SocketAddr,
    /// Who signs the certificates of server and clients.
    pub authority: Authority,
    child: Option<Child>,
    share: String,
    root: String,
}

impl OpenBao {
    /// Starts one, initialises and unseals it.
    pub async fn new(binary: &Path, class: Class, core: usize) -> Result<Self, Fault> {
        let authority = Authority::new()?;
        let directory = tempfile::Builder::new().prefix("bulla-bench-").tempdir()?;
        let (certificate, key) = authority.server()?;
        let [address, cluster] = free_ports()?;
        std::fs::create_dir(directory.path().join("data"))?;
        std::fs::write(directory.path().join("server.pem"), certificate)?;
        std::fs::write(directory.path().join("server.key"), key)?;
        std::fs::write(directory.path().join("config.hcl"), configuration(class, address, cluster))?;
        let (share, root) = (String::new(), String::new());
        let mut server =
            Self { binary: binary.to_owned(), core, directory, address, authority, child: None, share, root };
        server.start().await?;
        let body = json!({"secret_shares": 1, "secret_threshold": 1});
        let made = server.anyone()?.send(Method::PUT, "/v1/sys/init", &[], Some(&body)).await?.json()?;
        server.share = text(&made, "/keys/0")?.to_owned();
        server.root = text(&made, "/root_token")?.to_owned();
        server.unseal().await?;
        Ok(server)
    }

    /// Starts it on what lies in its directory, and waits until it says that it is sealed.
    pub async fn start(&mut self) -> Result<(), Fault> {
        let log = std::fs::File::create(self.log_path())?;
        let mut command = process::command("taskset");
        command.args(["--cpu-list", &self.core.to_string()]).arg(&self.binary).args(["server", "-config=config.hcl"]);
        // Nothing of the caller's environment configures it.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.directory.path()).env("GOMAXPROCS", "1").current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = self.child.insert(process::spawn(command));
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
                return Err(format!("OpenBao ended ({status}): {log}").into());
            }
            let client = Https::new(self.address, self.authority.tls(None)?);
            // 501 before it is initialised, 503 sealed. Before it listens, no connection.
            if let Ok(answer) = client.send(Method::GET, "/v1/sys/health", &[], None).await
                && matches!(answer.status, 501 | 503)
            {
                return Ok(());
            }
            pause(began, "OpenBao does not answer").await?;
        }
    }

    /// Gives the share, and waits until it is the active node.
    pub async fn unseal(&self) -> Result<(), Fault> {
        let client = self.anyone()?;
        client.send(Method::PUT, "/v1/sys/unseal", &[], Some(&json!({"key": self.share}))).await?.json()?;
        let began = Instant::now();
        while client.send(Method::GET, "/v1/sys/health", &[], None).await?.status != 200 {
            pause(began, "OpenBao does not become active").await?;
        }
        Ok(())
    }

    /// A kv engine with versions, certificate authentication and a policy for the clients.
    pub async fn furnish(&self) -> Result<(), Fault> {
        self.set_up("sys/mounts/secret", &json!({"type": "kv", "options": {"version": "2"}})).await?;
        self.set_up("sys/policies/acl/bench", &json!({"policy": POLICY})).await?;
        self.set_up("sys/auth/cert", &json!({"type": "cert"})).await?;
        let role = json!({"certificate": self.authority.pem(), "token_policies": [NAME], "token_ttl": LIFE});
        self.set_up("auth/cert/certs/bench", &role).await?;
        // The engine takes no writes until it has upgraded itself.
        let began = Instant::now();
        while self.set_up("secret/data/ready", &json!({"data": {}})).await.is_err() {
            pause(began, "the kv engine does not become ready").await?;
        }
        Ok(())
    }

    /// A token with the policy of the clients, and no other.
    pub async fn token(&self) -> Result<String, Fault> {
        let body = json!({"policies": [NAME], "no_default_policy": true, "ttl": LIFE});
        Ok(text(&self.set_up("auth/token/create-orphan", &body).await?, "/auth/client_token")?.to_owned())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32, Fault> {
        Ok(self.child.as_ref().ok_or("OpenBao does not run")?.id())
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Keeps a file in its directory, and says where.
    pub fn keep(&self, name: &str, content: &str) -> Result<PathBuf, Fault> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The files of its storage in MiB.
    pub fn files(&self) -> Result<f64, Fault> {
        let (mut bytes, mut folders) = (0, vec![self.directory.path().join("data")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    bytes += metadata.len();
                }
            }
        }
        Ok(bytes as f64 / MIB)
    }

    /// Does something as the root.
    pub async fn set_up(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        let token: Header<'_> = ("x-vault-token", &self.root);
        let answer = self.anyone()?.send(Method::POST, &format!("/v1/{path}"), &[token], Some(body)).await?;
        answer.json().map_err(|error| format!("{path}: {error}").into())
    }

    fn anyone(&self) -> Result<Https, Fault> {
        Ok(Https::new(self.address, self.authority.tls(None)?))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("output.log")
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Text at a place of a JSON answer.
pub fn text<'a>(value: &'a Value, place: &str) -> Result<&'a str, Fault> {
    value.pointer(place).and_then(Value::as_str).ok_or_else(|| format!("an answer of OpenBao has no {place}").into())
}

async fn pause(began: Instant, what: &str) -> Result<(), Fault> {
    if began.elapsed() > PATIENCE {
        return Err(format!("{what} within {} s", PATIENCE.as_secs()).into());
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

/// Two ports that nobody listened on a moment ago.
fn free_ports() -> Result<[SocketAddr; 2], Fault> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([one.local_addr()?, other.local_addr()?])
}

fn configuration(class: Class, address: SocketAddr, cluster: SocketAddr) -> String {
    let storage = match class {
        Class::File => {
            "storage \"raft\" {\n  path = \"data\"\n  node_id = \"bench\"\n  performance_multiplier = 1\n}\n"
        }
        Class::Memory => "storage \"inmem\" {}\n",
    };
    format!(
        r#"{storage}
listener "tcp" {{
  address = "{address}"
  cluster_address = "{cluster}"
  tls_cert_file = "server.pem"
  tls_key_file = "server.key"
  tls_min_version = "tls13"
}}
audit "file" "bench" {{
  options {{
    file_path = "audit.log"
  }}
}}
api_addr = "https://{address}"
cluster_addr = "https://{cluster}"
log_level = "error"
ui = false
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_storage() {
        let address = "127.0.0.1:1".parse().unwrap();
        let file = configuration(Class::File, address, address);
        assert!(file.starts_with("storage \"raft\"") && file.contains("tls13") && file.contains("audit \"file\""));
        assert!(configuration(Class::Memory, address, address).starts_with("storage \"inmem\" {}"));
    }

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_what_it_printed() {
        let ended = OpenBao::new(Path::new("/bin/echo"), Class::Memory, 0).await.err().expect("echo is no server");
        assert_eq!(ended.to_string(), "OpenBao ended (exit status: 0): server -config=config.hcl\n");
    }

    #[test]
    fn an_answer_without_the_text_is_refused() {
        let answer = json!({"keys": ["a"], "n": 1});
        assert_eq!(text(&answer, "/keys/0").unwrap(), "a");
        assert!(text(&answer, "/n").is_err() && text(&answer, "/keys/1").is_err());
    }
}
