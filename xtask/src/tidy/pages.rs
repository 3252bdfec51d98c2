//! Rules on pages: words, links, the list of specifications, the coverage.

use super::{File, Findings, Tree};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Notes to self. Split, so that this file does not hold them.
fn forbidden() -> [String; 6] {
    ["TO|DO", "FIX|ME", "XX|X", "HA|CK", "Place|holder", "unim|plemented!"].map(|word| word.replace('|', ""))
}

/// Words where a number after them names something outside the repository.
const TRACKERS: &[&str] = &["issue #", "issue ", "ticket ", "PR #", "Slice "];

pub fn words(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    let forbidden = forbidden();
    for file in tree.files.iter().filter(|file| is_prose_or_code(&file.path)) {
        for (number, line) in file.text.lines().enumerate() {
            let word = forbidden.iter().find(|word| whole(line, word));
            let tracked = TRACKERS.iter().find(|word| before_number(line, word));
            if let Some(word) = word.map(String::as_str).or(tracked.copied()) {
                findings.push(format!("{}:{}: {word:?}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    Ok(findings)
}

fn is_prose_or_code(path: &str) -> bool {
    // Vectors of others stand as they were published.
    !path.starts_with("spec/vectors/") && [".rs", ".md", ".toml", ".cedar", ".py"].iter().any(|end| path.ends_with(end))
}

fn whole(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn before_number(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(char::is_alphanumeric) && after.is_some_and(|c| c.is_ascii_digit())
    })
}

pub fn links(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    for file in tree.ending(".md").filter(|file| !file.path.starts_with("spec/vectors/age-cctv/")) {
        for (number, link) in links_of(&file.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
            let page = tree.file(&target);
            if page.is_none() && !tree.root.join(&target).exists() {
                findings.push(format!("{}:{number}: {link}: no such file", file.path));
            } else if let Some(page) = page
                && !anchor.is_empty()
                && target.ends_with(".md")
                && !anchors(&page.text).contains(anchor)
            {
                findings.push(format!("{}:{number}: {link}: no such heading", file.path));
            }
        }
    }
    Ok(findings)
}

/// The lines of a page outside fenced blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((number + 1, line))
    })
}

/// Targets of `[text](target)`, code spans left out.
fn links_of(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.extend(targets.map(|target| (number, target.split(' ').next().unwrap_or(target).to_owned())));
    }
    links
}

/// `link` as seen from the page `from`, from the root.
fn resolve(from: &str, link: &str) -> String {
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return format!("../{link}");
                }
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path.to_string_lossy().into_owned()
}

/// What links to headings of a page may say: lower case, blanks as hyphens, other signs dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#').map(|line| line.trim_start_matches('#').trim()) else { continue };
        let kept = heading.to_lowercase();
        let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect();
        let mut anchor = kept.replace(' ', "-");
        let plain = anchor.clone();
        let mut count = 0;
        while !anchors.insert(anchor.clone()) {
            count += 1;
            anchor = format!("{plain}-{count}");
        }
    }
    anchors
}

pub fn specification(tree: &Tree) -> Findings {
    let Some(list) = tree.file("spec/README.md") else { return Ok(vec!["spec/README.md is missing".to_owned()]) };
    let pages = tree.files.iter().filter(|file| {
        let name = file.path.strip_prefix("spec/").unwrap_or_default();
        name.ends_with(".md") && !name.contains('/') && name != "README.md"
    });
    let unlisted = pages.filter(|page| {
        let name = page.path.trim_start_matches("spec/");
        !list.text.contains(&format!("]({name})"))
    });
    Ok(unlisted.map(|page| format!("{} is not listed", page.path)).collect())
}

pub fn coverage(tree: &Tree) -> Findings {
    const PAGE: &str = "docs/coverage.md";
    let Some(page) = tree.file(PAGE) else { return Ok(vec![format!("{PAGE} is missing")]) };
    let mut findings = gone(tree, page);
    // It names those tests alone that hold what it promises.
    match tree.file("SECURITY.md") {
        Some(page) => findings.extend(gone(tree, page)),
        None => findings.push("SECURITY.md is missing".to_owned()),
    }
    let named = spans(&page.text);
    let unnamed = test_files(tree).into_iter().filter(|path| !named.iter().any(|(_, span)| covers(span, path)));
    findings.extend(unnamed.map(|path| format!("{path} is not named in {PAGE}")));
    Ok(findings)
}

/// The files and tests that a page names and that do not exist.
fn gone(tree: &Tree, page: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, span) in spans(&page.text) {
        let (path, test) = span.split_once("::").map_or((span.as_str(), None), |(path, test)| (path, Some(test)));
        if !["crates/", "fuzz/", "xtask/", "spec/", "tests/"].iter().any(|start| path.starts_with(start)) {
            continue;
        }
        let within = format!("{}/", path.trim_end_matches('/'));
        let files: Vec<&File> =
            tree.files.iter().filter(|file| file.path == path || file.path.starts_with(&within)).collect();
        if files.is_empty() {
            findings.push(format!("{}:{number}: {path} does not exist", page.path));
        } else if let Some(test) = test
            && !files.iter().any(|file| file.text.contains(&format!("fn {test}(")))
        {
            findings.push(format!("{}:{number}: {path} has no test {test}", page.path));
        }
    }
    findings
}

fn covers(span: &str, path: &str) -> bool {
    let span = span.split("::").next().unwrap_or(span).trim_end_matches('/');
    span == path
}

/// Code spans of a page.
pub(super) fn spans(text: &str) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    for (number, line) in prose(text) {
        spans.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned())));
    }
    spans
}

/// Files below `crates/*/tests` and `fuzz/tests` that hold tests: a folder's name would cover whatever comes into it later.
fn test_files(tree: &Tree) -> Vec<String> {
    let holds = |file: &&File| {
        let parts: Vec<&str> = file.path.split('/').collect();
        let lies = matches!(parts.as_slice(), ["crates", _, "tests", ..] | ["fuzz", "tests", ..]);
        lies && file.text.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("#[test]") || line.starts_with("#[tokio::test") || line.starts_with("proptest!")
        })
    };
    tree.ending(".rs").filter(holds).map(|file| file.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_to_self_and_numbers_of_trackers_are_found() {
        let note = forbidden()[0].clone();
        let text = format!("// {note}: later\nsee issue {}\nissue a certificate, METHODOLOGY\n", 12);
        assert_eq!(words(&Tree::of(&[("a.rs", &text)])).unwrap().len(), 2);
        assert!(words(&Tree::of(&[("spec/vectors/x.md", &text)])).unwrap().is_empty());
    }

    #[test]
    fn broken_links_are_found() {
        let page = "# A page: of `two`\n[x](b.md) [y](../c.md#deep-down) [z](#a-page-of-two)\n```\n[n](none)\n```\n`[n](none)` [w](https://x/y)\n";
        let other = ("c.md", "## Deep down\n");
        assert_eq!(links(&Tree::of(&[("d/a.md", page), ("d/b.md", ""), other])).unwrap(), Vec::<String>::new());
        let findings = links(&Tree::of(&[("d/a.md", page), ("c.md", "## Deep\n")])).unwrap();
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn unlisted_pages_of_the_specification_are_found() {
        let list = ("spec/README.md", "[a](a.md)");
        assert!(specification(&Tree::of(&[list, ("spec/a.md", ""), ("spec/vectors/b.md", "")])).unwrap().is_empty());
        assert_eq!(specification(&Tree::of(&[list, ("spec/b.md", "")])).unwrap(), ["spec/b.md is not listed"]);
    }

    #[test]
    fn coverage_and_tests_are_held_together() {
        let page = ("docs/coverage.md", "| keys | `crates/a/tests/x.rs::one`, `crates/a/tests/y/main.rs` |");
        let one = ("crates/a/tests/x.rs", "#[test]\nfn one() {}");
        let two = ("crates/a/tests/y/main.rs", "#[test]\nfn two() {}");
        let promises = ("SECURITY.md", "| a thief | nothing | `crates/a/tests/x.rs` |");
        assert_eq!(coverage(&Tree::of(&[page, promises, one, two])).unwrap(), Vec::<String>::new());
        let renamed = ("crates/a/tests/x.rs", "#[test]\nfn other() {}");
        assert_eq!(coverage(&Tree::of(&[page, promises, renamed, two])).unwrap().len(), 1);
        assert_eq!(coverage(&Tree::of(&[page, promises, one])).unwrap().len(), 1, "a file that is gone");
        let third = ("crates/a/tests/y/z.rs", "#[test]\nfn three() {}");
        assert_eq!(
            coverage(&Tree::of(&[page, promises, one, two, third])).unwrap(),
            ["crates/a/tests/y/z.rs is not named in docs/coverage.md"]
        );
        assert_eq!(coverage(&Tree::of(&[page, one, two])).unwrap(), ["SECURITY.md is missing"]);
        let stale = ("SECURITY.md", "# A page\n`crates/a/tests/x.rs::two`, `crates/b` and `tests/c.go`");
        assert_eq!(
            coverage(&Tree::of(&[page, stale, one, two])).unwrap(),
            [
                "SECURITY.md:2: crates/a/tests/x.rs has no test two",
                "SECURITY.md:2: crates/b does not exist",
                "SECURITY.md:2: tests/c.go does not exist"
            ]
        );
    }
}
