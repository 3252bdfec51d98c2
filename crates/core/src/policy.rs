//! Who may do what: the only module that names Cedar, and the only one that makes [`Authorized`]
//! (`spec/policy.md`).
//!
//! Invariants: what no statement permits is denied; a `forbid` wins over every `permit`; a statement whose
//! evaluation fails denies the request (Cedar itself would skip it, a `forbid` too). Who is a party to a wrap,
//! and how many admins must sign, is not policy: engines and seal hold that.

pub mod exempt;
mod index;
mod memo;
mod model;
mod parse;

pub use model::permit;
pub use parse::{
    Fault, MAX_NESTING, MAX_STATEMENT_TOKENS, MAX_STATEMENTS, MAX_STATEMENTS_IN_SET, MAX_TEXT_BYTES, PolicyError,
    Refusal,
};

use crate::action::{Action, Resource};
use bulla_crypto::digest::sha256;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::json::StrictMap;
use bulla_wire::name::Name;
use exempt::SealRight;
use index::Index;
use memo::{Memo, Named};
use model::Language;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The policy of a new cluster, as it stands in the specification.
const FIRST: &str = include_str!("../../../spec/policy/first.cedar");
/// Its name.
const FIRST_NAME: &str = "first";

/// A verified caller: what policy knows of it comes from its admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Stable over key rotation.
    pub id: PrincipalId,
    /// The admitted name.
    pub name: Name,
    /// Groups of the admission.
    pub groups: Vec<Name>,
    /// Attributes of the admission; Cedar tags.
    pub attributes: BTreeMap<String, String>,
}

/// What policy says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub allowed: bool,
    /// The statements that decided, `<policy name>#<n>` from 0, sorted. Empty if nothing permitted it.
    pub because: Vec<String>,
    /// What could not be evaluated, as `<statement>: <reason>`, or that the action is never done to such a
    /// resource. Any of it denies.
    pub errors: Vec<String>,
}

impl Decision {
    fn failed(error: String) -> Self {
        Self { allowed: false, because: Vec::new(), errors: vec![error] }
    }
}

/// A complete, validated set of policies. Costly to make, cheap to ask; held in an `Arc` and swapped whole.
pub struct PolicySet {
    language: &'static Language,
    policies: BTreeMap<Name, Arc<Parsed>>,
    index: Index,
    named: Named,
    memo: Memo,
}

struct Parsed {
    text: String,
    statements: Vec<cedar_policy::Policy>,
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("policies", &self.policies.keys()).finish_non_exhaustive()
    }
}

impl PolicySet {
    /// Parses and validates every text. All or nothing: one bad policy refuses the set.
    pub fn parse(texts: &BTreeMap<Name, String>) -> Result<Self, PolicyError> {
        let language = Language::shared().map_err(PolicyError::Language)?;
        let policies = texts
            .iter()
            .map(|(name, text)| Ok((name.clone(), Arc::new(Parsed::new(language, name, text)?))))
            .collect::<Result<_, PolicyError>>()?;
        Self::assemble(language, policies)
    }

    /// The set of a new cluster.
    pub fn first() -> Result<Self, PolicyError> {
        Self::parse(&first_texts())
    }

    /// Its digest, by which a recovery names what it replaces (`spec/policy.md`).
    pub fn digest(&self) -> Digest {
        let texts = self.texts().map(|(name, text)| (name.to_string(), Digest::new(sha256(&[text.as_bytes()]))));
        Digest::new(sha256(&[&bulla_wire::json::to_vec(&StrictMap(texts.collect()))]))
    }

    /// This set with one policy written; only the new text is parsed.
    pub fn with(&self, name: &Name, text: &str) -> Result<Self, PolicyError> {
        let mut policies = self.policies.clone();
        policies.insert(name.clone(), Arc::new(Parsed::new(self.language, name, text)?));
        Self::assemble(self.language, policies)
    }

    /// This set without one policy.
    pub fn without(&self, name: &Name) -> Result<Self, PolicyError> {
        let mut policies = self.policies.clone();
        policies.remove(name);
        Self::assemble(self.language, policies)
    }

    fn assemble(language: &'static Language, policies: BTreeMap<Name, Arc<Parsed>>) -> Result<Self, PolicyError> {
        let count = policies.values().map(|policy| policy.statements.len()).sum();
        if count > MAX_STATEMENTS_IN_SET {
            return Err(PolicyError::TooManyStatements(count));
        }
        let statements = || policies.values().flat_map(|policy| &policy.statements);
        let index = Index::new(statements())
            .map_err(|error| PolicyError::Language(format!("statement ids collide: {error}")))?;
        let named = Named::new(language, statements());
        Ok(Self { language, policies, index, named, memo: Memo::default() })
    }

    /// The policies and their texts, in the order of their names.
    pub fn texts(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.policies.iter().map(|(name, policy)| (name, policy.text.as_str()))
    }

    /// May `subject` do `action` to `resource`?
    pub fn decide(&self, subject: &Subject, action: Action, resource: &Resource) -> Decision {
        if !action.asks_policy() {
            return Decision::failed(format!("{action} is a right of the seal's admins; no policy grants it"));
        }
        let question = self.named.question(action, resource);
        if let Some(decision) = self.memo.get(subject, &question) {
            return decision;
        }
        let decision = self.judge(subject, action, resource);
        self.memo.keep(subject, question, &decision);
        decision
    }

    /// Decides anew.
    fn judge(&self, subject: &Subject, action: Action, resource: &Resource) -> Decision {
        let caller = self.language.caller(subject);
        let question = caller.and_then(|caller| self.language.question(caller, action, resource));
        let (request, entities) = match question {
            Ok(question) => question,
            Err(error) => return Decision::failed(error),
        };
        let authorizer = cedar_policy::Authorizer::new();
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for statements in self.index.candidates(&request, &entities) {
            let response = authorizer.is_authorized(&request, statements, &entities);
            // A denial has reasons only if a `forbid` holds, and then all that do.
            let reasons =
                if response.decision() == cedar_policy::Decision::Allow { &mut permits } else { &mut forbids };
            reasons.extend(response.diagnostics().reason().map(ToString::to_string));
            errors.extend(response.diagnostics().errors().map(failure));
        }
        let permitted = forbids.is_empty() && !permits.is_empty();
        let mut because = if forbids.is_empty() { permits } else { forbids };
        because.sort_by(|a, b| by_number(a).cmp(&by_number(b)));
        errors.sort_by(|(a, _), (b, _)| by_number(a).cmp(&by_number(b)));
        let errors: Vec<String> = errors.into_iter().map(|(id, error)| format!("{id}: {error}")).collect();
        if permitted && !errors.is_empty() {
            // A failed statement decided, not those that permit.
            because.clear();
        }
        Decision { allowed: permitted && errors.is_empty(), because, errors }
    }

    /// Lets `op` pass if policy allows it. The caller names in `action` and `resource` exactly what `op` does.
    pub fn authorize<Op>(
        &self,
        subject: &Subject,
        action: Action,
        resource: Resource,
        op: Op,
    ) -> Result<Authorized<Op>, Box<Denied>> {
        let decision = self.decide(subject, action, &resource);
        let subject = subject.clone();
        if decision.allowed {
            Ok(Authorized::assertion(op, subject, action, resource, decision.because))
        } else {
            Err(Box::new(Denied { subject, action, resource, decision }))
        }
    }
}

impl Parsed {
    fn new(language: &Language, name: &Name, text: &str) -> Result<Self, PolicyError> {
        let statements = parse::Source { language, name, text }.statements()?;
        Ok(Self { text: text.to_owned(), statements })
    }
}

/// Texts of the policy set of a new cluster, by name.
pub fn first_texts() -> BTreeMap<Name, String> {
    // The name is a constant that parses; were it not, the set would be empty and deny everything.
    FIRST_NAME.parse().into_iter().map(|name| (name, FIRST.to_owned())).collect()
}

/// The statement that could not be evaluated, and why.
fn failure(error: &cedar_policy::AuthorizationError) -> (String, String) {
    let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
    (error.policy_id().to_string(), error.inner().to_string())
}

/// `team#10` after `team#9`.
fn by_number(statement: &str) -> (&str, usize) {
    let (name, number) = statement.rsplit_once('#').unwrap_or((statement, ""));
    (name, number.parse().unwrap_or(usize::MAX))
}

/// An operation that may be done, with who does it and why it may be. Nothing else proves this: there is no way
/// from a bare operation to its effect.
#[derive(Debug)]
pub struct Authorized<Op> {
    op: Op,
    subject: Subject,
    action: Action,
    resource: Resource,
    because: Vec<String>,
}

impl<Op> Authorized<Op> {
    /// Policy allowed it. One call site: [`PolicySet::authorize`].
    fn assertion(op: Op, subject: Subject, action: Action, resource: Resource, because: Vec<String>) -> Self {
        Self { op, subject, action, resource, because }
    }

    /// The seal's configuration allows it, not policy. Gives the operation back if the right does not cover the
    /// action.
    pub fn exempt(right: SealRight, action: Action, resource: Resource, op: Op) -> Result<Self, Op> {
        if SealRight::covers(action) {
            let because = vec!["seal configuration".to_owned()];
            Ok(Self { op, subject: right.into_holder(), action, resource, because })
        } else {
            Err(op)
        }
    }

    /// What is to be done.
    pub fn op(&self) -> &Op {
        &self.op
    }
    /// Who does it.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
    /// The verb that was asked for.
    pub fn action(&self) -> Action {
        self.action
    }
    /// What it was asked for.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }
    /// The statements that allowed it; `seal configuration` for an exempt one.
    pub fn because(&self) -> &[String] {
        &self.because
    }
}

/// A refused request, for audit and answer. The operation is dropped, since it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Who asked.
    pub subject: Subject,
    /// For which verb.
    pub action: Action,
    /// On what.
    pub resource: Resource,
    /// Why not.
    pub decision: Decision,
}
