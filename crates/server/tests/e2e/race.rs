//! Many claimants on one wrap: exactly one claim wins, whoever comes and in whatever order.

use crate::support::{Caller, Http2, Reply, finish, h2, read, requests};
use bulla_client::{Client, Outgoing, Resolved, content};
use bulla_crypto::envelope;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{OpenWrap, SlotState};
use bulla_wire::error::Code;
use bulla_wire::id::Digest;
use bulla_wire::json;
use bulla_wire::signature::{AGE_MEDIA_TYPE, JSON_MEDIA_TYPE};
use bulla_wire::wrap::{Parcel, ReceiptKind, Slip};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Who comes: as many as one wrap has in the statement of this test.
const CLAIMANTS: usize = 64;
/// With the one recipient's key and a claim each.
const SAME_KEY: usize = 32;
/// With a claim that another one of the same key has, as after a lost answer.
const RETRIERS: usize = 8;
/// No parties. They are several, since a server hears nobody who was refused too often in a minute.
const STRANGERS: usize = 8;
const PEOPLE: [&str; 6] = ["bob", "carol", "mallory0", "mallory1", "mallory2", "mallory3"];
/// Wraps in one installation, and how many of those there are, one after another: a thousand races of 64 on the two stores
/// together. The long run is a night's.
const WRAPS: usize = 512;
const INSTALLATIONS_LONG: usize = 200;
/// Races that go on beside each other, so that no core waits for another, and wraps in each at once.
const LANES: usize = 2;
const AT_ONCE: usize = 4;
const CONNECTIONS: usize = 4;
const SECRET: &[u8] = b"the launch code";

/// Places in [`PEOPLE`] and among the claims.
struct Claimant {
    person: usize,
    claim: usize,
}

/// Who comes with which claim. Claim 0 is that of the first and of all retriers.
fn claimants() -> Vec<Claimant> {
    let (bob, carol, mallory) = (0, 1, 2);
    (0..CLAIMANTS)
        .map(|number| match number {
            n if n < SAME_KEY => Claimant { person: bob, claim: n },
            n if n < SAME_KEY + RETRIERS => Claimant { person: bob, claim: 0 },
            n if n < CLAIMANTS - STRANGERS => Claimant { person: carol, claim: n },
            n => Claimant { person: mallory + n % (PEOPLE.len() - mallory), claim: n },
        })
        .collect()
}

/// A claim's key, and its recipient as text and digest.
struct Claim {
    identity: Identity,
    text: String,
    digest: Digest,
}

impl Claim {
    fn new() -> Self {
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        let recipient = &identity.recipients()[0];
        Self { text: recipient.to_string(), digest: recipient.digest(), identity }
    }
}

struct Race {
    world: World,
    people: Vec<Person>,
    writer: Client,
    to: Vec<Resolved>,
    claims: Vec<Claim>,
}

/// What came of some wraps.
#[derive(Default)]
struct Raced {
    openings: usize,
    delivered: usize,
    busy: usize,
    won_by_bob: usize,
    took: Duration,
}

async fn race(shape: Shape) {
    for _ in 0..if bulla_testkit::long() { INSTALLATIONS_LONG } else { 1 } {
        installation(shape.clone()).await;
    }
}

async fn installation(shape: Shape) {
    let world = World::new(shape).await;
    let mut people = Vec::new();
    for name in PEOPLE {
        people.push(world.admit(name).await);
    }
    let writer = world.client(&world.admit("alice").await);
    let to = vec![writer.resolve("bob").await.unwrap(), writer.resolve("carol").await.unwrap()];
    let claims = (0..CLAIMANTS).map(|_| Claim::new()).collect();
    let race = Arc::new(Race { world, people, writer, to, claims });
    let before = requests(&race.world).await;
    let began = Instant::now();
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let race = race.clone();
        lanes.spawn(async move { race.lane(WRAPS / LANES).await });
    }
    let mut all = Raced::default();
    for raced in lanes.join_all().await {
        all.openings += raced.openings;
        all.delivered += raced.delivered;
        all.busy += raced.busy;
        all.won_by_bob += raced.won_by_bob;
        all.took = all.took.max(raced.took);
    }
    println!(
        "{WRAPS} wraps x {CLAIMANTS} claimants: {} openings in {:?}, {:?} of it racing; {} delivered, {} busy, {} won by \
         the first recipient",
        all.openings,
        began.elapsed(),
        all.took,
        all.delivered,
        all.busy,
        all.won_by_bob
    );
    assert_eq!(all.openings, WRAPS * CLAIMANTS);
    let lines = requests(&race.world).await - before;
    assert!(lines >= all.openings, "{lines} lines for {} openings", all.openings);
    finish(Arc::into_inner(race).expect("all lanes have ended").world).await;
}

impl Race {
    /// Races for so many wraps.
    async fn lane(&self, wraps: usize) -> Raced {
        let mut callers = Vec::new();
        for person in &self.people {
            callers.push(Caller::new(&self.world, person).await);
        }
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(h2(self.world.server().ready.address).await);
        }
        let mut raced = Raced::default();
        for batch in 0..wraps / AT_ONCE {
            let mut slips = Vec::new();
            for _ in 0..AT_ONCE {
                let outgoing = Outgoing::new(self.to.clone(), 3600);
                slips.push(self.writer.wrap_create(outgoing, content(SECRET.to_vec())).await.unwrap().slip);
            }
            for caller in &mut callers {
                caller.call("GET", "/v1/whoami").await.ok();
            }
            let began = Instant::now();
            let answers = self.open(batch, &slips, &callers, &connections).await;
            raced.took += began.elapsed();
            for (slip, answers) in slips.iter().zip(&answers) {
                self.judge(slip, answers, &mut raced).await;
            }
        }
        raced
    }

    /// Sends all openings at once, each time another claimant first; the answers of each wrap.
    async fn open(
        &self,
        batch: usize,
        slips: &[Slip],
        callers: &[Caller],
        connections: &[Http2],
    ) -> Vec<Vec<(usize, Reply)>> {
        let mut running = JoinSet::new();
        let mut claimants: Vec<_> = claimants().into_iter().enumerate().collect();
        claimants.rotate_left(batch % CLAIMANTS);
        for (number, Claimant { person, claim }) in &claimants {
            for (which, slip) in slips.iter().enumerate() {
                let claim = self.claims[*claim].text.clone();
                let body = json::to_vec(&OpenWrap { statement_sha256: slip.statement_sha256, claim });
                let caller = &callers[*person];
                let path = format!("/v1/wrap/{}:open", slip.wrap);
                let number = *number;
                let request = caller.request("POST", &path, JSON_MEDIA_TYPE, body, caller.nonce());
                let mut connection = connections[(number * slips.len() + which) % connections.len()].clone();
                running.spawn(async move {
                    connection.ready().await.unwrap();
                    let response = connection.send_request(request.http(Some("localhost")).unwrap()).await.unwrap();
                    (which, number, read(response).await)
                });
            }
        }
        let mut answers = vec![vec![]; slips.len()];
        while let Some(answer) = running.join_next().await {
            let (which, number, reply) = answer.unwrap();
            answers[which].push((number, reply));
        }
        answers
    }

    /// Checks all answers about one wrap, and what its writer is told.
    async fn judge(&self, slip: &Slip, answers: &[(usize, Reply)], raced: &mut Raced) {
        let claimants = claimants();
        let (mut won, mut files) = (BTreeSet::new(), BTreeSet::new());
        assert_eq!(answers.len(), CLAIMANTS);
        raced.openings += CLAIMANTS;
        for (number, reply) in answers {
            let Claimant { person, claim } = claimants[*number];
            let stranger = PEOPLE[person].starts_with("mallory");
            if reply.status == 200 {
                assert!(!stranger);
                assert_eq!(reply.header("content-type"), AGE_MEDIA_TYPE);
                let key = &self.claims[claim].identity;
                let opened = envelope::open(&[key], &reply.body, usize::MAX).await.expect("sealed to the claim");
                let parcel = Parcel::parse(opened.plaintext.expose()).unwrap();
                assert!(!parcel.file.is_empty());
                files.insert(parcel.file.to_vec());
                won.insert(claim);
                raced.delivered += 1;
                continue;
            }
            let error = reply.error().unwrap();
            match error.code {
                // Somebody who is no party learns nothing.
                Code::NotFound => assert!(stranger, "{slip} is not unknown to its parties"),
                Code::AlreadyOpened => {
                    assert!(!stranger);
                    assert!(error.receipt.is_some(), "with proof");
                }
                // Too many at once; a client would come again.
                Code::Busy => raced.busy += 1,
                code => panic!("{code}"),
            }
        }
        assert_eq!(won.len(), 1, "exactly one claim wins: {won:?}");
        assert_eq!(files.len(), 1, "whoever comes again gets the same ciphertext");
        let winner = won.into_iter().next().unwrap();
        let view = self.writer.wrap_inspect(slip).await.unwrap();
        let [slot] = view.slots.as_slice() else { panic!() };
        assert_eq!(slot.state, SlotState::Opened);
        let opened = slot.receipts.iter().filter(|receipt| receipt.receipt.kind == ReceiptKind::Opened);
        let opened: Vec<_> = opened.map(|receipt| receipt.receipt.claim_sha256).collect();
        assert_eq!(opened, [Some(self.claims[winner].digest)], "one opening, by the winner");
        raced.won_by_bob += usize::from(winner < SAME_KEY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins_in_memory() {
    race(Shape::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins_on_the_embedded_store() {
    race(Shape::durable()).await;
}
