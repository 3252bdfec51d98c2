//! Requests for snapshots: hold a state, give its pages.

use super::Request;
use crate::drive::{DriveError, Driven, Once};
use crate::failpoint;
use crate::reply::internal;
use crate::snapshot::{SessionError, begin};
use crate::unsealed::lock;
use bulla_core::operation::{Refusal, Reply};
use bulla_wire::error::Code;

impl Request<'_> {
    /// Holds a state. A repeated request is told of the one that it began, as long as that is there.
    pub(super) async fn begin_snapshot(&self, once: Option<&Once<'_>>) -> Result<Driven, DriveError> {
        let (owner, asked) = (self.verified.subject.id, once.map(|once| (once.key, once.request)));
        let begun = lock(&self.unsealed.snapshots).begun_by(asked);
        let begun = match begun {
            Some(begun) => Ok(begun),
            None if self.first_time(once)? => begin(self.node, self.unsealed, owner, asked).await,
            None => Err(SessionError::Unknown),
        };
        if let (Err(_), Some(once)) = (&begun, once) {
            // Nothing was begun, so whoever asks again is not told of it.
            self.node.forget(&once.key);
        }
        Ok(Driven::said(begun.map(|begun| Reply::json(&begun)).map_err(|error| self.session_refusal(&error))))
    }

    pub(super) async fn snapshot_page(&self, id: &str, page: u64) -> Result<Driven, DriveError> {
        failpoint::hit(failpoint::SNAPSHOT_PAGE);
        let now_ms = self.node.parts.clock.monotonic_ms();
        let session = lock(&self.unsealed.snapshots).get(id, &self.verified.subject.id, now_ms);
        let made = match session {
            Some(session) => session.page(self.node, self.unsealed, page).await,
            None => Err(SessionError::Unknown),
        };
        match made {
            Ok(bytes) => {
                let room = self.bodies.hold(bytes.len()).map_err(|_| DriveError::Overloaded)?;
                Ok(Driven { room: Some(room), ..Driven::said(Ok(Reply::Snapshot(bytes.to_vec()))) })
            }
            Err(error) => Ok(Driven::said(Err(self.session_refusal(&error)))),
        }
    }

    fn session_refusal(&self, error: &SessionError) -> Refusal {
        match error {
            SessionError::Unknown => {
                Refusal::new(Code::UnknownSession, "the snapshot ended, or never was").hint("begin a new one")
            }
            SessionError::TooMany => {
                let refusal = Refusal::new(Code::Overloaded, "two snapshots are being taken already");
                refusal.hint("wait until one of them ends")
            }
            SessionError::Page { next } => {
                Refusal::new(Code::VersionMismatch, format!("the next page is {next}")).field("page")
            }
            SessionError::Blocked(reason) => Refusal::new(Code::AuditBlocked, format!("the audit log: {reason}")),
            SessionError::Fault(detail) => internal(detail, "snapshot"),
        }
    }
}
