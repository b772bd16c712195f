//! An exploration: every order in which the steps of owners, uploads, notices, deaths and a sweep can follow each
//! other, within small bounds, breadth first.
//!
//! The owner is the one that the daemon runs ([`super::owner`]), with its writer, ledger, manifests and their codec; so
//! are the futures that talk to the store, each of whose requests is a step (`script`). The explorer adds only the
//! world round it: requests that arrive early, late or never, engines that send barriers and notices, other owners,
//! readers, a sweep, and the truth that everything is checked against (`check`).
//!
//! Not explored are several backends of one job, rescales, coordination, and most of time.
//!
//! `DSTL_EXPLORE_DEEPER=1` widens the bounds. `rules` shows that the exploration finds each rule that an owner breaks.

mod actor;
mod base;
mod check;
mod instance;
mod reader;
mod rules;
mod scope;
mod script;
mod settle;
mod world;

use std::{
    any::Any,
    collections::{HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use self::{
    scope::{Scope, Step},
    script::Stage,
    world::World,
};

/// One of this many states is settled: see [`World::settle`].
const SETTLED: u64 = 64;

/// The size of an exploration.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    steps: usize,
    settled: usize,
}

/// The way to a state: the state before it, and the step between them.
struct Way(Vec<(usize, Option<Step>)>);

impl Way {
    fn print(&self, at: usize, last: Option<Step>) {
        let (mut at, mut steps) = (at, vec![last]);
        while let (before, Some(step)) = self.0[at] {
            steps.push(Some(step));
            at = before;
        }
        for step in steps.iter().rev().flatten() {
            eprintln!("  {step:?}");
        }
    }
}

/// A fault that was found.
struct Fault {
    /// States visited until then.
    states: usize,
    panic: Box<dyn Any + Send>,
}

/// Visits every state within `scope` after the steps of `prefix`, up to `most`, and checks it.
fn explore(name: &str, prefix: &[Step], scope: Scope, most: usize) -> Result<Explored, Fault> {
    let stage = Stage::new();
    let mut first = World::new(Scope { opens: 9, materializations: 9, refusals: 9, barriers: u8::MAX, ..scope });
    let begin = catch_unwind(AssertUnwindSafe(|| {
        prefix.iter().for_each(|step| first.take(&stage, *step));
        first.check();
    }));
    begin.map_err(|panic| Fault { states: 0, panic })?;
    first.left = scope;
    let (mut seen, mut way) = (HashSet::from([first.fingerprint()]), Way(vec![(0, None)]));
    let (mut open, mut explored) = (VecDeque::from([(0, first)]), Explored::default());
    while let Some((at, world)) = open.pop_front() {
        for step in world.steps() {
            explored.steps += 1;
            let mut next = world.clone();
            let mut visit = || {
                next.take(&stage, step);
                next.check();
                let print = next.fingerprint();
                if seen.insert(print) {
                    if print.is_multiple_of(SETTLED) {
                        explored.settled += 1;
                        next.clone().settle(&stage);
                        next.clone().rest(&stage);
                    }
                    return true;
                }
                false
            };
            match catch_unwind(AssertUnwindSafe(&mut visit)) {
                Ok(false) => {}
                Ok(true) if way.0.len() < most => {
                    way.0.push((at, Some(step)));
                    open.push_back((way.0.len() - 1, next));
                }
                Ok(true) => panic!("{name}: more than {most} states"),
                Err(panic) => {
                    eprintln!("{name}: after");
                    way.print(at, Some(step));
                    return Err(Fault { states: way.0.len(), panic });
                }
            }
        }
    }
    explored.states = way.0.len();
    println!("{name}: {explored:?}");
    Ok(explored)
}

/// How much wider the bounds are than by default.
fn deeper() -> u8 {
    std::env::var("DSTL_EXPLORE_DEEPER").ok().and_then(|by| by.parse().ok()).unwrap_or(0)
}

/// Explores `scope` and asserts that it is as wide as it was meant to be.
fn explored(name: &str, scope: Scope, at_least: usize) {
    explored_after(name, &[], scope, at_least);
}

/// As [`explored`], after some steps.
fn explored_after(name: &str, prefix: &[Step], scope: Scope, at_least: usize) {
    let explored = explore(name, prefix, scope, 10_000_000).unwrap_or_else(|fault| resume_unwind(fault.panic));
    let is_settled = explored.settled > 0 || explored.states < 1_000;
    assert!(explored.states >= at_least && is_settled, "{name}: {explored:?}");
}

#[test]
fn uploads_that_finish_fail_and_come_back_in_any_order_under_notices() {
    let scope = Scope { opens: 1, barriers: 2, notices: 2 + deeper(), refusals: 1, inline: true, ..Scope::NONE };
    explored("uploads", scope, 2_000);
}

#[test]
fn notices_of_any_kind_in_any_order_to_one_owner() {
    let scope = Scope { opens: 1, barriers: 2 + deeper(), notices: 3, crashes: 1, ..Scope::INLINE };
    explored("notices", scope, 2_000);
    let scope = Scope { barriers: 3, notices: 2 + deeper(), retention: Some(2), ..scope };
    explored("retention", scope, 2_000);
}

#[test]
fn a_successor_and_a_sweep_at_any_moment() {
    let scope = Scope { opens: 2, barriers: 1, crashes: 1, sweeps: 1 + deeper(), ..Scope::NONE };
    explored("succession", scope, 8_000);
}

#[test]
fn a_successor_on_the_same_daemon_and_a_sweep_at_any_moment() {
    let scope = Scope { opens: 2, barriers: 1, sweeps: 1, refusals: deeper(), same_daemon: true, ..Scope::NONE };
    explored("same daemon", scope, 5_000);
}

#[test]
fn owners_that_go_back_to_any_checkpoint_and_use_ids_again() {
    let scope = Scope { opens: 2, barriers: 2, notices: 1 + deeper(), ..Scope::INLINE };
    explored("going back", scope, 5_000);
    let scope = Scope { opens: 3 + deeper(), barriers: 1, crashes: 1, notices: 0, ..Scope::INLINE };
    explored("three owners", scope, 2_000);
}

#[test]
fn a_base_that_is_made_fails_and_is_let_go_beside_a_sweep() {
    let scope = Scope { opens: 1, barriers: 1, materializations: 1, sweeps: 1, refusals: 1 + deeper(), ..Scope::NONE };
    explored("base", scope, 2_000);
    let scope = Scope { opens: 1, barriers: 2, materializations: 1 + deeper(), notices: 1, ..Scope::NONE };
    explored("truncation", scope, 2_000);
}

#[test]
fn an_owner_that_closes_or_dies_beside_a_sweep() {
    let scope =
        Scope { opens: 1, barriers: 1 + deeper(), closes: 1, sweeps: 1, crashes: 1, refusals: 1, ..Scope::NONE };
    explored("closing", scope, 2_000);
}

/// The steps by which an owner opens.
fn opened(owner: usize, restore: Option<usize>) -> Vec<Step> {
    vec![Step::Open { restore, on: None }, Step::Go { owner }, Step::Go { owner }]
}

/// The steps by which a checkpoint whose change set is in a segment is published.
fn published(owner: usize) -> Vec<Step> {
    let upload = 0;
    let durable =
        [Step::Barrier { owner, inline: false }, Step::Arrive { owner, upload }, Step::Learn { owner, upload }];
    [&durable[..], &[Step::Begin { owner }, Step::Go { owner }]].concat()
}

/// The steps by which a checkpoint whose change set is in its manifest is published.
fn inlined(owner: usize) -> Vec<Step> {
    vec![Step::Barrier { owner, inline: true }, Step::Begin { owner }, Step::Go { owner }]
}

/// The steps by which a checkpoint without log is published.
fn snapshotted(owner: usize, id: u64) -> Vec<Step> {
    let durable = [Step::Barrier { owner, inline: false }, Step::Turn { owner, id }];
    let learned = [Step::SnapshotArrives { owner, id }, Step::Snapshotted { owner, id }];
    [&durable[..], &learned[..], &[Step::Begin { owner }, Step::Go { owner }]].concat()
}

#[test]
fn a_log_index_that_moves_into_pages_beside_a_sweep() {
    let prefix = [opened(0, None), published(0)].concat();
    explored_after("pages", &prefix, Scope { barriers: 3, sweeps: 1 + deeper(), folds: true, ..Scope::NONE }, 1_000);
    let scope = Scope { opens: 1, barriers: 4, notices: 1, sweeps: deeper(), folds: true, ..Scope::INLINE };
    explored("pages of tails", scope, 1_000);
}

#[test]
fn a_log_index_in_pages_that_is_truncated_or_inherited() {
    let scope = Scope { barriers: 4, materializations: 1, sweeps: deeper(), folds: true, ..Scope::INLINE };
    explored_after("truncated pages", &[opened(0, None), inlined(0)].concat(), scope, 1_000);
    let prefix = [opened(0, None), inlined(0), inlined(0), vec![Step::Page { owner: 0 }]].concat();
    let scope = Scope { opens: 1, barriers: 2, sweeps: 1, crashes: deeper(), folds: true, ..Scope::INLINE };
    explored_after("inherited pages", &prefix, scope, 1_000);
}

#[test]
fn snapshots_that_end_in_any_order_and_are_let_go() {
    let scope = Scope { barriers: 3, notices: 1 + deeper(), idle: true, unlogged: true, ..Scope::NONE };
    explored_after("snapshots", &opened(0, None), scope, 2_000);
}

#[test]
fn snapshots_whose_uploads_fail_beside_a_sweep() {
    let prefix = [opened(0, None), snapshotted(0, 1)].concat();
    let scope =
        Scope { barriers: 3, notices: deeper(), refusals: 1, sweeps: 1, idle: true, unlogged: true, ..Scope::NONE };
    explored_after("failing snapshots", &prefix, scope, 2_000);
}

#[test]
fn snapshots_of_an_owner_that_is_followed() {
    let prefix = [opened(0, None), snapshotted(0, 1)].concat();
    let scope = Scope { opens: 1, barriers: 1, crashes: 1, idle: deeper() > 0, unlogged: true, ..Scope::NONE };
    explored_after("two snapshots without log", &prefix, Scope { barriers: 2, ..scope }, 2_000);
    // With two barriers beside a sweep there are 138,000 states: several minutes of time, more than all other scopes.
    let scope = Scope { sweeps: 1, barriers: 1 + deeper(), ..scope };
    explored_after("succession without log", &prefix, scope, 500);
}

#[test]
fn an_owner_that_must_not_claim_what_it_restores() {
    let first = |it| [opened(0, None), it, opened(1, Some(0))].concat();
    let scope = Scope { barriers: 2, sweeps: 1, refusals: deeper(), no_claim: true, ..Scope::NONE };
    let with_log = Scope { materializations: 1, ..scope };
    explored_after("no claim", &first(published(0)), with_log, 1_000);
    let without = Scope { barriers: 1, idle: true, unlogged: true, ..scope };
    explored_after("no claim, no log", &first(snapshotted(0, 1)), without, 150);
}

/// An owner whose successor has published so many manifests that it deletes the first of them.
fn outlived() -> Vec<Step> {
    let successor = (0..18).flat_map(|_| inlined(1));
    [opened(0, None), inlined(0), opened(1, Some(0))].concat().into_iter().chain(successor).collect()
}

#[test]
fn an_owner_whose_successor_deletes_manifests() {
    let scope = Scope { barriers: 2, sweeps: 1, ..Scope::INLINE };
    explored_after("zombie", &outlived(), scope, 20);
}

#[test]
fn a_reader_that_pins_while_the_log_below_a_base_is_let_go_and_swept() {
    let base = [
        Step::Materialize { owner: 0 },
        Step::Materialize { owner: 0 },
        Step::MaterializationArrives { owner: 0 },
        Step::Materialized { owner: 0, succeeded: true },
    ];
    let prefix = [opened(0, None), published(0), base.to_vec(), published(0)].concat();
    let scope = Scope { barriers: 2, readers: 1, notices: 1 + deeper(), sweeps: 1, ..Scope::NONE };
    explored_after("reader of a base", &prefix, scope, 1_000);
}

#[test]
fn a_reader_that_pins_while_a_branch_is_let_go_and_swept() {
    let prefix = [opened(0, None), published(0), published(0), opened(1, Some(0))].concat();
    let scope = Scope { barriers: 0, readers: 1, notices: 1 + deeper(), sweeps: 1, ..Scope::NONE };
    explored_after("reader of a branch", &prefix, scope, 1_000);
}
