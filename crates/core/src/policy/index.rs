//! Which statements a request has to be held against, so that a decision does not grow with statements about others.
//!
//! Each statement lies in one bucket: that of the entity that its scope names for the principal (`==` or `in`), and in it
//! that of the entity that it names for the resource. What the caller is or lies in, times what the resource is or lies
//! in, gives the buckets that matter. Every statement in another bucket has a scope that is false for this request, and a
//! false scope neither decides nor fails: `principal`, `action` and `resource` are compared before any condition is.
//!
//! What lies in what is read from the entities that Cedar is given for the request, so the two cannot disagree.

use cedar_policy::{
    Entities, EntityUid, Policy, PolicySet, PolicySetError, PrincipalConstraint, Request, ResourceConstraint,
};
use std::collections::HashMap;

/// Statements by what their scopes name.
#[derive(Default)]
pub(super) struct Index {
    /// Those about any principal.
    any: Bucket,
    by_principal: HashMap<EntityUid, Bucket>,
}

#[derive(Default)]
struct Bucket {
    /// Those about any resource.
    any: PolicySet,
    by_resource: HashMap<EntityUid, PolicySet>,
}

impl Index {
    /// Puts every statement in its bucket.
    ///
    /// # Errors
    /// If two have the same id.
    pub(super) fn new<'a>(statements: impl IntoIterator<Item = &'a Policy>) -> Result<Self, Box<PolicySetError>> {
        let mut index = Self::default();
        for statement in statements {
            let bucket = match statement.principal_constraint() {
                PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
                    index.by_principal.entry(uid).or_default()
                }
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => &mut index.any,
            };
            let set = match statement.resource_constraint() {
                ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
                    bucket.by_resource.entry(uid).or_default()
                }
                ResourceConstraint::Any | ResourceConstraint::Is(_) => &mut bucket.any,
            };
            set.add(statement.clone())?;
        }
        Ok(index)
    }

    /// The statements whose scope may fit, in sets of which none is empty.
    pub(super) fn candidates<'a>(&'a self, request: &Request, entities: &Entities) -> Vec<&'a PolicySet> {
        let principals = closure(request.principal(), entities);
        let resources = closure(request.resource(), entities);
        let buckets = principals.into_iter().filter_map(|uid| self.by_principal.get(uid));
        let mut found = Vec::new();
        for bucket in buckets.chain([&self.any]) {
            let named = resources.iter().filter_map(|uid| bucket.by_resource.get(*uid));
            found.extend(named.chain([&bucket.any]).filter(|set| !set.is_empty()));
        }
        found
    }
}

/// The entity, and everything that it lies in.
fn closure<'a>(uid: Option<&'a EntityUid>, entities: &'a Entities) -> Vec<&'a EntityUid> {
    let above = uid.and_then(|uid| entities.ancestors(uid)).into_iter().flatten();
    uid.into_iter().chain(above).collect()
}

#[cfg(test)]
mod tests {
    use crate::policy::{PolicySet, Subject};
    use bulla_wire::id::PrincipalId;
    use std::collections::BTreeMap;
    use std::fmt::Write;

    /// However many statements speak of others: those that a request is held against stay the same. That the decision
    /// does too, `tests/policy_reference.rs` holds against a second evaluator.
    #[test]
    fn statements_about_others_are_not_looked_at() {
        let mut texts = BTreeMap::new();
        let own = "permit (principal in Bulla::Group::\"ops\", action, resource in Bulla::Kv::\"app\");
            permit (principal, action, resource == Bulla::Kv::\"app/db\");
            permit (principal is Bulla::Principal in Bulla::Group::\"web\", action, resource);
            forbid (principal, action, resource is Bulla::Wrap);
            permit (principal, action, resource == Bulla::Kv::\"\");";
        texts.insert("own".parse().unwrap(), own.to_owned());
        for policy in 0..4 {
            let mut text = String::new();
            for n in 0..100 {
                let group = format!("principal in Bulla::Group::\"team{n}\"");
                writeln!(text, "permit ({group}, action, resource);").unwrap();
                writeln!(text, "forbid (principal, action, resource in Bulla::Kv::\"team{n}\");").unwrap();
                writeln!(text, "permit ({group}, action, resource in Bulla::Kv::\"app\");").unwrap();
                writeln!(text, "permit (principal in Bulla::Group::\"ops\", action, resource == Bulla::Kv::\"x{n}\");")
                    .unwrap();
            }
            texts.insert(format!("others{policy}").parse().unwrap(), text);
        }
        let set = PolicySet::parse(&texts).unwrap();
        let candidates = |groups: &[&str], resource: &str| {
            let subject = Subject {
                id: PrincipalId::new([1; 32]),
                name: "alice".parse().unwrap(),
                groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
                attributes: BTreeMap::new(),
            };
            let (resource, action) = (resource.parse().unwrap(), "kv.get".parse().unwrap());
            let caller = set.language.caller(&subject).unwrap();
            let (request, entities) = set.language.question(caller, action, &resource).unwrap();
            let found = set.index.candidates(&request, &entities);
            let mut ids: Vec<String> =
                found.iter().flat_map(|set| set.policies()).map(|policy| policy.id().to_string()).collect();
            ids.sort();
            ids
        };
        assert_eq!(candidates(&["ops", "web"], "kv/app/db"), ["own#0", "own#1", "own#2", "own#3", "own#4"]);
        assert_eq!(candidates(&[], "kv/app/db"), ["own#1", "own#3", "own#4"]);
        assert_eq!(candidates(&["ops"], "kv/application"), ["own#3", "own#4"]);
        // "" is what every path lies in, so a statement about it alone is looked at and does not hold.
        assert_eq!(candidates(&[], "kv"), ["own#3", "own#4"]);
        assert_eq!(candidates(&["ops"], "kv/x7").len(), 2 + 4);
    }
}
