//! A PostgreSQL server, each test's own: in a fresh directory, on a free port, gone with the test.

use crate::{process, tls};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where Debian puts the programs of its version 12.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// A user who may make others, and little else.
pub const ADMIN: &str = "maker \"of' all";
/// Its password at first.
pub const PASSWORD: &str = "first'\"\\pass of the maker";
/// The user who may do everything, whose password nobody changes.
const SUPERUSER: (&str, &str) = ("postgres", "everything");
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    ca: String,
    port: u16,
    child: Option<Child>,
}

/// A command that runs as a user whom PostgreSQL takes: it refuses root.
fn as_nobody(program: &str) -> Command {
    let path = Path::new(PROGRAMS).join(program);
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--"]).arg(path);
    command
}

/// The number of the user and group whose files they are.
fn owner() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

impl Postgres {
    /// A new one, or `None` where PostgreSQL is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        if !Path::new(PROGRAMS).join("postgres").exists() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bulla-pg-").tempdir().expect("a temporary directory");
        let (ca, key) = tls::of_this_machine();
        let owner = if rustix::process::geteuid().is_root() { Some(owner()?) } else { None };
        let own = |path: &Path| {
            if let Some((user, group)) = owner {
                chown(path, Some(user), Some(group)).expect("a place of the user postgres");
            }
        };
        own(folder.path());
        for (name, content) in [("password", SUPERUSER.1), ("crt", &ca), ("key", &key)] {
            let path = folder.path().join(name);
            let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&path);
            file.expect("a file").write_all(content.as_bytes()).expect("its content");
            own(&path);
        }
        let secret = folder.path().join("password");
        let mut initdb = as_nobody("initdb");
        initdb.arg("-D").arg(folder.path().join("data")).arg("-U").arg(SUPERUSER.0).arg("--pwfile").arg(&secret);
        initdb.args(["-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale", "C"]);
        let done = initdb.current_dir("/").stdin(Stdio::null()).output().expect("initdb runs");
        assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let mut own = Self { folder, ca, port, child: None };
        own.restart();
        let quoted = (ADMIN.replace('"', "\"\""), PASSWORD.replace('\\', "\\\\").replace('\'', "''"));
        own.sql(&format!("CREATE ROLE \"{}\" LOGIN CREATEROLE PASSWORD E'{}'", quoted.0, quoted.1));
        own.sql(&format!("GRANT CREATE ON SCHEMA public TO \"{}\" WITH GRANT OPTION", quoted.0));
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

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it on the same data and port.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let mut server = as_nobody("postgres");
        server.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.to_string(), "-F"]);
        let settings =
            ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=60", "log_statement=all"];
        server.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        server.args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", place("crt"))]);
        server.args(["-c", &format!("ssl_key_file={}", place("key"))]);
        server.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(process::spawn(server));
        let began = Instant::now();
        while self.try_sql(SUPERUSER.0, SUPERUSER.1, "SELECT 1").is_err() {
            assert!(began.elapsed() < START, "PostgreSQL does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has members of `role` log in by certificates of this authority, and by nothing else; but for the user who makes
    /// them and is a member too where it hands the role on. As the manual writes it.
    ///
    /// # Panics
    /// If it cannot be written, or the server does not take it.
    pub fn by_certificate(&mut self, role: &str, authority: &str) {
        let data = self.folder.path().join("data");
        let rules = data.join("pg_hba.conf");
        let before = std::fs::read_to_string(&rules).expect("rules for logins");
        let maker = ADMIN.replace('"', "\"\"");
        let own = format!(
            "host all \"{maker}\" 127.0.0.1/32 scram-sha-256\n\
             hostssl all +{role} 127.0.0.1/32 cert\n\
             host all +{role} all reject\n"
        );
        std::fs::write(&rules, own + &before).expect("rules for logins");
        std::fs::write(data.join("logins.crt"), authority).expect("an authority");
        let mut settings =
            std::fs::File::options().append(true).open(data.join("postgresql.auto.conf")).expect("its settings");
        settings.write_all(b"ssl_ca_file = 'logins.crt'\n").expect("its settings");
        self.kill();
        self.restart();
    }

    /// Runs a statement as whom the certificate in a folder names, with the key beside it.
    ///
    /// # Errors
    /// What psql says.
    ///
    /// # Panics
    /// If psql is not there.
    pub fn try_sql_by_certificate(&self, user: &str, folder: &Path, text: &str) -> Result<String, String> {
        let mut psql = self.psql(user, text);
        psql.env("PGSSLMODE", "require").env("PGSSLCERT", folder.join("client.crt"));
        psql.env("PGSSLKEY", folder.join("client.key"));
        said(psql)
    }

    fn psql(&self, user: &str, text: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-d", "postgres", "-U", user, "-XAtqw"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", text]).stdin(Stdio::null());
        psql
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its other processes end when they see that the first is gone; SIGQUIT has it end them.
            process::signal(&child, rustix::process::Signal::QUIT);
            let _ended = process::wait(&mut child, Duration::from_secs(30));
        }
    }

    /// Runs a statement as somebody; what it printed, or why not.
    ///
    /// # Errors
    /// What psql says.
    ///
    /// # Panics
    /// If psql is not there.
    pub fn try_sql(&self, user: &str, password: &str, text: &str) -> Result<String, String> {
        let mut psql = self.psql(user, text);
        psql.env("PGPASSWORD", password);
        said(psql)
    }

    /// Runs a statement as the user who may do everything.
    ///
    /// # Panics
    /// If it fails.
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(SUPERUSER.0, SUPERUSER.1, text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The users that Bulla made.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn users(&self) -> Vec<String> {
        let text = self.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'bulla\\_%' ORDER BY 1");
        text.lines().map(str::to_owned).collect()
    }
}

fn said(mut psql: Command) -> Result<String, String> {
    let done = psql.output().expect("psql runs");
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
    }
    Err(String::from_utf8_lossy(&done.stderr).into_owned())
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
