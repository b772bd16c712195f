//! The exploration finds each rule that an owner breaks.
//!
//! Each row is one rule of [`Rule`] that is switched off in every owner of the world, the scope in which it is looked
//! for, the number of states that the search visits until it finds a fault, and the fault. With all rules on, scopes
//! that are as wide are explored to their ends without a fault.
//!
//! | rule | scope | states | fault that is found |
//! | --- | --- | --- | --- |
//! | `InFlightStaysNamed` | truncation | 1,896 | the log of a checkpoint ends before its cut |
//! | `SnapshotsKeepTheirBases` | snapshots | 15,344 | a base that a snapshot uses is not named |
//! | `DerivesFromTheHead` | notices | 12 | a manifest does not derive from the head |
//! | `OpenersStay` | zombie | 20 | a manifest is not the one after the head |
//! | `NoticesNameEpochs` | going back | 314 | a notice makes another checkpoint fail |
//! | `UnlistedSegments` | gap | 6,368 | a segment of the log is named and gone |
//! | `FilesInTheMaking` | failing snapshots | 20,246 | a file of a base is named and gone |
//! | `PagesAreNamedLater` | pages | 1,329 | a page is named and gone |
//! | `LowWatersRise` | truncation | 84 | others wait for its low water for ever |
//! | `RemovalsArePublished` | notices | 25 | the head retains a checkpoint that its owner let go |
//! | `ExactCuts` | snapshots | 233 | a checkpoint ends before its cut |
//! | `ListedBeforeNamed` | uploads | 49 | the log of a checkpoint ends before its cut |
//! | `TailsAreDurableLater` | notices | 27 | a tail counts as durable, and no manifest has it |
//! | `PagesBeforeManifests` | pages of tails | 65 | a page is named and gone |
//! | `OwnObjectsOnly` | no claim, no log | 4 | a checkpoint needs objects that its owner must not claim |
//!
//! `cargo test --lib explore::rules -- --nocapture` prints the states that were visited, and the faults.

use super::*;
use crate::checkpoint::owner::Rule;

/// A rule, and where it is looked for.
fn courses(rule: Rule) -> (&'static str, Vec<Step>, Scope) {
    let base = Scope { opens: 1, barriers: 2, materializations: 1, notices: 1, ..Scope::NONE };
    let pages = Scope { opens: 1, barriers: 4, notices: 1, sweeps: 0, folds: true, ..Scope::INLINE };
    let snapshots = Scope { barriers: 3, notices: 1, idle: true, unlogged: true, ..Scope::NONE };
    let snapshot = || [opened(0, None), snapshotted(0, 1)].concat();
    match rule {
        Rule::InFlightStaysNamed => ("truncation", vec![], base),
        Rule::LowWatersRise => ("truncation", vec![], base),
        Rule::SnapshotsKeepTheirBases | Rule::ExactCuts => ("snapshots", opened(0, None), snapshots),
        Rule::FilesInTheMaking => {
            ("failing snapshots", snapshot(), Scope { notices: 0, refusals: 1, sweeps: 1, ..snapshots })
        }
        Rule::DerivesFromTheHead | Rule::RemovalsArePublished | Rule::TailsAreDurableLater => {
            ("notices", vec![], Scope { opens: 1, barriers: 2, notices: 3, crashes: 1, ..Scope::INLINE })
        }
        Rule::OpenersStay => ("zombie", outlived(), Scope { barriers: 2, sweeps: 1, ..Scope::INLINE }),
        Rule::NoticesNameEpochs => ("going back", vec![], Scope { opens: 2, barriers: 2, notices: 1, ..Scope::INLINE }),
        Rule::UnlistedSegments => {
            // The gap lasts beyond the next segment where its own upload is refused, and begins again with a later one.
            let (owner, gap, next) = (0, 0, 1);
            let barrier = || Step::Barrier { owner, inline: false };
            let behind =
                vec![barrier(), barrier(), Step::Arrive { owner, upload: next }, Step::Learn { owner, upload: next }];
            let prefix = [opened(0, None), published(0), behind, vec![Step::Refuse { owner, upload: gap }]].concat();
            ("gap", prefix, Scope { notices: 1, sweeps: 1, ..Scope::NONE })
        }
        Rule::ListedBeforeNamed => ("uploads", vec![], Scope { opens: 1, barriers: 2, notices: 2, ..Scope::NONE }),
        Rule::PagesAreNamedLater => {
            let prefix = [opened(0, None), published(0)].concat();
            ("pages", prefix, Scope { barriers: 3, sweeps: 1, folds: true, ..Scope::NONE })
        }
        Rule::PagesBeforeManifests => ("pages of tails", vec![], pages),
        Rule::OwnObjectsOnly => {
            let prefix = [opened(0, None), snapshotted(0, 1), opened(1, Some(0))].concat();
            let scope = Scope { barriers: 2, sweeps: 1, no_claim: true, notices: 0, ..snapshots };
            ("no claim, no log", prefix, scope)
        }
    }
}

/// The rules that the exploration switches off one by one.
const RULES: [Rule; 15] = [
    Rule::InFlightStaysNamed,
    Rule::SnapshotsKeepTheirBases,
    Rule::DerivesFromTheHead,
    Rule::OpenersStay,
    Rule::NoticesNameEpochs,
    Rule::UnlistedSegments,
    Rule::FilesInTheMaking,
    Rule::PagesAreNamedLater,
    Rule::LowWatersRise,
    Rule::RemovalsArePublished,
    Rule::ExactCuts,
    Rule::ListedBeforeNamed,
    Rule::TailsAreDurableLater,
    Rule::PagesBeforeManifests,
    Rule::OwnObjectsOnly,
];

#[test]
fn each_rule_that_owners_break_is_found() {
    let mut missed = vec![];
    for rule in RULES {
        let (name, prefix, scope) = courses(rule);
        match explore(name, &prefix, Scope { off: Some(rule), ..scope }, 1_000_000) {
            Ok(explored) => missed.push((rule, name, explored.states)),
            Err(Fault { states, panic }) => {
                assert!(states > 0, "{rule:?}: the steps before the search fail");
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
                println!("| `{rule:?}` | {name} | {states} | {text}");
            }
        }
    }
    assert!(missed.is_empty(), "these were not found: {missed:?}");
}
