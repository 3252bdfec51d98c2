//! Rules on `Cargo.toml` files.

use super::{Findings, Tree};
use crate::workspace::Stop;
use toml::{Table, Value};

/// What every package takes from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

pub fn check(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for file in tree.ending("/Cargo.toml") {
        let manifest = parse(&file.path, &file.text)?;
        let folder = file.path.trim_end_matches("Cargo.toml");
        let inherits = |value: Option<&Value>| value.and_then(|v| v.get("workspace")) == Some(&Value::Boolean(true));
        for key in INHERITED {
            if !inherits(manifest.get("package").and_then(|package| package.get(key))) {
                findings.push(format!("{}: `{key}.workspace = true` is missing", file.path));
            }
        }
        if !inherits(manifest.get("lints")) {
            findings.push(format!("{}: `[lints] workspace = true` is missing", file.path));
        }
        for (section, folders) in
            [("dependencies", &["src/"][..]), ("dev-dependencies", &["src/", "tests/", "examples/", "benches/"])]
        {
            for (name, value) in table(&manifest, section) {
                used.push(name.clone());
                if !inherits(Some(value)) {
                    findings.push(format!("{}: {name} does not come from the workspace", file.path));
                }
                let crate_name = name.replace('-', "_");
                let starts: Vec<String> = folders.iter().map(|sub| format!("{folder}{sub}")).collect();
                let named = tree
                    .ending(".rs")
                    .filter(|source| starts.iter().any(|start| source.path.starts_with(start)))
                    .any(|source| source.text.lines().any(|line| names(line, &crate_name)));
                if !named {
                    findings.push(format!("{}: {name} is not used ({section})", file.path));
                }
            }
        }
    }
    if let Some(file) = tree.file("Cargo.toml") {
        let manifest = parse(&file.path, &file.text)?;
        let workspace = manifest.get("workspace").and_then(Value::as_table).cloned().unwrap_or_default();
        let idle = table(&workspace, "dependencies").into_iter().filter(|(name, _)| !used.contains(name));
        findings.extend(idle.map(|(name, _)| format!("Cargo.toml: no package uses {name}")));
    }
    Ok(findings)
}

fn parse(path: &str, text: &str) -> Result<Table, Stop> {
    text.parse().map_err(|error| Stop(format!("{path}: {error}")))
}

fn table<'a>(manifest: &'a Table, section: &str) -> Vec<(&'a String, &'a Value)> {
    manifest.get(section).and_then(Value::as_table).into_iter().flatten().collect()
}

/// Whether a line of source names a crate: as the start of a path, in `use`, or in an attribute.
fn names(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("//") && !line.contains("use ") {
        return false;
    }
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + name.len()..).unwrap_or_default();
        let used = line.starts_with("use ") || line.starts_with("pub use ");
        !before.is_some_and(part) && (after.starts_with("::") || (used && after.starts_with([';', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                        license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n\
                        [dependencies]\na-b.workspace = true\n";

    #[test]
    fn idle_and_foreign_dependencies_are_found() {
        let root = "[workspace.dependencies]\na-b = \"1\"\n";
        let using = ("x/src/lib.rs", "use a_b::C;\n");
        assert!(check(&Tree::of(&[("Cargo.toml", root), ("x/Cargo.toml", GOOD), using])).unwrap().is_empty());
        let idle = ("x/src/lib.rs", "// a_b::C\nlet a_bc = 1;\n");
        let findings = check(&Tree::of(&[("Cargo.toml", root), ("x/Cargo.toml", GOOD), idle])).unwrap();
        assert_eq!(findings, ["x/Cargo.toml: a-b is not used (dependencies)"]);
        let own = GOOD.replace("a-b.workspace = true", "a-b = \"1\"");
        let findings = check(&Tree::of(&[("Cargo.toml", root), ("x/Cargo.toml", &own), using])).unwrap();
        assert_eq!(findings, ["x/Cargo.toml: a-b does not come from the workspace"]);
        let findings = check(&Tree::of(&[("Cargo.toml", root)])).unwrap();
        assert_eq!(findings, ["Cargo.toml: no package uses a-b"]);
    }
}
