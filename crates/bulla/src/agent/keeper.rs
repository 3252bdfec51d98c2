//! What an agent holds: values, and users of databases with their leases. The only part that asks the cluster of its
//! own accord.
//!
//! Whatever fails is tried again, and what is there stays in use meanwhile.

use super::asking::{Answer, Ask, Asking, is_gone};
use super::change::Changes;
use super::child::{Change, OnChange};
use super::config::{Config, Source};
use super::file;
use super::gathered::{Gathered, Users};
use super::health::Health;
use super::plan::{Jitter, Task, Term, Todo, look_ms, rotated_ms};
use super::wanted::{RoleName, Wanted};
use crate::exit::{Exit, Failure};
use crate::session::now_ms as wall_ms;
use crate::template;
use crate::value::{ValueName, Values};
use bulla_client::{Client, ClientError};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretBytes;
use bulla_server::clock::{Clock as _, SystemClock};
use bulla_wire::api::LeaseState;
use bulla_wire::id::LeaseId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

/// How long the revocation of all leases may take at the end; what is not reached ends at its time.
const FAREWELL: Duration = Duration::from_secs(10);
/// Between two tries to revoke a lease in ms. It ends at its time in any case.
const REVOKE_AGAIN_MS: u64 = 60_000;
/// Pause at most in ms, so that no sum of times is too long for a timer.
const MAX_SLEEP_MS: u64 = 3_600_000;

/// All values are there, or have changed.
pub struct Order {
    /// The child's variables.
    pub variables: Vec<(String, SecretBytes)>,
    /// What differs from before.
    pub change: Change,
}

/// A user's lease.
struct Held {
    lease: LeaseId,
    term: Term,
}

/// A lease whose user was replaced.
struct Replaced {
    lease: LeaseId,
    ends_ms: u64,
    /// When it is revoked; none before the child was told of the next one.
    revoke_ms: Option<u64>,
}

/// Keeps values and leases.
pub struct Keeper {
    client: Client,
    config: Arc<Config>,
    clock: SystemClock,
    users: Users,
    health: Health,
    changes: Changes,
    /// A look is worth while.
    wake: Arc<Notify>,
    orders: mpsc::Sender<Order>,
    leases: BTreeMap<RoleName, Held>,
    replaced: Vec<Replaced>,
    roles: BTreeMap<RoleName, Task>,
    asking: Asking,
    look: Task,
    /// Stored secrets are to be read, for the first time or because they have changed.
    read: Option<Task>,
    /// Stored secrets as they were read last. A next user of a database is written beside them even if one of them
    /// cannot be read any more.
    stored: Option<Values>,
    /// Something may have to be written and told.
    write: Option<Task>,
    /// What was told last; none before the first time.
    variables: Option<Vec<(String, SecretBytes)>>,
    /// What was written and not told yet.
    untold: Change,
}

impl Keeper {
    /// Nothing is there yet.
    pub fn new(
        client: Client,
        config: Arc<Config>,
        (users, health): (Users, Health),
        orders: mpsc::Sender<Order>,
        wake: Arc<Notify>,
    ) -> Self {
        let roles = config.databases.keys().map(|role| (role.clone(), Task::default())).collect();
        Self {
            config,
            clock: SystemClock::default(),
            users,
            health,
            changes: Changes::new(client.clone(), Arc::clone(&wake)),
            wake,
            client,
            orders,
            leases: BTreeMap::new(),
            replaced: Vec::new(),
            roles,
            asking: Asking::default(),
            look: Task::default(),
            read: Some(Task::default()),
            stored: None,
            write: None,
            variables: None,
            untold: Change::default(),
        }
    }

    /// Keeps everything until it is to stop.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            self.ask_for_users();
            self.look_for_change().await;
            if !*stop.borrow() {
                self.read_values().await;
            }
            if !*stop.borrow() {
                self.hand_on().await;
            }
            self.revoke_replaced().await;
            let pause = self.next_ms().saturating_sub(self.clock.monotonic_ms()).min(MAX_SLEEP_MS);
            tokio::select! {
                () = sleep(Duration::from_millis(pause)) => {}
                (role, answer) = self.asking.next() => self.take(role, answer),
                () = self.wake.notified() => {
                    self.look.due_ms = 0;
                    self.ask_static_again();
                    self.read.iter_mut().chain(&mut self.write).for_each(|task| task.due_ms = 0);
                }
                // The other end is gone: so is the reason to go on.
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        // A user who is made now is known, and taken away.
        while !self.asking.is_empty() {
            let (role, answer) = self.asking.next().await;
            self.take(role, answer);
        }
    }

    /// When the next thing is to be done.
    fn next_ms(&self) -> u64 {
        let roles = self.roles.iter().filter(|(role, _)| !self.asking.about(role)).map(|(_, task)| task.due_ms);
        let look = self.looks().then_some(self.look.due_ms);
        let read = self.read.map(|task| task.due_ms);
        let write = self.write.filter(|_| self.is_whole()).map(|task| task.due_ms);
        let revoke = self.replaced.iter().filter_map(|replaced| replaced.revoke_ms);
        roles.chain(look).chain(read).chain(write).chain(revoke).min().unwrap_or(u64::MAX)
    }

    /// Whether change is looked for: while values are to be read again, there is no need.
    fn looks(&self) -> bool {
        self.stored.is_some() && self.read.is_none()
    }

    /// Whether every value is there.
    fn is_whole(&self) -> bool {
        self.stored.is_some() && self.roles.keys().all(|role| self.users.has(role))
    }

    /// Asks for what the leases need whose time has come.
    fn ask_for_users(&mut self) {
        let now = self.clock.monotonic_ms();
        for (role, task) in &self.roles {
            if task.due_ms > now || self.asking.about(role) {
                continue;
            }
            let held = self.leases.get(role).filter(|held| held.term.todo(now, task.failures) == Todo::Renew);
            let ask = match self.config.databases.get(role) {
                Some(Source::Static) => Ask::Static,
                Some(Source::Made { ttl_s }) => {
                    Ask::Lease { asked_ms: now, ttl_s: *ttl_s, renew: held.map(|held| held.lease) }
                }
                None => continue,
            };
            self.asking.begin(&self.client, role, ask);
        }
    }

    /// Static roles are looked at now.
    fn ask_static_again(&mut self) {
        for (role, task) in &mut self.roles {
            if self.config.databases.get(role) == Some(&Source::Static) {
                task.due_ms = 0;
            }
        }
    }

    /// Takes what came of asking for a role.
    fn take(&mut self, role: RoleName, answer: Result<Answer, Failure>) {
        let (now, what) = (self.clock.monotonic_ms(), format!("database/{role}"));
        let look_ms = self.next_look_ms(now);
        let task = self.roles.entry(role.clone()).or_default();
        match answer {
            Ok(Answer::Renewed { expires_ms }) => {
                // One that somebody took away meanwhile stays due: another user is asked for. An answer may come late.
                let Some(held) = self.leases.get_mut(&role).filter(|held| !held.term.is_lost()) else { return };
                held.term.renewed(now, expires_ms);
                task.done(held.term.due_ms(jitter()));
                tracing::info!(%role, lease = %held.lease, "the lease was renewed");
                self.health.well(&what);
            }
            Ok(Answer::Made { lease, user, term }) => {
                task.done(term.due_ms(jitter()));
                self.users.put(role.clone(), user);
                if let Some(Held { lease, term }) = self.leases.insert(role, Held { lease, term }) {
                    self.replaced.push(Replaced { lease, ends_ms: term.ends_ms, revoke_ms: None });
                }
                self.write = Some(Task::default());
                self.health.well(&what);
            }
            Ok(Answer::Told { user, rotates_ms }) => {
                task.done(look_ms.min(rotated_ms(now, rotates_ms, wall_ms())));
                if !self.users.is(&role, &user) {
                    tracing::info!(%role, user = %user.username, "a user of a database has this password now");
                    self.users.put(role, user);
                    self.write = Some(Task::default());
                }
                self.health.well(&what);
            }
            Err(failure) => {
                task.failed(now, jitter());
                if let Some(held) = self.leases.get(&role) {
                    held.term.in_time(task, now);
                }
                self.health.failed(&what, &failure, task.due_ms.saturating_sub(now));
            }
        }
    }

    async fn look_for_change(&mut self) {
        let now = self.clock.monotonic_ms();
        if !self.looks() || now < self.look.due_ms {
            return;
        }
        let looked = Box::pin(self.look_at_all()).await;
        let now = self.clock.monotonic_ms();
        match looked {
            Ok(changed) => {
                self.look.done(self.next_look_ms(now));
                self.health.well("changes");
                if changed {
                    self.read = Some(Task::default());
                }
            }
            Err(error) => {
                self.look.failed(now, jitter());
                self.health.failed("changes", &error.into(), self.look.due_ms.saturating_sub(now));
            }
        }
    }

    /// Whether a stored secret has changed. Leases that somebody took away are noticed on the way: their time has come.
    async fn look_at_all(&mut self) -> Result<bool, ClientError> {
        for (role, held) in &mut self.leases {
            let lost = match self.client.lease(&held.lease).await {
                Ok(lease) => lease.state != LeaseState::Active,
                Err(error) if is_gone(&error) => true,
                Err(error) => return Err(error),
            };
            if lost {
                held.term.lost(self.clock.monotonic_ms());
                self.roles.insert(role.clone(), Task::default());
            }
        }
        self.changes.any().await
    }

    fn next_look_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(look_ms(u64::try_from(self.config.poll.as_millis()).unwrap_or(u64::MAX), jitter()))
    }

    /// Reads all stored secrets, if there is a reason to.
    async fn read_values(&mut self) {
        if self.read.is_none_or(|task| task.due_ms > self.clock.monotonic_ms()) {
            return;
        }
        let read = Box::pin(Values::read(&self.client, names(&self.config))).await;
        let now = self.clock.monotonic_ms();
        match read {
            Ok(values) => {
                self.changes.seen(&values);
                self.stored = Some(values);
                (self.read, self.write) = (None, Some(Task::default()));
                self.look.done(self.next_look_ms(now));
                self.health.well("values");
            }
            Err(failure) => {
                let task = self.read.get_or_insert_default();
                task.failed(now, jitter());
                self.health.failed("values", &failure, task.due_ms.saturating_sub(now));
            }
        }
        if let Err(error) = self.client.flush() {
            tracing::warn!(%error, "what was seen of the cluster cannot be remembered");
        }
    }

    /// Writes files and hands variables on, if there is a reason to.
    async fn hand_on(&mut self) {
        let now = self.clock.monotonic_ms();
        if !self.is_whole() || self.write.is_none_or(|task| task.due_ms > now) {
            return;
        }
        let done = self.try_to_hand_on().await;
        let now = self.clock.monotonic_ms();
        match done {
            Ok(()) => {
                self.write = None;
                self.health.started();
                self.health.well("files");
            }
            Err(failure) => {
                let task = self.write.get_or_insert_default();
                task.failed(now, jitter());
                self.health.failed("files", &failure, task.due_ms.saturating_sub(now));
            }
        }
    }

    async fn try_to_hand_on(&mut self) -> Result<(), Failure> {
        let Some(stored) = &self.stored else { return Ok(()) };
        let config = &self.config;
        let values = Gathered { stored, users: self.users.all() };
        let mut files = Vec::with_capacity(config.templates.len());
        for template in &config.templates {
            files.push((template, template::fill(&template.parts, |wanted| values.get(wanted))?));
        }
        let variables = variables(config, &values)?;
        // Everything is there; only now anything is written.
        for (template, content) in &files {
            let path = &template.destination;
            let written = file::write(path, template.mode, content);
            if written.map_err(|error| Failure::file("cannot write", path, &error))? {
                tracing::info!(file = %path.display(), "written");
                self.untold.files = true;
            }
        }
        let first = self.variables.is_none();
        self.untold.variables |= self.variables.as_ref().is_some_and(|before| differ(before, &variables));
        if first || self.untold.any() {
            let order = Order { variables: copies(&variables), change: self.untold };
            // Nobody takes orders any more when the end has begun.
            drop(self.orders.send(order).await);
            self.told();
        }
        self.variables = Some(variables);
        Ok(())
    }

    /// The child was told of everything: users whom it had before are not needed after its grace. Where nobody is told,
    /// they stay until their leases end.
    fn told(&mut self) {
        self.untold = Change::default();
        let now = self.clock.monotonic_ms();
        let Some(child) = &self.config.child else { return };
        if child.on_change == OnChange::Nothing {
            return;
        }
        let grace_ms = u64::try_from(child.grace.as_millis()).unwrap_or(u64::MAX);
        for replaced in &mut self.replaced {
            replaced.revoke_ms.get_or_insert(now.saturating_add(grace_ms).saturating_add(1));
        }
    }

    async fn revoke_replaced(&mut self) {
        let now = self.clock.monotonic_ms();
        self.replaced.retain(|replaced| now < replaced.ends_ms);
        let (due, later) = std::mem::take(&mut self.replaced)
            .into_iter()
            .partition(|replaced: &Replaced| replaced.revoke_ms.is_some_and(|at| at <= now));
        self.replaced = later;
        let due: Vec<Replaced> = due;
        for replaced in due {
            if !self.revoke(&replaced.lease).await {
                let again = self.clock.monotonic_ms().saturating_add(REVOKE_AGAIN_MS);
                self.replaced.push(Replaced { revoke_ms: Some(again), ..replaced });
            }
        }
    }

    /// Whether the lease is over.
    async fn revoke(&self, lease: &LeaseId) -> bool {
        match self.client.lease_revoke(lease).await {
            Ok(_) => {
                tracing::info!(%lease, "the lease was revoked");
                true
            }
            Err(error) if is_gone(&error) => true,
            Err(error) => {
                tracing::warn!(%lease, error = %Failure::from(error).message, "the lease was not revoked");
                false
            }
        }
    }

    /// The end: leases of a child that is gone are needed no more. Files without a child are others', and so are the
    /// users in them.
    pub async fn farewell(self) {
        if self.config.child.is_none() {
            return;
        }
        let held = self.leases.values().map(|held| &held.lease);
        let leases = held.chain(self.replaced.iter().map(|replaced| &replaced.lease));
        let all = async {
            for lease in leases {
                self.revoke(lease).await;
            }
        };
        if timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("not all leases were revoked; they end at their time");
        }
    }
}

/// Stored secrets that are read before anything is written. What only the socket answers with is read when it is asked.
fn names(config: &Config) -> impl Iterator<Item = &ValueName> {
    let templates = config.templates.iter().flat_map(super::config::Template::wanted);
    let variables = config.child.iter().flat_map(|child| child.variables.iter().map(|(_, wanted)| wanted));
    templates.chain(variables).filter_map(|wanted| if let Wanted::Stored(name) = wanted { Some(name) } else { None })
}

fn variables(config: &Config, values: &Gathered) -> Result<Vec<(String, SecretBytes)>, Failure> {
    let mut variables = Vec::new();
    for (variable, wanted) in config.child.iter().flat_map(|child| &child.variables) {
        let value = values.get(wanted)?;
        if value.contains(&0) {
            return Err(Failure::new(Exit::Failed, format!("{wanted} holds a zero byte, which no variable can"))
                .hint("write it to a file with a [[template]]"));
        }
        variables.push((variable.clone(), SecretBytes::new(value.to_vec())));
    }
    Ok(variables)
}

/// Whether the same variables have other values. What time it takes tells nobody anything.
fn differ(before: &[(String, SecretBytes)], now: &[(String, SecretBytes)]) -> bool {
    before.iter().zip(now).any(|((_, before), (_, now))| before.expose() != now.expose())
}

fn copies(variables: &[(String, SecretBytes)]) -> Vec<(String, SecretBytes)> {
    variables.iter().map(|(name, value)| (name.clone(), value.copy())).collect()
}

fn jitter() -> Jitter {
    Jitter(u16::from_be_bytes(draw(&mut SystemRng)))
}
