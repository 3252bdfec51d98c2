//! A secret opens exactly once, and whoever comes second is refused and seen.

use bulla_client::{ClientError, MemoryOutput};
use bulla_testkit::world::{Shape, World};
use bulla_wire::error::Code;

async fn delivered_once(shape: Shape) {
    let world = World::new(shape).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let (alice, bob_client) = (world.client(&alice), world.client(&bob));
    let made = world.wrap(&alice, &bob, b"the launch code").await;

    let mut output = MemoryOutput::new();
    let opened = bob_client.wrap_open(&made.slip, &mut output).await.expect("opens");
    assert_eq!(output.content(), b"the launch code");
    opened.acked.expect("acknowledged");

    let again = world.client(&bob).wrap_open(&made.slip, &mut MemoryOutput::new()).await.expect_err("opened before");
    assert_eq!(again.code(), Some(Code::AlreadyOpened), "{again}");

    let mallory = world.admit("mallory").await;
    let stranger = world.client(&mallory).wrap_open(&made.slip, &mut MemoryOutput::new()).await;
    assert_eq!(stranger.expect_err("a stranger").code(), Some(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    delivered_once(Shape::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_store() {
    delivered_once(Shape::durable()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_key_is_refused_and_seen() {
    let world = World::new(Shape::default()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let alice = world.client(&alice);
    let made = world.wrap(&alice, &bob, b"x").await;
    // The thief opens first, and never acknowledges: its output fails.
    let thief = world.client(&bob);
    let mut broken = Broken;
    let failed = thief.wrap_open(&made.slip, &mut broken).await;
    assert!(failed.is_err());

    let real = world.client(&bob).wrap_open(&made.slip, &mut MemoryOutput::new()).await.expect_err("taken");
    let ClientError::Refused { .. } = &real else { panic!("{real:?}") };
    assert!(matches!(real.code(), Some(Code::AlreadyOpened | Code::Nacked)), "{real}");
    let told = alice.alarms(None, None, false).await.expect("alarms");
    assert!(!told.alarms.is_empty(), "the writer is told");
}

struct Broken;
impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("no space"))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
impl bulla_client::Output for Broken {
    fn commit(&mut self) -> std::io::Result<()> {
        Err(std::io::Error::other("no space"))
    }
}
