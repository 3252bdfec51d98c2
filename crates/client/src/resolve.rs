//! From a name to keys: record ← admission ← document ← pin. The server's word is not asked.

use crate::builder::Client;
use crate::error::{ADMISSION, ClientError, demand};
use bulla_crypto::evidence::{ClusterView, EvidenceError, Record, RecordChain, VerifiedAdmission, verify_admission};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{Principal, PrincipalSummary};
use bulla_wire::error::{Code, ErrorEntry};
use bulla_wire::id::PrincipalId;
use bulla_wire::name::Name;
use std::sync::Arc;

/// How somebody is named.
const FORMS: &str = "give a name, sha256:… or age1…";

/// A principal whose name and keys were verified.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// All its records.
    pub chain: RecordChain,
    /// The admission that binds its name; `None` if the newest document does.
    pub admission: Option<VerifiedAdmission>,
    /// The server refuses its keys. That is the server's word alone.
    pub disabled: bool,
}

impl Resolved {
    /// The newest record.
    pub fn record(&self) -> &Record {
        self.chain.newest()
    }
    /// The name.
    pub fn name(&self) -> &Name {
        self.record().name()
    }
    /// The id.
    pub fn principal(&self) -> PrincipalId {
        self.chain.principal()
    }
    /// Whether what binds the name holds by this view, which may be newer than the one it was resolved by.
    pub(crate) fn holds(&self, view: &ClusterView) -> bool {
        let admission = self.admission.as_ref();
        admission.is_some_and(|admission| verify_admission(view, &admission.envelope, self.record()).is_ok())
            || view.standing(&self.principal()).is_some_and(|record| record.digest() == self.record().digest())
    }
    /// Whom to encrypt to.
    pub fn recipients(&self) -> Vec<&Recipient> {
        self.record().recipients()
    }
}

/// The caller itself.
#[derive(Debug)]
pub(crate) struct Me {
    pub resolved: Resolved,
}

impl Client {
    /// Finds whom `text` means: a name, a principal id `sha256:…`, or an age or SSH recipient that one principal
    /// holds. Refuses whatever contradicts the pin or what this client saw before, so nothing was encrypted to it.
    ///
    /// # Errors
    /// [`ClientError::Known`] for changed keys; [`ClientError::Untrusted`] for a record or admission that does not
    /// hold; [`ClientError::Refused`] with `not_found` or `unknown_recipient`.
    pub async fn resolve(&self, text: &str) -> Result<Resolved, ClientError> {
        if let Ok(id) = text.parse::<PrincipalId>() {
            return self.resolve_id(&id).await;
        }
        if text.starts_with("age1") || text.starts_with("ssh-") {
            let recipient: Recipient = text.parse().map_err(|error| ClientError::input(format!("{error}"), FORMS))?;
            return self.resolve_recipient(&recipient).await;
        }
        let unfit = |error| ClientError::input(format!("{text:?} is no name: {error}"), FORMS);
        let name: Name = text.parse().map_err(unfit)?;
        self.resolve_name(&name).await
    }

    /// Finds the principal with this name.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_name(&self, name: &Name) -> Result<Resolved, ClientError> {
        let told = self.principal(name).await?;
        demand(told.name == *name, "the server answers with another name than was asked")?;
        let resolved = self.resolved(&told).await?;
        demand(resolved.name() == name, "the server answers with another name's record")?;
        Ok(resolved)
    }

    /// Finds the principal with this id.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_id(&self, id: &PrincipalId) -> Result<Resolved, ClientError> {
        let found = self.principals(Some(id), None, None, Some(1)).await?.principals;
        let found = found
            .into_iter()
            .find(|summary| summary.id == *id)
            .ok_or_else(|| absent(Code::NotFound, "no principal has this id"))?;
        let resolved = self.resolve_name(&found.name).await?;
        demand(resolved.principal() == *id, "the server answers with another principal's record")?;
        Ok(resolved)
    }

    async fn resolve_recipient(&self, recipient: &Recipient) -> Result<Resolved, ClientError> {
        let found = self.principals(None, Some(&recipient.digest()), None, Some(2)).await?.principals;
        let [PrincipalSummary { name, .. }] = found.as_slice() else {
            return Err(absent(Code::UnknownRecipient, "no admitted principal holds this recipient"));
        };
        let resolved = self.resolve_name(name).await?;
        let holds = resolved.recipients().contains(&recipient);
        demand(holds, "the server names a principal that does not hold this recipient")?;
        Ok(resolved)
    }

    /// Verifies what the server holds about a principal, and remembers it.
    pub(crate) async fn resolved(&self, told: &Principal) -> Result<Resolved, ClientError> {
        let chain = RecordChain::open(&told.records).map_err(ClientError::statement("the principal's record"))?;
        let mut trust = self.trust().await?;
        let mut admission = admission(&trust.view, told, &chain);
        if matches!(admission, Err(EvidenceError::DocumentAhead { .. })) {
            self.cluster().await?;
            trust = self.trust().await?;
            admission = self::admission(&trust.view, told, &chain);
        }
        let admission = admission.map_err(ClientError::statement(ADMISSION))?;
        let said = admission.as_ref().map(|verified| &verified.admission);
        trust.memory.know(chain.newest().name(), &chain, said)?;
        Ok(Resolved { chain, admission, disabled: told.disabled })
    }

    /// The caller's own record, which must hold the key that signs.
    pub(crate) async fn me(&self) -> Result<Arc<Me>, ClientError> {
        if let Some(me) = self.held().me.clone() {
            return Ok(me);
        }
        let whoami = self.whoami().await?;
        let resolved = self.resolve_name(&whoami.principal.name).await?;
        let key = self.key()?.public_key().key_id();
        demand(resolved.record().key(&key).is_some(), "the server names a record that does not hold your key")?;
        let me = Arc::new(Me { resolved });
        self.held().me = Some(Arc::clone(&me));
        Ok(me)
    }

    /// Forgets the caller's own record, after it changed.
    pub(crate) fn forget_me(&self) {
        self.held().me = None;
    }
}

/// What binds the newest record to its name: an admission, or for who stands in the newest document, the document.
fn admission(
    view: &ClusterView,
    told: &Principal,
    chain: &RecordChain,
) -> Result<Option<VerifiedAdmission>, EvidenceError> {
    let newest = chain.newest();
    // A name that stands in the document is that principal's, whatever an admission says.
    let other = view.standing_by_name(newest.name()).is_some_and(|standing| standing.principal() != chain.principal());
    if other {
        return Err(EvidenceError::Rule { field: "name", rule: "must not be that of another in the newest document" });
    }
    let stands = view.standing(&chain.principal()).is_some_and(|standing| standing.digest() == newest.digest());
    if let Some(envelope) = &told.admission {
        return match verify_admission(view, envelope, newest) {
            Ok(admission) => Ok(Some(admission)),
            // Whoever admitted it may be no enroller any more; the document vouches for it by itself.
            Err(error) if stands && !matches!(error, EvidenceError::DocumentAhead { .. }) => Ok(None),
            Err(error) => Err(error),
        };
    }
    let standing = view.standing(&chain.principal()).ok_or(EvidenceError::Rule {
        field: "admission",
        rule: "must be there for whoever does not stand in the newest document",
    })?;
    if standing.digest() == newest.digest() {
        return Ok(None);
    }
    Err(EvidenceError::Rule { field: "record_sha256", rule: "must be that in the newest document" })
}

/// The refusal that the server would have given.
fn absent(code: Code, message: &str) -> ClientError {
    let entry = ErrorEntry { code, message: message.to_owned(), field: None, hint: None, id: None, receipt: None };
    ClientError::Refused { status: code.status(), errors: vec![entry], verified: true, may_have_happened: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, admission_of, person, world};
    use bulla_wire::dsse::Envelope;

    fn told(records: &[&Record], admission: Option<Envelope>) -> (Principal, RecordChain) {
        let records: Vec<_> = records.iter().map(|record| record.envelope().clone()).collect();
        let chain = RecordChain::open(&records).unwrap();
        let name = chain.newest().name().clone();
        (Principal { id: chain.principal(), name, disabled: false, void: false, records, admission }, chain)
    }

    fn judge(world: &World, records: &[&Record], admission: Option<Envelope>) -> Result<bool, EvidenceError> {
        let (told, chain) = told(records, admission);
        super::admission(&world.view, &told, &chain).map(|admission| admission.is_some())
    }

    #[test]
    fn a_name_is_bound_by_an_enroller_or_the_document() {
        let world = world();
        let (alice, bob) = (&world.alice, &world.bob);
        assert_eq!(judge(&world, &[&bob.record], Some(admission_of(&world, &bob.record, alice))), Ok(true));
        assert_eq!(judge(&world, &[&alice.record], None), Ok(false));
        assert!(judge(&world, &[&bob.record], None).is_err());
    }

    /// A server that puts a record of its own in the place of another's is refused before anything is encrypted.
    #[test]
    fn a_swapped_record_is_refused() {
        let world = world();
        let (alice, bob) = (&world.alice, &world.bob);
        let forged = person("bob", 66);
        let genuine = admission_of(&world, &bob.record, alice);
        // Under the genuine admission, under one by the forger, under one by a principal that is no enroller.
        assert!(judge(&world, &[&forged.record], Some(genuine)).is_err());
        assert!(judge(&world, &[&forged.record], Some(admission_of(&world, &forged.record, &forged))).is_err());
        assert!(judge(&world, &[&forged.record], Some(admission_of(&world, &forged.record, bob))).is_err());
        // Under an admin's name, even with an enroller's word.
        let alias = person("alice", 67);
        let admitted = admission_of(&world, &alias.record, alice);
        assert!(judge(&world, &[&alias.record], Some(admitted)).is_err());
        assert!(judge(&world, &[&alias.record], None).is_err());
    }

    /// Whoever stands in the document needs no admission that holds.
    #[test]
    fn a_void_admission_of_somebody_in_the_document_is_none() {
        let mut world = world();
        let admitted = admission_of(&world, &world.alice.record, &world.erin);
        assert_eq!(judge(&world, &[&world.alice.record], Some(admitted.clone())), Ok(true));
        world.remove_erin();
        assert_eq!(judge(&world, &[&world.alice.record], Some(admitted)), Ok(false));
    }

    #[test]
    fn an_older_resolution_is_judged_by_the_newest_document() {
        let mut world = world();
        let envelope = admission_of(&world, &world.bob.record, &world.erin);
        let (_, chain) = told(&[&world.bob.record], None);
        let admission = verify_admission(&world.view, &envelope, chain.newest()).unwrap();
        let resolved = Resolved { chain, admission: Some(admission), disabled: false };
        assert!(resolved.holds(&world.view));
        world.remove_erin();
        assert!(!resolved.holds(&world.view));
    }
}
