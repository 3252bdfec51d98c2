//! Decisions of late. Making them anew was a tenth of the server's time for a request, and most callers ask the same again.
//!
//! What a decision hangs on: the set, which holds this memory and is swapped whole; the caller as it is now; the action;
//! and of the resource nothing but its kind, and which entities that some statement names it is or lies in. A resource
//! has no attributes, a request no context, and no expression makes an entity of a text, so statements can tell no two
//! resources apart that agree in this. That is why one decision serves all the secrets of a directory.

use super::model::{Language, above};
use super::{Decision, Subject};
use crate::action::{Action, Resource};
use bulla_wire::id::PrincipalId;
use cedar_policy::Policy;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most callers remembered. Then all are forgotten together.
const CALLERS_MAX: usize = 1024;
/// Most decisions remembered of one, of some 200 bytes each: with all callers, 6 MiB. Then they are forgotten together.
const QUESTIONS_MAX: usize = 32;

/// The resources that statements name, by kind.
pub(super) struct Named(HashMap<&'static str, HashSet<String>>);

/// All that a decision hangs on but set and caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    action: Action,
    kind: &'static str,
    /// The first of `named` is the resource itself.
    itself: bool,
    named: Vec<Box<str>>,
}

impl Named {
    pub(super) fn new<'a>(language: &Language, statements: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut named: HashMap<_, HashSet<String>> = HashMap::new();
        for uid in statements.into_iter().flat_map(Policy::entity_literals) {
            if let Some(kind) = language.kind(&uid) {
                named.entry(kind).or_default().insert(uid.id().unescaped().to_owned());
            }
        }
        Self(named)
    }

    pub(super) fn question(&self, action: Action, resource: &Resource) -> Question {
        let kind = resource.kind();
        let is_named = |id: &str| self.0.get(kind).is_some_and(|ids| ids.contains(id));
        let (id, above) = (resource.id(), above(resource));
        let itself = is_named(&id);
        let above = above.into_iter().filter(|id| is_named(id));
        let named = itself.then_some(&*id).into_iter().chain(above).map(Box::from).collect();
        Question { action, kind, itself, named }
    }
}

#[derive(Default)]
pub(super) struct Memo(Mutex<HashMap<PrincipalId, Known>>);

struct Known {
    subject: Subject,
    decisions: HashMap<Question, Decision>,
}

impl Memo {
    /// What was decided, unless the caller has changed since.
    pub(super) fn get(&self, subject: &Subject, question: &Question) -> Option<Decision> {
        let memo = self.lock();
        let known = memo.get(&subject.id).filter(|known| known.subject == *subject)?;
        known.decisions.get(question).cloned()
    }

    /// Remembers a decision without errors: those may name the resource.
    pub(super) fn keep(&self, subject: &Subject, question: Question, decision: &Decision) {
        if !decision.errors.is_empty() {
            return;
        }
        let mut memo = self.lock();
        if memo.len() >= CALLERS_MAX && !memo.contains_key(&subject.id) {
            memo.clear();
        }
        let new = || Known { subject: subject.clone(), decisions: HashMap::new() };
        let known = memo.entry(subject.id).or_insert_with(new);
        if known.subject != *subject {
            *known = new();
        }
        if known.decisions.len() >= QUESTIONS_MAX {
            known.decisions.clear();
        }
        known.decisions.insert(question, decision.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PrincipalId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicySet;
    use std::collections::BTreeMap;

    const TEXT: &str = "
        permit (principal in Bulla::Group::\"ops\", action, resource in Bulla::Kv::\"app\");
        permit (principal, action, resource == Bulla::Kv::\"app/db\");
        permit (principal, action, resource) when { principal.hasTag(\"all\") };
        forbid (principal, action == Bulla::Action::\"kv.put\", resource) unless { resource in Bulla::Kv::\"app/db\" };
        permit (principal, action, resource == Bulla::Wrap::\"aaaaaaaaaaaaaaaaaaaaaaaaaa\");
        permit (principal, action, resource == Bulla::PrincipalRecord::\"bob\");
        forbid (principal, action, resource == Bulla::Policy::\"first\");
        permit (principal in Bulla::Group::\"ops\", action in Bulla::Action::\"transit\", resource == Bulla::Transit::\"orders\");
        permit (principal, action == Bulla::Action::\"transit.verify\", resource);
        permit (principal, action, resource == Bulla::Kv::\"\");";

    fn subjects() -> Vec<Subject> {
        let group = |name: &str| vec![name.parse().unwrap()];
        let subject = |n: u8, groups, attributes: &[&str]| Subject {
            id: PrincipalId::new([n; 32]),
            name: "alice".parse().unwrap(),
            groups,
            attributes: attributes.iter().map(|key| ((*key).to_owned(), String::new())).collect(),
        };
        // The second and third are one person before and after a change.
        let (plain, ops, moved) = (subject(1, vec![], &[]), subject(2, group("ops"), &[]), subject(2, vec![], &[]));
        vec![plain, ops, moved, subject(3, group("ops"), &["all"])]
    }

    fn set() -> PolicySet {
        PolicySet::parse(&BTreeMap::from([("team".parse().unwrap(), TEXT.to_owned())])).unwrap()
    }

    fn resources() -> Vec<Resource> {
        let texts = [
            "kv",
            "kv/app",
            "kv/app/db",
            "kv/app/db/x",
            "kv/app/dc",
            "kv/apple",
            "kv/other/app/db",
            "kv/db",
            "wrap",
            "wrap/aaaaaaaaaaaaaaaaaaaaaaaaaa",
            "wrap/aaaaaaaaaaaaaaaaaaaaaaaaae",
            "principal",
            "principal/bob",
            "principal/eve",
            "policy",
            "policy/first",
            "policy/other",
            "self",
            "cluster",
            "audit",
            "seal",
            "alarm",
            "transit",
            "transit/orders",
            "transit/invoices",
        ];
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A set that remembers decides as one that knows nothing, in whatever order it is asked.
    #[test]
    fn what_is_remembered_is_what_would_be_decided() {
        let set = set();
        let (mut asked, mut allowed) = (0, 0);
        for round in 0..3 {
            for subject in subjects() {
                for resource in resources().iter().cycle().skip(round * 7).take(resources().len()) {
                    for action in Action::ALL.iter().copied().filter(|action| action.asks_policy()) {
                        let decision = set.decide(&subject, action, resource);
                        assert_eq!(decision, set.judge(&subject, action, resource), "{action} {resource} {round}");
                        (asked, allowed) = (asked + 1, allowed + usize::from(decision.allowed));
                    }
                }
            }
        }
        assert!(allowed * 25 > asked && allowed * 2 < asked, "{allowed} of {asked}");
    }

    /// Two secrets that no statement tells apart are one question, and its decision is found again.
    #[test]
    fn a_directory_is_decided_once() {
        let set = set();
        let get: Action = "kv.get".parse().unwrap();
        let question = |resource: &str| set.named.question(get, &resource.parse().unwrap());
        assert_eq!(question("kv/app/a"), question("kv/app/b/c"));
        assert_ne!(question("kv/app/a"), question("kv/app"));
        assert_ne!(question("kv/app/db"), question("kv/app/db/x"));
        assert_eq!(question("kv/x"), question("kv/y/z"));
        assert_ne!(question("kv/x"), question("kv"));
        let [_, ops, moved, _]: [Subject; 4] = subjects().try_into().unwrap();
        assert!(set.decide(&ops, get, &"kv/app/a".parse().unwrap()).allowed);
        assert!(set.memo.get(&ops, &question("kv/app/b")).is_some_and(|decision| decision.allowed));
        assert_eq!(set.memo.get(&moved, &question("kv/app/b")), None);
        assert!(!set.decide(&moved, get, &"kv/app/a".parse().unwrap()).allowed);
        assert_eq!(set.memo.get(&ops, &question("kv/app/b")), None);
    }

    /// Whatever is asked, little is kept.
    #[test]
    fn it_does_not_grow() {
        let memo = Memo::default();
        let decision = Decision { allowed: true, because: vec![], errors: vec![] };
        let question = |n: usize| Question {
            action: Action::ALL[0],
            kind: "kv",
            itself: false,
            named: vec![n.to_string().into()],
        };
        let [subject, ..]: [Subject; 4] = subjects().try_into().unwrap();
        for n in 0..3 * CALLERS_MAX {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            memo.keep(&Subject { id: PrincipalId::new(id), ..subject.clone() }, question(0), &decision);
        }
        assert_eq!(memo.lock().len(), CALLERS_MAX, "full, and not forgotten before it has to");
        // One of those who are there asks more, and nobody is forgotten for it.
        let mut last = [0; 32];
        last[..8].copy_from_slice(&(3 * CALLERS_MAX - 1).to_be_bytes());
        let last = Subject { id: PrincipalId::new(last), ..subject.clone() };
        memo.keep(&last, question(1), &decision);
        assert_eq!(memo.lock().len(), CALLERS_MAX);
        assert!(memo.get(&last, &question(0)).is_some() && memo.get(&last, &question(1)).is_some());
        memo.keep(&subject, question(0), &decision);
        assert_eq!(memo.lock().len(), 1, "one too many");
        assert_eq!(memo.get(&last, &question(0)), None);
        for n in 0..3 * QUESTIONS_MAX {
            memo.keep(&subject, question(n), &decision);
        }
        assert_eq!(memo.lock()[&subject.id].decisions.len(), QUESTIONS_MAX);
        let failed = Decision { errors: vec!["x".to_owned()], ..decision };
        memo.keep(&subject, question(1000), &failed);
        assert_eq!(memo.get(&subject, &question(1000)), None);
    }
}
