//! What outlives a process: which keys were used, so that a start in the middle of a rotation goes on with what the
//! other nodes use, and a way back to a key that was left is noticed. Nothing in it is secret, and nothing else is kept.

use crate::key::KeyDigest;
use crate::promotion::{MAX_PAST, Remembered};
use bulla_client::{FileOutput, Output as _};
use bulla_wire::encoding::{base32, base32_decode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest file in bytes: eight members with all that is remembered of each have 30 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    epoch: u32,
}

/// The file as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u8,
    /// The epoch of the configuration: another one begins anew.
    epoch: u32,
    members: BTreeMap<String, WrittenMember>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMember {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    past: Vec<String>,
}

impl StateFile {
    /// The file at `path`, for this epoch.
    pub fn new(path: PathBuf, epoch: u32) -> Self {
        Self { path, epoch }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it remembers; nothing if there is no file, or its epoch is lower than the configuration's.
    ///
    /// # Errors
    /// [`io::Error`] for a file that cannot be read or is none of ours, and for one of a higher epoch.
    pub fn load(&self) -> io::Result<BTreeMap<String, Remembered>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            opened => opened?,
        };
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut text)?;
        self.parse(&text)
    }

    /// What these bytes remember, as [`Self::load`] reads them from the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(&self, text: &[u8]) -> io::Result<BTreeMap<String, Remembered>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            return Err(bad("it is larger than any that this program writes"));
        }
        let written: Written = serde_json::from_slice(text).map_err(|error| bad(&error.to_string()))?;
        if written.version != 1 {
            return Err(bad("it was written by a newer program"));
        }
        if written.epoch > self.epoch {
            return Err(bad("it knows a higher epoch than the configuration; an epoch never falls"));
        }
        if written.epoch < self.epoch {
            return Ok(BTreeMap::new());
        }
        let digest = |text: &String| {
            let bytes = base32_decode(text).and_then(|bytes| bytes.try_into().ok());
            bytes.map(KeyDigest).ok_or_else(|| bad("it names a key by something that is no digest"))
        };
        let read = |(name, member): (String, WrittenMember)| {
            let past: Vec<KeyDigest> = member.past.iter().map(digest).collect::<io::Result<_>>()?;
            if past.len() > MAX_PAST {
                return Err(bad("it remembers more keys than this program writes"));
            }
            Ok((name, Remembered { current: member.current.as_ref().map(digest).transpose()?, past }))
        };
        written.members.into_iter().map(read).collect()
    }

    /// Replaces it, whole or not at all, and durably.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn save(&self, members: BTreeMap<String, Remembered>) -> io::Result<()> {
        let bytes = self.to_bytes(members)?;
        let mut file = FileOutput::replacing(&self.path)?;
        file.write_all(&bytes)?;
        file.commit()
    }

    /// The file as it is written.
    ///
    /// # Errors
    /// [`io::Error`], which does not happen.
    pub fn to_bytes(&self, members: BTreeMap<String, Remembered>) -> io::Result<Vec<u8>> {
        let text = |digest: &KeyDigest| base32(&digest.0);
        let members = members.into_iter().map(|(name, remembered)| {
            let past = remembered.past.iter().map(text).collect();
            (name, WrittenMember { current: remembered.current.as_ref().map(text), past })
        });
        let written = Written { version: 1, epoch: self.epoch, members: members.collect() };
        serde_json::to_vec(&written).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered() -> BTreeMap<String, Remembered> {
        let one = Remembered { current: Some(KeyDigest([1; 32])), past: vec![KeyDigest([2; 32]), KeyDigest([3; 32])] };
        BTreeMap::from([("central".to_owned(), one), ("hsm".to_owned(), Remembered::default())])
    }

    #[test]
    fn what_was_saved_is_loaded_in_its_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let at = |epoch| StateFile::new(folder.path().join("state.json"), epoch);
        assert_eq!(at(0).load().unwrap(), BTreeMap::new());
        at(1).save(remembered()).unwrap();
        assert_eq!(at(1).load().unwrap(), remembered());
        assert_eq!(at(2).load().unwrap(), BTreeMap::new(), "a higher epoch begins anew");
        assert!(at(0).load().is_err(), "an epoch never falls");
        assert!(!folder.path().join("state.new").exists());
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("state.json"), 0);
        let digest = base32(&[1; 32]);
        let many = vec![format!("{digest:?}"); MAX_PAST + 1].join(",");
        for text in [
            "".to_owned(),
            "{}".to_owned(),
            r#"{"version":2,"epoch":0,"members":{}}"#.to_owned(),
            r#"{"version":1,"epoch":0,"members":{},"more":1}"#.to_owned(),
            r#"{"version":1,"epoch":0,"members":{"a":{"current":"x","past":[]}}}"#.to_owned(),
            format!(r#"{{"version":1,"epoch":0,"members":{{"a":{{"past":[{many}]}}}}}}"#),
            " ".repeat(70_000),
        ] {
            std::fs::write(file.path(), &text).unwrap();
            assert!(file.load().is_err(), "{text:.80}");
        }
    }
}
