//! What writers sign over stored secrets that the server cannot read.

use super::wrap::check_addressees;
use super::{EvidenceError, parse, rule};
use crate::dsse;
use crate::sign::PublicKey;
use bulla_wire::dsse::Envelope;
use bulla_wire::id::{ClusterId, PrincipalId};
use bulla_wire::kv::{SEALED_TYPE, SealedStatement};
use bulla_wire::wrap::MAX_CIPHERTEXT_BYTES;

/// Verifies a statement about a sealed version in `cluster` by `writer`, with one of these keys of theirs. Whether place
/// and version are those that it was found at, its caller compares.
///
/// # Errors
/// See [`EvidenceError`].
pub fn verify_sealed(
    envelope: &Envelope,
    cluster: &ClusterId,
    writer: &PrincipalId,
    keys: &[&PublicKey],
) -> Result<SealedStatement, EvidenceError> {
    let statement: SealedStatement = parse(envelope)?;
    rule(statement.cluster == *cluster, "cluster", "must be this cluster")?;
    rule(statement.from == *writer, "from", "must be the writer")?;
    rule(statement.version > 0, "version", "must be 1 or more")?;
    check_addressees(&statement.to)?;
    let length = (1..=MAX_CIPHERTEXT_BYTES).contains(&statement.ct.len);
    rule(length, "ct.len", "must be 1 to the largest ciphertext")?;
    rule(envelope.signatures.len() == 1, "signatures", "must be one")?;
    dsse::verify(envelope, SEALED_TYPE, keys)?;
    Ok(statement)
}
