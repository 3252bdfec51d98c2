//! Judges a log from its bytes: chain, numbers, files, order, and what the store remembers.

use super::line::{AuditPosition, Body, Chain, Line, ParseLineError, Quote, line_hash};
use bulla_wire::id::{ClusterId, KeyId, Lineage};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;

/// Most findings that a report lists; the rest is counted. A file that is not a log would fill the memory.
pub const FINDINGS_MAX: usize = 1000;

/// What the caller knows about the log from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// The log must hold this line there: what the head of the store remembers.
    pub head: Option<AuditPosition>,
    /// The log must be of one of these nodes; of any if none is named. It has several if a node's key was changed.
    pub nodes: Vec<KeyId>,
    /// The log must be of this cluster.
    pub cluster: Option<ClusterId>,
    /// The log must begin with line 1; otherwise older files may have been put away.
    pub whole: bool,
}

/// What is wrong. The text is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Bytes are no line.
    Malformed,
    /// A line has a format version that this program does not know.
    UnknownVersion,
    /// A line does not follow from the one before: one of the two was changed, or one put between.
    Altered,
    /// Numbers are left out: lines were removed.
    MissingLines,
    /// A number or a request comes a second time.
    Repeated,
    /// A file between two others, or at the beginning, is not there.
    MissingFile,
    /// A file ends within a line, or the log ends before the line that the store remembers.
    Cut,
    /// The line that the store remembers has other bytes.
    HeadDiffers,
    /// The log is of another node.
    WrongNode,
    /// The log is of another cluster.
    WrongCluster,
    /// A later line quotes an earlier state of the store, and no consent of the admins stands between.
    StoreWentBack,
    /// A line was written before the line in front of it, by the node's clock.
    ClockWentBack,
}

impl Class {
    /// The name of the class in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::Altered => "altered",
            Self::MissingLines => "missing_lines",
            Self::Repeated => "repeated",
            Self::MissingFile => "missing_file",
            Self::Cut => "cut",
            Self::HeadDiffers => "head_differs",
            Self::WrongNode => "wrong_node",
            Self::WrongCluster => "wrong_cluster",
            Self::StoreWentBack => "store_went_back",
            Self::ClockWentBack => "clock_went_back",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub class: Class,
    /// Number of the file.
    pub file: u32,
    /// Number of the line in that file, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What was found and what was expected.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, file, line, detail } = self;
        write!(f, "{file:06}.jsonl:{line}: {class}: {detail}")
    }
}

/// What a log holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Files that were read.
    pub files: u32,
    /// Lines that were read.
    pub lines: u64,
    /// Lines of requests.
    pub requests: u64,
    /// Lines written again after a crash.
    pub recovered: u64,
    /// Requests whose outcome the node never knew.
    pub unknown: u64,
    /// Spans, in Unix milliseconds, whose last lines may be missing after a power cut.
    pub tail_lost: Vec<(u64, u64)>,
    /// Losses that an administrator accepted: file and line.
    pub loss_accepted: Vec<(u32, u64)>,
    /// The last line.
    pub last: Option<AuditPosition>,
    /// The last commit that is quoted.
    pub quoted: Option<Quote>,
    /// What is wrong, in the order of the lines, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many more things are wrong.
    pub findings_left_off: u64,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// The class of the first finding.
    pub fn first_class(&self) -> Option<Class> {
        self.findings.first().map(|finding| finding.class)
    }
}

/// Takes the lines of a node's files in order, and reports.
#[derive(Debug)]
pub struct Verifier {
    expected: Expectations,
    report: Report,
    /// File number, line number in it, bytes read of it.
    file: Option<(u32, u64, u64)>,
    chain: Chain,
    /// The line before could not be read, so this one has nothing to follow from.
    adrift: bool,
    head_seen: bool,
    seen: HashSet<[u8; 16]>,
    history: History,
}

impl Verifier {
    /// Begins with nothing read.
    pub fn new(expected: Expectations) -> Self {
        Self {
            expected,
            report: Report::default(),
            file: None,
            chain: Chain::default(),
            adrift: false,
            head_seen: false,
            seen: HashSet::new(),
            history: History::default(),
        }
    }

    /// The following lines are of this file.
    pub fn file(&mut self, number: u32) {
        let expected = match self.file {
            Some((before, ..)) => before.checked_add(1),
            None if self.expected.whole => Some(1),
            None => Some(number),
        };
        self.file = Some((number, 0, 0));
        self.report.files = self.report.files.saturating_add(1);
        if expected != Some(number) {
            let expected = expected.map_or_else(String::new, |n| format!(", {n:06}.jsonl was expected"));
            self.find(Class::MissingFile, format!("it comes next{expected}"));
        }
    }

    /// One line, without its newline.
    pub fn line(&mut self, bytes: &[u8]) {
        self.count(bytes.len().saturating_add(1));
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(error) => {
                let class = match error {
                    ParseLineError::Version(_) => Class::UnknownVersion,
                    _ => Class::Malformed,
                };
                self.find(class, error.to_string());
                // Its number counts, so that one bad line is not reported as a missing one too.
                self.chain = Chain { n: self.chain.n.saturating_add(1), hash: None, at_ms: self.chain.at_ms };
                self.adrift = true;
                self.check_head(bytes);
                return;
            }
        };
        self.check_place(&line);
        self.chain.advance(&line, bytes);
        self.adrift = false;
        self.check_head(bytes);
        self.take(&line);
    }

    /// Bytes at the end of a file that no newline ends.
    pub fn unterminated(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.find(Class::Cut, format!("the file ends after {} bytes of a line", bytes.len()));
    }

    /// Everything was read.
    pub fn finish(mut self) -> Report {
        if let (Some(head), false) = (self.expected.head, self.head_seen) {
            let end = self.report.last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
            self.find(Class::Cut, format!("the store remembers {head}; the log ends with {end}"));
        }
        self.report
    }

    fn count(&mut self, bytes: usize) {
        let (number, line, offset) = self.file.unwrap_or((1, 0, 0));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.file = Some((number, line.saturating_add(1), offset.saturating_add(bytes)));
        self.report.lines = self.report.lines.saturating_add(1);
    }

    fn find(&mut self, class: Class, detail: String) {
        if self.report.findings.len() < FINDINGS_MAX {
            let (file, line, _) = self.file.unwrap_or_default();
            self.report.findings.push(Finding { class, file, line, detail });
        } else {
            self.report.findings_left_off = self.report.findings_left_off.saturating_add(1);
        }
    }

    /// Number, hash and time against the line before.
    fn check_place(&mut self, line: &Line) {
        let Chain { n, hash, at_ms } = self.chain;
        let next = n.saturating_add(1);
        if n == 0 && !self.adrift {
            if self.expected.whole && line.n != 1 || (line.n == 1) != line.prev.is_none() {
                self.find(Class::MissingLines, format!("the log begins with line {}", line.n));
            }
        } else if line.n > next {
            self.find(Class::MissingLines, format!("line {} follows line {n}", line.n));
        } else if line.n < next {
            self.find(Class::Repeated, format!("line {} follows line {n}", line.n));
        } else if !self.adrift && line.prev != hash {
            self.find(Class::Altered, format!("line {} does not follow from the bytes of line {n}", line.n));
        }
        if line.at_ms < at_ms {
            self.find(Class::ClockWentBack, format!("line {} was written {} ms before", line.n, at_ms - line.at_ms));
        }
    }

    /// Compares with the head when its line number, or its place, is passed.
    fn check_head(&mut self, bytes: &[u8]) {
        let Some((file, _, offset)) = self.file else { return };
        let here = AuditPosition { file, offset, n: self.chain.n, hash: line_hash(bytes) };
        self.report.last = Some(here);
        let Some(head) = self.expected.head else { return };
        if !self.head_seen && (here.n >= head.n || (file, offset) >= (head.file, head.offset)) {
            self.head_seen = true;
            if here != head {
                self.find(Class::HeadDiffers, format!("the store remembers {head}; here is {here}"));
            }
        }
    }

    /// What the line says.
    fn take(&mut self, line: &Line) {
        match &line.body {
            Body::Request(request) => {
                self.report.requests = self.report.requests.saturating_add(1);
                self.report.recovered = self.report.recovered.saturating_add(request.outcome.recovered.into());
                let unknown = request.outcome.code == Some(bulla_wire::error::Code::Unknown);
                self.report.unknown = self.report.unknown.saturating_add(unknown.into());
                if !self.seen.insert(*request.id.as_bytes()) {
                    self.find(Class::Repeated, format!("request {} has a line already", request.id));
                }
                self.check_node(request.node);
                if let Some(commit) = request.outcome.committed {
                    self.quote(commit, request.outcome.recovered, false);
                }
            }
            Body::Start { node, cluster, quoted, .. } => {
                self.check_node(*node);
                self.check_cluster(*cluster);
                self.check_carried(*quoted);
            }
            Body::Rotate { previous, quoted, .. } => {
                self.check_carried(*quoted);
                let number = self.file.map_or(0, |(number, ..)| number);
                if previous.checked_add(1) != Some(number) {
                    self.find(Class::MissingFile, format!("it continues {previous:06}.jsonl"));
                }
            }
            Body::TailLost { from_ms, to_ms } => self.report.tail_lost.push((*from_ms, *to_ms)),
            Body::LossAccepted { .. } => {
                if let Some((file, number, _)) = self.file {
                    self.report.loss_accepted.push((file, number));
                }
            }
            Body::Initialised { committed, .. } => {
                self.history = History::default();
                self.quote(*committed, false, true);
            }
            Body::Unsealed { committed, .. } | Body::Rekeyed { committed, .. } => self.quote(*committed, false, true),
            Body::Consent { .. } => self.history.consented = true,
            Body::Stop {}
            | Body::Torn { .. }
            | Body::Blocked { .. }
            | Body::Anonymous { .. }
            | Body::Sealed { .. }
            | Body::Snapshot { .. }
            | Body::Lease { .. }
            | Body::PasswordRotated { .. }
            | Body::Alarm { .. } => {}
        }
        self.report.quoted = Quote::after(self.report.quoted, &line.body);
    }

    fn check_node(&mut self, node: KeyId) {
        let nodes = &self.expected.nodes;
        if !nodes.is_empty() && !nodes.contains(&node) {
            self.find(Class::WrongNode, format!("it is of node {node}"));
        }
    }

    fn check_cluster(&mut self, cluster: Option<ClusterId>) {
        match (self.expected.cluster, cluster) {
            (Some(expected), Some(found)) if expected != found => {
                self.find(Class::WrongCluster, format!("it is of cluster {found}"));
            }
            _ => {}
        }
    }

    /// What `start` and `rotate` carry on must be what the lines before them said, if those were read.
    fn check_carried(&mut self, quoted: Option<Quote>) {
        self.check_cluster(quoted.map(|quote| quote.cluster));
        let lineage = |quote: Option<Quote>| quote.map(|quote| quote.lineage);
        let comparable = self.report.lines > 1 && self.report.loss_accepted.is_empty() && self.report.is_sound();
        if comparable && lineage(quoted) != lineage(self.report.quoted) {
            self.find(Class::StoreWentBack, "it carries on another lineage than the lines before quote".into());
        }
    }

    fn quote(&mut self, commit: Quote, recovered: bool, begins: bool) {
        self.check_cluster(Some(commit.cluster));
        if let Err(detail) = self.history.quote(commit, recovered, begins) {
            self.find(Class::StoreWentBack, detail);
        }
    }
}

/// The histories of the store, as the lines quote them.
#[derive(Debug, Default)]
struct History {
    /// The running one: where it began, if known, and the highest sequence in it.
    current: Option<(Lineage, u64, u64)>,
    ended: HashSet<Lineage>,
    consented: bool,
}

impl History {
    /// Outcomes of one lineage may be written in another order than they were committed; but a lineage, once left,
    /// does not come back, and a new one begins above all before it.
    fn quote(&mut self, commit: Quote, recovered: bool, begins: bool) -> Result<(), String> {
        let Quote { cluster: _, lineage, sequence } = commit;
        let base = if begins { sequence } else { 0 };
        match self.current {
            Some((current, began, highest)) if current == lineage => {
                self.current = Some((lineage, began.max(base), highest.max(sequence)));
                if sequence < began {
                    return Err(format!("sequence {sequence} lies before {began}, where lineage {lineage} began"));
                }
            }
            Some(_) if self.ended.contains(&lineage) => {
                if !recovered {
                    return Err(format!("lineage {lineage} had ended"));
                }
            }
            Some((current, _, highest)) => {
                self.ended.insert(current);
                self.current = Some((lineage, base, sequence));
                // A consent is to this beginning, also where it did not need one: it excuses no later one.
                let consented = std::mem::take(&mut self.consented);
                if sequence <= highest && !consented {
                    return Err(format!("lineage {lineage} begins at {sequence}, {highest} had been reached"));
                }
            }
            None => {
                self.current = Some((lineage, base, sequence));
                // Nor does it where what it was given for stands in files that were put away. Recovered lines come before it.
                self.consented &= recovered;
            }
        }
        Ok(())
    }
}
