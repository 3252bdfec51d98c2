//! Secrets that are easy to find again.
//!
//! A test gives canaries to the product wherever a secret goes in, and afterwards searches everything that the
//! product wrote. They are found raw, in hex, in base64 of both alphabets and at any alignment, and as the list of
//! numbers that a derived `Debug` prints; half of one is enough, so a truncated or split copy is found too.

use bulla_crypto::random::{Rng as _, SystemRng};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Length of a canary. Half of it, 16 bytes, is never met by chance.
const LENGTH: usize = 32;

/// A secret of 32 random bytes, with a name for the report.
pub struct Canary {
    name: String,
    bytes: Vec<u8>,
}

/// A canary where none should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Which one.
    pub name: String,
    /// How it was spelt.
    pub form: &'static str,
    /// The file, or what the text was called.
    pub place: PathBuf,
    /// Where in it, in bytes.
    pub offset: usize,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "canary {} ({}) in {} at byte {}", self.name, self.form, self.place.display(), self.offset)
    }
}

impl Canary {
    /// Random bytes.
    pub fn new(name: &str) -> Self {
        let mut bytes = vec![0; LENGTH];
        SystemRng.fill(&mut bytes);
        Self { name: name.to_owned(), bytes }
    }

    /// 32 random letters and digits, for places that take only text.
    pub fn text(name: &str) -> Self {
        let mut random = [0; LENGTH / 2];
        SystemRng.fill(&mut random);
        Self { name: name.to_owned(), bytes: HEXLOWER.encode(&random).into_bytes() }
    }

    /// A canary of bytes that somebody else made: a key, a passphrase.
    ///
    /// # Panics
    /// If there are fewer than 16 of them: they would be met by chance.
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= LENGTH / 2, "{name} is too short for a canary");
        Self { name: name.to_owned(), bytes: bytes.to_vec() }
    }

    /// The secret.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The secret of a [`Self::text`].
    ///
    /// # Panics
    /// If it is none.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("a canary of text")
    }

    /// What to search for. Each half by itself, in each spelling.
    fn needles(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut needles = Vec::new();
        let halves = if self.bytes.len() >= LENGTH { self.bytes.len() / 2 } else { self.bytes.len() };
        for half in self.bytes.chunks(halves).filter(|half| half.len() >= LENGTH / 2) {
            needles.push(("raw", half.to_vec()));
            needles.push(("hex", HEXLOWER.encode(half).into_bytes()));
            needles.push(("hex, upper case", HEXUPPER.encode(half).into_bytes()));
            let numbers = |separator| half.iter().map(u8::to_string).collect::<Vec<_>>().join(separator).into_bytes();
            needles.push(("list of numbers", numbers(", ")));
            needles.push(("list of numbers", numbers(",")));
            // Inside a longer base64 text a secret begins at any of three alignments. What shares a character with
            // its neighbours is left out.
            for alignment in 0..3 {
                let mut padded = vec![0; alignment];
                padded.extend_from_slice(half);
                let whole = padded.len() / 3 * 4;
                let first = if alignment == 0 { 0 } else { 4 };
                needles.push(("base64", BASE64.encode(&padded).as_bytes()[first..whole].to_vec()));
                needles.push(("base64url", BASE64URL_NOPAD.encode(&padded).as_bytes()[first..whole].to_vec()));
            }
        }
        needles
    }
}

/// Searches `text`, which the report calls `place`.
pub fn scan_bytes(canaries: &[Canary], place: &Path, text: &[u8]) -> Vec<Sighting> {
    let mut needles = Vec::new();
    // Position of the first needle by its first byte: most bytes of a text begin none.
    let mut begins = vec![Vec::new(); 256];
    for canary in canaries {
        for (form, needle) in canary.needles() {
            begins[usize::from(needle[0])].push(needles.len());
            needles.push((canary, form, needle));
        }
    }
    let mut sightings: Vec<Sighting> = Vec::new();
    for (offset, byte) in text.iter().enumerate() {
        for index in &begins[usize::from(*byte)] {
            let (canary, form, needle) = &needles[*index];
            let known = |seen: &Sighting| seen.name == canary.name && seen.form == *form;
            if text[offset..].starts_with(needle) && !sightings.iter().any(known) {
                let name = canary.name.clone();
                sightings.push(Sighting { name, form, place: place.to_owned(), offset });
            }
        }
    }
    sightings
}

/// Searches a file, or all files beneath a directory, their names included.
///
/// # Panics
/// If something cannot be read; a search that skips files proves nothing. Sockets hold nothing and are passed over.
pub fn scan(canaries: &[Canary], path: &Path) -> Vec<Sighting> {
    let fail = |error: std::io::Error| -> ! { panic!("cannot search {}: {error}", path.display()) };
    let kind = std::fs::symlink_metadata(path).unwrap_or_else(|error| fail(error)).file_type();
    let mut sightings = Vec::new();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap_or_else(|error| fail(error)) {
            let entry = entry.unwrap_or_else(|error| fail(error)).path();
            let name = entry.file_name().unwrap_or_default();
            sightings.extend(scan_bytes(canaries, &entry, name.as_encoded_bytes()));
            sightings.extend(scan(canaries, &entry));
        }
    } else if kind.is_file() {
        sightings = scan_bytes(canaries, path, &std::fs::read(path).unwrap_or_else(|error| fail(error)));
    }
    sightings
}

/// Searches what a process may write to in its memory: heap, stacks, and everything else that no file backs. None if
/// this machine does not let us; the search must not find everything because it saw nothing, so look for something
/// that is there too.
///
/// # Panics
/// If the process is gone.
pub fn scan_memory(canaries: &[Canary], pid: u32) -> Option<Vec<Sighting>> {
    let place = PathBuf::from(format!("/proc/{pid}/mem"));
    let maps = std::fs::read_to_string(place.with_file_name("maps")).ok()?;
    let mut memory = std::fs::File::open(&place).ok()?;
    let mut sightings = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (begin, end) = range.expect("a range of addresses");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (begin, end) = (address(begin), address(end));
        let mut bytes = vec![0; usize::try_from(end - begin).expect("memory fits into memory")];
        memory.seek(SeekFrom::Start(begin)).expect("a place in memory");
        // What was given back under way is gone.
        if memory.read_exact(&mut bytes).is_ok() {
            sightings.extend(scan_bytes(canaries, &place, &bytes));
        }
    }
    Some(sightings)
}

/// Fails if a canary is in one of these files or directories.
///
/// # Panics
/// Then, naming every place.
#[track_caller]
pub fn assert_absent<'a>(canaries: &[Canary], paths: impl IntoIterator<Item = &'a Path>) {
    let sightings: Vec<String> =
        paths.into_iter().flat_map(|path| scan(canaries, path)).map(|sighting| sighting.to_string()).collect();
    assert!(sightings.is_empty(), "secrets were found:\n{}", sightings.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(canary: &Canary, text: &[u8]) -> Vec<&'static str> {
        let place = Path::new("text");
        scan_bytes(std::slice::from_ref(canary), place, text).iter().map(|sighting| sighting.form).collect()
    }

    #[test]
    fn every_spelling_is_found_at_every_place() {
        let canary = Canary::new("key");
        let own = canary.bytes();
        for before in 0..7 {
            let mut text = vec![b'x'; before];
            text.extend_from_slice(own);
            text.extend_from_slice(b"yy");
            assert!(forms(&canary, &text).contains(&"raw"));
            assert!(forms(&canary, HEXLOWER.encode(&text).as_bytes()).contains(&"hex"));
            assert!(forms(&canary, HEXUPPER.encode(&text).as_bytes()).contains(&"hex, upper case"));
            assert!(forms(&canary, BASE64.encode(&text).as_bytes()).contains(&"base64"), "{before}");
            assert!(forms(&canary, BASE64URL_NOPAD.encode(&text).as_bytes()).contains(&"base64url"), "{before}");
            assert!(forms(&canary, format!("{text:?}").as_bytes()).contains(&"list of numbers"));
            assert!(forms(&canary, serde_json::to_string(&text).unwrap().as_bytes()).contains(&"list of numbers"));
        }
    }

    #[test]
    fn half_a_secret_is_a_secret() {
        let canary = Canary::new("key");
        assert_eq!(forms(&canary, &canary.bytes()[..16]), ["raw"]);
        assert_eq!(forms(&canary, &canary.bytes()[16..]), ["raw"]);
        assert!(forms(&canary, &canary.bytes()[..15]).is_empty());
        assert!(forms(&canary, Canary::new("other").bytes()).is_empty());
        assert!(forms(&canary, b"").is_empty());
    }

    #[test]
    fn files_beneath_a_directory_are_searched() {
        let folder = tempfile::tempdir().unwrap();
        let canary = Canary::text("passphrase");
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("log"), "nothing here").unwrap();
        let canaries = [canary];
        assert_absent(&canaries, [folder.path()]);
        std::fs::write(deep.join("log"), format!("the passphrase is {}!", canaries[0].as_str())).unwrap();
        let sightings = scan(&canaries, folder.path());
        assert_eq!(sightings.len(), 1);
        assert_eq!((sightings[0].place.clone(), sightings[0].offset), (deep.join("log"), 18));
        std::fs::write(deep.join("log"), "").unwrap();
        std::fs::write(deep.join(canaries[0].as_str()), "").unwrap();
        assert_eq!(scan(&canaries, folder.path()).len(), 1, "a file's name is searched");
        assert!(std::panic::catch_unwind(|| assert_absent(&canaries, [folder.path()])).is_err());
    }
}
