//! Leases whose end has come: users are dropped, each database by itself, until they are gone. And passwords of static
//! roles whose time has come: they are rotated, in the same queue.
//!
//! What is due lies in the store, so neither a crash nor a seal loses any. A database that does not answer is asked
//! again after a while that grows; the others do not wait for it. Memory holds one page of each database at a time.

use crate::database::{DatabaseError, Job, User};
use crate::drive::{DriveError, Driven};
use crate::failpoint;
use crate::node::{Node, Phase};
use crate::serve::static_role;
use crate::unsealed::Unsealed;
use bulla_core::audit::LeaseEvent;
use bulla_core::engine::database::static_role::{Ask, Asked, Held};
use bulla_core::engine::database::{self, Connection};
use bulla_core::engine::lease::{self, Ended, Failed, Mark, Take, Taken, Unheard};
use bulla_core::operation::{Fault, Operation, Reply, parse_record};
use bulla_wire::id::{Lineage, PrincipalId};
use bulla_wire::name::Name;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// How often the queues are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Entries in one look at a queue.
const DUE_AT_ONCE: usize = 64;
/// Databases in one read.
const DATABASES_AT_ONCE: usize = 100;
/// Demands in one look.
const DEMANDS_AT_ONCE: usize = 16;
/// First wait for a database that is not reached; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait: one that is back is cleaned within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a rotation that is due waits for its turn; then the next look has it.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// What is known of a database between two looks.
#[derive(Default)]
struct Standing {
    /// Its queue is being worked off. The end says whether it was reached.
    working: Option<JoinHandle<bool>>,
    failures: u32,
    not_before: Option<Instant>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Watch {
    standings: HashMap<Name, Standing>,
    /// The history and document by which principals were looked at who are not heard.
    judged: Option<(Lineage, u32)>,
}

/// Works until the process ends.
pub async fn run(node: Arc<Node>) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        let Phase::Unsealed(unsealed) = node.phase() else { continue };
        unsealed.databases.sweep();
        // Whatever is wrong with one of these must not keep users of databases that are overdue.
        if let Err(error) = unheard(&node, &unsealed, &mut watch.judged).await {
            tracing::warn!(%error, "leases of principals who are not heard wait; the next look goes on");
        }
        if let Err(error) = mark(&node, &unsealed).await {
            tracing::warn!(%error, "leases that are to be revoked wait; the next look goes on");
        }
        if let Err(error) = look(&node, &unsealed, &mut watch.standings).await {
            tracing::warn!(%error, "leases wait; the next look goes on");
        }
    }
}

/// After each document: who is not heard by it keeps nothing.
async fn unheard(node: &Node, unsealed: &Unsealed, judged: &mut Option<(Lineage, u32)>) -> Result<(), DriveError> {
    let directory = unsealed.directory();
    let now = Some((unsealed.keys.lineage, directory.view().newest().number()));
    if *judged == now {
        return Ok(());
    }
    for who in directory.principals_after(None).filter(|who| !who.may_sign()) {
        drive(node, unsealed, &Unheard { principal: who.subject.id }, None).await?;
    }
    *judged = now;
    Ok(())
}

/// Begins with what is due, in each database by itself.
async fn look(
    node: &Arc<Node>,
    unsealed: &Arc<Unsealed>,
    standings: &mut HashMap<Name, Standing>,
) -> Result<(), DriveError> {
    let (mut after, mut seen) = (None, HashSet::new());
    loop {
        let query = database::databases(after.take(), DATABASES_AT_ONCE);
        let records = unsealed.read(&node.parts.store, std::slice::from_ref(&query)).await?;
        let Some((page, more)) = records.page(&query) else { return Ok(()) };
        for record in page {
            match parse_record::<Connection>("database", &record.bytes) {
                Ok(connection) => {
                    seen.insert(connection.name.clone());
                    let standing = standings.entry(connection.name.clone()).or_default();
                    begin(node, unsealed, connection, standing).await;
                }
                Err(error) => tracing::error!(%error, "a database cannot be read, and its leases wait"),
            }
        }
        after = page.last().filter(|_| more).map(|record| record.cursor.clone());
        if after.is_none() {
            standings.retain(|name, _| seen.contains(name));
            return Ok(());
        }
    }
}

/// Marks what was demanded to be revoked.
async fn mark(node: &Arc<Node>, unsealed: &Arc<Unsealed>) -> Result<(), DriveError> {
    loop {
        let query = lease::demands(DEMANDS_AT_ONCE);
        let records = unsealed.read(&node.parts.store, std::slice::from_ref(&query)).await?;
        let Some((page, _)) = records.page(&query) else { return Ok(()) };
        if page.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        for record in page {
            let marked = match Mark::parse(&record.bytes) {
                Ok(mark) => drive(node, unsealed, &mark, None).await.map(drop),
                Err(fault) => Err(fault.into()),
            };
            failpoint::hit(failpoint::LEASE_MARKED);
            failed = marked.err().or(failed);
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
}

/// Begins to work off what is due in a database, unless that goes on already or it is not to be asked yet.
async fn begin(node: &Arc<Node>, unsealed: &Arc<Unsealed>, connection: Connection, standing: &mut Standing) {
    if let Some(working) = standing.working.take() {
        if !working.is_finished() {
            standing.working = Some(working);
            return;
        }
        // A task that panicked reached nothing.
        if working.await.unwrap_or(false) {
            (standing.failures, standing.not_before) = (0, None);
        } else {
            let wait = FIRST_WAIT.saturating_mul(1 << standing.failures.min(16)).min(LONGEST_WAIT);
            standing.failures = standing.failures.saturating_add(1);
            standing.not_before = Some(Instant::now() + wait);
        }
    }
    if standing.not_before.is_some_and(|not_before| Instant::now() < not_before) {
        return;
    }
    let (node, unsealed) = (node.clone(), unsealed.clone());
    standing.working = Some(tokio::spawn(async move { work(&node, &unsealed, &connection).await }));
}

/// Works off what is due in a database, each entry once. False if it was not reached.
async fn work(node: &Arc<Node>, unsealed: &Arc<Unsealed>, connection: &Connection) -> bool {
    let name = &connection.name;
    let mut after = None;
    loop {
        // Keys that are over open nothing more.
        if unsealed.is_closed() {
            return true;
        }
        let query = lease::scan(name, after.take(), DUE_AT_ONCE);
        let records = match unsealed.read(&node.parts.store, std::slice::from_ref(&query)).await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, database = %name, "leases wait; the next look goes on");
                return true;
            }
        };
        let Some((page, more)) = records.page(&query) else { return true };
        let now = unsealed.now(node.machine());
        let leases = Take::due(name, page, now).into_iter().map(Due::Lease);
        let rotations = Ask::due(name, page, now).into_iter().filter_map(|ask| {
            let told = ask.inspect_err(|error| {
                tracing::error!(%error, database = %name, "a due static role cannot be read; the others do not wait for it");
            });
            told.ok().map(Due::Rotation)
        });
        let due: Vec<Due> = leases.chain(rotations).collect();
        if !end_all(node, unsealed, due, connection.connections).await {
            return false;
        }
        // What failed stands further behind now, or cannot be read: either way the others do not wait for it.
        let last = page.last().filter(|last| more && lease::is_due(&last.cursor, now));
        after = last.map(|record| record.cursor.clone());
        if after.is_none() {
            return true;
        }
    }
}

/// What is due in a database.
enum Due {
    /// The end of a lease.
    Lease(Take),
    /// The rotation of a password.
    Rotation(Ask),
}

/// Does what is due, so many at a time. False once the database was not reached: then the rest waits.
async fn end_all(node: &Arc<Node>, unsealed: &Arc<Unsealed>, due: Vec<Due>, at_once: u8) -> bool {
    let mut due = due.into_iter();
    let mut running = JoinSet::new();
    let mut reached = true;
    loop {
        while reached && running.len() < usize::from(at_once) {
            let Some(next) = due.next() else { break };
            let (node, unsealed) = (node.clone(), unsealed.clone());
            running.spawn(async move {
                match next {
                    Due::Lease(take) => (end(&node, &unsealed, &take).await, take.id.to_string()),
                    Due::Rotation(ask) => (rotate(&node, &unsealed, &ask).await, ask.role.to_string()),
                }
            });
        }
        match running.join_next().await {
            None => return reached,
            Some(Ok((Ok(ended), _))) => reached &= ended,
            // The keys are over. Whoever has the next ones goes on.
            Some(Ok((Err(DriveError::Closed), _))) => reached = false,
            Some(Ok((Err(error), due))) => {
                tracing::error!(%error, %due, "a lease does not end, or a password stays; it is tried again")
            }
            Some(Err(error)) => tracing::error!(%error, "a lease does not end, or a password stays; it is tried again"),
        }
    }
}

/// Drops the user of one lease. False if the database was not reached.
async fn end(node: &Node, unsealed: &Unsealed, take: &Take) -> Result<bool, DriveError> {
    let driven = drive(node, unsealed, take, None).await?;
    let Ok(Reply::Secret(bytes)) = &driven.result else { return Err(Fault::Key("due lease").into()) };
    let Taken { lease: Some(lease), connection: Some(connection), corrected } = parse_record("due lease", bytes)?
    else {
        return Ok(true);
    };
    failpoint::hit(failpoint::LEASE_BEFORE_DROP);
    let user = User { name: &lease.user, password: "", expires_ms: lease.expires_ms };
    let mut dropped = unsealed.databases.run(&connection, Job::Drop, &lease.revocation, user).await;
    if let (Err(DatabaseError::Refused(_)), Some(corrected)) = (&dropped, corrected) {
        dropped = unsealed.databases.run(&connection, Job::Drop, &corrected, user).await;
    }
    match dropped {
        Ok(()) => {
            failpoint::hit(failpoint::LEASE_AFTER_DROP);
            drive(node, unsealed, &Ended { id: lease.id }, Some(&lease.owner)).await?;
            drop(unsealed.note_lease(LeaseEvent::Ended, &lease));
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(%error, database = %lease.database, lease = %lease.id, "a user was not dropped; it is tried again");
            drive(node, unsealed, &Failed { id: lease.id, error: error.to_string() }, None).await?;
            Ok(reached(&error))
        }
    }
}

/// Rotates the password of a static role, unless somebody does so for longer than a moment. False if the database was not
/// reached.
async fn rotate(node: &Node, unsealed: &Unsealed, ask: &Ask) -> Result<bool, DriveError> {
    // Those who are told the password are at it for a moment; somebody may rotate it for longer.
    let Ok(_turn) = tokio::time::timeout(TURN_WAIT, unsealed.rotations.wait(&ask.role)).await else { return Ok(true) };
    let driven = drive(node, unsealed, ask, None).await?;
    let Ok(Reply::Secret(bytes)) = &driven.result else { return Err(Fault::Key("due rotation").into()) };
    let Asked { of: Some((role, connection)) } = parse_record("due rotation", bytes)? else { return Ok(true) };
    failpoint::hit(failpoint::STATIC_BEFORE_SET);
    match unsealed.databases.run(&connection, Job::Password, &[], static_role::user(&role)).await {
        Ok(()) => {
            failpoint::hit(failpoint::STATIC_AFTER_SET);
            let Some(password) = role.next else { return Ok(true) };
            drive(node, unsealed, &Held { role: ask.role.clone(), id: role.id, password }, None).await?;
            unsealed.note_rotation(&ask.role, &role.user);
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(%error, role = %ask.role, "a password was not rotated; it is tried again");
            drive(node, unsealed, &static_role::missed(ask, &role, &error), None).await?;
            Ok(reached(&error))
        }
    }
}

/// Whether it was reached, whatever it said.
fn reached(error: &DatabaseError) -> bool {
    !matches!(error, DatabaseError::Unreachable(_) | DatabaseError::Login(_))
}

/// As a request: sealing waits until it is committed. With an owner, whose count of leases changes.
async fn drive(
    node: &Node,
    unsealed: &Unsealed,
    op: &(dyn Operation + Sync),
    owner: Option<&PrincipalId>,
) -> Result<Driven, DriveError> {
    let _under_way = unsealed.in_flight.acquire().await;
    let _turn = match owner {
        Some(owner) => unsealed.counting(owner).await,
        None => None,
    };
    unsealed.drive(node.machine(), op, None, None).await
}
