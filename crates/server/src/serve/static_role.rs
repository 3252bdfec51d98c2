//! Static roles: a user's password is rotated, for somebody who waits for it. What is not done then goes on in
//! [`crate::lease`].

use super::Request;
use super::outside::failed;
use crate::database::{DatabaseError, Job, Turn, User, WHOLE_TIMEOUT};
use crate::dispatch::Static;
use crate::drive::{DriveError, Driven, Once};
use crate::failpoint;
use bulla_core::action::{Action, Resource};
use bulla_core::engine::database::static_role::{Ask, Asked, Held, Missed, PutStatic, StaticRole, Stored, Withdraw};
use bulla_core::engine::database::{Connection, Password};
use bulla_core::operation::Reply;
use bulla_wire::api::Done;

/// The user of a static role, with the password that it gets next.
pub fn user(role: &StaticRole) -> User<'_> {
    let password = role.next.as_ref().map(Password::expose).unwrap_or_default();
    User { name: &role.user, password, expires_ms: 0 }
}

impl Request<'_> {
    /// Waits for its turn at a static role, before it is decided: who loses the right meanwhile gets nothing.
    pub(super) async fn await_turn(&mut self, op: &Static, action: Action, resource: &Resource) {
        // Who may not ask does not wait, or the time of the refusal would tell.
        if !self.may(action, resource) {
            return;
        }
        let rotations = &self.unsealed.rotations;
        if let Static::Password(read) = op {
            let waiting = tokio::time::timeout(WHOLE_TIMEOUT, rotations.look(&read.role));
            self.look = self.aside(waiting).await.ok();
        } else {
            let waiting = tokio::time::timeout(WHOLE_TIMEOUT, rotations.wait(op.role()));
            self.turn = self.aside(waiting).await.ok();
        }
    }

    pub(super) async fn static_role(&self, op: &Static, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        match (op, &self.turn, &self.look) {
            (Static::Put(put), Some(turn), _) => self.put_static(put, turn, once).await,
            (Static::Delete(delete), Some(_), _) => self.drive(delete, once).await,
            (Static::Password(read), _, Some(_)) => self.drive(read, once).await,
            (Static::Rotate(ask), Some(turn), _) => self.rotate_static(ask, turn, once).await.map(|(driven, _)| driven),
            _ => Err(DriveError::Busy),
        }
    }

    /// Stores a role, and rotates for the first time: what the database refuses is not stored.
    async fn put_static(&self, put: &PutStatic, turn: &Turn, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        let (stored, mut driven) = match self.step::<Stored>(put, once).await? {
            Ok(stored) => stored,
            Err(said) => return Ok(*said),
        };
        driven.result = Ok(Reply::json(&Done {}));
        if !stored.first || driven.repeated {
            return Ok(driven);
        }
        let ask = Ask { role: put.role.clone(), due: None };
        let (rotated, missed) = self.rotate_static(&ask, turn, None).await?;
        driven.committed = rotated.committed.or(driven.committed);
        driven.result = rotated.result;
        if let Some((role, error)) = missed
            && is_certain(&error)
        {
            let withdraw = Withdraw { role: put.role.clone(), id: role.id };
            driven.committed = self.drive(&withdraw, None).await?.committed.or(driven.committed);
            let hint = "nothing is stored; the user must be there, and the administering user may change its password";
            driven.result = Err(failed(&error).hint(hint));
        }
        Ok(driven)
    }

    /// Rotates a password now; with the role and the error if the database did not take it.
    async fn rotate_static(
        &self,
        ask: &Ask,
        _turn: &Turn,
        once: Option<&Once<'_>>,
    ) -> Result<(Driven, Option<(StaticRole, DatabaseError)>), DriveError> {
        let (Asked { of }, mut driven) = match self.step::<Asked>(ask, once).await? {
            Ok(asked) => asked,
            Err(said) => return Ok((*said, None)),
        };
        driven.result = Ok(Reply::json(&Done {}));
        let Some((role, connection)) = of else { return Ok((driven, None)) };
        match self.set(&connection, &role).await {
            Ok(()) => {
                failpoint::hit(failpoint::STATIC_AFTER_SET);
                let Some(password) = role.next else { return Ok((driven, None)) };
                let held = self.drive(&Held { role: ask.role.clone(), id: role.id, password }, None).await?;
                driven.committed = held.committed.or(driven.committed);
                Ok((driven, None))
            }
            Err(error) => {
                let missed = missed(ask, &role, &error);
                driven.committed = self.drive(&missed, None).await?.committed.or(driven.committed);
                driven.result =
                    Err(failed(&error).hint("it is tried again by itself; `bulla database static get` shows it"));
                Ok((driven, Some((role, error))))
            }
        }
    }

    async fn set(&self, connection: &Connection, role: &StaticRole) -> Result<(), DatabaseError> {
        failpoint::hit(failpoint::STATIC_BEFORE_SET);
        self.aside(self.unsealed.databases.run(connection, Job::Password, &[], user(role))).await
    }
}

/// Whether the database did not take the password, for certain.
fn is_certain(error: &DatabaseError) -> bool {
    !matches!(error, DatabaseError::Silent(_))
}

/// What is written of a rotation that failed.
pub fn missed(ask: &Ask, role: &StaticRole, error: &DatabaseError) -> Missed {
    Missed { role: ask.role.clone(), id: role.id, error: error.to_string(), certain: is_certain(error) }
}
