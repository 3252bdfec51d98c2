//! A tour with the real thing: a durable server, real keys, real commands. Each command is run as this program's
//! own child and printed as it could be typed; a test takes the printed lines and runs them in bash.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long the server may take to answer for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Folders tried before giving up: whoever runs the demo that often can tidy up.
const FOLDERS_MAX: u32 = 1000;

/// Walk through the real thing in a fresh folder
#[derive(Debug, Args)]
pub struct Demo {
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
}

/// One thing to show.
enum Step {
    /// What is going on, for people.
    Say(&'static str),
    /// A shell line that sets the scene; the demo does the same by itself.
    Scene(String),
    /// A command of ours, with its exit code. Arguments beginning with `$` are what an earlier command printed.
    Run(&'static [&'static str], u8),
    /// A command of ours whose output is kept under a name.
    Keep(&'static str, &'static [&'static str]),
}

use Step::{Keep, Run, Say, Scene};

const LETTER: &str = "The launch code is 0000. Change it.";

fn tour() -> Vec<Step> {
    vec![
        Say("Five people make keys. Each identity stays with its owner; the record (.pub) is for everyone."),
        Run(&["keygen", "-o", "ann.key"], 0),
        Run(&["keygen", "-o", "ben.key"], 0),
        Run(&["keygen", "-o", "cat.key"], 0),
        Run(&["keygen", "-o", "alice.key"], 0),
        Run(&["keygen", "-o", "bob.key"], 0),
        Say("A durable server starts. It knows who may make the cluster, and nothing else."),
        Scene(
            "bulla server --data data --listen 127.0.0.1:0 --ready-file ready.json \
             --admin ann.pub --admin ben.pub --admin cat.pub 2> server.log &"
                .into(),
        ),
        Scene("until [ -e ready.json ]; do sleep 0.1; done".into()),
        Say("Ann makes a cluster that any two of the three admins open. No share is ever typed or mailed."),
        Run(
            &[
                "--identity",
                "ann.key",
                "init",
                "--name",
                "demo",
                "-k",
                "2",
                "--admin",
                "ann.pub",
                "--admin",
                "ben.pub",
                "--admin",
                "cat.pub",
                "--ready-file",
                "ready.json",
                "--save-context",
                "demo",
            ],
            0,
        ),
        Run(&["status"], Exit::Sealed.number()),
        Say("Two admins give their shares, each with their own key. `--yes` stands for comparing the cluster's id."),
        Run(&["--identity", "ann.key", "unseal", "--yes"], 0),
        Run(&["--identity", "cat.key", "unseal", "--yes"], 0),
        Say("Ann admits Alice and Bob. A name belongs to a key by her signature, not by the server's word."),
        Run(&["--identity", "ann.key", "principal", "add", "alice.pub"], 0),
        Run(&["--identity", "ann.key", "principal", "add", "bob.pub"], 0),
        Say("Alice wraps a letter for Bob. It is encrypted on her machine; the server cannot read it."),
        Scene(format!("printf '%s\\n' '{LETTER}' > letter.txt")),
        Keep("SLIP", &["--identity", "alice.key", "wrap", "create", "--to", "bob", "letter.txt"]),
        Say("The slip is no secret: it names one exact wrap. Bob opens it."),
        Run(&["--identity", "bob.key", "open", "$SLIP", "-o", "opened.txt"], 0),
        Scene("cat opened.txt".into()),
        Say("Somebody stole Bob's key, and tries the same slip. It opens exactly once: refused, with the receipt."),
        Scene("cp bob.key stolen.key".into()),
        Run(&["--identity", "stolen.key", "open", "$SLIP", "-o", "again.txt"], Exit::AlreadyOpened.number()),
        Say("Alice sees it at her next look."),
        Run(&["--identity", "alice.key", "alarms"], 0),
        Run(&["--identity", "alice.key", "wrap", "inspect", "$SLIP"], 0),
        Say(
            "Everything stands in the audit log: names, keys and outcomes, never values. The chain is checked offline.",
        ),
        Run(&["--identity", "ann.key", "audit", "show", "--action", "wrap.open"], 0),
        Run(&["audit", "verify", "--file", "data/audit"], 0),
    ]
}

/// The demo's world: its folder, its server, what it kept.
struct Stage {
    binary: PathBuf,
    folder: PathBuf,
    kept: BTreeMap<&'static str, String>,
    server: Option<Child>,
    pause: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            stop(server);
        }
    }
}

/// Asks a server to stop.
fn ask_to_stop(server: u32) {
    let pid = i32::try_from(server).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Asks the server to stop, and waits for it.
fn stop(server: &mut Child) {
    ask_to_stop(server.id());
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if matches!(server.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
}

/// Runs the tour.
pub fn run(args: &Demo, _: &Session<'_>) -> Result<Exit, Failure> {
    let binary = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
    let folder = fresh_folder()?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut stage = Stage { binary, folder, kept: BTreeMap::new(), server: None, pause: args.pause };
    say("Bulla: a secret that opens exactly once. Every line after a dollar sign can be typed again.")?;
    let bin = stage.binary.parent().map(Path::to_path_buf).unwrap_or_default();
    show(&format!("export PATH={}:\"$PATH\"", quoted(&bin.display().to_string())))?;
    show(&format!("mkdir {name} && cd {name}"))?;
    show("export XDG_CONFIG_HOME=\"$PWD/config\" XDG_STATE_HOME=\"$PWD/state\"")?;
    for step in tour() {
        stage.play(&step)?;
    }
    stage.farewell(&name)
}

fn failed(action: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {action}: {error}"))
        .hint("run it in a folder that you may write to; what a demo left behind can be deleted")
}

fn fresh_folder() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|error| failed("find the current folder", &error))?;
    for number in 1..=FOLDERS_MAX {
        let folder = here.join(format!("bulla-demo-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make a folder for the demo", &error)),
        }
    }
    Err(failed("make a folder for the demo", &"there are a thousand already; delete some"))
}

/// Prints for people. A reader who went away ends the demo.
fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "\n{text}").map_err(|error| failed("print", &error))
}

fn show(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "$ {line}").map_err(|error| failed("print", &error))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    if let Some(name) = word.strip_prefix('$') {
        return format!("\"${name}\"");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@,+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn line(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("bulla {}", words.join(" "))
}

impl Stage {
    fn play(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Say(text) => {
                say(text)?;
                if self.pause {
                    // A closed input is no reason to stop, only no reason to wait.
                    let _ = io::stdin().lock().read_line(&mut String::new());
                }
                Ok(())
            }
            Scene(text) => {
                show(text)?;
                self.scene(text)
            }
            Run(words, code) => {
                let suffix = if *code == 0 { String::new() } else { format!(" || [ $? = {code} ]") };
                show(&format!("{}{suffix}", line(words)))?;
                let status = self.command(words).status().map_err(|error| failed("run a command", &error))?;
                if status.code() == Some(i32::from(*code)) { Ok(()) } else { Err(failed(&line(words), &status)) }
            }
            Keep(name, words) => {
                show(&format!("{name}=$({})", line(words)))?;
                let output = self.command(words).stderr(Stdio::inherit()).output();
                let output = output.map_err(|error| failed("run a command", &error))?;
                if !output.status.success() {
                    return Err(failed(&line(words), &output.status));
                }
                let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
                show(&format!("echo \"${name}\""))?;
                writeln!(io::stdout(), "{text}").map_err(|error| failed("print", &error))?;
                self.kept.insert(name, text);
                Ok(())
            }
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("XDG_CONFIG_HOME", self.folder.join("config")).env("XDG_STATE_HOME", self.folder.join("state"));
        // Whatever the caller's own commands and servers go by.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"BULLA_")) {
            command.env_remove(name);
        }
        command.args(words.iter().map(|word| match word.strip_prefix('$') {
            Some(name) => self.kept.get(name).map_or("", String::as_str),
            None => word,
        }));
        command
    }

    /// Does what a shell line of the scene says.
    fn scene(&mut self, text: &str) -> Result<(), Failure> {
        let file = |name: &str| self.folder.join(name);
        let done = match text.split_once(' ').unwrap_or((text, "")) {
            ("bulla", _) => return self.start(),
            ("until", _) => return self.wait_for_ready(),
            ("printf", _) => fs::write(file("letter.txt"), format!("{LETTER}\n")),
            ("cp", _) => fs::copy(file("bob.key"), file("stolen.key")).map(|_| ()),
            _ => fs::read(file("opened.txt")).and_then(|bytes| io::stdout().write_all(&bytes)),
        };
        done.map_err(|error| failed(text, &error))
    }

    fn start(&mut self) -> Result<(), Failure> {
        let log = File::create(self.folder.join("server.log")).map_err(|error| failed("write server.log", &error))?;
        let words = [
            "server",
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
            "--ready-file",
            "ready.json",
            "--admin",
            "ann.pub",
            "--admin",
            "ben.pub",
            "--admin",
            "cat.pub",
        ];
        let child = self.command(&words).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| failed("start the server", &error))?;
        let id = child.id();
        self.server = Some(child);
        // Whoever ends the demo alone, and not all that was started at its terminal, ends its server too.
        for (kind, code) in
            [(SignalKind::terminate(), 143), (SignalKind::hangup(), 129), (SignalKind::interrupt(), 130)]
        {
            let mut signal = signal(kind).map_err(|error| failed("take signals", &error))?;
            tokio::spawn(async move {
                signal.recv().await;
                ask_to_stop(id);
                std::process::exit(code);
            });
        }
        Ok(())
    }

    fn wait_for_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.folder.join("ready.json").exists() {
            let ended = self.server.as_mut().is_some_and(|server| !matches!(server.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                return Err(failed("start the server", &log.trim_end()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Leaves the server to whoever sits at a terminal, and stops it otherwise.
    fn farewell(mut self, name: &str) -> Result<Exit, Failure> {
        let print = |text: String| writeln!(io::stdout(), "{text}").map_err(|error| failed("print", &error));
        say("That was all of it. To go on with this cluster:")?;
        print(format!("  cd {name}"))?;
        print("  export XDG_CONFIG_HOME=\"$PWD/config\" XDG_STATE_HOME=\"$PWD/state\"".into())?;
        let looks = || {
            print("  bulla --identity ann.key policy list".into())?;
            print("  bulla --identity bob.key wrap list".into())
        };
        let bin = self.binary.parent().map(Path::to_path_buf).unwrap_or_default();
        print(format!("  export PATH={}:\"$PATH\"", quoted(&bin.display().to_string())))?;
        let server = self.server.take();
        match server {
            Some(server) if io::stdin().is_terminal() && io::stdout().is_terminal() => {
                looks()?;
                print(format!("The server goes on in the background. To stop it: kill {}", server.id()))?;
            }
            Some(mut server) => {
                stop(&mut server);
                print("The server was stopped, as nobody watches. To start it again, sealed, on another port:".into())?;
                print("  bulla server --data data --listen 127.0.0.1:8250 &".into())?;
                print("  export BULLA_ADDR=127.0.0.1:8250".into())?;
                print("  bulla --identity ann.key unseal --yes && bulla --identity cat.key unseal --yes".into())?;
                print("Then:".into())?;
                looks()?;
            }
            None => {}
        }
        print(format!("To forget it all: rm -r {name}"))?;
        Ok(Exit::Ok)
    }
}
