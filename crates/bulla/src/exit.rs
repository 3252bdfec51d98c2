//! How a command ends: one number for each end that a script may want to tell from others.
//!
//! The table below is the reference too. Numbers are never used again for something else.

use bulla_client::{ClientError, Untrusted, io_hint, port_hint};
use bulla_crypto::envelope::OpenError;
use bulla_crypto::sign::SignError;
use bulla_crypto::snapshot::SnapshotError;
use bulla_keys::{AgentError, TokenError};
use bulla_wire::error::Code;
use std::error::Error;
use std::io;
use std::process::ExitCode;

macro_rules! exits {
    ($(#[doc = $doc:literal] $variant:ident = $number:literal;)*) => {
        /// An exit code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit {
            $(#[doc = $doc] $variant,)*
            /// That of the program that was run.
            Child(u8),
        }
        impl Exit {
            /// Every code with its meaning, for the reference and the manual page.
            pub const ALL: &[(u8, &'static str)] = &[$(($number, $doc),)*];
            /// The number.
            pub const fn number(self) -> u8 {
                match self { $(Self::$variant => $number,)* Self::Child(code) => code }
            }
        }
    };
}

exits! {
    #[doc = "It was done; for `bulla status`: the cluster is unsealed."]
    Ok = 0;
    #[doc = "It failed in a way that has no number of its own; the message says why."]
    Failed = 1;
    #[doc = "The cluster is sealed."]
    Sealed = 2;
    #[doc = "Another claim opened the wrap before."]
    AlreadyOpened = 3;
    #[doc = "Something is not to be believed: a signature, a changed key, an older state, a wrap's content, an audit file."]
    Untrusted = 4;
    #[doc = "There is no such thing, or you may not know of it."]
    NotFound = 5;
    #[doc = "Nobody opened the wrap in time."]
    Expired = 6;
    #[doc = "The writer took the wrap back."]
    Revoked = 7;
    #[doc = "The wrap was opened and acknowledged, so it is gone."]
    Acked = 8;
    #[doc = "The wrap was opened and never acknowledged, so it is gone."]
    Lapsed = 9;
    #[doc = "Whoever opened the wrap reported that its content was bad."]
    Nacked = 10;
    #[doc = "The wrap may not be opened yet."]
    NotYet = 11;
    #[doc = "The wrap waits for its writer's release after a restore."]
    Parked = 12;
    #[doc = "Policy does not permit it; for `bulla policy check`: the answer is no."]
    Denied = 13;
    #[doc = "The cluster does not know your key, or has disabled it."]
    Unauthenticated = 14;
    #[doc = "No answer came, and nothing happened."]
    Unreachable = 15;
    #[doc = "It is not known whether the change happened: read the state before you try again."]
    UnknownOutcome = 16;
    #[doc = "There is no cluster yet."]
    Uninitialised = 17;
    #[doc = "It is not as the change expects: it exists, has another version, or is in another state."]
    Conflict = 18;
    #[doc = "The server cannot take it now; nothing happened, and a later try may succeed."]
    Busy = 19;
    #[doc = "The server stopped because its audit log failed."]
    AuditFailed = 20;
    #[doc = "You opened the wrap and had it as often as one claim may, without a word that it arrived."]
    TooManyDeliveries = 21;
    #[doc = "The command line is wrong; nothing was tried."]
    Usage = 64;
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why a command failed, ready to be shown.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was tried and why it failed; lower case, no full stop.
    pub message: String,
    /// What to do next, one line each, naming the flag.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new() }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A file cannot be used.
    pub fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(Exit::Failed, format!("{what} {}: {error}", path.display())).hint(io_hint(error.kind()))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if !hint.is_empty() {
            self.hints.push(hint);
        }
        self
    }

    /// Puts what to do next in the place of more general words.
    #[must_use]
    pub fn instead(self, hint: impl Into<String>) -> Self {
        Self { hints: vec![hint.into()], ..self }
    }

    /// Standard output could not be written.
    pub fn output(error: &io::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot write to standard output: {error}")).hint(io_hint(error.kind()))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let theirs = holder_hint(&error).unwrap_or_else(|| error.hint());
        let hint = match (&error, error.code().map(advice)) {
            (ClientError::NoIdentity, _) => {
                "name one with --identity FILE or BULLA_IDENTITY; `bulla keygen` makes one".to_owned()
            }
            (ClientError::SignsOnly, _) => {
                "give --decrypt-with KEY, a file or token whose recipient your record names".to_owned()
            }
            (ClientError::NoPin, _) => {
                "give --cluster ID, which the admins can tell you, or keep it with `bulla context add`".to_owned()
            }
            (ClientError::Unreachable { address, .. }, _) => {
                format!("check --addr and that the server runs; --timeout gives more time{}", port_hint(address))
            }
            (ClientError::Refused { .. }, Some(Advice::Better(ours))) => ours.to_owned(),
            (ClientError::Refused { .. }, Some(Advice::Otherwise(ours))) if theirs.is_empty() => ours.to_owned(),
            _ => theirs,
        };
        let mut failure = Self::new(exit_of(&error), told(&error)).hint(hint);
        failure.hints.extend(error.caution().map(str::to_owned));
        if let ClientError::Refused { errors, verified: true, .. } = &error
            && let Some(denied) = errors.iter().find(|entry| entry.code == Code::Denied)
            && let Some(id) = &denied.id
        {
            failure.hints.push(format!("the audit log has it as request {id}"));
        }
        failure
    }
}

/// What to do about a token or an agent that did not sign.
fn holder_hint(error: &ClientError) -> Option<String> {
    let ClientError::Sign(SignError::Holder(cause)) = error else { return None };
    let agent = || cause.downcast_ref::<AgentError>().map(|error| error.hint().to_owned());
    cause.downcast_ref::<TokenError>().map(TokenError::hint).or_else(agent)
}

/// An error with its causes in one line. A cause that is quoted already is not told twice.
pub fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::UnknownOutcome { .. } => Exit::UnknownOutcome,
        ClientError::Refused { verified, .. } => {
            // A refusal that nobody signed is believed only as far as it says what everybody may say.
            error.code().map_or(Exit::Failed, |code| {
                if *verified || everybody_may_say(code) { end_of(code) } else { Exit::Failed }
            })
        }
        ClientError::Unreachable { .. } => Exit::Unreachable,
        ClientError::Untrusted(Untrusted::Unsigned { .. })
        | ClientError::Untrusted(_)
        | ClientError::RolledBack(_)
        | ClientError::Known(_)
        | ClientError::Open(OpenError::Mac | OpenError::Payload)
        | ClientError::Tampered { .. } => Exit::Untrusted,
        ClientError::Snapshot(error) => of_snapshot(error),
        ClientError::NoIdentity | ClientError::SignsOnly | ClientError::NoPin | ClientError::Withheld => Exit::Usage,
        ClientError::Sign(_)
        | ClientError::Seal(_)
        | ClientError::Open(_)
        | ClientError::Io { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Input { .. } => Exit::Failed,
    }
}

/// The end of a snapshot that is not to be taken: damaged by chance, or not to be believed.
pub fn of_snapshot(error: &SnapshotError) -> Exit {
    match error {
        SnapshotError::NotASnapshot
        | SnapshotError::NewerVersion(_)
        | SnapshotError::Truncated
        | SnapshotError::Malformed(_)
        | SnapshotError::Io(_) => Exit::Failed,
        SnapshotError::Altered(_)
        | SnapshotError::OtherCluster(_)
        | SnapshotError::Untrusted(_)
        | SnapshotError::Compromised(_)
        | SnapshotError::OtherDigest(_) => Exit::Untrusted,
    }
}

/// Codes that come from a node before it can be verified, or that are signed for method and path alone: what a person
/// must mend first. Whoever stands between can show them too, but can as well cut the line.
fn everybody_may_say(code: Code) -> bool {
    matches!(
        code,
        Code::Uninitialised
            | Code::AlreadyInitialised
            | Code::Overloaded
            | Code::AuditBlocked
            | Code::NotAdmin
            | Code::Sealed
            | Code::Unauthenticated
    )
}

/// The end that a code of the API means.
fn end_of(code: Code) -> Exit {
    match code {
        Code::Sealed => Exit::Sealed,
        Code::AlreadyOpened => Exit::AlreadyOpened,
        Code::TooManyDeliveries => Exit::TooManyDeliveries,
        Code::NotFound
        | Code::Deleted
        | Code::Destroyed
        | Code::UnknownRecipient
        | Code::UnknownSession
        | Code::UnknownRoute
        | Code::UnknownVersion => Exit::NotFound,
        Code::Expired => Exit::Expired,
        Code::Revoked => Exit::Revoked,
        Code::Acked => Exit::Acked,
        Code::Lapsed => Exit::Lapsed,
        Code::Nacked => Exit::Nacked,
        Code::NotYet => Exit::NotYet,
        Code::Parked => Exit::Parked,
        Code::Denied | Code::NotAdmin => Exit::Denied,
        Code::Unauthenticated => Exit::Unauthenticated,
        Code::Uninitialised => Exit::Uninitialised,
        Code::NonceExpired | Code::Unknown => Exit::UnknownOutcome,
        Code::Exists
        | Code::VersionMismatch
        | Code::CasRequired
        | Code::AlreadyInitialised
        | Code::NotSealed
        | Code::LostCommits
        | Code::RecipientTaken
        | Code::IngressChanged
        | Code::NonceReused
        | Code::VersionArchived
        | Code::TooManyVersions
        | Code::KeyProtected
        | Code::TooManyLeases => Exit::Conflict,
        Code::Busy | Code::AuditBlocked | Code::Overloaded | Code::ClockStepped => Exit::Busy,
        Code::CiphertextOfOtherKey
        | Code::CiphertextDamaged
        | Code::WrongKeyKind
        | Code::BadStatement
        | Code::BadTemplate
        | Code::DatabaseFailed
        | Code::BadShare
        | Code::BadPolicy
        | Code::KemTooWeak
        | Code::MixedRecipients
        | Code::NoReplyRecipient
        | Code::Malformed
        | Code::MethodNotAllowed
        | Code::TooLarge
        | Code::WrongMediaType
        | Code::DigestMismatch
        | Code::SignatureTemplate
        | Code::SignatureRequired
        | Code::WrongAudience
        | Code::StaleChallenge
        | Code::Internal => Exit::Failed,
    }
}

/// What to do about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// The command line knows better than the server.
    Better(&'static str),
    /// The server knows the case. This is for where it says nothing.
    Otherwise(&'static str),
}

/// Every code has a way out; a new one does not compile without.
fn advice(code: Code) -> Advice {
    use Advice::{Better, Otherwise};
    match code {
        Code::Malformed | Code::SignatureTemplate | Code::WrongMediaType => Otherwise(
            "compare `bulla version` with the version that `bulla status` shows; `bulla openapi` has the form",
        ),
        Code::UnknownRoute | Code::MethodNotAllowed => Otherwise("`bulla openapi` lists all routes"),
        Code::TooLarge => Otherwise("keep large things elsewhere, and wrap the key to them"),
        Code::DigestMismatch => Otherwise("something between you and the server changed the request; take another way"),
        Code::WrongAudience => Otherwise("--addr and --cluster do not belong together; `bulla context show` has both"),
        Code::SignatureRequired => Otherwise("`bulla` and `bulla curl` sign; a client certificate is not enough here"),
        Code::StaleChallenge => Otherwise("try again; if it stays, something holds requests back on their way"),
        Code::Unauthenticated => Better(
            "an enroller admits your record with `bulla principal add FILE.pub`, or it was disabled or rotated; check --identity",
        ),
        Code::NonceExpired | Code::Unknown => Otherwise("read the state before you try again"),
        Code::NonceReused => {
            Otherwise("try again; if it comes back, somebody plays with your requests: tell the admins")
        }
        Code::Denied => Otherwise(
            "`bulla policy explain` tells why to whoever may ask; `--output-policy` after a command prints what policy lacks",
        ),
        Code::NotFound => {
            Otherwise("check the name; `bulla principal`, `policy`, `kv`, `transit` and `wrap` list what there is")
        }
        Code::Exists => Otherwise("look at what is there, and choose another name"),
        Code::VersionMismatch => Otherwise("read it again, and put your change on top"),
        Code::CasRequired => Otherwise("read the secret, and give its version with --cas"),
        Code::Deleted => Otherwise("`bulla kv undelete` takes it back"),
        Code::Destroyed => Otherwise("`bulla kv history` shows which versions can be read"),
        Code::Busy => Otherwise("try again"),
        Code::Overloaded => Otherwise("try again later; --timeout gives more time"),
        Code::AlreadyInitialised => Better("`bulla status` shows the cluster"),
        Code::Uninitialised => Better("`bulla init` makes the cluster"),
        Code::Sealed => Better("k admins run `bulla unseal`"),
        Code::NotSealed => Otherwise("`bulla seal status` shows it; `bulla seal` closes it"),
        Code::NotAdmin => Otherwise("call with an admin's key (--identity); `bulla document show` names the admins"),
        Code::BadShare => Otherwise("`bulla seal check` tries your key; `bulla document show` names the admins"),
        Code::UnknownSession => Otherwise("run `bulla unseal` again"),
        Code::LostCommits => Otherwise("`bulla unseal` writes what k admins must consent to"),
        Code::KemTooWeak => {
            Better("make a key with `bulla keygen`; admins with classical keys need `bulla init --classical`")
        }
        Code::RecipientTaken => Otherwise("each principal needs keys of its own; `bulla keygen` makes them"),
        Code::UnknownRecipient => Otherwise("an enroller admits its holder with `bulla principal add FILE.pub`"),
        Code::MixedRecipients => Better("make two wraps: one to the post-quantum keys, one to the classical ones"),
        Code::NoReplyRecipient => Otherwise("`bulla principal rotate` makes a record with a key that decrypts"),
        Code::BadStatement => Otherwise("make it again from the newest state, and sign it anew"),
        Code::IngressChanged => Otherwise("try again: the newest cluster document is read then"),
        Code::AlreadyOpened => Better("`bulla wrap inspect` shows who opened it; if that was not you, tell the writer"),
        Code::NotYet => Otherwise("open it again when that time has come"),
        Code::Expired | Code::Revoked | Code::Lapsed | Code::Nacked => Otherwise("ask its writer for a new one"),
        Code::Acked => Otherwise("`bulla wrap inspect` shows who has it; if nobody should, change what was in it"),
        Code::TooManyDeliveries => Better("end it with `bulla wrap nack`, and ask its writer for a new one"),
        Code::Parked => Otherwise("ask its writer to run `bulla wrap release`"),
        Code::CiphertextOfOtherKey | Code::CiphertextDamaged => {
            Otherwise("give the ciphertext as it was made, its key, and its associated data")
        }
        Code::VersionArchived
        | Code::UnknownVersion
        | Code::TooManyVersions
        | Code::WrongKeyKind
        | Code::KeyProtected => Otherwise("`bulla transit read` shows the key's kind, versions and settings"),
        Code::BadPolicy => Otherwise("correct the text; spec/policy.md lists types, actions and attributes"),
        Code::BadTemplate => Otherwise("correct the statement; spec/lease.md lists what one may hold"),
        Code::TooManyLeases => Otherwise("end some: `bulla lease list`, `bulla lease revoke`"),
        Code::DatabaseFailed => Otherwise("`bulla database read` shows how it is reached; whoever runs it must look"),
        Code::AuditBlocked => Otherwise("make room where the server's audit log lies; its own log says what failed"),
        Code::ClockStepped => Otherwise("an admin confirms the time with `bulla seal confirm-clock`"),
        Code::Internal => Otherwise("the server's log says why"),
    }
}

/// The exit code and the hint of a code, for the reference.
#[cfg(test)]
pub fn reference_of(code: Code) -> (Exit, &'static str) {
    let (Advice::Better(hint) | Advice::Otherwise(hint)) = advice(code);
    (end_of(code), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_end_has_a_number_of_its_own() {
        let numbers: BTreeSet<u8> = Exit::ALL.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.len(), Exit::ALL.len());
        // Above lie the codes that shells use for signals.
        assert!(numbers.iter().all(|number| *number < 126));
    }

    #[test]
    fn the_ends_of_a_wrap_are_told_apart() {
        use Code::{Acked, AlreadyOpened, Expired, Lapsed, Nacked, NotFound, NotYet, Parked, Revoked};
        let codes = [Acked, AlreadyOpened, Expired, Lapsed, Nacked, NotFound, NotYet, Parked, Revoked];
        let exits: BTreeSet<u8> = codes.iter().map(|code| end_of(*code).number()).collect();
        assert_eq!(exits.len(), codes.len());
        assert_eq!(end_of(AlreadyOpened).number(), 3);
    }

    #[test]
    fn an_address_without_a_port_is_told_which_one_was_tried() {
        let hints = |address: &str| {
            Failure::from(ClientError::Unreachable { address: address.into(), cause: String::new() }).hints.join("; ")
        };
        let told = hints("https://bulla.example");
        assert!(told.contains("--addr") && told.contains("443") && told.contains("8250"), "{told}");
        assert!(!hints("https://bulla.example:8250").contains("443"));
    }

    #[test]
    fn a_refusal_without_a_signature_is_no_proof() {
        let exit = |code, verified| Failure::from(refused(code, None, verified)).exit;
        assert_eq!(exit(Code::AlreadyOpened, true), Exit::AlreadyOpened);
        assert_eq!(exit(Code::AlreadyOpened, false), Exit::Failed);
        assert_eq!(exit(Code::Uninitialised, false), Exit::Uninitialised);
    }

    #[test]
    fn a_refused_change_that_is_not_verified_says_what_to_do_about_that() {
        let failure = Failure::from(refused(Code::Sealed, None, false));
        assert!(failure.message.ends_with("(this answer could not be verified)"), "{failure:?}");
        assert!(matches!(failure.hints.as_slice(), [_, caution] if caution.contains("read the state")), "{failure:?}");
    }

    fn refused(code: Code, hint: Option<&str>, verified: bool) -> ClientError {
        let (message, hint) = (code.meaning().to_owned(), hint.map(str::to_owned));
        let entry = bulla_wire::error::ErrorEntry { code, message, field: None, hint, id: None, receipt: None };
        ClientError::Refused { status: code.status(), errors: vec![entry], verified, may_have_happened: !verified }
    }

    /// The set of codes is closed: a new one needs a way out before it passes.
    #[test]
    fn every_code_has_a_hint_whatever_the_server_says() {
        for code in Code::ALL {
            let silent = Failure::from(refused(*code, None, true));
            assert!(matches!(silent.hints.as_slice(), [hint] if hint.len() > 8), "{code}: {:?}", silent.hints);
            let told = Failure::from(refused(*code, Some("the server's words"), true));
            let (_, ours) = reference_of(*code);
            let better = matches!(advice(*code), Advice::Better(_));
            assert_eq!(told.hints, [if better { ours } else { "the server's words" }], "{code}");
        }
    }

    /// One of each kind. What is left out here does not compile in [`ClientError::hint`].
    #[test]
    fn every_failure_of_the_client_has_a_hint() {
        let io = |kind| ClientError::Io { what: "cannot read", path: None, cause: io::Error::from(kind) };
        let unknown = ClientError::UnknownOutcome { cause: Box::new(refused(Code::NonceExpired, None, true)) };
        for error in [
            ClientError::Unreachable { address: "x".into(), cause: "y".into() },
            ClientError::Untrusted(Untrusted::Body),
            ClientError::Untrusted(Untrusted::Contradiction { what: "x" }),
            unknown,
            ClientError::Tampered { what: "x" },
            io(io::ErrorKind::NotFound),
            io(io::ErrorKind::PermissionDenied),
            io(io::ErrorKind::Other),
            ClientError::TooLarge { limit: 1 },
            ClientError::NoIdentity,
            ClientError::Withheld,
            ClientError::SignsOnly,
            ClientError::NoPin,
        ] {
            let failure = Failure::from(error);
            assert!(matches!(failure.hints.as_slice(), [hint] if hint.len() > 8), "{failure:?}");
        }
    }

    #[test]
    fn a_denial_is_found_in_the_audit_log() {
        let mut denied = refused(Code::Denied, None, true);
        if let ClientError::Refused { errors, .. } = &mut denied {
            errors[0].id = Some("abc".into());
        }
        assert_eq!(Failure::from(denied).hints[1], "the audit log has it as request abc");
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = io::Error::other("the disk is full");
        let outer = ClientError::Io { what: "cannot write", path: None, cause: inner };
        assert_eq!(told(&outer), "cannot write: the disk is full");
    }
}
