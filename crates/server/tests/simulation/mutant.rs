//! Worlds in which something is wrong on purpose: each must be noticed, or the invariants prove nothing.

use bulla_store::simulated::Fault;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The store's writer spoils batches.
    Store(Fault),
    /// The journal's syncs are pretended.
    JournalLies,
    /// The database's syncs are pretended.
    DatabaseLies,
    /// The audit log's syncs are pretended.
    LogLies,
    /// Some writes to the audit log vanish.
    LogDrops,
    /// Some writes to the audit log are altered.
    LogFlips,
    /// The node's clock stands still.
    ClockStands,
    /// After a power cut the store is what it was at the beginning.
    StoreRollsBack,
    /// Somebody writes a secret where names belong.
    SecretInName,
    /// After a power cut store and log are what they were at the beginning, so that neither knows of a loss.
    AllRollsBack,
    /// What takes rights away, or seals, is answered before it is done, and then not done.
    AnswersEarly,
    /// Some requests are not woken when what they wait for has come.
    LosesWakes,
    /// Whoever opens a wrap is given what was in another.
    SwapsContent,
    /// Alarms are not shown.
    HidesAlarms,
    /// A wrap that was opened is shown as it was before.
    OldViews,
}

/// Within so many seeds each must be noticed.
pub const SEEDS: u64 = 1_000;

/// All of them, and the invariants that must each be seen to break.
pub const MUTANTS: &[(Mutant, &[&str])] = &[
    (Mutant::Store(Fault::NoPreconditions), &["opened_at_most_once"]),
    (Mutant::Store(Fault::NoNonces), &["exactly_once", "no_answer_without_audit_line"]),
    (Mutant::JournalLies, &["it_starts_again", "acknowledged_is_durable"]),
    (Mutant::DatabaseLies, &["it_starts_again"]),
    (Mutant::LogLies, &["it_starts_again"]),
    (Mutant::LogDrops, &["no_answer_without_audit_line"]),
    (Mutant::LogFlips, &["chain_verifies"]),
    (Mutant::ClockStands, &["expired_or_revoked_never_opens"]),
    (Mutant::Store(Fault::Garbles), &["no_fault"]),
    (Mutant::StoreRollsBack, &["it_starts_again"]),
    (Mutant::AllRollsBack, &["epoch_only_grows"]),
    (Mutant::SecretInName, &["nothing_readable_on_disk"]),
    (Mutant::AnswersEarly, &["acknowledged_is_durable", "disabled_is_not_heard", "sealed_answers_nothing"]),
    (Mutant::LosesWakes, &["nobody_waits_for_ever"]),
    (Mutant::SwapsContent, &["content_is_what_was_sent"]),
    (Mutant::HidesAlarms, &["interception_raises_alarm"]),
    (Mutant::OldViews, &["state_follows_the_model"]),
];
