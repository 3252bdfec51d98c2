//! Keys behind age plugins: the one that age's own sources bring for tests, and some that misbehave.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::envelope::{self, Decrypter as _, OpenError};
use bulla_crypto::identity::{Identity, IdentityKind, PluginIdentity};
use bulla_crypto::random::SystemRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_keys::plugin::Dialogue;
use bulla_keys::{Plugin, PluginError};
use bulla_testkit::{skip, tools};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LINE: &str = "AGE-PLUGIN-TAGTEST-1CXM4UC";
const CLASSICAL: &str = "age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h";

#[derive(Default)]
struct Person(Mutex<Vec<String>>);

impl Person {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Dialogue for Person {
    fn tell(&self, message: &str) {
        self.note(format!("tell {message}"));
    }
    fn secret(&self, prompt: &str) -> Option<SecretBytes> {
        self.note(format!("secret {prompt}"));
        Some(SecretBytes::new(b"1234".to_vec()))
    }
    fn public(&self, prompt: &str) -> Option<String> {
        self.note(format!("public {prompt}"));
        None
    }
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.note(format!("confirm {question} {yes} {no:?}"));
        Some(no.is_none())
    }
}

fn parse(recipient: &str) -> PluginIdentity {
    PluginIdentity::parse(format!("# recipient: {recipient}\n{LINE}\n").as_bytes()).unwrap().unwrap()
}

fn opened(plugin: &Plugin, file: &[u8]) -> Result<Vec<u8>, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(envelope::open(&[plugin], file, 1000)).map(|opened| opened.plaintext.expose().clone())
}

fn sealed() -> Vec<u8> {
    envelope::seal(&[CLASSICAL.parse().unwrap()], None, b"content").unwrap()
}

#[test]
fn the_plugin_of_ages_own_sources() {
    const NAME: &str = "the_plugin_of_ages_own_sources";
    let folder = tools::age().and_then(|age| age.parent().map(Path::to_path_buf));
    let Some(folder) = folder.filter(|folder| folder.join("age-plugin-tagtest").is_file()) else {
        skip!(NAME, "age-plugin-tagtest beside age 1.3 (BULLA_TEST_AGE)");
    };
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/tag");
    // The recipient stands in the first lines of what age sealed to the plugin's other key.
    let vector = fs::read(vectors.join("mlkem768p256tag_sealed_by_age")).unwrap();
    let vector = String::from_utf8_lossy(&vector).into_owned();
    let hybrid = vector.lines().find_map(|line| line.split(' ').find(|word| word.starts_with("age1tagpq1"))).unwrap();
    for recipient in [CLASSICAL, hybrid] {
        let person = Arc::new(Person::default());
        let plugin = Plugin::new(parse(recipient), Some(folder.as_os_str()), person.clone()).unwrap();
        assert_eq!(plugin.recipients(), [recipient.parse::<Recipient>().unwrap()]);
        let other = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        let file = envelope::seal(plugin.recipients(), None, b"content").unwrap();
        assert_eq!(opened(&plugin, &file).unwrap(), b"content");
        let others = envelope::seal(other.recipients(), None, b"content").unwrap();
        assert!(matches!(opened(&plugin, &others), Err(OpenError::NoMatch)));
        assert!(person.0.lock().unwrap().is_empty());
    }
}

/// A plugin that hears all that it is told, into a file beside it, and then does as the script says.
fn script(folder: &Path, then: &str) -> Plugin {
    let program = folder.join("age-plugin-tagtest");
    let text = format!(
        "#!/bin/sh\nexec 3>'{0}/heard'\nhear() {{ while read -r line; do echo \"$line\" >&3; [ \"$line\" = \"$1\" ] && break; done; \
         read -r line; echo \"$line\" >&3; }}\n[ \"$1\" = --age-plugin=identity-v1 ] || exit 9\nhear '-> done'\n{then}\n",
        folder.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
    Plugin::new(parse(CLASSICAL), Some(folder.as_os_str()), Arc::new(Person::default())).unwrap()
}

#[test]
fn a_plugin_that_misbehaves_is_told_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = sealed();
    let key = "-> file-key 0\\nAAAAAAAAAAAAAAAAAAAAAA\\n";
    for (then, told) in [
        ("exit 0".to_owned(), "ended without an answer"),
        ("printf '-> done'".to_owned(), "ended without an answer"),
        ("printf -- '-> done\\n'".to_owned(), "ended without an answer"),
        ("echo hello; echo".to_owned(), "does not keep to the protocol"),
        ("printf -- '-> msg\\n!!!\\n'".to_owned(), "malformed base64"),
        ("printf -- '-> file-key 0\\nAAAA\\n'".to_owned(), "a file key of another length"),
        ("printf -- '-> file-key 1\\nAAAAAAAAAAAAAAAAAAAAAA\\n'".to_owned(), "the key of another file"),
        (format!("printf -- '{key}'; hear '-> ok'; printf -- '{key}'"), "two file keys"),
        ("head -c 100000 /dev/zero | tr '\\0' A".to_owned(), "a stanza is too long"),
        (
            "printf -- '-> msg\\n'; yes AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            "too long",
        ),
        ("while printf -- '-> msg\\nAAAA\\n'; do :; done".to_owned(), "more than anybody would read"),
        // "no\x1b[2J key" is not let loose on a terminal.
        ("printf -- '-> error internal\\nbm8bWzJKIGtleQ\\n'; hear x".to_owned(), "it says: no [2J key"),
        ("sleep 60".to_owned(), "no answer within 1 s"),
    ] {
        let started = Instant::now();
        let plugin =
            script(folder.path(), &then).limit(Duration::from_secs(if then.starts_with("sleep") { 1 } else { 60 }));
        let error = opened(&plugin, &file).unwrap_err();
        assert!(matches!(error, OpenError::Key(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains("age-plugin-tagtest: ") && error.contains(told), "{then}: {error}");
        assert!(started.elapsed() < Duration::from_secs(40), "{then}");
    }
    // A file key that is another file's: the header's MAC tells.
    let plugin = script(folder.path(), &format!("printf -- '{key}'; hear '-> ok'; printf -- '-> done\\n\\n'"));
    assert!(matches!(opened(&plugin, &file), Err(OpenError::Mac)));
    // None of the stanzas is for its key.
    let plugin = script(folder.path(), "printf -- '-> done\\n\\n'");
    assert!(matches!(opened(&plugin, &file), Err(OpenError::NoMatch)));
}

#[test]
fn a_plugin_asks_the_person() {
    let folder = tempfile::tempdir().unwrap();
    let ask = "ask() { printf -- \"$1\"; hear \"$2\"; }
        ask '-> msg\\ndG91Y2g\\n' '-> ok'
        ask '-> request-secret\\nUElO\\n' '-> ok'
        ask '-> request-public\\nbmFtZQ\\n' '-> fail'
        ask '-> confirm eWVz bm8\\nc3VyZQ\\n' '-> ok no'
        ask '-> confirm eWVz\\nc3VyZQ\\n' '-> ok yes'
        ask '-> grease-1 2 3\\nAAAA\\n' '-> unsupported'
        printf -- '-> done\\n\\n'";
    script(folder.path(), ask);
    let person = Arc::new(Person::default());
    let plugin = Plugin::new(parse(CLASSICAL), Some(folder.path().as_os_str()), person.clone()).unwrap();
    assert!(matches!(opened(&plugin, &sealed()), Err(OpenError::NoMatch)));
    let expected =
        ["tell touch", "secret PIN", "public name", "confirm sure yes Some(\"no\")", "confirm sure yes None"];
    assert_eq!(*person.0.lock().unwrap(), expected);
    let heard = fs::read_to_string(folder.path().join("heard")).unwrap();
    let start = format!("-> add-identity {LINE}\n\n-> recipient-stanza 0 p256tag ");
    assert!(heard.starts_with(&start), "{heard}");
    assert!(
        heard.contains("\n-> done\n\n-> ok\n\n-> ok\nMTIzNA\n-> fail\n\n-> ok no\n\n-> ok yes\n\n-> unsupported\n\n"),
        "{heard}"
    );
}

#[test]
fn a_plugin_is_a_program_on_path() {
    let folder = tempfile::tempdir().unwrap();
    let found = |path: Option<&str>| {
        let found = Plugin::new(parse(CLASSICAL), path.map(AsRef::as_ref), Arc::new(Person::default()));
        match found {
            Ok(_) => true,
            Err(PluginError::NotFound { name }) => name != "age-plugin-tagtest",
            Err(error) => panic!("{error}"),
        }
    };
    let own = folder.path().to_str().unwrap();
    assert!(!found(Some(own)) && !found(None) && !found(Some("")));
    fs::write(folder.path().join("age-plugin-tagtest"), b"#!/bin/sh\n").unwrap();
    assert!(!found(Some(own)), "it is no program");
    script(folder.path(), "");
    assert!(found(Some(&format!("/nonexistent:{own}"))));
    // A folder that is none for somebody standing elsewhere.
    assert!(!found(Some(".")) && !found(Some("target")));
}
