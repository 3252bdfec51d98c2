//! Which lines somebody asked for.

use super::about::Demanded;
use super::line::{Body, Line};
use super::text::{Names, ResourceText};
use crate::action::{Action, Resource};
use bulla_wire::id::PrincipalId;

/// What `audit show` looks for. Every part that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The resource, in each spelling that it may have in the lines.
    resources: Vec<ResourceText>,
    /// Whose requests.
    principals: Vec<PrincipalId>,
    /// What was asked for.
    actions: Vec<Action>,
}

impl Filter {
    /// Lines about this resource. Names may have been shown otherwise in older lines, so give every way that was
    /// configured: a resource is found in clear and under each key.
    #[must_use]
    pub fn resource<'a>(mut self, resource: &Resource, names: impl IntoIterator<Item = &'a Names>) -> Self {
        self.resources.push(Names::Clear.resource(resource));
        // A hidden name fits any, so it finds none.
        let shown = names.into_iter().filter(|names| !matches!(names, Names::Hidden));
        self.resources.extend(shown.map(|names| names.resource(resource)));
        self
    }

    /// Lines of requests by this principal or about its leases, of these leases, alarms for it, or the bundle that admitted it;
    /// called twice: by either.
    #[must_use]
    pub fn principal(mut self, principal: PrincipalId) -> Self {
        self.principals.push(principal);
        self
    }

    /// Lines of requests for this action; called twice: for either.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// Whether the line is one of those.
    pub fn matches(&self, line: &Line) -> bool {
        let Self { resources, principals, actions } = self;
        let (resource, principal, action) = match &line.body {
            Body::Request(request) => {
                (request.resource.as_ref(), Some(request.principal), request.action.as_ref().map(|a| a.as_str()))
            }
            Body::Alarm { resource, principal, .. } => (resource.as_ref(), *principal, None),
            Body::Lease { resource, principal, .. } => (Some(resource), Some(*principal), None),
            Body::PasswordRotated { resource, .. } => (Some(resource), None, None),
            _ => (None, None, None),
        };
        // What was demanded of many is what it was about too.
        let demanded = match &line.body {
            Body::Request(request) => request.demanded.as_deref(),
            _ => None,
        };
        let (demanded_resource, demanded_of) = match demanded {
            Some(Demanded::Resource(resource)) => (Some(resource), None),
            Some(Demanded::Principal(principal)) => (None, Some(principal)),
            _ => (None, None),
        };
        let wrap_to = match &line.body {
            Body::Request(request) => request.wrap_to.as_deref(),
            _ => None,
        };
        let bundled = match &line.body {
            Body::Initialised { bundle: Some(bundle), .. } => bundle.principals.as_slice(),
            _ => &[],
        };
        let is_about = |resource: Option<&ResourceText>| resource.is_some_and(|resource| resources.contains(resource));
        (resources.is_empty()
            || is_about(resource)
            || is_about(demanded_resource)
            || is_about(wrap_to.map(|to| &to.resource)))
            && (principals.is_empty()
                || principal.is_some_and(|principal| principals.contains(&principal))
                || demanded_of.is_some_and(|principal| principals.contains(principal))
                || wrap_to.is_some_and(|to| principals.contains(&to.principal))
                || bundled.iter().any(|principal| principals.contains(principal)))
            && (actions.is_empty() || action.is_some_and(|text| actions.iter().any(|action| action.as_str() == text)))
    }
}
