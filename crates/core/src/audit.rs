//! The audit log: one line per request, chained by hash, and the proof that no request is answered without one.
//!
//! What a line holds is an allow-list of typed fields; the value of a secret has no field to stand in. An authorised
//! request becomes an [`Event`]; a healthy sink keeps a place for it ([`Accepted`]); only then is it [`Logged`] and
//! can be carried out, and it owes exactly one line, which is written when its outcome is known. A [`Refusal`] takes
//! the same road and ends there.
//!
//! Held by the chain: a line that was changed, removed, added or moved is seen by [`Verifier`], except at the very
//! end of the log. The end is held by the head of the store, which remembers the last line that was on disk.
//! Not held: whoever can write the file *and* the store, or the file of a node that never starts again, can cut
//! the end. Names stand in clear unless configured otherwise: the log is not part of the untrusted storage.

mod about;
mod filter;
mod line;
mod request;
mod text;
mod verify;

pub use about::{Demanded, WrapTo};
pub use filter::Filter;
pub use line::{
    ANONYMOUS_ADDRESSES_MAX, AuditPosition, Body, BundleLine, Chain, LINE_BYTES_MAX, LINE_VERSION, LeaseEvent, Line,
    ParseLineError, Quote, line_hash,
};
pub use request::{
    Accepted, AuditBlocked, Event, Facts, Logged, Method, Outcome, Owed, ParseRequestIdError, REASONS_MAX,
    RECEIPTS_MAX, Refusal, RequestId, RequestLine, Slot, Written,
};
pub use text::{Address, LABEL_BYTES_MAX, Label, NameKey, Names, ParseTextError, RESOURCE_BYTES_MAX, ResourceText};
pub use verify::{Class, Expectations, FINDINGS_MAX, Finding, Report, Verifier};
