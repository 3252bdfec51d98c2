//! The plain table, which a node can read before it has any key: seal, documents, histories. Nothing in it is
//! authenticated until the seal opens.

use crate::ceremony::CeremonyError;
use crate::node::{Phase, Sealed};
use crate::unsealed::History;
use bulla_core::record::{Answer, Read, SCAN_ENTRIES_MAX, SealedValue, Table};
use bulla_core::seal::{SealError, StoredSeal, row};
use bulla_crypto::evidence::ClusterView;
use bulla_wire::api::LineageEntry;
use bulla_wire::dsse::Envelope;
use bulla_wire::json::{MAX_JSON_BYTES, MAX_STATEMENT_BYTES};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads the phase that the store is in: uninitialised or sealed.
///
/// # Errors
/// If rows are missing or malformed.
pub async fn read_phase(store: &bulla_store::Store) -> Result<Phase, CeremonyError> {
    let Some(stored) = StoredSeal::parse(store.read(StoredSeal::reads()?).await?)? else {
        return Ok(Phase::Uninitialised);
    };
    let history = read_history(store, &stored).await?;
    let mut documents = numbered_rows::<Envelope>(store, row::DOCUMENTS).await?.into_iter();
    let genesis = documents.next().ok_or(SealError::Row(row::DOCUMENTS))?;
    let malformed = |_| SealError::Row(row::DOCUMENTS);
    let mut view = ClusterView::pinned(stored.config().cluster, &genesis).map_err(malformed)?;
    for document in documents {
        view.push(&document).map_err(malformed)?;
    }
    Ok(Phase::Sealed(Arc::new(Sealed { stored: Arc::new(stored), view, history })))
}

/// Reads what a cluster tells besides its documents.
///
/// # Errors
/// If rows are malformed.
pub async fn read_history(store: &bulla_store::Store, stored: &StoredSeal) -> Result<History, CeremonyError> {
    let lineages_key = row::key(row::LINEAGES).map_err(SealError::from)?;
    let mut answers = store.read(vec![Read::Get(Table::Plain, lineages_key)]).await?.answers.into_iter();
    let lineages: Vec<LineageEntry> = match answers.next().and_then(Answer::into_value) {
        Some(value) => plain_row(&value, row::LINEAGES)?,
        None => vec![],
    };
    let consents = numbered_rows(store, row::CONSENTS).await?;
    Ok(History { approvals: stored.approvals().to_vec(), lineages, consents })
}

/// All rows whose names end in a number, in the order of the numbers, which is not that of a scan.
async fn numbered_rows<T: DeserializeOwned>(
    store: &bulla_store::Store,
    name: &'static str,
) -> Result<Vec<T>, CeremonyError> {
    let mut rows: BTreeMap<u32, T> = BTreeMap::new();
    let mut after = None;
    loop {
        let scan =
            Read::Scan { table: Table::Plain, prefix: name.into(), after: after.take(), limit: SCAN_ENTRIES_MAX };
        let answer = store.read(vec![scan]).await?.answers.pop();
        let page = answer.and_then(Answer::into_page).ok_or(SealError::Row(name))?;
        for (key, value) in &page.entries {
            let number = std::str::from_utf8(key.as_bytes()).ok().and_then(|key| key.strip_prefix(name)?.parse().ok());
            rows.insert(number.ok_or(SealError::Row(name))?, plain_row(value, name)?);
        }
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more || after.is_none() {
            return Ok(rows.into_values().collect());
        }
    }
}

fn plain_row<T: DeserializeOwned>(value: &SealedValue, name: &'static str) -> Result<T, CeremonyError> {
    let content = row::content(value).ok_or(SealError::Row(name))?;
    let limit = MAX_STATEMENT_BYTES.saturating_mul(2).max(MAX_JSON_BYTES);
    bulla_wire::json::parse(content, limit).map_err(|_| CeremonyError::Seal(SealError::Row(name)))
}
