//! The groups of `cargo xtask test`, in the order in which they run.
//!
//! To add one, add a line. A file of tests that no group names runs in `integration`, so none is ever forgotten.

/// Some steps under one name.
pub struct Group {
    pub name: &'static str,
    /// What it shows, for `--list`.
    pub about: &'static str,
    pub steps: &'static [Step],
}

/// One thing to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// cargo with these arguments; one check.
    Cargo(&'static [&'static str]),
    /// The policy on the source; a check per rule.
    Tidy,
    /// The tests inside the libraries and binaries of all packages.
    Units,
    /// The examples in their documentation.
    DocTests,
    /// A file of tests; the arguments go to the test program (`--skip NAME`, `NAME`).
    Tests { package: &'static str, target: &'static str, args: &'static [&'static str] },
    /// A file of tests that keeps the processors busy, with less right to them than the lanes beside it: files of tests
    /// that mostly wait, in each lane one after the other.
    Beside { busy: Target, lanes: &'static [&'static [Waiting]] },
    /// What the lints said while the tests were built.
    Lints,
    /// Every file of tests that no other step names.
    Remaining,
    /// Every parser under libFuzzer; in long runs only.
    Fuzz,
    /// The crates that decide, with one place changed; in long runs only.
    Mutants,
    /// The lines that the tests run; in long runs only.
    Coverage,
    /// What a release binary must be.
    Release,
}

/// A package and a file of its tests.
pub type Target = (&'static str, &'static str);

/// One that mostly waits, and the arguments of the test program.
pub type Waiting = (Target, &'static [&'static str]);

use Step::{Beside, Cargo, Coverage, DocTests, Fuzz, Lints, Mutants, Release, Remaining, Tests, Tidy, Units};

impl Step {
    /// The files of tests that it names.
    pub fn targets(&self) -> Vec<Target> {
        match self {
            Tests { package, target, .. } => vec![(package, target)],
            Beside { busy, lanes } => {
                let lanes = lanes.iter().copied().flatten().map(|(target, _)| *target);
                std::iter::once(*busy).chain(lanes).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The features of the one build of all tests: they let a test kill a process at a named point. What a release holds
/// without them, the group `release` looks at.
pub const FAILPOINTS: &str = "bulla/failpoints";

/// All groups.
pub const GROUPS: &[Group] = &[
    Group {
        name: "fmt",
        about: "the source is formatted",
        steps: &[Cargo(&["fmt", "--all", "--check", "--", "--color", "never"])],
    },
    Group { name: "tidy", about: "policy on the source", steps: &[Tidy] },
    Group { name: "clippy", about: "no lint fires", steps: &[Lints] },
    Group {
        name: "unit",
        about: "tests beside the code, and examples in its documentation",
        steps: &[Units, DocTests],
    },
    Group {
        name: "vectors",
        about: "test vectors that others published",
        steps: &[
            Tests { package: "bulla-crypto", target: "envelopes", args: &["--skip", "interop::"] },
            Tests { package: "bulla-crypto", target: "wycheproof", args: &[] },
        ],
    },
    Group {
        name: "interop",
        about: "both ways with programs of others",
        steps: &[
            Tests { package: "bulla-crypto", target: "envelopes", args: &["interop::"] },
            Tests { package: "bulla", target: "interop", args: &[] },
        ],
    },
    Group {
        name: "foreign",
        about: "a client in Python, written from the specification alone",
        steps: &[Tests { package: "bulla", target: "foreign", args: &[] }],
    },
    Group {
        name: "store",
        about: "every backend, against a model and killed",
        steps: &[
            Tests { package: "bulla-store", target: "memory", args: &[] },
            Tests { package: "bulla-store", target: "file", args: &[] },
            Tests { package: "bulla-store", target: "model", args: &[] },
            Tests { package: "bulla-store", target: "kill", args: &[] },
        ],
    },
    Group {
        name: "cli",
        about: "the command line: the whole way, and what it prints",
        steps: &[
            Tests { package: "bulla", target: "cli_spine", args: &[] },
            Tests { package: "bulla", target: "cli_transcripts", args: &[] },
            Tests { package: "bulla", target: "cli_terminal", args: &[] },
            Tests { package: "bulla", target: "example", args: &[] },
        ],
    },
    Group {
        name: "demo",
        about: "the demo, and its lines typed again",
        steps: &[Tests { package: "bulla", target: "demo", args: &[] }],
    },
    Group {
        name: "simulation",
        about: "a node by seed, on disks that lose power and a network that loses letters; beside it what mostly waits: deaths at every \
                failpoint, the real server and client, Kubernetes' client library and whole kube-apiservers, keys elsewhere",
        steps: &[Beside {
            busy: ("bulla-server", "simulation"),
            lanes: &[
                &[(("bulla", "kubernetes"), &["--skip", "kube_apiserver"]), (("bulla-server", "e2e"), &[])],
                // Apiservers start by the handful, which the other lane's measurements would feel.
                &[(("bulla", "kill"), &[]), (("bulla", "kubernetes"), &["kube_apiserver"])],
                &[
                    (("bulla-kms", "cloud"), &[]),
                    (("bulla-kms", "pkcs11"), &[]),
                    (("bulla-kms", "kms"), &[]),
                    (("bulla-kms", "vault"), &[]),
                    (("bulla", "agent_process"), &[]),
                    (("bulla", "cli_database"), &[]),
                ],
            ],
        }],
    },
    Group {
        name: "fuzz",
        about: "every parser on its corpus and on mutations of it; with --long ten minutes each under libFuzzer",
        steps: &[Tests { package: "bulla-fuzz", target: "corpus", args: &[] }, Fuzz],
    },
    Group { name: "integration", about: "all other files of tests", steps: &[Remaining] },
    Group {
        name: "mutants",
        about: "with --long: what is changed in the crates that decide is noticed",
        steps: &[Mutants],
    },
    Group { name: "coverage", about: "with --long: the lines that the tests run are counted", steps: &[Coverage] },
    Group {
        name: "release",
        about: "with --long, or by its name: the release binary: size, libraries, no failpoints; the Debian package",
        steps: &[Release],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_nothing_is_forgotten() {
        for (index, group) in GROUPS.iter().enumerate() {
            assert!(GROUPS.iter().skip(index + 1).all(|other| other.name != group.name), "{} twice", group.name);
            assert!(!group.steps.is_empty(), "{} is empty", group.name);
        }
        let everything: Vec<Step> = GROUPS.iter().flat_map(|group| group.steps.iter().copied()).collect();
        assert_eq!(everything.iter().filter(|step| **step == Remaining).count(), 1);
    }

    #[test]
    fn every_named_target_exists() {
        let packages = crate::workspace::packages().unwrap();
        for (package, target) in GROUPS.iter().flat_map(|group| group.steps).flat_map(Step::targets) {
            let found = packages.iter().find(|found| found.name == package).expect(package);
            assert!(found.targets.iter().any(|found| found.name == target), "{package} {target}");
        }
    }
}
