//! Rule on alerts and dashboards: each metric that they name is one that the plugin shows.

use super::{Findings, Tree};
use crate::workspace::Stop;
use std::collections::BTreeSet;

const SOURCE: &str = "crates/kms/src/metrics.rs";
const FOLDER: &str = "packaging/kubernetes/monitoring/";
const PREFIX: &str = "bulla_kms_";

pub fn check(tree: &Tree) -> Findings {
    let source = tree.file(SOURCE).ok_or_else(|| Stop(format!("{SOURCE} is missing")))?;
    let shown = shown(&source.text)?;
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.starts_with(FOLDER)) {
        for (number, line) in file.text.lines().enumerate() {
            let unknown = named(line).filter(|name| !shown.contains(*name));
            findings.extend(unknown.map(|name| format!("{}:{}: the plugin has no {name}", file.path, number + 1)));
        }
    }
    Ok(findings)
}

/// Names of the plugin's metrics in a line.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.split(move |c: char| !part(c)).filter(|word| word.starts_with(PREFIX))
}

/// The names under which Prometheus finds what the source registers.
fn shown(source: &str) -> Result<BTreeSet<String>, Stop> {
    let mut names = BTreeSet::new();
    let wrong = |what: &str| Stop(format!("{SOURCE}: {what}"));
    if !source.contains("Registry::with_prefix(\"bulla_kms\")") {
        return Err(wrong("the registry's prefix is not bulla_kms"));
    }
    for call in source.split("registry.register").skip(1) {
        let (name, field) =
            registered(call).ok_or_else(|| wrong("expected register(\"NAME\", …, self.FIELD.clone())"))?;
        let unit = if call.starts_with("_with_unit(") { "_seconds" } else { "" };
        let declared = source.lines().find_map(|line| line.trim_start().strip_prefix(field)?.strip_prefix(": "));
        let endings: &[&str] = match declared.unwrap_or_default() {
            kind if kind.contains("Counter") => &["_total"],
            kind if kind.contains("Histogram") => &["_bucket", "_sum", "_count"],
            kind if kind.contains("Gauge") => &[""],
            _ => return Err(wrong(&format!("{field} is no counter, histogram or gauge"))),
        };
        names.extend(endings.iter().map(|ending| format!("{PREFIX}{name}{unit}{ending}")));
    }
    Ok(names)
}

/// The name and the field of a call.
fn registered(call: &str) -> Option<(&str, &str)> {
    let (name, rest) = call.split_once('"')?.1.split_once('"')?;
    Some((name, rest.split_once("self.")?.1.split_once(".clone()")?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "struct Metrics {\n    calls: Family<Called, Counter>,\n    latency: Family<X, Histogram>,\n    up: Gauge,\n}\n\
        Registry::with_prefix(\"bulla_kms\")\nregistry.register(\"member_calls\", \"Calls\", self.calls.clone());\n\
        registry.register_with_unit(\"took\", help, Unit::Seconds, self.latency.clone());\n\
        registry.register(\n \"up\",\n \"Is \\\"up\\\"\",\n self.up.clone(),\n);\n";

    #[test]
    fn names_that_the_plugin_does_not_show_are_found() {
        let with =
            |text: &str| check(&Tree::of(&[(SOURCE, METRICS), (&format!("{FOLDER}alerts.yaml"), text)])).unwrap();
        let known =
            "sum(rate(bulla_kms_member_calls_total[5m])) > bulla_kms_up + bulla_kms_took_seconds_bucket{le=\"1\"}";
        assert_eq!(with(known), Vec::<String>::new());
        for unknown in
            ["bulla_kms_member_calls > 0", "bulla_kms_took_bucket", "x bulla_kms_up_total y", "bulla_kms_down"]
        {
            assert_eq!(with(unknown).len(), 1, "{unknown}");
        }
    }

    #[test]
    fn the_source_is_read() {
        let source = std::fs::read_to_string(crate::workspace::root().join(SOURCE)).unwrap();
        let shown = shown(&source).unwrap();
        for name in ["bulla_kms_requests_total", "bulla_kms_request_duration_seconds_bucket", "bulla_kms_member_up"] {
            assert!(shown.contains(name), "{name}: {shown:?}");
        }
        assert!(super::shown("registry.register(\"x\", \"\", self.x.clone())").is_err());
    }
}
