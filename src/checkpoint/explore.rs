//! An exploration: every order in which the steps of owners, uploads, notices, deaths and a sweep can follow each other, within
//! small bounds, breadth first. What is explored is the real thing: writer, ledger, manifests and their codec, and the futures that
//! talk to the store, each of whose requests is a step ([`script`]).
//!
//! `DSTL_EXPLORE_DEPTH` widens the bounds (1 by default, 2 takes minutes).

mod check;
mod owner;
mod script;
mod world;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use bytes::Bytes;

use self::{
    script::Stage,
    world::{Scope, Step, World},
};
use crate::object::Path;

/// What is on the store.
type Objects = BTreeMap<Path, Bytes>;

/// Of every so many states one is settled: see [`World::settle`].
const SETTLED: u64 = 64;

/// What was seen.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    steps: usize,
    settled: usize,
}

/// The way to a state: the one before it, and the step.
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

/// Visits every state within `scope`, up to `most`, and checks it.
fn explore(name: &str, scope: Scope, most: usize) -> Explored {
    let (stage, first) = (Stage::new(), World::new(scope));
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
                Err(fault) => {
                    eprintln!("{name}: after");
                    way.print(at, Some(step));
                    resume_unwind(fault);
                }
            }
        }
    }
    explored.states = way.0.len();
    println!("{name}: {explored:?}");
    explored
}

fn depth() -> u8 {
    std::env::var("DSTL_EXPLORE_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(1)
}

#[test]
fn uploads_in_any_order_and_notices_in_any_order() {
    let scope = Scope { opens: 1, barriers: 2 + depth() - 1, notices: 2, refusals: 1, inline: true, ..Scope::NONE };
    let explored = explore("one owner", scope, 5_000_000);
    assert!(explored.states > 3_000, "{explored:?}");
}

#[test]
fn a_successor_and_a_sweep_at_any_moment() {
    let scope = Scope { opens: 2, barriers: 1, crashes: 1, sweeps: 1, ..Scope::NONE };
    let explored = explore("succession", scope, 5_000_000);
    assert!(explored.states > 3_000, "{explored:?}");
}
