//! Many claimants on one wrap: exactly one claim wins, whoever comes and in whatever order.

use crate::support::{Caller, Reply, finish, h2, read, requests};
use bulla_client::{Outgoing, content};
use bulla_crypto::envelope;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_testkit::world::{Shape, World};
use bulla_wire::api::{OpenWrap, SlotState};
use bulla_wire::error::Code;
use bulla_wire::json;
use bulla_wire::signature::{AGE_MEDIA_TYPE, JSON_MEDIA_TYPE};
use bulla_wire::wrap::{Parcel, ReceiptKind, Slip};
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::task::JoinSet;

/// Who comes: as many as one wrap has in the statement of this test.
const CLAIMANTS: usize = 64;
/// With the one recipient's key and a claim each.
const SAME_KEY: usize = 32;
/// With a claim that another one of the same key has, as after a lost answer.
const RETRIERS: usize = 8;
/// No parties.
const STRANGERS: usize = 8;
/// Wraps in one run, and how many of them are raced for at once.
const WRAPS: usize = 160;
const WRAPS_LONG: usize = 1000;
const AT_ONCE: usize = 4;
const SECRET: &[u8] = b"the launch code";

struct Claimant {
    caller: usize,
    claim: usize,
}

/// Who comes with which claim. Claim 0 is that of the first and of all retriers.
fn claimants() -> Vec<Claimant> {
    let (bob, carol, mallory) = (0, 1, 2);
    (0..CLAIMANTS)
        .map(|number| match number {
            n if n < SAME_KEY => Claimant { caller: bob, claim: n },
            n if n < SAME_KEY + RETRIERS => Claimant { caller: bob, claim: 0 },
            n if n < CLAIMANTS - STRANGERS => Claimant { caller: carol, claim: n },
            n => Claimant { caller: mallory, claim: n },
        })
        .collect()
}

async fn race(shape: Shape) {
    let world = World::new(shape).await;
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol", "mallory"] {
        people.push(world.admit(name).await);
    }
    let [alice, bob, carol, mallory] = people.as_slice() else { panic!() };
    let writer = world.client(alice);
    let to = [writer.resolve("bob").await.unwrap(), writer.resolve("carol").await.unwrap()];
    let identity = |_| Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let claims: Vec<Identity> = (0..CLAIMANTS).map(identity).collect();
    let mut callers =
        [Caller::new(&world, bob).await, Caller::new(&world, carol).await, Caller::new(&world, mallory).await];
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(h2(world.server().ready.address).await);
    }
    let wraps = if bulla_testkit::long() { WRAPS_LONG } else { WRAPS };
    let (mut winners_of_bob, mut raced) = (0, std::time::Duration::ZERO);
    let before = requests(&world).await;
    let mut made_requests = 0;
    for _ in 0..wraps / AT_ONCE {
        let mut slips = Vec::new();
        for _ in 0..AT_ONCE {
            let made = writer.wrap_create(Outgoing::new(to.to_vec(), 3600), content(SECRET.to_vec())).await.unwrap();
            slips.push(made.slip);
        }
        for caller in &mut callers {
            caller.call("GET", "/v1/whoami").await.ok();
        }
        let began = Instant::now();
        let mut running = JoinSet::new();
        for (number, Claimant { caller, claim }) in claimants().iter().enumerate() {
            for (which, slip) in slips.iter().enumerate() {
                let claim_text = claims[*claim].recipients()[0].to_string();
                let body = json::to_vec(&OpenWrap { statement_sha256: slip.statement_sha256, claim: claim_text });
                let caller = &callers[*caller];
                let path = format!("/v1/wrap/{}:open", slip.wrap);
                let request = caller.request("POST", &path, JSON_MEDIA_TYPE, body, caller.nonce());
                let mut connection = connections[(number * AT_ONCE + which) % connections.len()].clone();
                running.spawn(async move {
                    connection.ready().await.unwrap();
                    let response = connection.send_request(request.http(Some("localhost")).unwrap()).await.unwrap();
                    (which, number, read(response).await)
                });
            }
        }
        let mut answers: Vec<Vec<(usize, Reply)>> = vec![vec![]; AT_ONCE];
        while let Some(answer) = running.join_next().await {
            let (which, number, reply) = answer.unwrap();
            answers[which].push((number, reply));
        }
        raced += began.elapsed();
        made_requests += CLAIMANTS * AT_ONCE;
        for (slip, answers) in slips.iter().zip(&answers) {
            let winner = judge(slip, answers, &claims).await;
            winners_of_bob += usize::from(winner < SAME_KEY);
            let view = writer.wrap_inspect(slip).await.unwrap();
            let [slot] = view.slots.as_slice() else { panic!() };
            assert_eq!(slot.state, SlotState::Opened);
            let opened = slot.receipts.iter().filter(|receipt| receipt.receipt.kind == ReceiptKind::Opened);
            let opened: Vec<_> = opened.map(|receipt| receipt.receipt.claim_sha256).collect();
            assert_eq!(opened, [Some(claims[winner].recipients()[0].digest())], "one opening, by the winner");
        }
    }
    println!(
        "{wraps} wraps x {CLAIMANTS} claimants: {made_requests} openings in {raced:?}, {:.0}/s; {winners_of_bob} won by the first recipient",
        made_requests as f64 / raced.as_secs_f64()
    );
    let opens = requests(&world).await - before;
    assert!(opens >= made_requests, "{opens} lines for {made_requests} openings");
    finish(world).await;
}

/// Checks all answers about one wrap; gives the claim that won.
async fn judge(slip: &Slip, answers: &[(usize, Reply)], claims: &[Identity]) -> usize {
    let claimants = claimants();
    let mut won = BTreeSet::new();
    assert_eq!(answers.len(), CLAIMANTS);
    for (number, reply) in answers {
        let claim = claimants[*number].claim;
        if reply.status == 200 {
            assert_eq!(reply.header("content-type"), AGE_MEDIA_TYPE);
            let opened = envelope::open(&[&claims[claim]], &reply.body, usize::MAX).await.expect("sealed to the claim");
            let parcel = Parcel::parse(opened.plaintext.expose()).unwrap();
            assert!(!parcel.file.is_empty());
            won.insert(claim);
            continue;
        }
        match reply.code().unwrap() {
            // Somebody who is no party learns nothing.
            Code::NotFound => assert_eq!(claimants[*number].caller, 2, "{slip} is not unknown to its parties"),
            Code::AlreadyOpened => {
                assert_ne!(claimants[*number].caller, 2);
                assert!(reply.error().unwrap().receipt.is_some(), "with proof");
            }
            // Too many at once; a client would come again.
            Code::Busy => {}
            code => panic!("{code}"),
        }
    }
    assert_eq!(won.len(), 1, "exactly one claim wins: {won:?}");
    won.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins_in_memory() {
    race(Shape::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins_on_the_embedded_store() {
    race(Shape::durable()).await;
}
