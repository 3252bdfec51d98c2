//! One seed: people, a network and a node, and chance, which decides what happens next.

mod memory;
mod pieces;
mod rekey;
mod restore;
mod seal;

use crate::history::{Attempt, Broken, broken};
use crate::judge::End;
use crate::machine::{Awake, Disks, Future, LogShape, Machine, contains, read};
use crate::mutant::Mutant;
use crate::play::{Kind, Known, Op, Outcome, Said, Wrap};
use crate::rng::Rng;
use crate::stage::{ADMIN, ALICE, BEGIN_MS, BOB, CAROL, MALLORY, NAMES, SECRET_MARK, Stage, Stages, Terms};
use bulla_core::audit::{Body, Class};
use bulla_crypto::evidence::ClusterView;
use bulla_server::clock::{Clock, Watch};
use bulla_server::sink::{self, Expectations};
use bulla_store::simulated::Fails;
use bulla_testkit::ManualClock;
use bulla_testkit::raw::{self, Reply, Request};
use bulla_wire::api::SlotState;
use bulla_wire::challenge::Challenge;
use bulla_wire::error::Code;
use bulla_wire::id::Nonce;
use bulla_wire::wrap::Mode;
use bytes::Bytes;
use http::Response;
use rekey::Rekey;
use restore::OlderCopy;
pub use restore::Restored;
use seal::Meeting;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Decisions of chance before the network is healed.
const STEPS: u32 = 130;
/// Rounds of the healed network after which nobody may wait any more.
const ROUNDS: usize = 400;

/// How long a large delivery may take another thread.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);

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
    /// The node has no disk, and so no power goes before the end.
    memory: bool,
    quorum: bool,
    rekeys: bool,
    restores: bool,
    log: LogShape,
    pieces: bool,
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
    challenges: [Option<Challenge>; NAMES.len()],
    wraps: Vec<Wrap>,
    ops: Vec<Op>,
    attempts: Vec<Attempt>,
    now: u64,
    life: u32,
    epoch: u64,
    unseals: u32,
    meeting: Meeting,
    /// The documents as the node last served them.
    view: ClusterView,
    rekey: Option<Rekey>,
    copy: Option<OlderCopy>,
    restored: Option<Restored>,
    /// Nobody has tried to unseal since the node began, or since it said that it is sealed.
    sealed: bool,
    clock_sets: u32,
    /// The most that the clock has shown.
    peak_ms: u64,
    /// By how much the clock was set back, all together.
    set_back_ms: u64,
    /// Signed answers since the node began.
    signed: usize,
    mutant: Option<Mutant>,
    trace: Vec<String>,
}

impl<'a> Sim<'a> {
    /// Plays a seed to its end. Gives what happened.
    pub fn play(
        stages: &'a Stages,
        seed: u64,
        log: &Path,
        mutant: Option<Mutant>,
    ) -> (Vec<String>, Result<(), Broken>) {
        let mut sim = Self::new(stages, seed, log, mutant);
        let result = sim.run();
        (sim.trace, result)
    }

    /// Before anything has happened.
    pub fn new(stages: &'a Stages, seed: u64, log: &Path, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let memory = rng.once_in(16);
        let log_shape = LogShape { rotates: rng.once_in(8), syncs_each: rng.once_in(8) };
        let weather = Weather {
            memory,
            quorum: rng.once_in(4),
            rekeys: rng.once_in(5),
            restores: rng.once_in(6) && !memory,
            log: log_shape,
            pieces: rng.once_in(12),
            crashes: !rng.once_in(4) && !memory,
            steps: rng.once_in(5) && !log_shape.rotates,
            losses: rng.pick(&[4, 8, 30]),
            ops: 8 + rng.index(13),
            wraps: 1 + rng.index(3),
        };
        let stage = if weather.quorum { &stages.quorum } else { &stages.any };
        let disks = Disks::new(stage, log.to_owned(), weather.log, weather.memory);
        Self {
            stage,
            rng,
            weather,
            clock: ManualClock::at(BEGIN_MS),
            disks,
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
            meeting: Meeting::default(),
            view: stage.view.clone(),
            rekey: None,
            copy: None,
            restored: None,
            sealed: true,
            clock_sets: 0,
            peak_ms: 0,
            set_back_ms: 0,
            signed: 0,
            mutant,
            trace: vec![],
        }
    }

    /// A write waits for the store while the clock is set back, and power goes once it is answered: its line is written
    /// again, although its nonce is of a later minute than its commit.
    pub fn clock_set_back(&mut self) -> Result<(), Broken> {
        // A log that rotated meanwhile might get the line a second time, which CONTRIBUTING.md names; and nothing
        // outlives the power of a node in memory.
        if self.weather.log.rotates || self.weather.memory {
            return Ok(());
        }
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
        for _ in 0..self.restored.as_ref().map_or(0, |_| STEPS / 2) {
            self.step()?;
        }
        self.settle()?;
        if self.weather.crashes && self.rng.once_in(2) {
            self.crash()?;
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Broken> {
        if self.weather.pieces {
            self.sweep_pieces()?;
        }
        self.last_look()?;
        self.end().judge()?;
        if self.weather.pieces {
            self.no_piece_is_left()?;
        }
        self.close()?;
        if self.weather.memory { self.memory_ends() } else { Ok(()) }
    }

    fn end(&self) -> End<'_> {
        let restored = self.restored.as_ref();
        End { stage: self.stage, wraps: &self.wraps, ops: &self.ops, attempts: self.attempts.clone(), restored }
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
        self.meeting.end();
        match Machine::start(self.stage, &self.disks, &self.clock, self.mutant) {
            Ok(machine) => {
                self.watch = Some(machine.node.watch());
                self.machine = Some(machine);
                self.learn();
                Ok(())
            }
            Err(error) => broken("it_starts_again", error),
        }
    }

    /// Power goes, and the node begins again on what is left.
    fn crash(&mut self) -> Result<(), Broken> {
        self.tell("power goes".into());
        self.drop_tasks();
        let mut rng = self.rng.fork();
        self.disks.cut(self.stage, &mut rng, self.mutant);
        self.machine = None;
        self.start()
    }

    fn drop_tasks(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            if let Work::Answer { attempt, .. } = task.work {
                self.ops[self.attempts[attempt].op].under_way -= 1;
            }
        }
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
            if idle == 3 && self.weather.pieces {
                // A large delivery is encrypted by another thread.
                let until = Instant::now() + THREAD_PATIENCE;
                while self.ready().is_empty() && Instant::now() < until {
                    std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
            }
            if idle > 3 {
                return broken("nobody_waits_for_ever", format!("{} requests wait for nothing", self.tasks.len()));
            }
        }
        Ok(())
    }

    fn turn_store(&mut self) -> Result<(), Broken> {
        self.machine().turn();
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
            peak_ms: self.peak_ms,
            life: self.life,
            sealed,
            unseals: self.unseals,
        });
        let attempt = self.attempts.len() - 1;
        let is_early = match self.ops[op].kind {
            Kind::Disable { .. } | Kind::Revoke { .. } => self.mutant == Some(Mutant::AnswersEarly),
            Kind::Seal => self.mutant == Some(Mutant::NeverSeals),
            Kind::Rekey => self.mutant == Some(Mutant::NeverRekeys),
            _ => false,
        };
        if is_early {
            self.rekey.iter_mut().for_each(|rekey| rekey.is_done |= self.ops[op].kind == Kind::Rekey);
            self.sealed |= self.ops[op].kind == Kind::Seal;
            let outcome = Outcome { code: None, said: Said::Nothing };
            (self.attempts[attempt].ended, self.attempts[attempt].outcome) = (Some(self.now), Some(outcome.clone()));
            self.ops[op].done = Some(outcome);
            return;
        }
        self.tell(format!("{attempt} arrives: op {op}, {:?} of {}", self.ops[op].kind, NAMES[self.ops[op].who]));
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
        // Whoever puts a document again is told that it is there, by a sealed node too.
        let sealed = self.attempts[attempt].sealed && self.ops[op].kind != Kind::Rekey;
        if sealed && self.attempts[attempt].unseals == self.unseals && outcome.code.is_none() {
            return broken("sealed_answers_nothing", format!("{:?}", self.ops[op].kind));
        }
        self.count_signed(&reply)?;
        self.sealed |= outcome.code.is_none() && self.has_sealed(op);
        if self.ops[op].kind == Kind::Rekey && outcome.code.is_none() {
            self.rekey.iter_mut().for_each(|rekey| rekey.is_done = true);
            self.learn();
        }
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

    /// Each signed answer has its line in the log's file by now, and where each line is synced, on the disk.
    fn count_signed(&mut self, reply: &Reply) -> Result<(), Broken> {
        self.signed += usize::from(reply.to_signed());
        let (lines, synced) = self.disks.requests();
        if lines < self.signed {
            let detail = format!("{} signed answers and {lines} lines since the node began", self.signed);
            return broken("no_answer_without_audit_line", detail);
        }
        if self.weather.log.syncs_each && synced < self.signed {
            let detail = format!("{} signed answers and {synced} lines on the disk since the node began", self.signed);
            return broken("each_answer_is_synced", detail);
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

    // --- chance

    fn step(&mut self) -> Result<(), Broken> {
        self.now += 1;
        let ready = self.ready();
        let waiting = self.machine().waiting();
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
            if self.weather.restores && self.restored.is_none() { 2 } else { 0 },
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
            9 => self.one_share()?,
            _ => self.copy_or_restore()?,
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
                self.set_back_ms += i64::min(to, 0).unsigned_abs();
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
        self.peak_ms = self.peak_ms.max(now);
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
                    self.arrive_in_order(op, request)?;
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
        if self.weather.rekeys && self.rekey.is_none() && self.rng.once_in(4) {
            return self.begin_rekey();
        }
        match self.wish() {
            Some((who, kind)) => self.begin(who, kind),
            None => Ok(()),
        }
    }

    fn begin(&mut self, who: usize, kind: Kind) -> Result<(), Broken> {
        let Some(challenge) = self.challenge(who)? else { return Ok(()) };
        let nonce = self.nonce(&challenge);
        let op = Op::new(&self.known(), who, kind, nonce);
        self.ops.push(op);
        self.send(self.ops.len() - 1)
    }

    fn known(&self) -> Known<'_> {
        let document = self.rekey.as_ref().map(|rekey| &rekey.document);
        Known { stage: self.stage, view: &self.view, wraps: &self.wraps, document }
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
        if self.restored.is_some() && self.rng.once_in(6) {
            return Some((ALICE, Kind::Release { wrap }));
        }
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
        let is_large = |file: &usize| self.stage.files[*file].is_large();
        let mut free: Vec<usize> = (0..self.stage.files.len()).filter(|file| !used.contains(file)).collect();
        let large = self.weather.pieces && (used.is_empty() || self.rng.once_in(4)) && free.iter().any(is_large);
        free.retain(|file| is_large(file) == large);
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
            let op = Op::new(&self.known(), who, kind, nonce);
            self.ops.push(op);
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
        let read = |path| std::fs::read(path).expect("a log that can be read");
        let log: Vec<Vec<u8>> = self.disks.log_files().into_iter().map(read).collect();
        for file in image.files().into_iter().chain(log.iter().map(Vec::as_slice)) {
            if contains(file, SECRET_MARK.as_bytes()) {
                return broken("nothing_readable_on_disk", "a secret lies in a file");
            }
        }
        Ok(())
    }
}
