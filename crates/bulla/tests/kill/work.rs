//! Work that goes on until the server dies under it, and a ledger of what was begun and what was acknowledged.

use bulla_client::{Admit, Client, ClientError, MemoryOutput, Opened, Outgoing, Output, Pin, Unseal, content};
use bulla_crypto::evidence::ClusterView;
use bulla_testkit::world::Person;
use bulla_wire::api::{self, Health, PutKv, PutPolicy, SealState};
use bulla_wire::error::Code;
use bulla_wire::evidence::{MinKem, SealMode};
use bulla_wire::id::{ClusterId, KeyId};
use bulla_wire::name::{Name, SecretPath};
use bulla_wire::wrap::Slip;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A call may have to wait until the server is started twice and unsealed, in debug builds on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often two admins give their shares at most: a server dies twice.
const LIVES: usize = 3;
/// More rounds than the highest number of a hit needs.
const ROUNDS: usize = 40;
/// The content of a large wrap in bytes: three chunks.
const LARGE: usize = 600 * 1024;

/// The policy without which nobody reads or writes secrets.
const SECRETS: &str = "secrets";
const SECRETS_TEXT: &str = r#"permit (principal in Bulla::Group::"dev", action in Bulla::Action::"kv", resource);"#;

/// Which work, so that its point is met often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything.
    Whole,
    /// Sealing and unsealing.
    Seal,
    /// Opening wraps.
    Open,
    /// Large wraps, stored in pieces.
    Upload,
    /// Everything, while audit files are moved away.
    Rotate,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Init,
    Unseal,
    Seal,
    Policy {
        name: String,
        text: String,
    },
    Admit {
        name: String,
    },
    Disable {
        name: String,
    },
    Kv {
        path: String,
        value: String,
    },
    Create {
        wrap: usize,
        len: usize,
    },
    /// Opened by Bob, who then cannot keep the content, so it is not acknowledged.
    Hold {
        wrap: usize,
    },
    /// Tried by somebody who has Bob's key and not his claim.
    Steal {
        wrap: usize,
    },
    /// Opened by Bob, and acknowledged.
    Open {
        wrap: usize,
    },
    Revoke {
        wrap: usize,
    },
    Seen {
        up_to: String,
    },
}

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing came back.
    Begun,
    /// It was acknowledged.
    Done,
    /// The client says that it never arrived.
    Never,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub step: Step,
    pub told: Told,
}

/// What was begun, in this order, and what is known of it.
#[derive(Debug, Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
    pub slips: BTreeMap<usize, Slip>,
    pub cluster: Option<ClusterId>,
}

impl Ledger {
    pub fn done(&self, step: &Step) -> bool {
        self.entries.iter().any(|entry| entry.step == *step && entry.told == Told::Done)
    }

    /// Adds what was done after the death.
    pub fn add(&mut self, step: Step) {
        self.entries.push(Entry { step, told: Told::Done });
    }

    /// What never arrived may be tried again.
    pub fn forgive(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.told == Told::Never) {
            entry.told = Told::Begun;
        }
    }

    pub fn begun(&self, step: &Step) -> bool {
        self.entries.iter().any(|entry| entry.step == *step)
    }

    /// What was put into a wrap.
    pub fn content(&self, number: usize) -> Vec<u8> {
        let len = self.entries.iter().find_map(|entry| match entry.step {
            Step::Create { wrap, len } if wrap == number => Some(len),
            _ => None,
        });
        let text = format!("the content of wrap {number}; ");
        let len = len.expect("a wrap that was begun");
        let mut content = text.repeat(len / text.len() + 1).into_bytes();
        content.truncate(len);
        content
    }
}

/// The server died in the middle of a step.
#[derive(Debug)]
pub struct Died;

/// Three admins, Alice who writes and Bob who reads. Their clients live as long as this: they remember what they saw
/// over the server's death, and would refuse a server that fell behind it.
pub struct Work {
    pub admins: Vec<Person>,
    pub alice: Person,
    pub bob: Person,
    pub died: AtomicBool,
    address: String,
    node: KeyId,
    clients: Mutex<BTreeMap<String, Client>>,
    guests: Mutex<BTreeMap<String, Arc<Person>>>,
    ledger: Mutex<Ledger>,
}

impl Work {
    pub fn new(admins: Vec<Person>, address: &str, node: &str) -> Self {
        Self {
            admins,
            alice: Person::new("alice"),
            bob: Person::new("bob"),
            died: AtomicBool::new(false),
            address: format!("https://{address}"),
            node: node.parse().unwrap(),
            clients: Mutex::default(),
            guests: Mutex::default(),
            ledger: Mutex::default(),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// A client that has seen nothing yet.
    pub fn stranger(&self, person: &Person) -> Client {
        let cluster = self.ledger().cluster.unwrap();
        self.client_of(person, Pin::Cluster(cluster))
    }

    /// Somebody who was admitted in a round.
    pub fn guest(&self, name: &str) -> Arc<Person> {
        Arc::clone(&self.guests.lock().unwrap()[name])
    }

    /// The client that this person always uses.
    pub fn client(&self, person: &Person) -> Client {
        let known = self.clients.lock().unwrap().get(person.name.as_str()).cloned();
        known.unwrap_or_else(|| {
            let made = self.stranger(person);
            self.clients.lock().unwrap().insert(person.name.to_string(), made.clone());
            made
        })
    }

    /// A client of the first admin before there is a cluster.
    pub fn founder(&self) -> Client {
        self.client_of(&self.admins[0], Pin::Node(self.node))
    }

    fn client_of(&self, person: &Person, pin: Pin) -> Client {
        let builder = Client::builder(self.address.clone()).identity(person.identity.clone());
        builder.pin(pin).timeout(PATIENCE).build().unwrap()
    }

    /// What the node says of itself to everybody.
    pub async fn health(&self) -> Health {
        Client::builder(self.address.clone()).build().unwrap().health().await.unwrap().0
    }

    pub fn init_body(&self) -> api::Init {
        api::Init {
            name: "test".parse().unwrap(),
            admins: self.admins.iter().map(|admin| admin.record.clone()).collect(),
            mode: SealMode::Quorum,
            k: 2,
            min_kem: MinKem::Hybrid,
        }
    }

    /// Two admins give their shares.
    pub async fn unseal(&self, admins: [usize; 2]) -> Result<(), ClientError> {
        let approve: &(dyn Fn(&ClusterView) -> bool + Sync) = &|_| true;
        for _ in 0..LIVES {
            let mut state = SealState::Sealed;
            for admin in admins {
                let how = Unseal { approve, danger_older_epoch: false };
                state = self.client(&self.admins[admin]).unseal(&how).await?.given.state;
            }
            if state == SealState::Unsealed {
                return Ok(());
            }
            // A share goes with the server that it was given to, and the other may have come to the next.
            assert!(self.died.load(Ordering::SeqCst), "two shares of two");
        }
        panic!("two shares of two, {LIVES} times");
    }

    /// Works until the server dies.
    pub async fn go(&self, kind: Kind) -> Died {
        let Err(died) = self.all(kind).await else { panic!("the point was never met:\n{:#?}", self.ledger().entries) };
        died
    }

    async fn all(&self, kind: Kind) -> Result<(), Died> {
        self.step(Step::Init, async {
            let view = self.founder().init(&self.init_body()).await?;
            self.ledger().cluster = Some(view.id());
            Ok(())
        })
        .await?;
        self.step(Step::Unseal, self.unseal([0, 1])).await?;
        self.prepare().await?;
        for round in 0..ROUNDS {
            match kind {
                Kind::Whole | Kind::Rotate => self.round(round).await?,
                Kind::Seal => self.sealing(round).await?,
                Kind::Open => {
                    self.create(round, 30).await?;
                    self.open(round).await?;
                }
                Kind::Upload => self.create(round, LARGE).await?,
            }
        }
        Ok(())
    }

    /// What every round needs.
    pub async fn prepare(&self) -> Result<(), Died> {
        self.policy(SECRETS, SECRETS_TEXT).await?;
        self.admit(&self.alice, "dev").await?;
        self.admit(&self.bob, "dev").await
    }

    /// As [`Self::prepare`], where some of it may be there.
    pub async fn complete(&self) -> Result<(), Died> {
        let policies = self.client(&self.admins[0]).policies().await.unwrap().policies;
        if !policies.iter().any(|policy| policy.name.as_str() == SECRETS) {
            self.policy(SECRETS, SECRETS_TEXT).await?;
        }
        self.admit(&self.alice, "dev").await?;
        self.admit(&self.bob, "dev").await
    }

    /// Some of everything. Wraps have numbers from four times the round on.
    pub async fn round(&self, round: usize) -> Result<(), Died> {
        let carol = Arc::new(Person::new(&format!("carol{round}")));
        self.guests.lock().unwrap().insert(carol.name.to_string(), Arc::clone(&carol));
        self.admit(&carol, "guests").await?;
        let first = round * 4;
        self.create(first, 100).await?;
        self.hold(first).await?;
        self.steal(first).await?;
        self.seen().await?;
        self.create(first + 1, LARGE).await?;
        self.open(first + 1).await?;
        self.kv(round).await?;
        let text = format!(r#"forbid (principal, action, resource in Bulla::Kv::"closed{round}");"#);
        self.policy(&format!("closed{round}"), &text).await?;
        let name = carol.name.clone();
        self.step(Step::Disable { name: name.to_string() }, async {
            self.client(&self.admins[0]).principal_disable(&name).await
        })
        .await?;
        self.open(first).await?;
        self.create(first + 2, 0).await?;
        self.revoke(first + 2).await
    }

    async fn sealing(&self, round: usize) -> Result<(), Died> {
        self.kv(round).await?;
        self.step(Step::Seal, async { self.client(&self.admins[2]).seal().await }).await?;
        self.step(Step::Unseal, self.unseal([round % 3, (round + 1) % 3])).await
    }

    async fn policy(&self, name: &str, text: &str) -> Result<(), Died> {
        let step = Step::Policy { name: name.to_owned(), text: text.to_owned() };
        self.step(step, async {
            // Made, not replaced: if it happened twice, the second time would be refused.
            let body = PutPolicy { text: text.to_owned(), replaces: Some(None) };
            self.client(&self.admins[0]).policy_put(&name.parse().unwrap(), &body).await.map(drop)
        })
        .await
    }

    async fn admit(&self, person: &Person, group: &str) -> Result<(), Died> {
        self.step(Step::Admit { name: person.name.to_string() }, async {
            let admit = Admit { groups: vec![group.parse::<Name>().unwrap()], ..Admit::default() };
            self.client(&self.admins[0]).admit(&person.record, admit).await.map(drop)
        })
        .await
    }

    async fn kv(&self, round: usize) -> Result<(), Died> {
        let (path, value) = (format!("app/number{round}"), format!("value {round}"));
        self.step(Step::Kv { path: path.clone(), value: value.clone() }, async {
            let data = serde_json::from_value(serde_json::json!({ "value": value })).unwrap();
            let path: SecretPath = path.parse().unwrap();
            let written =
                self.client(&self.alice).kv_put(&path, &PutKv { cas: Some(0), ..PutKv::fields(data) }).await?;
            assert_eq!(written.version, 1);
            Ok(())
        })
        .await
    }

    async fn create(&self, wrap: usize, len: usize) -> Result<(), Died> {
        self.step(Step::Create { wrap, len }, async {
            let alice = self.client(&self.alice);
            let bob = alice.resolve(self.bob.name.as_str()).await?;
            let bytes = self.ledger().content(wrap);
            let made = alice.wrap_create(Outgoing::new(vec![bob], 3600), content(bytes)).await?;
            self.ledger().slips.insert(wrap, made.slip);
            Ok(())
        })
        .await
    }

    async fn hold(&self, wrap: usize) -> Result<(), Died> {
        let slip = self.slip(wrap);
        self.step(Step::Hold { wrap }, async {
            match self.client(&self.bob).wrap_open(&slip, &mut Full).await {
                Err(ClientError::Io { .. }) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => panic!("an output without room took the content"),
            }
        })
        .await
    }

    async fn steal(&self, wrap: usize) -> Result<(), Died> {
        let slip = self.slip(wrap);
        self.step(Step::Steal { wrap }, async {
            match self.stranger(&self.bob).wrap_open(&slip, &mut MemoryOutput::new()).await {
                Err(error @ ClientError::Refused { .. }) if error.code() == Some(Code::AlreadyOpened) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => panic!("a wrap was opened twice"),
            }
        })
        .await
    }

    async fn open(&self, wrap: usize) -> Result<(), Died> {
        let slip = self.slip(wrap);
        self.step(Step::Open { wrap }, async {
            let mut output = MemoryOutput::new();
            let Opened { acked, .. } = self.client(&self.bob).wrap_open(&slip, &mut output).await?;
            assert!(output.content() == self.ledger().content(wrap), "wrap {wrap} has another content");
            acked.map(drop)
        })
        .await
    }

    async fn revoke(&self, wrap: usize) -> Result<(), Died> {
        let slip = self.slip(wrap);
        self.step(Step::Revoke { wrap }, async { self.client(&self.alice).wrap_revoke(&slip).await.map(drop) }).await
    }

    async fn seen(&self) -> Result<(), Died> {
        let alarms = match self.client(&self.alice).alarms(None, None, false).await {
            Ok(page) => page.alarms,
            Err(error) => return Err(self.death(&error).await),
        };
        let up_to = alarms.last().expect("the theft raised an alarm").id.clone();
        let step = Step::Seen { up_to: up_to.clone() };
        self.step(step, async { self.client(&self.alice).alarms_seen(&up_to).await }).await
    }

    fn slip(&self, wrap: usize) -> Slip {
        self.ledger().slips.get(&wrap).expect("a wrap that was made").clone()
    }

    /// Does one step and keeps the books.
    async fn step(&self, step: Step, call: impl Future<Output = Result<(), ClientError>>) -> Result<(), Died> {
        let index = {
            let mut ledger = self.ledger();
            ledger.entries.push(Entry { step: step.clone(), told: Told::Begun });
            ledger.entries.len() - 1
        };
        let told = match call.await {
            Ok(()) => Told::Done,
            Err(error) => {
                self.death(&error).await;
                match (&step, &error) {
                    // A ceremony belongs to one life of the node, and is begun anew.
                    (Step::Init | Step::Unseal | Step::Seal, _) => Told::Begun,
                    (_, ClientError::UnknownOutcome { .. }) => panic!("{step:?}: the client gave up: {error:?}"),
                    // These ask more than once, and the change may lie before the question that failed.
                    (Step::Admit { .. } | Step::Hold { .. } | Step::Open { .. } | Step::Create { .. }, _) => {
                        Told::Begun
                    }
                    _ => Told::Never,
                }
            }
        };
        self.ledger().entries[index].told = told;
        if told != Told::Done || self.died.load(Ordering::SeqCst) { Err(Died) } else { Ok(()) }
    }

    /// A step may fail because the server died, and for no other reason.
    async fn death(&self, error: &ClientError) -> Died {
        let away = matches!(error, ClientError::Unreachable { .. } | ClientError::UnknownOutcome { .. });
        let sealed = error.code() == Some(Code::Sealed);
        let ceremony = matches!(error.code(), Some(Code::UnknownSession | Code::AlreadyInitialised | Code::NotSealed));
        assert!(away || sealed || ceremony, "the server did not die, but answered {error:?}");
        for _ in 0..200 {
            if self.died.load(Ordering::SeqCst) {
                return Died;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server lives, but the call failed: {error:?}");
    }
}

/// An output that has no room.
pub struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("no room"))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Output for Full {
    fn commit(&mut self) -> std::io::Result<()> {
        Err(std::io::Error::other("no room"))
    }
}
