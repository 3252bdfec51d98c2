//! Snapshots of a cluster's store: taken from a server, verified without one (`spec/snapshot.md`).
//!
//! A page is checked when it comes and then forgotten, so a store of any size needs no memory here.

use crate::builder::Client;
use crate::call::Call;
use crate::error::{ClientError, demand};
use crate::output::{FileOutput, Output as _};
use bulla_crypto::snapshot::{Reader, SnapshotError, Verified, Whole};
use bulla_wire::id::Digest;
use bulla_wire::snapshot::{Begun, MAX_PAGE_BYTES};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Bytes of a file that are read at once.
const READ_BYTES: usize = 1024 * 1024;

impl Client {
    /// Writes a snapshot of the store as it is now to a new file, which has its name once it is whole and on the disk. With
    /// `replace` it takes the place of an old one.
    ///
    /// # Errors
    /// [`ClientError`]; then no file is there, or the old one.
    pub async fn snapshot_save(&self, file: &Path, replace: bool) -> Result<Verified, ClientError> {
        let failed = |error| ClientError::io("cannot write", file.to_path_buf(), error);
        let made = if replace { FileOutput::replacing(file) } else { FileOutput::create(file) };
        let mut output = made.map_err(failed)?;
        let begun: Begun = self.json(Call::action("/v1/snapshot")).await?;
        let mut reader = Reader::new();
        let mut page: u64 = 0;
        while !reader.at_end() {
            let path = format!("/v1/snapshot/{}", begun.id);
            let call = Call { limit: MAX_PAGE_BYTES, ..Call::read(path) }.with("page", Some(page));
            let answer = self.call(call).await?;
            demand(!answer.body.is_empty(), "a page of the snapshot is empty")?;
            reader.take(&answer.body, &mut |_| Ok(()))?;
            output.write_all(&answer.body).map_err(failed)?;
            page = page.saturating_add(1);
        }
        let verified = self.believe(reader.finish()?, None)?;
        let same = (verified.manifest.sequence, verified.manifest.saved_ms) == (begun.sequence, begun.saved_ms);
        demand(same, "the snapshot is of another state than was begun")?;
        output.commit().map_err(failed)?;
        Ok(verified)
    }

    /// Verifies a file from the pin on, and by the documents that were kept. `vouched` is the digest that somebody kept apart
    /// from the file.
    ///
    /// # Errors
    /// [`ClientError::Snapshot`], [`ClientError::NoPin`] or [`ClientError::Io`].
    pub fn snapshot_verify(&self, file: &Path, vouched: Option<Digest>) -> Result<Verified, ClientError> {
        let failed = |error: io::Error| ClientError::io("cannot read", file.to_path_buf(), error);
        let mut input = File::open(file).map_err(failed)?;
        let mut reader = Reader::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = input.read(&mut buffer).map_err(failed)?;
            if length == 0 {
                return self.believe(reader.finish()?, vouched);
            }
            reader.take(buffer.get(..length).unwrap_or_default(), &mut |_| Ok(()))?;
        }
    }

    fn believe(&self, whole: Whole, vouched: Option<Digest>) -> Result<Verified, ClientError> {
        let pin = self.0.pin.as_ref().ok_or(ClientError::NoPin)?;
        let held = self.held().trust.clone().map(|trust| trust.view);
        let known = match held {
            Some(view) => Some(view),
            None => self.kept_view()?,
        };
        Ok(whole.verify(|genesis, approvals| pin.begin(genesis, approvals), known.as_deref(), vouched)?)
    }
}

impl From<SnapshotError> for ClientError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}
