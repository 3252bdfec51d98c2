//! Operations with an effect in a database. The intent is committed before, the word that it happened after; what a
//! crash leaves between is taken up by `server::lease`.

use super::Request;
use crate::database::authority::{self, ClientKey};
use crate::database::{Client, DatabaseError, Job, User};
use crate::dispatch::Outside;
use crate::drive::{DriveError, Driven, Once};
use crate::failpoint;
use crate::unsealed::{Unsealed, lock};
use bulla_core::action::RoleName;
use bulla_core::audit::LeaseEvent;
use bulla_core::engine::database::{self, Password};
use bulla_core::engine::lease::{self, Lease};
use bulla_core::operation::{Fault, Operation, Refusal, Reply, parse_record};
use bulla_crypto::digest::sha256;
use bulla_wire::api::Done;
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use serde::de::DeserializeOwned;

/// What a step of several came to: its result for the next one, or what is said to the caller at once.
pub(super) type Step<T> = Result<(T, Driven), Box<Driven>>;

impl<'a> Request<'a> {
    /// Waits for a database without standing in the way of a sealing or a rekey.
    pub(super) async fn aside<T>(&self, asked: impl Future<Output = T>) -> T {
        let unsealed: &'a Unsealed = self.unsealed;
        drop(lock(&self.under_way).take());
        let answered = asked.await;
        *lock(&self.under_way) = unsealed.in_flight.acquire().await.ok();
        answered
    }

    pub(super) async fn outside(&self, op: &Outside, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        match op {
            Outside::Configure { put: Ok(put), check } => self.configure(put, *check, once).await,
            Outside::Configure { put: Err(refusal), .. } => Ok(Driven::said(Err(refusal.clone()))),
            Outside::Rotate(begin) => self.rotate(begin, once).await,
            Outside::Issue { role, ttl_s, key } => self.issue(role, *ttl_s, key.as_deref(), once).await,
            Outside::Renew(plan) => self.renew(plan, once).await,
            Outside::Static(op) => self.static_role(op, once).await,
        }
    }

    /// Drives an operation whose reply is for the next step and not for the caller.
    pub(super) async fn step<T: DeserializeOwned>(
        &self,
        operation: &(dyn Operation + Sync),
        once: Option<&Once<'_>>,
    ) -> Result<Step<T>, DriveError> {
        let driven = self.drive(operation, once).await?;
        let parsed = match &driven.result {
            Ok(Reply::Secret(bytes)) => parse_record("step", bytes)?,
            Ok(_) => return Err(Fault::Key("step of an operation").into()),
            Err(_) => return Ok(Err(Box::new(driven))),
        };
        Ok(Ok((parsed, driven)))
    }

    async fn configure(
        &self,
        put: &database::Configure,
        check: bool,
        once: Option<&Once<'_>>,
    ) -> Result<Driven, DriveError> {
        if check && let Err(error) = self.aside(Client::connect_and_check(&put.connection)).await {
            let refusal = failed(&error).hint("correct it, or store it unchecked (--no-check)");
            return Ok(Driven::said(Err(refusal)));
        }
        self.drive(put, once).await
    }

    /// Gives the administering user a new password. Both candidates are committed before the database is asked, so one
    /// of them works whatever happens.
    async fn rotate(&self, begin: &database::BeginRotation, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        let (connection, mut driven) = match self.step::<database::Connection>(begin, once).await? {
            Ok(begun) => begun,
            Err(said) => return Ok(*said),
        };
        driven.result = Ok(Reply::json(&Done {}));
        let Some(next) = connection.next.clone() else { return Ok(driven) };
        failpoint::hit(failpoint::ROTATE_BEFORE_SET);
        if let Err(error) = self.aside(Client::rotate(&connection, &next)).await {
            let hint = "nothing is lost: both passwords are kept and tried; rotate again once the database answers";
            driven.result = Err(failed(&error).hint(hint));
            return Ok(driven);
        }
        failpoint::hit(failpoint::ROTATE_AFTER_SET);
        let end = database::EndRotation { name: begin.name.clone(), password: next };
        let ended = self.drive(&end, None).await?;
        driven.committed = ended.committed.or(driven.committed);
        if let Err(refusal) = ended.result {
            driven.result = Err(refusal);
        }
        Ok(driven)
    }

    async fn issue(
        &self,
        role: &RoleName,
        ttl_s: Option<u64>,
        key: Option<&ClientKey>,
        once: Option<&Once<'_>>,
    ) -> Result<Driven, DriveError> {
        let Some(nonce) = once else { return Err(Fault::Key("nonce of a lease").into()) };
        // A repeated request finds its lease by this, and nobody else's request can have the same.
        let digest = sha256(&[b"bulla/v1/lease", nonce.key.as_bytes()]);
        let id = LeaseId::new(digest.first_chunk().copied().unwrap_or_default());
        let leases_each = self.node.parts.leases_each;
        let begin = lease::Begin { id, role: role.clone(), ttl_s, certificate: key.is_some(), leases_each };
        let turn = self.unsealed.counting(&self.verified.subject.id).await;
        let (mut begun, driven) = match self.step::<lease::Begun>(&begin, once).await? {
            Ok(begun) => begun,
            Err(said) => return Ok(*said),
        };
        drop(turn);
        if !begun.fresh {
            return match begun.lease.state {
                // An earlier attempt makes the user just now, or died of it.
                lease::State::Pending => Err(DriveError::Busy),
                _ => self.drive(&lease::Activate { lease: begun.lease }, None).await,
            };
        }
        if let Some(key) = key {
            begun.lease.certificate = Some(certificate(&begun, key)?);
        }
        let noted = match self.unsealed.note_lease(LeaseEvent::Begun, &begun.lease) {
            Some(line) => line.await.is_ok(),
            None => false,
        };
        if !noted {
            let blocked = DriveError::Store("the audit log is blocked".to_owned());
            return self.drive(&lease::Ended { id }, None).await.and(Err(blocked));
        }
        failpoint::hit(failpoint::LEASE_BEFORE_EFFECT);
        let user = User {
            name: &begun.lease.user,
            password: begun.lease.password.as_ref().map(Password::expose).unwrap_or_default(),
            expires_ms: begun.lease.expires_ms,
        };
        let made = self.aside(self.unsealed.databases.run(&begun.connection, Job::Create, &begun.creation, user)).await;
        if let Err(error) = made {
            return self.not_made(&begun.lease, &error, driven).await;
        }
        failpoint::hit(failpoint::LEASE_AFTER_EFFECT);
        let mut active = self.drive(&lease::Activate { lease: begun.lease }, None).await?;
        active.committed = active.committed.or(driven.committed);
        Ok(active)
    }

    /// The user was not made, or nobody knows: the lease goes, or drops whatever there is.
    async fn not_made(&self, lease: &Lease, error: &DatabaseError, mut driven: Driven) -> Result<Driven, DriveError> {
        let ended = if error.before_anything() {
            let _turn = self.unsealed.counting(&lease.owner).await;
            let ended = self.drive(&lease::Ended { id: lease.id }, None).await;
            if ended.is_ok() {
                drop(self.unsealed.note_lease(LeaseEvent::Ended, lease));
            }
            ended
        } else {
            let answered = matches!(error, DatabaseError::Refused(_));
            self.drive(&lease::Doubt { lease: lease.clone(), error: error.to_string(), answered }, None).await
        };
        match ended {
            Ok(ended) => driven.committed = ended.committed.or(driven.committed),
            // It is pending, and ends by that.
            Err(error) => {
                tracing::warn!(%error, lease = %lease.id, "a lease whose user was not made stays for a while")
            }
        }
        driven.result = Err(failed(error).hint("whoever configured the database or its role must look at it"));
        Ok(driven)
    }

    async fn renew(&self, plan: &lease::PlanRenewal, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        let (renewal, _) = match self.step::<lease::Renewal>(plan, None).await? {
            Ok(planned) => planned,
            Err(said) => return Ok(*said),
        };
        let lease::Renewal { lease, connection, expires_ms } = renewal;
        let user = User { name: &lease.user, password: "", expires_ms };
        let renewed = self.aside(self.unsealed.databases.run(&connection, Job::Renew, &lease.renewal, user)).await;
        if let Err(error) = renewed {
            let refusal = failed(&error).hint("the lease ends as before; renew it again");
            return Ok(Driven::said(Err(refusal)));
        }
        failpoint::hit(failpoint::LEASE_AFTER_RENEWAL);
        self.drive(&lease::Renewed { id: plan.id, expires_ms }, once).await
    }
}

/// The certificate of a user who is about to be made, for as long as the lease.
fn certificate(begun: &lease::Begun, key: &ClientKey) -> Result<String, Fault> {
    let lease::Begun { lease, authority, .. } = begun;
    let authority = authority.as_ref().ok_or(Fault::Key("authority of a database"))?;
    authority::sign(authority, &lease.user, key, lease.issued_ms, lease.expires_ms)
}

pub(super) fn failed(error: &DatabaseError) -> Refusal {
    Refusal::new(Code::DatabaseFailed, error.to_string())
}
