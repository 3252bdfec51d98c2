//! Sign, verify; MACs and their verification.

use super::{FEW_ITEMS, Settings, Stop, answer, bytes, count, made, settings, settle};
use crate::barrier::Records;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::transit::{Signed, Use};
use bulla_wire::api::{self, DigestAlgorithm, HmacItem, Macs, SignItem, Signatures, Verdicts, Versioned};
use bulla_wire::error::Code;
use bulla_wire::name::Name;

/// What one item says is signed: a message or its digest.
enum Input {
    Message(SecretBytes),
    Digest(SecretBytes),
}

impl Input {
    fn read(
        message: Option<&String>,
        digest: Option<&String>,
        algorithm: Option<DigestAlgorithm>,
    ) -> Result<Self, Refusal> {
        match (message, digest) {
            (Some(message), None) => bytes("message", message).map(Self::Message),
            (None, Some(digest)) if algorithm.is_some() => bytes("digest", digest).map(Self::Digest),
            (None, Some(_)) => Err(Refusal::new(Code::Malformed, "a digest is given, and no algorithm")
                .hint("name sha-256, sha-384 or sha-512 in digest_algorithm")),
            (Some(_), Some(_)) | (None, None) => Err(Refusal::new(Code::Malformed, "not one of message and digest")
                .hint("give the message, or its digest with digest_algorithm")),
        }
    }

    fn signed(&self) -> Signed<'_> {
        match self {
            Self::Message(bytes) => Signed::Message(bytes.expose()),
            Self::Digest(bytes) => Signed::Digest(bytes.expose()),
        }
    }
}

/// `POST /v1/transit/{name}:sign`.
#[derive(Debug)]
pub struct Sign {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Sign,
}

impl Sign {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        count(self.body.items.len())?;
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_signs()?;
        settings.demand_few(self.body.items.len())?;
        let version = settings.making(self.body.version)?;
        let key = settings.key(records, version, Use::Sign)?;
        let algorithm = self.body.digest_algorithm;
        let one = |item: &SignItem| {
            let input = Input::read(item.message.as_ref(), item.digest.as_ref(), algorithm)?;
            let bytes = key.sign(input.signed(), algorithm).map_err(|error| settings.refusal(error))?;
            Ok(Versioned { version, bytes }.to_string())
        };
        let items = answer(self.body.items.iter().map(one).collect())?;
        Ok(Outcome::read(Reply::json(&Signatures { kind: settings.kind, items })))
    }
}

impl Operation for Sign {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > 1
    }
}

/// Verifies what keys of several versions made.
fn verdicts<T>(
    records: &Records,
    settings: &Settings,
    items: &[T],
    text: impl Fn(&T) -> &str,
    holds: impl Fn(&bulla_crypto::transit::TransitKey, &T, &[u8]) -> Result<bool, Stop>,
) -> Result<Step, Stop> {
    let made = made(items.iter().map(text));
    let keys = settings.keys(records, &made, Use::Sign)?;
    let one = |(item, made): (&T, Result<Versioned, Refusal>)| {
        let made = made?;
        holds(settings.of(&keys, &made)?, item, &made.bytes)
    };
    let items = answer(items.iter().zip(made).map(one).collect())?;
    Ok(Outcome::read(Reply::json(&Verdicts { items })))
}

/// `POST /v1/transit/{name}:verify`.
#[derive(Debug)]
pub struct Verify {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Verify,
}

impl Verify {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        count(self.body.items.len())?;
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_signs()?;
        let algorithm = self.body.digest_algorithm;
        verdicts(
            records,
            &settings,
            &self.body.items,
            |item| &item.signature,
            |key, item, signature| {
                let input = Input::read(item.message.as_ref(), item.digest.as_ref(), algorithm)?;
                key.verify(input.signed(), algorithm, signature).map_err(|error| settings.refusal(error))
            },
        )
    }
}

impl Operation for Verify {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > FEW_ITEMS
    }
}

/// `POST /v1/transit/{name}:hmac`.
#[derive(Debug)]
pub struct Hmac {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::Hmac,
}

impl Hmac {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        count(self.body.items.len())?;
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_macs()?;
        let version = settings.making(self.body.version)?;
        let key = settings.key(records, version, Use::Sign)?;
        let one = |item: &HmacItem| {
            let message = bytes("message", &item.message)?;
            let mac = key.hmac(message.expose()).map_err(|error| settings.refusal(error))?;
            Ok(Versioned { version, bytes: mac.to_vec() }.to_string())
        };
        let items = answer(self.body.items.iter().map(one).collect())?;
        Ok(Outcome::read(Reply::json(&Macs { items })))
    }
}

impl Operation for Hmac {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > FEW_ITEMS
    }
}

/// `POST /v1/transit/{name}:verify-hmac`.
#[derive(Debug)]
pub struct VerifyHmac {
    /// The key.
    pub name: Name,
    /// What.
    pub body: api::VerifyHmac,
}

impl VerifyHmac {
    fn run(&self, records: &Records) -> Result<Step, Stop> {
        count(self.body.items.len())?;
        let (_, settings) = settings(records, &self.name)?;
        settings.demand_macs()?;
        verdicts(
            records,
            &settings,
            &self.body.items,
            |item| &item.mac,
            |key, item, mac| {
                let message = bytes("message", &item.message)?;
                key.verify_hmac(message.expose(), mac).map_err(|error| settings.refusal(error))
            },
        )
    }
}

impl Operation for VerifyHmac {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        settle(self.run(records))
    }
    fn may_take_long(&self) -> bool {
        self.body.items.len() > FEW_ITEMS
    }
}
