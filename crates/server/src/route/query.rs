//! The query of a request: `name=value` pairs joined by `&`, each name once and only those that the route knows,
//! values in one alphabet (`spec/request.md`). There is no escaping, so what was signed is what is read.

use bulla_wire::api::MAX_PAGE;
use std::fmt;
use std::ops::RangeInclusive;

/// Longest query in bytes. The longest value is an encryption recipient of the hybrid kind, about 2,000 characters.
pub const MAX_QUERY_BYTES: usize = 4096;
/// Entries of a listing's page if the request names no number.
pub const DEFAULT_PAGE: usize = 100;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryError {
    /// More than [`MAX_QUERY_BYTES`].
    TooLong,
    /// A part is not `name=value` with both sides there.
    Form,
    /// The route takes no such name.
    UnknownName {
        /// The names that it takes.
        allowed: &'static [&'static str],
    },
    /// A name stands twice.
    Doubled(&'static str),
    /// A value has a character outside the alphabet.
    Alphabet(&'static str),
    /// A value is not what its name asks for.
    Value {
        /// The name.
        name: &'static str,
        /// What it asks for.
        expected: String,
    },
}

impl QueryError {
    /// The name at fault, if it is one that the route knows.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Doubled(name) | Self::Alphabet(name) | Self::Value { name, .. } => Some(name),
            Self::TooLong | Self::Form | Self::UnknownName { .. } => None,
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the query has more than {MAX_QUERY_BYTES} bytes"),
            Self::Form => f.write_str("the query is not name=value pairs joined by \"&\""),
            Self::UnknownName { allowed: [] } => f.write_str("this path takes no query"),
            Self::UnknownName { allowed } => write!(f, "the query of this path takes only {}", allowed.join(", ")),
            Self::Doubled(name) => write!(f, "\"{name}\" stands twice in the query"),
            Self::Alphabet(name) => write!(f, "\"{name}\" may hold only A-Z a-z 0-9 . _ ~ @ + = - / :"),
            Self::Value { name, expected } => write!(f, "\"{name}\": expected {expected}"),
        }
    }
}
impl std::error::Error for QueryError {}

/// A query that was parsed against the names that its route takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(&'static str, String)>,
}

impl Query {
    /// Parses the text behind the question mark; empty if there is none.
    pub fn parse(query: &str, allowed: &'static [&'static str]) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        if query.is_empty() {
            return Ok(Self { pairs });
        }
        for part in query.split('&') {
            let (name, value) = part.split_once('=').ok_or(QueryError::Form)?;
            let name =
                allowed.iter().copied().find(|known| *known == name).ok_or(QueryError::UnknownName { allowed })?;
            if value.is_empty() {
                return Err(QueryError::Form);
            }
            if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~@+=-/:".contains(&byte)) {
                return Err(QueryError::Alphabet(name));
            }
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(QueryError::Doubled(name));
            }
            pairs.push((name, value.to_owned()));
        }
        Ok(Self { pairs })
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a name, parsed by its type. `expected` says what the type is.
    pub fn parsed<T: std::str::FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, QueryError> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| QueryError::Value { name, expected: expected.to_owned() }))
            .transpose()
    }

    /// A decimal number within `range`, without sign or leading zero: one spelling, as everywhere.
    pub fn number(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, QueryError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse::<u64>().ok().filter(|number| range.contains(number) && number.to_string() == text);
        number.map(Some).ok_or_else(|| QueryError::Value {
            name,
            expected: format!("a number from {} to {}", range.start(), range.end()),
        })
    }

    /// The number of entries that `limit` asks for, [`DEFAULT_PAGE`] without it, [`MAX_PAGE`] at most.
    pub fn limit(&self) -> Result<usize, QueryError> {
        let number = self.number("limit", 1..=MAX_PAGE as u64)?;
        Ok(number.and_then(|number| usize::try_from(number).ok()).unwrap_or(DEFAULT_PAGE))
    }

    /// `true` or `false`; false without it.
    pub fn flag(&self, name: &'static str) -> Result<bool, QueryError> {
        Ok(self.parsed(name, "true or false")?.unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["after", "limit", "recipient", "all"];

    #[test]
    fn one_spelling() {
        let query = Query::parse("after=a/b:c&limit=10&all=true", NAMES).expect("a query");
        assert_eq!(query.get("after"), Some("a/b:c"));
        assert_eq!((query.limit(), query.flag("all")), (Ok(10), Ok(true)));
        assert_eq!(Query::parse("", NAMES).and_then(|query| query.limit()), Ok(DEFAULT_PAGE));
        let unknown = QueryError::UnknownName { allowed: NAMES };
        for (bad, error) in [
            ("after", QueryError::Form),
            ("after=", QueryError::Form),
            ("=x", unknown.clone()),
            ("&", QueryError::Form),
            ("after=1&", QueryError::Form),
            ("After=1", unknown.clone()),
            ("x=1", unknown),
            ("after=1&after=1", QueryError::Doubled("after")),
            ("after=%41", QueryError::Alphabet("after")),
            ("after=a b", QueryError::Alphabet("after")),
            ("after=ä", QueryError::Alphabet("after")),
            ("after=a?b", QueryError::Alphabet("after")),
            ("after=a#b", QueryError::Alphabet("after")),
        ] {
            assert_eq!(Query::parse(bad, NAMES), Err(error), "{bad}");
        }
        assert_eq!(Query::parse(&format!("after={}", "x".repeat(MAX_QUERY_BYTES)), NAMES), Err(QueryError::TooLong));
        let hybrid = format!("recipient=age1pq1{}", "q".repeat(1950));
        assert!(Query::parse(&hybrid, NAMES).is_ok());
    }

    #[test]
    fn numbers_have_one_spelling() {
        for bad in ["0", "1001", "01", "+1", "-1", "1.0", "x", "99999999999999999999"] {
            let query = Query::parse(&format!("limit={bad}"), NAMES).expect("a query");
            assert!(matches!(query.limit(), Err(QueryError::Value { name: "limit", .. })), "{bad}");
        }
        let query = Query::parse("all=1", NAMES).expect("a query");
        assert!(query.flag("all").is_err());
    }
}
