//! One seed: people, a network and a node, and chance, which decides what happens next.

use crate::history::{Attempt, Broken, broken};
use crate::judge::End;
use crate::machine::{Awake, Disks, Future, Machine, contains, read};
use crate::mutant::Mutant;
use crate::play::{Kind, Op, Outcome, Said, Wrap};
use crate::rng::Rng;
use crate::stage::{ADMIN, ALICE, BEGIN_MS, BOB, CAROL, MALLORY, SECRET_MARK, Stage, Terms};
use bulla_core::audit::{Body, Class};
use bulla_server::clock::{Clock, Watch};
use bulla_server::node::Phase;
use bulla_server::sink::{self, Expectations};
use bulla_store::simulated::Fails;
use bulla_testkit::ManualClock;
use bulla_testkit::raw::{self, Reply, Request};
use bulla_wire::api::{self, SealState, SlotState};
use bulla_wire::challenge::Challenge;
use bulla_wire::error::Code;
use bulla_wire::id::Nonce;
use bulla_wire::json;
use bulla_wire::signature::{Audience, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use bulla_wire::wrap::Mode;
use bytes::Bytes;
use http::Response;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

/// Decisions of chance before the network is healed.
const STEPS: u32 = 130;
/// Rounds of the healed network after which nobody may wait any more.
const ROUNDS: usize = 400;

/// Something on its way.
enum Letter {
    Request { op: usize, request: Request },
    Reply { op: usize, reply: Reply, outcome: Outcome },
}

/// What the node works on.
struct Task {
    awake: Arc<Awake>,
    work: Work,
}

enum Work {
    Answer { attempt: usize, request: Request, future: Future<Response<Bytes>> },
    Tick(Future<Watch>),
}

/// How rough this seed is.
#[derive(Debug)]
struct Weather {
    crashes: bool,
    steps: bool,
    losses: u64,
    ops: usize,
    wraps: usize,
}

pub struct Sim<'a> {
    stage: &'a Stage,
    rng: Rng,
    weather: Weather,
    clock: ManualClock,
    disks: Disks,
    machine: Option<Machine>,
    watch: Option<Watch>,
    tasks: Vec<Task>,
    letters: Vec<Letter>,
    challenges: [Option<Challenge>; 5],
    wraps: Vec<Wrap>,
    ops: Vec<Op>,
    attempts: Vec<Attempt>,
    now: u64,
    life: u32,
    epoch: u64,
    unseals: u32,
    /// Nobody has tried to unseal since the node began, or since it said that it is sealed.
    sealed: bool,
    clock_sets: u32,
    /// Signed answers since the node began.
    signed: usize,
    mutant: Option<Mutant>,
    trace: Vec<String>,
}

impl<'a> Sim<'a> {
    /// Plays a seed to its end. Gives what happened.
    pub fn play(stage: &'a Stage, seed: u64, log: &Path, mutant: Option<Mutant>) -> (Vec<String>, Result<(), Broken>) {
        let mut sim = Self::new(stage, seed, log, mutant);
        let result = sim.run();
        (sim.trace, result)
    }

    /// Before anything has happened.
    pub fn new(stage: &'a Stage, seed: u64, log: &Path, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let weather = Weather {
            crashes: !rng.once_in(4),
            steps: rng.once_in(5),
            losses: rng.pick(&[4, 8, 30]),
            ops: 8 + rng.index(13),
            wraps: 1 + rng.index(3),
        };
        Self {
            stage,
            rng,
            weather,
            clock: ManualClock::at(BEGIN_MS),
            disks: Disks::new(stage, log.to_owned()),
            machine: None,
            watch: None,
            tasks: vec![],
            letters: vec![],
            challenges: Default::default(),
            wraps: vec![],
            ops: vec![],
            attempts: vec![],
            now: 0,
            life: 0,
            epoch: 0,
            unseals: 0,
            sealed: true,
            clock_sets: 0,
            signed: 0,
            mutant,
            trace: vec![],
        }
    }

    /// A write waits for the store while the clock is set back, and power goes once it is answered: its line is written
    /// again, although its nonce is of a later minute than its commit.
    pub fn clock_set_back(&mut self) -> Result<(), Broken> {
        self.start()?;
        self.unseal()?;
        self.begin(BOB, Kind::Put { secret: 0, value: 0 })?;
        self.deliver(0)?;
        self.poll(0)?;
        self.clock.set(self.clock.unix_ms() - 7_200_000);
        self.clock_sets += 1;
        self.drain()?;
        self.crash()?;
        self.finish()
    }

    fn run(&mut self) -> Result<(), Broken> {
        self.tell(format!("{:?}", self.weather));
        self.start()?;
        self.unseal()?;
        for _ in 0..STEPS {
            self.step()?;
        }
        self.settle()?;
        if self.weather.crashes && self.rng.once_in(2) {
            self.crash()?;
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Broken> {
        self.last_look()?;
        self.end().judge()?;
        self.close()
    }

    fn end(&self) -> End<'_> {
        End { stage: self.stage, wraps: &self.wraps, ops: &self.ops, attempts: &self.attempts }
    }

    fn tell(&mut self, what: String) {
        self.trace.push(format!("{} {what}", self.now));
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("a node that runs")
    }

    // --- the node

    fn start(&mut self) -> Result<(), Broken> {
        self.life += 1;
        self.signed = 0;
        self.sealed = true;
        match Machine::start(self.stage, &self.disks, &self.clock, self.mutant) {
            Ok(machine) => {
                self.watch = Some(machine.node.watch());
                self.machine = Some(machine);
                Ok(())
            }
            Err(error) => broken("it_starts_again", error),
        }
    }

    /// Power goes, and the node begins again on what is left.
    fn crash(&mut self) -> Result<(), Broken> {
        self.tell("power goes".into());
        for task in std::mem::take(&mut self.tasks) {
            if let Work::Answer { attempt, .. } = task.work {
                self.ops[self.attempts[attempt].op].under_way -= 1;
            }
        }
        let mut rng = self.rng.fork();
        self.disks.cut(self.stage, &mut rng, self.mutant);
        self.machine = None;
        self.start()
    }

    /// Lets one future run alone. `None` if power went, after which the node has begun again.
    fn alone<T>(&mut self, future: impl FnOnce(&Machine) -> Future<T>) -> Result<Option<T>, Broken> {
        let disk = self.disks.store.clone();
        let machine = self.machine();
        let future = future(machine);
        match machine.alone(&disk, future) {
            Some(answer) => Ok(Some(answer)),
            None => self.crash().map(|()| None),
        }
    }

    /// Ends what the node works on.
    fn drain(&mut self) -> Result<(), Broken> {
        let mut idle = 0;
        while !self.tasks.is_empty() {
            let ready = self.ready();
            idle = if ready.is_empty() { idle + 1 } else { 0 };
            for at in ready.into_iter().rev() {
                self.poll(at)?;
            }
            self.turn_store()?;
            self.machine().log.turn();
            if idle > 3 {
                return broken("nobody_waits_for_ever", format!("{} requests wait for nothing", self.tasks.len()));
            }
        }
        Ok(())
    }

    fn turn_store(&mut self) -> Result<(), Broken> {
        self.machine().turns.turn();
        if self.disks.store.is_off() { self.crash() } else { Ok(()) }
    }

    fn ready(&self) -> Vec<usize> {
        (0..self.tasks.len()).filter(|at| self.tasks[*at].awake.is()).collect()
    }

    /// Lets the node go on with one of its tasks.
    fn poll(&mut self, at: usize) -> Result<(), Broken> {
        let Task { awake, work } = &mut self.tasks[at];
        match work {
            Work::Answer { future, .. } => {
                let Poll::Ready(response) = awake.poll(future) else { return Ok(()) };
                let Task { work: Work::Answer { attempt, request, .. }, .. } = self.tasks.swap_remove(at) else {
                    return Ok(());
                };
                self.answered(attempt, &request, response)
            }
            Work::Tick(future) => {
                let Poll::Ready(watch) = awake.poll(future) else { return Ok(()) };
                self.watch = Some(watch);
                self.tasks.swap_remove(at);
                Ok(())
            }
        }
    }

    /// A request comes through the door.
    fn arrive(&mut self, op: usize, request: Request) {
        self.now += 1;
        let unix_ms = self.clock.unix_ms();
        let sealed = self.sealed || !self.machine().is_unsealed();
        let future = self.machine().handle(&request);
        self.attempts.push(Attempt {
            op,
            began: self.now,
            ended: None,
            outcome: None,
            unix_ms: (unix_ms, unix_ms),
            life: self.life,
            sealed,
            unseals: self.unseals,
        });
        let attempt = self.attempts.len() - 1;
        if self.mutant == Some(Mutant::AnswersEarly)
            && matches!(self.ops[op].kind, Kind::Disable { .. } | Kind::Revoke { .. } | Kind::Seal)
        {
            self.sealed |= self.ops[op].kind == Kind::Seal;
            let outcome = Outcome { code: None, said: Said::Nothing };
            (self.attempts[attempt].ended, self.attempts[attempt].outcome) = (Some(self.now), Some(outcome.clone()));
            self.ops[op].done = Some(outcome);
            return;
        }
        self.tell(format!(
            "{attempt} arrives: op {op}, {:?} of {}",
            self.ops[op].kind,
            crate::stage::NAMES[self.ops[op].who]
        ));
        self.ops[op].under_way += 1;
        let hears = self.mutant != Some(Mutant::LosesWakes) || !attempt.is_multiple_of(4);
        self.tasks.push(Task { awake: Awake::hearing(hears), work: Work::Answer { attempt, request, future } });
    }

    /// The node has answered; what it said holds, whether or not it gets to the client.
    fn answered(&mut self, attempt: usize, request: &Request, response: Response<Bytes>) -> Result<(), Broken> {
        self.now += 1;
        let reply = read(response);
        if attempt.is_multiple_of(8) {
            reply.verify(request, self.machine().node.parts.key.public_key());
        }
        let op = self.attempts[attempt].op;
        let mut outcome = Outcome::of(self.stage, &self.ops[op], &reply);
        match (&mut outcome.said, self.mutant) {
            (Said::Alarms(alarms), Some(Mutant::HidesAlarms)) => alarms.clear(),
            (Said::View(slots), Some(Mutant::OldViews)) => {
                slots.iter_mut().for_each(|slot| slot.state = SlotState::Sealed);
            }
            (Said::Content(content), Some(Mutant::SwapsContent)) => {
                let other = self.stage.files.iter().find(|file| file.content.as_bytes() != content.as_slice());
                *content = other.expect("another file").content.clone().into_bytes();
            }
            _ => {}
        }
        self.tell(format!("{attempt} is answered: {}", outcome.short()));
        let entry = &mut self.attempts[attempt];
        (entry.ended, entry.outcome) = (Some(self.now), Some(outcome.clone()));
        self.ops[op].under_way -= 1;
        if outcome.code == Some(Code::Internal) {
            return broken("no_fault", format!("{:?}: {}", self.ops[op].kind, String::from_utf8_lossy(&reply.body)));
        }
        if self.attempts[attempt].sealed && self.attempts[attempt].unseals == self.unseals && outcome.code.is_none() {
            return broken("sealed_answers_nothing", format!("{:?}", self.ops[op].kind));
        }
        self.count_signed(&reply)?;
        self.sealed |= outcome.code.is_none() && self.has_sealed(op);
        self.ops[op].under_way += 1;
        self.letters.push(Letter::Reply { op, reply, outcome });
        Ok(())
    }

    /// Whether the success that was just told says that the keys are forgotten. One to the same request again does not:
    /// that may come after an unseal, or while the first is still at it.
    fn has_sealed(&self, op: usize) -> bool {
        let mut own = self.attempts.iter().filter(|attempt| attempt.op == op);
        let done = |attempt: &&Attempt| attempt.outcome.as_ref().is_some_and(|outcome| outcome.code.is_none());
        let runs = |attempt: &Attempt| attempt.life == self.life && attempt.ended.is_none();
        self.ops[op].kind == Kind::Seal && own.clone().filter(done).count() == 1 && !own.any(runs)
    }

    /// Each signed answer has its line in the log's file by now.
    fn count_signed(&mut self, reply: &Reply) -> Result<(), Broken> {
        self.signed += usize::from(reply.to_signed());
        let lines = self.disks.requests();
        if lines < self.signed {
            let detail = format!("{} signed answers and {lines} lines since the node began", self.signed);
            return broken("no_answer_without_audit_line", detail);
        }
        Ok(())
    }

    /// Asks for something alone. `None` if power went.
    fn ask(&mut self, request: &Request) -> Result<Option<Reply>, Broken> {
        let Some(response) = self.alone(|machine| machine.handle(request))? else { return Ok(None) };
        let reply = read(response);
        self.count_signed(&reply)?;
        Ok(Some(reply))
    }

    /// A challenge for somebody who has none.
    fn challenge(&mut self, who: usize) -> Result<Option<Challenge>, Broken> {
        if self.challenges[who].is_none() {
            let reply = self.ask(&raw::open("POST", "/v1/challenge"))?;
            self.challenges[who] = reply.map(|reply| reply.challenge());
        }
        Ok(self.challenges[who])
    }

    /// A nonce of the minute of a challenge. Its bytes are the seed's.
    fn nonce(&mut self, challenge: &Challenge) -> Nonce {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        Nonce::new(u32::try_from(challenge.issued_ms() / 60_000).unwrap(), bytes)
    }

    /// A request of the admin, alone. `None` if power went.
    fn admin(&mut self, method: &str, target: &str, media: &str, body: Vec<u8>) -> Result<Option<Reply>, Broken> {
        self.challenges[ADMIN] = None;
        let Some(challenge) = self.challenge(ADMIN)? else { return Ok(None) };
        let nonce = self.nonce(&challenge);
        let mut request = raw::open(method, target);
        request.headers = vec![("content-type".to_owned(), media.to_owned())];
        request.body = body;
        let audience = Audience::Cluster(self.stage.view.id()).to_string();
        let admin = &self.stage.people[ADMIN].identity;
        self.ask(&raw::sign(admin, &audience, &challenge, request, nonce))
    }

    /// The admin opens the seal. If power goes meanwhile, the node is sealed again afterwards.
    fn unseal(&mut self) -> Result<(), Broken> {
        self.drain()?;
        if self.machine().is_unsealed() {
            return Ok(());
        }
        self.tell("the admin unseals".into());
        self.unseals += 1;
        self.sealed = false;
        let none = EMPTY_MEDIA_TYPE;
        let Some(reply) = self.admin("POST", "/v1/seal/session", none, vec![])? else { return Ok(()) };
        let session: api::UnsealSession = reply.ok().json();
        let path = format!("/v1/seal/session/{}", session.id);
        let Some(reply) = self.admin("GET", &format!("{path}/key"), none, vec![])? else { return Ok(()) };
        let key: api::EncryptedShareKey = reply.ok().json();
        let share = raw::share(&self.stage.view, &self.stage.people[ADMIN], &session, &key);
        let body = json::to_vec(&share);
        let Some(reply) = self.admin("POST", &format!("{path}/share"), JSON_MEDIA_TYPE, body)? else { return Ok(()) };
        if reply.status != 200 {
            return broken("it_starts_again", String::from_utf8_lossy(&reply.body));
        }
        let given: api::ShareGiven = reply.json();
        if given.state != SealState::Unsealed {
            return broken("it_starts_again", format!("{given:?}"));
        }
        let Phase::Unsealed(unsealed) = self.machine().node.phase() else {
            return broken("it_starts_again", "it says that it is unsealed");
        };
        let epoch = std::mem::replace(&mut self.epoch, unsealed.epoch);
        if unsealed.epoch <= epoch {
            return broken("epoch_only_grows", format!("{} after {epoch}", unsealed.epoch));
        }
        Ok(())
    }

    // --- chance

    fn step(&mut self) -> Result<(), Broken> {
        self.now += 1;
        let ready = self.ready();
        let waiting = self.machine().turns.waiting();
        let idle: Vec<usize> =
            (0..self.ops.len()).filter(|op| self.ops[*op].done.is_none() && self.ops[*op].under_way == 0).collect();
        let sealed = !self.machine().is_unsealed();
        let choices = [
            if self.ops.len() < self.weather.ops { 3 } else { 0 },
            if self.letters.is_empty() { 0 } else { 8 },
            if ready.is_empty() { 0 } else { 12 },
            if waiting == 0 { 0 } else { 6 },
            if self.tasks.is_empty() { 0 } else { 8 },
            if idle.is_empty() { 0 } else { 3 },
            if self.watch.is_some() { 1 } else { 0 },
            1,
            1,
            if sealed { 3 } else { 0 },
        ];
        let mut number = self.rng.below(choices.iter().sum());
        let choice = choices.iter().position(|weight| {
            let here = number < *weight;
            number = number.saturating_sub(*weight);
            here
        });
        match choice.expect("a choice") {
            0 => self.begin_op()?,
            1 => self.deliver(self.weather.losses)?,
            2 => {
                let at = self.rng.pick(&ready);
                self.poll(at)?;
            }
            3 => self.turn_store()?,
            4 => drop(self.machine().log.turn()),
            5 => {
                let op = self.rng.pick(&idle);
                self.send(op)?;
            }
            6 => {
                let watch = self.watch.take().expect("a watch");
                let future = self.machine().tick(watch);
                self.tasks.push(Task { awake: Awake::new(), work: Work::Tick(future) });
            }
            7 => self.machine().sync_log(),
            8 => self.chance()?,
            _ => self.unseal()?,
        }
        Ok(())
    }

    /// What happens seldom.
    fn chance(&mut self) -> Result<(), Broken> {
        match self.rng.below(8) {
            0..=3 => {
                let ms = self.rng.below(5_000);
                self.pass(ms);
            }
            4 => {
                let ms = self.rng.pick(&[61_000, 130_000, 400_000, 700_000]);
                self.pass(ms);
            }
            5 if self.weather.steps => {
                let to = self.rng.pick(&[-7_200_000, -70_000, -10_000, 10_000, 300_000, 7_200_000]);
                self.clock_sets += 1;
                self.clock.set(self.clock.unix_ms().saturating_add_signed(to));
                self.tell(format!("the clock is set by {to}"));
                self.clock_moved();
            }
            6 if self.weather.crashes => self.crash()?,
            7 if self.weather.crashes => {
                let orders = self.disks.store.orders() + 1 + self.rng.index(12);
                self.disks.store.fail(Fails::After(orders));
                self.tell("power will go while something is written".into());
            }
            _ => {}
        }
        Ok(())
    }

    fn pass(&mut self, ms: u64) {
        self.clock.pass(ms);
        self.clock_moved();
    }

    fn clock_moved(&mut self) {
        let now = self.clock.unix_ms();
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.ended.is_none()) {
            attempt.unix_ms = (attempt.unix_ms.0.min(now), attempt.unix_ms.1.max(now));
        }
    }

    /// One letter arrives, is lost, or arrives and comes again.
    fn deliver(&mut self, losses: u64) -> Result<(), Broken> {
        let at = self.rng.index(self.letters.len());
        let letter = self.letters.swap_remove(at);
        let lost = losses > 0 && self.rng.once_in(losses);
        match letter {
            Letter::Request { op, request } => {
                if losses > 0 && !lost && self.rng.once_in(losses) {
                    self.ops[op].under_way += 1;
                    self.letters.push(Letter::Request { op, request: request.clone() });
                }
                self.ops[op].under_way -= 1;
                if !lost {
                    self.arrive(op, request);
                }
            }
            Letter::Reply { op, reply, outcome } => {
                self.ops[op].under_way -= 1;
                if lost {
                    return Ok(());
                }
                let op = &mut self.ops[op];
                self.challenges[op.who] = Some(reply.challenge());
                if op.done.is_none() && !outcome.is_open() {
                    op.done = Some(outcome);
                }
            }
        }
        Ok(())
    }

    /// Somebody sends a request, or sends it again.
    fn send(&mut self, op: usize) -> Result<(), Broken> {
        let who = self.ops[op].who;
        let Some(challenge) = self.challenge(who)? else { return Ok(()) };
        let request = self.ops[op].signed(self.stage, &challenge);
        self.ops[op].sent += 1;
        self.ops[op].under_way += 1;
        self.letters.push(Letter::Request { op, request });
        Ok(())
    }

    fn begin_op(&mut self) -> Result<(), Broken> {
        match self.wish() {
            Some((who, kind)) => self.begin(who, kind),
            None => Ok(()),
        }
    }

    fn begin(&mut self, who: usize, kind: Kind) -> Result<(), Broken> {
        let Some(challenge) = self.challenge(who)? else { return Ok(()) };
        let nonce = self.nonce(&challenge);
        self.ops.push(Op::new(self.stage, &self.wraps, who, kind, nonce));
        self.send(self.ops.len() - 1)
    }

    /// What somebody wants next.
    fn wish(&mut self) -> Option<(usize, Kind)> {
        if self.wraps.is_empty() || (self.wraps.len() < self.weather.wraps && self.rng.once_in(4)) {
            let wrap = self.wraps.len();
            let terms = self.terms();
            let file = self.file();
            self.wraps.push(Wrap::new(self.stage, file, terms));
            return Some((ALICE, Kind::Create { wrap }));
        }
        let wrap = self.rng.index(self.wraps.len());
        let reader = self.rng.pick(&[BOB, BOB, BOB, CAROL, MALLORY]);
        let opened = self.ops.iter().rev().find_map(|op| match op.kind {
            Kind::Open { wrap, claim } => Some((op.who, wrap, claim)),
            _ => None,
        });
        let wish = match self.rng.below(24) {
            0..=7 => (reader, Kind::Open { wrap, claim: self.claim(wrap, reader) }),
            8..=10 => opened.map(|(who, wrap, claim)| (who, Kind::Ack { wrap, claim }))?,
            11 => opened.map(|(who, wrap, claim)| (who, Kind::Nack { wrap, claim }))?,
            12 => (self.rng.pick(&[ALICE, ALICE, ALICE, BOB]), Kind::Revoke { wrap }),
            13 | 14 => (self.rng.pick(&[ALICE, BOB, MALLORY]), Kind::Inspect { wrap }),
            15..=18 => {
                let (secret, value) = (self.rng.index(2), self.rng.index(self.stage.values.len()));
                (self.rng.pick(&[ALICE, BOB]), Kind::Put { secret, value })
            }
            19 | 20 => (self.rng.pick(&[ALICE, BOB, CAROL]), Kind::Get { secret: self.rng.index(2) }),
            21 => (self.rng.pick(&[ALICE, BOB]), Kind::Alarms),
            22 if self.rng.once_in(3) => (ADMIN, Kind::Seal),
            22 => (ADMIN, Kind::ConfirmClock),
            _ if self.mutant == Some(Mutant::SecretInName) => (ALICE, Kind::Misplace { value: 0 }),
            _ if self.rng.once_in(3) => (ADMIN, Kind::Disable { person: self.rng.pick(&[CAROL, MALLORY]) }),
            _ => return None,
        };
        Some(wish)
    }

    fn terms(&mut self) -> Terms {
        let now = self.clock.unix_ms();
        // The writer's clock is not the node's.
        let skew = self.rng.pick(&[-30_000, -2_000, 0, 0, 2_000, 30_000]);
        let now = now.saturating_add_signed(skew);
        Terms {
            mode: self.rng.pick(&[Mode::First, Mode::First, Mode::Each]),
            nbf_ms: if self.rng.once_in(4) { now + self.rng.pick(&[3_000, 60_000]) } else { 0 },
            exp_ms: now + self.rng.pick(&[100_000, 500_000, 3_600_000, 3_600_000]),
            ack_s: self.rng.pick(&[60, 600]),
        }
    }

    /// A file that this seed has not used.
    fn file(&mut self) -> usize {
        let used: Vec<usize> = self.wraps.iter().map(|wrap| wrap.file).collect();
        let free: Vec<usize> = (0..self.stage.files.len()).filter(|file| !used.contains(file)).collect();
        self.rng.pick(&free)
    }

    /// A fresh claim, or most often the one that this person has for this wrap.
    fn claim(&mut self, wrap: usize, who: usize) -> usize {
        let used = |op: &Op| matches!(op.kind, Kind::Open { .. });
        let own = self.ops.iter().find_map(|op| match op.kind {
            Kind::Open { wrap: of, claim } if of == wrap && op.who == who => Some(claim),
            _ => None,
        });
        match own {
            Some(claim) if self.rng.once_in(2) => claim,
            _ => self.ops.iter().filter(|op| used(op)).count() % self.stage.claims.len(),
        }
    }

    // --- the end

    /// The network heals, and everybody learns what came of it.
    fn settle(&mut self) -> Result<(), Broken> {
        self.tell("the network heals".into());
        self.disks.store.mend();
        self.challenges = Default::default();
        for _ in 0..ROUNDS {
            self.now += 1;
            if !self.machine().is_unsealed() {
                self.unseal()?;
            }
            while !self.letters.is_empty() {
                self.deliver(0)?;
            }
            self.drain()?;
            while !self.letters.is_empty() {
                self.deliver(0)?;
            }
            self.drain()?;
            let idle: Vec<usize> =
                (0..self.ops.len()).filter(|op| self.ops[*op].done.is_none() && self.ops[*op].under_way == 0).collect();
            self.challenges = Default::default();
            for op in &idle {
                self.send(*op)?;
            }
            if idle.is_empty() && self.letters.is_empty() && self.machine().is_unsealed() {
                return Ok(());
            }
            self.pass(50);
        }
        let waiting: Vec<_> = self.ops.iter().filter(|op| op.done.is_none()).map(|op| op.kind).collect();
        broken("nobody_waits_for_ever", format!("{waiting:?}"))
    }

    /// The writer looks at all wraps and alarms, and somebody reads the secrets.
    fn last_look(&mut self) -> Result<(), Broken> {
        self.unseal()?;
        let mut looks: Vec<_> = (0..self.wraps.len()).map(|wrap| (ALICE, Kind::Inspect { wrap })).collect();
        looks.extend([(BOB, Kind::Get { secret: 0 }), (BOB, Kind::Get { secret: 1 }), (ALICE, Kind::Alarms)]);
        self.challenges = Default::default();
        for (who, kind) in looks {
            let challenge = self.challenge(who)?.expect("no power goes any more");
            let nonce = self.nonce(&challenge);
            self.ops.push(Op::new(self.stage, &self.wraps, who, kind, nonce));
            self.send(self.ops.len() - 1)?;
        }
        self.settle()
    }

    /// The node stops in order; its log and its disks are looked at.
    fn close(&mut self) -> Result<(), Broken> {
        let closed = self.alone(|machine| {
            let sink = machine.node.parts.sink.clone();
            Box::pin(async move { sink.flush_and_close().await.is_ok() })
        })?;
        if closed != Some(true) {
            return broken("chain_verifies", "the log is not closed");
        }
        let expected = Expectations { cluster: Some(self.stage.view.id()), whole: true, ..Expectations::default() };
        let report = sink::verify(&self.disks.log, expected).expect("a log that can be read");
        let wrong = |class| class != Class::ClockWentBack || self.clock_sets == 0;
        if let Some(finding) = report.findings.iter().find(|finding| wrong(finding.class)) {
            return broken("chain_verifies", format!("{finding:?}"));
        }
        let mut lines = Vec::new();
        let read = sink::lines(&self.disks.log, self.stage.lines(), |found| {
            if let Body::Request(line) = found.line.body
                && line.outcome.status == 200
                && let Some(action) = line.action
            {
                lines.push((line.principal, action.to_string()));
            }
            true
        });
        read.expect("a log that can be read");
        self.end().no_answer_without_audit_line(&lines)?;
        let image = self.disks.store.image();
        let log = std::fs::read(&self.disks.log).expect("a log that can be read");
        for file in image.files().into_iter().chain([log.as_slice()]) {
            if contains(file, SECRET_MARK.as_bytes()) {
                return broken("nothing_readable_on_disk", "a secret lies in a file");
            }
        }
        Ok(())
    }
}
