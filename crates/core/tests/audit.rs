//! Lines, chain and verification of the audit log, without a file.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bulla_core::action::{Action, Resource};
use bulla_core::audit::{
    Accepted, Address, AuditBlocked, AuditPosition, Body, BundleLine, Chain, Class, Demanded, Event, Expectations,
    FINDINGS_MAX, Facts, Filter, LINE_BYTES_MAX, Label, LeaseEvent, Line, Method, NameKey, Names, Outcome,
    ParseLineError, Quote, REASONS_MAX, RECEIPTS_MAX, Refusal, Report, RequestId, RequestLine, ResourceText, Slot,
    Verifier, WrapTo, Written, line_hash,
};
use bulla_core::policy::{Decision, Denied, PolicySet, Subject};
use bulla_crypto::secret::Secret;
use bulla_wire::error::Code;
use bulla_wire::evidence::Position;
use bulla_wire::id::{ClusterId, Digest, KeyId, LeaseId, Lineage, PrincipalId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const NODE: KeyId = KeyId::new([1; 32]);
const CLUSTER: ClusterId = ClusterId::new([2; 32]);

fn subject() -> Subject {
    Subject {
        id: PrincipalId::new([3; 32]),
        name: "alice".parse().unwrap(),
        groups: vec!["admins".parse().unwrap()],
        attributes: BTreeMap::new(),
    }
}

fn facts(id: u8) -> Facts {
    Facts {
        id: RequestId::new([id; 16]),
        received_ms: 1_000 + u64::from(id),
        node: NODE,
        epoch: 4,
        lineage: Some(Lineage::new([5; 16])),
        key: KeyId::new([6; 32]),
        mtls: false,
        address: "10.1.2.3".parse().unwrap(),
        method: Method::Get,
    }
}

/// Keeps what was written.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<RequestLine>>>);

impl Slot for Memory {
    fn write(self: Box<Self>, line: RequestLine) -> Written {
        self.0.lock().unwrap().push(line);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Memory {
    fn accept(&self) -> Accepted {
        Accepted::assertion(Box::new(self.clone()))
    }
    fn only(&self) -> RequestLine {
        let lines = self.0.lock().unwrap();
        assert_eq!(lines.len(), 1);
        lines[0].clone()
    }
}

fn authorized_event(names: &Names) -> Event<&'static str> {
    let first = PolicySet::first().unwrap();
    let resource = Resource::Principals;
    let authorized = first.authorize(&subject(), Action::PrincipalList, resource, "the operation").unwrap();
    Event::new(facts(1), names, authorized)
}

#[test]
fn an_operation_is_reached_through_its_line_only() {
    let sink = Memory::default();
    let logged = authorized_event(&Names::Clear).accepted(sink.accept());
    assert_eq!(*logged.op(), "the operation");
    let quote = Quote { cluster: CLUSTER, lineage: Lineage::new([5; 16]), sequence: 9 };
    let outcome = Outcome::done(200).committed(quote).with_receipts([Digest::new([8; 32])]);
    let kept = logged.line(&outcome);
    drop(logged.finish(outcome));
    let line = sink.only();
    assert_eq!(kept, line);
    assert_eq!(RequestLine::from_bytes(&kept.to_bytes()).unwrap(), line);
    assert_eq!(line.allowed, Some(true));
    assert!(!line.reasons.is_empty());
    assert_eq!(line.action.as_ref().unwrap().as_str(), "principal.list");
    assert_eq!(line.outcome.committed, Some(quote));
    assert!(line.clone().recovered().outcome.recovered);
}

#[test]
fn a_dropped_request_writes_an_unknown_outcome() {
    let sink = Memory::default();
    drop(authorized_event(&Names::Clear).accepted(sink.accept()));
    let line = sink.only();
    assert_eq!((line.outcome.status, line.outcome.code), (503, Some(Code::Unknown)));
}

#[test]
fn refusals_take_the_same_road() {
    let sink = Memory::default();
    let denied = Denied {
        subject: subject(),
        action: Action::KvGet,
        resource: "kv/app/db".parse().unwrap(),
        decision: Decision {
            allowed: false,
            because: vec!["team#0".into()],
            errors: vec!["attribute of kv/app/db".into()],
        },
    };
    let key = NameKey::new(Secret::filled(|key| key.fill(7)));
    drop(
        Refusal::denied(facts(1), &Names::Hashed(key), &denied)
            .accepted(sink.accept())
            .finish(Outcome::failed(Code::Denied)),
    );
    let line = sink.only();
    assert_eq!((line.allowed, line.outcome.status), (Some(false), 403));
    let text = String::from_utf8(line.to_bytes()).unwrap();
    assert!(!text.contains("app/db") && !text.contains("alice"), "{text}");
    assert_eq!(line.reasons.iter().map(Label::as_str).collect::<Vec<_>>(), ["team#0", "evaluation error"]);

    let sink = Memory::default();
    drop(Refusal::undecided(facts(2), &Names::Clear, &subject(), None, None).accepted(sink.accept()));
    assert_eq!((sink.only().allowed, sink.only().action), (None, None));
}

/// The lines of one file.
type Lines = Vec<Vec<u8>>;

/// A log in memory.
struct Log {
    files: Vec<Lines>,
    chain: Chain,
}

fn request(id: u8, sequence: Option<u64>) -> RequestLine {
    let resource: Resource = "kv/app/db".parse().unwrap();
    let sink = Memory::default();
    let refusal = Refusal::undecided(facts(id), &Names::Clear, &subject(), Some(Action::KvPut), Some(&resource));
    let mut outcome = Outcome::done(200);
    outcome.committed = sequence.map(|sequence| quote(5, sequence));
    drop(refusal.accepted(sink.accept()).finish(outcome));
    sink.only()
}

fn quote(lineage: u8, sequence: u64) -> Quote {
    Quote { cluster: CLUSTER, lineage: Lineage::new([lineage; 16]), sequence }
}

impl Log {
    fn new() -> Self {
        Self { files: vec![Vec::new()], chain: Chain::default() }
    }
    fn add_at(&mut self, now_ms: u64, body: impl Into<Body>) -> &mut Self {
        let mut bytes = Vec::new();
        self.chain.append(now_ms, &body.into(), &mut bytes);
        assert_eq!(bytes.pop(), Some(b'\n'));
        self.files.last_mut().unwrap().push(bytes);
        self
    }
    fn add(&mut self, body: impl Into<Body>) -> &mut Self {
        let now_ms = 5_000 + self.chain.n;
        self.add_at(now_ms, body)
    }
    fn sample() -> Self {
        let mut log = Self::new();
        let start =
            Body::Start { node: NODE, version: Label::lossy("0.1.0"), cluster: None, quoted: None, loss: false };
        log.add(start).add(Body::Initialised { committed: quote(4, 1), bundle: None });
        log.add(Body::Unsealed { epoch: 1, committed: quote(5, 2) });
        log.add(request(1, Some(4))).add(request(2, Some(3))).add(request(3, None));
        log.files.push(Vec::new());
        log.add(Body::Rotate { previous: 1, quoted: Some(quote(5, 4)), loss: false });
        log.add(request(4, Some(7))).add(request(5, None)).add(Body::Stop {});
        log
    }
    fn head(&self) -> AuditPosition {
        let last = self.files.last().unwrap();
        AuditPosition {
            file: u32::try_from(self.files.len()).unwrap(),
            offset: last.iter().map(|line| line.len() as u64 + 1).sum(),
            n: self.chain.n,
            hash: line_hash(last.last().unwrap()),
        }
    }
    fn verify(&self, expected: Expectations) -> Report {
        let mut verifier = Verifier::new(expected);
        for (index, lines) in self.files.iter().enumerate() {
            verifier.file(u32::try_from(index).unwrap() + 1);
            lines.iter().for_each(|line| verifier.line(line));
        }
        verifier.finish()
    }
    fn check(&self, expected: &[Class]) {
        let report = self.verify(self.all());
        let classes: Vec<Class> = report.findings.iter().map(|finding| finding.class).collect();
        assert_eq!(classes, expected, "{:#?}", report.findings);
    }
    fn all(&self) -> Expectations {
        Expectations { head: Some(self.head()), nodes: vec![NODE], cluster: Some(CLUSTER), whole: true }
    }
}

#[test]
fn a_sound_log_is_sound() {
    let log = Log::sample();
    let report = log.verify(log.all());
    assert!(report.is_sound(), "{:#?}", report.findings);
    assert_eq!((report.files, report.lines, report.requests, report.recovered), (2, 10, 5, 0));
    assert_eq!(report.last, Some(log.head()));
    assert_eq!(report.quoted, Some(quote(5, 7)));
}

#[test]
fn the_spelling_of_lines_is_held() {
    let log = Log::sample();
    let text = |file: usize, line: usize| String::from_utf8(log.files[file][line].clone()).unwrap();
    let cluster = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI";
    assert_eq!(
        text(0, 0),
        r#"{"v":1,"n":1,"at_ms":5000,"kind":"start","node":"sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE","version":"0.1.0"}"#
    );
    let prev = line_hash(&log.files[0][2]);
    assert_eq!(
        text(0, 3),
        format!(
            r#"{{"v":1,"n":4,"prev":"{prev}","at_ms":5003,"kind":"request","id":"aeaqcaibaeaqcaibaeaqcaibae","received_ms":1001,"node":"{NODE}","epoch":4,"lineage":"BQUFBQUFBQUFBQUFBQUFBQ","principal":"sha256:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM","name":"alice","key":"sha256:BgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgY","address":"10.1.2.3","method":"GET","action":"kv.put","resource":"kv/app/db","status":200,"committed":{{"cluster":"sha256:{cluster}","lineage":"BQUFBQUFBQUFBQUFBQUFBQ","sequence":4}}}}"#
        )
    );
    assert_eq!(
        text(1, 3),
        format!(r#"{{"v":1,"n":10,"prev":"{}","at_ms":5009,"kind":"stop"}}"#, line_hash(&log.files[1][2]))
    );
}

#[test]
fn a_line_has_one_spelling() {
    let log = Log::sample();
    for bytes in log.files.iter().flatten() {
        assert_eq!(Line::parse(bytes).unwrap().to_bytes(), *bytes);
    }
    let line = String::from_utf8(log.files[0][3].clone()).unwrap();
    let swapped = line.replacen(r#""v":1,"n":4,"#, r#""n":4,"v":1,"#, 1);
    for bad in [
        line.replacen(':', ": ", 1),
        line.replacen(r#""epoch":4"#, r#""epoch":4,"value":"x""#, 1),
        line.replacen(r#""epoch":4"#, r#""epoch":4,"epoch":4"#, 1),
        line.replacen(r#""alice""#, r#""\u0061lice""#, 1),
        line.replacen(r#""status":200"#, r#""status":200,"code":null"#, 1),
        format!("{line} "),
        swapped,
    ] {
        assert_ne!(bad, line);
        let error = Line::parse(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, ParseLineError::Spelling | ParseLineError::Malformed(_)), "{bad}: {error:?}");
    }
    assert_eq!(Line::parse(line.replacen(r#""v":1"#, r#""v":2"#, 1).as_bytes()), Err(ParseLineError::Version(2)));
    assert_eq!(Line::parse(br#"{"v":3,"new":true}"#), Err(ParseLineError::Version(3)));
    assert_eq!(Line::parse(&vec![b' '; LINE_BYTES_MAX + 1]), Err(ParseLineError::TooLong));
}

#[test]
fn no_line_reaches_the_limit() {
    let long = |byte: &str| byte.repeat(128);
    let path = vec!["p".repeat(31); 16].join("/");
    let resource: Resource = format!("kv/{path}").parse().unwrap();
    let subject = Subject { name: long("n").parse().unwrap(), ..subject() };
    let denied = Denied {
        subject,
        action: Action::PrincipalDisable,
        resource,
        decision: Decision { allowed: false, because: vec![long("r") + "#4294967295"; 50], errors: Vec::new() },
    };
    let sink = Memory::default();
    let outcome = Outcome {
        status: u16::MAX,
        code: Some(Code::TooManyDeliveries),
        committed: Some(quote(255, u64::MAX)),
        receipts: vec![Digest::new([255; 32]); 50],
        recovered: true,
    };
    let facts = Facts {
        received_ms: u64::MAX,
        epoch: u64::MAX,
        address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        method: Method::Delete,
        ..facts(1)
    };
    drop(Refusal::denied(facts, &Names::Clear, &denied).accepted(sink.accept()).finish(outcome));
    let line = sink.only();
    assert_eq!((line.reasons.len(), line.outcome.receipts.len()), (REASONS_MAX, RECEIPTS_MAX));
    let mut chain = Chain { n: u64::MAX - 1, hash: Some(Digest::new([255; 32])), at_ms: 0 };
    let mut bytes = Vec::new();
    chain.append(u64::MAX, &line.into(), &mut bytes);
    assert!(bytes.len() < LINE_BYTES_MAX / 2, "{}", bytes.len());
    assert!(Line::parse(&bytes[..bytes.len() - 1]).is_ok());
}

#[test]
fn every_flipped_bit_is_seen() {
    let log = Log::sample();
    let expected = log.all();
    for file in 0..log.files.len() {
        for line in 0..log.files[file].len() {
            for byte in 0..log.files[file][line].len() {
                let mut changed = Log { files: log.files.clone(), chain: log.chain };
                changed.files[file][line][byte] ^= 1 << (byte % 8);
                let report = changed.verify(expected.clone());
                let first = report.findings.first().unwrap_or_else(|| panic!("{file}/{line}/{byte} is not seen"));
                let at = usize::try_from(first.file).unwrap() - 1;
                // The line itself, or the one that no longer follows from it.
                assert!(
                    at == file && (first.line == line as u64 + 1 || first.line == line as u64 + 2) || at == file + 1
                );
            }
        }
    }
}

#[test]
fn removed_added_and_moved_lines_are_seen() {
    let log = Log::sample();
    let change = |change: &dyn Fn(&mut Vec<Lines>), expected: &[Class]| {
        let mut files = log.files.clone();
        change(&mut files);
        let report = Log { files, chain: log.chain }.verify(log.all());
        let mut classes: Vec<Class> = report.findings.iter().map(|finding| finding.class).collect();
        classes.dedup();
        assert_eq!(classes, expected, "{:#?}", report.findings);
    };
    change(&|files| drop(files[0].remove(3)), &[Class::MissingLines]);
    change(&|files| drop(files[0].remove(0)), &[Class::MissingLines]);
    change(&|files| drop(files[0].pop()), &[Class::MissingLines]);
    change(&|files| drop(files[1].pop()), &[Class::Cut]);
    change(&|files| drop(files.pop()), &[Class::Cut]);
    change(
        &|files| {
            let copy = files[0][3].clone();
            files[1].push(copy);
        },
        &[Class::Repeated, Class::ClockWentBack, Class::Repeated],
    );
    change(
        &|files| files[0].swap(3, 4),
        &[Class::MissingLines, Class::Repeated, Class::ClockWentBack, Class::MissingLines],
    );
    change(&|files| files[0][3] = b"{}".to_vec(), &[Class::Malformed]);
    change(&|files| files[1].push(vec![b'x'; LINE_BYTES_MAX + 1]), &[Class::Malformed]);
}

#[test]
fn missing_files_and_unfinished_ones_are_seen() {
    let log = Log::sample();
    let mut verifier = Verifier::new(log.all());
    verifier.file(2);
    log.files[1].iter().for_each(|line| verifier.line(line));
    let classes: Vec<Class> = verifier.finish().findings.iter().map(|finding| finding.class).collect();
    assert_eq!(classes, [Class::MissingFile, Class::MissingLines]);

    // Older files may have been put away if the caller says so.
    let mut verifier = Verifier::new(Expectations { whole: false, ..log.all() });
    verifier.file(2);
    log.files[1].iter().for_each(|line| verifier.line(line));
    let report = verifier.finish();
    assert!(report.is_sound(), "{:#?}", report.findings);

    let mut verifier = Verifier::new(Expectations::default());
    verifier.file(1);
    log.files[0].iter().for_each(|line| verifier.line(line));
    verifier.file(3);
    verifier.unterminated(b"{\"v\":1");
    let report = verifier.finish();
    let classes: Vec<(Class, u32, u64)> = report.findings.iter().map(|f| (f.class, f.file, f.line)).collect();
    assert_eq!(classes, [(Class::MissingFile, 3, 0), (Class::Cut, 3, 1)]);
}

#[test]
fn a_rewritten_end_is_seen_by_the_head() {
    // Somebody with the file alone writes the last two lines anew, with a right chain.
    let log = Log::sample();
    let mut forged = Log::sample();
    let kept = forged.files[1].len() - 2;
    forged.files[1].truncate(kept);
    let last = Line::parse(&forged.files[1][kept - 1]).unwrap();
    forged.chain.advance(&last, &forged.files[1][kept - 1].clone());
    forged.add(request(6, None)).add(Body::Stop {});
    let report = forged.verify(log.all());
    assert_eq!(report.first_class(), Some(Class::HeadDiffers), "{:#?}", report.findings);
}

#[test]
fn foreign_and_disordered_logs_are_seen() {
    let log = Log::sample();
    let of = |nodes: Vec<KeyId>| Expectations { nodes, ..Expectations::default() };
    let other = KeyId::new([9; 32]);
    assert_eq!(log.verify(of(vec![other])).first_class(), Some(Class::WrongNode));
    assert_eq!(log.verify(of(vec![other, NODE])).first_class(), None, "one of those that were named");
    let other = Expectations { cluster: Some(ClusterId::new([9; 32])), ..Expectations::default() };
    assert_eq!(log.verify(other).first_class(), Some(Class::WrongCluster));

    let mut log = Log::new();
    log.add_at(9, request(1, None)).add_at(8, request(2, None)).add_at(9, request(1, None));
    log.check(&[Class::ClockWentBack, Class::Repeated]);
}

#[test]
fn a_store_that_went_back_is_seen() {
    let unsealed = |lineage, sequence| Body::Unsealed { epoch: 1, committed: quote(lineage, sequence) };
    let position = |lineage: u8, sequence| Position { lineage: Lineage::new([lineage; 16]), sequence };

    let mut log = Log::new();
    log.add(unsealed(5, 2)).add(request(1, Some(9))).add(unsealed(6, 9));
    log.check(&[Class::StoreWentBack]);

    let mut log = Log::new();
    log.add(unsealed(5, 2)).add(request(1, Some(9)));
    log.add(Body::Consent { lost: position(5, 9), kept: position(5, 3) }).add(unsealed(6, 4));
    log.check(&[]);
    // That beginning was excused, and no later one; also where the consent was not needed, or nothing that was read stands
    // before it.
    log.add(unsealed(7, 4));
    log.check(&[Class::StoreWentBack]);
    let consent = || Body::Consent { lost: position(5, 9), kept: position(5, 3) };
    let mut log = Log::new();
    log.add(unsealed(5, 2)).add(consent()).add(unsealed(6, 10)).add(unsealed(7, 3));
    log.check(&[Class::StoreWentBack]);
    let mut log = Log::new();
    log.add(consent()).add(unsealed(5, 2)).add(request(1, Some(9))).add(unsealed(6, 3));
    log.check(&[Class::StoreWentBack]);

    // A lineage that ended does not come back, but a recovered line may be of it.
    let mut log = Log::new();
    log.add(unsealed(5, 2)).add(unsealed(6, 9)).add(request(1, Some(8)).recovered());
    log.check(&[]);
    log.add(request(2, Some(8)));
    log.check(&[Class::StoreWentBack]);

    let mut log = Log::new();
    log.add(unsealed(5, 5)).add(request(1, Some(4)));
    log.check(&[Class::StoreWentBack]);
}

#[test]
fn positions_have_fixed_bytes() {
    let position = AuditPosition { file: 7, offset: 1 << 40, n: 3, hash: Digest::new([9; 32]) };
    let bytes = position.to_bytes();
    assert_eq!(bytes[..20], [0, 0, 0, 7, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(AuditPosition::from_bytes(&bytes), position);
}

#[test]
fn filters_find_names_in_every_spelling() {
    let key = NameKey::new(Secret::filled(|key| key.fill(7)));
    let names = [Names::Clear, Names::Hashed(key.clone()), Names::Hidden];
    let resource: Resource = "kv/app/db".parse().unwrap();
    let line = |names: &Names, resource: &Resource| {
        let sink = Memory::default();
        drop(
            Refusal::undecided(facts(1), names, &subject(), Some(Action::KvGet), Some(resource))
                .accepted(sink.accept()),
        );
        Line { v: 1, n: 1, prev: None, at_ms: 0, body: sink.only().into() }
    };
    let filter = Filter::default().resource(&resource, &names);
    assert!(filter.matches(&line(&names[0], &resource)));
    assert!(filter.matches(&line(&names[1], &resource)));
    assert!(!filter.matches(&line(&names[2], &resource)));
    assert!(!filter.matches(&line(&names[1], &"kv/app/other".parse().unwrap())));
    let here = line(&Names::Clear, &resource);
    assert!(Filter::default().matches(&here));
    assert!(Filter::default().principal(subject().id).action(Action::KvGet).matches(&here));
    assert!(!Filter::default().principal(PrincipalId::new([0; 32])).matches(&here));
    assert!(!Filter::default().action(Action::KvPut).matches(&here));
    let stop = Line { body: Body::Stop {}, ..here };
    assert!(!filter.matches(&stop) && Filter::default().matches(&stop));
}

#[test]
fn errors_say_what_to_do() {
    for (error, part) in [
        (AuditBlocked::Full, "no place"),
        (AuditBlocked::Slow, "in time"),
        (AuditBlocked::Disk("no space".into()), "no space"),
        (AuditBlocked::Failed("sync".into()), "for good"),
        (AuditBlocked::Closed, "closed"),
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!("local".parse::<Address>().unwrap(), Address::Local);
}

/// One log of the vectors, and the classes of its findings in their order.
fn vector(about: &str, files: &[Lines], head: AuditPosition) -> serde_json::Value {
    let expected = Expectations { head: Some(head), nodes: vec![NODE], cluster: Some(CLUSTER), whole: true };
    let report = Log { files: files.to_vec(), chain: Chain::default() }.verify(expected);
    let mut classes: Vec<String> = report.findings.iter().map(|finding| finding.class.to_string()).collect();
    classes.dedup();
    let text = |line: &Vec<u8>| String::from_utf8(line.clone()).unwrap();
    let files: Vec<Vec<String>> = files.iter().map(|lines| lines.iter().map(text).collect()).collect();
    serde_json::json!({ "about": about, "files": files, "findings": classes })
}

/// `spec/vectors/audit/logs.json`: one sound log, and it changed in each way.
#[test]
fn the_vectors() {
    let log = Log::sample();
    let head = log.head();
    let mut cases = vec![vector("sound", &log.files, head)];
    let mut changed = |about: &str, change: &dyn Fn(&mut Vec<Lines>)| {
        let mut files = log.files.clone();
        change(&mut files);
        cases.push(vector(about, &files, head));
    };
    let replaced = |line: &[u8], from: &str, to: &str| {
        let text = String::from_utf8(line.to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).into_bytes()
    };
    changed("a status is another", &|files| files[0][3] = replaced(&files[0][3], "200", "403"));
    changed("a space that does not belong there", &|files| files[0][3] = replaced(&files[0][3], "\"v\":1", "\"v\": 1"));
    changed("a field is unknown", &|files| files[0][3] = replaced(&files[0][3], "\"v\":1", "\"v\":1,\"w\":1"));
    changed("of a newer format", &|files| files[0][3] = replaced(&files[0][3], "\"v\":1", "\"v\":2"));
    changed("a line is missing", &|files| drop(files[0].remove(3)));
    changed("the first file is missing its end", &|files| drop(files[0].pop()));
    changed("the end is cut", &|files| drop(files[1].pop()));
    changed("the last file is missing", &|files| drop(files.pop()));
    changed("two lines changed places", &|files| files[0].swap(3, 4));
    changed("a line is there twice", &|files| {
        let copy = files[0][3].clone();
        files[0].insert(4, copy);
    });
    let vectors = serde_json::json!({
        "node": NODE, "cluster": CLUSTER,
        "head": { "file": head.file, "offset": head.offset, "n": head.n, "sha256": head.hash },
        "logs": cases,
    });
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/audit/logs.json");
    let text = format!("{vectors:#}\n");
    if std::env::var_os("BULLA_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(written, vectors, "if this is meant, run with BULLA_BLESS=1");
    let unseen: Vec<_> =
        written["logs"].as_array().unwrap()[1..].iter().filter(|log| log["findings"][0].is_null()).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

/// What a line of each kind is about, by resource and by principal.
#[test]
fn lines_are_found_by_what_they_are_about() {
    let here = Names::Clear.resource(&"kv/app/db".parse().unwrap());
    let me = PrincipalId::new([7; 32]);
    let user = || Label::lossy("u");
    let asked = |demanded: Option<Demanded>, wrap_to: Option<WrapTo>| {
        let (demanded, wrap_to) = (demanded.map(Box::new), wrap_to.map(Box::new));
        Body::from(RequestLine { resource: None, action: None, demanded, wrap_to, ..request(1, None) })
    };
    let wrap_to = |resource: &ResourceText, principal| WrapTo { resource: resource.clone(), principal };
    let elsewhere = Names::Clear.resource(&"kv/app".parse().unwrap());
    let other = PrincipalId::new([8; 32]);
    let lease = |resource: &ResourceText, principal| Body::Lease {
        event: LeaseEvent::Begun,
        lease: LeaseId::new([1; 16]),
        principal,
        resource: resource.clone(),
        user: user(),
    };
    let bundle = BundleLine {
        sha256: Digest::new([1; 32]),
        made_ms: 1,
        signers: vec![other],
        principals: vec![other, me],
        policies: vec![],
    };
    let alarm = |resource: Option<&ResourceText>, principal| Body::Alarm {
        alarm: Label::lossy("x"),
        principal,
        resource: resource.cloned(),
    };
    // The line, whether it is about the resource, and whether about the principal.
    let cases = [
        (request(1, None).into(), true, false),
        (RequestLine { principal: me, resource: None, ..request(1, None) }.into(), false, true),
        (asked(None, None), false, false),
        (asked(Some(Demanded::Resource(here.clone())), None), true, false),
        (asked(Some(Demanded::Resource(elsewhere.clone())), None), false, false),
        (asked(Some(Demanded::Principal(me)), None), false, true),
        (asked(Some(Demanded::Principal(other)), None), false, false),
        (asked(Some(Demanded::All), None), false, false),
        (asked(None, Some(wrap_to(&here, other))), true, false),
        (asked(None, Some(wrap_to(&elsewhere, me))), false, true),
        (lease(&here, other), true, false),
        (lease(&elsewhere, me), false, true),
        (Body::PasswordRotated { resource: here.clone(), user: user() }, true, false),
        (Body::PasswordRotated { resource: elsewhere, user: user() }, false, false),
        (alarm(Some(&here), None), true, false),
        (alarm(None, Some(me)), false, true),
        (alarm(None, Some(other)), false, false),
        (Body::Initialised { committed: quote(4, 1), bundle: Some(bundle) }, false, true),
        (Body::Initialised { committed: quote(4, 1), bundle: None }, false, false),
        (Body::Stop {}, false, false),
    ];
    let by_resource = Filter::default().resource(&"kv/app/db".parse().unwrap(), []);
    let by_principal = Filter::default().principal(PrincipalId::new([6; 32])).principal(me);
    for (body, resource, principal) in cases {
        let line = Line { v: 1, n: 1, prev: None, at_ms: 1, body };
        assert_eq!((by_resource.matches(&line), by_principal.matches(&line)), (resource, principal), "{line:?}");
        assert!(Filter::default().matches(&line));
        let both = by_resource.clone().principal(me);
        assert_eq!(both.matches(&line), resource && principal, "every part must fit");
    }
}

#[test]
fn what_lines_tell_of_lines_that_were_lost() {
    let start = |loss| Body::Start { node: NODE, version: Label::lossy("1"), cluster: None, quoted: None, loss };
    let rotate = |loss| Body::Rotate { previous: 1, quoted: None, loss };
    let accepted = Body::LossAccepted { reason: Label::lossy("x"), expected_n: None, expected: None };
    let cases = [
        (accepted, Some(true)),
        (start(true), Some(true)),
        (start(false), Some(false)),
        (rotate(true), Some(true)),
        (rotate(false), Some(false)),
        (Body::Initialised { committed: quote(4, 1), bundle: None }, Some(false)),
        (Body::Unsealed { epoch: 1, committed: quote(4, 1) }, Some(false)),
        // Only an unsealed node quotes commits; a line that was written again tells of a node of before.
        (request(1, Some(4)).into(), Some(false)),
        (request(1, Some(4)).recovered().into(), None),
        (request(1, None).into(), None),
        (request(1, None).recovered().into(), None),
        (Body::Stop {}, None),
        (Body::Sealed { epoch: 1 }, None),
    ];
    for (body, told) in cases {
        assert_eq!(body.tells_loss(), told, "{body:?}");
    }
}

#[test]
fn what_lines_quote_is_remembered_in_order() {
    let start = |quoted| Body::Start { node: NODE, version: Label::lossy("1"), cluster: None, quoted, loss: false };
    let lines = |lineage, sequence| {
        let mut line = request(1, Some(sequence));
        line.outcome.committed = Some(quote(lineage, sequence));
        line
    };
    let old = Some(quote(5, 10));
    let cases: Vec<(Option<Quote>, Body, Option<Quote>)> = vec![
        (None, Body::Stop {}, None),
        (old, Body::Stop {}, old),
        // What was carried over stands in the place of what was read before, also if that is nothing.
        (old, start(Some(quote(6, 1))), Some(quote(6, 1))),
        (old, start(None), None),
        (old, Body::Rotate { previous: 1, quoted: Some(quote(6, 2)), loss: false }, Some(quote(6, 2))),
        (old, Body::Initialised { committed: quote(6, 1), bundle: None }, Some(quote(6, 1))),
        (old, Body::Unsealed { epoch: 2, committed: quote(6, 11) }, Some(quote(6, 11))),
        (old, Body::Rekeyed { epoch: 2, document: 1, committed: quote(6, 12) }, Some(quote(6, 12))),
        (old, request(1, None).into(), old),
        (None, lines(5, 3).into(), Some(quote(5, 3))),
        (None, lines(5, 3).recovered().into(), Some(quote(5, 3))),
        // One lineage: the highest, in whatever order they were written.
        (old, lines(5, 9).into(), old),
        (old, lines(5, 11).into(), Some(quote(5, 11))),
        (old, lines(5, 11).recovered().into(), Some(quote(5, 11))),
        // Another lineage: the newest, but none that ended before.
        (old, lines(6, 1).into(), Some(quote(6, 1))),
        (old, lines(4, 99).recovered().into(), old),
    ];
    for (current, body, after) in cases {
        assert_eq!(Quote::after(current, &body), after, "{body:?}");
        if current.is_none() {
            assert_eq!(Quote::of(&body), after);
        }
    }
}

/// A line of the greatest length is one, and a longer one is none, whatever it holds.
#[test]
fn the_longest_line() {
    let text = |extra: usize| {
        let line = Log::sample().files[0][0].clone();
        let text = String::from_utf8(line).unwrap();
        let version = "0.1.0".to_owned() + &" ".repeat(extra);
        text.replace("0.1.0", &version).into_bytes()
    };
    let short = text(0).len();
    let longest = text(LINE_BYTES_MAX - short);
    assert_eq!(longest.len(), LINE_BYTES_MAX);
    assert_ne!(Line::parse(&longest), Err(ParseLineError::TooLong));
    assert_eq!(Line::parse(&text(LINE_BYTES_MAX - short + 1)), Err(ParseLineError::TooLong));
}

#[test]
fn a_chain_knows_its_next_line() {
    let line = |chain: &mut Chain| {
        let mut bytes = Vec::new();
        chain.append(1, &Body::Stop {}, &mut bytes);
        bytes.pop();
        (Line::parse(&bytes).unwrap(), bytes)
    };
    let (mut writer, mut reader) = (Chain::default(), Chain::default());
    let (first, bytes) = line(&mut writer);
    assert!(reader.follows(&first));
    reader.advance(&first, &bytes);
    assert!(!reader.follows(&first), "it was taken");
    let (second, _) = line(&mut writer);
    assert!(reader.follows(&second));
    assert!(!reader.follows(&Line { n: 3, ..second.clone() }));
    assert!(!reader.follows(&Line { prev: None, ..second }));
}

#[test]
fn what_is_found_names_its_place() {
    let log = Log::sample();
    let head = log.head();
    let text = format!("line 10 of file 000002 (ending at byte {}, {})", head.offset, head.hash);
    assert_eq!(head.to_string(), text);
    let report = log.verify(Expectations { nodes: vec![KeyId::new([9; 32])], ..Expectations::default() });
    assert!(!report.is_sound());
    let finding = report.findings[0].to_string();
    assert_eq!(finding, format!("000001.jsonl:1: wrong_node: it is of node {NODE}"));
}

#[test]
fn findings_have_a_limit_and_a_count() {
    for (lines, left_off) in [(FINDINGS_MAX, 0), (FINDINGS_MAX + 2, 2)] {
        let mut verifier = Verifier::new(Expectations::default());
        verifier.file(1);
        (0..lines).for_each(|_| verifier.line(b"{}"));
        let report = verifier.finish();
        assert_eq!((report.findings.len(), report.findings_left_off), (FINDINGS_MAX, left_off));
    }
}

/// The text of an evaluation error stays in the server's log; that there was one is told if there is room.
#[test]
fn an_evaluation_error_is_told_without_its_text() {
    let reasons = |because: usize, errors: &[&str]| {
        let decision = Decision {
            allowed: false,
            because: vec!["team#0".to_owned(); because],
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
        };
        let resource = "kv/app/db".parse().unwrap();
        let denied = Denied { subject: subject(), action: Action::KvGet, resource, decision };
        let sink = Memory::default();
        drop(
            Refusal::denied(facts(1), &Names::Clear, &denied)
                .accepted(sink.accept())
                .finish(Outcome::failed(Code::Denied)),
        );
        sink.only().reasons.iter().map(|reason| reason.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(0, &[]), [""; 0]);
    assert_eq!(reasons(0, &["secret"]), ["evaluation error"]);
    assert_eq!(reasons(1, &[]), ["team#0"]);
    let (below, full) = (reasons(REASONS_MAX - 1, &["secret"]), reasons(REASONS_MAX, &["secret"]));
    assert_eq!((below.len(), below.last().map(String::as_str)), (REASONS_MAX, Some("evaluation error")));
    assert_eq!((full.len(), full.last().map(String::as_str)), (REASONS_MAX, Some("team#0")));
}

#[test]
fn a_resource_in_a_line_is_one_plain_word() {
    for bad in ["", "kv/a b", "kv/\"", "kv/\\", "kv/\u{e9}", &"x".repeat(545)] {
        assert!(bad.parse::<ResourceText>().is_err(), "{bad}");
    }
    for good in ["kv/a", "x", &"x".repeat(544)] {
        assert_eq!(good.parse::<ResourceText>().unwrap().as_str(), good);
    }
}

#[test]
fn a_log_carries_on_the_history_that_it_quoted() {
    let begin = || {
        let mut log = Log::new();
        let start =
            Body::Start { node: NODE, version: Label::lossy("0.1.0"), cluster: None, quoted: None, loss: false };
        log.add(start).add(Body::Initialised { committed: quote(4, 1), bundle: None });
        log.add(Body::Unsealed { epoch: 1, committed: quote(5, 2) });
        log
    };
    let rotate = |lineage| Body::Rotate { previous: 1, quoted: Some(quote(lineage, 2)), loss: false };
    // The commit that began a history is one of it; what lies before is not.
    let mut log = begin();
    log.add(request(1, Some(2)));
    log.check(&[]);
    log.add(request(2, Some(1)));
    log.check(&[Class::StoreWentBack]);
    for (lineage, expected) in [(5, vec![]), (6, vec![Class::StoreWentBack])] {
        let mut log = begin();
        log.files.push(Vec::new());
        log.add(rotate(lineage));
        log.check(&expected);
    }
    // The first line of all has nothing before it, and after an accepted loss nobody knows.
    let mut log = Log::new();
    log.add(rotate(6));
    let report = log.verify(Expectations::default());
    assert!(!report.findings.iter().any(|finding| finding.class == Class::StoreWentBack), "{report:?}");
    let mut log = begin();
    log.add(Body::LossAccepted { reason: Label::lossy("x"), expected_n: None, expected: None });
    log.files.push(Vec::new());
    log.add(rotate(6));
    log.check(&[]);
}

#[test]
fn requests_without_a_known_outcome_are_counted() {
    let mut log = Log::sample();
    let unknown = |id, code| {
        let mut line = request(id, None);
        (line.outcome.status, line.outcome.code) = (503, Some(code));
        line
    };
    log.add(unknown(8, Code::Unknown)).add(unknown(9, Code::Busy)).add(unknown(10, Code::Unknown).recovered());
    let report = log.verify(Expectations::default());
    assert_eq!((report.requests, report.unknown, report.recovered), (8, 2, 1));
}

/// A head that stands in the middle is met by its number, and by its place if the numbers were changed.
#[test]
fn the_head_is_compared_where_it_stands() {
    let log = Log::sample();
    let mut offset = 0;
    for (index, bytes) in log.files[0].iter().enumerate() {
        offset += bytes.len() as u64 + 1;
        let head = AuditPosition { file: 1, offset, n: index as u64 + 1, hash: line_hash(bytes) };
        let of = |head| Expectations { head: Some(head), ..Expectations::default() };
        assert!(log.verify(of(head)).is_sound(), "line {index}");
        for other in [
            AuditPosition { n: head.n + 100, ..head },
            AuditPosition { offset: head.offset + 1_000_000, ..head },
            AuditPosition { file: 9, ..head },
            AuditPosition { hash: Digest::new([9; 32]), ..head },
        ] {
            assert_eq!(log.verify(of(other)).first_class(), Some(Class::HeadDiffers), "{other}");
        }
    }
}

/// Lines of one millisecond are no step of the clock, and a step back is told with its length.
#[test]
fn a_step_of_the_clock_is_told_with_its_length() {
    let mut log = Log::new();
    log.add_at(9, request(1, None)).add_at(9, request(2, None)).add_at(7, request(3, None));
    log.check(&[Class::ClockWentBack]);
    let report = log.verify(log.all());
    assert_eq!(report.findings[0].detail, "line 3 was written 2 ms before");
}

/// What no route has stands in no line as it came.
#[test]
fn methods_stand_in_lines_as_they_were_asked_for() {
    for (text, method) in [
        ("GET", Method::Get),
        ("PUT", Method::Put),
        ("PATCH", Method::Patch),
        ("POST", Method::Post),
        ("DELETE", Method::Delete),
        ("HEAD", Method::Other),
        ("get", Method::Other),
        ("", Method::Other),
    ] {
        assert_eq!(Method::new(text), method, "{text}");
        let told = if method == Method::Other { "OTHER" } else { text };
        assert_eq!(serde_json::to_value(method).unwrap(), told);
    }
}
