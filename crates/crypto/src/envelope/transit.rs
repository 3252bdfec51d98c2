//! The stanza of a file under a transit key: `-> bulla-transit-v1 <key> <version>`, and the encrypted file key.

use super::{OpenError, Stanza};
use bulla_wire::api::Versioned;
use bulla_wire::name::Name;

const KIND: &str = "bulla-transit-v1";

/// Which transit key holds the file key. age programs that do not know it pass over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitStanza {
    /// The key's name.
    pub key: Name,
    /// The file key, encrypted under it.
    pub wrapped: Versioned,
}

impl TransitStanza {
    /// The stanza as it stands in a header.
    pub fn stanza(&self) -> Stanza {
        let args = vec![self.key.to_string(), self.wrapped.version.to_string()];
        Stanza { kind: KIND.to_owned(), args, body: self.wrapped.bytes.clone() }
    }

    /// The one stanza of this kind, if there is one.
    ///
    /// # Errors
    /// [`OpenError::Header`] if it is malformed, or there are two: it would be up to the reader which is meant.
    pub fn find(stanzas: &[Stanza]) -> Result<Option<Self>, OpenError> {
        let mut found = stanzas.iter().filter(|stanza| stanza.kind == KIND);
        let Some(stanza) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(OpenError::Header("more than one transit key"));
        }
        Self::parse(stanza).map(Some).ok_or(OpenError::Header("malformed transit stanza"))
    }

    fn parse(stanza: &Stanza) -> Option<Self> {
        let [key, version] = stanza.args.as_slice() else { return None };
        let number: u32 = version.parse().ok()?;
        let one_spelling = number > 0 && number.to_string() == *version && !stanza.body.is_empty();
        let wrapped = Versioned { version: number, bytes: stanza.body.clone() };
        one_spelling.then(|| Some(Self { key: key.parse().ok()?, wrapped }))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stanza_in_one_spelling() {
        let named =
            TransitStanza { key: "orders".parse().unwrap(), wrapped: Versioned { version: 12, bytes: vec![7; 96] } };
        let good = named.stanza();
        assert_eq!(TransitStanza::find(std::slice::from_ref(&good)).unwrap(), Some(named));
        assert!(TransitStanza::find(&[]).unwrap().is_none());
        assert!(TransitStanza::find(&[good.clone(), good.clone()]).is_err());
        for (args, body) in [
            (vec!["orders"], vec![7]),
            (vec!["orders", "0"], vec![7]),
            (vec!["orders", "012"], vec![7]),
            (vec!["orders", "1", "x"], vec![7]),
            (vec!["a/b", "1"], vec![7]),
            (vec!["orders", "1"], vec![]),
        ] {
            let args = args.into_iter().map(str::to_owned).collect();
            assert!(TransitStanza::find(&[Stanza { args, body, ..good.clone() }]).is_err());
        }
    }
}
