//! JSON bodies about leases.

use crate::id::{LeaseId, PrincipalId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// What it is for is being made, or nobody knows whether it was.
    Pending,
    /// It is there.
    Active,
    /// It is being taken away.
    Revoking,
    /// It could not be taken away several times, or its end is overdue; it is tried again.
    Stuck,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Whose it is.
    pub owner: PrincipalId,
    /// What it is for, such as `database/app/reader`.
    pub resource: String,
    /// The user who is dropped at its end.
    pub user: String,
    /// Where it stands.
    pub state: LeaseState,
    /// When it began, Unix milliseconds.
    pub issued_ms: u64,
    /// When it ends unless it is renewed, Unix milliseconds.
    pub expires_ms: u64,
    /// When it ends whatever happens, Unix milliseconds.
    pub max_ms: u64,
    /// How often taking it away failed.
    pub attempts: u32,
    /// Why it failed last.
    pub error: Option<String>,
    /// When the next thing happens to it by itself, Unix milliseconds.
    pub due_ms: u64,
}

/// `GET /v1/lease`, `GET /v1/lease:all`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// The leases of this page; a filter may leave it empty though more follow.
    pub leases: Vec<Lease>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// `POST /v1/lease/{lease}:renew`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewLease {
    /// How long it lasts from now, in seconds; as long as at first if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// `POST /v1/lease:revoke`: which leases are taken away, whoever they belong to. Exactly one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeLeases {
    /// This one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Those for this resource and all below it, such as `database/app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Those of this principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalId>,
    /// All, if true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

impl RevokeLeases {
    /// One lease.
    pub fn lease(id: LeaseId) -> Self {
        Self { lease: Some(id), ..Self::default() }
    }
    /// Those for a resource and all below it.
    pub fn resource(resource: impl Into<String>) -> Self {
        Self { resource: Some(resource.into()), ..Self::default() }
    }
    /// Those of a principal.
    pub fn principal(principal: PrincipalId) -> Self {
        Self { principal: Some(principal), ..Self::default() }
    }
    /// All.
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }
}
