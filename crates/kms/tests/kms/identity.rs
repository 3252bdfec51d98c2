//! The vectors of `spec/auto-unseal.md`, which the plugin's own members made once and open ever since.

use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{SeededRng, SystemRng};
use bulla_crypto::sign::Signer as _;
use bulla_kms::config::Config;
use bulla_kms::identity::{IdentityError, KmsIdentity};
use bulla_kms::keyfile::{KeyFile, Node};
use bulla_kms::plugin::Plugin;
use bulla_kms::provider::Class;
use bulla_wire::encoding::{base64, base64_decode};
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    /// The name of the cluster in the configuration.
    cluster: String,
    /// The identity of the one member, of kind `age`.
    node: String,
    /// Its key file, in base64.
    keyfile: String,
    /// A file that opens.
    identity: String,
    /// The key id of the identity's signing key.
    key: String,
    /// Files that are none: what is wrong, and the text.
    refused: Vec<(String, String)>,
    /// Files that are some and do not open.
    closed: Vec<(String, String)>,
    /// A cluster at which the file does not open.
    other_cluster: String,
}

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/auto-unseal/vectors.json");

fn private(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The plugin of a configuration with this cluster.
async fn plugin(folder: &Path, vectors: &Vectors, cluster: &str) -> Plugin {
    let (node, keys) = (folder.join("node.key"), folder.join("keys.age"));
    private(&node, vectors.node.as_bytes());
    private(&keys, &base64_decode(&vectors.keyfile).unwrap());
    let member = format!("[members.node.age]\nfile = '{}'\nidentity = '{}'\n", keys.display(), node.display());
    let written = toml::from_str(&format!("cluster = '{cluster}'\n{member}")).unwrap();
    let plugin = Plugin::new(Config::for_identities(written).unwrap());
    plugin.look_once().await;
    plugin
}

fn until() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn written(folder: &Path) -> Vectors {
    let node = Identity::generate(IdentityKind::Hybrid, &mut SeededRng::from_u64(1)).unwrap();
    let recipient = node.recipients()[0].clone();
    let nodes = vec![Node { name: "box".parse().unwrap(), recipient }];
    let keys = KeyFile::create(nodes, 1_790_000_000, &mut SeededRng::from_u64(2)).unwrap();
    let mut vectors = Vectors {
        cluster: "seal".into(),
        node: String::from_utf8(node.to_file_text(None, None).unwrap().expose().clone()).unwrap(),
        keyfile: base64(&keys.seal().unwrap()),
        identity: String::new(),
        key: String::new(),
        refused: vec![],
        closed: vec![],
        other_cluster: "prod".into(),
    };
    let plugin = plugin(folder, &vectors, &vectors.cluster).await;
    let (file, identity) = KmsIdentity::make(&plugin, &mut SystemRng, until()).await.unwrap();
    let (other, _) = KmsIdentity::make(&plugin, &mut SystemRng, until()).await.unwrap();
    let (text, other) = (file.to_text(), other.to_text());
    let line = |text: &str, number: usize| text.lines().nth(number).unwrap().to_owned();
    let (recipient, key_id, ciphertext) = (line(&text, 1), line(&text, 2), line(&text, 3));
    let changed = |at: fn(usize) -> usize| {
        let mut bytes = base64_decode(ciphertext.strip_prefix("ciphertext: ").unwrap()).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        text.replace(&ciphertext, &format!("ciphertext: {}", base64(&bytes)))
    };
    let refused = [
        ("empty", String::new()),
        ("another version", text.replace("v1\n", "v2\n")),
        ("no recipient", text.replace(&format!("{recipient}\n"), "")),
        ("another order", text.replace(&format!("{recipient}\n{key_id}"), &format!("{key_id}\n{recipient}"))),
        ("no key id of the plugin", text.replace(&key_id, "key-id: k8s")),
        ("no ciphertext of the plugin", text.replace(&ciphertext, "ciphertext: AAAA")),
        ("lines ended by CR LF", text.replace('\n', "\r\n")),
        ("no line feed at the end", text.trim_end().to_owned()),
        ("something after it", format!("{text}more\n")),
        ("too large", text.replace(&ciphertext, &format!("ciphertext: {}", "A".repeat(8192)))),
    ];
    let closed = [
        ("the recipient of another", text.replace(&recipient, &line(&other, 1))),
        ("the ciphertext of another", text.replace(&ciphertext, &line(&other, 3))),
        ("another key's tag", changed(|_| 3)),
        ("what the member wrapped is altered", changed(|length| length / 2)),
        ("what is sealed is altered", changed(|length| length - 1)),
    ];
    let owned = |(what, text): (&str, String)| (what.to_owned(), text);
    vectors.key = identity.public_key().key_id().to_string();
    vectors.refused = refused.into_iter().map(owned).collect();
    vectors.closed = closed.into_iter().map(owned).collect();
    vectors.identity = text;
    vectors
}

#[tokio::test]
async fn the_vectors_of_identities() {
    let folder = tempfile::tempdir().unwrap();
    if bulla_testkit::blessing() {
        let text = serde_json::to_string_pretty(&written(folder.path()).await).unwrap() + "\n";
        fs::write(PATH, text).unwrap();
    }
    let vectors: Vectors = serde_json::from_slice(&fs::read(PATH).unwrap()).unwrap();
    let plugin_here = plugin(folder.path(), &vectors, &vectors.cluster).await;
    let file = KmsIdentity::parse(vectors.identity.as_bytes()).unwrap();
    assert_eq!(file.to_text(), vectors.identity);
    let identity = file.open(&plugin_here, until()).await.unwrap();
    assert_eq!(identity.public_key().key_id().to_string(), vectors.key);
    assert!(vectors.refused.len() >= 10 && vectors.closed.len() >= 5);
    for (what, text) in &vectors.refused {
        assert!(matches!(KmsIdentity::parse(text.as_bytes()), Err(IdentityError::Format(_))), "{what}");
    }
    for (what, text) in &vectors.closed {
        let parsed = KmsIdentity::parse(text.as_bytes()).unwrap();
        let error = parsed.open(&plugin_here, until()).await.unwrap_err();
        let expected = match what.as_str() {
            "the recipient of another" | "the ciphertext of another" => matches!(error, IdentityError::Altered),
            "another key's tag" => {
                matches!(&error, IdentityError::Refused(refusal) if refusal.class == Class::UnknownKey)
            }
            _ => matches!(&error, IdentityError::Refused(refusal) if refusal.class == Class::Corrupt),
        };
        assert!(expected, "{what}: {error:?}");
    }
    let elsewhere = plugin(folder.path(), &vectors, &vectors.other_cluster).await;
    assert!(matches!(file.open(&elsewhere, until()).await, Err(IdentityError::Refused(_))));
    // Encrypted again it is the same identity.
    let again = file.again(&plugin_here, until()).await.unwrap();
    assert!(again != file && again.recipient() == file.recipient() && again.key_id() == file.key_id());
}

#[tokio::test]
async fn a_plugin_of_the_same_members_opens_no_identity() {
    let vectors: Vectors = serde_json::from_slice(&fs::read(PATH).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    plugin(folder.path(), &vectors, &vectors.cluster).await;
    let (node, keys) = (folder.path().join("node.key"), folder.path().join("keys.age"));
    let member = format!("[members.node.age]\nfile = '{}'\nidentity = '{}'\n", keys.display(), node.display());
    let written = toml::from_str(&format!("cluster = '{}'\n{member}", vectors.cluster)).unwrap();
    let kubernetes = Plugin::new(Config::new(written).unwrap().plugin);
    kubernetes.look_once().await;
    let file = KmsIdentity::parse(vectors.identity.as_bytes()).unwrap();
    let refused = file.open(&kubernetes, until()).await.unwrap_err();
    assert!(matches!(&refused, IdentityError::Refused(refusal) if refusal.class == Class::Corrupt), "{refused}");
}
