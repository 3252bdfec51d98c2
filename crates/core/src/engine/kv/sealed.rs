//! Versions that the server cannot read: what it can check of them.

use crate::engine::wrap::{bad_statement, check_recipients};
use crate::operation::{Context, Refusal};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::verify_sealed;
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::kv::SealedKv;
use bulla_wire::name::SecretPath;

/// Checks that the caller signed it for this place and the version after `newest`, to readers who can open it now, and
/// that the file is the one that was signed. Gives the readers.
///
/// # Errors
/// `bad_statement`, `version_mismatch`, or what is wrong with a reader.
pub(super) fn check(
    path: &SecretPath,
    sealed: &SealedKv,
    newest: u64,
    context: &Context<'_>,
) -> Result<Vec<PrincipalId>, Refusal> {
    let found = context.actor.and_then(|actor| Some((actor, context.directory.by_key(&actor.key)?)));
    let Some((actor, (principal, _))) = found else {
        let refusal = Refusal::new(Code::Unauthenticated, "the key that signed the request was rotated");
        return Err(refusal.hint("call with the new key"));
    };
    let keys: Vec<_> = principal.keys.iter().map(|key| &key.public).collect();
    let statement = verify_sealed(&sealed.statement, &context.cluster, &actor.principal, &keys)
        .map_err(|error| bad_statement(&error))?;
    let bad = |field: &'static str, message: String| {
        let refusal = Refusal::new(Code::BadStatement, message).field(format!("sealed.{field}"));
        refusal.hint("seal it for this path and sign it anew")
    };
    if statement.path != *path {
        return Err(bad("path", format!("it was sealed for kv/{}", statement.path)));
    }
    let len = u64::try_from(sealed.file.0.len()).unwrap_or(u64::MAX);
    if statement.ct.len != len || statement.ct.sha256 != Digest::new(sha256(&[&sealed.file.0])) {
        return Err(bad("ct", "the file is not the one that was signed".to_owned()));
    }
    if statement.version != newest.saturating_add(1) {
        let message = format!("it was sealed as version {}, and the newest is {newest}", statement.version);
        let refusal = Refusal::new(Code::VersionMismatch, message).field("sealed.version");
        return Err(refusal.hint("read it again, and seal it as the next version"));
    }
    check_recipients(&statement.to, context)?;
    Ok(statement.to.iter().map(|addressee| addressee.principal).collect())
}
