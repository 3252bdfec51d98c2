//! Encrypt, decrypt, encrypt anew by the newest version, make data keys.

use super::{
    FEW_ITEMS, Settings, Stop, answer, bytes, count, made, optional_bytes, settings, settings_key, settle, version_key,
};
use crate::barrier::{RecordKey, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::transit::{Place, TransitKey, Use};
use bulla_wire::api::{self, Ciphertexts, DecryptItem, EncryptItem, Plaintexts, Versioned, WrappedDatakey};
use bulla_wire::encoding::base64url;
use bulla_wire::error::Code;
use bulla_wire::name::Name;

impl Settings {
    fn place(&self, version: u32) -> Place<'_> {
        Place { name: self.name.as_str(), version }
    }

    /// Encrypts by one version.
    fn encrypt(
        &self,
        key: &TransitKey,
        version: u32,
        plaintext: &[u8],
        associated_data: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<String, Stop> {
        let made = key.encrypt(self.place(version), associated_data, plaintext, rng);
        let bytes = made.map_err(|error| self.refusal(error))?;
        Ok(Versioned { version, bytes }.to_string())
    }
}

/// `POST /v1/transit/{name}:encrypt`.
#[derive(Debug)]
pub struct Encrypt {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Encrypt,
}

impl Encrypt {
    fn run(&self, records: &Records, rng: &mut dyn Rng) -> Result<Step, Stop> {
        count(self.body.items.len())?;
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_encrypts()?;
        let version = settings.making(self.body.version)?;
        let key = settings.key(records, version, Use::Encrypt)?;
        let mut one = |item: &EncryptItem| {
            let plaintext = bytes("plaintext", &item.plaintext)?;
            let associated_data = optional_bytes("associated_data", item.associated_data.as_ref())?;
            settings.encrypt(&key, version, plaintext.expose(), associated_data.expose(), rng)
        };
        let items = answer(self.body.items.iter().map(&mut one).collect())?;
        Ok(Outcome::read(Reply::json(&Ciphertexts { items })))
    }
}

impl Operation for Encrypt {
    fn step(&self, records: &Records, _: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records, rng))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > FEW_ITEMS
    }
}

/// Ciphertexts, each with the associated data of its encryption.
struct Undone {
    settings: Settings,
    plaintexts: Vec<Result<(SecretBytes, SecretBytes), Stop>>,
}

/// Decrypts a batch: plaintext and associated data of each.
fn undo(records: &Records, name: &Name, items: &[DecryptItem]) -> Result<Undone, Stop> {
    count(items.len())?;
    let made = made(items.iter().map(|item| item.ciphertext.as_str()));
    if records.get(&settings_key(name)).is_none() {
        // The versions are asked for at once; those that there are not, or no more, are refused afterwards.
        let versions: std::collections::BTreeSet<u32> = made
            .iter()
            .flatten()
            .map(|made| made.version)
            .filter(|version| *version <= api::MAX_TRANSIT_VERSIONS)
            .collect();
        let keys: Vec<RecordKey> = versions.into_iter().map(|version| version_key(name, version)).collect();
        return Err(Stop::Need(keys.into_iter().chain([settings_key(name)]).collect()));
    }
    let (_, settings) = settings(records, name)?;
    settings.demand_encrypts()?;
    settings.demand_few(items.len())?;
    let keys = settings.keys(records, &made, Use::Encrypt)?;
    let one = |(item, made): (&DecryptItem, Result<Versioned, Refusal>)| {
        let made = made?;
        let key = settings.of(&keys, &made)?;
        let associated_data = optional_bytes("associated_data", item.associated_data.as_ref())?;
        let plaintext = key.decrypt(settings.place(made.version), associated_data.expose(), &made.bytes);
        Ok((plaintext.map_err(|error| settings.refusal(error))?, associated_data))
    };
    let plaintexts = items.iter().zip(made).map(one).collect();
    Ok(Undone { settings, plaintexts })
}

/// `POST /v1/transit/{name}:decrypt`.
#[derive(Debug)]
pub struct Decrypt {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Decrypt,
}

impl Decrypt {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        let undone = undo(records, &self.name, &self.body.items)?;
        let texts = undone.plaintexts.into_iter().map(|one| one.map(|(plaintext, _)| base64url(plaintext.expose())));
        Ok(Outcome::read(Reply::secret(&Plaintexts { items: answer(texts.collect())? })))
    }
}

impl Operation for Decrypt {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > 1
    }
}

/// `POST /v1/transit/{name}:rewrap`: the plaintext is seen by nobody.
#[derive(Debug)]
pub struct Rewrap {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Decrypt,
}

impl Rewrap {
    fn run(&self, records: &Records, rng: &mut dyn Rng) -> Result<Step, Stop> {
        let Undone { settings, plaintexts } = undo(records, &self.name, &self.body.items)?;
        let key = settings.key(records, settings.latest, Use::Encrypt)?;
        let mut one = |undone: Result<(SecretBytes, SecretBytes), Stop>| {
            let (plaintext, associated_data) = undone?;
            settings.encrypt(&key, settings.latest, plaintext.expose(), associated_data.expose(), rng)
        };
        let items = answer(plaintexts.into_iter().map(&mut one).collect())?;
        Ok(Outcome::read(Reply::json(&Ciphertexts { items })))
    }
}

impl Operation for Rewrap {
    fn step(&self, records: &Records, _: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records, rng))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > 1
    }
}

/// `POST /v1/transit/{name}:datakey` and `:datakey-wrapped`.
#[derive(Debug)]
pub struct Datakey {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::NewDatakey,
    /// Whether the caller is not to see it.
    pub wrapped: bool,
}

impl Datakey {
    fn run(&self, records: &Records, rng: &mut dyn Rng) -> Result<Step, Stop> {
        let length = match self.body.bytes {
            16 => 16,
            32 => 32,
            64 => 64,
            other => {
                let refusal = Refusal::new(Code::Malformed, format!("a data key of {other} bytes is not made"));
                return Err(refusal.field("bytes").hint("ask for 16, 32 or 64 bytes").into());
            }
        };
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_encrypts()?;
        let key = settings.key(records, settings.latest, Use::Encrypt)?;
        let associated_data = optional_bytes("associated_data", self.body.associated_data.as_ref())?;
        let mut plaintext = SecretBytes::new(vec![0; length]);
        rng.fill(plaintext.expose_mut());
        let ciphertext = settings.encrypt(&key, settings.latest, plaintext.expose(), associated_data.expose(), rng)?;
        Ok(Outcome::read(match self.wrapped {
            true => Reply::json(&WrappedDatakey { ciphertext }),
            false => Reply::secret(&api::Datakey { plaintext: base64url(plaintext.expose()), ciphertext }),
        }))
    }
}

impl Operation for Datakey {
    fn step(&self, records: &Records, _: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records, rng))
    }
}
