//! Databases and leases: what is asked for, and what of it is done outside of the store.

use super::{Given, Op, bad_query, cursor, malformed, parse, parsed, resource};
use crate::database::authority::{self, ClientKey};
use crate::reply::internal;
use crate::route::{Endpoint, Param, Query};
use bulla_core::action::RoleName;
use bulla_core::engine::database::{self, Connection, Listed, static_role};
use bulla_core::engine::lease;
use bulla_core::operation::{Context, Refusal};
use bulla_wire::api::{CertifyCredentials, IssueCredentials, PutDatabase, PutDatabaseRole, RenewLease, RevokeLeases};
use bulla_wire::id::{LeaseId, PrincipalId};
use bulla_wire::json::{self, MAX_JSON_BYTES};

/// The fields of a database's configuration, which errors may name; they repeat nothing of a value.
const DATABASE_FIELDS: &[&str] =
    &["engine", "host", "port", "database", "user", "password", "owner", "tls", "ca", "connections", "check", "moved"];

/// What needs a database besides records.
pub enum Outside {
    /// Write how a database is reached, once it was reached if that is wanted.
    Configure {
        /// How, or what is wrong with that, which whoever may write it is told.
        put: Result<Box<database::Configure>, Refusal>,
        /// Whether it must be reached first.
        check: bool,
    },
    /// Have the administering user's password changed.
    Rotate(database::BeginRotation),
    /// Make a user.
    Issue {
        /// Of which role.
        role: RoleName,
        /// For how long, in seconds.
        ttl_s: Option<u64>,
        /// The key for which it gets a certificate, if it has no password.
        key: Option<Box<ClientKey>>,
    },
    /// Let a user live longer.
    Renew(lease::PlanRenewal),
    /// Something about a static role.
    Static(Static),
}

/// What waits until no rotation of a static role's password is under way.
pub enum Static {
    /// Write it, and rotate for the first time.
    Put(static_role::PutStatic),
    /// Forget it.
    Delete(static_role::DeleteStatic),
    /// Tell its password.
    Password(static_role::ReadPassword),
    /// Rotate now.
    Rotate(static_role::Ask),
}

impl Static {
    /// Which it is about.
    pub fn role(&self) -> &RoleName {
        match self {
            Self::Put(put) => &put.role,
            Self::Delete(delete) => &delete.role,
            Self::Password(read) => &read.role,
            Self::Rotate(ask) => &ask.role,
        }
    }
}

impl Given {
    fn role(self) -> Result<RoleName, Refusal> {
        match self.0 {
            Some(Param::Role(role)) => Ok(role),
            _ => Err(super::absent("role")),
        }
    }
    fn lease(self) -> Result<LeaseId, Refusal> {
        match self.0 {
            Some(Param::Lease(id)) => Ok(id),
            _ => Err(super::absent("lease id")),
        }
    }
}

pub(super) fn database_op(
    endpoint: Endpoint,
    given: Given,
    query: &Query,
    body: &[u8],
    context: &Context<'_>,
) -> Result<Op, Refusal> {
    let list = |of| -> Result<Op, Refusal> {
        let limit = query.limit().map_err(|e| bad_query(&e))?;
        Ok(Op::DatabaseList(database::List { of, after: cursor(query, "after")?, limit }))
    };
    Ok(match endpoint {
        Endpoint::DatabaseList => list(Listed::Databases)?,
        Endpoint::DatabaseRoles => list(Listed::Roles(given.name()?))?,
        Endpoint::DatabaseStaticList => list(Listed::Static(given.name()?))?,
        Endpoint::DatabaseStaticRead => Op::DatabaseStaticRead(static_role::ReadStatic { role: given.role()? }),
        Endpoint::DatabaseStaticPut
        | Endpoint::DatabaseStaticDelete
        | Endpoint::DatabaseStaticCreds
        | Endpoint::DatabaseStaticRotate => Op::Outside(Outside::Static(static_op(endpoint, given.role()?, body)?)),
        Endpoint::DatabaseRead => Op::DatabaseRead(database::Read { name: given.name()? }),
        Endpoint::DatabasePut => {
            let body: PutDatabase =
                json::parse_secret(body, MAX_JSON_BYTES, DATABASE_FIELDS).map_err(|e| malformed(&e))?;
            let (check, moved) = (body.check, body.moved);
            let connection = Connection::new(given.name()?, body, context.now.unix_ms);
            let put = connection.map(|connection| Box::new(database::Configure { connection, moved }));
            Op::Outside(Outside::Configure { put, check })
        }
        Endpoint::DatabaseDelete => Op::DatabaseDelete(database::Delete { name: given.name()? }),
        Endpoint::DatabaseRelease => Op::DatabaseRelease(database::Release { name: given.name()? }),
        Endpoint::DatabaseRotate => Op::Outside(Outside::Rotate(database::BeginRotation { name: given.name()? })),
        Endpoint::DatabaseRoleRead => Op::DatabaseRoleRead(database::ReadRole { role: given.role()? }),
        Endpoint::DatabaseRolePut => Op::DatabaseRolePut(Box::new(put_role(given.role()?, parse(body)?)?)),
        Endpoint::DatabaseAuthority => Op::DatabaseAuthority(database::ReadAuthority { database: given.name()? }),
        Endpoint::DatabaseRoleDelete => Op::DatabaseRoleDelete(database::DeleteRole { role: given.role()? }),
        Endpoint::DatabaseCertify => {
            let CertifyCredentials { public_key, ttl_s } = parse(body)?;
            let key = Some(Box::new(ClientKey::parse(&public_key)?));
            Op::Outside(Outside::Issue { role: given.role()?, ttl_s, key })
        }
        _ => {
            let IssueCredentials { ttl_s } = parse(body)?;
            Op::Outside(Outside::Issue { role: given.role()?, ttl_s, key: None })
        }
    })
}

/// With an authority for the database, in case that it has none and the role needs one.
fn put_role(role: RoleName, body: PutDatabaseRole) -> Result<database::PutRole, Refusal> {
    let make = || authority::make(role.database()).map_err(|fault| internal(&fault, "database"));
    let authority = body.certificate.then(make).transpose()?;
    Ok(database::PutRole { role, body, authority })
}

fn static_op(endpoint: Endpoint, role: RoleName, body: &[u8]) -> Result<Static, Refusal> {
    Ok(match endpoint {
        Endpoint::DatabaseStaticPut => Static::Put(static_role::PutStatic::new(role, parse(body)?)?),
        Endpoint::DatabaseStaticDelete => Static::Delete(static_role::DeleteStatic { role }),
        Endpoint::DatabaseStaticCreds => Static::Password(static_role::ReadPassword { role }),
        _ => Static::Rotate(static_role::Ask { role, due: None }),
    })
}

pub(super) fn lease_op(endpoint: Endpoint, given: Given, query: &Query, body: &[u8]) -> Result<Op, Refusal> {
    let limit = query.limit().map_err(|e| bad_query(&e))?;
    Ok(match endpoint {
        Endpoint::LeaseList => Op::LeaseList(lease::List { after: cursor(query, "after")?, limit }),
        Endpoint::LeaseListAll => Op::LeaseListAll(lease::ListAll {
            resource: resource(query)?.map(|resource| resource.to_string()),
            principal: parsed::<PrincipalId>(query, "principal", "a principal's id")?,
            stuck: parsed::<bool>(query, "stuck", "true or false")?.unwrap_or(false),
            after: cursor(query, "after")?,
            limit,
        }),
        Endpoint::LeaseRevokeMany => Op::LeaseDemand(lease::Demand::new(parse::<RevokeLeases>(body)?)?),
        Endpoint::LeaseRead => Op::LeaseRead(lease::Read { id: given.lease()? }),
        Endpoint::LeaseRevoke => Op::LeaseRevoke(lease::Revoke { id: given.lease()? }),
        _ => {
            let RenewLease { ttl_s } = parse(body)?;
            Op::Outside(Outside::Renew(lease::PlanRenewal { id: given.lease()?, ttl_s }))
        }
    })
}
