//! A model check of a job's chain: two generations of a declared job, whose tasks report, finishers commit, a sweep
//! frees old numbers, and anyone may stop for ever at any step. Every interleaving of their requests to the store is
//! tried.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    Asked, Declaration, JobCheckpoint, JobRecord, Report,
    commit::{committed, complete},
    declare::{answer, generation, restored},
    is_outdated,
    tests::head,
};
use crate::{
    checkpoint::manifest::Manifest,
    types::{BackendId, CheckpointIdentity, Name},
};

/// Records that the model's sweep keeps.
const KEPT: u64 = 1;

/// The next request of one actor to the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Makes a report durable.
    Report {
        attempt: u64,
        id: u64,
        subtask: u32,
    },
    /// Reads the newest record.
    Read,
    /// Lists the reports of that generation.
    List(u64),
    /// Creates the record, if there is none of that number. Its bytes, since records have no order.
    Create(Vec<u8>),
    /// Looks whether it is the newest.
    Verify(u64),
    Done,
}

/// The task of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Reporter,
    Finisher { attempt: u64 },
    Declarer { attempt: u64, asked: Option<u64> },
    Sweep,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Actor {
    role: Role,
    step: Step,
    /// The record that it read.
    read: Vec<u8>,
}

/// The store and everyone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    records: BTreeMap<u64, Vec<u8>>,
    reports: BTreeSet<Report>,
    actors: Vec<Actor>,
    /// Every record that ever was the newest, in order.
    history: Vec<Vec<u8>>,
}

fn backend(subtask: u32) -> BackendId {
    BackendId { job: Name::new("job").unwrap(), operator: Name::new("count").unwrap(), subtask }
}

fn report(attempt: u64, id: u64, subtask: u32) -> Report {
    let uuid = Uuid::from_u128(u128::from(attempt) << 64 | u128::from(id) << 32 | u128::from(subtask));
    Report { backend: backend(subtask), attempt, part: CheckpointIdentity { epoch: attempt, id, uuid } }
}

fn declaration(asked: Option<u64>) -> Declaration {
    let asked = asked.map_or(Asked::Latest, |id| Asked::Given { id, attempt: None });
    Declaration { operators: BTreeMap::from([(backend(0).operator, 2)]), asked }
}

/// The heads of both tasks, as their owners keep them: everything that is reported.
fn heads(reports: &BTreeSet<Report>) -> Vec<Manifest> {
    let of_task = |subtask| {
        let parts: Vec<_> = reports.iter().filter(|report| report.backend.subtask == subtask).collect();
        let names: Vec<_> = parts.iter().map(|report| (report.attempt, report.part.id)).collect();
        let mut head = head(subtask, 2, &names, false);
        for (record, report) in head.checkpoints.iter_mut().zip(&parts) {
            record.identity = report.part;
            // All of one epoch of the sample, whose span has two subtasks.
            record.identity.epoch = head.epochs[0].epoch.number;
        }
        head
    };
    vec![of_task(0), of_task(1)]
}

impl World {
    fn new(actors: Vec<Actor>) -> Self {
        let declaration = declaration(None);
        let restored = restored(&backend(0).job, None, &[], &declaration).unwrap();
        let first = generation(None, 1, &declaration, restored).encode().to_vec();
        let records = BTreeMap::from([(1, first.clone())]);
        Self { records, reports: BTreeSet::new(), actors, history: vec![first] }
    }

    fn newest(&self) -> (u64, &Vec<u8>) {
        self.records.last_key_value().map(|(number, record)| (*number, record)).unwrap()
    }

    /// Whether the actor can go on: tasks of a generation report once it is declared.
    fn is_ready(&self, at: usize) -> bool {
        match &self.actors[at].step {
            Step::Report { attempt, .. } => {
                self.history.iter().any(|record| JobRecord::decode(record).unwrap().attempt == *attempt)
            }
            Step::Done => false,
            _ => true,
        }
    }

    fn act(&mut self, at: usize) {
        let (newest, bytes) = self.newest();
        let (newest, bytes) = (newest, bytes.clone());
        let Actor { role, step, read } = self.actors[at].clone();
        let mut read = read;
        let step = match step {
            Step::Report { attempt, id, subtask } => {
                self.reports.insert(report(attempt, id, subtask));
                Step::Done
            }
            Step::Read if role == Role::Sweep => {
                self.records.retain(|number, _| number + KEPT > newest);
                let record = JobRecord::decode(&bytes).unwrap();
                self.reports.retain(|report| !is_outdated(&record, report));
                Step::Done
            }
            Step::Read => {
                let record = JobRecord::decode(&bytes).unwrap();
                read = bytes;
                match role {
                    Role::Finisher { attempt } if record.attempt != attempt => Step::Done,
                    Role::Declarer { attempt, asked } if record.attempt >= attempt => {
                        let answered = answer(&backend(0).job, &record, attempt, &declaration(asked));
                        assert!(answered.is_ok() || record.attempt > attempt, "{answered:?}");
                        Step::Done
                    }
                    _ => Step::List(record.attempt),
                }
            }
            Step::List(attempt) => {
                let record = JobRecord::decode(&read).unwrap();
                let reports: Vec<_> = self.reports.iter().filter(|report| report.attempt == attempt).cloned().collect();
                match (complete(&record, &reports), role) {
                    (Some(commit), _) => Step::Create(committed(&record, commit).encode().to_vec()),
                    (None, Role::Declarer { attempt, asked }) => {
                        let declaration = declaration(asked);
                        // Owners keep what was reported, whether or not the report is swept.
                        let ever = self.history_reports();
                        match restored_or_none(&record, &heads(&ever), &declaration) {
                            Some(restored) => {
                                let next = generation(Some(&record), attempt, &declaration, restored);
                                Step::Create(next.encode().to_vec())
                            }
                            None => Step::Done,
                        }
                    }
                    (None, _) => Step::Done,
                }
            }
            Step::Create(next) => {
                let number = JobRecord::decode(&next).unwrap().number;
                if self.records.contains_key(&number) {
                    Step::Read
                } else {
                    if number > newest {
                        self.history.push(next.clone());
                    }
                    self.records.insert(number, next);
                    Step::Verify(number)
                }
            }
            Step::Verify(number) if newest == number => match role {
                // This commit was for the generation before; now the declarer's own turn begins.
                Role::Declarer { attempt, .. } if JobRecord::decode(&bytes).unwrap().attempt < attempt => Step::Read,
                _ => Step::Done,
            },
            Step::Verify(_) => Step::Read,
            Step::Done => unreachable!("it is not ready"),
        };
        if !matches!(step, Step::List(_)) {
            // The actor no longer decides by the records that it read.
            read.clear();
        }
        self.actors[at] = Actor { role, step, read };
        self.check();
    }

    /// All reports that owners know of: those there, and those that commits name.
    fn history_reports(&self) -> BTreeSet<Report> {
        let mut all = self.reports.clone();
        for record in &self.history {
            if let Some(commit) = JobRecord::decode(record).unwrap().commit {
                for (part, subtask) in commit.parts.values().flatten().zip(0..) {
                    all.insert(Report { backend: backend(subtask), attempt: commit.checkpoint.attempt, part: *part });
                }
            }
        }
        all
    }

    fn check(&self) {
        let history: Vec<_> = self.history.iter().map(|record| JobRecord::decode(record).unwrap()).collect();
        let mut commits: Vec<JobCheckpoint> = vec![];
        for (before, after) in history.iter().zip(&history[1..]) {
            assert_eq!(after.number, before.number + 1, "each is derived from the newest");
            if after.attempt == before.attempt {
                let commit = after.commit.as_ref().unwrap();
                assert_eq!(commit.checkpoint.attempt, after.attempt, "no commit of an outdated generation");
                assert!(commits.last().is_none_or(|last| *last < commit.checkpoint), "one order of commits");
                let parts: Vec<_> = (0..2).map(|n| report(after.attempt, commit.checkpoint.id, n).part).collect();
                assert_eq!(commit.parts[&backend(0).operator], parts, "a commit has the reports of all tasks");
                commits.push(commit.checkpoint);
            } else {
                assert!(after.attempt > before.attempt, "attempts ascend");
                if after.declared.as_ref().unwrap().asked == Asked::Latest {
                    let newest = commits.iter().rev().find(|commit| commit.attempt == before.attempt).copied();
                    assert_eq!(
                        after.restore(),
                        newest.or(before.restore()),
                        "what was committed before it is restored"
                    );
                }
            }
        }
    }
}

fn restored_or_none(
    record: &JobRecord,
    heads: &[Manifest],
    declaration: &Declaration,
) -> Option<super::declare::Restored> {
    let mut record = record.clone();
    // The parts as the sample's heads have them.
    if let Some(commit) = &mut record.commit {
        for part in commit.parts.values_mut().flatten() {
            part.epoch = heads[0].epochs[0].epoch.number;
        }
    }
    let mut restored = restored(&backend(0).job, Some(&record), heads, declaration).ok()?;
    if let (Some(restored), Some(commit)) = (&mut restored.commit, &record.commit) {
        restored.clone_from(commit);
        for part in restored.parts.values_mut().flatten() {
            part.epoch = restored.checkpoint.attempt;
        }
    }
    Some(restored)
}

fn actor(role: Role, step: Step) -> Actor {
    Actor { role, step, read: vec![] }
}

/// Tries every interleaving; returns how many different worlds there were, and the last of them.
fn explore(actors: Vec<Actor>) -> (usize, Vec<World>) {
    let (mut seen, mut ends) = (BTreeSet::new(), vec![]);
    let mut open = vec![World::new(actors)];
    while let Some(world) = open.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        let ready: Vec<_> = (0..world.actors.len()).filter(|at| world.is_ready(*at)).collect();
        if ready.is_empty() {
            ends.push(world.clone());
        }
        for at in ready {
            let mut next = world.clone();
            next.act(at);
            open.push(next);
        }
    }
    (seen.len(), ends)
}

fn reports(attempt: u64, ids: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Actor> {
    ids.flat_map(move |id| (0..2).map(move |subtask| Step::Report { attempt, id, subtask }))
        .map(|step| actor(Role::Reporter, step))
}

fn finisher(attempt: u64) -> Actor {
    actor(Role::Finisher { attempt }, Step::Read)
}

fn declarer(asked: Option<u64>) -> Actor {
    actor(Role::Declarer { attempt: 2, asked }, Step::Read)
}

#[test]
fn whoever_finishes_and_whenever_the_next_generation_begins_commits_have_one_order() {
    let mut actors: Vec<_> = reports(1, 1..=2).collect();
    actors.extend([finisher(1), finisher(1), declarer(None)]);
    let (worlds, ends) = explore(actors);
    assert!(worlds > 4_000, "{worlds}");
    let restored: BTreeSet<_> = ends.iter().map(|end| JobRecord::decode(end.newest().1).unwrap().restore()).collect();
    let checkpoint = |id| Some(JobCheckpoint { attempt: 1, id });
    assert_eq!(restored, BTreeSet::from([None, checkpoint(1), checkpoint(2)]), "all of them happen");
}

#[test]
fn ids_that_the_next_generation_uses_again_are_other_checkpoints() {
    let mut actors: Vec<_> = reports(1, 1..=1).chain(reports(2, 1..=1)).collect();
    actors.extend([finisher(1), declarer(None), declarer(None), finisher(2)]);
    let (worlds, ends) = explore(actors);
    assert!(worlds > 4_000, "{worlds}");
    assert!(ends.iter().any(|end| JobRecord::decode(end.newest().1).unwrap().commits().len() == 2));
}

#[test]
fn numbers_that_a_sweep_freed_mean_nothing_when_a_late_finisher_creates_them_again() {
    let mut actors: Vec<_> = reports(1, 1..=2).collect();
    actors.extend([finisher(1), finisher(1), declarer(None), actor(Role::Sweep, Step::Read)]);
    let (worlds, ends) = explore(actors);
    assert!(worlds > 4_000, "{worlds}");
    let below = |end: &World| end.records.len() as u64 != end.newest().0;
    assert!(ends.iter().any(below), "numbers are freed");
}

#[test]
fn who_goes_back_to_an_older_checkpoint_stays_there_until_his_first_commit() {
    let commit_of = |record: &JobRecord, id| {
        let parts = BTreeMap::from([(backend(0).operator, (0..2).map(|n| report(1, id, n).part).collect())]);
        committed(record, super::Commit { checkpoint: JobCheckpoint { attempt: 1, id }, parts })
    };
    let ever: BTreeSet<_> = [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(id, subtask)| report(1, id, subtask)).into();
    let first = JobRecord::decode(&World::new(vec![]).history[0]).unwrap();
    let newest = commit_of(&commit_of(&first, 1), 2);
    let back = declaration(Some(1));
    let second = generation(Some(&newest), 2, &back, restored_or_none(&newest, &heads(&ever), &back).unwrap());
    let older = JobCheckpoint { attempt: 1, id: 1 };
    assert_eq!((second.restore(), &second.commit, second.stands_on()), (Some(older), &None, Some(older)));
    assert_eq!(second.commits().last(), Some(&JobCheckpoint { attempt: 1, id: 2 }), "told, but not restored");
    let latest = declaration(None);
    let third = generation(Some(&second), 3, &latest, restored_or_none(&second, &heads(&ever), &latest).unwrap());
    assert_eq!(third.restore(), Some(older));
    let missing = heads(&BTreeSet::from([report(1, 2, 0)]));
    assert!(restored(&backend(0).job, Some(&newest), &missing, &latest).is_err(), "a part is gone");
}
