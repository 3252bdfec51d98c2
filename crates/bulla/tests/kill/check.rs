//! What must hold after the server died and was unsealed again: everything acknowledged is there, everything else is
//! there whole or not at all, and every wrap still opens exactly once.

use crate::work::{Step, Told, Work};
use bulla_client::crypto::evidence::Standing;
use bulla_client::wire::api::{AlarmKind, SlotState};
use bulla_client::wire::error::Code;
use bulla_client::wire::wrap::{ReceiptKind, Slip};
use bulla_client::{Client, ClientError, Inspected, MemoryOutput};
use bulla_testkit::{Cli, Server, bulla};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Whether the change that was under way must have happened, if the point says so.
pub type Fate = Option<bool>;

/// What must have become of the line of the change that was under way, whose client died too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Whatever happened to it, it is there in the end.
    Any,
    /// It was lost with the process and written again.
    Lost,
    /// It was written before.
    Kept,
}

/// Takes stock, and gives the changes that happened as they must stand in the audit log: action and resource.
pub async fn effects(work: &Work, fate: Fate) -> BTreeSet<(String, String)> {
    let entries = work.ledger().entries.clone();
    let mut happened = BTreeSet::new();
    for entry in &entries {
        let Some((found, line)) = effect(work, &entry.step).await else { continue };
        match entry.told {
            Told::Done => assert!(found, "acknowledged and lost: {entry:?}"),
            Told::Never => assert!(!found, "the client says that it never arrived: {entry:?}"),
            Told::Begun => {
                if let Some(fate) = fate.filter(|_| entries.last().is_some_and(|last| last.step == entry.step)) {
                    assert_eq!(found, fate, "at this point it must be {fate}: {entry:?}");
                }
            }
        }
        if found {
            happened.insert(line);
        }
    }
    wraps(work, fate, &mut happened).await;
    happened
}

/// Whether a step that is no wrap's has its effect, and its line; none for steps that leave nothing.
async fn effect(work: &Work, step: &Step) -> Option<(bool, (String, String))> {
    let admin = work.client(&work.admins[1]);
    let line = |action: &str, resource: String| (action.to_owned(), resource);
    Some(match step {
        Step::Policy { name, text } => {
            let found = found(admin.policy(&name.parse().unwrap()).await);
            let same = found.as_ref().is_none_or(|policy| policy.text == *text);
            assert!(same, "half a policy: {found:?}");
            (found.is_some(), line("policy.put", format!("policy/{name}")))
        }
        Step::Admit { name } => {
            let found = found(admin.resolve(name).await);
            (found.is_some(), line("principal.put", format!("principal/{name}")))
        }
        Step::Disable { name } => {
            let disabled = found(admin.resolve(name).await).is_some_and(|resolved| resolved.disabled);
            (disabled, line("principal.disable", format!("principal/{name}")))
        }
        Step::Kv { path, value } => {
            let kv = match work.client(&work.bob).kv_get(&path.parse().unwrap()).await {
                // A policy that permits it was not acknowledged, so there can be no value either.
                Err(error) if error.code() == Some(Code::Denied) => None,
                other => found(other),
            };
            if let Some(kv) = &kv {
                let data = serde_json::to_value(&kv.data).unwrap();
                assert_eq!((kv.version, data), (1, serde_json::json!({ "value": value })), "written twice or in part");
            }
            (kv.is_some(), line("kv.put", format!("kv/{path}")))
        }
        Step::Seen { up_to } => {
            let alarms = work.client(&work.alice).alarms(None, None, false).await.unwrap().alarms;
            (alarms.iter().all(|alarm| alarm.id > *up_to), line("alarm.read", "alarm".into()))
        }
        Step::Steal { wrap } => {
            let slip = work.ledger().slips.get(wrap).cloned().expect("a wrap that was opened");
            let alarms = work.client(&work.alice).alarms(None, None, true).await.unwrap().alarms;
            let told = |kind, id| kind == AlarmKind::SecondClaim && id == Some(slip.wrap);
            // A theft is refused: its line says so, and is no change that can be lost.
            let raised = alarms.iter().any(|alarm| told(alarm.kind, alarm.wrap));
            return Some((raised, line("wrap.inspect", format!("wrap/{}", slip.wrap))));
        }
        Step::Init
        | Step::Unseal
        | Step::Seal
        | Step::Create { .. }
        | Step::Hold { .. }
        | Step::Open { .. }
        | Step::Revoke { .. } => return None,
    })
}

/// Looks at every wrap that there is, and opens those that can be.
async fn wraps(work: &Work, fate: Fate, happened: &mut BTreeSet<(String, String)>) {
    let entries = work.ledger().entries.clone();
    let last = entries.last().map(|entry| (entry.step.clone(), entry.told));
    let alice = work.client(&work.alice);
    let created: Vec<usize> = entries.iter().filter_map(|entry| wrap_of(&entry.step)).collect();
    if created.is_empty() {
        return;
    }
    let mut there: Vec<Slip> = Vec::new();
    let mut after = None;
    loop {
        let page = alice.wraps(after.as_deref(), Some(50)).await.unwrap();
        let cluster = work.ledger().cluster.unwrap();
        let slips = page.wraps.iter();
        there.extend(slips.map(|line| Slip { cluster, wrap: line.wrap, statement_sha256: line.statement_sha256 }));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    for number in created {
        let known = work.ledger().slips.get(&number).cloned();
        let slip = match known {
            Some(slip) => {
                assert!(there.contains(&slip), "wrap {number} was acknowledged and is lost");
                slip
            }
            // Its creation was under way: nobody knows its slip, but the writer finds it.
            None => {
                let others: Vec<Slip> = work.ledger().slips.values().cloned().collect();
                let mut new = there.iter().filter(|slip| !others.contains(slip));
                let Some(slip) = new.next() else {
                    assert_ne!(fate, Some(true), "wrap {number} must be there");
                    continue;
                };
                assert!(new.next().is_none(), "one creation made two wraps");
                assert_ne!(fate, Some(false), "wrap {number} must not be there");
                work.ledger().slips.insert(number, slip.clone());
                slip.clone()
            }
        };
        happened.insert(("wrap.create".into(), format!("wrap/{}", slip.wrap)));
        let verbs = one_wrap(work, number, &slip, last.as_ref().map(|(step, _)| step), fate).await;
        happened.extend(verbs.into_iter().map(|verb| (verb.to_owned(), format!("wrap/{}", slip.wrap))));
    }
    let known: Vec<Slip> = work.ledger().slips.values().cloned().collect();
    assert!(there.iter().all(|slip| known.contains(slip)), "a wrap that nobody made");
}

fn wrap_of(step: &Step) -> Option<usize> {
    if let Step::Create { wrap, .. } = step { Some(*wrap) } else { None }
}

/// Compares a wrap with the ledger, opens it if it is not gone, and sees that it opens for nobody else.
async fn one_wrap(work: &Work, number: usize, slip: &Slip, last: Option<&Step>, fate: Fate) -> Vec<&'static str> {
    let (hold, open) = (Step::Hold { wrap: number }, Step::Open { wrap: number });
    let revoke = Step::Revoke { wrap: number };
    let (opened_done, open_done, revoked_done, opening, revoking) = {
        let ledger = work.ledger();
        let opening = ledger.begun(&hold) || ledger.begun(&open);
        (
            ledger.done(&hold) || ledger.done(&open),
            ledger.done(&open),
            ledger.done(&revoke),
            opening,
            ledger.begun(&revoke),
        )
    };
    let content = work.ledger().content(number);
    let before = inspect(&work.client(&work.alice), slip).await;
    let state = before.slots[0].state;
    let verbs = match state {
        SlotState::Sealed => {
            assert!(!opened_done && !revoked_done, "wrap {number}: what was acknowledged is lost");
            let opened = fate == Some(true) && (last == Some(&hold) || last == Some(&open) || last == Some(&revoke));
            assert!(!opened, "wrap {number}: the commit was durable");
            vec![]
        }
        SlotState::Opened => {
            assert!(opening, "wrap {number}: nobody opened it");
            assert!(!open_done, "wrap {number}: the acknowledgement is lost");
            vec!["wrap.open"]
        }
        SlotState::Acked => {
            assert!(work.ledger().begun(&open), "wrap {number}: nobody acknowledged it");
            vec!["wrap.open", "wrap.ack"]
        }
        SlotState::Revoked => {
            assert!(revoking && !(fate == Some(false) && last == Some(&revoke)), "wrap {number}: nobody took it back");
            vec!["wrap.revoke"]
        }
        other => panic!("wrap {number} is {other:?}"),
    };
    let refused = match state {
        SlotState::Sealed | SlotState::Opened => {
            if state == SlotState::Opened {
                refused_to_others(work, slip, Code::AlreadyOpened).await;
            }
            let mut output = MemoryOutput::new();
            let opened = work.client(&work.bob).wrap_open(slip, &mut output).await;
            let opened =
                opened.unwrap_or_else(|error| panic!("wrap {number}, {state:?}: Bob cannot open it: {error:?}"));
            assert!(output.content() == content, "wrap {number}: another content");
            opened.acked.unwrap();
            work.ledger().add(open);
            Code::AlreadyOpened
        }
        SlotState::Revoked => Code::Revoked,
        _ => Code::AlreadyOpened,
    };
    refused_to_others(work, slip, refused).await;
    once(&inspect(&work.client(&work.alice), slip).await, number);
    verbs
}

/// Alice's client verifies the statement, every receipt and the chain of them.
async fn inspect(alice: &Client, slip: &Slip) -> Inspected {
    let inspected = alice.wrap_inspect(slip).await.unwrap();
    assert_eq!(inspected.created.standing, Standing::Valid);
    inspected
}

/// By its receipts a wrap was opened once at most, and delivered to one claim alone.
fn once(inspected: &Inspected, number: usize) {
    let receipts = &inspected.slots[0].receipts;
    let of = |kinds: &[ReceiptKind]| {
        let all = receipts.iter().filter(|receipt| kinds.contains(&receipt.receipt.kind));
        all.map(|receipt| receipt.receipt.claim_sha256).collect::<Vec<_>>()
    };
    assert!(of(&[ReceiptKind::Opened]).len() <= 1, "wrap {number} was opened twice: {receipts:#?}");
    let claims: BTreeSet<_> = of(&[ReceiptKind::Opened, ReceiptKind::Redelivered, ReceiptKind::Acked])
        .into_iter()
        .map(|claim| claim.map(|digest| digest.to_string()))
        .collect();
    assert!(claims.len() <= 1, "wrap {number} went to {} claims", claims.len());
}

/// Bob's key without Bob's claim gets nothing, and the proof of who was first.
async fn refused_to_others(work: &Work, slip: &Slip, code: Code) {
    let thief = work.stranger(&work.bob);
    let mut output = MemoryOutput::new();
    let error = thief.wrap_open(slip, &mut output).await.expect_err("it opened for somebody else");
    assert_eq!(error.code(), Some(code), "{error:?}");
    assert!(output.content().is_empty());
    if code == Code::AlreadyOpened {
        assert!(!thief.refusal_receipts(slip, &error).await.is_empty(), "no proof of who opened it");
    }
}

/// Whoever was disabled is refused; whoever was not is served.
pub async fn disabled(work: &Work) {
    let entries = work.ledger().entries.clone();
    for name in
        entries.iter().filter_map(|entry| if let Step::Disable { name } = &entry.step { Some(name) } else { None })
    {
        let resolved = work.client(&work.admins[1]).resolve(name).await.unwrap();
        let person = work.guest(name);
        match (resolved.disabled, work.stranger(&person).whoami().await) {
            (true, Err(error)) => assert_eq!(error.code(), Some(Code::Unauthenticated), "{error:?}"),
            (false, Ok(_)) => {}
            (disabled, answer) => panic!("{name} is disabled: {disabled}, but got {answer:?}"),
        }
    }
}

/// The thing, if it is there; any other answer is a failure.
fn found<T>(result: Result<T, ClientError>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(error) => {
            assert_eq!(error.code(), Some(Code::NotFound), "{error:?}");
            None
        }
    }
}

/// The audit log is sound from its first line on, and holds every change that happened.
pub fn audit(server: &Server, work: &Work, happened: &BTreeSet<(String, String)>, line: Line) {
    let cluster = work.ledger().cluster.unwrap().to_string();
    let path = server.audit();
    let args = ["audit", "verify", "--whole", "--node", server.node(), "--of-cluster", &cluster, "--file"];
    let report = Cli::new(bulla!()).run(args.iter().copied().chain([path.to_str().unwrap()])).ok();
    assert!(report.ends_with("sound"), "{report}");
    let lines = lines(&path);
    let told: BTreeSet<(String, String)> = lines.iter().filter(|line| line["status"] == 200).map(change).collect();
    let missing: Vec<_> = happened.difference(&told).collect();
    assert!(missing.is_empty(), "happened without a line: {missing:?}");
    let recovered = lines.iter().filter(|line| line["recovered"] == true).count();
    assert!(line != Line::Lost || recovered > 0, "the line of the last commit was lost, and not written again");
    assert!(line != Line::Kept || recovered == 0, "a line was written again that was there");
    let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
    assert_eq!(ids.len(), lines.len(), "a request has two lines");
}

fn change(line: &Value) -> (String, String) {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    (text("action"), text("resource"))
}

/// The files of a log, in order.
pub fn audit_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    files
}

/// The lines of requests in a log.
fn lines(directory: &Path) -> Vec<Value> {
    let text: String = audit_files(directory).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "request").collect()
}
