//! Operator state whose descriptor changes, and as queries read it.

use dstl::{
    backend::{Query, View},
    types::{SchemaChange, SchemaMode, Serializer},
};

use super::{
    Answer, Bytes, CheckpointHandle, Contents, Daemon, InnerBackend, LATEST, MapKeys, Model, NoticeKind, Op, OpenSpec,
    Operation, Redistribution, RestoreFrom, Session, Settings, StateDescriptor, StateId, StateKind, Subtask, Task,
    World, on_both, settings, spec,
};

on_both! {
    forms_of_one_list_come_together_when_the_change_is_registered: |inner| super::forms(inner, true);
    forms_of_one_list_come_together_without_changelog: |inner| super::forms(inner, false);
    a_migration_goes_on_in_another_parallelism: super::migrates;
    queries_read_it_applied_and_completed: |inner| super::queries(inner, true);
    queries_read_it_without_changelog: |inner| super::queries(inner, false);
}

/// The changelog on or off.
fn with_log(inner: InnerBackend, seed: u64, changelog: bool) -> Settings {
    let mut settings = settings(inner, seed);
    (settings.options.changelog, settings.options.queries) = (changelog, true);
    settings
}

fn version(redistribution: Redistribution, version: u32) -> StateDescriptor {
    let mut descriptor = StateDescriptor::new(format!("{redistribution:?}"), StateKind::List);
    descriptor.redistribution = Some(redistribution);
    descriptor.schema.value = Serializer { id: "row".to_owned(), version };
    descriptor
}

/// Subtasks that register for themselves.
struct Owner {
    task: Task,
    next: u64,
}

impl Owner {
    async fn open(daemon: &Daemon, spec: OpenSpec) -> Self {
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        let session = Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
        Self { task: Task { opened, session }, next: 0 }
    }

    async fn register(&self, wanted: &StateDescriptor, mode: Option<SchemaMode>) -> (StateId, Option<StateId>) {
        let backend = &self.task.opened.backend;
        let changes: Vec<_> = mode.into_iter().map(|mode| SchemaChange { state: wanted.name.clone(), mode }).collect();
        let wanted = std::slice::from_ref(wanted);
        let states = backend.register_states(backend.epoch(), wanted, &changes).await.unwrap();
        (states[0].id, states[0].migrating_from)
    }

    fn apply(&mut self, state: StateId, op: Op<'_>) -> Option<Answer> {
        self.task.session.acknowledgement();
        let operation = Operation { state, key_group: None, key: b"", namespace: b"", op };
        let result = self.task.apply(self.next, if op.is_write() { 300 } else { 0 }, &[operation]).unwrap();
        self.next += 1;
        result.and_then(|mut result| result.answers.pop()).and_then(|(_, answer)| answer)
    }

    fn add(&mut self, state: StateId, element: &str) {
        self.apply(state, Op::ListAdd(element.as_bytes()));
    }

    fn list(&mut self, state: StateId) -> Vec<String> {
        match self.apply(state, Op::ListGet { start: 0, token: &[], limit: 0 }) {
            Some(Answer::Elements { elements, token: None }) => {
                elements.iter().map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
            }
            other => panic!("a list answers its elements, not {other:?}"),
        }
    }

    async fn checkpoint(&mut self, id: u64) -> CheckpointHandle {
        CheckpointHandle::decode(&self.task.checkpoint(id).await.handle).unwrap()
    }
}

/// Some subtasks have registered a change when the checkpoint is made, others not yet.
async fn forms(inner: InnerBackend, changelog: bool) {
    const COMPATIBLE: Option<SchemaMode> = Some(SchemaMode::Compatible);
    for (redistribution, new) in [(Redistribution::Split, 3), (Redistribution::Union, 3), (Redistribution::Union, 2)] {
        let world = World::new();
        let daemon = Daemon::start(&world, with_log(inner, 1, changelog));
        let mut handles = vec![];
        for subtask in 0..2 {
            let mut owner = Owner::open(&daemon, spec(subtask, 2, 1)).await;
            let (state, _) = owner.register(&version(redistribution, 1), None).await;
            ["a", "b", "c"].iter().for_each(|name| owner.add(state, &format!("{name}{subtask}")));
            if subtask == 1 {
                assert_eq!(owner.register(&version(redistribution, 2), COMPATIBLE).await, (state, None));
                owner.add(state, "new");
            }
            handles.push(owner.checkpoint(1).await);
            owner.task.notice(NoticeKind::Complete, 1);
        }
        daemon.crash();
        let mut expected: Vec<_> = ["a0", "b0", "c0", "a1", "b1", "c1", "new"].map(str::to_owned).to_vec();
        expected.sort();
        let (mut split, mut restore) = (vec![], RestoreFrom::Handles(handles));
        // Once again: what was moved is part of the next checkpoint.
        for attempt in 2..4 {
            let daemon = Daemon::start(&world, with_log(inner, attempt * 10, changelog));
            split.clear();
            for subtask in 0..new {
                let spec = OpenSpec { restore: restore.clone(), ..spec(subtask, new, attempt) };
                let mut owner = Owner::open(&daemon, spec).await;
                let (state, from) = owner.register(&version(redistribution, 2), COMPATIBLE).await;
                assert_eq!(
                    (from, owner.task.opened.backend.describe().states.len()),
                    (None, 1),
                    "there is one form left"
                );
                let mut found = owner.list(state);
                if redistribution == Redistribution::Union {
                    found.sort();
                    found.dedup();
                    assert_eq!(found, expected, "subtask {subtask} of {new}, attempt {attempt}");
                }
                split.extend(found);
                owner.checkpoint(attempt).await;
                owner.task.notice(NoticeKind::Complete, attempt);
            }
            split.sort();
            assert!(redistribution == Redistribution::Union || split == expected, "{split:?}, attempt {attempt}");
            daemon.crash();
            restore = LATEST;
        }
    }
}

/// The client rewrites elements one by one, and is interrupted.
async fn migrates(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let of = |n| version(Redistribution::Split, n);
    for subtask in 0..2 {
        let mut owner = Owner::open(&daemon, spec(subtask, 2, 1)).await;
        let (old, _) = owner.register(&of(1), None).await;
        (0..3).for_each(|number| owner.add(old, &format!("{number} of {subtask}")));
        let (new, from) = owner.register(&of(2), Some(SchemaMode::Migrate)).await;
        assert_eq!(from, Some(old));
        owner.add(new, &format!("0 of {subtask}, rewritten"));
        owner.apply(old, Op::ListUpdate(&[1, 2].map(|number| Bytes::from(format!("{number} of {subtask}")))));
        owner.checkpoint(1).await;
        owner.task.notice(NoticeKind::Complete, 1);
    }
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 20));
    let (mut before, mut after) = (vec![], vec![]);
    for subtask in 0..3 {
        let mut owner = Owner::open(&daemon, OpenSpec { restore: LATEST, ..spec(subtask, 3, 2) }).await;
        let (new, from) = owner.register(&of(2), None).await;
        after.extend(owner.list(new));
        if let Some(old) = from {
            before.extend(owner.list(old));
            owner.apply(old, Op::Clear);
        }
        assert_eq!(owner.register(&of(2), None).await, (new, None), "all is rewritten");
    }
    assert_eq!(before, ["1 of 0", "2 of 0", "1 of 1", "2 of 1"]);
    assert_eq!(after, ["0 of 0, rewritten", "0 of 1, rewritten"]);
}

/// All operator state as a query reads it, and of which checkpoint.
async fn ask(query: &mut Query, subtask: &Subtask) -> (Contents, u64) {
    let operation =
        |state: &str, op| Operation { state: subtask.ids[state], key_group: None, key: b"", namespace: b"", op };
    let all = Op::ListGet { start: 0, token: &[], limit: 0 };
    let entries = Op::MapEntries { keys: MapKeys::default(), limit: 0 };
    let count = operation("union", Op::ListCount);
    let operations = [operation("split", all), operation("union", all), operation("broadcast", entries), count];
    let read = query.read(&operations).await.unwrap();
    let answers: Vec<Answer> = read.answers.into_iter().flatten().collect();
    let [
        Answer::Elements { elements: split, token: None },
        Answer::Elements { elements: union, token: None },
        Answer::Entries { entries, more: false },
        Answer::Count(count),
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(*count, union.len() as u64);
    let broadcast = entries.iter().cloned().collect();
    let contents = Contents { split: split.clone(), union: union.clone(), broadcast };
    (contents, read.checkpoint.map_or(0, |checkpoint| checkpoint.id))
}

async fn queries(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let daemon = Daemon::start(&world, with_log(inner, 1, changelog));
    let mut fleet = super::Fleet::open(&daemon, (2, 1), &RestoreFrom::Empty, (&Model::default(), 3)).await;
    let start = |daemon: &Daemon, subtask: &Subtask, view| {
        Query::start(daemon.directory.clone(), subtask.task.opened.backend.id().clone(), view).unwrap().0
    };
    fleet.write(100);
    fleet.checkpoint(1).await;
    let completed = fleet.model.clone();
    for _ in 0..3 {
        fleet.write(30);
        for (position, subtask) in fleet.subtasks.iter().enumerate() {
            let mut query = start(&daemon, subtask, View::Applied);
            assert_eq!(ask(&mut query, subtask).await, (fleet.model.subtasks[position].clone(), 0));
            let mut query = start(&daemon, subtask, View::Completed);
            assert_eq!(ask(&mut query, subtask).await, (completed.subtasks[position].clone(), 1));
        }
    }
    daemon.crash();
    // The restored checkpoint is the completed one: as it was given to this parallelism.
    let daemon = Daemon::start(&world, with_log(inner, 20, changelog));
    let mut fleet = super::Fleet::open(&daemon, (3, 2), &LATEST, (&completed, 4)).await;
    let restored = fleet.model.clone();
    fleet.write(50);
    for (position, subtask) in fleet.subtasks.iter().enumerate() {
        let mut query = start(&daemon, subtask, View::Completed);
        assert_eq!(ask(&mut query, subtask).await, (restored.subtasks[position].clone(), 1));
    }
}
