//! Databases whose users are made for a lease, and leases. Passwords travel encrypted: those of administering users to
//! the cluster's ingress key, those of made users to the caller's.

use crate::builder::Client;
use crate::call::Call;
use crate::error::{ClientError, demand};
use crate::open::open_secret;
use crate::wrap::{Outgoing, Wrapped};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{
    CertificateCredentials, CertifyCredentials, Credentials, Database, DatabaseAuthority, DatabaseNames, DatabaseRole,
    Done, IssueCredentials, Lease, Leases, PutDatabase, PutDatabaseRole, PutStaticRole, RenewLease, RevokeLeases,
    StaticCredentials, StaticRole,
};
use bulla_wire::encoding::base64url;
use bulla_wire::id::{LeaseId, PrincipalId};
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::name::Name;
use bulla_wire::signature::AGE_MEDIA_TYPE;

/// Largest answer with credentials in bytes: a kilobyte of JSON, and what an age file adds for four recipients.
const MAX_CREDENTIALS_BYTES: usize = 64 * 1024;
/// Largest page of leases in bytes: a thousand of a kilobyte each.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Which leases are wanted; all of them by default.
#[derive(Debug, Clone, Default)]
pub struct LeasesOf {
    /// For this resource and what lies below it, such as `database/app`.
    pub resource: Option<String>,
    /// Of this principal.
    pub principal: Option<PrincipalId>,
    /// Only those whose end failed several times.
    pub stuck: bool,
}

fn issue(database: &Name, role: &Name, ttl_s: Option<u64>) -> Call {
    let call = Call::change("POST", format!("/v1/database/{database}/{role}:issue"), &IssueCredentials { ttl_s });
    Call { limit: MAX_CREDENTIALS_BYTES, ..call }
}

fn static_creds(database: &Name, role: &Name) -> Call {
    Call { limit: MAX_CREDENTIALS_BYTES, ..Call::read(format!("/v1/database/{database}/{role}:creds")) }
}

impl Client {
    /// Writes how a database is reached.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `database_failed` if it was not reached.
    pub async fn database_put(&self, name: &Name, body: &PutDatabase) -> Result<(), ClientError> {
        let call = |body| Call { method: "PUT", changes: true, body, ..Call::read(format!("/v1/database/{name}")) };
        let Done {} = self.to_ingress(&SecretBytes::new(json::to_vec(body)), call).await?;
        Ok(())
    }

    /// How a database is reached, without its password.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database(&self, name: &Name) -> Result<Database, ClientError> {
        self.json(Call::read(format!("/v1/database/{name}"))).await
    }

    /// A page of databases, or of the roles of one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_list(
        &self,
        of: Option<&Name>,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<DatabaseNames, ClientError> {
        let path = of.map_or_else(|| "/v1/database".to_owned(), |name| format!("/v1/database/{name}:list"));
        self.json(Call::read(path).with("after", after).with("limit", limit)).await
    }

    /// Deletes a database without roles and leases.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_delete(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/v1/database/{name}");
        self.call(Call { method: "DELETE", changes: true, ..Call::read(path) }).await.map(drop)
    }

    /// Lets a database be acted on that waits since a restore.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_release(&self, name: &Name) -> Result<(), ClientError> {
        self.call(Call::action(format!("/v1/database/{name}:release"))).await.map(drop)
    }

    /// Has the administering user get a password that only the cluster knows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_rotate(&self, name: &Name) -> Result<(), ClientError> {
        self.call(Call::action(format!("/v1/database/{name}:rotate"))).await.map(drop)
    }

    /// Writes a role of a database.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `bad_template` and the statement at fault.
    pub async fn database_role_put(
        &self,
        database: &Name,
        role: &Name,
        body: &PutDatabaseRole,
    ) -> Result<(), ClientError> {
        self.call(Call::change("PUT", format!("/v1/database/{database}/{role}"), body)).await.map(drop)
    }

    /// A role of a database.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_role(&self, database: &Name, role: &Name) -> Result<DatabaseRole, ClientError> {
        self.json(Call::read(format!("/v1/database/{database}/{role}"))).await
    }

    /// Deletes a role of a database; its users stay until their leases end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_role_delete(&self, database: &Name, role: &Name) -> Result<(), ClientError> {
        let path = format!("/v1/database/{database}/{role}");
        self.call(Call { method: "DELETE", changes: true, ..Call::read(path) }).await.map(drop)
    }

    /// Has a user of a role made, for as long as its lease.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_issue(
        &self,
        database: &Name,
        role: &Name,
        ttl_s: Option<u64>,
    ) -> Result<Credentials, ClientError> {
        let key = self.opening_key()?;
        let answer = self.call(issue(database, role, ttl_s)).await?;
        demand(answer.media == AGE_MEDIA_TYPE, "the credentials are not encrypted")?;
        let plaintext = open_secret(key, &answer.body, MAX_CREDENTIALS_BYTES).await?;
        json::parse(plaintext.expose(), MAX_JSON_BYTES)
            .map_err(|_| ClientError::contradiction("the credentials are malformed"))
    }

    /// As [`Client::database_issue`], with the user and its password encrypted by the cluster to the one recipient of
    /// `outgoing` as a wrap. This client sees nothing of them; the lease is its own, and ends the user whether the wrap
    /// was opened or not.
    ///
    /// # Errors
    /// As [`Client::database_issue`] and [`Client::wrap_create`].
    pub async fn database_issue_to(
        &self,
        database: &Name,
        role: &Name,
        ttl_s: Option<u64>,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        let of = ("database.issue", format!("database/{database}/{role}"));
        self.wrap_read(issue(database, role, ttl_s), of, outgoing).await
    }

    /// Has a user of a role made who logs in by a certificate, for a key whose private half stays with the caller:
    /// `public_key` is the DER of its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_certify(
        &self,
        database: &Name,
        role: &Name,
        public_key: &[u8],
        ttl_s: Option<u64>,
    ) -> Result<CertificateCredentials, ClientError> {
        let body = CertifyCredentials { public_key: base64url(public_key), ttl_s };
        self.json(Call::change("POST", format!("/v1/database/{database}/{role}:certify"), &body)).await
    }

    /// The certificate, PEM, that a database must trust for such logins.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `not_found` before the first role whose users log in by certificate.
    pub async fn database_ca(&self, database: &Name) -> Result<String, ClientError> {
        let authority: DatabaseAuthority = self.json(Call::read(format!("/v1/database/{database}:ca"))).await?;
        Ok(authority.certificate)
    }

    /// A page of the static roles of a database.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_static_list(
        &self,
        database: &Name,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<DatabaseNames, ClientError> {
        let call = Call::read(format!("/v1/database/{database}:static"));
        self.json(call.with("after", after).with("limit", limit)).await
    }

    /// Has the cluster own the password of a user who is there, and rotate it from now on.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `database_failed` if the database did not take the first one.
    pub async fn database_static_put(
        &self,
        database: &Name,
        role: &Name,
        body: &PutStaticRole,
    ) -> Result<(), ClientError> {
        self.call(Call::change("PUT", format!("/v1/database/{database}/{role}:static"), body)).await.map(drop)
    }

    /// A static role, without its password.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_static(&self, database: &Name, role: &Name) -> Result<StaticRole, ClientError> {
        self.json(Call::read(format!("/v1/database/{database}/{role}:static"))).await
    }

    /// Deletes a static role; its user stays, with the password that it has.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_static_delete(&self, database: &Name, role: &Name) -> Result<(), ClientError> {
        let path = format!("/v1/database/{database}/{role}:static");
        self.call(Call { method: "DELETE", changes: true, ..Call::read(path) }).await.map(drop)
    }

    /// The password that the user of a static role has now.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `database_failed` while nobody knows which of two it has.
    pub async fn database_static_creds(&self, database: &Name, role: &Name) -> Result<StaticCredentials, ClientError> {
        let key = self.opening_key()?;
        let answer = self.call(static_creds(database, role)).await?;
        demand(answer.media == AGE_MEDIA_TYPE, "the credentials are not encrypted")?;
        let plaintext = open_secret(key, &answer.body, MAX_CREDENTIALS_BYTES).await?;
        json::parse(plaintext.expose(), MAX_JSON_BYTES)
            .map_err(|_| ClientError::contradiction("the credentials are malformed"))
    }

    /// As [`Client::database_static_creds`], encrypted by the cluster to the one recipient of `outgoing` as a wrap. This
    /// client sees nothing of it.
    ///
    /// # Errors
    /// As [`Client::database_static_creds`] and [`Client::wrap_create`].
    pub async fn database_static_creds_to(
        &self,
        database: &Name,
        role: &Name,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        let of = ("database.static-creds", format!("database/{database}/{role}"));
        self.wrap_read(static_creds(database, role), of, outgoing).await
    }

    /// Has the password of a static role rotated now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn database_static_rotate(&self, database: &Name, role: &Name) -> Result<(), ClientError> {
        self.call(Call::action(format!("/v1/database/{database}/{role}:rotate"))).await.map(drop)
    }

    /// A page of the caller's leases.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leases(&self, after: Option<&str>, limit: Option<u32>) -> Result<Leases, ClientError> {
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/lease") };
        self.json(call.with("after", after).with("limit", limit)).await
    }

    /// A page of everybody's leases.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leases_of(
        &self,
        of: &LeasesOf,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Leases, ClientError> {
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/lease:all") };
        let call = call.with("resource", of.resource.as_ref()).with("principal", of.principal.as_ref());
        let call = call.with("stuck", of.stuck.then_some("true"));
        self.json(call.with("after", after).with("limit", limit)).await
    }

    /// A lease of the caller's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lease(&self, id: &LeaseId) -> Result<Lease, ClientError> {
        self.json(Call::read(format!("/v1/lease/{id}"))).await
    }

    /// Lets a lease of the caller's last longer, from now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lease_renew(&self, id: &LeaseId, ttl_s: Option<u64>) -> Result<Lease, ClientError> {
        self.json(Call::change("POST", format!("/v1/lease/{id}:renew"), &RenewLease { ttl_s })).await
    }

    /// Ends a lease of the caller's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lease_revoke(&self, id: &LeaseId) -> Result<Lease, ClientError> {
        self.json(Call::action(format!("/v1/lease/{id}:revoke"))).await
    }

    /// Ends leases, whoever they belong to.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leases_revoke(&self, what: &RevokeLeases) -> Result<(), ClientError> {
        self.call(Call::change("POST", "/v1/lease:revoke", what)).await.map(drop)
    }
}
