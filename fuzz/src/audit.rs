//! The audit log: its lines, what they name, and the verifier.

use crate::wire::one_spelling;
use bulla_core::action::{Action, Resource, RoleName};
use bulla_core::audit::{
    Chain, Expectations, Filter, Label, Line, Names, ParseLineError, Quote, Report, RequestId, RequestLine,
    ResourceText, Verifier,
};

/// A line has one spelling. What stands beside a nonce is the same content without its place in the log.
pub fn line(bytes: &[u8]) {
    if let Ok(line) = RequestLine::from_bytes(bytes) {
        let written = line.to_bytes();
        let again = RequestLine::from_bytes(&written).map(|again| again.to_bytes());
        assert_eq!(again.as_ref(), Ok(&written));
        let body = line.into();
        let (mut chain, mut out) = (Chain::default(), Vec::new());
        chain.append(1, &body, &mut out);
        let logged = Line::parse(out.strip_suffix(b"\n").unwrap_or_default());
        assert!(logged.is_ok_and(|line| line.body == body) || out.len() > bulla_core::audit::LINE_BYTES_MAX);
    }
    let line = match Line::parse(bytes) {
        Ok(line) => line,
        Err(ParseLineError::Malformed(reason)) => return assert!(!reason.is_empty()),
        Err(_) => return,
    };
    assert_eq!(line.to_bytes(), bytes, "a second spelling");
    assert!(!bytes.contains(&b'\n'), "a line within a line");
    let mut chain = Chain::default();
    chain.advance(&line, bytes);
    assert!(!chain.follows(&line), "a line follows itself");
    let _ = (Quote::of(&line.body), line.body.tells_loss(), Filter::default().action(Action::KvGet).matches(&line));
    assert!(Filter::default().matches(&line), "nothing was asked for, and it does not fit");
}

/// What requests, policies and lines of the log name has one spelling in all of them, and room in a line.
pub fn resource(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    one_spelling::<RequestId>(text);
    one_spelling::<Label>(text);
    one_spelling::<ResourceText>(text);
    if let Some(action) = one_spelling::<Action>(text) {
        assert!(Action::ALL.contains(&action) && text.parse::<Label>().is_ok(), "an action that no line can tell");
    }
    if let Some(role) = one_spelling::<RoleName>(text) {
        assert_eq!(RoleName::new(role.database(), role.role()), role);
    }
    if let Some(resource) = one_spelling::<Resource>(text) {
        assert_eq!(Names::Clear.resource(&resource).as_str(), text);
        for names in [Names::Clear, Names::Hidden] {
            let told = names.resource(&resource);
            assert!(told.as_str().parse::<ResourceText>() == Ok(told.clone()), "a resource that no line can tell");
        }
    }
    let label = Label::lossy(text);
    assert_eq!(label.as_str().parse().as_ref(), Ok(&label), "what was kept of a text does not fit");
}

/// Reads a log: its files are parted by empty lines.
fn report(files: &[Vec<&[u8]>], expected: Expectations) -> Report {
    let mut verifier = Verifier::new(expected);
    for (number, lines) in (1..).zip(files) {
        verifier.file(number);
        lines.iter().for_each(|line| verifier.line(line));
    }
    verifier.finish()
}

/// A sound log stays sound, and is not once a line is taken out, doubled or changed within it.
pub fn log(bytes: &[u8]) {
    let mut files: Vec<Vec<&[u8]>> = vec![Vec::new()];
    for line in bytes.split(|byte| *byte == b'\n') {
        match files.last_mut() {
            Some(file) if !line.is_empty() => file.push(line),
            _ => files.push(Vec::new()),
        }
    }
    let whole = || Expectations { whole: true, ..Expectations::default() };
    let first = report(&files, whole());
    assert_eq!(first, report(&files, whole()), "one log, two reports");
    let lines: usize = files.iter().map(Vec::len).sum();
    assert_eq!(first.lines, u64::try_from(lines).unwrap_or_default());
    assert!(first.findings.len() <= 1000);
    assert!(first.is_sound() == (first.first_class().is_none() && first.findings_left_off == 0));
    if !first.is_sound() || !(3..=40).contains(&lines) {
        return;
    }
    let last = first.last.unwrap_or_else(|| unreachable!("a sound log of lines has a last one"));
    let remembered = || Expectations { whole: true, head: Some(last), ..Expectations::default() };
    assert!(report(&files, remembered()).is_sound(), "the log lacks its own last line");
    for at in 0..lines {
        let altered = |change: fn(&mut Vec<&[u8]>, usize)| {
            let (mut files, mut at) = (files.clone(), at);
            for file in &mut files {
                if at < file.len() {
                    change(file, at);
                    break;
                }
                at = at.saturating_sub(file.len());
            }
            report(&files, whole()).is_sound()
        };
        // That the last line is gone shows only to whoever remembers it.
        let removed = altered(|file, at| {
            file.remove(at);
        });
        assert!(!removed || at == lines.saturating_sub(1), "line {at} was taken out");
        let doubled = altered(|file, at| {
            let line = file.get(at).copied().unwrap_or_default();
            file.insert(at, line);
        });
        assert!(!doubled, "line {at} was doubled");
        let cut = altered(|file, at| {
            if let Some(line) = file.get_mut(at) {
                *line = line.split_last().map_or(*line, |(_, rest)| rest);
            }
        });
        assert!(!cut, "line {at} was cut");
    }
}
