//! What lies in a directory.

use crate::barrier::{Cursor, Kind, Query, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::KvNames;
use bulla_wire::name::SecretPath;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// An [`Entry`](super::Entry) whose name is all that is wanted: the versions of a hundred secrets take longer to read than to
/// pass over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    #[serde(default, rename = "secret")]
    _secret: IgnoredAny,
    #[serde(default)]
    dir: bool,
}

/// `GET /v1/kv:list` and `GET /v1/kv/{path}:list`.
#[derive(Debug, Clone)]
pub struct List {
    /// The directory; none for the top.
    pub path: Option<SecretPath>,
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let dir = self.path.as_ref().map_or("", SecretPath::as_str).as_bytes().to_vec();
        let query = Query::Scan { kind: Kind::Kv, dir, after: self.after.clone(), limit: self.limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut names = Vec::with_capacity(page.len());
        for record in page {
            let entry: Listed = parse_record("kv", &record.bytes)?;
            names.push(if entry.dir { format!("{}/", entry.name) } else { entry.name });
        }
        names.sort_unstable();
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&KvNames { names, next })))
    }
}
