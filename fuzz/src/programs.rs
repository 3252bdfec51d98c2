//! Programs that ask a person for us, and what they say: pinentry, age plugins; and the file that gives a PIN without
//! one.

use crate::kms::CANARY;
use bulla_crypto::envelope::{FileKey, Stanza};
use bulla_crypto::identity::PluginIdentity;
use bulla_crypto::secret::SecretBytes;
use bulla_keys::PluginError;
use bulla_keys::pin::{PinError, first_line};
use bulla_keys::pinentry::converse;
use bulla_keys::plugin::{Dialogue, file_key};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// The longest PIN of a file.
const PIN_BYTES_MAX: usize = 1024;
/// A line of Assuan with its end, and how many of them make an answer.
const LINE_BYTES_MAX: usize = 1002;
const LINES_MAX: usize = 64;
/// The longest label of a token (PKCS#11).
const LABEL_CHARS_MAX: usize = 32;
/// How the errors call the program, and how long they say that it had.
const PROGRAM: &str = "pinentry-fuzz";
const LIMIT: Duration = Duration::from_secs(7);
/// What is said to the program, line by line, and whether it may refuse what stands there. Before it says anything, it
/// greets.
const SAID: [(&str, bool); 6] = [
    ("SETTIMEOUT 7", true),
    ("SETTITLE Bulla", false),
    ("SETDESC ", false),
    ("SETPROMPT PIN:", false),
    ("GETPIN", false),
    ("BYE", true),
];
/// After so many lines there is a PIN, or there is none.
const ASKED: usize = 5;

/// What a program answered to one line, by rules written a second time.
enum Answer {
    Data(Vec<u8>),
    Refused(String),
    /// No answer of this protocol.
    Broken,
}

fn answer(rest: &mut &[u8]) -> Answer {
    let mut data = Vec::new();
    for _ in 0..LINES_MAX {
        let text = *rest;
        let end = text.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n');
        let Some((line, after)) = end.and_then(|end| text.split_at_checked(end)) else { return Answer::Broken };
        *rest = after.strip_prefix(b"\n").unwrap_or(after);
        if line == b"OK" || line.starts_with(b"OK ") {
            return Answer::Data(data);
        }
        if line.starts_with(b"ERR ") {
            return Answer::Refused(String::from_utf8_lossy(line).into_owned());
        }
        data.extend(line.strip_prefix(b"D ").map(percent).unwrap_or_default());
    }
    Answer::Broken
}

/// `%XX` as the byte that it stands for, everything else as it is.
fn percent(text: &[u8]) -> Vec<u8> {
    let (mut read, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        read.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    read
}

/// What the whole conversation comes to, and how many lines were said by then.
fn outcome(mut answers: &[u8]) -> (Answer, usize) {
    if let other @ (Answer::Refused(_) | Answer::Broken) = answer(&mut answers) {
        return (other, 0);
    }
    let mut last = Answer::Broken;
    for (number, (_, may_refuse)) in (1..).zip(SAID).take(ASKED) {
        last = match answer(&mut answers) {
            Answer::Refused(_) if may_refuse => Answer::Data(Vec::new()),
            other => other,
        };
        if !matches!(last, Answer::Data(_)) && number < ASKED {
            return (last, number);
        }
    }
    (last, SAID.len())
}

/// A token's label, and behind a zero byte what pinentry says: the PIN is what stands in the data before the last
/// answer, an error repeats nothing of it, and the program hears whole lines of ours alone. Any bytes are a PIN, if it
/// writes them so. The input is also read as a file with a PIN.
pub fn pinentry(bytes: &[u8]) {
    pin_file(bytes);
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    let (label, answers) = parts.next().map_or((&b"ops"[..], first), |second| (first, second));
    let label: String = String::from_utf8_lossy(label).chars().take(LABEL_CHARS_MAX).collect();
    let ask = |answers: &[u8]| {
        let mut heard = Vec::new();
        let asked = converse(&mut heard, answers, &label, None, PROGRAM, LIMIT);
        (asked, heard)
    };
    let (asked, heard) = ask(answers);
    let (answer, lines) = outcome(answers);
    told(&heard, lines, &label);
    match (asked, answer) {
        (Ok(pin), Answer::Data(data)) => assert!(*pin.expose() == data, "another PIN than was given"),
        (Err(error), Answer::Refused(line)) => refused(&error, &line),
        (Err(PinError::Pinentry(what)), Answer::Broken) => assert!(!what.is_empty() && !what.starts_with("ERR")),
        (asked, _) => unreachable!("two readers, two ends: {asked:?}"),
    }
    let pin = bytes.get(..bytes.len().min(PIN_BYTES_MAX)).unwrap_or_default();
    let (again, _) = ask(&said(pin));
    assert!(again.is_ok_and(|again| again.expose() == pin), "a PIN does not come through");
}

/// What the program hears: so many of our lines, each whole, short, and without what would end it.
fn told(heard: &[u8], lines: usize, label: &str) {
    let text = std::str::from_utf8(heard).unwrap_or_else(|error| unreachable!("not text: {error}"));
    assert!(text.is_empty() || text.ends_with('\n'), "a line without its end");
    assert_eq!(text.matches('\n').count(), lines, "it hears {text:?}");
    for (line, (start, _)) in text.split_terminator('\n').zip(SAID) {
        assert!(line.starts_with(start) && line.len() < LINE_BYTES_MAX - 1, "it hears {line:?}");
        assert!(!line.contains(char::is_control), "a line within a line: {line:?}");
        if let Some(description) = line.strip_prefix("SETDESC ") {
            let shown = percent(description.as_bytes());
            assert_eq!(shown, format!("PIN of the token {label:?}").into_bytes(), "another token is named");
        }
    }
}

/// A refusal is told in the program's words, but for those that have words of ours.
fn refused(error: &PinError, line: &str) {
    let code = line.split(' ').nth(1).and_then(|code| code.parse::<u32>().ok());
    match (code.map(|code| code % 0x1_0000), error) {
        (Some(99), PinError::Cancelled) => {}
        (Some(62), PinError::TimedOut { program, limit }) => assert_eq!((program.as_str(), *limit), (PROGRAM, LIMIT)),
        (code, PinError::Pinentry(what)) => assert!(what == line && code != Some(99) && code != Some(62), "{error}"),
        (code, _) => unreachable!("{code:?} is told as {error:?}"),
    }
    assert!(!error.to_string().contains(CANARY) || line.contains(CANARY), "a PIN in an error");
}

/// A PIN as a program gives it, which takes every line before.
fn said(pin: &[u8]) -> Vec<u8> {
    let mut text = "OK greeting\n".repeat(ASKED).into_bytes();
    for piece in pin.chunks(200) {
        text.extend(b"D ");
        for byte in piece {
            match byte {
                b'%' | b'\n' | b'\r' => text.extend(format!("%{byte:02X}").bytes()),
                _ => text.push(*byte),
            }
        }
        text.push(b'\n');
    }
    text.extend(b"OK\n");
    text
}

/// A PIN is all of the first line, and nothing that is longer than any.
fn pin_file(bytes: &[u8]) {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let fits = (1..=PIN_BYTES_MAX).contains(&line.len()).then_some(line);
    let read = first_line(bytes).unwrap_or_else(|error| unreachable!("bytes can be read: {error}"));
    assert!(read.as_ref().map(|pin| pin.expose().as_slice()) == fits, "another PIN than the first line");
}

/// The longest stanza of a plugin, and how many of them are listened to.
const STANZA_BYTES_MAX: usize = 16 * 1024;
const STANZAS_MAX: usize = 64;
/// What a person is shown of one word of a plugin at most.
const SHOWN_CHARS_MAX: usize = 1000;
/// What the person types where it is seen.
const PUBLIC: &str = "yubikey-1";

/// A person, who types [`CANARY`] where nobody sees it.
#[derive(Default)]
struct Person(Mutex<Vec<String>>);

impl Person {
    fn shown(&self, words: &[&str]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(words.iter().map(|word| (*word).to_owned()));
    }
}

impl Dialogue for Person {
    fn tell(&self, message: &str) {
        self.shown(&[message]);
    }
    fn secret(&self, prompt: &str) -> Option<SecretBytes> {
        self.shown(&[prompt]);
        Some(SecretBytes::new(CANARY.as_bytes().to_vec()))
    }
    fn public(&self, prompt: &str) -> Option<String> {
        self.shown(&[prompt]);
        Some(PUBLIC.to_owned())
    }
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.shown(&[question, yes, no.unwrap_or_default()]);
        // Nobody is there where there is nothing to choose.
        no.map(|no| no.len().is_multiple_of(2))
    }
}

/// The stanzas that some text begins with.
fn stanzas(mut text: &[u8], most: usize) -> Vec<Stanza> {
    let mut read = Vec::new();
    while read.len() < most
        && let Ok(stanza) = Stanza::read(&mut text, STANZA_BYTES_MAX)
    {
        read.push(stanza);
    }
    read
}

/// What a plugin says: each answer goes to the question that it is for, a file key is one that it gave, and nobody's
/// terminal is steered.
pub fn plugin(bytes: &[u8]) {
    static PLUGIN: LazyLock<(PluginIdentity, Stanza)> = LazyLock::new(|| {
        let tag = "age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h";
        let file = format!("# recipient: {tag}\nAGE-PLUGIN-TAGTEST-1CXM4UC\n");
        let identity = PluginIdentity::parse(file.as_bytes()).ok().flatten();
        let stanza = Stanza { kind: "p256tag".to_owned(), args: vec!["AAAAAA".to_owned()], body: vec![7; 32] };
        (identity.unwrap_or_else(|| unreachable!("an identity of a plugin")), stanza)
    });
    let (identity, own) = &*PLUGIN;
    let (person, mut heard) = (Person::default(), Vec::new());
    let found = file_key(&mut heard, bytes, identity, std::slice::from_ref(own), &person);
    let (asked, answers) = (stanzas(bytes, STANZAS_MAX), stanzas(&heard, STANZAS_MAX.saturating_add(3)));
    let whole: Vec<u8> = answers.iter().flat_map(|stanza| stanza.to_text().expose().clone()).collect();
    assert!(whole == heard, "a plugin hears what is no stanza");
    let (greeting, answers) = answers.split_at_checked(3).unwrap_or_default();
    let begun: Vec<&str> = greeting.iter().map(|stanza| stanza.kind.as_str()).collect();
    assert_eq!(begun, ["add-identity", "recipient-stanza", "done"]);
    assert!(answers.len() <= asked.len(), "an answer that nobody asked for");
    asked.iter().zip(answers).for_each(|(asked, answer)| fits(asked, answer));
    for words in person.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        assert!(!words.contains(char::is_control) && words.chars().count() <= SHOWN_CHARS_MAX, "{words:?} is shown");
    }
    ended(found, &asked);
}

/// The one answer that a stanza of a plugin has.
fn fits(asked: &Stanza, answer: &Stanza) {
    let (kind, body) = match asked.kind.as_str() {
        "file-key" | "msg" => ("ok", ""),
        "request-secret" => ("ok", CANARY),
        "request-public" => ("ok", PUBLIC),
        "confirm" if asked.args.len() == 1 => ("fail", ""),
        "confirm" => ("ok", ""),
        _ => ("unsupported", ""),
    };
    let words: Vec<&str> = answer.args.iter().map(String::as_str).collect();
    let chosen = asked.kind == "confirm" && kind == "ok";
    let worded = if chosen { words == ["yes"] || words == ["no"] } else { words.is_empty() };
    let right = answer.kind == kind && worded && answer.body == body.as_bytes();
    assert!(right, "{:?} is answered by {answer:?}", asked.kind);
}

/// How the conversation ended.
fn ended(found: Result<Option<FileKey>, PluginError>, asked: &[Stanza]) {
    let keys = || asked.iter().filter(|stanza| stanza.kind == "file-key");
    match found {
        Ok(found) => {
            assert!(asked.iter().any(|stanza| stanza.kind == "done"), "it ended by itself");
            let found = found.as_ref().map(|key| key.expose().as_slice());
            assert!(found.is_none_or(|found| keys().any(|key| key.body == found)), "a key that was not given");
        }
        Err(error) => {
            let told = error.to_string();
            let own = |stanza: &Stanza| String::from_utf8_lossy(&stanza.body).contains(CANARY);
            assert!(!told.is_empty() && !told.contains(char::is_control), "an error that a terminal obeys: {told:?}");
            assert!(!told.contains(CANARY) || asked.iter().any(own), "what somebody typed in an error");
        }
    }
}
