//! What a caller may ask for, and on what: the verbs and things of the API, spelled the same way in policy,
//! audit lines and on the terminal (`spec/policy.md`).

use bulla_wire::id::{LeaseId, WrapId};
use bulla_wire::name::{Name, SecretPath};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Why a text is no action or resource. The message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseActionError {
    /// No verb of the API has this spelling.
    UnknownAction,
    /// The first segment names no kind of resource.
    UnknownKind,
    /// This kind of resource exists once, and takes nothing behind it.
    SingleResource(&'static str),
    /// What stands behind the first slash does not fit the kind.
    BadId {
        /// The kind, as it is spelled.
        kind: &'static str,
        /// What is wrong with the rest.
        reason: String,
    },
}

impl fmt::Display for ParseActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAction => f.write_str("no such action; expected one such as \"kv.get\" or \"wrap.open\""),
            Self::UnknownKind => f.write_str(
                "no such resource; expected cluster, seal, principal[/NAME], policy[/NAME], audit, alarm, self, \
                 wrap[/ID], kv[/PATH], transit[/KEY], database[/NAME[/ROLE]] or lease[/ID]",
            ),
            Self::SingleResource(kind) => write!(f, "\"{kind}\" takes nothing behind it"),
            Self::BadId { kind, reason } => write!(f, "behind \"{kind}/\": {reason}"),
        }
    }
}
impl std::error::Error for ParseActionError {}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A verb of the API. What it means in policy stands in `spec/policy.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action {
            $($(#[$doc])* $variant,)*
        }

        impl Action {
            /// Every action, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its spelling everywhere: `<group>.<verb>`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl FromStr for Action {
            type Err = ParseActionError;
            fn from_str(text: &str) -> Result<Self, ParseActionError> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(ParseActionError::UnknownAction),
                }
            }
        }
    };
}

actions! {
    /// Look at the seal.
    SealStatus = "seal.status",
    /// Forget the keys.
    SealSeal = "seal.seal",
    /// Confirm the time after a clock step, so that deleting goes on.
    SealClock = "seal.clock",
    /// Ask for the ingress key of the next rekey.
    SealRekey = "seal.rekey",
    /// Open an unseal session. Right of the seal's admins.
    SealSession = "seal.session",
    /// Fetch one's own encrypted intermediate key. Right of the seal's admins.
    SealKey = "seal.key",
    /// Give a share. Right of the seal's admins.
    SealShare = "seal.share",
    /// Accept that the store lost commits. Right of k admins.
    SealConsent = "seal.consent",
    /// Make the cluster. Right of the admins that the request names.
    ClusterInit = "cluster.init",
    /// Put the next cluster document.
    DocumentPut = "document.put",
    /// Take a snapshot of the store.
    SnapshotSave = "snapshot.save",
    /// List principals.
    PrincipalList = "principal.list",
    /// Read a principal's record and admission.
    PrincipalRead = "principal.read",
    /// Write a principal's record and admission.
    PrincipalPut = "principal.put",
    /// Refuse a principal from now on.
    PrincipalDisable = "principal.disable",
    /// Take a disabled principal back.
    PrincipalEnable = "principal.enable",
    /// List policies.
    PolicyList = "policy.list",
    /// Read a policy.
    PolicyRead = "policy.read",
    /// Write a policy.
    PolicyPut = "policy.put",
    /// Delete a policy.
    PolicyDelete = "policy.delete",
    /// Ask what a principal may do, and because of which statement.
    PolicyCheck = "policy.check",
    /// Ask why an earlier request was allowed or denied.
    PolicyExplain = "policy.explain",
    /// Replace the whole policy set. Right of k admins.
    PolicyRecover = "policy.recover",
    /// Read the audit log.
    AuditRead = "audit.read",
    /// Read one's own alarms.
    AlarmRead = "alarm.read",
    /// Ask who one is.
    SelfRead = "self.read",
    /// Create a wrap.
    WrapCreate = "wrap.create",
    /// List one's own wraps.
    WrapList = "wrap.list",
    /// Look at a wrap without opening it.
    WrapInspect = "wrap.inspect",
    /// Open a wrap.
    WrapOpen = "wrap.open",
    /// Say that an opened wrap arrived.
    WrapAck = "wrap.ack",
    /// Say that an opened wrap could not be read.
    WrapNack = "wrap.nack",
    /// Take a wrap back.
    WrapRevoke = "wrap.revoke",
    /// Let a wrap be opened that was parked by a restore.
    WrapRelease = "wrap.release",
    /// Read a secret.
    KvGet = "kv.get",
    /// Write a secret.
    KvPut = "kv.put",
    /// List the names below a path.
    KvList = "kv.list",
    /// Learn of a secret's new versions, not their content.
    KvWatch = "kv.watch",
    /// See a secret's history and settings, not its content.
    KvInspect = "kv.inspect",
    /// Change a secret's settings.
    KvConfigure = "kv.configure",
    /// Make versions of a secret unreadable for now.
    KvDelete = "kv.delete",
    /// Take deleted versions of a secret back.
    KvUndelete = "kv.undelete",
    /// Destroy versions of a secret, or all of it.
    KvDestroy = "kv.destroy",
    /// List transit keys.
    TransitList = "transit.list",
    /// Read a transit key's settings and public keys.
    TransitRead = "transit.read",
    /// Make a transit key.
    TransitCreate = "transit.create",
    /// Bring in a key that was made elsewhere.
    TransitImport = "transit.import",
    /// Bring back a transit key from a backup.
    TransitRestore = "transit.restore",
    /// Give a transit key a new version.
    TransitRotate = "transit.rotate",
    /// Change a transit key's settings.
    TransitConfigure = "transit.configure",
    /// Delete a transit key.
    TransitDelete = "transit.delete",
    /// Take a version of a transit key out.
    TransitExport = "transit.export",
    /// Take all of a transit key out.
    TransitBackup = "transit.backup",
    /// Encrypt with a transit key.
    TransitEncrypt = "transit.encrypt",
    /// Decrypt with a transit key.
    TransitDecrypt = "transit.decrypt",
    /// Encrypt anew by a transit key's newest version, unseen.
    TransitRewrap = "transit.rewrap",
    /// Make a data key, and see it.
    TransitDatakey = "transit.datakey",
    /// Make a data key, and not see it.
    TransitDatakeyWrapped = "transit.datakey-wrapped",
    /// Sign with a transit key.
    TransitSign = "transit.sign",
    /// Verify a transit key's signatures and MACs.
    TransitVerify = "transit.verify",
    /// Make MACs with a transit key.
    TransitHmac = "transit.hmac",
    /// Write how a database is reached, or a role of it.
    DatabaseConfigure = "database.configure",
    /// Read how a database is reached, or a role of it; never a password.
    DatabaseRead = "database.read",
    /// List databases, or the roles of one.
    DatabaseList = "database.list",
    /// Delete a database or a role.
    DatabaseDelete = "database.delete",
    /// Have a new password drawn and set.
    DatabaseRotate = "database.rotate",
    /// Get credentials of a role.
    DatabaseIssue = "database.issue",
    /// Get the password of a static role.
    DatabaseStaticCreds = "database.static-creds",
    /// List one's own leases.
    LeaseList = "lease.list",
    /// Look at a lease of one's own.
    LeaseRead = "lease.read",
    /// Let a lease of one's own last longer.
    LeaseRenew = "lease.renew",
    /// End a lease of one's own.
    LeaseRevoke = "lease.revoke",
    /// List and end leases of others.
    LeaseManage = "lease.manage",
}

impl Action {
    /// What stands before the dot: the action group that policies can name.
    pub fn group(self) -> &'static str {
        self.as_str().split_once('.').map_or("", |(group, _)| group)
    }

    /// Whether policy decides. The others rest on the seal configuration or on the admins' signatures, because
    /// they must work while nothing can be read, or repair the policy set itself; they are audited all the same.
    pub const fn asks_policy(self) -> bool {
        !matches!(
            self,
            Self::ClusterInit
                | Self::SealSession
                | Self::SealKey
                | Self::SealShare
                | Self::SealConsent
                | Self::PolicyRecover
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an action is done to. A kind alone is the whole collection, or the one thing of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `cluster`: the installation and its documents.
    Cluster,
    /// `seal`.
    Seal,
    /// `principal`: all of them.
    Principals,
    /// `principal/bob`.
    Principal(Name),
    /// `policy`: all of them.
    Policies,
    /// `policy/team`.
    Policy(Name),
    /// `audit`: the log.
    Audit,
    /// `alarm`: the caller's alarms.
    Alarms,
    /// `self`: what the server knows about the caller.
    Own,
    /// `wrap`: the caller's wraps.
    Wraps,
    /// `wrap/<26 characters of base32>`.
    Wrap(WrapId),
    /// `kv`: the top of the tree.
    KvRoot,
    /// `kv/app/db`: a secret, or the directory of this name.
    Kv(SecretPath),
    /// `transit`: all transit keys.
    Transits,
    /// `transit/orders`.
    Transit(Name),
    /// `database`: all of them.
    Databases,
    /// `database/app`.
    Database(Name),
    /// `database/app/reader`.
    DatabaseRole(RoleName),
    /// `lease`: the caller's leases; to whoever manages them, all.
    Leases,
    /// `lease/<26 characters of base32>`.
    Lease(LeaseId),
}

/// A role of a database, spelled `<database>/<role>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName {
    text: String,
    database: Name,
    role: Name,
}

impl RoleName {
    /// A role of a database.
    pub fn new(database: &Name, role: &Name) -> Self {
        Self { text: format!("{database}/{role}"), database: database.clone(), role: role.clone() }
    }
    /// The database.
    pub fn database(&self) -> &Name {
        &self.database
    }
    /// The role in it.
    pub fn role(&self) -> &Name {
        &self.role
    }
    /// Both, joined by a slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for RoleName {
    type Err = ParseRoleNameError;
    fn from_str(text: &str) -> Result<Self, ParseRoleNameError> {
        let parse = |text: &str| text.parse::<Name>().map_err(|error| ParseRoleNameError(error.to_string()));
        let (database, role) =
            text.split_once('/').ok_or_else(|| ParseRoleNameError("expected <database>/<role>".to_owned()))?;
        Ok(Self { text: text.to_owned(), database: parse(database)?, role: parse(role)? })
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text names no role of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseRoleNameError(String);

impl fmt::Display for ParseRoleNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for ParseRoleNameError {}

impl Resource {
    /// The first segment of its spelling.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Seal => "seal",
            Self::Principals | Self::Principal(_) => "principal",
            Self::Policies | Self::Policy(_) => "policy",
            Self::Audit => "audit",
            Self::Alarms => "alarm",
            Self::Own => "self",
            Self::Wraps | Self::Wrap(_) => "wrap",
            Self::KvRoot | Self::Kv(_) => "kv",
            Self::Transits | Self::Transit(_) => "transit",
            Self::Databases | Self::Database(_) | Self::DatabaseRole(_) => "database",
            Self::Leases | Self::Lease(_) => "lease",
        }
    }

    /// What stands behind `<kind>/`; empty for a kind alone.
    pub fn id(&self) -> Cow<'_, str> {
        match self {
            Self::Principal(name) | Self::Policy(name) | Self::Transit(name) | Self::Database(name) => {
                Cow::Borrowed(name.as_str())
            }
            Self::Wrap(id) => Cow::Owned(id.to_string()),
            Self::Kv(path) => Cow::Borrowed(path.as_str()),
            Self::DatabaseRole(role) => Cow::Borrowed(role.as_str()),
            Self::Lease(id) => Cow::Owned(id.to_string()),
            Self::Cluster
            | Self::Seal
            | Self::Principals
            | Self::Policies
            | Self::Audit
            | Self::Alarms
            | Self::Own
            | Self::Wraps
            | Self::KvRoot
            | Self::Transits
            | Self::Databases
            | Self::Leases => Cow::Borrowed(""),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self.id() {
            id if id.is_empty() => Ok(()),
            id => write!(f, "/{id}"),
        }
    }
}

impl FromStr for Resource {
    type Err = ParseActionError;
    fn from_str(text: &str) -> Result<Self, ParseActionError> {
        fn id<T: FromStr<Err: fmt::Display>>(kind: &'static str, text: &str) -> Result<T, ParseActionError> {
            text.parse().map_err(|error: T::Err| ParseActionError::BadId { kind, reason: error.to_string() })
        }
        let (kind, rest) = match text.split_once('/') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        let single = |resource: Self| match rest {
            None => Ok(resource),
            Some(_) => Err(ParseActionError::SingleResource(resource.kind())),
        };
        match (kind, rest) {
            ("cluster", _) => single(Self::Cluster),
            ("seal", _) => single(Self::Seal),
            ("audit", _) => single(Self::Audit),
            ("alarm", _) => single(Self::Alarms),
            ("self", _) => single(Self::Own),
            ("principal", None) => Ok(Self::Principals),
            ("principal", Some(name)) => id("principal", name).map(Self::Principal),
            ("policy", None) => Ok(Self::Policies),
            ("policy", Some(name)) => id("policy", name).map(Self::Policy),
            ("wrap", None) => Ok(Self::Wraps),
            ("wrap", Some(wrap)) => id("wrap", wrap).map(Self::Wrap),
            ("kv", None) => Ok(Self::KvRoot),
            ("kv", Some(path)) => id("kv", path).map(Self::Kv),
            ("transit", None) => Ok(Self::Transits),
            ("transit", Some(name)) => id("transit", name).map(Self::Transit),
            ("database", None) => Ok(Self::Databases),
            ("database", Some(name)) if name.contains('/') => id("database", name).map(Self::DatabaseRole),
            ("database", Some(name)) => id("database", name).map(Self::Database),
            ("lease", None) => Ok(Self::Leases),
            ("lease", Some(lease)) => id("lease", lease).map(Self::Lease),
            _ => Err(ParseActionError::UnknownKind),
        }
    }
}

/// Serialises by `Display` and parses by `FromStr`, so that audit lines and the terminal share one spelling.
macro_rules! text_serde {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
pub(crate) use text_serde;

text_serde!(Action, Resource);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_one_spelling() {
        assert_eq!("pg/app".parse::<RoleName>().unwrap().to_string(), "pg/app");
        for bad in ["", "pg", "/app", "pg/", "pg/app/x", "pg /app"] {
            assert!(bad.parse::<RoleName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn actions_have_one_spelling() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse(), Ok(*action));
            assert!(action.as_str().starts_with(&format!("{}.", action.group())));
            assert!(action.to_string().to_uppercase().parse::<Action>().is_err());
        }
        assert_eq!(Action::ALL.iter().filter(|action| !action.asks_policy()).count(), 6);
        for bad in ["", "kv", "kv.", ".get", "kv.get ", "Kv.get", "kv.drop"] {
            assert_eq!(bad.parse::<Action>(), Err(ParseActionError::UnknownAction), "{bad}");
        }
    }

    #[test]
    fn resources_have_one_spelling() {
        let wrap = format!("wrap/{}", WrapId::new([7; 16]));
        let good = ["cluster", "seal", "principal", "principal/bob", "policy", "policy/team", "audit", "alarm", "self"];
        let more = ["wrap", &wrap, "kv", "kv/app", "kv/app/db", "transit", "transit/orders"];
        let leases = ["database", "database/app", "database/app/reader", "lease"];
        for text in good.into_iter().chain(more).chain(leases) {
            assert_eq!(text.parse::<Resource>().map(|resource| resource.to_string()), Ok(text.to_owned()));
        }
        for (bad, message) in [
            ("", "no such resource"),
            ("KV/app", "no such resource"),
            ("/kv/app", "no such resource"),
            ("seal/", "takes nothing behind it"),
            ("self/alice", "takes nothing behind it"),
            ("kv/", "behind \"kv/\": a name has 1 to 128 bytes"),
            ("kv/app/", "a path ends with a name"),
            ("kv/app/../db", "a name is not"),
            ("principal/a/b", "a name holds only"),
            ("transit/a/b", "behind \"transit/\": a name holds only"),
            ("wrap/1", "26 characters of lower-case base32"),
            ("database/a/b/c", "a name holds only"),
            ("database/a/", "behind \"database/\": a name has 1 to 128 bytes"),
            ("lease/1", "26 characters of lower-case base32"),
        ] {
            let error = bad.parse::<Resource>().map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|text| text.contains(message)), "{bad}: {error:?}");
        }
    }
}
