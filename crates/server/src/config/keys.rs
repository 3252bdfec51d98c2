//! Every key of the configuration, with what a reader must know about it.

use crate::listen::DEFAULT_MAX_CONNECTIONS;
use bulla_core::engine::lease::LEASES_EACH;
use std::fmt::Write;

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A path of a file or directory.
    Path,
    /// Paths; in the environment joined by `:`, as a flag given once for each.
    Paths,
    /// The file of an identity, or a `pkcs11:` URI.
    Identity,
    /// A cluster's id.
    Cluster,
    /// An IP address and a port, such as `127.0.0.1:8250` or `[::1]:8250`.
    Address,
    /// An https address, or an http address of this machine.
    Url,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// A whole number from the first to the second.
    Number(u64, u64),
}

impl Kind {
    /// What is expected, for error messages.
    pub fn expected(self) -> String {
        match self {
            Self::Path => "a path".into(),
            Self::Paths => "a list of paths".into(),
            Self::Identity => "the file of an identity, or a pkcs11: URI".into(),
            Self::Cluster => "the id of a cluster, as \"bulla init\" prints it".into(),
            Self::Address => "an IP address and a port, such as \"127.0.0.1:8250\"".into(),
            Self::Url => "an https:// address, or an http:// address of this machine".into(),
            Self::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Self::Boolean => "true or false".into(),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
        }
    }
}

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, with its section: `audit.sync`.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Its default as it would stand in the file; none where there is none.
    pub default: Option<&'static str>,
    /// A value for the sample where there is no default.
    pub example: &'static str,
    /// The flag of `bulla server` that sets it, if there is one.
    pub flag: Option<&'static str>,
    /// What it does, one sentence a line.
    pub doc: &'static [&'static str],
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }
}

/// How environment variables begin that set keys.
pub(super) const VARIABLE_PREFIX: &str = "BULLA_SERVER_";

// The default that the listener uses, spelled for the file.
const _: () = assert!(DEFAULT_MAX_CONNECTIONS == 4096, "change the default of limits.connections too");
const _: () = assert!(LEASES_EACH == 1_000, "change the default of limits.leases too");

/// Every key, in the order of the sample.
pub const KEYS: &[Key] = &[
    Key {
        name: "data",
        kind: Kind::Path,
        default: None,
        example: "\"/var/lib/bulla\"",
        flag: Some("--data"),
        doc: &["The data directory. It is made with mode 0700, and refused with a wider one."],
    },
    Key {
        name: "transient",
        kind: Kind::Boolean,
        default: Some("false"),
        example: "",
        flag: Some("--transient"),
        doc: &[
            "Keep nothing over a restart: no data directory, no Unix socket, everything in memory.",
            "Needs init.admins and audit.file.",
        ],
    },
    Key {
        name: "store",
        kind: Kind::Choice(&["file", "memory"]),
        default: Some("\"file\""),
        example: "",
        flag: Some("--store"),
        doc: &["Where records are kept: in the data directory, or in memory. A transient server keeps them in memory."],
    },
    Key {
        name: "listen",
        kind: Kind::Address,
        default: Some("\"127.0.0.1:8250\""),
        example: "",
        flag: Some("--listen"),
        doc: &["Address of the API. Port 0 takes any free one; the ready file tells which."],
    },
    Key {
        name: "metrics_listen",
        kind: Kind::Address,
        default: None,
        example: "\"127.0.0.1:8251\"",
        flag: Some("--metrics-listen"),
        doc: &[
            "Address of the metrics, in plain HTTP under /metrics. Without it there are none.",
            "Whoever reaches it reads how much is going on, but no name and no secret.",
        ],
    },
    Key {
        name: "ready_file",
        kind: Kind::Path,
        default: None,
        example: "\"/run/bulla/ready.json\"",
        flag: Some("--ready-file"),
        doc: &["Written once the server answers: its address, node key and process id as JSON."],
    },
    Key {
        name: "accept_audit_loss",
        kind: Kind::Boolean,
        default: Some("false"),
        example: "",
        flag: Some("--accept-audit-loss"),
        doc: &[
            "Start although the audit file lacks lines that the store remembers.",
            "The admins must consent as well. Leave it out again afterwards.",
        ],
    },
    Key {
        name: "tls.cert",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/server.crt\"",
        flag: None,
        doc: &[
            "PEM file of the certificate chain, the server's own first; read again on SIGHUP.",
            "Without it the node makes a certificate of its own, which Bulla's clients accept: they trust the node's",
            "signature under each answer.",
        ],
    },
    Key {
        name: "tls.key",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/server.key\"",
        flag: None,
        doc: &["PEM file of its private key."],
    },
    Key {
        name: "tls.require_pq",
        kind: Kind::Boolean,
        default: Some("false"),
        example: "",
        flag: None,
        doc: &["Refuse TLS clients that cannot do the post-quantum key exchange X25519MLKEM768."],
    },
    Key {
        name: "audit.file",
        kind: Kind::Path,
        default: None,
        example: "\"/var/log/bulla/audit.jsonl\"",
        flag: Some("--audit"),
        doc: &[
            "Where audit lines go: a file, or \"-\" for standard output.",
            "Without it to numbered files in the data directory's audit/.",
        ],
    },
    Key {
        name: "audit.sync",
        kind: Kind::Choice(&["interval", "each"]),
        default: Some("\"interval\""),
        example: "",
        flag: None,
        doc: &[
            "When audit lines are synced to disk: every 100 ms, or before each answer.",
            "With \"interval\" a power cut can lose the lines of 100 ms of reads and refusals, never those of changes.",
        ],
    },
    Key {
        name: "audit.names",
        kind: Kind::Choice(&["clear", "hashed"]),
        default: Some("\"clear\""),
        example: "",
        flag: None,
        doc: &["How names of principals and secrets stand in audit lines."],
    },
    Key {
        name: "audit.max_size_mib",
        kind: Kind::Number(1, 1024 * 1024),
        default: Some("256"),
        example: "",
        flag: None,
        doc: &["Size in MiB at which the next numbered audit file begins."],
    },
    Key {
        name: "alarms.webhook",
        kind: Kind::Url,
        default: None,
        example: "\"https://alerts.example/bulla\"",
        flag: None,
        doc: &[
            "Each alarm is posted there as JSON, signed by the node (spec/webhook.md), until it is taken.",
            "The address may hold a secret: then keep it in the environment or in a file that only the server reads.",
        ],
    },
    Key {
        name: "alarms.webhook_ca",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/alerts-ca.pem\"",
        flag: None,
        doc: &["PEM file of the authorities that vouch for the webhook's certificate, in place of the system's."],
    },
    Key {
        name: "init.admins",
        kind: Kind::Paths,
        default: Some("[]"),
        example: "",
        flag: Some("--admin"),
        doc: &[
            "Record files (.pub, from \"bulla keygen\") of those who may make the cluster over the network.",
            "Without any it is made over the Unix socket in the data directory.",
        ],
    },
    Key {
        name: "init.bundle",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/bundle.json\"",
        flag: Some("--bundle"),
        doc: &[
            "Principals and policies that the cluster of a transient server begins with, signed by k of its admins",
            "(\"bulla bundle create\" makes it). It is checked at start and applied by init.",
        ],
    },
    Key {
        name: "auto_unseal.cluster",
        kind: Kind::Cluster,
        default: None,
        example: "\"sha256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw\"",
        flag: None,
        doc: &[
            "When the server starts, it gives the share of one admin to this cluster by itself, and to no other.",
            "After \"bulla seal\" it stays sealed until it is started again or admins open it.",
        ],
    },
    Key {
        name: "auto_unseal.identity",
        kind: Kind::Identity,
        default: None,
        example: "\"/etc/bulla/unsealer.key\"",
        flag: None,
        doc: &["Whose share: an identity of \"bulla kms bind\" or \"bulla keygen\", or on a token."],
    },
    Key {
        name: "auto_unseal.kms",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/unseal-kms.toml\"",
        flag: None,
        doc: &[
            "The members that open an identity of \"bulla kms bind\": keys of another cluster, of a Vault, a cloud, a token.",
            "A configuration as of \"bulla kms\", of which cluster, epoch, combine, timing and members are used.",
        ],
    },
    Key {
        name: "auto_unseal.pin_file",
        kind: Kind::Path,
        default: None,
        example: "\"/etc/bulla/unsealer.pin\"",
        flag: None,
        doc: &["A file with the PIN of the identity's token."],
    },
    Key {
        name: "auto_unseal.memory",
        kind: Kind::Path,
        default: None,
        example: "\"/var/lib/bulla-unsealer\"",
        flag: None,
        doc: &[
            "A directory in which it is remembered what was seen of the cluster, so that no share goes to an older copy of it.",
            "Best on another disk than the data. Without it in the data directory's unsealer/.",
        ],
    },
    Key {
        name: "limits.connections",
        kind: Kind::Number(1, 1_000_000),
        default: Some("4096"),
        example: "",
        flag: None,
        doc: &[
            "Connections over the network at once. When more come, those over which nobody proved a key give way.",
            "Each takes a file descriptor, and the process needs a hundred more.",
        ],
    },
    Key {
        name: "limits.body_mib",
        // The largest wrap takes three times its size while it is opened.
        kind: Kind::Number(64, 4095),
        default: Some("256"),
        example: "",
        flag: None,
        doc: &[
            "Memory in MiB for the bodies of all requests and for large answers until they are fetched, at once.",
            "What does not fit is told to try again.",
        ],
    },
    Key {
        name: "limits.requests_per_s",
        kind: Kind::Number(0, 1_000_000),
        default: Some("0"),
        example: "",
        flag: None,
        doc: &[
            "Requests of one principal within a second; 0 for any number. A second's worth may come at once.",
            "Who asks more often is told to try again later, and each of those has its audit line, too.",
        ],
    },
    Key {
        name: "limits.leases",
        kind: Kind::Number(1, 1_000_000),
        default: Some("1000"),
        example: "",
        flag: None,
        doc: &[
            "Leases that one principal may hold. Some hundred processes under one key stay below it, and one that asks for",
            "new credentials in a loop fills no database.",
        ],
    },
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A configuration file with every key, commented out, with its default.
pub fn sample() -> String {
    let mut text = String::from(
        "# Configuration of `bulla server`. Every key is here; a line with a default shows it.\n\
         # Flags win over the environment, which wins over this file.\n\
         # Paths are absolute, or begin where the server was started.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            let _ = write!(text, "\n[{of}]\n");
            section = of;
        }
        text.push('\n');
        for line in key.doc {
            let _ = writeln!(text, "# {line}");
        }
        let flag = key.flag.map(|flag| format!(", flag {flag}")).unwrap_or_default();
        let _ = writeln!(text, "# Environment {}{flag}.", key.variable());
        let none = if key.default.is_none() { " (no default)" } else { "" };
        let _ = writeln!(text, "#{name} = {}{}", key.default.unwrap_or(key.example), comment(none));
    }
    text
}

fn comment(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" #{text}") }
}
