//! What clients ask for, and what they are told.

use crate::stage::{ALICE, Stage, Terms};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::share::open_in_memory;
use bulla_testkit::raw::{self, Reply, Request};
use bulla_wire::api::{self, AlarmKind, SlotState};
use bulla_wire::challenge::Challenge;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, Nonce, PrincipalId, WrapId};
use bulla_wire::json::{self, StrictMap};
use bulla_wire::signature::{Audience, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use bulla_wire::wrap::{Parcel, Receipt, ReceiptKind};

pub const AGE: &str = "application/age";
pub const PARCEL: &str = "application/vnd.bulla.wrap";
/// Where secrets lie.
pub const SECRETS: [&str; 2] = ["app/db", "app/cache"];

/// What somebody asks for; numbers are places in the stage's lists and the seed's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Create {
        wrap: usize,
    },
    Inspect {
        wrap: usize,
    },
    Open {
        wrap: usize,
        claim: usize,
    },
    Ack {
        wrap: usize,
        claim: usize,
    },
    Nack {
        wrap: usize,
        claim: usize,
    },
    Revoke {
        wrap: usize,
    },
    /// Lets a wrap be opened that waits since a restore.
    Release {
        wrap: usize,
    },
    Put {
        secret: usize,
        value: usize,
    },
    Get {
        secret: usize,
    },
    /// Asks for a secret's value as if it were a name: only in a wrong world.
    Misplace {
        value: usize,
    },
    Alarms,
    Disable {
        person: usize,
    },
    Seal,
    ConfirmClock,
    /// Puts the document that the seed has drawn up.
    Rekey,
}

impl Kind {
    /// The wrap that it is about.
    pub fn wrap(self) -> Option<usize> {
        match self {
            Self::Create { wrap }
            | Self::Inspect { wrap }
            | Self::Open { wrap, .. }
            | Self::Ack { wrap, .. }
            | Self::Nack { wrap, .. }
            | Self::Revoke { wrap }
            | Self::Release { wrap } => Some(wrap),
            _ => None,
        }
    }

    /// The action of its line in the audit log, if it commits something.
    pub fn action(self) -> Option<&'static str> {
        Some(match self {
            Self::Create { .. } => "wrap.create",
            Self::Open { .. } => "wrap.open",
            Self::Ack { .. } => "wrap.ack",
            Self::Nack { .. } => "wrap.nack",
            Self::Revoke { .. } => "wrap.revoke",
            Self::Put { .. } => "kv.put",
            Self::Disable { .. } => "principal.disable",
            Self::Rekey => "document.put",
            _ => return None,
        })
    }

    /// Whether it changes something, so that it happens once and says the same again.
    pub fn is_kept(self) -> bool {
        !matches!(
            self,
            Self::Inspect { .. } | Self::Open { .. } | Self::Get { .. } | Self::Misplace { .. } | Self::Alarms
        )
    }
}

/// A wrap of this seed.
#[derive(Debug)]
pub struct Wrap {
    pub file: usize,
    pub terms: Terms,
    pub statement: Digest,
    body: Vec<u8>,
}

impl Wrap {
    pub fn new(stage: &Stage, file: usize, terms: Terms) -> Self {
        let (body, statement) = stage.parcel(&stage.files[file], &terms);
        Self { file, terms, statement, body }
    }

    /// Whose slots it has: with mode `first` one, which is anybody's.
    pub fn slots(&self, stage: &Stage) -> Vec<Vec<usize>> {
        let to = &stage.files[self.file].to;
        match self.terms.mode {
            bulla_wire::wrap::Mode::First => vec![to.clone()],
            bulla_wire::wrap::Mode::Each => to.iter().map(|person| vec![*person]).collect(),
        }
    }

    pub fn is_party(&self, stage: &Stage, person: usize) -> bool {
        person == ALICE || stage.files[self.file].to.contains(&person)
    }
}

/// What clients know who ask for something.
pub struct Known<'a> {
    pub stage: &'a Stage,
    pub view: &'a ClusterView,
    pub wraps: &'a [Wrap],
    /// The next document.
    pub document: Option<&'a Envelope>,
}

/// Something that a client wants, until it knows what came of it.
#[derive(Debug)]
pub struct Op {
    pub who: usize,
    pub kind: Kind,
    pub nonce: Nonce,
    request: Request,
    /// How often it was sent.
    pub sent: u32,
    /// Letters about it that are on their way, and attempts that run.
    pub under_way: usize,
    pub done: Option<Outcome>,
}

impl Op {
    /// Draws up a request in the minute of this challenge.
    pub fn new(world: &Known<'_>, who: usize, kind: Kind, nonce: Nonce) -> Self {
        let request = draw_up(world, who, kind, &nonce);
        Self { who, kind, nonce, request, sent: 0, under_way: 0, done: None }
    }

    /// The request, signed with this challenge.
    pub fn signed(&self, stage: &Stage, challenge: &Challenge) -> Request {
        let audience = Audience::Cluster(stage.view.id()).to_string();
        raw::sign(&stage.people[self.who].identity, &audience, challenge, self.request.clone(), self.nonce)
    }
}

fn draw_up(known: &Known<'_>, who: usize, kind: Kind, nonce: &Nonce) -> Request {
    let Known { stage, view, wraps, document } = known;
    let path = |wrap: usize, verb: &str| format!("/v1/wrap/{}{verb}", stage.files[wraps[wrap].file].wrap);
    let empty = |method: &str, target: String| (method.to_owned(), target, EMPTY_MEDIA_TYPE, vec![]);
    let post = |target: String, media, body| ("POST".to_owned(), target, media, body);
    let finish = |wrap: usize, claim: usize| {
        let (statement_sha256, claim_sha256) = (wraps[wrap].statement, stage.claims[claim].digest);
        json::to_vec(&api::FinishWrap { statement_sha256, claim_sha256 })
    };
    let (method, target, media, body) = match kind {
        Kind::Create { wrap } => post("/v1/wrap".into(), PARCEL, wraps[wrap].body.clone()),
        Kind::Inspect { wrap } => empty("GET", path(wrap, "")),
        Kind::Open { wrap, claim } => {
            let claim = stage.claims[claim].text.clone();
            let body = api::OpenWrap { statement_sha256: wraps[wrap].statement, claim };
            post(path(wrap, ":open"), JSON_MEDIA_TYPE, json::to_vec(&body))
        }
        Kind::Ack { wrap, claim } => post(path(wrap, ":ack"), JSON_MEDIA_TYPE, finish(wrap, claim)),
        Kind::Nack { wrap, claim } => post(path(wrap, ":nack"), JSON_MEDIA_TYPE, finish(wrap, claim)),
        Kind::Revoke { wrap } => {
            let body = api::RevokeWrap { statement_sha256: wraps[wrap].statement };
            post(path(wrap, ":revoke"), JSON_MEDIA_TYPE, json::to_vec(&body))
        }
        Kind::Release { wrap } => {
            let body = api::RevokeWrap { statement_sha256: wraps[wrap].statement };
            post(path(wrap, ":release"), JSON_MEDIA_TYPE, json::to_vec(&body))
        }
        Kind::Put { secret, value } => {
            let target = format!("/v1/kv/{}", SECRETS[secret]);
            let data = StrictMap([("value".to_owned(), stage.values[value].clone())].into());
            let body = json::to_vec(&api::PutKv::fields(data));
            let key = &stage.people[who].identity;
            let body = raw::ingress(view, key, "PUT", &target, nonce, &body);
            ("PUT".to_owned(), target, AGE, body)
        }
        Kind::Get { secret } => empty("GET", format!("/v1/kv/{}", SECRETS[secret])),
        Kind::Misplace { value } => empty("GET", format!("/v1/kv/app/{}", stage.values[value])),
        Kind::Alarms => empty("GET", "/v1/alarms?all=true&limit=1000".into()),
        Kind::Disable { person } => empty("DELETE", format!("/v1/principal/{}", crate::stage::NAMES[person])),
        Kind::Seal => empty("POST", "/v1/seal:seal".into()),
        Kind::ConfirmClock => empty("POST", "/v1/seal:confirm-clock".into()),
        Kind::Rekey => {
            let envelope = document.expect("a document was drawn up").clone();
            post("/v1/document".into(), JSON_MEDIA_TYPE, json::to_vec(&api::Signed { envelope }))
        }
    };
    let mut request = raw::open(&method, &target);
    request.headers = vec![("content-type".to_owned(), media.to_owned())];
    request.body = body;
    request
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// None for a success.
    pub code: Option<Code>,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Nothing,
    /// Digest of an answer that must come again.
    Kept([u8; 32]),
    /// What was delivered.
    Content(Vec<u8>),
    View(Vec<Slot>),
    Version(u64),
    Value {
        version: u64,
        value: String,
    },
    Alarms(Vec<(AlarmKind, Option<WrapId>)>),
}

/// A slot as a party sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub owner: Option<PrincipalId>,
    pub state: SlotState,
    pub receipts: Vec<ReceiptKind>,
}

impl Outcome {
    /// Reads an answer as the client does that asked.
    pub fn of(stage: &Stage, op: &Op, reply: &Reply) -> Self {
        if reply.status != 200 {
            return Self { code: Some(reply.code().expect("a code")), said: Said::Nothing };
        }
        let said = match op.kind {
            Kind::Open { claim, .. } => Said::Content(content(stage, op.who, claim, &reply.body)),
            Kind::Inspect { .. } => Said::View(slots(&reply.json())),
            Kind::Put { .. } => Said::Version(reply.json::<api::KvWritten>().version),
            Kind::Get { .. } => {
                let opened = open_in_memory(&stage.people[op.who].identity, &reply.body, 1 << 20).expect("a secret");
                let kv: api::Kv = json::parse(opened.expose(), 1 << 20).expect("a secret");
                Said::Value { version: kv.version, value: kv.data.expect("fields").0["value"].clone() }
            }
            Kind::Alarms => {
                let alarms = reply.json::<api::Alarms>().alarms;
                Said::Alarms(alarms.into_iter().map(|alarm| (alarm.kind, alarm.wrap)).collect())
            }
            _ => Said::Kept(bulla_crypto::digest::sha256(&[&reply.body])),
        };
        Self { code: None, said }
    }

    /// What it is in a trace: nothing that differs from one run of a seed to the next.
    pub fn short(&self) -> String {
        match (&self.code, &self.said) {
            (Some(code), _) => format!("{code:?}"),
            (None, Said::Kept(_) | Said::Content(_) | Said::Nothing) => "done".to_owned(),
            (None, Said::Value { version, .. }) => format!("version {version}"),
            (None, Said::View(slots)) => format!("{:?}", slots.iter().map(|slot| slot.state).collect::<Vec<_>>()),
            (None, Said::Alarms(alarms)) => format!("{:?}", alarms.iter().map(|(kind, _)| kind).collect::<Vec<_>>()),
            (None, said) => format!("{said:?}"),
        }
    }

    /// Whether the client must ask again.
    pub fn is_open(&self) -> bool {
        let again =
            [Code::StaleChallenge, Code::Sealed, Code::Busy, Code::Overloaded, Code::Unknown, Code::AuditBlocked];
        self.code.is_some_and(|code| again.contains(&code))
    }
}

/// Opens what was delivered to a claim, as far as the content.
fn content(stage: &Stage, who: usize, claim: usize, body: &[u8]) -> Vec<u8> {
    let parcel = open_in_memory(&stage.claims[claim].identity, body, 1 << 20).expect("for this claim");
    let parcel = Parcel::parse(parcel.expose()).expect("a parcel");
    open_in_memory(&stage.people[who].identity, parcel.file, 1 << 20).expect("for its recipient").expose().to_vec()
}

fn slots(view: &api::WrapView) -> Vec<Slot> {
    let kind = |receipt: &bulla_wire::dsse::Envelope| {
        let receipt: Receipt = json::parse(&receipt.payload, 1 << 20).expect("a receipt");
        receipt.kind
    };
    let slot = |slot: &api::Slot| Slot {
        owner: slot.principal,
        state: slot.state,
        receipts: slot.receipts.iter().map(kind).collect(),
    };
    view.slots.iter().map(slot).collect()
}
