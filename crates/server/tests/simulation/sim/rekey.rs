//! The admins change while work goes on. Those of before open nothing any more.

use super::Sim;
use super::seal::SESSION;
use crate::history::{Broken, broken};
use crate::play::Kind;
use crate::stage::{ADMIN, ADMIN1, ADMIN2, DAVE, NAMES};
use bulla_crypto::evidence::{self, DocumentDraft};
use bulla_wire::api::NextIngress;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::SealMode;

/// Who may open the seal after a rekey of a cluster with three admins, and how many of them it takes.
const OF_THREE: [(&[usize], u8); 4] = [
    (&[ADMIN, ADMIN1], 2),
    (&[ADMIN, ADMIN1, DAVE], 2),
    (&[ADMIN, DAVE, ADMIN2], 3),
    (&[ADMIN, ADMIN1, ADMIN2, DAVE], 3),
];
/// After one of a cluster with one admin.
const OF_ONE: [(&[usize], u8); 2] = [(&[ADMIN, DAVE], 1), (&[ADMIN, ADMIN1, DAVE], 2)];

/// A document by which others open the seal. A seed has one at most.
pub struct Rekey {
    pub document: Envelope,
    number: u32,
    /// Admins of before who are none afterwards.
    former: Vec<usize>,
    /// It was answered that it is done.
    pub is_done: bool,
}

impl Sim<'_> {
    /// Draws a document up that enough admins of today sign, and sends it.
    pub fn begin_rekey(&mut self) -> Result<(), Broken> {
        self.drain()?;
        self.challenges[ADMIN] = None;
        let Some(reply) = self.admin(ADMIN, "POST", "/v1/seal:rekey", vec![])? else { return Ok(()) };
        if reply.status != 200 {
            return Ok(());
        }
        self.learn();
        let before = self.admins();
        let (after, k) = if before.len() == 1 { self.rng.pick(&OF_ONE) } else { self.rng.pick(&OF_THREE) };
        let former: Vec<usize> = before.iter().copied().filter(|admin| !after.contains(admin)).collect();
        let mut draft = DocumentDraft::of(self.view.newest());
        draft.ingress = reply.json::<NextIngress>().ingress.parse().expect("a recipient");
        (draft.mode, draft.k) = (if k == 1 { SealMode::Any } else { SealMode::Quorum }, k);
        former.iter().for_each(|admin| draft.remove_admin(&self.stage.ids[*admin]));
        after.iter().for_each(|admin| draft.add_admin(&self.stage.records[*admin]));
        let body = self.view.next_document(&draft).expect("a document");
        let needed = usize::from(self.view.newest().body().k);
        let first = self.rng.index(before.len());
        let signers = before.iter().cycle().skip(first).take(needed);
        let keys: Vec<_> = signers.map(|admin| self.stage.people[*admin].identity.signing_key().unwrap()).collect();
        let document = evidence::sign_in_memory(&body, &keys).expect("signatures");
        self.tell(format!("{former:?} shall go, and {after:?} open the seal"));
        self.rekey = Some(Rekey { document, number: body.number, former, is_done: false });
        self.begin(ADMIN, Kind::Rekey)
    }

    /// Before an admin gives a share: a rekey that was answered stands, and now and then a former admin comes. `None` if
    /// power went.
    pub fn look_at_rekey(&mut self) -> Result<Option<()>, Broken> {
        let Some(rekey) = self.rekey.as_ref().filter(|rekey| rekey.is_done) else { return Ok(Some(())) };
        let (number, former) = (rekey.number, rekey.former.clone());
        if !former.is_empty() && self.rng.once_in(2) {
            let former = self.rng.pick(&former);
            self.challenges[former] = None;
            let Some(reply) = self.admin(former, "POST", SESSION, vec![])? else { return Ok(None) };
            if reply.status == 200 {
                return broken("former_admins_open_nothing", format!("{} begins an unsealing", NAMES[former]));
            }
        }
        if self.view.newest().number() < number {
            return broken("acknowledged_is_durable", format!("document {number} is not there any more"));
        }
        Ok(Some(()))
    }
}
