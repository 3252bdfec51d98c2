//! Values that are there: what an agent writes, hands on and answers with.

use super::wanted::{RoleName, UserField, Wanted};
use crate::exit::{Exit, Failure};
use crate::value::Values;
use bulla_crypto::secret::SecretBytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A user of a database, for as long as its lease.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: SecretBytes,
}

/// The users that are kept. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<BTreeMap<RoleName, Arc<User>>>>);

impl Users {
    /// From now on this is the role's user.
    pub fn put(&self, role: RoleName, user: User) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(role, Arc::new(user));
    }

    /// Whether the role has a user.
    pub fn has(&self, role: &RoleName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(role)
    }

    /// Whether this is the role's user already.
    pub fn is(&self, role: &RoleName, user: &User) -> bool {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            |known: &Arc<User>| known.username == user.username && known.password.expose() == user.password.expose();
        users.get(role).is_some_and(same)
    }

    /// All of them as they are now.
    pub fn all(&self) -> BTreeMap<RoleName, Arc<User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything that was named, as it was at one time.
pub struct Gathered<'a> {
    /// Stored secrets.
    pub stored: &'a Values,
    /// Users of databases.
    pub users: BTreeMap<RoleName, Arc<User>>,
}

impl Gathered<'_> {
    /// A value.
    pub fn get(&self, wanted: &Wanted) -> Result<&[u8], Failure> {
        match wanted {
            Wanted::Stored(name) => self.stored.get(name),
            Wanted::User(role, field) => {
                let user = self.users.get(role).ok_or_else(|| {
                    let message = format!("there is no user of {role} yet");
                    Failure::new(Exit::Failed, message).hint("the agent's log says why")
                })?;
                Ok(match field {
                    UserField::Username => user.username.as_bytes(),
                    UserField::Password => user.password.expose(),
                })
            }
        }
    }
}
