//! What a request is about besides its resource.

use super::text::ResourceText;
use bulla_wire::id::{LeaseId, PrincipalId};
use serde::{Deserialize, Serialize};

/// Which leases somebody wants ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Demanded {
    /// This one.
    Lease(LeaseId),
    /// Those for this resource and all below it.
    Resource(ResourceText),
    /// Those of this principal.
    Principal(PrincipalId),
    /// All.
    All,
}

/// An answer that is encrypted to somebody else, as the content of a wrap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrapTo {
    /// The wrap that the caller may make of it.
    pub resource: ResourceText,
    /// Its one reader.
    pub principal: PrincipalId,
}
