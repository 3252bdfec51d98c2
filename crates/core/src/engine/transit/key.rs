//! Keys themselves: made, listed, read, rotated, configured, deleted; taken out and brought in where that is allowed.

use super::{Material, Settings, Stop, Version, bytes, found, settings, settings_key, settle, version_key};
use crate::barrier::{Cursor, Expect, Kind, Query, Records, Writes};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::pem;
use bulla_crypto::random::Rng;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::transit::{self, TransitKey};
use bulla_wire::api::{
    self, BackupVersion, ConfigureTransitKey, CreateTransitKey, Done, ExportTransitKey, ExportedKey, ImportTransitKey,
    KeyKind, MAX_TRANSIT_VERSIONS, TransitBackup, TransitKeys, TransitVersion,
};
use bulla_wire::encoding::base64url;
use bulla_wire::error::Code;
use bulla_wire::json::{self, V1};
use bulla_wire::name::Name;

impl Version {
    /// A version as it is stored, with the public key that belongs to it.
    fn new(settings: &Settings, version: u32, created_ms: u64, key: SecretBytes) -> Result<Self, Stop> {
        let parsed = TransitKey::parse(settings.kind, key.expose()).map_err(|error| settings.refusal(error))?;
        let text = |spki: &[u8]| String::from_utf8_lossy(pem::write("PUBLIC KEY", spki).expose()).into_owned();
        let public_key = parsed.public_key().map(|public| text(public.spki()));
        Ok(Self { version, created_ms, key: Material(key), public_key })
    }

    fn shown(&self) -> TransitVersion {
        TransitVersion { version: self.version, created_ms: self.created_ms, public_key: self.public_key.clone() }
    }
}

impl Settings {
    fn new(name: &Name, kind: KeyKind, exportable: bool, deletion_allowed: bool) -> Self {
        let name = name.clone();
        Self { name, kind, latest: 1, min_decryption: 1, min_encryption: 0, exportable, deletion_allowed }
    }

    fn shown(&self, versions: Vec<TransitVersion>) -> api::TransitKey {
        api::TransitKey {
            name: self.name.clone(),
            kind: self.kind,
            latest_version: self.latest,
            min_decryption_version: self.min_decryption,
            min_encryption_version: self.min_encryption,
            exportable: self.exportable,
            deletion_allowed: self.deletion_allowed,
            versions,
        }
    }

    /// All versions in one page: there are at most as many as a page may have.
    fn every_version(&self) -> Query {
        Query::Scan {
            kind: Kind::TransitVersion,
            dir: self.name.as_str().into(),
            after: None,
            limit: usize::try_from(MAX_TRANSIT_VERSIONS).unwrap_or(usize::MAX),
        }
    }

    /// Whether all versions were read; they are as many as the settings say.
    fn versions(&self, records: &Records) -> Result<Option<Vec<Version>>, Stop> {
        let Some((page, _)) = records.page(&self.every_version()) else { return Ok(None) };
        let versions: Vec<Version> =
            page.iter().map(|record| parse_record("transit version", &record.bytes)).collect::<Result<_, Fault>>()?;
        let whole = (1..=self.latest).eq(versions.iter().map(|version| version.version));
        if !whole {
            let reason = "its versions are not those that its settings tell".into();
            return Err(Fault::Record { kind: "transit key", reason }.into());
        }
        Ok(Some(versions))
    }

    /// Reads all versions, together with the settings.
    fn need_versions(&self) -> Step {
        Step::Need(vec![Query::Get(settings_key(&self.name)), self.every_version()])
    }

    fn demand_exportable(&self, verb: &str) -> Result<(), Refusal> {
        if self.exportable {
            return Ok(());
        }
        let refusal = Refusal::new(Code::KeyProtected, format!("{} is not exportable, so it is not {verb}", self.name));
        Err(refusal.hint("that was settled when it was made; a snapshot of the cluster holds all keys"))
    }
}

/// The writes of a key that must not be there yet, and its answer.
fn create(
    records: &Records,
    settings: &Settings,
    versions: impl FnOnce() -> Result<Vec<Version>, Stop>,
) -> Result<Step, Stop> {
    let name = &settings.name;
    if found(records, &settings_key(name))?.is_some() {
        let refusal = Refusal::new(Code::Exists, format!("there is a transit key {name}"));
        return Err(refusal.hint("`bulla transit rotate` gives it a new version; or choose another name").into());
    }
    let versions = versions()?;
    let mut writes = Writes::default();
    writes.create(settings_key(name), json::to_vec(settings));
    let mut shown = Vec::with_capacity(versions.len());
    for version in &versions {
        shown.push(version.shown());
        writes.create(version_key(name, version.version), json::to_vec(version));
    }
    Ok(Outcome::wrote(writes, Reply::json(&settings.shown(shown)), Replay::Kept))
}

/// `PUT /v1/transit/{name}`.
#[derive(Debug)]
pub struct Create {
    /// Its name.
    pub name: Name,
    /// What it is to be.
    pub body: CreateTransitKey,
}

impl Operation for Create {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let CreateTransitKey { kind, exportable, deletion_allowed } = self.body;
        let settings = Settings::new(&self.name, kind, exportable, deletion_allowed);
        let first = || {
            let key = transit::generate(kind, rng).map_err(|_| Fault::Key("generator of transit keys"))?;
            Ok(vec![Version::new(&settings, 1, context.now.unix_ms, key)?])
        };
        settle(create(records, &settings, first))
    }
    fn may_take_long(&self) -> bool {
        self.body.kind.is_rsa()
    }
}

/// `POST /v1/transit/{name}:import`.
#[derive(Debug)]
pub struct Import {
    /// Its name.
    pub name: Name,
    /// The key.
    pub body: ImportTransitKey,
}

impl Operation for Import {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let ImportTransitKey { kind, key, exportable, deletion_allowed } = &self.body;
        let settings = Settings::new(&self.name, *kind, *exportable, *deletion_allowed);
        let first = || {
            let version = Version::new(&settings, 1, context.now.unix_ms, bytes("key", key)?);
            Ok(vec![version.map_err(|stop| stop.field("key"))?])
        };
        settle(create(records, &settings, first))
    }
    fn may_take_long(&self) -> bool {
        self.body.kind.is_rsa()
    }
}

/// `POST /v1/transit/{name}:restore`.
#[derive(Debug)]
pub struct Restore {
    /// Its name.
    pub name: Name,
    /// What `:backup` answered.
    pub body: TransitBackup,
}

impl Restore {
    fn settings(&self) -> Result<Settings, Refusal> {
        let malformed = |field: &str, message: String| Refusal::new(Code::Malformed, message).field(field);
        let backup = &self.body;
        if backup.name != self.name {
            let refusal = malformed("name", format!("this is a backup of {}, not of {}", backup.name, self.name));
            return Err(refusal.hint("what a key made is bound to its name, so it is restored under the same"));
        }
        let latest = u32::try_from(backup.versions.len()).unwrap_or(u32::MAX);
        if latest == 0 || latest > MAX_TRANSIT_VERSIONS {
            let message = format!("a key has 1 to {MAX_TRANSIT_VERSIONS} versions");
            return Err(malformed("versions", message).hint("give a backup as `bulla transit backup` wrote it"));
        }
        let settings = Settings {
            latest,
            min_decryption: backup.min_decryption_version,
            min_encryption: backup.min_encryption_version,
            // Whoever has the backup has the key.
            ..Settings::new(&self.name, backup.kind, true, backup.deletion_allowed)
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Operation for Restore {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let all = || {
            let one = |(number, BackupVersion { created_ms, key }): (u32, &BackupVersion)| {
                let version = Version::new(&settings, number, *created_ms, bytes("key", key)?);
                version.map_err(|stop| stop.field(format!("versions[{}].key", number.saturating_sub(1))))
            };
            (1..).zip(&self.body.versions).map(one).collect()
        };
        settle(create(records, &settings, all))
    }
    fn may_take_long(&self) -> bool {
        true
    }
}

/// `GET /v1/transit`.
#[derive(Debug, Clone)]
pub struct List {
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let query = Query::Scan { kind: Kind::TransitKey, dir: vec![], after: self.after.clone(), limit: self.limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut names = Vec::with_capacity(page.len());
        for record in page {
            names.push(parse_record::<Settings>("transit key", &record.bytes)?.name);
        }
        names.sort_unstable();
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&TransitKeys { names, next })))
    }
}

/// `GET /v1/transit/{name}`.
#[derive(Debug, Clone)]
pub struct Read {
    /// The key.
    pub name: Name,
}

impl Read {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let (_, settings) = settings(records, &self.name)?;
        let Some(versions) = settings.versions(records)? else { return Ok(settings.need_versions()) };
        let shown = versions.iter().map(Version::shown).collect();
        Ok(Outcome::read(Reply::json(&settings.shown(shown))))
    }
}

impl Operation for Read {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
}

/// `POST /v1/transit/{name}:rotate`.
#[derive(Debug, Clone)]
pub struct Rotate {
    /// The key.
    pub name: Name,
}

impl Rotate {
    fn run(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Stop> {
        let (record, mut settings) = settings(records, &self.name)?;
        if settings.latest >= MAX_TRANSIT_VERSIONS {
            let message = format!("{} has {MAX_TRANSIT_VERSIONS} versions, which are all it may have", self.name);
            let refusal = Refusal::new(Code::TooManyVersions, message);
            return Err(refusal.hint("make a key of another name, and encrypt with that from now on").into());
        }
        settings.latest = settings.latest.saturating_add(1);
        let key = transit::generate(settings.kind, rng).map_err(|_| Fault::Key("generator of transit keys"))?;
        let version = Version::new(&settings, settings.latest, context.now.unix_ms, key)?;
        let mut writes = Writes::default();
        writes.replace(settings_key(&self.name), Some(record), json::to_vec(&settings));
        writes.create(version_key(&self.name, settings.latest), json::to_vec(&version));
        Ok(Outcome::wrote(writes, Reply::json(&settings.shown(vec![version.shown()])), Replay::Kept))
    }
}

impl Operation for Rotate {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records, context, rng))
    }
    fn may_take_long(&self) -> bool {
        true
    }
}

impl Settings {
    /// Whether the oldest versions in use are versions, in their order.
    fn check(&self) -> Result<(), Refusal> {
        let wrong = |field: &str, message: String, hint: &str| {
            Err(Refusal::new(Code::Malformed, message).field(field).hint(hint))
        };
        let latest = self.latest;
        if !(1..=latest).contains(&self.min_decryption) {
            let message = format!("min_decryption_version is 1 to {latest}, not {}", self.min_decryption);
            return wrong("min_decryption_version", message, "name one of its versions");
        }
        if self.min_encryption != 0 && !(self.min_decryption..=latest).contains(&self.min_encryption) {
            let (oldest, asked) = (self.min_decryption, self.min_encryption);
            let message = format!("min_encryption_version is 0 or {oldest} to {latest}, not {asked}");
            let hint = "0 takes the newest alone; what encrypts must be able to decrypt";
            return wrong("min_encryption_version", message, hint);
        }
        Ok(())
    }
}

/// `POST /v1/transit/{name}:configure`.
#[derive(Debug)]
pub struct Configure {
    /// The key.
    pub name: Name,
    /// What changes.
    pub body: ConfigureTransitKey,
}

impl Configure {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let (record, mut settings) = settings(records, &self.name)?;
        let ConfigureTransitKey { deletion_allowed, min_decryption_version, min_encryption_version } = self.body;
        settings.deletion_allowed = deletion_allowed.unwrap_or(settings.deletion_allowed);
        settings.min_decryption = min_decryption_version.unwrap_or(settings.min_decryption);
        settings.min_encryption = min_encryption_version.unwrap_or(settings.min_encryption);
        settings.check()?;
        let mut writes = Writes::default();
        writes.replace(settings_key(&self.name), Some(record), json::to_vec(&settings));
        Ok(Outcome::wrote(writes, Reply::json(&settings.shown(vec![])), Replay::Kept))
    }
}

impl Operation for Configure {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
}

/// `DELETE /v1/transit/{name}`.
#[derive(Debug, Clone)]
pub struct Delete {
    /// The key.
    pub name: Name,
}

impl Delete {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let (record, settings) = settings(records, &self.name)?;
        if !settings.deletion_allowed {
            let refusal = Refusal::new(Code::KeyProtected, format!("{} may not be deleted", self.name));
            let hint = "`bulla transit configure --deletion-allowed true` first; what it encrypted is lost with it";
            return Err(refusal.hint(hint).into());
        }
        let mut writes = Writes::default();
        writes.expect.push((settings_key(&self.name), Expect::At(record.revision)));
        writes.delete(settings_key(&self.name));
        (1..=settings.latest).for_each(|version| writes.delete(version_key(&self.name, version)));
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

impl Operation for Delete {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
}

/// `POST /v1/transit/{name}:export`.
#[derive(Debug, Clone)]
pub struct Export {
    /// The key.
    pub name: Name,
    /// Which version.
    pub body: ExportTransitKey,
}

impl Export {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_exportable("exported")?;
        let version = self.body.version.unwrap_or(settings.latest);
        if !(1..=settings.latest).contains(&version) {
            let refusal = Refusal::new(Code::UnknownVersion, format!("{} has no version {version}", self.name));
            return Err(refusal.field("version").hint("`bulla transit read` shows the versions").into());
        }
        let stored = settings.version(records, version)?;
        let key = base64url(stored.key.0.expose());
        let exported = ExportedKey { name: settings.name, kind: settings.kind, version, key };
        Ok(Outcome::read(Reply::secret(&exported)))
    }
}

impl Operation for Export {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
}

/// `POST /v1/transit/{name}:backup`.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The key.
    pub name: Name,
}

impl Backup {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_exportable("backed up")?;
        let Some(versions) = settings.versions(records)? else { return Ok(settings.need_versions()) };
        let versions = versions
            .iter()
            .map(|version| BackupVersion { created_ms: version.created_ms, key: base64url(version.key.0.expose()) })
            .collect();
        Ok(Outcome::read(Reply::secret(&TransitBackup {
            v: V1,
            name: settings.name,
            kind: settings.kind,
            min_decryption_version: settings.min_decryption,
            min_encryption_version: settings.min_encryption,
            deletion_allowed: settings.deletion_allowed,
            versions,
        })))
    }
}

impl Operation for Backup {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
}
