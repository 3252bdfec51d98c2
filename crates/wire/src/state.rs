//! `Bulla-State`: where the cluster stands, in every response (`spec/request.md`).

use crate::id::Lineage;
use std::fmt;
use std::str::FromStr;

/// `v1;<epoch>;<lineage|->;<sequence|->;doc=<n|->;alarms=<count>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Epoch of the seal; 0 before init.
    pub epoch: u64,
    /// History of the store; none before init.
    pub lineage: Option<Lineage>,
    /// Sequence of the snapshot that the answer was read from; none if it read no store.
    pub sequence: Option<u64>,
    /// Number of the newest document; none before init.
    pub doc: Option<u32>,
    /// Alarms that the caller has not seen; 0 until its signature is valid.
    pub alarms: u32,
}

impl State {
    /// What a node says before init.
    pub const UNINITIALISED: Self = Self { epoch: 0, lineage: None, sequence: None, doc: None, alarms: 0 };
}

fn dash<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, lineage, sequence, doc, alarms } = self;
        let (lineage, sequence, doc) = (dash(lineage.as_ref()), dash(sequence.as_ref()), dash(doc.as_ref()));
        write!(f, "v1;{epoch};{lineage};{sequence};doc={doc};alarms={alarms}")
    }
}

/// Why a text is no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseStateError;

impl fmt::Display for ParseStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected v1;<epoch>;<lineage>;<sequence>;doc=<n>;alarms=<count>")
    }
}
impl std::error::Error for ParseStateError {}

fn undash<T: FromStr>(text: &str) -> Result<Option<T>, ParseStateError> {
    if text == "-" { Ok(None) } else { text.parse().map(Some).map_err(|_| ParseStateError) }
}

impl FromStr for State {
    type Err = ParseStateError;
    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        let parts: Vec<&str> = text.split(';').collect();
        let [version, epoch, lineage, sequence, doc, alarms] = parts.as_slice() else { return Err(ParseStateError) };
        let state = Self {
            epoch: epoch.parse().map_err(|_| ParseStateError)?,
            lineage: undash(lineage)?,
            sequence: undash(sequence)?,
            doc: undash(doc.strip_prefix("doc=").ok_or(ParseStateError)?)?,
            alarms: alarms.strip_prefix("alarms=").and_then(|n| n.parse().ok()).ok_or(ParseStateError)?,
        };
        // Both are there from init on. One without the other would pass by whoever compares it.
        if state.lineage.is_some() != state.doc.is_some() {
            return Err(ParseStateError);
        }
        // One spelling: no plus signs, no leading zeros, no other version.
        if *version == "v1" && state.to_string() == text { Ok(state) } else { Err(ParseStateError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        assert_eq!(State::UNINITIALISED.to_string(), "v1;0;-;-;doc=-;alarms=0");
        let state =
            State { epoch: 3, lineage: Some(Lineage::new([1; 16])), sequence: Some(9), doc: Some(0), alarms: 2 };
        assert_eq!(state.to_string().parse(), Ok(state.clone()));
        for bad in [
            "",
            "v2;0;-;-;doc=-;alarms=0",
            "v1;00;-;-;doc=-;alarms=0",
            "v1;0;-;-;doc=-;alarms=0;",
            "v1;+1;-;-;doc=-;alarms=0",
            "v1;3;AQEBAQEBAQEBAQEBAQEBAQ;9;doc=-;alarms=0",
            "v1;3;-;9;doc=1;alarms=0",
        ] {
            assert!(bad.parse::<State>().is_err(), "{bad}");
        }
    }
}
