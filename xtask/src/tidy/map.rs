//! Rule on the map of modules in ARCHITECTURE.md.

use super::pages::spans;
use super::{Findings, Tree};
use std::collections::BTreeSet;

const PAGE: &str = "ARCHITECTURE.md";

/// Every module of a crate stands in the table once: by its file, by braces (`a/{b,c}.rs`), or by its folder (`a/`).
pub fn check(tree: &Tree) -> Findings {
    let Some(page) = tree.file(PAGE) else { return Ok(vec![format!("{PAGE} is missing")]) };
    let modules: BTreeSet<&str> = tree.ending(".rs").filter_map(|file| module(&file.path)).collect();
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    let rows = page.text.lines().enumerate().filter(|(_, line)| line.starts_with("| `"));
    for (number, line) in rows {
        let first = line.split(" | ").next().unwrap_or(line);
        for (_, span) in spans(first).into_iter().filter(|(_, span)| span.contains("/src/")) {
            for path in expand(&span) {
                let found: Vec<&str> =
                    modules.iter().copied().filter(|module| *module == path || within(module, &path)).collect();
                if found.is_empty() {
                    findings.push(format!("{PAGE}:{}: {path} does not exist", number + 1));
                }
                findings.extend(
                    found
                        .into_iter()
                        .filter(|module| !named.insert(*module))
                        .map(|module| format!("{PAGE}:{}: {module} is named twice", number + 1)),
                );
            }
        }
    }
    findings.extend(modules.difference(&named).map(|module| format!("{module} is not named in {PAGE}")));
    Ok(findings)
}

/// A module as the page spells it; the root of a library has a crate's row already, and tests have none.
fn module(path: &str) -> Option<&str> {
    let path = path.strip_prefix("crates/").unwrap_or(path);
    let inside = path.split_once("/src/")?.1;
    let tests = inside.ends_with("tests.rs") || inside.contains("/tests/");
    (!tests && inside != "lib.rs").then_some(path)
}

fn within(module: &str, folder: &str) -> bool {
    folder.ends_with('/') && module.starts_with(folder)
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`. A library's root that is named all the same counts as named.
fn expand(span: &str) -> Vec<String> {
    if span.ends_with("/src/lib.rs") {
        return Vec::new();
    }
    match span.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => names.split(',').map(|name| format!("{before}{name}{after}")).collect(),
        None => vec![span.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_and_the_modules_are_held_together() {
        let page =
            ("ARCHITECTURE.md", "| `a/src/b.rs` | x |\n| `a/src/c/{d,e}.rs` | `a/src/none.rs` |\n| `a/src/f/` | |");
        let files = ["a/src/b.rs", "a/src/c/d.rs", "a/src/c/e.rs", "a/src/f/g.rs", "a/src/lib.rs", "a/src/b/tests.rs"];
        let files = files.map(|file| format!("crates/{file}"));
        let all: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), "")).chain([page]).collect();
        assert_eq!(check(&Tree::of(&all)).unwrap(), Vec::<String>::new());
        let new = ("crates/a/src/h.rs", "");
        let more: Vec<_> = all.iter().copied().chain([new]).collect();
        assert_eq!(check(&Tree::of(&more)).unwrap(), ["a/src/h.rs is not named in ARCHITECTURE.md"]);
        let gone: Vec<_> = all.iter().copied().filter(|(path, _)| !path.ends_with("/b.rs")).collect();
        assert_eq!(check(&Tree::of(&gone)).unwrap(), ["ARCHITECTURE.md:1: a/src/b.rs does not exist"]);
        let twice = ("ARCHITECTURE.md", "| `a/src/b.rs`, `a/src/b.rs` | |");
        let twice = check(&Tree::of(&[twice, ("crates/a/src/b.rs", "")])).unwrap();
        assert_eq!(twice, ["ARCHITECTURE.md:1: a/src/b.rs is named twice"]);
    }
}
