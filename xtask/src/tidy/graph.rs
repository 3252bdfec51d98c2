//! Rules on the graph of crates, as `cargo tree` shows it.

use super::{Findings, Tree};
use crate::workspace::{Stop, cargo};
use std::collections::BTreeSet;

/// A package, and what it may not link, directly or not. An empty name is the whole workspace.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("bulla-wire", &["bulla-crypto", "aws-lc-rs", "aws-lc-sys", "tokio", "hyper"]),
    ("bulla-crypto", &["bulla-core", "tokio", "hyper", "rustls"]),
    ("bulla-keys", &["bulla-core", "bulla-store", "bulla-server", "bulla-client", "hyper", "rustls", "clap"]),
    ("bulla-core", &["cryptoki", "bulla-store", "bulla-server", "tokio", "redb", "hyper", "rustls"]),
    ("bulla-store", &["bulla-server", "hyper", "rustls"]),
    ("bulla-server", &["bulla-client", "clap"]),
    ("bulla-kms", &["bulla-core", "bulla-store", "bulla-server", "cedar-policy", "redb", "clap", "axum", "tower"]),
    ("bulla-client", &["cryptoki", "bulla-core", "bulla-store", "bulla-server", "cedar-policy", "redb", "clap"]),
    ("bulla", &["bulla-testkit", "bulla-fuzz", "xtask", "tempfile", "proptest", "hpke"]),
    ("", &["rsa", "ring", "openssl", "openssl-sys", "native-tls", "libfuzzer-sys"]),
];

pub fn check(_: &Tree) -> Findings {
    let mut findings = Vec::new();
    for (package, forbidden) in FORBIDDEN {
        let linked = linked(package)?;
        let shown = if package.is_empty() { "the workspace" } else { package };
        let met = forbidden.iter().filter(|name| linked.contains(**name));
        findings.extend(met.map(|name| format!("{shown} links {name}: `cargo tree -e normal -i {name}` shows how")));
    }
    Ok(findings)
}

/// What a package links, itself included; build scripts and development dependencies are left out.
fn linked(package: &str) -> Result<BTreeSet<String>, Stop> {
    let mut command = cargo();
    command.args(["tree", "--quiet", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    if package.is_empty() {
        command.arg("--workspace");
    } else {
        command.args(["-p", package]);
    }
    let output = command.output().map_err(|error| Stop(format!("cannot run cargo tree: {error}")))?;
    if !output.status.success() {
        return Err(Stop(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_links_is_seen_through_others() {
        let linked = linked("bulla-core").unwrap();
        assert!(linked.contains("bulla-core") && linked.contains("bulla-wire"));
        assert!(linked.contains("aws-lc-rs"), "a dependency of bulla-crypto");
        assert!(!linked.contains("proptest"), "a development dependency");
    }
}
