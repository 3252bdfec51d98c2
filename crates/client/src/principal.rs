//! Admitting principals, and changing keys.

use crate::builder::Client;
use crate::call::{Call, now_ms};
use crate::error::{ClientError, demand};
use crate::known::KnownError;
use crate::resolve::Resolved;
use bulla_crypto::evidence::{
    self, AdmissionDraft, ClusterView, PrincipalKey, Record, RecordChain, record_payload, verify_admission,
};
use bulla_crypto::sign::Signer;
use bulla_wire::api::{Principal, PutPrincipal};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Admission, MAX_SERIAL_AHEAD_MS, PrincipalRecord};
use bulla_wire::json;
use bulla_wire::name::Name;
use std::collections::BTreeMap;

/// What to do about a record that does not hold.
const RECORD_HINT: &str = "ask its holder for the newest record";

/// What an enroller says about a principal.
#[derive(Debug, Clone, Default)]
pub struct Admit {
    /// Its groups, for policy.
    pub groups: Vec<Name>,
    /// Its attributes, for policy.
    pub attributes: BTreeMap<String, String>,
}

impl Client {
    /// Admits a record under its name: a new principal, or a new version or new groups of one that is there. The
    /// caller must be an enroller, and must have made sure by another way whose keys these are.
    ///
    /// # Errors
    /// [`ClientError::Input`] if the record does not hold or the caller is no enroller.
    pub async fn admit(&self, record: &Envelope, admit: Admit) -> Result<Resolved, ClientError> {
        let view = self.view().await?;
        let PrincipalRecord { name, version, .. } = json::parse(&record.payload, json::MAX_STATEMENT_BYTES)
            .map_err(|error| ClientError::input(format!("this is no record: {error}"), RECORD_HINT))?;
        let there = match self.principal(&name).await {
            Ok(there) => Some(there),
            Err(error) if error.proven() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        let chain = open_next(record, version, there.as_ref())?;
        let opened = chain.newest();
        let serial = next_serial(&view, there.as_ref(), now_ms())?;
        let Admit { groups, attributes } = admit;
        let payload = AdmissionDraft { groups, attributes, serial }.payload(&view, opened);
        // Nobody else is given a name that this client knows: the server alone says who has it, and what was signed stays signed.
        if let Some(standing) =
            view.standing_by_name(&name).filter(|standing| standing.principal() != chain.principal())
        {
            let (known, told) = (standing.principal(), chain.principal());
            return Err(KnownError::OtherPrincipal { name, known, told }.into());
        }
        self.trust().await?.memory.would_know(&name, &chain, &payload)?;
        let admission = evidence::sign(&payload, &[&**self.key()?]).await?;
        verify_admission(&view, &admission, opened).map_err(|error| {
            ClientError::input(
                format!("this admission would not hold: {error}"),
                "only admins and enrollers admit; ask one of them",
            )
        })?;
        let body = PutPrincipal { record: record.clone(), admission };
        self.call(Call::change("PUT", format!("/v1/principal/{name}"), &body)).await?;
        self.forget_me();
        self.resolve_name(&name).await
    }

    /// The caller's next record with `keys` in the place of the old ones, signed by the caller and by each new key.
    /// An enroller admits it ([`Client::admit`]); until then nothing changes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rotate(&self, keys: &[PrincipalKey], signers: &[&dyn Signer]) -> Result<Envelope, ClientError> {
        let me = self.me().await?;
        let before = me.resolved.record();
        let payload = record_payload(before.name().clone(), Some(before), keys)
            .ok_or_else(|| ClientError::input("this record has used up its versions", "make a new principal"))?;
        let old: &dyn Signer = &**self.key()?;
        let kept = signers.iter().any(|signer| signer.public_key() == old.public_key());
        let all: Vec<&dyn Signer> = signers.iter().copied().chain((!kept).then_some(old)).collect();
        let envelope = evidence::sign(&payload, &all).await?;
        Record::open(&envelope, Some(before)).map_err(|error| {
            ClientError::input(format!("this record would not hold: {error}"), "make the new key anew")
        })?;
        Ok(envelope)
    }
}

/// The serial of the next admission: this clock's time, or one more than the last. What the server shows as the last is signed by
/// an enroller, or is no further ahead than clocks are: else the name could be brought to where no serial comes after.
fn next_serial(view: &ClusterView, there: Option<&Principal>, now_ms: u64) -> Result<u64, ClientError> {
    let Some(last) = there.and_then(|there| there.admission.as_ref()) else { return Ok(now_ms) };
    let Ok(Admission { serial, .. }) = json::parse(&last.payload, json::MAX_STATEMENT_BYTES) else { return Ok(now_ms) };
    let signed = || {
        let chain = there.and_then(|there| RecordChain::open(&there.records).ok());
        chain.is_some_and(|chain| verify_admission(view, last, chain.newest()).is_ok())
    };
    demand(serial <= now_ms.saturating_add(MAX_SERIAL_AHEAD_MS) || signed(), "the last admission is of a later time")?;
    Ok(now_ms.max(serial.saturating_add(1)))
}

/// Verifies a record by what is there already: the same again, or the version after. Gives the records up to it.
fn open_next(record: &Envelope, version: u32, there: Option<&Principal>) -> Result<RecordChain, ClientError> {
    let mistaken = |error| ClientError::input(format!("this record does not hold: {error}"), RECORD_HINT);
    let Some(there) = there else { return RecordChain::open(std::slice::from_ref(record)).map_err(mistaken) };
    let mut chain = RecordChain::open(&there.records).map_err(ClientError::statement("the principal's record"))?;
    if let Some(same) = chain.find(&evidence::payload_digest(record)) {
        let newest = same.version() == chain.newest().version();
        return if newest {
            Ok(chain)
        } else {
            Err(ClientError::input("this record was replaced already", RECORD_HINT))
        };
    }
    if version == 1 {
        return Err(ClientError::input(
            "another principal has this name",
            "choose another name, or have its holder sign the next record",
        ));
    }
    chain.push(record).map_err(mistaken)?;
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{person, world};

    #[test]
    fn no_server_brings_a_name_to_its_last_serial() {
        const NOW_MS: u64 = 1_800_000_000_000;
        let world = world();
        let bob = &world.bob.record;
        let told = |serial, by| {
            let payload = AdmissionDraft { serial, ..AdmissionDraft::default() }.payload(&world.view, bob);
            let by: &crate::fixture::Person = by;
            let admission = evidence::sign_in_memory(&payload, &[by.identity.signing_key().unwrap()]).unwrap();
            Principal {
                id: bob.principal(),
                name: bob.name().clone(),
                disabled: false,
                void: false,
                records: vec![bob.envelope().clone()],
                admission: Some(admission),
            }
        };
        let next = |told: Option<&Principal>| next_serial(&world.view, told, NOW_MS).ok();
        let (stranger, day_ms) = (person("mallory", 13), MAX_SERIAL_AHEAD_MS);
        assert_eq!(next(None), Some(NOW_MS));
        assert_eq!(next(Some(&told(NOW_MS - 5, &world.erin))), Some(NOW_MS));
        // The clock of whoever admitted it was ahead, by however much.
        assert_eq!(next(Some(&told(NOW_MS + day_ms + 5, &world.erin))), Some(NOW_MS + day_ms + 6));
        assert_eq!(next(Some(&told(NOW_MS + day_ms, &stranger))), Some(NOW_MS + day_ms + 1));
        for serial in [NOW_MS + day_ms + 1, u64::MAX] {
            assert_eq!(next(Some(&told(serial, &stranger))), None);
        }
    }
}
