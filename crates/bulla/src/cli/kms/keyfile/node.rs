//! Nodes of a key file on the command line, and how they are shown.

use crate::cli::init::read_record;
use crate::exit::{Exit, Failure};
use bulla_crypto::evidence::Record;
use bulla_crypto::recipient::Recipient;
use bulla_kms::keyfile::Node;
use serde::Serialize;
use std::path::Path;

/// Over [`row`]. A recipient has up to 2,015 characters, so its digest stands for it.
pub const HEADINGS: [&str; 2] = ["NODE", "RECIPIENT'S DIGEST"];

/// A node in JSON.
#[derive(Serialize)]
pub struct Shown {
    name: String,
    recipient: String,
    sha256: String,
}

/// A node in JSON.
pub fn shown(node: &Node) -> Shown {
    let (recipient, sha256) = (node.recipient.to_string(), node.recipient.digest().to_string());
    Shown { name: node.name.as_str().to_owned(), recipient, sha256 }
}

/// A node in a table.
pub fn row(node: &Node) -> Vec<String> {
    vec![node.name.as_str().to_owned(), node.recipient.digest().to_string()]
}

/// The nodes that were written as `NAME=RECIPIENT` or `NAME=FILE`.
pub fn all(written: &[String]) -> Result<Vec<Node>, Failure> {
    written.iter().map(|written| one(written)).collect()
}

fn one(written: &str) -> Result<Node, Failure> {
    // What was written is not shown again before it is known to be no secret.
    let Some((name, of)) = written.split_once('=') else {
        return Err(Failure::usage("--node is not of the form NAME=RECIPIENT")
            .hint("give a name, = and age1…, or the record that `bulla keygen` wrote: --node cp1=cp1.pub"));
    };
    let name = name.parse().map_err(|error| {
        Failure::usage(format!("--node: {error}")).hint("give --node NAME=RECIPIENT, such as --node cp1=cp1.pub")
    })?;
    Ok(Node { name, recipient: recipient(of)? })
}

fn recipient(of: &str) -> Result<Recipient, Failure> {
    let begins = |prefix: &str| of.get(..prefix.len()).is_some_and(|text| text.eq_ignore_ascii_case(prefix));
    if begins("AGE-SECRET-KEY-") || begins("AGE-PLUGIN-") {
        return Err(Failure::usage("--node names a secret key, where a recipient belongs").hint(
            "every process of this machine sees a command line: make another key, and give its recipient, age1…",
        ));
    }
    if begins("age1") || begins("ssh-") {
        return of.parse().map_err(|error| {
            Failure::usage(format!("--node: {error}")).hint("give a recipient age1…, or a record of `bulla keygen`")
        });
    }
    from_record(Path::new(of))
}

/// The recipient in a record.
fn from_record(path: &Path) -> Result<Recipient, Failure> {
    let envelope = read_record(path)?;
    let told = |what: String| {
        Failure::new(Exit::Failed, format!("{} {what}", path.display())).hint("give its recipient, age1…, in its place")
    };
    let record = Record::open(&envelope, None)
        .map_err(|_| told("is a later version of a record, which cannot be judged alone".to_owned()))?;
    match record.recipients().as_slice() {
        [only] => Ok((*only).clone()),
        several => Err(told(format!("names {} recipients, and a node has one", several.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::SystemRng;

    #[test]
    fn a_node_is_a_name_and_a_recipient() {
        let identity = Identity::generate(IdentityKind::Classical, &mut SystemRng).unwrap();
        let recipient = identity.recipients().first().unwrap();
        let node = one(&format!("cp-1.eu={recipient}")).unwrap();
        assert_eq!((node.name.as_str(), &node.recipient), ("cp-1.eu", recipient));
        for bad in ["cp1", "=age1x", "CP1=age1x", "cp1=age1x", "cp1=age1", "cp1=ssh-ed25519 x", "cp1="] {
            assert!(one(bad).is_err_and(|failure| !failure.hints.is_empty()), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown_again() {
        for secret in [
            "a=AGE-SECRET-KEY-1CANARY",
            "a=age-secret-key-pq-1CANARY",
            "a=AGE-PLUGIN-X-1CANARY",
            "AGE-SECRET-KEY-1CANARY",
        ] {
            let failure = one(secret).unwrap_err();
            assert!(!format!("{failure:?}").to_ascii_lowercase().contains("canary"), "{secret}");
        }
    }
}
