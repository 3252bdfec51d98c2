//! What an agent can be asked for: values of stored secrets, and the users of databases that it keeps.

use crate::value::ValueName;
use bulla_wire::name::Name;
use std::fmt;
use std::str::FromStr;

/// How a user's field is named.
const USER: &str = "expected database/NAME/ROLE#username or #password";

/// The name of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Of a stored secret: `kv/<path>#<field>`.
    Stored(ValueName),
    /// Of a user of a database: `database/<name>/<role>#username` or `#password`.
    User(RoleName, UserField),
}

/// A role of a database: `<name>/<role>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleName {
    /// The database.
    pub database: Name,
    /// The role.
    pub role: Name,
}

/// What of a user is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserField {
    /// Its name.
    Username,
    /// Its password.
    Password,
}

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("database/") else {
            let stored = text.parse().map(Self::Stored);
            return stored.map_err(|why| format!("{why}; of a database's user {USER}"));
        };
        let (role, field) = rest.split_once('#').ok_or(USER)?;
        let field = match field {
            "username" => UserField::Username,
            "password" => UserField::Password,
            _ => return Err(USER.to_owned()),
        };
        Ok(Self::User(role.parse()?, field))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(name) => name.fmt(f),
            Self::User(role, UserField::Username) => write!(f, "database/{role}#username"),
            Self::User(role, UserField::Password) => write!(f, "database/{role}#password"),
        }
    }
}

impl FromStr for RoleName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (database, role) = text.split_once('/').ok_or("a role is named NAME/ROLE, such as app/reader")?;
        let name = |text: &str| text.parse::<Name>().map_err(|error| format!("{text:?}: {error}"));
        Ok(Self { database: name(database)?, role: name(role)? })
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        for text in ["kv/app/db#password", "kv/a?version=3#b", "database/app/reader#username", "database/a/b#password"]
        {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
        }
        for text in [
            "database/app#password",
            "database/app/reader",
            "database/a/b#user",
            "database/a/b/c#password",
            "x/y#z",
            "",
        ] {
            assert!(!text.parse::<Wanted>().unwrap_err().is_empty(), "{text}");
        }
    }
}
