//! Points at which a test can end the server; how they work stands in [`bulla_store::failpoint`].

pub use bulla_store::failpoint::{POINTS as STORE_POINTS, hit};

/// Names of the points in this crate. Those of the store are [`STORE_POINTS`].
pub const POINTS: &[&str] = &[
    DRIVE_BEFORE_COMMIT,
    DRIVE_AFTER_COMMIT,
    DRIVE_AFTER_CHANGE,
    UPLOAD_AFTER_MARKER,
    UPLOAD_AFTER_PIECE,
    UPLOAD_BEFORE_PUBLISH,
    SERVE_BEFORE_CLAIM_REPLY,
    SERVE_BEFORE_LINE,
    SERVE_AFTER_LINE,
    INIT_BEFORE_COMMIT,
    INIT_AFTER_COMMIT,
    INIT_BEFORE_ANSWER,
    UNSEAL_BEFORE_COMMIT,
    UNSEAL_AFTER_COMMIT,
    UNSEAL_BEFORE_LINE,
    UNSEAL_AFTER_LINE,
    REKEY_BEFORE_COMMIT,
    REKEY_AFTER_COMMIT,
    RESTORE_AFTER_LINE,
    RESTORE_PARKED_ONE,
    RESTORE_PARKED,
    RESTORE_REPLAYED_ONE,
    SWEEP_BEFORE_END,
    SWEEP_AFTER_END,
    NONCES_BEFORE_DROP,
    NONCES_AFTER_DROP,
    AUDIT_BEFORE_WRITE,
    AUDIT_AFTER_WRITE,
    AUDIT_AFTER_SYNC,
    AUDIT_BEFORE_ROTATE,
    AUDIT_EMPTY_FILE,
    LEASE_BEFORE_EFFECT,
    LEASE_AFTER_EFFECT,
    LEASE_AFTER_RENEWAL,
    LEASE_MARKED,
    LEASE_BEFORE_DROP,
    LEASE_AFTER_DROP,
    ROTATE_BEFORE_SET,
    ROTATE_AFTER_SET,
    STATIC_BEFORE_SET,
    STATIC_AFTER_SET,
    SNAPSHOT_PAGE,
    SNAPSHOT_RESTORED_ROW,
    SNAPSHOT_BEFORE_RENAME,
];

/// An operation is decided; its batch goes to the store next.
pub const DRIVE_BEFORE_COMMIT: &str = "drive.before_commit";
/// Its commit is durable and nothing is said yet.
pub const DRIVE_AFTER_COMMIT: &str = "drive.after_commit";
/// Principals or policies changed in the store, and now in what requests are judged by.
pub const DRIVE_AFTER_CHANGE: &str = "drive.after_change";
/// An upload has begun; nothing of its value is there.
pub const UPLOAD_AFTER_MARKER: &str = "upload.after_marker";
/// A piece of its value is durable.
pub const UPLOAD_AFTER_PIECE: &str = "upload.after_piece";
/// All pieces are durable, and nobody can see them.
pub const UPLOAD_BEFORE_PUBLISH: &str = "upload.before_publish";
/// A claim has won for good and its content is sealed to it; the answer is not sent.
pub const SERVE_BEFORE_CLAIM_REPLY: &str = "serve.before_claim_reply";
/// A request's commit is durable and taken over; its line is not written.
pub const SERVE_BEFORE_LINE: &str = "serve.before_line";
/// The line of a commit is written; the answer is not sent.
pub const SERVE_AFTER_LINE: &str = "serve.after_line";
/// A cluster is made; its batch goes to the store next.
pub const INIT_BEFORE_COMMIT: &str = "init.before_commit";
/// The cluster is durable, without a line.
pub const INIT_AFTER_COMMIT: &str = "init.after_commit";
/// The cluster has its lines; nobody was told of it.
pub const INIT_BEFORE_ANSWER: &str = "init.before_answer";
/// The next epoch is made; its batch goes to the store next.
pub const UNSEAL_BEFORE_COMMIT: &str = "unseal.before_commit";
/// The next epoch is durable and the node still sealed.
pub const UNSEAL_AFTER_COMMIT: &str = "unseal.after_commit";
/// Whatever the store lost is accounted for; the line that begins the new history is not written.
pub const UNSEAL_BEFORE_LINE: &str = "unseal.before_line";
/// That line is written and the node still sealed.
pub const UNSEAL_AFTER_LINE: &str = "unseal.after_line";
/// The seal for the admins of a new document is made; its batch goes to the store next.
pub const REKEY_BEFORE_COMMIT: &str = "rekey.before_commit";
/// The new admins hold the seal, and the node knows nothing of it yet.
pub const REKEY_AFTER_COMMIT: &str = "rekey.after_commit";
/// The log tells of the admins' consent to a loss; nothing is parked.
pub const RESTORE_AFTER_LINE: &str = "restore.after_line";
/// One of the wraps was parked, if it had to be.
pub const RESTORE_PARKED_ONE: &str = "restore.parked_one";
/// All wraps are parked; nothing is put back.
pub const RESTORE_PARKED: &str = "restore.parked";
/// One lost commit was put back, if it could be.
pub const RESTORE_REPLAYED_ONE: &str = "restore.replayed_one";
/// Something is overdue; its end is not decided.
pub const SWEEP_BEFORE_END: &str = "sweep.before_end";
/// A commit of its end is durable.
pub const SWEEP_AFTER_END: &str = "sweep.after_end";
/// Nonces may go: the mark has risen in memory, and their buckets are there.
pub const NONCES_BEFORE_DROP: &str = "nonces.before_drop";
/// Their buckets are gone for good.
pub const NONCES_AFTER_DROP: &str = "nonces.after_drop";
/// Lines of the audit log are chained and not written.
pub const AUDIT_BEFORE_WRITE: &str = "audit.before_write";
/// They are written; whoever waits for them does not know.
pub const AUDIT_AFTER_WRITE: &str = "audit.after_write";
/// They are on the disk; the next head does not know.
pub const AUDIT_AFTER_SYNC: &str = "audit.after_sync";
/// An audit file is full and synced; there is no other.
pub const AUDIT_BEFORE_ROTATE: &str = "audit.before_rotate";
/// The next audit file is there, without a line.
pub const AUDIT_EMPTY_FILE: &str = "audit.empty_file";
/// A lease is committed; its database is asked for the user next.
pub const LEASE_BEFORE_EFFECT: &str = "lease.before_effect";
/// The user is there; its lease does not know.
pub const LEASE_AFTER_EFFECT: &str = "lease.after_effect";
/// The user may live longer; its lease does not know.
pub const LEASE_AFTER_RENEWAL: &str = "lease.after_renewal";
/// A page of leases that somebody wants revoked is marked.
pub const LEASE_MARKED: &str = "lease.marked";
/// A lease is being revoked; its user is there.
pub const LEASE_BEFORE_DROP: &str = "lease.before_drop";
/// Its user is gone; the lease is there.
pub const LEASE_AFTER_DROP: &str = "lease.after_drop";
/// Both passwords of a database are committed; it has the first.
pub const ROTATE_BEFORE_SET: &str = "rotate.before_set";
/// It has the second; both are still kept.
pub const ROTATE_AFTER_SET: &str = "rotate.after_set";
/// The next password of a static role is committed; the database has the one before.
pub const STATIC_BEFORE_SET: &str = "static.before_set";
/// The database has the next password of a static role; its record does not know.
pub const STATIC_AFTER_SET: &str = "static.after_set";
/// A page of a snapshot was asked for.
pub const SNAPSHOT_PAGE: &str = "snapshot.page";
/// A row of a snapshot goes into a new store.
pub const SNAPSHOT_RESTORED_ROW: &str = "snapshot.restored_row";
/// A new store is whole, and has not its name yet.
pub const SNAPSHOT_BEFORE_RENAME: &str = "snapshot.before_rename";
