//! The parsers of Bulla's libraries as targets of a fuzzer. Development only; nothing of this is in the binary.
//!
//! A target takes any bytes and asserts more than that nothing panics: what was read is written as the same bytes where
//! there is one spelling, nothing that was said is left out of the value, two readers of one format agree, and what is
//! refused is refused in words. `tests/corpus.rs` runs every file of `corpus/` and mutations of it as an ordinary test;
//! `cargo xtask fuzz` runs the same functions under libFuzzer.

mod audit;
mod client;
mod crypto;
mod database;
mod evidence;
mod json;
mod keys;
mod kms;
mod mutation;
mod programs;
mod rows;
mod server;
mod wire;

pub use crypto::{identity, sealed_place, share_context};
pub use evidence::{Keys, NOW_MS, record_of, sign};
pub use json::BODIES;
pub use keys::tag_keys;
pub use kms::{CANARY, kms_place};
pub use mutation::Mutations;
pub use rows::JOURNAL_OF;

/// One parser, or a few that read the same text.
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What is read, for people.
    pub about: &'static str,
    /// Reads the bytes and checks what must hold of every input; it panics if that does not.
    pub run: fn(&[u8]),
}

/// All targets. A new one needs a corpus, or the test fails.
pub const TARGETS: &[Target] = &[
    Target { name: "json", about: "the strict JSON reader beside serde_json", run: json::strict },
    Target { name: "body", about: "bodies of the API and payloads of statements", run: json::body },
    Target { name: "envelope", about: "DSSE envelopes", run: wire::envelope },
    Target { name: "header", about: "headers of requests and answers", run: wire::header },
    Target { name: "name", about: "names, paths, ids, slips, encodings", run: wire::name },
    Target { name: "parcel", about: "parcels", run: wire::parcel },
    Target { name: "frame", about: "frames of snapshots", run: wire::frame },
    Target { name: "age", about: "age files, opened with fixed keys", run: crypto::age },
    Target { name: "recipient", about: "recipients and OpenSSH public keys", run: crypto::recipient },
    Target { name: "public-key", about: "public keys as SPKI", run: crypto::public_key },
    Target { name: "identity", about: "identity files and OpenSSH private keys", run: crypto::identity_file },
    Target { name: "ssh-agent", about: "answers of an SSH agent", run: crypto::ssh_agent },
    Target { name: "age-plugin", about: "files of age plugins, and what plugins say", run: crypto::age_plugin },
    Target {
        name: "transit",
        about: "transit keys, their ciphertexts, stanzas of files under them",
        run: crypto::transit,
    },
    Target { name: "tag", about: "stanzas for keys in hardware, opened with fixed keys", run: keys::tag },
    Target { name: "certificate", about: "client certificates", run: keys::certificate },
    Target { name: "token-uri", about: "URIs of keys on tokens, and other names of keys", run: keys::token_uri },
    Target { name: "pinentry", about: "what pinentry answers, and files with a PIN", run: programs::pinentry },
    Target { name: "plugin", about: "conversations with age plugins", run: programs::plugin },
    Target { name: "share", about: "shares of the seal and the messages that carry them", run: crypto::share },
    Target { name: "sealed", about: "symmetric sealing", run: crypto::sealed },
    Target { name: "snapshot", about: "snapshots, whole and in pieces", run: crypto::snapshot },
    Target { name: "record", about: "chains of principal records, signed on the way", run: evidence::record },
    Target { name: "document", about: "chains of cluster documents, signed on the way", run: evidence::document },
    Target { name: "statement", about: "other statements, signed on the way", run: evidence::statement },
    Target { name: "bundle", about: "bundles, signed on the way", run: evidence::bundle },
    Target { name: "proof", about: "proofs of a wrap's fate, signed on the way", run: client::proof },
    Target { name: "remembered", about: "what a client remembers in files", run: client::remembered },
    Target { name: "resource", about: "actions, resources, roles, ids of requests", run: audit::resource },
    Target { name: "policy", about: "policy texts, and decisions by them", run: rows::policy },
    Target { name: "template", about: "statements for databases, filled with anything", run: database::template },
    Target { name: "audit-line", about: "audit lines, and those beside a nonce", run: audit::line },
    Target { name: "audit-log", about: "the verifier of an audit log", run: audit::log },
    Target { name: "head", about: "head rows", run: rows::head },
    Target { name: "barrier", about: "barrier records, their cursors and entries of what is due", run: rows::barrier },
    Target { name: "seal", about: "the plain rows of a seal", run: rows::seal },
    Target { name: "stored", about: "records of engines as they are stored", run: rows::stored },
    Target { name: "journal", about: "what a crash left of the store's journal", run: rows::journal },
    Target { name: "config", about: "the server's configuration, from file and environment", run: server::config },
    Target { name: "route", about: "request lines: route, parameter, query", run: server::route },
    Target { name: "dispatch", about: "requests with their bodies in clear", run: server::dispatch },
    Target { name: "tls", about: "certificate and key as PEM", run: server::tls },
    Target { name: "kms-envelope", about: "what kube-apiserver stores, opened with a fixed key", run: kms::envelope },
    Target { name: "kms-key-file", about: "key files within their encryption, bound identities", run: kms::key_file },
    Target { name: "kms-encryption", about: "YAML, and EncryptionConfigurations in it", run: kms::encryption },
    Target { name: "kms-metrics", about: "metrics of a kube-apiserver, and proof from them", run: kms::metrics },
    Target { name: "kms-config", about: "the plugin's configuration, before it opens anything", run: kms::config },
    Target { name: "kms-migrate", about: "configurations of other plugins", run: kms::migrate },
    Target { name: "kms-state", about: "what the plugin remembers; key ids, sockets, ranges", run: kms::state },
    Target { name: "kms-answer", about: "answers of Vault and clouds, files of credentials", run: kms::answer },
];
