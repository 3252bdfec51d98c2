//! Where the cluster stands, and what a client refuses to believe about it (`spec/request.md`, "State").
//!
//! Held: who goes on from an older copy of the storage is noticed by every client that saw more. Not held: a client
//! that saw nothing notices nothing.

use bulla_wire::api::LineageEntry;
use bulla_wire::evidence::{Consent, EXCUSE_SKEW_MS, Position};
use bulla_wire::id::{ClusterId, Digest, Lineage};
use bulla_wire::state::State;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The highest position that was seen of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Epoch of the seal.
    pub epoch: u64,
    /// History of the store.
    pub lineage: Lineage,
    /// Sequence in it; 0 while no answer told one.
    pub sequence: u64,
    /// Number of the newest document that this client had verified then. Admins whom it had removed already can accept
    /// no loss of this position.
    pub doc: u32,
    /// When this was seen first, Unix milliseconds by this machine's clock. A consent that excuses what was seen until an
    /// earlier time is not about its loss.
    pub at_ms: u64,
}

impl Seen {
    /// What an answer tells. One that was not read from the store names its history, and no place in it. `doc` is the newest
    /// document known, not the told one.
    pub(crate) fn of(state: &State, doc: u32, at_ms: u64) -> Option<Self> {
        let sequence = state.sequence.unwrap_or_default();
        Some(Self { epoch: state.epoch, lineage: state.lineage?, sequence, doc, at_ms })
    }

    /// The higher of both. A lineage of a higher epoch replaces the other; within one, the sequence counts.
    #[must_use]
    pub(crate) fn highest(self, other: Self) -> Self {
        let higher = if (other.epoch, other.sequence) > (self.epoch, self.sequence) { other } else { self };
        Self { doc: self.doc.max(other.doc), ..higher }
    }
}

/// Lost commits that k admins accepted, and what this client had seen of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What the admins signed.
    pub consent: Consent,
    /// How far the client had seen. If that is further than the consent says of this history, and it does not excuse that
    /// by its time, the audit log that the admins went by was not whole, or the last of it was deleting by time.
    pub seen: Seen,
}

impl Loss {
    /// What the client had seen beyond what the admins knew of that history, if they did not excuse it by its time.
    pub fn unknown_to_admins(&self) -> Option<Position> {
        let Self { consent, seen } = self;
        let known = consent.loss_of(&seen.lineage);
        let beyond = known.filter(|known| seen.sequence > known.sequence);
        beyond.filter(|_| consent.excused_until_ms.is_none_or(|until_ms| until_ms <= seen.at_ms))
    }
}

/// Where the cluster stands, beside what this client had seen: for somebody who decides whether to go on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// By a verified answer of now.
    pub told: Seen,
    /// What this client remembers.
    pub seen: Option<Seen>,
    /// Whether the cluster lost what was seen and k admins' consent does not excuse it.
    pub lost: bool,
    /// The number of the first document that is known here and that the cluster does not have, if there is one.
    pub dropped_from: Option<u32>,
    /// The cluster and the digest of its newest document, as they were shown.
    pub shown: (ClusterId, Digest),
}

/// The cluster stands behind what was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateError {
    /// The epoch fell.
    Epoch {
        /// The highest that was seen.
        seen: u64,
        /// What the answer tells.
        told: u64,
    },
    /// The same epoch, with another history.
    OtherLineage {
        /// The epoch.
        epoch: u64,
    },
    /// The sequence fell, twice in a row.
    Sequence {
        /// The highest that was known when the request was sent.
        seen: u64,
        /// What the answer tells.
        told: u64,
    },
    /// The cluster has fewer documents.
    Document {
        /// Number of the newest that was seen.
        seen: u32,
        /// Number of the newest that it has.
        told: u32,
    },
    /// The cluster has other documents than those that were seen.
    OtherDocuments {
        /// Number of the first that it does not have.
        from: u32,
    },
    /// The cluster went on from a point before what was seen, or its list of histories does not hold ours.
    Lost {
        /// What was seen.
        seen: Seen,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch { seen, told } => {
                write!(f, "the cluster is in epoch {told}, but this client has seen epoch {seen}")
            }
            Self::OtherLineage { epoch } => {
                write!(f, "the cluster has another history in epoch {epoch} than this client has seen")
            }
            Self::Sequence { seen, told } => {
                write!(f, "the cluster stands at sequence {told}, but this client has seen {seen}")
            }
            Self::Document { seen, told } => {
                write!(f, "the cluster's newest document is {told}, but this client has seen {seen}")
            }
            Self::OtherDocuments { from } => {
                write!(f, "the cluster does not have document {from} as this client has seen it, and shows others")
            }
            Self::Lost { seen } => write!(
                f,
                "the cluster's history does not hold what this client has seen (epoch {}, sequence {})",
                seen.epoch, seen.sequence
            ),
        }
    }
}

impl std::error::Error for StateError {}

/// What to do with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take it.
    Take,
    /// The node may lag behind: ask once more, then refuse.
    Lagging(StateError),
    /// Ask for the histories and judge by [`went_on`]; refuse with this if they do not explain it.
    AskHistories(StateError),
}

/// Judges an answer by what was known when its request was sent: the position, and the number of the newest document.
pub(crate) fn judge(known: Option<&Seen>, newest: u32, told: &State) -> Verdict {
    let fewer = fewer_documents(newest.max(known.map_or(0, |known| known.doc)), told);
    let Some(known) = known else { return fewer.map_or(Verdict::Take, Verdict::AskHistories) };
    if told.epoch < known.epoch {
        return Verdict::AskHistories(StateError::Epoch { seen: known.epoch, told: told.epoch });
    }
    if told.epoch > known.epoch {
        return Verdict::AskHistories(StateError::Lost { seen: *known });
    }
    if told.lineage != Some(known.lineage) {
        return Verdict::AskHistories(StateError::OtherLineage { epoch: told.epoch });
    }
    if let Some(error) = fewer {
        return Verdict::AskHistories(error);
    }
    match told.sequence {
        Some(sequence) if sequence < known.sequence => {
            Verdict::Lagging(StateError::Sequence { seen: known.sequence, told: sequence })
        }
        _ => Verdict::Take,
    }
}

/// Whether the cluster has fewer documents than were seen: no history that only grew explains that.
pub(crate) fn fewer_documents(newest: u32, told: &State) -> Option<StateError> {
    let fewer = told.doc.filter(|doc| *doc < newest);
    fewer.map(|doc| StateError::Document { seen: newest, told: doc })
}

/// How the cluster came from what was seen to where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    /// Its histories hold ours, and the next one began above what was seen.
    Grew,
    /// It lost what was seen, and k admins accepted that.
    Lost(&'a Consent),
}

/// How the cluster, now in `told`, went on from what was seen, if it did. The consents are verified already.
///
/// How far the lost history came is not compared: a consent knows what the audit log quotes, and deleting by time is
/// quoted nowhere. What differs is told to the user. If something that is known is missing, the histories may have grown
/// and it is lost all the same: then a consent alone explains it.
pub(crate) fn went_on<'a>(
    known: &Seen,
    told: &State,
    histories: &[LineageEntry],
    consents: &'a [Consent],
    (now_ms, is_missing): (u64, bool),
) -> Option<Way<'a>> {
    let place = |lineage: &Lineage| histories.iter().position(|entry| entry.lineage == *lineage);
    let now = place(&told.lineage?)?;
    let growing = histories.windows(2).all(|pair| match pair {
        [a, b] => a.epoch < b.epoch && a.first_sequence <= b.first_sequence,
        _ => true,
    });
    if !growing || histories.get(now).is_none_or(|entry| entry.epoch != told.epoch) {
        return None;
    }
    let ours = place(&known.lineage);
    let next = ours.filter(|ours| *ours < now && told.epoch > known.epoch);
    let next = next.and_then(|ours| histories.get(ours.saturating_add(1)));
    if !is_missing && next.is_some_and(|next| next.first_sequence > known.sequence) {
        return Some(Way::Grew);
    }
    let accepted = consents.iter().rev().find(|consent| {
        let Some(kept) = place(&consent.kept.lineage).filter(|kept| *kept < now) else { return false };
        // What they kept is still there: a consent does not excuse what was lost of that afterwards.
        let next = histories.get(kept.saturating_add(1));
        if next.is_none_or(|next| next.first_sequence <= consent.kept.sequence) {
            return false;
        }
        // What was lost came after what was kept: in its history, or in a later one that is listed no more.
        let after =
            histories.get(kept).is_some_and(|entry| known.epoch >= entry.epoch) && ours.is_none_or(|ours| ours == kept);
        consent.loss_of(&known.lineage).is_some() || (after && is_excused(consent, known, now_ms))
    });
    accepted.map(Way::Lost)
}

/// Whether the admins excuse whatever was seen when this was. A time that has not come yet would excuse losses to come.
fn is_excused(consent: &Consent, known: &Seen, now_ms: u64) -> bool {
    let until_ms = consent.excused_until_ms.filter(|until_ms| *until_ms <= now_ms.saturating_add(EXCUSE_SKEW_MS));
    until_ms.is_some_and(|until_ms| known.at_ms < until_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::json::V1;

    const SEEN_MS: u64 = 1_800_000_000_000;
    const NOW_MS: u64 = SEEN_MS + 3_600_000;

    /// As above, now.
    fn went_on(known: &Seen, told: &State, histories: &[LineageEntry], consents: &[Consent]) -> bool {
        super::went_on(known, told, histories, consents, (NOW_MS, false)).is_some()
    }
    fn lineage(byte: u8) -> Lineage {
        Lineage::new([byte; 16])
    }
    fn seen(epoch: u64, byte: u8, sequence: u64) -> Seen {
        Seen { epoch, lineage: lineage(byte), sequence, doc: 0, at_ms: SEEN_MS }
    }
    fn told(epoch: u64, byte: u8, sequence: Option<u64>) -> State {
        State { epoch, lineage: Some(lineage(byte)), sequence, doc: Some(0), alarms: 0 }
    }
    fn entry(epoch: u64, byte: u8, first_sequence: u64) -> LineageEntry {
        LineageEntry { epoch, lineage: lineage(byte), first_sequence }
    }

    #[test]
    fn judgements() {
        let known = seen(3, 3, 100);
        assert_eq!(judge(None, 0, &told(0, 0, None)), Verdict::Take);
        assert_eq!(judge(Some(&known), 0, &told(3, 3, Some(100))), Verdict::Take);
        assert_eq!(judge(Some(&known), 0, &told(3, 3, Some(101))), Verdict::Take);
        assert_eq!(judge(Some(&known), 0, &told(3, 3, None)), Verdict::Take);
        assert!(matches!(judge(Some(&known), 0, &told(3, 3, Some(99))), Verdict::Lagging(_)));
        for (state, error) in [
            (told(2, 3, Some(100)), StateError::Epoch { seen: 3, told: 2 }),
            (told(3, 4, Some(100)), StateError::OtherLineage { epoch: 3 }),
            (told(4, 4, Some(101)), StateError::Lost { seen: known }),
            (State::UNINITIALISED, StateError::Epoch { seen: 3, told: 0 }),
        ] {
            assert_eq!(judge(Some(&known), 0, &state), Verdict::AskHistories(error));
        }
    }

    #[test]
    fn an_answer_that_was_not_read_from_the_store_names_its_history() {
        let known = Seen::of(&told(3, 3, None), 0, SEEN_MS).unwrap();
        assert_eq!(known, seen(3, 3, 0));
        assert_eq!(seen(3, 3, 100).highest(known), seen(3, 3, 100), "it knew a place");
        assert_eq!(judge(Some(&known), 0, &told(3, 3, Some(1))), Verdict::Take);
        assert_eq!(
            judge(Some(&known), 0, &told(3, 4, None)),
            Verdict::AskHistories(StateError::OtherLineage { epoch: 3 })
        );
        let list = [entry(2, 2, 1), entry(3, 3, 50), entry(4, 4, 50)];
        assert!(went_on(&known, &told(4, 4, None), &list, &[]));
        assert!(!went_on(&known, &told(4, 4, None), &[entry(2, 2, 1), entry(4, 4, 50)], &[]), "it went back");
        assert_eq!(Seen::of(&State::UNINITIALISED, 0, SEEN_MS), None);
    }

    #[test]
    fn documents_that_are_missing() {
        let known = Seen { doc: 2, ..seen(3, 3, 100) };
        let told = |doc| State { doc, ..told(3, 3, Some(101)) };
        assert_eq!(judge(Some(&known), 0, &told(Some(2))), Verdict::Take);
        let error = StateError::Document { seen: 2, told: 1 };
        assert_eq!(judge(Some(&known), 0, &told(Some(1))), Verdict::AskHistories(error.clone()));
        assert_eq!(fewer_documents(2, &told(Some(1))), Some(error.clone()));
        assert_eq!(fewer_documents(2, &told(Some(3))), None);
        // What was looked at counts as well as what came with a position, also without any.
        let known = seen(3, 3, 100);
        assert_eq!(judge(Some(&known), 2, &told(Some(1))), Verdict::AskHistories(error.clone()));
        assert_eq!(judge(None, 2, &told(Some(1))), Verdict::AskHistories(error));
        assert_eq!(judge(None, 2, &told(Some(2))), Verdict::Take);
    }

    #[test]
    fn histories() {
        let known = seen(3, 3, 100);
        let list = [entry(2, 2, 1), entry(3, 3, 50), entry(4, 4, 101), entry(5, 5, 200)];
        assert!(went_on(&known, &told(5, 5, Some(200)), &list, &[]));
        assert!(went_on(&known, &told(4, 4, Some(101)), &list, &[]));
        // The next history began at or below what was seen: commits were lost.
        assert!(!went_on(&seen(3, 3, 101), &told(5, 5, Some(200)), &list, &[]));
        // Ours is not listed, the told one is not listed, or its epoch differs.
        assert!(!went_on(&seen(3, 9, 1), &told(5, 5, Some(200)), &list, &[]));
        assert!(!went_on(&known, &told(6, 6, Some(300)), &list, &[]));
        assert!(!went_on(&known, &told(6, 5, Some(300)), &list, &[]));
        // The same epoch with another history, and a lower one.
        assert!(!went_on(&known, &told(3, 4, Some(300)), &list, &[]));
        assert!(!went_on(&seen(5, 5, 1), &told(4, 4, Some(300)), &list, &[]));
        // A list that does not grow explains nothing.
        let bent = [entry(3, 3, 50), entry(5, 5, 200), entry(4, 4, 101)];
        assert!(!went_on(&known, &told(5, 5, Some(200)), &bent, &[]));
    }

    fn consent(lost: Position, kept: Position, earlier: Vec<Position>, until_ms: Option<u64>) -> Consent {
        let cluster = ClusterId::new([0; 32]);
        Consent { v: V1, cluster, lost, kept, earlier, excused_until_ms: until_ms }
    }

    #[test]
    fn consents() {
        let position = |byte, sequence| Position { lineage: lineage(byte), sequence };
        let consent = |lost, kept, earlier| consent(lost, kept, earlier, None);
        // The store fell from (lineage 5, 120) over 4 and 3 to (lineage 2, 80) and went on as lineage 7 of epoch 3.
        let list = [entry(1, 1, 1), entry(2, 2, 50), entry(3, 7, 81)];
        let good = consent(position(5, 120), position(2, 80), vec![position(3, 90), position(4, 100)]);
        let now = told(3, 7, Some(90));
        // In each lost history, also beyond what the audit log quotes of it, and in the kept one beyond its end.
        for known in [seen(3, 3, 85), seen(4, 4, 95), seen(5, 5, 110), seen(5, 5, 121), seen(2, 2, 81)] {
            assert!(!went_on(&known, &now, &list, &[]));
            assert!(went_on(&known, &now, &list, std::slice::from_ref(&good)));
        }
        assert!(went_on(&seen(2, 2, 80), &now, &list, &[]), "that was kept");
        // What was kept is gone, too: the consent is not about that loss.
        let deeper = [entry(1, 1, 1), entry(2, 2, 50), entry(3, 8, 80)];
        assert!(!went_on(&seen(5, 5, 110), &told(3, 8, Some(90)), &deeper, std::slice::from_ref(&good)));
        // Something that was known is missing, although its place was kept, or none was told.
        let missing = |known: Seen, consents| super::went_on(&known, &now, &list, consents, (NOW_MS, true));
        assert_eq!(missing(seen(2, 2, 0), &[]), None);
        assert_eq!(missing(seen(2, 2, 0), std::slice::from_ref(&good)), Some(Way::Lost(&good)));
        assert_eq!(missing(seen(1, 1, 0), std::slice::from_ref(&good)), None, "it is about what came later");
        // A history that nobody named, one that was lost without anybody's word, and a consent of elsewhere.
        assert!(!went_on(&seen(3, 6, 85), &now, &list, std::slice::from_ref(&good)));
        assert!(!went_on(&seen(1, 1, 50), &now, &list, std::slice::from_ref(&good)));
        let other = consent(position(5, 120), position(9, 80), vec![]);
        assert!(!went_on(&seen(5, 5, 100), &now, &list, &[other]));
    }

    /// The admins know of a loss that no audit log tells of: it went back to (lineage 2, 80), and on as lineage 7.
    #[test]
    fn what_was_seen_before_a_time_is_excused() {
        let list = [entry(1, 1, 1), entry(2, 2, 50), entry(3, 7, 81), entry(4, 8, 120)];
        let kept = Position { lineage: lineage(2), sequence: 80 };
        let until = |until_ms| [consent(kept, kept, vec![], until_ms)];
        let (good, now) = (until(Some(SEEN_MS + 1)), told(4, 8, Some(120)));
        // In the history that was cut short, and in later ones that nobody can name, of any epoch.
        for known in [seen(2, 2, 81), seen(3, 3, 85), seen(4, 4, 95), seen(9, 9, 900)] {
            assert!(!went_on(&known, &now, &list, &until(None)));
            assert!(went_on(&known, &now, &list, &good), "{known:?}");
            // Nothing that was seen from that time on: the consent was signed before it, so it is about another loss.
            assert!(!went_on(&known, &now, &list, &until(Some(SEEN_MS))));
            let later = Seen { at_ms: SEEN_MS + 1, ..known };
            assert!(!went_on(&later, &now, &list, &good));
            // Nor by a time that is still to come.
            let least = NOW_MS + EXCUSE_SKEW_MS;
            assert!(went_on(&known, &now, &list, &until(Some(least))));
            assert!(!went_on(&known, &now, &list, &until(Some(least + 1))));
        }
        // What was seen beyond the end of a history that came later, or that ended before, was lost another time.
        for known in [seen(3, 7, 120), seen(1, 1, 50), seen(1, 6, 10)] {
            assert!(!went_on(&known, &now, &list, &good), "{known:?}");
        }
        // Nor does it hold where what was kept is not.
        let other = Position { lineage: lineage(9), sequence: 80 };
        assert!(!went_on(&seen(3, 3, 85), &now, &list, &[consent(other, other, vec![], Some(SEEN_MS + 1))]));
        assert_eq!(
            super::went_on(&seen(2, 2, 80), &now, &list, &good, (NOW_MS, false)),
            Some(Way::Grew),
            "nothing was lost"
        );
    }

    #[test]
    fn the_highest_wins() {
        assert_eq!(seen(3, 3, 9).highest(seen(4, 4, 1)), seen(4, 4, 1));
        assert_eq!(seen(4, 4, 1).highest(seen(3, 3, 9)), seen(4, 4, 1));
        assert_eq!(seen(3, 3, 9).highest(seen(3, 3, 8)), seen(3, 3, 9));
        // A document that was known once stays known, whichever answer came with it.
        let later = |seen: Seen| Seen { doc: 2, ..seen };
        assert_eq!(seen(3, 3, 9).highest(later(seen(3, 3, 8))), later(seen(3, 3, 9)));
        assert_eq!(later(seen(3, 3, 8)).highest(seen(3, 3, 9)), later(seen(3, 3, 9)));
    }
}
