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
    /// After a power cut the first of several files of the audit log is gone.
    LogFileLost,
    /// Nothing is swept in the end.
    NeverSweeps,
    /// What a node has in memory outlives its power.
    MemoryStays,
    /// The node's clock stands still.
    ClockStands,
    /// After a power cut the store is what it was at the beginning.
    StoreRollsBack,
    /// Somebody writes a secret where names belong.
    SecretInName,
    /// After a power cut store and log are what they were at the beginning, so that neither knows of a loss.
    AllRollsBack,
    /// The log is put back with the copy of the store, so that neither knows of a loss.
    LogRollsBackToo,
    /// A share that was made for an earlier meeting is as good as a new one.
    OldSharesOpen,
    /// Somebody has the keys of two admins.
    KeysAreStolen,
    /// What takes rights away is answered before it is done, and then not done.
    AnswersEarly,
    /// So is the sealing.
    NeverSeals,
    /// So is a rekey.
    NeverRekeys,
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
    (Mutant::LogRollsBackToo, &["loss_needs_consent"]),
    (Mutant::Store(Fault::NoPreconditions), &["opened_at_most_once"]),
    (Mutant::Store(Fault::NoNonces), &["exactly_once", "no_answer_without_audit_line"]),
    (Mutant::JournalLies, &["it_starts_again", "acknowledged_is_durable"]),
    (Mutant::DatabaseLies, &["it_starts_again"]),
    (Mutant::LogLies, &["it_starts_again", "each_answer_is_synced"]),
    (Mutant::LogDrops, &["no_answer_without_audit_line"]),
    (Mutant::LogFlips, &["chain_verifies"]),
    (Mutant::LogFileLost, &["chain_verifies"]),
    (Mutant::NeverSweeps, &["no_piece_is_left"]),
    (Mutant::MemoryStays, &["memory_ends_with_power"]),
    (Mutant::ClockStands, &["expired_or_revoked_never_opens"]),
    (Mutant::Store(Fault::Garbles), &["no_fault"]),
    (Mutant::StoreRollsBack, &["it_starts_again"]),
    (Mutant::AllRollsBack, &["epoch_only_grows"]),
    (Mutant::SecretInName, &["nothing_readable_on_disk"]),
    (Mutant::AnswersEarly, &["acknowledged_is_durable", "disabled_is_not_heard"]),
    (Mutant::NeverSeals, &["sealed_answers_nothing"]),
    (Mutant::NeverRekeys, &["former_admins_open_nothing"]),
    (Mutant::OldSharesOpen, &["only_good_shares_count"]),
    (Mutant::KeysAreStolen, &["only_a_quorum_unseals"]),
    (Mutant::LosesWakes, &["nobody_waits_for_ever"]),
    (Mutant::SwapsContent, &["content_is_what_was_sent"]),
    (Mutant::HidesAlarms, &["interception_raises_alarm"]),
    (Mutant::OldViews, &["state_follows_the_model"]),
];
