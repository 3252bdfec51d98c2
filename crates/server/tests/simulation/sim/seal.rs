//! Admins open the seal: as many as it takes, in the order of chance, and not with what is no share of theirs.

use super::Sim;
use crate::history::{Broken, broken};
use crate::mutant::Mutant;
use crate::stage::{MALLORY, NAMES};
use bulla_server::node::Phase;
use bulla_testkit::raw::{self, Reply};
use bulla_wire::api::{self, GiveShare, SealState, ShareGiven, UnsealSession};
use bulla_wire::json;
use bulla_wire::signature::{Audience, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use std::collections::BTreeSet;

/// Where admins meet.
pub const SESSION: &str = "/v1/seal/session";

/// How far the admins are.
#[derive(Debug, Default)]
pub struct Meeting {
    session: String,
    given: BTreeSet<usize>,
    /// A share that was made for another meeting, and whose it is.
    old: Option<(usize, GiveShare)>,
    /// The last one that was made for this.
    last: Option<(usize, GiveShare)>,
}

impl Meeting {
    /// What was given counts no more.
    pub fn end(&mut self) {
        self.session.clear();
        self.given.clear();
        self.old = self.last.take().or(self.old.take());
    }

    fn join(&mut self, session: &str) {
        if self.session != session {
            self.end();
            session.clone_into(&mut self.session);
        }
    }
}

impl Sim<'_> {
    /// Admins give their shares until the seal is open. If power goes meanwhile, the node is sealed again afterwards.
    pub fn unseal(&mut self) -> Result<(), Broken> {
        self.drain()?;
        self.learn();
        let mut admins = self.admins();
        while !self.machine().is_unsealed() && !admins.is_empty() {
            let at = self.rng.index(admins.len());
            let admin = admins.swap_remove(at);
            if self.give_share(admin)?.is_none() {
                return Ok(());
            }
        }
        if !self.machine().is_unsealed() {
            return broken("it_starts_again", "all admins gave their shares");
        }
        Ok(())
    }

    /// One admin gives a share, and others may take their time.
    pub fn one_share(&mut self) -> Result<(), Broken> {
        self.drain()?;
        if !self.machine().is_unsealed() {
            self.learn();
            let admins = self.admins();
            let admin = self.rng.pick(&admins);
            self.give_share(admin)?;
        }
        Ok(())
    }

    /// Asks the node for the documents.
    pub fn learn(&mut self) {
        self.view = match self.machine().node.phase() {
            Phase::Sealed(sealed) => sealed.view.clone(),
            Phase::Unsealed(unsealed) => unsealed.directory().view().clone(),
            Phase::Uninitialised => return,
        };
    }

    /// Whose shares open the seal.
    pub fn admins(&self) -> Vec<usize> {
        self.view.newest().body().admins.iter().map(|id| self.stage.person(id)).collect()
    }

    /// A request of an admin, alone, with the challenge of the answer before. `None` if power went.
    pub fn admin(&mut self, who: usize, method: &str, target: &str, body: Vec<u8>) -> Result<Option<Reply>, Broken> {
        let Some(challenge) = self.challenge(who)? else { return Ok(None) };
        let nonce = self.nonce(&challenge);
        let media = if body.is_empty() { EMPTY_MEDIA_TYPE } else { JSON_MEDIA_TYPE };
        let mut request = raw::open(method, target);
        request.headers = vec![("content-type".to_owned(), media.to_owned())];
        request.body = body;
        let audience = Audience::Cluster(self.stage.view.id()).to_string();
        let reply = self.ask(&raw::sign(&self.stage.people[who].identity, &audience, &challenge, request, nonce))?;
        self.challenges[who] = reply.as_ref().map(Reply::challenge);
        Ok(reply)
    }

    /// An admin's share for this session. `None` if power went.
    fn share(&mut self, admin: usize, session: &UnsealSession) -> Result<Option<GiveShare>, Broken> {
        let path = format!("{SESSION}/{}/key", session.id);
        let Some(reply) = self.admin(admin, "GET", &path, vec![])? else { return Ok(None) };
        let key: api::EncryptedShareKey = reply.ok().json();
        Ok(Some(raw::share(&self.view, &self.stage.people[admin], session, &key)))
    }

    fn give(&mut self, who: usize, session: &UnsealSession, share: &GiveShare) -> Result<Option<Reply>, Broken> {
        self.admin(who, "POST", &format!("{SESSION}/{}/share", session.id), json::to_vec(share))
    }

    /// An admin joins the meeting and gives a share. `None` if power went.
    fn give_share(&mut self, admin: usize) -> Result<Option<()>, Broken> {
        self.tell(format!("{} gives a share", NAMES[admin]));
        if self.look_at_rekey()?.is_none() {
            return Ok(None);
        }
        self.challenges[admin] = None;
        let Some(reply) = self.admin(admin, "POST", SESSION, vec![])? else { return Ok(None) };
        let session: UnsealSession = reply.ok().json();
        self.meeting.join(&session.id);
        if self.give_what_is_old(&session)?.is_none() {
            return Ok(None);
        }
        let Some(share) = self.share(admin, &session)? else { return Ok(None) };
        if self.steal(admin, &session, &share)?.is_none() {
            return Ok(None);
        }
        self.meeting.given.insert(admin);
        self.meeting.last = Some((admin, share.clone()));
        let needed = usize::from(self.view.newest().body().k);
        if self.meeting.given.len() >= needed {
            self.unseals += 1;
            self.sealed = false;
        }
        let Some(reply) = self.give(admin, &session, &share)? else { return Ok(None) };
        if reply.status != 200 {
            return broken("it_starts_again", String::from_utf8_lossy(&reply.body));
        }
        let given: ShareGiven = reply.json();
        let Some(given) = self.consent(admin, given)? else { return Ok(None) };
        self.is_given(&given, needed).map(Some)
    }

    /// Looks at what a good share came to.
    fn is_given(&mut self, given: &ShareGiven, needed: usize) -> Result<(), Broken> {
        let counted = self.meeting.given.len();
        if (given.state == SealState::Unsealed && counted < needed) || usize::from(given.progress.have) > counted {
            return broken("only_a_quorum_unseals", format!("{given:?} after {counted} of {needed} shares"));
        }
        if counted < needed {
            return Ok(());
        }
        let Phase::Unsealed(unsealed) = self.machine().node.phase() else {
            return broken("it_starts_again", format!("{given:?} after {counted} of {needed} shares"));
        };
        let epoch = std::mem::replace(&mut self.epoch, unsealed.keys.epoch);
        if unsealed.keys.epoch <= epoch {
            return broken("epoch_only_grows", format!("{} after {epoch}", unsealed.keys.epoch));
        }
        self.meeting.end();
        self.is_opened_again()
    }

    /// Now and then somebody gives a share that was made for an earlier meeting. `None` if power went.
    fn give_what_is_old(&mut self, session: &UnsealSession) -> Result<Option<()>, Broken> {
        let Some((owner, old)) = self.meeting.old.clone() else { return Ok(Some(())) };
        if !self.rng.once_in(4) {
            return Ok(Some(()));
        }
        self.challenges[owner] = None;
        let share = match self.mutant {
            Some(Mutant::OldSharesOpen) if self.admins().contains(&owner) => self.share(owner, session)?,
            _ => Some(old),
        };
        let Some(share) = share else { return Ok(None) };
        let Some(reply) = self.give(owner, session, &share)? else { return Ok(None) };
        if reply.status == 200 {
            return broken("only_good_shares_count", format!("an old share of {} was taken", NAMES[owner]));
        }
        Ok(Some(()))
    }

    /// Now and then somebody else gives an admin's share. `None` if power went.
    fn steal(&mut self, admin: usize, session: &UnsealSession, share: &GiveShare) -> Result<Option<()>, Broken> {
        let others: Vec<usize> = self.admins().into_iter().filter(|other| *other != admin).chain([MALLORY]).collect();
        let thief = self.rng.pick(&others);
        if self.mutant == Some(Mutant::KeysAreStolen) && thief != MALLORY {
            // With the other admin's key too, nobody can tell the thief from that admin.
            self.challenges[thief] = None;
            let Some(share) = self.share(thief, session)? else { return Ok(None) };
            return Ok(self.give(thief, session, &share)?.map(drop));
        }
        if !self.rng.once_in(4) {
            return Ok(Some(()));
        }
        self.challenges[thief] = None;
        let Some(reply) = self.give(thief, session, share)? else { return Ok(None) };
        if reply.status == 200 {
            return broken("only_good_shares_count", format!("{} gave the share of {}", NAMES[thief], NAMES[admin]));
        }
        Ok(Some(()))
    }
}
