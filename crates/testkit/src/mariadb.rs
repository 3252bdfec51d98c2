//! A MariaDB server, each test's own: in a fresh directory, on a free port, gone with the test.

use crate::{process, tls};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where Debian puts the server.
const SERVER: &str = "/usr/sbin/mariadbd";
/// A user who may make others, and little else.
pub const ADMIN: &str = "maker `'\"of all";
/// Its password at first.
pub const PASSWORD: &str = "first'\"\\`pass";
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Mariadb {
    folder: TempDir,
    ca: String,
    port: u16,
    child: Option<Child>,
}

/// A command that runs as the server's own user, where it is started by root. A server that starts
/// takes away every temporary table in its folder of them, a neighbour's too: so each has its own.
fn as_nobody(program: &str, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", "mysql", "--regid", "mysql", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--", program, "--no-defaults"]).current_dir("/").stdin(Stdio::null());
    command.env("TMPDIR", folder.join("tables"));
    command
}

/// The number of the user and group whose files they are.
fn owner() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = users.lines().find(|line| line.starts_with("mysql:"))?.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

impl Mariadb {
    /// A new one, or `None` where MariaDB is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        if !Path::new(SERVER).exists() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bulla-db-").tempdir().expect("a temporary directory");
        let (ca, key) = tls::of_this_machine();
        let owner = if rustix::process::geteuid().is_root() { Some(owner()?) } else { None };
        let own = |path: &Path| {
            if let Some((user, group)) = owner {
                chown(path, Some(user), Some(group)).expect("a place of the user mysql");
            }
        };
        own(folder.path());
        for name in ["logs", "tables"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder of it");
            own(&folder.path().join(name));
        }
        for (name, content) in [("crt", &ca), ("key", &key)] {
            let path = folder.path().join(name);
            let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&path);
            file.expect("a file").write_all(content.as_bytes()).expect("its content");
            own(&path);
        }
        let mut install = as_nobody("mariadb-install-db", folder.path());
        install.arg(format!("--datadir={}", folder.path().join("data").display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let done = install.output().expect("mariadb-install-db runs");
        assert!(done.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&done.stderr));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let mut own = Self { folder, ca, port, child: None };
        own.restart();
        let name = ADMIN.replace('`', "``");
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
        for statement in [
            "CREATE DATABASE app".to_owned(),
            format!("CREATE USER `{name}`@'127.0.0.1' IDENTIFIED BY '{password}'"),
            format!("GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO `{name}`@'127.0.0.1'"),
            format!("GRANT SELECT ON mysql.user TO `{name}`@'127.0.0.1'"),
            format!("GRANT SELECT ON app.* TO `{name}`@'127.0.0.1' WITH GRANT OPTION"),
        ] {
            own.sql(&statement);
        }
        Some(own)
    }

    /// PEM of who vouches for its certificate.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its logs lie: the general one, the slow one and the one for replicas.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Starts it on the same data and port.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = self.folder.path().join("log");
        let output = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut server = as_nobody(SERVER, self.folder.path());
        server.arg(format!("--datadir={}", self.folder.path().join("data").display()));
        server.arg(format!("--socket={}", self.socket().display())).arg(format!("--port={}", self.port));
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]);
        server.args(["--pid-file=/dev/null", "--innodb-buffer-pool-size=16M"]);
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        server.args([format!("--ssl-cert={}", place("crt")), format!("--ssl-key={}", place("key"))]);
        // Every log that there is, so that a test can look for what must be in none.
        server.args(["--general-log=1", "--slow-query-log=1", "--long-query-time=0", "--server-id=1"]);
        server.arg(format!("--general-log-file={}", self.logs().join("general").display()));
        server.arg(format!("--slow-query-log-file={}", self.logs().join("slow").display()));
        server.arg(format!("--log-bin={}", self.logs().join("binary").display()));
        server.stdout(Stdio::null()).stderr(output);
        self.child = Some(process::spawn(server));
        let began = Instant::now();
        while self.ask(&["-u", "root"], "", "SELECT 1").is_err() {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(began.elapsed() < START, "MariaDB does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it. By a kill it may lose users that it has told of: the table of them is no InnoDB one.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, rustix::process::Signal::TERM);
            let _ended = process::wait(&mut child, Duration::from_secs(30));
        }
    }

    fn ask(&self, args: &[&str], password: &str, text: &str) -> Result<String, String> {
        let mut client = Command::new("mariadb");
        client.arg("--no-defaults");
        if args == ["-u", "root"] {
            client.arg("-S").arg(self.socket());
        } else {
            client.args(["-h", "127.0.0.1", "--skip-ssl", "-P", &self.port.to_string()]);
        }
        client.args(args).args(["-N", "-B", "-e", text]).env("MYSQL_PWD", password).stdin(Stdio::null());
        let done = client.output().expect("mariadb runs");
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Runs a statement as somebody; what it printed, or why not.
    ///
    /// # Errors
    /// What the client says.
    ///
    /// # Panics
    /// If the client is not there.
    pub fn try_sql(&self, user: &str, password: &str, text: &str) -> Result<String, String> {
        self.ask(&["-u", user], password, text)
    }

    /// Runs a statement as the user who may do everything.
    ///
    /// # Panics
    /// If it fails.
    pub fn sql(&self, text: &str) -> String {
        self.ask(&["-u", "root"], "", text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The users that Bulla made.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn users(&self) -> Vec<String> {
        let text = self.sql("SELECT User FROM mysql.user WHERE User LIKE 'bulla@_%' ESCAPE '@' ORDER BY 1");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, rustix::process::Signal::KILL);
            let _ended = process::wait(&mut child, Duration::from_secs(30));
        }
    }
}
