//! How names and texts stand in a statement: quoted by the rules of the server that reads it.
//!
//! Sessions are begun with the settings that these rules need (`standard_conforming_strings = on`,
//! `NO_BACKSLASH_ESCAPES`, UTF-8), so no setting of the server changes what a quote means.

use bulla_wire::api::DatabaseEngine;
use std::fmt;

/// Longest name of a user that PostgreSQL keeps whole, in bytes; it would cut a longer one without a word.
const POSTGRES_NAME_BYTES: usize = 63;
/// Longest name of a user that MySQL takes, in characters; MariaDB takes more.
const MARIADB_NAME_CHARS: usize = 32;

/// Why a text cannot stand in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteError {
    /// It is empty.
    Empty,
    /// It is longer than the server takes.
    TooLong,
    /// It holds a character that no text or name of the server can hold.
    Character,
}

impl fmt::Display for QuoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::TooLong => "it is longer than a name of the server",
            Self::Character => "it holds a character that the server cannot keep",
        })
    }
}
impl std::error::Error for QuoteError {}

/// A name as an identifier, quoted.
///
/// # Errors
/// If the server could not keep it as it is.
pub fn identifier(engine: DatabaseEngine, name: &str) -> Result<String, QuoteError> {
    if name.is_empty() {
        return Err(QuoteError::Empty);
    }
    if name.contains('\0') {
        return Err(QuoteError::Character);
    }
    match engine {
        DatabaseEngine::Postgres if name.len() > POSTGRES_NAME_BYTES => Err(QuoteError::TooLong),
        DatabaseEngine::Postgres => Ok(format!("\"{}\"", name.replace('"', "\"\""))),
        DatabaseEngine::Mariadb if name.chars().count() > MARIADB_NAME_CHARS => Err(QuoteError::TooLong),
        // Identifiers of MariaDB end at the basic plane of Unicode.
        DatabaseEngine::Mariadb if name.chars().any(|one| one > '\u{ffff}') => Err(QuoteError::Character),
        DatabaseEngine::Mariadb => Ok(format!("`{}`", name.replace('`', "``"))),
    }
}

/// A text as a literal, quoted.
///
/// # Errors
/// If the server could not keep it as it is.
pub fn literal(engine: DatabaseEngine, text: &str) -> Result<String, QuoteError> {
    if text.contains('\0') {
        return Err(QuoteError::Character);
    }
    let doubled = text.replace('\'', "''");
    Ok(match engine {
        // As quote_literal does it: this form means the same whatever standard_conforming_strings says.
        DatabaseEngine::Postgres if text.contains('\\') => format!("E'{}'", doubled.replace('\\', "\\\\")),
        DatabaseEngine::Postgres | DatabaseEngine::Mariadb => format!("'{doubled}'"),
    })
}

/// A time as the server reads it, in UTC.
pub fn time(engine: DatabaseEngine, unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let zone = if engine == DatabaseEngine::Postgres { "+00" } else { "" };
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}{zone}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a day since 1970, by the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from the first of March of the year 0, so that the leap day ends a year; an era has 400 years.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::DatabaseEngine::{Mariadb, Postgres};
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(identifier(Postgres, "a\"b").unwrap(), "\"a\"\"b\"");
        assert_eq!(identifier(Mariadb, "a`b").unwrap(), "`a``b`");
        assert_eq!(literal(Postgres, "a'b").unwrap(), "'a''b'");
        assert_eq!(literal(Postgres, "a\\'b").unwrap(), "E'a\\\\''b'");
        assert_eq!(literal(Mariadb, "a\\'b").unwrap(), "'a\\''b'");
    }

    #[test]
    fn what_a_server_would_cut_or_drop_is_refused() {
        assert_eq!(identifier(Postgres, &"ä".repeat(32)), Err(QuoteError::TooLong));
        assert_eq!(identifier(Mariadb, &"ä".repeat(33)), Err(QuoteError::TooLong));
        assert_eq!(identifier(Mariadb, "\u{1f512}"), Err(QuoteError::Character));
        assert_eq!(identifier(Postgres, ""), Err(QuoteError::Empty));
        for engine in [Postgres, Mariadb] {
            assert_eq!(identifier(engine, "a\0b"), Err(QuoteError::Character));
            assert_eq!(literal(engine, "a\0b"), Err(QuoteError::Character));
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_709_164_800, "2024-02-29 00:00:00"),
            (1_795_816_447, "2026-11-27 21:54:07"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(time(Mariadb, seconds * 1000 + 999), text);
            assert_eq!(time(Postgres, seconds * 1000), format!("{text}+00"));
        }
    }

    #[test]
    fn the_longest_names_are_taken() {
        assert!(identifier(Postgres, &"a".repeat(63)).is_ok());
        assert_eq!(identifier(Postgres, &"a".repeat(64)), Err(QuoteError::TooLong));
        assert!(identifier(Mariadb, &"ä".repeat(32)).is_ok());
    }

    #[test]
    fn names_of_mariadb_end_with_the_basic_plane() {
        assert_eq!(identifier(Mariadb, "\u{ffff}").unwrap(), "`\u{ffff}`");
        assert_eq!(identifier(Mariadb, "\u{10000}"), Err(QuoteError::Character));
    }
}
