//! The bundle that a transient server is started with: read and checked before it listens (`spec/bundle.md`).

use crate::run::RunError;
pub use bulla_core::founding::{Bundle, BundleError};
use bulla_core::operation::Refusal;
use bulla_crypto::evidence::{EvidenceError, Record};
use bulla_crypto::sign::PublicKey;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::KeyId;
use bulla_wire::json;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest file of a bundle in bytes: the largest payload of a statement in base64, sixteen signatures, and some room.
pub const FILE_BYTES_MAX: usize = 320 * 1024;

/// Reads the bundle, and checks what can be known before there is a cluster: all of it but whether init will name the
/// same admins and k. `listed` are the keys of those who may make the cluster.
///
/// # Errors
/// [`RunError`], which names what is wrong and the way out.
pub fn read(path: &Path, listed: &[KeyId], now_ms: u64) -> Result<Bundle, RunError> {
    let unfit = |reason: String, hint: &str| RunError::unfit(path.display(), reason, hint);
    let failed = |action: &'static str| {
        let what = path.display().to_string();
        move |source| RunError::Io { action, what, source }
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed("open"))?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() > FILE_BYTES_MAX {
        let reason = format!("has more than {FILE_BYTES_MAX} bytes, so it is no bundle");
        return Err(unfit(reason, "split what is too much for one"));
    }
    let envelope: Envelope = json::parse(&bytes, FILE_BYTES_MAX)
        .map_err(|error| unfit(format!("is no bundle: {error}"), "`bulla bundle create` writes one"))?;
    let bundle = Bundle::open(&envelope, now_ms).map_err(|error| unfit(told(&error), way_out(&error)))?;
    let admins = bundle.contents().set().keys();
    if let Some(other) = listed.iter().find(|key| !admins.contains(key)) {
        let reason = format!(
            "{other} is listed with --admin and is no admin of the bundle, whose admins are {}",
            names(&bundle)
        );
        return Err(unfit(reason, "list them, or give the bundle of those that you listed"));
    }
    Ok(bundle)
}

/// What the log says when a server begins with a bundle.
pub fn announce(bundle: &Bundle) {
    let contents = bundle.contents();
    tracing::info!(
        sha256 = %contents.digest(),
        made_ms = contents.made_ms(),
        exp_ms = contents.exp_ms(),
        admins = names(bundle),
        principals = contents.principals().len(),
        policies = contents.policies().len(),
        "init will begin with the bundle"
    );
}

/// The public words for an init that the bundle does not fit.
pub fn refusal(error: &BundleError) -> Refusal {
    let field = match error {
        BundleError::Evidence(EvidenceError::OtherK { .. }) => "k",
        _ => "admins",
    };
    let reason = format!("the server was started with a bundle, and no cluster was made: {}", told(error));
    Refusal::new(Code::BadStatement, reason).field(field).hint(way_out(error))
}

/// What to do about it.
pub fn way_out(error: &BundleError) -> &'static str {
    match error {
        BundleError::Evidence(EvidenceError::TooFewAdmins { .. }) => {
            "the admins who have not signed it run `bulla bundle sign`"
        }
        BundleError::Evidence(EvidenceError::Expired { .. }) => {
            "start the server with a newer bundle; `bulla bundle create` makes it from the same plan"
        }
        BundleError::Evidence(EvidenceError::OtherAdmins | EvidenceError::OtherK { .. }) => {
            "run `bulla init` with the admins' records and the -k of the bundle, which `bulla bundle show` prints, \
             or start the server with another bundle"
        }
        BundleError::Evidence(_) => "somebody altered it or made it wrongly: make it anew with `bulla bundle create`",
        BundleError::Policy(_) => "correct the policy, and make the bundle anew with `bulla bundle create`",
        BundleError::TooManyRows { .. } => "leave some out, and admit them with `bulla principal add`",
    }
}

fn names(bundle: &Bundle) -> String {
    let name = |record: &Record| {
        let key = record.public_keys().map(PublicKey::key_id).next();
        key.map_or_else(|| record.name().to_string(), |key| format!("{} {key}", record.name()))
    };
    bundle.contents().admins().iter().map(name).collect::<Vec<_>>().join(", ")
}

/// An error with its causes in one line.
fn told(error: &BundleError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
