//! Points at which a test can end the server; how they work stands in [`bulla_store::failpoint`].

pub use bulla_store::failpoint::{POINTS as STORE_POINTS, hit};

/// Names of the points in this crate. Those of the store are [`STORE_POINTS`].
pub const POINTS: &[&str] = &[
    DRIVE_BEFORE_COMMIT,
    DRIVE_AFTER_COMMIT,
    UNSEAL_BEFORE_COMMIT,
    UNSEAL_AFTER_COMMIT,
    REKEY_BEFORE_COMMIT,
    REKEY_AFTER_COMMIT,
    SERVE_BEFORE_CLAIM_REPLY,
];

/// An operation is decided; its batch goes to the store next.
pub const DRIVE_BEFORE_COMMIT: &str = "drive.before_commit";
/// Its commit is durable and nothing is said yet.
pub const DRIVE_AFTER_COMMIT: &str = "drive.after_commit";
/// The next epoch is made; its batch goes to the store next.
pub const UNSEAL_BEFORE_COMMIT: &str = "unseal.before_commit";
/// The next epoch is durable and the node still sealed.
pub const UNSEAL_AFTER_COMMIT: &str = "unseal.after_commit";
/// The seal for the admins of a new document is made; its batch goes to the store next.
pub const REKEY_BEFORE_COMMIT: &str = "rekey.before_commit";
/// The new admins hold the seal, and the node knows nothing of it yet.
pub const REKEY_AFTER_COMMIT: &str = "rekey.after_commit";
/// A claim has won for good and its content is sealed to it; the answer is not sent.
pub const SERVE_BEFORE_CLAIM_REPLY: &str = "serve.before_claim_reply";
