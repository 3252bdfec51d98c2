//! The Rust client of Bulla: what the command line is made of, and what programs use.
//!
//! ```no_run
//! # async fn example(cluster: bulla_client::wire::id::ClusterId) -> Result<(), Box<dyn std::error::Error>> {
//! use bulla_client::{Client, Outgoing, Pin};
//! let identity = bulla_client::identity::read("alice.key".as_ref(), &|| None)?;
//! let client = Client::builder("https://bulla.example:8250").identity(identity).pin(Pin::Cluster(cluster)).build()?;
//! let bob = client.resolve("bob").await?;
//! let made = client.wrap_create(Outgoing::new(vec![bob], 3600), bulla_client::content(b"secret".to_vec())).await?;
//! println!("{}", made.slip);
//! # Ok(()) }
//! ```
//!
//! What a client believes comes from its pin and not from the server: documents chain from the pin, names are bound
//! by admissions that chain from the documents, and every answer is signed by a node that stands in them
//! (`spec/request.md`, `spec/evidence.md`). An answer that does not verify is no answer.
//!
//! Not held: a server can hide what this client never saw, such as a newer record or that a principal is disabled. What is
//! read passes through a JSON parser and other buffers, which wipe nothing: a program that minds sets an allocator that
//! does, such as `zeroizing_alloc`, as the command line has it.

mod answer;
mod api;
mod builder;
mod call;
pub mod certificate;
mod claim;
mod database;
mod disk;
mod error;
#[cfg(test)]
mod fixture;
pub mod identity;
mod known;
mod kv;
mod loss;
mod memory;
mod open;
mod output;
mod principal;
pub mod probe;
mod progress;
mod proof;
mod raw;
mod resolve;
mod seal;
mod snapshot;
mod spool;
mod state;
mod transit;
mod transport;
mod trust;
mod wrap;

pub use api::AuditOf;
pub use builder::{Builder, Client, Key, Pin, State};
pub use database::LeasesOf;
pub use error::{ClientError, Untrusted, io_hint, port_hint, snapshot_hint};
pub use known::{Known, KnownError};
pub use kv::{OpenedKv, SealTerms};
pub use memory::Remembered;
pub use open::{Opened, OpenedAs};
pub use output::{FileOutput, MemoryOutput, Output};
pub use principal::Admit;
pub use progress::{Progress, Stage};
pub use proof::{Proof, ProofReport, ReceiptLine};
pub use raw::RawAnswer;
pub use resolve::Resolved;
pub use seal::{Unseal, UnsealOutcome};
pub use spool::{Content, content};
pub use state::{Loss, Seen, Standing, StateError};
pub use transport::causes;
pub use trust::ClusterFacts;
pub use wrap::{Inspected, InspectedSlot, Outgoing, Wrapped};

pub use bulla_crypto as crypto;
pub use bulla_wire as wire;
