//! One-time wraps: sealed by a writer to recipients, opened once (`spec/wrap.md`).
//!
//! What holds here, whatever the store, the network and the callers do, per history of the store:
//!
//! - One claim wins a slot, ever. A slot is written only against the writing of it that was read, and no
//!   state leads back to sealed but the writer's own release after a restore ([`slot`]).
//! - The ciphertext is written once and deleted once, in the commit that makes the last slot final; it is
//!   given to nobody but the claim that won.
//! - What happened has a receipt, committed with it, chained to the one before. Receipts are bounded per
//!   slot, so no party can fill the store.
//! - To strangers an existing wrap looks like an unknown one; to open either costs one commit. A stranger who measures
//!   exactly may still tell them apart, since the parties' alarms make it larger, and who makes a wrap under its id is
//!   told that the id is taken; the parties are told of the first sixteen such attempts.
//!
//! Not held: that the ciphertext is what the statement says, which the server cannot see; and anything
//! against a store that puts back an older slot.

mod create;
mod finish;
mod open;
mod records;
pub mod slot;
mod sweep;
mod view;

pub use create::{Create, Draft, Early};
pub(in crate::engine) use create::{bad_statement, check_recipients};
pub use finish::{Ack, Nack, Release, Revoke};
pub use open::Open;
pub use records::{MAX_STRANGERS, TOMBSTONE_MS};
pub use sweep::{BURIED_AT_ONCE, Park, Retire};
pub(in crate::engine) use sweep::{Bury, Expire, Lapse};
pub use view::{Inspect, List, MAX_LISTED, MAX_SHOWN};
