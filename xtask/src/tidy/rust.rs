//! Rules on Rust source, by reading lines. Formatting is fixed by rustfmt, so that is enough.

use super::{File, Findings, Tree};

/// Lines of a file before its tests.
const LINES_MAX: usize = 500;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];

/// What the core may not name: files, sockets, clocks, threads, processes, runtimes, the system's randomness.
const WORLD: &[&str] = &[
    "std::fs",
    "std::env",
    "std::os",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "SystemTime",
    "Instant",
    "SystemRng",
    "tokio",
    "println!",
    "eprintln!",
];

/// Who may make a proof: the call, and for each place (the start of a path) the most calls there.
const PROOFS: &[(&str, &[(&str, usize)])] = &[
    ("Authorized::assertion(", &[("crates/core/src/policy.rs", 1)]),
    ("Accepted::assertion(", &[("crates/server/src/sink", 1)]),
    // Init and the other verbs of a sealed node, and those of an unsealed one that k admins sign.
    ("SealRight::assertion(", &[("crates/server/src/sealed", 2), ("crates/server/src/serve", 1)]),
];

/// Where such a constructor is declared.
const MAKERS: &[&str] =
    &["crates/core/src/policy.rs", "crates/core/src/audit/request.rs", "crates/core/src/policy/exempt.rs"];

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("crates/testkit/")
}

/// Source files of the product and of the tasks, tests left out.
fn sources(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.ending(".rs").filter(|file| !is_test_file(&file.path))
}

/// The lines before the module of tests, with their numbers.
fn before_tests(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let end = lines
        .windows(2)
        .position(|pair| match pair {
            [attribute, next] => {
                attribute.starts_with("#[cfg(") && attribute.contains("test") && next.starts_with("mod ")
            }
            _ => false,
        })
        .unwrap_or(lines.len());
    lines.into_iter().take(end).enumerate().map(|(number, line)| (number + 1, line))
}

/// A line without its comment. A `//` inside a string is met only in addresses, which no rule looks for.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

pub fn lengths(tree: &Tree) -> Findings {
    let long = sources(tree).filter_map(|file| {
        let lines = before_tests(file).count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    Ok(long.collect())
}

pub fn module_names(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        let parts = file.path.trim_end_matches(".rs").split('/');
        if parts.clone().any(|part| EMPTY_NAMES.contains(&part)) {
            findings.push(file.path.clone());
        }
        for (number, line) in file.text.lines().enumerate() {
            let name = line.trim_start().trim_start_matches("pub ").strip_prefix("mod ");
            if name.is_some_and(|name| EMPTY_NAMES.contains(&name.trim_end_matches([' ', '{', ';']))) {
                findings.push(format!("{}:{}: {line}", file.path, number + 1));
            }
        }
    }
    Ok(findings)
}

pub fn no_unsafe(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    let forbidden = tree.file("Cargo.toml").is_some_and(|file| file.text.contains("unsafe_code = \"forbid\""));
    if !forbidden {
        findings.push("Cargo.toml: the workspace does not forbid unsafe_code".to_owned());
    }
    let word = ["unsafe ", "{"].concat();
    for file in tree.ending(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            let line = code(line);
            if line.contains(&word) || line.contains("unsafe fn") || line.contains("unsafe impl") {
                findings.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    findings.retain(|finding| !finding.starts_with("xtask/src/tidy/rust.rs"));
    Ok(findings)
}

pub fn assertions(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    let product = |file: &&File| file.path.starts_with("crates/") && !file.path.starts_with("crates/testkit/");
    for (call, places) in PROOFS {
        let mut calls = Vec::new();
        for file in sources(tree).filter(product) {
            for (number, line) in before_tests(file) {
                if code(line).contains(call) {
                    calls.push(format!("{}:{number}", file.path));
                }
            }
        }
        for (place, most) in *places {
            let (here, elsewhere): (Vec<String>, Vec<String>) = calls.into_iter().partition(|at| at.starts_with(place));
            if here.len() > *most {
                findings.push(format!("{call}…) is called {} times, {most} allowed: {}", here.len(), here.join(", ")));
            }
            calls = elsewhere;
        }
        findings.extend(calls.iter().map(|at| format!("{at}: {call}…) has no place here")));
    }
    // `Self::assertion` would slip past the names above.
    for file in sources(tree).filter(product) {
        for (number, line) in before_tests(file) {
            let line = code(line);
            let declared = line.contains("fn assertion(") && !MAKERS.contains(&file.path.as_str());
            if declared || line.contains("Self::assertion(") {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    Ok(findings)
}

pub fn core_is_pure(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    for file in sources(tree).filter(|file| file.path.starts_with("crates/core/src/")) {
        for (number, line) in before_tests(file) {
            for word in WORLD.iter().filter(|word| names(code(line), word)) {
                findings.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    Ok(findings)
}

/// Whether `line` holds `word` as a whole word.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

pub fn roots_are_documented(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    let own = |file: &&File| !file.path.ends_with("/tests.rs"); // part of the module beside it
    let modules = tree.ending(".rs").filter(|file| file.path.contains("/src/") || file.path.contains("/tests/"));
    for file in modules.filter(own) {
        match file.text.lines().next() {
            Some(line) if line.starts_with("//! ") => {}
            _ => findings.push(format!("{}: begins without a `//!` sentence", file.path)),
        }
    }
    Ok(findings)
}

pub fn ignored_tests(tree: &Tree) -> Findings {
    let mark = "#[ignore";
    let allowed: Vec<String> = crate::tally::BY_HAND.iter().map(|start| format!("{mark} = \"{start}")).collect();
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with(mark) && !allowed.iter().any(|start| line.starts_with(start)) {
                findings.push(format!("{}:{}: {line}", file.path, number + 1));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let short = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(500), "y\n".repeat(900));
        let long = "x\n".repeat(501);
        let tree = Tree::of(&[("a/src/a.rs", &short), ("a/src/b.rs", &long), ("a/tests/c.rs", &long)]);
        assert_eq!(lengths(&tree).unwrap(), ["a/src/b.rs: 501 lines"]);
    }

    #[test]
    fn empty_names_are_found() {
        let tree = Tree::of(&[("a/src/utils/x.rs", ""), ("a/src/lib.rs", "pub mod helper;\nmod help;\n")]);
        assert_eq!(module_names(&tree).unwrap().len(), 2);
    }

    #[test]
    fn a_second_maker_of_a_proof_is_found() {
        let good = ("crates/server/src/sink.rs", "Ok(Accepted::assertion(slot))\n");
        assert!(assertions(&Tree::of(&[good])).unwrap().is_empty());
        let twice = ("crates/server/src/sink/more.rs", "Accepted::assertion(slot)\n");
        assert_eq!(assertions(&Tree::of(&[good, twice])).unwrap().len(), 1);
        let elsewhere = ("crates/server/src/gate.rs", "x(Accepted::assertion(slot))\n");
        assert_eq!(assertions(&Tree::of(&[elsewhere])).unwrap().len(), 1);
        let tests = ("crates/core/src/x.rs", "#[cfg(test)]\nmod tests {\nAuthorized::assertion(1)\n}\n");
        assert!(assertions(&Tree::of(&[tests])).unwrap().is_empty());
        let hidden = ("crates/core/src/policy.rs", "Self::assertion(1)\n");
        assert_eq!(assertions(&Tree::of(&[hidden])).unwrap().len(), 1);
    }

    #[test]
    fn the_world_in_the_core_is_found() {
        let text = "use std::fs::File;\n// tokio\nlet x = Instant::now();\nstruct Instantly;\n#[cfg(test)]\nmod t {\nuse std::fs;\n}\n";
        let tree = Tree::of(&[("crates/core/src/a.rs", text), ("crates/store/src/a.rs", text)]);
        assert_eq!(
            core_is_pure(&tree).unwrap(),
            ["crates/core/src/a.rs:1: std::fs", "crates/core/src/a.rs:3: Instant"]
        );
    }

    #[test]
    fn ignored_tests_need_a_measurement() {
        let tree = Tree::of(&[("a/tests/a.rs", "#[ignore]\n#[ignore = \"measures x\"]\n    #[ignore = \"slow\"]\n")]);
        assert_eq!(ignored_tests(&tree).unwrap().len(), 2);
    }

    #[test]
    fn a_module_without_a_sentence_is_found() {
        let tree = Tree::of(&[("a/src/a.rs", "//! Good.\n"), ("a/src/b.rs", "use x;\n")]);
        assert_eq!(roots_are_documented(&tree).unwrap().len(), 1);
    }
}
