//! The providers of the clouds against services of the same contract that are stricter than the real ones: they check
//! every signature, token, audience and checksum, and remember what was asked.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod aws;
mod azure;
mod check;
mod gcp;
mod moto;
mod peer;
