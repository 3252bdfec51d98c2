//! What it means, seen from a user's machine.

use super::{Check, Verdict};
use crate::exit::{Failure, told};
use crate::output::{time, word};
use crate::session::Settled;
use bulla_client::ClientError;
use bulla_client::certificate::Certificate;
use bulla_client::probe::{Altered, Handshake, Judged, Look};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{Health, SealState, Whoami};
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, KeyId};
use bulla_wire::signature::{CHALLENGE_HEADER, SIGNATURE_HEADER};
use std::path::PathBuf;

/// A certificate that ends so soon needs somebody's attention.
const CERTIFICATE_DAYS: u64 = 14;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// From here on times in statements look odd to others.
const SKEW_WARN_MS: u64 = 5_000;
/// A challenge lives for a minute: times that are further apart than that, less the way, belong to no exchange.
const SKEW_FAIL_MS: u64 = 55_000;
/// Headers of others that are shown, and characters of each: enough to know a proxy by.
const SHOWN_HEADERS: usize = 8;
const SHOWN_CHARACTERS: usize = 80;
/// Characters of a recipient: its kind, and enough of it to tell two apart. The whole has some two thousand.
const SHOWN_OF_A_RECIPIENT: usize = 24;
/// Names that are listed in one line.
const SHOWN_NAMES: usize = 8;
const UNCHANGED: &str = "have it forward requests and answers as they are, or pass TLS through to the node";

/// `places` are the file of contexts and its folder, each with its mode.
pub fn context(settled: Result<&Settled, &Failure>, places: &[(PathBuf, u32)]) -> Check {
    let name = "context";
    // In a folder with the sticky bit nobody replaces another's file.
    if let Some((path, mode)) = places.iter().find(|(_, mode)| mode & 0o022 != 0 && mode & 0o1000 == 0) {
        let path = path.display();
        let found = format!("{path} has mode {mode:04o}, so others can choose whom you believe");
        return Check::fail(name, found, format!("chmod go-w {path}, and look at it with `bulla context show`"));
    }
    match settled {
        Err(failure) => Check::failed(name, failure),
        Ok(Settled { address, trust: Some(trust), .. }) => Check::ok(name, format!("{address}, {trust}")),
        Ok(Settled { address, trust: None, .. }) => {
            let hint = "give --cluster ID, which the admins can tell you, or keep it with `bulla context add`";
            Check::warn(name, format!("{address}, and no cluster to believe"), hint)
        }
    }
}

/// A key that decrypts nothing is enough for some callers.
pub fn signs_only(key: &KeyId) -> Check {
    let hint = "replies that are encrypted cannot be read: --decrypt-with names a key for them";
    Check::warn("identity", format!("{key} signs, and nothing here decrypts"), hint)
}

pub fn identity(found: &Result<KeyId, Failure>) -> Check {
    match found {
        Ok(key) => Check::ok("identity", format!("{key} decrypts")),
        Err(failure) => Check::failed("identity", failure),
    }
}

pub fn keys(classical: &[String], dual_use: bool) -> Check {
    let name = "keys";
    let hint = "`bulla keygen` makes a post-quantum key, `bulla principal rotate` takes it into use";
    match (classical, dual_use) {
        ([], false) => Check::ok(name, "post-quantum, one to sign and one to decrypt"),
        (_, true) => Check::warn(name, "one key both signs and decrypts, and is not post-quantum", hint),
        (classical, false) => Check::warn(
            name,
            format!("not post-quantum, so recorded wraps may be read later: {}", listed(classical)),
            hint,
        ),
    }
}

pub fn address(handshake: &Result<Option<Handshake>, ClientError>) -> Check {
    let name = "address";
    match handshake {
        Ok(None) => Check::ok(name, "the local socket, without TLS"),
        Ok(Some(handshake)) => Check::ok(name, format!("connected to {}", handshake.peer)),
        Err(error) => {
            let hint = "check --addr, that the server runs and listens there, and firewalls on the way";
            Check::fail(name, told(error), hint)
        }
    }
}

pub fn tls(handshake: &Handshake) -> Check {
    let found = format!("TLS 1.3, key exchange {}", handshake.group);
    if handshake.is_hybrid {
        return Check::ok("tls", found);
    }
    let hint = "a node takes X25519MLKEM768, so something on the way ends TLS: update it, or have it pass TLS through";
    Check::warn("tls", format!("{found}, which is not post-quantum"), hint)
}

/// A certificate that was shown. Bulla's clients look at its end only if their context names authorities.
pub fn shown(certificate: &Certificate, now_ms: u64) -> Check {
    let check = self::certificate("certificate", certificate, now_ms);
    if check.verdict == Verdict::Fail { Check { verdict: Verdict::Warn, ..check } } else { check }
}

/// Whom it names and when it ends.
pub fn certificate(name: &'static str, certificate: &Certificate, now_ms: u64) -> Check {
    let Certificate { names, ends_ms, is_own } = certificate;
    let whose = if *is_own { "as a node makes for itself".to_owned() } else { format!("of {}", listed(names)) };
    let Some(ends_ms) = *ends_ms else { return Check::ok(name, format!("{whose}, without an end")) };
    let hint = "put a new certificate where the server's tls.cert and tls.key name it, and send it SIGHUP; or where a proxy has its own";
    match ends_ms.checked_sub(now_ms) {
        None => Check::fail(name, format!("{whose}, ended {}", time(ends_ms)), hint),
        Some(left) if left < CERTIFICATE_DAYS * DAY_MS => {
            Check::warn(name, format!("{whose}, ends {}, in {} days", time(ends_ms), left / DAY_MS), hint)
        }
        Some(_) => Check::ok(name, format!("{whose}, ends {}", time(ends_ms))),
    }
}

/// `changed` if another check names what is wrong with answers.
pub fn documents(newest: Option<(ClusterId, u32)>, missing: Option<&Failure>, changed: bool) -> Check {
    let name = "documents";
    let Some(failure) = missing else {
        return match newest {
            Some((cluster, number)) => Check::ok(name, format!("cluster {cluster}, document {number}")),
            None => Check::fail(name, "none are known", "give --cluster ID"),
        };
    };
    let failed = Check::failed(name, failure);
    let known = match newest {
        Some((_, number)) => format!("none newer than document {number}, which is known here"),
        None => "none could be read".to_owned(),
    };
    let found = format!("{known}: {}", failed.found);
    if changed {
        Check::fail(name, found, "mend first what the next checks tell of the answers")
    } else {
        Check { found, ..failed }
    }
}

/// Whether the answer of an open route is the node's, and if not, who changed what.
pub fn answer(name: &'static str, look: &Look, certificate: Option<&Certificate>) -> Check {
    let Judged::Whole { .. } = look.judged else { return not_the_nodes(name, look, certificate) };
    let passed =
        if look.foreign.is_empty() { String::new() } else { format!("; something on the way adds {}", headers(look)) };
    Check::ok(name, format!("GET {} is answered and signed by a node of the cluster{passed}", asked(look)))
}

fn not_the_nodes(name: &'static str, look: &Look, certificate: Option<&Certificate>) -> Check {
    let (what, hint) = match &look.judged {
        Judged::Whole { .. } => ("the answer belongs to another request".to_owned(), UNCHANGED.to_owned()),
        Judged::Unjudged => {
            let found =
                format!("GET {} is answered with status {}, and nothing here verifies it", asked(look), look.status);
            let hint = "its documents verify it: give --cluster ID, or mend what is said of them";
            return Check::warn(name, found, hint);
        }
        Judged::Missing(missing) if missing.contains(&SIGNATURE_HEADER) && missing.contains(&CHALLENGE_HEADER) => {
            let media = look.media.as_deref().unwrap_or("no content-type");
            (format!("nobody signed the answer: status {}, {}", look.status, short(media)), instead(look.status))
        }
        Judged::Missing(missing) => {
            let names = missing.join(", ");
            let what = format!("the answer came without {names}, or with it twice");
            (what, format!("have it pass on the answer's headers: {names}"))
        }
        Judged::Stranger(key) => (
            format!("the answer is signed by {key}, which no document names as an active node"),
            "--addr leads to another cluster, or the node has a new key: ask the admins, and compare the cluster's id"
                .to_owned(),
        ),
        Judged::Altered(altered) => altered_how(altered, look),
        Judged::Unexplained => {
            let of = look.code().map(|code| format!(" (its body says {code})")).unwrap_or_default();
            let what = format!("the node's signature does not hold: path, query or a signed header was changed{of}");
            (what, UNCHANGED.to_owned())
        }
    };
    let mut found = format!("GET {}: {what}; {}", asked(look), hop(look));
    if let Some(certificate) = certificate.filter(|certificate| !certificate.is_own) {
        found.push_str(&format!("; TLS ends at the certificate of {}", listed(&certificate.names)));
    }
    Check::fail(name, found, hint)
}

fn altered_how(altered: &Altered, look: &Look) -> (String, String) {
    match altered {
        Altered::Body => (
            "the body was changed after the node signed it".to_owned(),
            "have it leave bodies as they are, without compression; the node says `no-transform`".to_owned(),
        ),
        Altered::Status(was) => (
            format!("the status was changed from {was} to {}", look.status),
            "have it leave status codes as they are".to_owned(),
        ),
        Altered::Media(was) => (
            format!("the content-type was changed from {was} to {}", short(look.media.as_deref().unwrap_or_default())),
            "have it leave content-type as it is".to_owned(),
        ),
        Altered::Line { path, query } => {
            let mark = if query.is_empty() { "" } else { "?" };
            let what = format!("the node was asked for {path}{mark}{query}, so path or query was rewritten");
            (what, "have it forward path and query as they are".to_owned())
        }
    }
}

/// What to do about an answer that is not signed at all.
fn instead(status: u16) -> String {
    match status {
        300..=399 => "--addr leads to a redirect: give the address where the server itself answers",
        502..=504 => "what answers there does not reach the node: check that the server runs, and where it forwards to",
        _ => "something answers in the node's place: check --addr, and what the proxy does with paths below /v1",
    }
    .to_owned()
}

/// What is known of whoever changed it.
fn hop(look: &Look) -> String {
    if look.foreign.is_empty() {
        return "whoever did that adds no header of its own".to_owned();
    }
    format!("whoever did that adds {}", headers(look))
}

fn headers(look: &Look) -> String {
    let shown = look.foreign.iter().take(SHOWN_HEADERS).map(|(name, value)| format!("{name}: {}", short(value)));
    shown.collect::<Vec<_>>().join(", ")
}

fn asked(look: &Look) -> String {
    if look.query.is_empty() { look.path.clone() } else { format!("{}?{}", look.path, look.query) }
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}

fn listed(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN_NAMES).map(String::as_str).collect();
    match names.len().checked_sub(SHOWN_NAMES).filter(|left| *left > 0) {
        Some(left) => format!("{} and {left} more", shown.join(", ")),
        None if shown.is_empty() => "nobody".to_owned(),
        None => shown.join(", "),
    }
}

/// The clock of this machine, beside the challenge that came with an answer.
pub fn clock(look: &Look) -> Option<Check> {
    let issued = look.challenge?.issued_ms();
    // The answer was made somewhere between.
    let skew = if issued < look.sent_ms { look.sent_ms - issued } else { issued.saturating_sub(look.answered_ms) };
    let way = if issued < look.sent_ms { "ahead of" } else { "behind" };
    let found = format!("this machine's clock is {} s {way} the node's", skew / 1000);
    let hint = "have both machines set their clocks by NTP; `date -u` shows which one is wrong";
    Some(match skew {
        0..=SKEW_WARN_MS => Check::ok("clock", format!("within {} s of the node's", SKEW_WARN_MS / 1000)),
        _ if skew > SKEW_FAIL_MS => Check::fail("clock", found, hint),
        _ => Check::warn("clock", found, hint),
    })
}

/// What a node says of itself.
pub fn health(told: &Health) -> Vec<Check> {
    let state = word(&told.state);
    let mut checks = vec![match told.state {
        SealState::Unsealed => Check::ok("seal", state),
        SealState::Sealed => Check::fail("seal", format!("the cluster is {state}"), "k admins run `bulla unseal`"),
        SealState::Uninitialised => Check::fail("seal", "there is no cluster yet", "`bulla init` makes the cluster"),
    }];
    checks.push(if told.audit_ok {
        Check::ok("audit", "the log takes lines")
    } else {
        let hint = "make room where the server's audit log lies; its own log says what failed";
        Check::fail("audit", "the log takes no lines, so nothing is answered", hint)
    });
    if !told.clock_ok {
        let found = "the node's clock was moved, so nothing is deleted by time";
        checks.push(Check::warn("node clock", found, "when it is right, an admin runs `bulla seal confirm-clock`"));
    }
    checks
}

/// Whether a signed request reaches the node as it was signed.
pub fn request(look: &Look, key: &KeyId, certificate: Option<&Certificate>) -> Check {
    let name = "request";
    let open = match look.judged {
        Judged::Whole { open } => open,
        _ => return not_the_nodes(name, look, certificate),
    };
    let Some(refusal) = look.refusal.as_ref().filter(|_| look.status >= 400) else {
        if open || look.status >= 400 {
            return not_the_nodes(name, look, certificate);
        }
        return Check::ok(name, "a signed request arrives as it was signed");
    };
    let said = format!("{}: {}", refusal.code, refusal.message);
    let on_the_way = |part: &str| {
        let found = format!("{part} was changed or taken away on the way ({said}); {}", hop(look));
        Check::fail(name, found, UNCHANGED)
    };
    match refusal.code {
        Code::Unauthenticated => Check::fail(
            name,
            format!("path and query arrived as they were signed, so the cluster does not take your key {key}"),
            "an enroller admits your record with `bulla principal add FILE.pub`; or it was disabled or rotated",
        ),
        Code::SignatureTemplate => on_the_way(refusal.field.as_deref().unwrap_or("a signed header")),
        Code::WrongMediaType => on_the_way("content-type"),
        Code::WrongAudience => on_the_way("bulla-audience"),
        Code::DigestMismatch | Code::TooLarge | Code::Malformed => on_the_way("the body or a header"),
        Code::StaleChallenge => on_the_way("bulla-challenge, or the request was held back for a minute: it"),
        Code::Sealed => Check::ok(name, "not looked at while the cluster is sealed"),
        _ => Check::failed(name, &refused(look, refusal.clone())),
    }
}

/// The words that every command has for a refusal.
fn refused(look: &Look, refusal: bulla_wire::error::ErrorEntry) -> Failure {
    let (status, errors) = (look.status, vec![refusal]);
    ClientError::Refused { status, errors, verified: true, may_have_happened: false }.into()
}

pub fn principal(whoami: &Whoami) -> Check {
    let name = "principal";
    let Whoami { principal, admin, enroller, .. } = whoami;
    let found = format!("you are {}, record version {}", principal.name, principal.version);
    if principal.void {
        let hint = format!("an enroller admits you again: `bulla principal add {}.pub`", principal.name);
        return Check::fail(name, format!("{found}, and your admission does not hold by the newest document"), hint);
    }
    if principal.disabled {
        let hint = format!("an admin runs `bulla principal enable {}`", principal.name);
        return Check::fail(name, format!("{found}, and disabled"), hint);
    }
    let roles = [(*admin, ", admin"), (*enroller, ", enroller")];
    let roles: String = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    Check::ok(name, format!("{found}{roles}"))
}

/// Whether what is encrypted for the caller can be opened here: by the recipients that its record lists under the key
/// that signs.
pub fn replies(recorded: &[Recipient], held: &[Recipient]) -> Check {
    let name = "replies";
    if held.is_empty() || recorded.iter().any(|recipient| held.contains(recipient)) {
        // That a key decrypts nothing is told of the identity.
        return Check::ok(name, "what is encrypted for you can be opened with your key");
    }
    let shown = |recipients: &[Recipient]| {
        let begun =
            |recipient: &Recipient| recipient.as_str().chars().take(SHOWN_OF_A_RECIPIENT).collect::<String>() + "…";
        listed(&recipients.iter().map(begun).collect::<Vec<_>>())
    };
    let found = format!(
        "your record says to encrypt to {}, and your key decrypts for {}: wraps and replies cannot be opened here",
        shown(recorded),
        shown(held)
    );
    let hint =
        "--identity and --decrypt-with name the keys of your record; `bulla principal rotate` takes another into it";
    Check::fail(name, found, hint)
}

pub fn alarms(waiting: u32) -> Check {
    match waiting {
        0 => Check::ok("alarms", "none waits for you"),
        count => Check::warn("alarms", format!("{count} not seen"), "read them with `bulla alarms`"),
    }
}

/// `first` if this machine had seen nothing of the cluster before.
pub fn history(failure: Option<&Failure>, first: bool) -> Check {
    match failure {
        None if first => {
            Check::ok("history", "seen for the first time; from now on this machine notices an older copy")
        }
        None => Check::ok("history", "the cluster stands where this machine has seen it, or later"),
        Some(failure) => Check::failed("history", failure),
    }
}

/// How many of the admins open the seal, and whose keys are classical.
pub fn admins(k: usize, n: usize, classical: &[String]) -> Check {
    let found = format!("{k} of {n} open the seal");
    if !classical.is_empty() {
        let hint = "each makes a key with `bulla keygen`; `bulla document propose` takes it in";
        return Check::warn("admins", format!("{found}; not post-quantum: {}", listed(classical)), hint);
    }
    if k == n {
        let hint = "take in another admin: `bulla document propose --add-admin FILE.pub -o document.json`";
        return Check::warn("admins", format!("{found}: one lost key loses the cluster"), hint);
    }
    Check::ok("admins", found)
}

/// What somebody's newest record holds.
#[derive(Debug)]
pub struct Held {
    pub name: String,
    pub is_hybrid: bool,
    pub dual_use: bool,
}

/// `None` if the caller may not list them; `more` if there are more than were looked at.
pub fn principals(found: Option<&[Held]>, more: bool) -> Check {
    let name = "principals";
    let Some(found) = found else { return Check::ok(name, "not looked at: policy does not let you list them") };
    let of = |is: fn(&Held) -> bool| found.iter().filter(|held| is(held)).map(|held| held.name.clone()).collect();
    let (dual_use, classical): (Vec<_>, Vec<_>) =
        (of(|held| held.dual_use), of(|held| !held.is_hybrid && !held.dual_use));
    let first = if more { "of the first " } else { "" };
    let looked = format!("{first}{} looked at", found.len());
    if dual_use.is_empty() && classical.is_empty() {
        return Check::ok(name, format!("{looked}, all with post-quantum keys"));
    }
    let part = |what: &str, names: &[String]| {
        if names.is_empty() { String::new() } else { format!("; {what}: {}", listed(names)) }
    };
    let found = format!(
        "{looked}{}{}",
        part("not post-quantum", &classical),
        part("one key to sign and to decrypt", &dual_use)
    );
    Check::warn(name, found, "each makes a key with `bulla keygen` and takes it into use with `bulla principal rotate`")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::*;
    use crate::exit::Exit;
    use bulla_client::wire::challenge::Challenge;
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::SystemRng;
    use bulla_wire::error::ErrorEntry;

    const SENT_MS: u64 = 1_700_000_000_000;

    fn verdict(check: &Check) -> Verdict {
        assert_eq!(check.hint.is_none(), check.verdict == Fine, "{check:?}");
        assert!(check.hint.as_ref().is_none_or(|hint| hint.len() > 8), "{check:?}");
        check.verdict
    }

    fn look(status: u16, judged: Judged) -> Look {
        let foreign = vec![("via".to_owned(), "1.1 front".to_owned())];
        let media = Some("text/html".to_owned());
        let (path, query) = ("/v1/health".to_owned(), String::new());
        let (sent_ms, answered_ms) = (SENT_MS, SENT_MS + 100);
        Look {
            path,
            query,
            status,
            media,
            foreign,
            body: "".into(),
            refusal: None,
            judged,
            challenge: None,
            alarms: 0,
            sent_ms,
            answered_ms,
        }
    }

    fn refused(code: Code, open: bool) -> Look {
        let (message, field) = (code.meaning().to_owned(), Some("bulla-audience".to_owned()));
        let refusal = Some(ErrorEntry { code, message, field, hint: None, id: None, receipt: None });
        Look { refusal, ..look(code.status(), Judged::Whole { open }) }
    }

    fn all_missing() -> Judged {
        Judged::Missing(vec![CHALLENGE_HEADER, SIGNATURE_HEADER])
    }

    #[test]
    fn what_was_changed_on_the_way_is_told_with_who_did_it() {
        let line = |path: &str| Altered::Line { path: path.to_owned(), query: String::new() };
        let cases = [
            (Judged::Altered(Altered::Body), "the body was changed", "compression"),
            (Judged::Altered(Altered::Status(503)), "from 503 to 200", "status"),
            (Judged::Altered(Altered::Media("application/json")), "to text/html", "content-type"),
            (Judged::Altered(line("/health")), "asked for /health,", "path"),
            (Judged::Missing(vec!["bulla-state"]), "without bulla-state", "bulla-state"),
            (Judged::Stranger(KeyId::new([1; 32])), "no document names", "admins"),
            (Judged::Unexplained, "does not hold", "as they are"),
            (all_missing(), "nobody signed", "/v1"),
        ];
        for (judged, what, way_out) in cases {
            let check = answer("answer", &look(200, judged), None);
            assert_eq!(verdict(&check), Fail);
            assert!(check.found.contains(what) && check.found.contains("via: 1.1 front"), "{check:?}");
            assert!(check.hint.as_ref().unwrap().contains(way_out), "{check:?}");
        }
        let certificate = |is_own| Certificate { names: vec!["front.example".into()], ends_ms: None, is_own };
        let found = |is_own| answer("answer", &look(502, all_missing()), Some(&certificate(is_own))).found;
        assert!(found(false).contains("front.example") && !found(true).contains("front.example"));
        assert!(instead(502).contains("does not reach") && instead(302).contains("redirect"));
        assert_eq!(verdict(&answer("answer", &look(200, Judged::Whole { open: true }), None)), Fine);
        assert_eq!(verdict(&answer("answer", &look(200, Judged::Unjudged), None)), Warn);
    }

    #[test]
    fn a_refused_request_tells_a_foreign_key_from_a_changed_request() {
        let key = KeyId::new([1; 32]);
        let of = |look: &Look| request(look, &key, None);
        assert_eq!(verdict(&of(&look(200, Judged::Whole { open: false }))), Fine);
        assert_eq!(verdict(&of(&look(200, Judged::Whole { open: true }))), Fail, "it belongs to another request");
        let unknown = of(&refused(Code::Unauthenticated, true));
        assert_eq!(verdict(&unknown), Fail);
        assert!(unknown.found.contains(&key.to_string()) && unknown.found.contains("arrived as they were"));
        let taken = of(&refused(Code::SignatureTemplate, true));
        assert!(taken.found.starts_with("bulla-audience was changed") && taken.found.contains("via"), "{taken:?}");
        assert_eq!(verdict(&of(&refused(Code::Sealed, true))), Fine);
        for code in Code::ALL.iter().filter(|code| **code != Code::Sealed) {
            assert_eq!(verdict(&of(&refused(*code, true))), Fail, "{code}");
        }
    }

    #[test]
    fn clocks_apart() {
        let issued = |ms: u64| {
            let challenge = Challenge::new(Challenge::covered(0, ms, [0; 2], [0; 8]), [0; 16]);
            let look = Look { challenge: Some(challenge), ..look(200, Judged::Whole { open: true }) };
            clock(&look).unwrap()
        };
        for (ms, wanted) in [(0, Fine), (100, Fine), (5_100, Fine), (5_101, Warn), (55_100, Warn), (55_101, Fail)] {
            assert_eq!(verdict(&issued(SENT_MS + ms)), wanted, "{ms}");
        }
        for (ms, wanted) in [(5_000, Fine), (5_001, Warn), (55_000, Warn), (55_001, Fail)] {
            assert_eq!(verdict(&issued(SENT_MS - ms)), wanted, "-{ms}");
        }
        assert!(issued(SENT_MS - 30_000).found.contains("30 s ahead of"));
        assert!(issued(SENT_MS + 30_100).found.contains("30 s behind"));
        assert!(clock(&look(200, Judged::Whole { open: true })).is_none());
    }

    #[test]
    fn certificates_end() {
        let ends = |days: u64| Certificate {
            names: vec!["a.example".into()],
            ends_ms: Some(SENT_MS + days * DAY_MS),
            is_own: false,
        };
        let of = |days| verdict(&certificate("certificate", &ends(days), SENT_MS));
        assert_eq!((of(14), of(13), of(0)), (Fine, Warn, Warn));
        let later = SENT_MS + DAY_MS;
        assert_eq!(verdict(&certificate("certificate", &ends(0), later)), Fail);
        assert_eq!(verdict(&shown(&ends(0), later)), Warn, "no client of ours looks at it");
        let endless = Certificate { ends_ms: None, ..ends(0) };
        assert_eq!(verdict(&certificate("certificate", &endless, later)), Fine);
    }

    #[test]
    fn keys_and_admins() {
        let weak = ["age1x".to_owned()];
        assert_eq!(verdict(&keys(&[], false)), Fine);
        assert_eq!((verdict(&keys(&weak, false)), verdict(&keys(&weak, true))), (Warn, Warn));
        assert_eq!(verdict(&admins(2, 3, &[])), Fine);
        assert_eq!(verdict(&admins(1, 2, &[])), Fine);
        for (k, n) in [(1, 1), (3, 3)] {
            assert_eq!(verdict(&admins(k, n, &[])), Warn, "{k} of {n}");
        }
        assert_eq!(verdict(&admins(2, 3, &weak)), Warn);
        let held = |name: &str, is_hybrid, dual_use| Held { name: name.to_owned(), is_hybrid, dual_use };
        assert_eq!(verdict(&principals(None, false)), Fine);
        assert_eq!(verdict(&principals(Some(&[held("a", true, false)]), true)), Fine);
        let some = [held("a", true, false), held("bob", false, false), held("carol", false, true)];
        let check = principals(Some(&some), false);
        assert_eq!(verdict(&check), Warn);
        assert!(check.found.contains("post-quantum: bob;") && check.found.ends_with("decrypt: carol"), "{check:?}");
    }

    #[test]
    fn files_and_places() {
        let settled = |trust| Settled { address: "x:1".into(), trust, ca: None };
        let cluster = Some(crate::context::Trust::Cluster(ClusterId::new([1; 32])));
        for (file, folder, wanted, named) in [
            (0o644, 0o755, Fine, ""),
            (0o620, 0o700, Fail, "/b/c has mode 0620"),
            (0o602, 0o700, Fail, "/b/c has mode 0602"),
            // Another file can be put in its place, unless only one's own may be.
            (0o600, 0o775, Fail, "/b has mode 0775"),
            (0o600, 0o707, Fail, "/b has mode 0707"),
            (0o600, 0o1777, Fine, ""),
        ] {
            let places = [(PathBuf::from("/b/c"), file), (PathBuf::from("/b"), folder)];
            let check = context(Ok(&settled(cluster.clone())), &places);
            assert_eq!(verdict(&check), wanted, "{check:?}");
            assert!(check.found.starts_with(named), "{check:?}");
        }
        assert_eq!(verdict(&context(Ok(&settled(None)), &[])), Warn);
        let failure = Failure::new(Exit::Failed, "no");
        assert_eq!(verdict(&context(Err(&failure), &[])), Fail);
        assert_eq!(verdict(&signs_only(&KeyId::new([1; 32]))), Warn);
        let id = ClusterId::new([1; 32]);
        assert_eq!(verdict(&documents(Some((id, 3)), None, false)), Fine);
        for changed in [false, true] {
            assert_eq!(verdict(&documents(Some((id, 3)), Some(&failure), changed)), Fail);
            assert_eq!(verdict(&documents(None, Some(&failure), changed)), Fail);
        }
        assert_eq!((verdict(&history(None, false)), verdict(&history(Some(&failure), false))), (Fine, Fail));
        assert!(history(None, true).found.contains("first time"));
        let recipient = || Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap().recipients().to_vec();
        let (mine, other) = (recipient(), recipient());
        let both = [mine.clone(), other.clone()].concat();
        assert_eq!((verdict(&replies(&both, &mine)), verdict(&replies(&other, &mine))), (Fine, Fail));
        assert_eq!(verdict(&replies(&other, &[])), Fine, "that nothing decrypts is told of the identity");
        assert_eq!(verdict(&identity(&Ok(KeyId::new([1; 32])))), Fine);
        assert_eq!(verdict(&identity(&Err(failure))), Fail);
        assert_eq!((verdict(&alarms(0)), verdict(&alarms(2))), (Fine, Warn));
    }

    #[test]
    fn the_state_of_the_node() {
        let told = |state, audit_ok, clock_ok| Health {
            state,
            version: "1".into(),
            node: KeyId::new([1; 32]),
            cluster: None,
            name: None,
            transient: false,
            audit_ok,
            clock_ok,
            unseal: None,
        };
        let of = |told: &Health| health(told).iter().map(verdict).collect::<Vec<_>>();
        assert_eq!(of(&told(SealState::Unsealed, true, true)), [Fine, Fine]);
        assert_eq!(of(&told(SealState::Sealed, false, false)), [Fail, Fail, Warn]);
        assert_eq!(of(&told(SealState::Uninitialised, true, true)), [Fail, Fine]);
    }

    #[test]
    fn handshakes() {
        let of = |is_hybrid| Handshake { peer: "x:1".into(), group: "X".into(), is_hybrid, certificate: None };
        assert_eq!((verdict(&tls(&of(true))), verdict(&tls(&of(false)))), (Fine, Warn));
        assert_eq!(verdict(&address(&Ok(Some(of(true))))), Fine);
        assert_eq!(verdict(&address(&Ok(None))), Fine);
        let unreachable = ClientError::Unreachable { address: "x:1".into(), cause: "refused".into() };
        assert_eq!(verdict(&address(&Err(unreachable))), Fail);
    }
}
