//! Admitting principals, and changing keys.

use crate::builder::Client;
use crate::call::{Call, now_ms};
use crate::error::ClientError;
use crate::resolve::Resolved;
use bulla_crypto::evidence::{
    self, AdmissionDraft, PrincipalKey, Record, RecordChain, record_payload, verify_admission,
};
use bulla_crypto::sign::Signer;
use bulla_wire::api::{Principal, PutPrincipal};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::PrincipalRecord;
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
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        let opened = open_next(record, version, there.as_ref())?;
        let last = there.and_then(|principal| principal.admission);
        let last: Option<bulla_wire::evidence::Admission> =
            last.and_then(|admission| json::parse(&admission.payload, json::MAX_STATEMENT_BYTES).ok());
        let serial = now_ms().max(last.map_or(0, |admission| admission.serial.saturating_add(1)));
        let Admit { groups, attributes } = admit;
        let payload = AdmissionDraft { groups, attributes, serial }.payload(&view, &opened);
        let admission = evidence::sign(&payload, &[&**self.key()?]).await?;
        verify_admission(&view, &admission, &opened).map_err(|error| {
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

/// Verifies a record by what is there already: the same again, or the version after.
fn open_next(record: &Envelope, version: u32, there: Option<&Principal>) -> Result<Record, ClientError> {
    let mistaken = |error| ClientError::input(format!("this record does not hold: {error}"), RECORD_HINT);
    let Some(there) = there else { return Record::open(record, None).map_err(mistaken) };
    let chain = RecordChain::open(&there.records).map_err(ClientError::statement("the principal's record"))?;
    if let Some(same) = chain.find(&evidence::payload_digest(record)) {
        let newest = same.version() == chain.newest().version();
        return if newest {
            Ok(same.clone())
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
    Record::open(record, Some(chain.newest())).map_err(mistaken)
}
