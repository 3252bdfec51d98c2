//! The entity model: how a caller, an action and a resource look to Cedar (`spec/policy/schema.cedarschema`).
//!
//! A request brings only what it speaks about: the caller in its groups, the action in its group and the resource
//! in what lies above it. Nothing else can leak into a decision, and a decision costs the same in a cluster of any size.

use super::Subject;
use crate::action::{Action, Resource, RoleName};
use bulla_wire::id::{LeaseId, PrincipalId, WrapId};
use bulla_wire::name::{Name, SecretPath};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema, Validator,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

/// The schema, as it stands in the specification.
const SCHEMA: &str = include_str!("../../../../spec/policy/schema.cedarschema");

/// The kinds of [`Resource::kind`], and their Cedar types.
const KINDS: [(&str, &str); 12] = [
    ("cluster", "Bulla::Cluster"),
    ("seal", "Bulla::Seal"),
    ("principal", "Bulla::PrincipalRecord"),
    ("policy", "Bulla::Policy"),
    ("audit", "Bulla::Audit"),
    ("alarm", "Bulla::Alarm"),
    ("self", "Bulla::Self"),
    ("wrap", "Bulla::Wrap"),
    ("kv", "Bulla::Kv"),
    ("transit", "Bulla::Transit"),
    ("database", "Bulla::Database"),
    ("lease", "Bulla::Lease"),
];

/// The statement that permits a principal one action on one resource, and nothing else.
pub fn permit(principal: &PrincipalId, action: Action, resource: &Resource) -> String {
    let kind = KINDS.iter().find(|(kind, _)| *kind == resource.kind()).map_or("", |(_, text)| text);
    format!(
        "permit (\n  principal == Bulla::Principal::\"{principal}\",\n  action == Bulla::Action::\"{action}\",\n  \
         resource == {kind}::\"{}\"\n);\n",
        resource.id()
    )
}

/// Schema and type names, parsed once.
pub(super) struct Language {
    validator: Validator,
    principal: EntityTypeName,
    group: EntityTypeName,
    action: EntityTypeName,
    kinds: BTreeMap<&'static str, EntityTypeName>,
}

static LANGUAGE: LazyLock<Result<Language, String>> = LazyLock::new(Language::read);

impl Language {
    /// The language of policies; an error means that this build carries a broken schema.
    pub(super) fn shared() -> Result<&'static Self, String> {
        LANGUAGE.as_ref().map_err(Clone::clone)
    }

    fn read() -> Result<Self, String> {
        let type_name = |text: &str| text.parse::<EntityTypeName>().map_err(|error| error.to_string());
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| error.to_string())?;
        if let Some(warning) = { warnings }.next() {
            return Err(warning.to_string());
        }
        Ok(Self {
            validator: Validator::new(schema),
            principal: type_name("Bulla::Principal")?,
            group: type_name("Bulla::Group")?,
            action: type_name("Bulla::Action")?,
            kinds: KINDS.into_iter().map(|(kind, text)| Ok((kind, type_name(text)?))).collect::<Result<_, String>>()?,
        })
    }

    /// The kind of resource of this entity; none if it is none.
    pub(super) fn kind(&self, uid: &EntityUid) -> Option<&'static str> {
        self.kinds.iter().find(|(_, name)| *name == uid.type_name()).map(|(kind, _)| *kind)
    }

    pub(super) fn validator(&self) -> &Validator {
        &self.validator
    }

    /// The entity with the name of its type in full, if it was written without it: `Group::"x"`.
    pub(super) fn qualified(&self, uid: &EntityUid) -> Option<String> {
        let name = format!("Bulla::{}", uid.type_name());
        let mut known = [&self.principal, &self.group, &self.action].into_iter().chain(self.kinds.values());
        known.any(|known| known.to_string() == name).then(|| format!("Bulla::{uid}"))
    }

    /// What an id of this type must look like, unless `uid` has a spelling that a request can have. A misspelt id
    /// in a `forbid` would be a rule that never holds.
    pub(super) fn misspelt(&self, uid: &EntityUid) -> Option<&'static str> {
        let id = uid.id().unescaped();
        let type_name = uid.type_name().to_string();
        let (good, expected) = match type_name.as_str() {
            "Bulla::Principal" => (
                id.parse::<PrincipalId>().is_ok(),
                "a principal id (\"sha256:\" and 43 characters); to name a person, compare principal.name",
            ),
            "Bulla::Group" => (id.parse::<Name>().is_ok(), "a group's name"),
            "Bulla::PrincipalRecord" => {
                (id.is_empty() || id.parse::<Name>().is_ok(), "a principal's name, or \"\" for all")
            }
            "Bulla::Policy" => (id.is_empty() || id.parse::<Name>().is_ok(), "a policy's name, or \"\" for all"),
            "Bulla::Wrap" => (id.is_empty() || id.parse::<WrapId>().is_ok(), "a wrap's id, or \"\" for all"),
            "Bulla::Transit" => (id.is_empty() || id.parse::<Name>().is_ok(), "a transit key's name, or \"\" for all"),
            "Bulla::Kv" => (
                id.is_empty() || id.parse::<SecretPath>().is_ok(),
                "a path without a slash at its ends, such as \"app/db\", or \"\" for all",
            ),
            "Bulla::Database" => (
                id.is_empty() || id.parse::<Name>().is_ok() || id.parse::<RoleName>().is_ok(),
                "a database's name, \"<database>/<role>\", or \"\" for all",
            ),
            "Bulla::Lease" => (id.is_empty() || id.parse::<LeaseId>().is_ok(), "a lease's id, or \"\" for all"),
            "Bulla::Cluster" | "Bulla::Seal" | "Bulla::Audit" | "Bulla::Alarm" | "Bulla::Self" => {
                (id.is_empty(), "\"\", since there is only one")
            }
            // The validator knows every action by name, and refuses unknown types.
            _ => (true, ""),
        };
        (!good).then_some(expected)
    }

    /// The request and its entities; an error if the action is never done to such a resource.
    pub(super) fn question(
        &self,
        caller: Entity,
        action: Action,
        resource: &Resource,
    ) -> Result<(Request, Entities), String> {
        let misfit = |error: String| format!("{action} on {resource}: {error}");
        let verb = uid(&self.action, action.as_str());
        let kind = self.kinds.get(resource.kind()).ok_or_else(|| misfit("no such kind".to_owned()))?;
        let target = uid(kind, &resource.id());
        let request =
            Request::new(caller.uid(), verb.clone(), target.clone(), Context::empty(), Some(self.validator.schema()))
                .map_err(|_| format!("{action} is never done to {resource}"))?;

        // Three entities, each with everything that it lies in as a direct parent: entities for what lies above
        // would only make Cedar compute a closure that is known already.
        let verb = Entity::new_no_attrs(verb, HashSet::from([uid(&self.action, action.group())]));
        let above = above(resource).into_iter().map(|id| uid(kind, id)).collect();
        let target = Entity::new_no_attrs(target, above);
        let entities =
            Entities::from_entities([caller, verb, target], None).map_err(|error| misfit(error.to_string()))?;
        Ok((request, entities))
    }

    /// The caller in its groups.
    pub(super) fn caller(&self, subject: &Subject) -> Result<Entity, String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        Entity::new_with_tags(
            uid(&self.principal, &subject.id.to_string()),
            [("name".to_owned(), text(subject.name.as_str()))],
            subject.groups.iter().map(|group| uid(&self.group, group.as_str())).collect::<HashSet<_>>(),
            subject.attributes.iter().map(|(key, value)| (key.clone(), text(value))),
        )
        .map_err(|error| error.to_string())
    }
}

/// Ids of everything that the resource lies in, itself left out: its directories, and the whole of its kind.
pub(super) fn above(resource: &Resource) -> Vec<&str> {
    match resource {
        Resource::Kv(path) => path.ancestors().chain([""]).collect(),
        Resource::DatabaseRole(role) => vec![role.database().as_str(), ""],
        Resource::Principal(_)
        | Resource::Policy(_)
        | Resource::Wrap(_)
        | Resource::Transit(_)
        | Resource::Database(_)
        | Resource::Lease(_) => vec![""],
        Resource::Cluster
        | Resource::Seal
        | Resource::Principals
        | Resource::Policies
        | Resource::Audit
        | Resource::Alarms
        | Resource::Own
        | Resource::Wraps
        | Resource::KvRoot
        | Resource::Transits
        | Resource::Databases
        | Resource::Leases => Vec::new(),
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slice that a request brings conforms to the schema, and every action of the schema is one of ours.
    #[test]
    fn schema_and_code_speak_of_the_same_things() {
        let language = Language::shared().unwrap();
        let schema = language.validator().schema();
        let subject = Subject {
            id: PrincipalId::new([1; 32]),
            name: "alice".parse().unwrap(),
            groups: vec!["ops".parse().unwrap(), "ops".parse().unwrap()],
            attributes: BTreeMap::from([("team".to_owned(), "red \"one\"".to_owned())]),
        };
        let mut fitting: Vec<String> = Vec::new();
        for action in Action::ALL {
            for resource in [
                "cluster",
                "seal",
                "principal/bob",
                "policy",
                "audit",
                "alarm",
                "self",
                "wrap",
                "kv/a/b/c",
                "transit/orders",
                "database/app/reader",
                "lease",
            ] {
                if let Ok((_, entities)) =
                    language.question(language.caller(&subject).unwrap(), *action, &resource.parse().unwrap())
                {
                    Entities::from_entities(entities.iter().cloned(), Some(schema)).unwrap();
                    fitting.push(action.to_string());
                }
            }
        }
        let asked: Vec<_> = Action::ALL.iter().filter(|action| action.asks_policy()).map(ToString::to_string).collect();
        assert_eq!(fitting, asked, "each action that asks fits exactly one kind of resource");
        let groups: HashSet<_> = Action::ALL.iter().map(|action| action.group()).collect();
        for action in schema.actions() {
            let id = action.id().unescaped().to_owned();
            assert!(groups.contains(id.as_str()) || asked.contains(&id), "{id}");
        }
    }
}
