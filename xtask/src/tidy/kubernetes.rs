//! Rule on `packaging/kubernetes`: its manifests say what its chart says.
//!
//! The chart is the one source. It uses three things of Helm's language: `toJson` of a value, `include` with `indent`,
//! and one `if` around each template. So this renders it without Helm; `tests/apiserver/manifests` has Helm confirm it.

use super::{Findings, Tree};
use crate::workspace::Stop;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const FOLDER: &str = "packaging/kubernetes";
const HEAD: &str = "# Made of packaging/kubernetes/chart by `cargo xtask docs`; change it there.\n";
/// A template of the chart, and the file that it is rendered to.
const RENDERED: &[(&str, &str)] = &[
    ("static-pod.yaml", "static-pod/bulla-kms.yaml"),
    ("daemonset.yaml", "kustomize/daemonset.yaml"),
    ("sidecar.yaml", "sidecar/bulla-kms.yaml"),
];

/// The chart as it stands in the tree.
struct Chart {
    values: BTreeMap<String, Value>,
    definitions: BTreeMap<String, String>,
}

pub fn check(tree: &Tree) -> Findings {
    let mut findings = Vec::new();
    for (path, text) in generated(tree)? {
        if tree.file(&path).is_none_or(|file| file.text != text) {
            findings.push(format!("{path} is not what the chart says; `cargo xtask docs` writes it"));
        }
    }
    let chart = Chart::read(tree)?;
    let user = format!("\nUSER {}:{}\n", chart.value("uid")?, chart.value("gid")?);
    let image = format!("{FOLDER}/Containerfile");
    if !text(tree, &image)?.contains(&user) {
        findings.push(format!("{image}: expected the chart's user,{}", user.trim_end().replace('\n', " ")));
    }
    Ok(findings)
}

/// The files that are made of the chart: their paths and texts.
pub fn generated(tree: &Tree) -> Result<Vec<(String, String)>, Stop> {
    let chart = Chart::read(tree)?;
    let mut files = Vec::new();
    for (template, target) in RENDERED {
        let source = text(tree, &format!("{FOLDER}/chart/templates/{template}"))?;
        files.push((format!("{FOLDER}/{target}"), format!("{HEAD}{}", chart.rendered(source)?)));
    }
    files.push((format!("{FOLDER}/tmpfiles.conf"), chart.folders()?));
    Ok(files)
}

fn text<'a>(tree: &'a Tree, path: &str) -> Result<&'a str, Stop> {
    tree.file(path).map(|file| file.text.as_str()).ok_or_else(|| Stop(format!("{path} is missing")))
}

impl Chart {
    fn read(tree: &Tree) -> Result<Self, Stop> {
        let path = format!("{FOLDER}/chart/values.yaml");
        let mut values = BTreeMap::new();
        for line in text(tree, &path)?.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let pair = line.split_once(": ").and_then(|(key, value)| Some((key, serde_json::from_str(value).ok()?)));
            let (key, value) = pair.ok_or_else(|| Stop(format!("{path}: expected KEY: JSON, not {line}")))?;
            values.insert(key.to_owned(), value);
        }
        let pod = text(tree, &format!("{FOLDER}/chart/templates/_pod.tpl"))?;
        let blocks = pod.split("{{- define \"").skip(1);
        let define = |block: &str| {
            let (name, body) = block.split_once("\" -}}\n")?;
            Some((name.to_owned(), body.split_once("{{- end }}")?.0.to_owned()))
        };
        let definitions: Option<BTreeMap<_, _>> = blocks.map(define).collect();
        let definitions = definitions.ok_or_else(|| Stop("_pod.tpl: expected define … end".to_owned()))?;
        Ok(Self { values, definitions })
    }

    fn value(&self, key: &str) -> Result<&Value, Stop> {
        self.values.get(key).ok_or_else(|| Stop(format!("values.yaml has no {key}")))
    }

    fn rendered(&self, template: &str) -> Result<String, Stop> {
        let mut rendered = String::new();
        for line in template.lines() {
            if line.starts_with("{{- if ") || line == "{{- end }}" {
                continue;
            }
            let included = line.strip_prefix("{{ include \"").and_then(|rest| {
                let (name, rest) = rest.split_once("\" . | indent ")?;
                Some((name, rest.strip_suffix(" }}")?.parse::<usize>().ok()?))
            });
            let Some((name, indent)) = included else {
                rendered.push_str(&self.filled(line)?);
                rendered.push('\n');
                continue;
            };
            let body = self.definitions.get(name).ok_or_else(|| Stop(format!("the chart defines no {name}")))?;
            for line in self.rendered(body)?.lines() {
                // Writing to a String does not fail.
                let _ = writeln!(rendered, "{:indent$}{line}", "");
            }
        }
        Ok(rendered)
    }

    /// A line with its values.
    fn filled(&self, line: &str) -> Result<String, Stop> {
        let mut pieces = line.split("{{ toJson .Values.");
        let mut filled = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (key, rest) = piece.split_once(" }}").ok_or_else(|| Stop(format!("an open end: {line}")))?;
            filled.push_str(&self.value(key)?.to_string());
            filled.push_str(rest);
        }
        if filled.contains("{{") {
            return Err(Stop(format!("only toJson, include and one if are rendered: {line}")));
        }
        Ok(filled)
    }

    /// What makes the folders at each start of the machine, before the kubelet.
    fn folders(&self) -> Result<String, Stop> {
        let mut text = format!(
            "{HEAD}# For /etc/tmpfiles.d: /run is empty after each start, and the kubelet starts later than this is done.\n\
             # A kube-apiserver that does not run as root needs the group, to get to the socket.\n"
        );
        let (uid, gid) = (self.value("uid")?, self.value("gid")?);
        let root = Value::from("root");
        for (key, mode, owner) in [
            ("configFolder", "0750", &root),
            ("socketFolder", "0750", uid),
            ("stateFolder", "0700", uid),
            ("auditFolder", "0750", uid),
        ] {
            let owner = owner.as_str().map_or_else(|| owner.to_string(), str::to_owned);
            let _ = writeln!(text, "d {} {mode} {owner} {gid} -", self.value(key)?);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn generated_files_are_up_to_date() {
        let tree = Tree::read(&root()).unwrap();
        if std::env::var_os("BULLA_BLESS").is_some_and(|value| value == "1") {
            for (path, text) in generated(&tree).unwrap() {
                std::fs::write(root().join(path), text).unwrap();
            }
        } else {
            assert_eq!(check(&tree).unwrap(), Vec::<String>::new());
        }
    }

    fn chart<'a>(template: &'a str, pod: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("packaging/kubernetes/chart/values.yaml", VALUES),
            ("packaging/kubernetes/chart/templates/_pod.tpl", pod),
            ("packaging/kubernetes/chart/templates/static-pod.yaml", template),
            ("packaging/kubernetes/chart/templates/daemonset.yaml", "{{- if x }}\nkind: D\n{{- end }}\n"),
            ("packaging/kubernetes/chart/templates/sidecar.yaml", "kind: S\n"),
            ("packaging/kubernetes/Containerfile", "FROM x\nUSER 7:8\n"),
        ]
    }

    const VALUES: &str = "# Which.\nuid: 7\ngid: 8\nname: \"a\"\nmap: {\"k\": \"\"}\nconfigFolder: \"/c\"\n\
                          socketFolder: \"/s\"\nstateFolder: \"/t\"\nauditFolder: \"/a\"\n";
    const POD: &str = "{{- define \"in\" -}}\n- n: {{ toJson .Values.name }}\n{{- end }}\n\
                       {{- define \"pod\" -}}\nuid: {{ toJson .Values.uid }}\nlist:\n{{ include \"in\" . | indent 2 }}\n{{- end }}\n";

    #[test]
    fn a_chart_is_rendered() {
        let files = chart("spec:\n  m: {a: {{ toJson .Values.map }}}\n{{ include \"pod\" . | indent 4 }}\n", POD);
        let rendered = generated(&Tree::of(&files)).unwrap();
        let pod = "spec:\n  m: {a: {\"k\":\"\"}}\n    uid: 7\n    list:\n      - n: \"a\"\n";
        assert_eq!(rendered[0].1, format!("{HEAD}{pod}"));
        assert_eq!(rendered[1].1, format!("{HEAD}kind: D\n"));
        assert!(rendered[3].1.ends_with("d \"/s\" 0750 7 8 -\nd \"/t\" 0700 7 8 -\nd \"/a\" 0750 7 8 -\n"));
    }

    #[test]
    fn what_differs_and_what_is_not_rendered_is_found() {
        let files = chart("kind: P\n", POD);
        assert_eq!(check(&Tree::of(&files)).unwrap().len(), 4, "nothing was written yet");
        let written = generated(&Tree::of(&files)).unwrap();
        let mut all = files.clone();
        all.extend(written.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        assert_eq!(check(&Tree::of(&all)).unwrap(), Vec::<String>::new());
        all.iter_mut().filter(|(path, _)| path.ends_with("Containerfile")).for_each(|file| file.1 = "USER 0:0\n");
        assert_eq!(check(&Tree::of(&all)).unwrap().len(), 1);
        for bad in ["a: {{ .Values.name }}", "a: {{ toJson .Values.none }}", "{{ include \"none\" . | indent 2 }}"] {
            assert!(generated(&Tree::of(&chart(bad, POD))).is_err(), "{bad}");
        }
    }
}
