//! Receipts to keep: everything that proves what happened to a wrap, verified without a network.

use crate::builder::Client;
use crate::error::ClientError;
use crate::wrap::{Inspected, statement_of};
use bulla_crypto::evidence::{
    ClusterView, EvidenceError, RecordChain, Standing, VerifiedOrigin, VerifiedReceipt, check_receipt_chain,
    verify_origin, verify_receipt,
};
use bulla_wire::api::{Slot, WrapView};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{ClusterId, KeyId, PrincipalId, WrapId};
use bulla_wire::json::V1;
use bulla_wire::name::Name;
use bulla_wire::wrap::{ReceiptKind, Slip};
use serde::{Deserialize, Serialize};

/// Documents, the writer's records, the statement and all receipts of a wrap. A JSON file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its documents, genesis first.
    pub documents: Vec<Envelope>,
    /// The writer's records, version 1 first.
    pub writer: Vec<Envelope>,
    /// What the writer signed.
    pub statement: Envelope,
    /// The receipt of the wrap's creation.
    pub created: Envelope,
    /// The receipts of each slot, oldest first.
    pub slots: Vec<Vec<Envelope>>,
}

/// What it proves.
#[derive(Debug)]
pub struct ProofReport {
    /// The cluster whose documents vouch for it. Who has no pin must compare it.
    pub cluster: ClusterId,
    /// The wrap.
    pub wrap: WrapId,
    /// The writer.
    pub from: PrincipalId,
    /// The name in the writer's record. It is the writer's own word.
    pub name: Name,
    /// What the cluster read for the writer, who never saw it.
    pub origin: Option<VerifiedOrigin>,
    /// All receipts: the created one, then each slot's.
    pub receipts: Vec<ReceiptLine>,
}

/// One receipt of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptLine {
    /// The slot; 0 for the created one.
    pub slot: u16,
    /// What happened.
    pub kind: ReceiptKind,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who signed it.
    pub node: KeyId,
    /// Who did it.
    pub actor: Option<Actor>,
    /// Whether it proves it.
    pub standing: Standing,
}

impl Client {
    /// Gathers what proves the fate of a wrap that the caller is a party to.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn proof(&self, slip: &Slip) -> Result<Proof, ClientError> {
        let Inspected { writer, view: wrap, .. } = self.wrap_inspect(slip).await?;
        let view = self.cluster().await?.view;
        let WrapView { statement, created, slots } = wrap;
        Ok(Proof {
            v: V1,
            cluster: view.id(),
            documents: view.documents().map(|document| document.envelope().clone()).collect(),
            writer: writer.chain.iter().map(|record| record.envelope().clone()).collect(),
            statement,
            created,
            slots: slots.into_iter().map(|Slot { receipts, .. }| receipts).collect(),
        })
    }
}

impl Proof {
    /// Verifies the proof from the pin on, with nothing else. Without a pin the report's cluster must be compared
    /// by whoever reads it.
    ///
    /// # Errors
    /// [`EvidenceError`] for the first thing that does not hold.
    pub fn verify(&self, pin: Option<&ClusterId>) -> Result<ProofReport, EvidenceError> {
        let Self { v: V1, cluster, documents, writer, statement, created, slots } = self;
        let broken = |field, rule| EvidenceError::Rule { field, rule };
        let (genesis, later) = documents.split_first().ok_or(broken("documents", "must begin with genesis"))?;
        let mut view = ClusterView::pinned(*pin.unwrap_or(cluster), genesis)?;
        for document in later {
            view.push(document)?;
        }
        let chain = RecordChain::open(writer)?;
        let statement = statement_of(statement, &view.id(), &chain)?;
        let open = |envelope: &Envelope| -> Result<VerifiedReceipt, EvidenceError> {
            let receipt = verify_receipt(&view, envelope)?;
            let about = receipt.receipt.wrap == statement.statement.wrap
                && receipt.receipt.statement_sha256 == statement.digest;
            if about { Ok(receipt) } else { Err(broken("receipts", "must be about the statement")) }
        };
        let created = open(created)?;
        check_receipt_chain(&created, &[])?;
        let mut receipts = vec![ReceiptLine::of(&created)];
        for slot in slots {
            let verified = slot.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            check_receipt_chain(&created, &verified)?;
            receipts.extend(verified.iter().map(ReceiptLine::of));
        }
        Ok(ProofReport {
            cluster: view.id(),
            wrap: statement.statement.wrap,
            from: chain.principal(),
            name: chain.newest().name().clone(),
            origin: verify_origin(&view, &statement.statement)?,
            receipts,
        })
    }
}

impl ReceiptLine {
    fn of(verified: &VerifiedReceipt) -> Self {
        let receipt = &verified.receipt;
        Self {
            slot: receipt.slot,
            kind: receipt.kind,
            at_ms: receipt.at_ms,
            node: receipt.node,
            actor: receipt.actor.clone(),
            standing: verified.standing,
        }
    }
}

#[cfg(test)]
mod tests;
