//! Policy on the source, as code. Each rule says why it exists; a finding names the file and the line.

mod graph;
mod kubernetes;
mod manifests;
mod map;
mod monitoring;
mod pages;
mod rust;

use crate::tally::Tally;
use crate::workspace::{Stop, root};
use std::path::{Path, PathBuf};

/// The text files of the repository.
pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<File>,
}

/// A text file; its path is from the root, with `/`.
pub struct File {
    pub path: String,
    pub text: String,
}

/// What a rule found; empty if it holds.
type Findings = Result<Vec<String>, Stop>;

struct Rule {
    name: &'static str,
    /// Why it exists: shown when it is broken.
    why: &'static str,
    check: fn(&Tree) -> Findings,
}

const RULES: &[Rule] = &[
    Rule {
        name: "files have at most 500 lines before their tests",
        why: "what is longer has two subjects",
        check: rust::lengths,
    },
    Rule {
        name: "modules are named after a thing",
        why: "util, common, helper and manager name no thing, and collect everything",
        check: rust::module_names,
    },
    Rule {
        name: "there is no unsafe code",
        why: "a secrets service has no use for it; the workspace forbids it and every package takes its lints from there",
        check: rust::no_unsafe,
    },
    Rule {
        name: "each proof has its one maker",
        why: "Authorized, Accepted and SealRight vouch that a check was made; a second call site would be a second road",
        check: rust::assertions,
    },
    Rule {
        name: "the core has no world",
        why: "decisions take time, randomness and records as values, so that the same code runs in simulation",
        check: rust::core_is_pure,
    },
    Rule {
        name: "every crate and module says what it is for",
        why: "purpose, invariants and threat stand at the top, or nobody finds them",
        check: rust::roots_are_documented,
    },
    Rule {
        name: "ignored are only measurements and generators",
        why: "a test that never runs shows nothing; long numbers come with --long instead",
        check: rust::ignored_tests,
    },
    Rule {
        name: "no notes to self",
        why: "what is not done is left out, or stands in SECURITY.md or the manual where users see it",
        check: pages::words,
    },
    Rule {
        name: "links lead somewhere",
        why: "a page that sends its reader nowhere is worse than none",
        check: pages::links,
    },
    Rule {
        name: "spec/README.md lists every page",
        why: "a second implementation is written from that list",
        check: pages::specification,
    },
    Rule {
        name: "docs/coverage.md names every file of tests; it and SECURITY.md name only such as exist",
        why: "it is how one sees that a part is tested, and a promise held",
        check: pages::coverage,
    },
    Rule {
        name: "ARCHITECTURE.md names every module once, and only such as exist",
        why: "whoever looks for a thing must find its module there, and nothing that is gone",
        check: map::check,
    },
    Rule {
        name: "packages take version, edition and lints from the workspace, and use what they depend on",
        why: "a dependency is attack surface and build time",
        check: manifests::check,
    },
    Rule {
        name: "crates depend only on what their place allows",
        why: "the boundaries of ARCHITECTURE.md hold only as long as the compiler sees them",
        check: graph::check,
    },
    Rule {
        name: "manifests for Kubernetes say what their chart says",
        why: "four files that describe one thing would soon describe four",
        check: kubernetes::check,
    },
    Rule {
        name: "alerts and dashboards name metrics that there are",
        why: "an alert on a metric that is gone never fires",
        check: monitoring::check,
    },
];

/// Checks every rule and prints what is broken; one check counted per rule.
pub fn run() -> Result<Tally, Stop> {
    let tree = Tree::read(&root())?;
    let mut tally = Tally::default();
    for rule in RULES {
        let findings = (rule.check)(&tree)?;
        if !findings.is_empty() {
            println!("tidy: {}\n  ({})", rule.name, rule.why);
            findings.iter().for_each(|finding| println!("    {finding}"));
        }
        tally.add(Tally::check(&format!("tidy: {}", rule.name), findings.is_empty()));
    }
    Ok(tally)
}

impl Tree {
    /// Reads all text files beneath `root` but for what is built or installed there.
    pub fn read(root: &Path) -> Result<Self, Stop> {
        let mut tree = Self { root: root.to_owned(), files: Vec::new() };
        tree.descend(root)?;
        tree.files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(tree)
    }

    fn descend(&mut self, folder: &Path) -> Result<(), Stop> {
        let failed = |error: std::io::Error| Stop(format!("cannot read {}: {error}", folder.display()));
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(failed)?;
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if hidden || name == "target" || name == "node_modules" || name.starts_with("bulla-demo-") {
                continue;
            }
            let path = entry.path();
            if kind.is_dir() {
                self.descend(&path)?;
            } else if kind.is_file()
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                self.files.push(File { path, text });
            }
        }
        Ok(())
    }

    /// Files with this ending.
    fn ending(&self, ending: &'static str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.path.ends_with(ending))
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of made-up files.
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
        Self { root: PathBuf::from("/nowhere"), files: files.iter().map(file).collect() }
    }
}
