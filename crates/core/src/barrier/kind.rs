//! Kinds of records.

macro_rules! kinds {
    ($(#[doc = $doc:literal] $variant:ident = $number:literal,)*) => {
        /// What a record is. The numbers are part of the format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $(#[doc = $doc] $variant = $number,)*
        }
        impl Kind {
            /// Every kind, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

kinds! {
    /// A principal under its name.
    Principal = 1,
    /// The name of the principal that holds a signing key or recipient.
    Key = 2,
    /// A policy under its name.
    Policy = 3,
    /// Parts of a wrap.
    Wrap = 4,
    /// Receipts of a wrap's slots.
    Receipt = 5,
    /// A principal's wraps in the order of their creation.
    Mine = 6,
    /// A principal's alarms.
    Alarm = 7,
    /// What is due at a time of the clock.
    Due = 8,
    /// What is due at a time of the active clock.
    DueActive = 9,
    /// Entries of a directory of secrets.
    Kv = 10,
    /// A piece of a large value.
    Chunk = 11,
    /// A large value that is being written.
    Upload = 12,
    /// How far a principal's list of alarms goes, and how far it has read it.
    AlarmCursor = 13,
    /// The ingress key that the next rekey brings.
    NextIngress = 14,
    /// The content of one version of a secret.
    KvVersion = 15,
    /// Settings of a transit key.
    TransitKey = 16,
    /// A version of a transit key.
    TransitVersion = 17,
    /// A lease.
    Lease = 18,
    /// What is due of the leases of one database, by time.
    LeaseDue = 19,
    /// A principal's leases in the order of their beginning, and how many there are.
    LeaseOwner = 20,
    /// Which leases are to be revoked, until all of them are marked.
    LeaseDemand = 21,
    /// How a database is reached.
    Database = 22,
    /// A role of a database.
    DatabaseRole = 23,
    /// What is due at a time of the clock and is carried by snapshots, as what it is about is.
    DueKept = 24,
    /// A static role of a database, and by which of them a user is administered.
    StaticRole = 25,
    /// Who vouches for a database's users by certificates.
    DatabaseAuthority = 26,
}

impl Kind {
    /// The indexes by time. They stand in clear and without a directory: a sweep scans them from the start.
    pub const DUE: [Self; 3] = [Self::Due, Self::DueActive, Self::DueKept];

    pub(super) fn is_due(self) -> bool {
        Self::DUE.contains(&self)
    }
}
