//! `bulla agent` as it runs: the real binary beside a real server, real children, a real PostgreSQL.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

use bulla_testkit::canary::{assert_absent, scan};
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::{Canary, Cli, Options, Server, bulla, process, skip, tools};
use rustix::process::Signal;
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLICY: &[u8] = b"permit (principal, action in Bulla::Action::\"database\", resource in Bulla::Database::\"\");
permit (principal, action in Bulla::Action::\"kv\", resource) when { principal in Bulla::Group::\"admins\" };
permit (principal in Bulla::Group::\"apps\", action == Bulla::Action::\"kv.get\", resource);
permit (principal in Bulla::Group::\"apps\", action == Bulla::Action::\"kv.watch\", resource in Bulla::Kv::\"follow\");\n";

/// A cluster with somebody who writes secrets, and an application that reads them.
struct Scene {
    alice: Cli,
    app: Cli,
    server: Server,
}

impl Scene {
    fn new() -> Self {
        let (mut alice, mut app) = (Cli::new(bulla!()), Cli::new(bulla!()));
        let server = Server::with_admin(Options::durable(bulla!()), &mut alice);
        app.run(["keygen", "-o", "app.key"]).ok();
        app.env("BULLA_IDENTITY", app.work().join("app.key"));
        let admitted = app.work().join("app.pub");
        alice.run(["principal", "add", admitted.to_str().unwrap(), "--group", "apps"]).ok();
        alice.file("policy.cedar", POLICY);
        alice.run(["policy", "put", "agent", "policy.cedar"]).ok();
        fs::create_dir_all(app.home().join(".config/bulla")).unwrap();
        // The pin and the address alone; the identity is the application's own.
        let config = fs::read_to_string(alice.home().join(".config/bulla/config.toml")).unwrap();
        let config: Vec<&str> = config.lines().filter(|line| !line.starts_with("identity")).collect();
        fs::write(app.home().join(".config/bulla/config.toml"), config.join("\n")).unwrap();
        Self { alice, app, server }
    }

    fn put(&self, path: &str, field: &str, value: &str) {
        self.alice.run_with(["kv", "put", path, &format!("{field}=-")], value.as_bytes()).ok();
    }
}

/// One cluster for all tests that do not disturb it, for as long as one of them runs.
fn scene() -> Arc<Scene> {
    static SCENE: Mutex<Weak<Scene>> = Mutex::new(Weak::new());
    let mut held = SCENE.lock().unwrap_or_else(PoisonError::into_inner);
    held.upgrade().unwrap_or_else(|| {
        let scene = Arc::new(Scene::new());
        *held = Arc::downgrade(&scene);
        scene
    })
}

/// A running agent, in a folder of its own.
struct Agent {
    folder: PathBuf,
    process: Child,
}

impl Agent {
    /// A folder with a configuration, in which `DIR` stands for the folder.
    fn folder(cli: &Cli, name: &str, config: &str) -> PathBuf {
        let folder = cli.work().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("agent.toml"), config.replace("DIR", folder.to_str().unwrap())).unwrap();
        folder
    }

    fn start(cli: &Cli, folder: &Path, environment: &[(&str, &str)]) -> Self {
        Self::start_under(cli, folder, environment, &[])
    }

    /// Under another program, which takes the agent's command line as its last arguments.
    fn start_under(cli: &Cli, folder: &Path, environment: &[(&str, &str)], under: &[&str]) -> Self {
        let binary = bulla!();
        let mut words = under.iter().copied().chain([binary.to_str().unwrap(), "agent", "--config"]);
        let mut command = process::command(words.next().unwrap());
        command.args(words).arg(folder.join("agent.toml")).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", cli.home());
        command.env("BULLA_IDENTITY", cli.work().join("app.key"));
        command.envs(environment.iter().copied()).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(File::create(folder.join("log")).unwrap());
        Self { folder: folder.to_owned(), process: process::spawn(command) }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// Waits until a file of its folder is as it should be.
    #[track_caller]
    fn until(&self, name: &str, fits: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = self.text(name);
            if fits(&text) {
                return text;
            }
            assert!(began.elapsed() < PATIENCE, "{name} is {text:?}; the log:\n{}", self.text("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        process::signal(&self.process, signal);
    }

    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let ended = process::wait(&mut self.process, PATIENCE);
        ended.unwrap_or_else(|| panic!("it does not end:\n{}", self.text("log"))).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A child that says what happens to it in the file `said`, and ends with 7 when it is asked to.
const CHILD: &str = r#"[child]
command = ["sh", "-c", '''
    trap 'echo hup >> said' HUP
    trap 'echo usr1 >> said' USR1
    trap 'echo term >> said; exit 7' TERM
    echo "start $PASSWORD $(cat app.conf)" >> said
    while :; do sleep 0.05; done''']
"#;

#[test]
fn a_file_and_a_variable_follow_their_secret_and_nothing_else_is_in_clear() {
    let scene = scene();
    let (first, second) = (Canary::text("first"), Canary::text("second"));
    scene.put("follow/db", "password", first.as_str());
    // Nobody looks before the test is over: the cluster tells.
    let config = format!(
        "poll_s = 3600\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\nmode = \"0640\"\n
        {CHILD}grace_s = 20\n[child.env]\nPASSWORD = \"kv/follow/db#password\"\n"
    );
    let folder = Agent::folder(&scene.app, "follow", &config);
    fs::write(folder.join("app.tmpl"), "p={{ kv/follow/db#password | json }}").unwrap();
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    let line = |canary: &Canary| format!("start {0} p=\"{0}\"\n", canary.as_str());
    agent.until("said", |said| said == line(&first));
    let mode = fs::metadata(folder.join("app.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // A version with the same content is no change.
    scene.put("follow/db", "password", first.as_str());
    std::thread::sleep(Duration::from_millis(1500));
    scene.put("follow/db", "password", second.as_str());
    agent.until("said", |said| said.ends_with(&line(&second)));
    agent.signal(Signal::USR1);
    agent.until("said", |said| said.ends_with("usr1\n"));
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(), Some(7), "{}", agent.text("log"));
    assert_eq!(agent.text("said"), format!("{}term\n{}usr1\nterm\n", line(&first), line(&second)));

    // The files that were asked for hold the values, so the search sees what is there.
    let secrets = [first, second];
    for asked in ["app.conf", "said"] {
        assert!(!scan(&secrets, &folder.join(asked)).is_empty(), "{asked}");
        fs::remove_file(folder.join(asked)).unwrap();
    }
    assert_absent(&secrets, [folder.as_path(), &scene.app.home().join(".local"), &scene.app.home().join(".config")]);
    assert!(agent.text("log").contains("the child was started"), "{}", agent.text("log"));
}

/// A secret that ended is no other one, and its watch waits on; one that began anew under the same number is another.
#[test]
fn a_secret_may_end_and_begin_anew() {
    let scene = scene();
    scene.put("follow/anew", "text", "one");
    let config = format!(
        "poll_s = 3600\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n
        {CHILD}[child.env]\nPASSWORD = \"kv/follow/anew#text\"\n"
    );
    let folder = Agent::folder(&scene.app, "anew", &config);
    fs::write(folder.join("app.tmpl"), "{{ kv/follow/anew#text }}").unwrap();
    let agent = Agent::start(&scene.app, &folder, &[]);
    agent.until("said", |said| said == "start one one\n");
    std::thread::sleep(Duration::from_millis(500));
    scene.alice.run(["kv", "delete", "follow/anew"]).ok();
    std::thread::sleep(Duration::from_secs(3));
    let watches = scene.alice.run(["audit", "show", "kv/follow/anew", "--action", "kv.watch", "-o", "json"]).ok();
    assert!((1..=8).contains(&watches.lines().count()), "a watch that waits asks seldom:\n{watches}");
    assert_eq!(agent.text("said"), "start one one\n");
    scene.alice.run(["kv", "destroy", "--all", "follow/anew"]).ok();
    scene.put("follow/anew", "text", "two");
    agent.until("said", |said| said.ends_with("start two two\n"));
}

#[test]
fn a_signal_tells_of_a_file_and_a_restart_of_a_variable() {
    let scene = scene();
    scene.put("signal/file", "text", "one");
    scene.put("signal/variable", "text", "red");
    let config = format!(
        "poll_s = 1\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n
        {CHILD}on_change = \"signal:HUP\"\n[child.env]\nPASSWORD = \"kv/signal/variable#text\"\n"
    );
    let folder = Agent::folder(&scene.app, "signal", &config);
    fs::write(folder.join("app.tmpl"), "{{ kv/signal/file#text }}").unwrap();
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    agent.until("said", |said| said == "start red one\n");
    scene.put("signal/file", "text", "two");
    agent.until("said", |said| said == "start red one\nhup\n");
    assert_eq!(agent.text("app.conf"), "two");
    scene.put("signal/variable", "text", "blue");
    agent.until("said", |said| said == "start red one\nhup\nterm\nstart blue two\n");
    agent.signal(Signal::INT);
    // The shell takes the signal's own way.
    assert_eq!(agent.ends(), Some(130), "{}", agent.text("log"));
}

/// One request, as it is; status and body.
fn ask(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: agent\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Where not all of a request was read, the connection breaks off after the answer.
    let _whole = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{request}: {answer}")), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Whether an agent answers there, and has started.
fn is_well(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok() && ask(socket, "GET /v1/health").0 == 200
}

#[test]
fn the_socket_answers_what_is_named_and_nothing_else() {
    let scene = scene();
    scene.put("socket/api", "key", "abc");
    scene.put("socket/other", "key", "not for everybody");
    let config = "[socket]\npath = \"DIR/run/agent.sock\"\n[socket.values]\napi-key = \"kv/socket/api#key\"\n
        none = \"kv/socket/none#key\"\n";
    let folder = Agent::folder(&scene.app, "socket", config);
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    let socket = folder.join("run/agent.sock");
    agent.until("log", |_| is_well(&socket));
    assert_eq!(ask(&socket, "GET /v1/health").1, r#"{"started":true,"failing":[]}"#);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&folder.join("run"))), (0o600, 0o700));
    assert_eq!(ask(&socket, "GET /v1/value/api-key"), (200, "abc".to_owned()));
    // Read when it is asked for.
    scene.put("socket/api", "key", "def");
    assert_eq!(ask(&socket, "GET /v1/value/api-key"), (200, "def".to_owned()));
    for (request, status) in [
        ("GET /v1/value/kv/socket/other", 404),
        ("GET /v1/value/kv%2Fsocket%2Fother%23key", 404),
        ("GET /v1/value/api-key/../other", 404),
        ("GET /v1/value/api%2Dkey", 404),
        ("GET /v1/value/API-KEY", 404),
        ("GET /v1/value/", 404),
        ("GET /v1/kv/socket/other", 404),
        ("GET /", 404),
        ("GET /v1/value/none", 404),
        ("GET /v1/value/api-key?version=1", 400),
        ("POST /v1/value/api-key", 405),
    ] {
        let (answered, body) = ask(&socket, request);
        assert_eq!(answered, status, "{request}: {body}");
        assert!(body.contains("\"hint\":") && !body.contains("everybody"), "{request}: {body}");
    }
    assert_eq!(ask(&socket, &format!("GET /v1/value/{}", "a".repeat(9000))).0, 431);
    if let Some(curl) = tools::find("curl") {
        let socket = socket.to_str().unwrap();
        let url = "http://agent/v1/value/api-key";
        assert_eq!(scene.app.run_program(&curl, ["-sf", "--unix-socket", socket, url], b"").ok(), "def");
    }

    // A second agent does not take the first one's place; after a crash the next one does.
    let config = folder.join("agent.toml");
    let second = scene.app.run(["agent", "--config", config.to_str().unwrap()]).failed(1);
    assert!(second.contains("another agent answers there") && second.contains("socket.path"), "{second}");
    agent.signal(Signal::KILL);
    assert_eq!(agent.ends(), None);
    assert!(socket.exists());
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    agent.until("log", |log| log.contains("answers") && is_well(&socket));
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(), Some(0), "{}", agent.text("log"));
    assert!(!socket.exists());
}

#[test]
fn another_user_is_turned_away_unless_it_is_named() {
    let scene = scene();
    let curl = tools::find("curl").filter(|_| rustix::process::geteuid().is_root());
    let Some(curl) = curl else {
        skip!("another_user_is_turned_away_unless_it_is_named", "needs root, to be another user, and curl");
    };
    scene.put("peer/api", "key", "abc");
    // Where others may go.
    let place = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let socket = place.path().join("agent.sock");
    let config = format!(
        "[socket]\npath = \"{}\"\nallow_uids = [4242]\nallow_gids = [4343]\n[socket.values]\napi-key = \"kv/peer/api#key\"\n",
        socket.display()
    );
    let folder = Agent::folder(&scene.app, "peer", &config);
    let agent = Agent::start(&scene.app, &folder, &[]);
    agent.until("log", |_| is_well(&socket));
    let denied = ("4244", "1", "allow_uids");
    for (uid, gid, answer) in [("4242", "1", "abc"), ("4244", "4343", "abc"), denied, denied, denied] {
        let words = ["--reuid", uid, "--regid", gid, "--clear-groups", "--", curl.to_str().unwrap(), "-s"];
        let more = ["--unix-socket", socket.to_str().unwrap(), "http://agent/v1/value/api-key"];
        let answered = scene.app.run_program(Path::new("setpriv"), words.into_iter().chain(more), b"").ok();
        assert!(answered.contains(answer), "{uid} {gid}: {answered}");
    }
    let log = agent.until("log", |log| log.contains("uid=4244 gid=1 "));
    assert_eq!(log.matches("somebody who may not asks").count(), 1, "each user once a minute: {log}");
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let mut scene = Scene::new();
    scene.put("away/db", "password", "one");
    scene.server.keep_address();
    scene.server.kill();
    let config = format!(
        "poll_s = 1\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n{CHILD}on_change = \"signal:HUP\"\n
        [socket]\npath = \"DIR/agent.sock\"\n"
    );
    let folder = Agent::folder(&scene.app, "away", &config);
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.join("app.tmpl"), "{{ kv/away/db#password }}").unwrap();
    let socket = folder.join("agent.sock");
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    agent.until("log", |log| log.contains("nothing is started yet"));
    assert_eq!(ask(&socket, "GET /v1/health"), (503, r#"{"started":false,"failing":["values"]}"#.to_owned()));
    assert_eq!((agent.text("said"), agent.text("app.conf")), (String::new(), String::new()));
    // It comes, and nobody starts the agent again.
    scene.server.restart();
    scene.alice.run(["unseal", "--yes"]).ok();
    agent.until("said", |said| said == "start  one\n");
    scene.server.kill();
    agent.until("log", |log| log.contains("what is there stays in use"));
    assert_eq!(ask(&socket, "GET /v1/health"), (200, r#"{"started":true,"failing":["changes"]}"#.to_owned()));
    scene.server.restart();
    scene.alice.run(["unseal", "--yes"]).ok();
    scene.put("away/db", "password", "two");
    agent.until("said", |said| said == "start  one\nhup\n");
    assert_eq!(agent.text("app.conf"), "two");
    // At the end too: it does not wait for the server.
    scene.server.kill();
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(), Some(7), "{}", agent.text("log"));
}

/// A process' parent and state, as the kernel says.
fn parent_and_state(pid: &str) -> Option<(String, String)> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).ok()?;
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    Some((line("PPid:")?, line("State:")?))
}

#[test]
fn orphans_are_buried_and_systemd_hears() {
    let scene = scene();
    let config = r#"[child]
command = ["sh", "-c", '''
    sh -c 'sleep 3 & echo $! > orphan'
    env > variables; mv variables variables.whole
    while :; do sleep 0.05; done''']
"#;
    let folder = Agent::folder(&scene.app, "orphan", config);
    let notify = UnixDatagram::bind(folder.join("notify")).unwrap();
    let (tell, words) = mpsc::channel();
    // Read as soon as it comes, or the queue is full after ten words.
    std::thread::spawn(move || {
        let mut text = [0; 64];
        while let Ok(length) = notify.recv(&mut text) {
            if tell.send(String::from_utf8(text[..length].to_vec()).unwrap()).is_err() {
                return;
            }
        }
    });
    let heard = |wanted: &str| while words.recv_timeout(PATIENCE).unwrap() != wanted {};
    let name = folder.join("notify");
    let environment = [("NOTIFY_SOCKET", name.to_str().unwrap()), ("WATCHDOG_USEC", "200000"), ("KEPT", "yes")];
    let mut agent = Agent::start(&scene.app, &folder, &environment);
    heard("READY=1");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    let variables = agent.until("variables.whole", |text| !text.is_empty());
    assert!(variables.contains("KEPT=yes") && !variables.contains("NOTIFY") && !variables.contains("WATCHDOG"));
    let orphan = agent.text("orphan");
    let (parent, _) = parent_and_state(&orphan).unwrap();
    assert_eq!(parent, agent.process.id().to_string(), "it is the agent's now");
    let began = Instant::now();
    while let Some((_, state)) = parent_and_state(&orphan) {
        assert!(began.elapsed() < PATIENCE, "{state}");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.signal(Signal::TERM);
    heard("STOPPING=1");
    assert_eq!(agent.ends(), Some(143), "{}", agent.text("log"));
}

#[test]
fn a_child_that_does_not_end_is_killed_and_one_that_ends_ends_the_agent() {
    let scene = scene();
    for (name, script, signal, code) in [
        ("stubborn", "trap '' TERM; echo up > said; while :; do sleep 0.05; done", Some(Signal::TERM), 137),
        ("fails", "exit 3", None, 3),
        ("done", "exit 0", None, 0),
        ("killed", "kill -9 $$", None, 137),
    ] {
        let config = format!("[child]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ngrace_s = 1\n");
        let mut agent = Agent::start(&scene.app, &Agent::folder(&scene.app, name, &config), &[]);
        if let Some(signal) = signal {
            agent.until("said", |said| !said.is_empty());
            agent.signal(signal);
        }
        assert_eq!(agent.ends(), Some(code), "{name}:\n{}", agent.text("log"));
    }
    let config = "[child]\ncommand = [\"DIR/nothing\"]\n";
    let mut agent = Agent::start(&scene.app, &Agent::folder(&scene.app, "missing", config), &[]);
    assert_eq!(agent.ends(), Some(1));
    assert!(agent.text("log").contains("child.command"), "{}", agent.text("log"));
}

/// Nor does whatever the child starts: a program that is set-user-ID runs as who starts it.
#[test]
fn a_child_gains_no_privileges() {
    let scene = scene();
    let config = "[child]\ncommand = [\"sh\", \"-c\", \"grep NoNewPrivs /proc/self/status > privileges\"]\n";
    let mut agent = Agent::start(&scene.app, &Agent::folder(&scene.app, "privileges", config), &[]);
    assert_eq!(agent.ends(), Some(0), "{}", agent.text("log"));
    assert_eq!(agent.text("privileges"), "NoNewPrivs:\t1\n");
}

#[test]
fn as_the_first_process_of_a_container() {
    let scene = scene();
    const UNSHARE: [&str; 6] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"];
    let under = |words: &[&'static str]| UNSHARE.iter().chain(words).copied().collect::<Vec<_>>();
    let tried = under(&["true"]);
    if scene.app.run_program(Path::new(tried[0]), &tried[1..], b"").code != 0 {
        skip!("as_the_first_process_of_a_container", "unshare cannot make a namespace of processes here");
    }
    // The orphan ends before its new parent is asked to.
    let script = "trap 'echo term >> said; exit 5' TERM; sh -c 'sleep 0.1 & echo $! > orphan'; echo $PPID > parent; \
        while :; do sleep 0.05; test -e /proc/$(cat orphan) || echo buried > buried; done";
    let config = format!("[child]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    let folder = Agent::folder(&scene.app, "first", &config);
    let mut agent = Agent::start_under(&scene.app, &folder, &[], &UNSHARE);
    agent.until("buried", |text| !text.is_empty());
    assert_eq!(agent.text("parent"), "1\n");
    // Whoever makes the namespace passes nothing on, so the agent is asked by the number that it has outside.
    let outside = agent.process.id();
    let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
    process::signal_id(children.trim().parse().unwrap(), Signal::TERM);
    assert_eq!(agent.ends(), Some(5), "{}", agent.text("log"));
    assert_eq!(agent.text("said"), "term\n");
}

#[test]
fn a_user_of_a_database_is_renewed_replaced_and_taken_away() {
    let Some(postgres) = Postgres::start() else {
        skip!("a_user_of_a_database_is_renewed_replaced_and_taken_away", "needs postgresql");
    };
    let scene = scene();
    scene.alice.file("pw.txt", PASSWORD.as_bytes());
    let port = postgres.port().to_string();
    let line = ["database", "configure", "app", "--engine", "postgres", "--host", "127.0.0.1", "--port", &port];
    scene.alice.run(line.into_iter().chain(["--user", ADMIN, "--no-tls", "password=@pw.txt"])).ok();
    let made = "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}";
    let role = ["database", "role", "put", "app", "reader", "--ttl", "6s", "--max-ttl", "8s", "--creation", made];
    scene.alice.run(role).ok();
    let config = format!(
        "poll_s = 1\n[[database]]\nrole = \"app/reader\"\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n
        {CHILD}grace_s = 1\n[child.env]\nPASSWORD = \"database/app/reader#password\"\n"
    );
    let folder = Agent::folder(&scene.app, "database", &config);
    fs::write(folder.join("app.tmpl"), "{{ database/app/reader#username }}").unwrap();
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    let starts =
        |said: &str| said.lines().filter(|line| line.starts_with("start ")).map(str::to_owned).collect::<Vec<_>>();
    let login = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (password, user) = (words.next().unwrap(), words.next().unwrap());
        postgres.try_sql(user, password, "SELECT 1")
    };
    let said = agent.until("said", |said| starts(said).len() == 1);
    let first = starts(&said).remove(0);
    assert_eq!(login(&first), Ok("1".to_owned()));
    agent.until("log", |log| log.contains("the lease was renewed"));
    assert_eq!(starts(&agent.text("said")).len(), 1, "a renewal changes nothing for the child");
    // The next user is there while the one before still is.
    let said = agent.until("said", |said| starts(said).len() == 2);
    let (before, second) = (postgres.users(), starts(&said).remove(1));
    assert!(before.len() == 2 && first != second, "{before:?} {said}");
    assert_eq!(login(&second), Ok("1".to_owned()));
    agent.until("log", |log| log.contains("the lease was revoked"));
    let gone = |user: &str| {
        let began = Instant::now();
        while postgres.users().iter().any(|there| there == user) {
            assert!(began.elapsed() < PATIENCE, "{user} is there:\n{}", agent.text("log"));
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    gone(first.split(' ').nth(2).unwrap());
    // One who was taken away is noticed, and replaced too.
    let before = starts(&agent.text("said"));
    scene.alice.run(["lease", "revoke", "--resource", "database/app/reader"]).ok();
    let next = |line: &String| !before.contains(line) && login(line).is_ok();
    agent.until("said", |said| starts(said).last().is_some_and(next));
    // At the end nobody is left, long before the lease would end.
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(), Some(7), "{}", agent.text("log"));
    let began = Instant::now();
    while !postgres.users().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}\n{}", postgres.users(), agent.text("log"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let passwords = [&first, &second].map(|line| Canary::of("password", line.split(' ').nth(1).unwrap().as_bytes()));
    assert_absent(&passwords, [folder.join("log").as_path(), &scene.app.home().join(".local")]);
}

/// A static role of a user, and what an agent is told that was given another kind of role.
#[test]
fn a_password_that_is_rotated_is_read_again() {
    let Some(postgres) = Postgres::start() else {
        skip!("a_password_that_is_rotated_is_read_again", "needs postgresql");
    };
    let scene = scene();
    let bulla = |line: &str, more: &[&str]| scene.alice.run(line.split(' ').chain(more.iter().copied())).ok();
    scene.alice.file("pw.txt", PASSWORD.as_bytes());
    let port = postgres.port().to_string();
    let reached = ["--port", &port, "--user", ADMIN, "--no-tls", "password=@pw.txt"];
    bulla("database configure fixed --engine postgres --host 127.0.0.1", &reached);
    postgres.sql("CREATE ROLE billing LOGIN PASSWORD 'typed'; CREATE ROLE readers NOLOGIN");
    bulla("database static put fixed billing --user billing --rotate-every 24h", &[]);
    let creation = "CREATE ROLE {{name}} LOGIN VALID UNTIL {{expiration}} IN ROLE readers";
    bulla("database role put fixed cert --certificate --creation", &[creation]);
    let folder = |name: &str, role: &str| {
        let config = format!(
            "poll_s = 1\n[[database]]\nrole = \"{role}\"\n[[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n"
        );
        let role = role.split('"').next().unwrap();
        let folder = Agent::folder(&scene.app, name, &config);
        fs::write(
            folder.join("app.tmpl"),
            format!("{{{{ database/{role}#username }}}} {{{{ database/{role}#password }}}}"),
        )
        .unwrap();
        folder
    };
    let folders = [
        folder("static", "fixed/billing\"\nstatic = true #"),
        folder("undeclared", "fixed/billing"),
        folder("certificate", "fixed/cert"),
    ];
    let mut agents = folders.each_ref().map(|folder| Agent::start(&scene.app, folder, &[]));
    let login = |text: &str| {
        let (user, password) = text.split_once(' ').unwrap_or_default();
        user == "billing" && postgres.try_sql(user, password, "SELECT 1").is_ok()
    };
    let first = agents[0].until("app.conf", login);
    bulla("database static rotate fixed billing", &[]);
    let second = agents[0].until("app.conf", |text| text != first && login(text));
    assert_ne!(first, second);
    let written = agents[0].text("log").matches("written").count();
    assert_eq!(written, 2, "{}", agents[0].text("log"));
    // A role of another kind: what to do is told at the first answer.
    agents[1].until("log", |log| log.contains("a static role needs static = true"));
    agents[2].until("log", |log| log.contains("an agent keeps users with passwords"));
    for agent in &mut agents {
        agent.signal(Signal::TERM);
        assert_eq!(agent.ends(), Some(0), "{}", agent.text("log"));
        let passwords =
            [&first, &second].map(|text| Canary::of("password", text.split(' ').nth(1).unwrap().as_bytes()));
        assert_absent(&passwords, [agent.folder.join("log").as_path()]);
    }
}

#[test]
fn a_database_that_hangs_delays_no_other() {
    let Some(postgres) = Postgres::start() else {
        skip!("a_database_that_hangs_delays_no_other", "needs postgresql");
    };
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = scene();
    scene.alice.file("pw.txt", PASSWORD.as_bytes());
    for (name, port) in [("alive", postgres.port()), ("silent", silent.local_addr().unwrap().port())] {
        let port = port.to_string();
        let line = ["database", "configure", name, "--engine", "postgres", "--host", "127.0.0.1", "--port", &port];
        scene.alice.run(line.into_iter().chain(["--user", ADMIN, "--no-tls", "--no-check", "password=@pw.txt"])).ok();
        let made = "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}";
        // Shorter than the time that the cluster gives a connection.
        let role = ["database", "role", "put", name, "reader", "--ttl", "3s", "--max-ttl", "1h", "--creation", made];
        scene.alice.run(role).ok();
    }
    let config = "[[database]]\nrole = \"alive/reader\"\n[[database]]\nrole = \"silent/reader\"\n
        [[template]]\nsource = \"app.tmpl\"\ndestination = \"app.conf\"\n";
    let folder = Agent::folder(&scene.app, "silent", config);
    fs::write(folder.join("app.tmpl"), "{{ database/alive/reader#username }} {{ database/silent/reader#username }}")
        .unwrap();
    let mut agent = Agent::start(&scene.app, &folder, &[]);
    let log = agent.until("log", |log| log.contains("the lease was renewed"));
    let failures = log.lines().filter(|line| line.contains("database/silent/reader")).count();
    assert!(failures <= 1, "the renewal waited for the other database:\n{log}");
    agent.until("log", |log| log.contains("database/silent/reader"));
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(), Some(0), "{}", agent.text("log"));
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_before_anything_starts() {
    let cli = Cli::new(bulla!());
    assert!(cli.run(["agent"]).failed(64).contains("bulla agent sample"));
    cli.file("agent.toml", b"[child]\ncommand = [\"app\"]\non_change = \"reload\"\n");
    let failed = cli.run(["agent", "check", "--config", "agent.toml"]).failed(64);
    assert!(failed.contains("agent.toml: child.on_change: \"reload\"") && failed.contains("signal:"), "{failed}");
    cli.file("agent.toml", b"[child]\ncommand = [\"app\"]\n");
    cli.run(["agent", "check", "--config", "agent.toml"]).ok();
    // A folder in which others could put another file in the place of the one that is written.
    cli.file("app.tmpl", b"x");
    let open = cli.work().join("open");
    fs::create_dir(&open).unwrap();
    cli.file("open.toml", b"[[template]]\nsource = \"app.tmpl\"\ndestination = \"open/app.conf\"\n");
    for (mode, told) in [(0o700, false), (0o777, true), (0o1777, false)] {
        fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        let checked = cli.run(["agent", "check", "--config", "open.toml"]);
        checked.ok();
        assert_eq!(checked.errors().contains("others may write in open"), told, "{mode:o} {}", checked.errors());
    }
    assert!(cli.run(["agent", "sample"]).ok().contains("[[template]]"));
    let policy = cli.run(["agent", "--config", "agent.toml", "--output-policy"]).failed(64);
    assert!(policy.contains("bulla kv get"), "{policy}");
}
