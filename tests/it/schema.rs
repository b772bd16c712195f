//! Descriptors that change: what is refused, what stays, what moves; and that every checkpoint gives back those of its
//! cut.

mod client;
mod rescaled;
mod ttl;

use std::collections::BTreeMap;

use dstl::{
    backend::{Backend, BarrierRequest, OpenSpec, Opened, Operation, RegisteredState, RestoreFrom},
    error::{Error, Reason},
    state::op::{Answer, Op},
    types::{
        InnerBackend, MergeFunction, Redistribution, SchemaChange, SchemaMode, Serializer, StateDescriptor, StateId,
        StateKind,
    },
};

use crate::support::{Daemon, Settings, World, on_both, spec};

/// One owner of a backend, without session.
struct Owner {
    opened: Opened,
    backend: Backend,
}

impl Owner {
    async fn open(daemon: &Daemon, attempt: u64, restore: RestoreFrom) -> Self {
        Self::subtask(daemon, (0, 1), attempt, restore).await
    }

    async fn subtask(daemon: &Daemon, (subtask, of): (u32, u32), attempt: u64, restore: RestoreFrom) -> Self {
        let spec = OpenSpec { restore, ..spec(subtask, of, attempt) };
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        Self { backend: opened.backend.clone(), opened }
    }

    async fn try_register(&self, wanted: &StateDescriptor, mode: Option<SchemaMode>) -> Result<RegisteredState, Error> {
        let change = mode.map(|mode| SchemaChange { state: wanted.name.clone(), mode });
        let wanted = std::slice::from_ref(wanted);
        let registered = self.backend.register_states(self.backend.epoch(), wanted, change.as_slice()).await?;
        Ok(registered[0].clone())
    }

    async fn register(&self, wanted: &StateDescriptor, mode: Option<SchemaMode>) -> RegisteredState {
        self.try_register(wanted, mode).await.unwrap()
    }

    async fn apply<'a>(&self, operations: &[(StateId, &'a str, Op<'a>)]) -> Vec<Option<Answer>> {
        let operation = |(state, key, op): &(StateId, &'a str, Op<'a>)| Operation {
            state: *state,
            key_group: Some(group(key)),
            key: key.as_bytes(),
            namespace: b"",
            op: *op,
        };
        let operations: Vec<Operation<'_>> = operations.iter().map(operation).collect();
        let writes = operations.iter().any(|operation| operation.op.is_write());
        let cost = if writes { 100 * operations.len() as u64 } else { 0 };
        let (result, _) = self.backend.apply_batch(self.backend.epoch(), None, cost, &operations).await.unwrap();
        result.answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn put(&self, state: StateId, rows: &BTreeMap<String, String>) {
        let operations: Vec<_> = rows.iter().map(|(key, value)| (state, &key[..], Op::Put(value.as_bytes()))).collect();
        for operations in operations.chunks(100) {
            self.apply(operations).await;
        }
    }

    /// What the state has of these rows.
    async fn get(&self, state: StateId, rows: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let operations: Vec<_> = rows.keys().map(|key| (state, &key[..], Op::Get)).collect();
        let answers = self.apply(&operations).await;
        let value = |(key, answer): (&String, Option<Answer>)| match answer {
            Some(Answer::Value(value)) => Some((key.clone(), String::from_utf8(value?.to_vec()).unwrap())),
            other => panic!("a get answers a value, not {other:?}"),
        };
        rows.keys().zip(answers).filter_map(value).collect()
    }

    async fn checkpoint(&self, id: u64) {
        let request = BarrierRequest { id, attachment: bytes::Bytes::new(), timeout: None };
        self.backend.checkpoint(self.backend.epoch(), request).await.unwrap();
    }

    /// Where there is a changelog to truncate.
    async fn materialize(&self) {
        if !self.opened.shape.changelog {
            return;
        }
        self.backend.materialize(self.backend.epoch()).await.unwrap();
    }

    /// What is in force, as the opener was told.
    fn told(&self) -> Vec<(u32, StateDescriptor, Option<u32>)> {
        let states = self.opened.states.iter();
        states.map(|it| (it.id.0, it.descriptor.clone(), it.migrating_from.map(|id| id.0))).collect()
    }

    /// As a client does: rewrites up to `most` rows from `old` to `new`, each in one batch.
    async fn rewrite(&self, (old, new): (StateId, StateId), rows: &BTreeMap<String, String>, most: usize) {
        let found = self.get(old, rows).await;
        for (key, value) in found.iter().take(most) {
            let value = format!("{value}, rewritten");
            self.apply(&[(new, key, Op::Put(value.as_bytes())), (old, key, Op::Clear)]).await;
        }
    }
}

/// The key group of a key, whatever the parallelism.
fn group(key: &str) -> u32 {
    key.bytes().fold(7, |hash: u32, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % 128
}

fn start(world: &World, inner: InnerBackend, seed: u64) -> Daemon {
    Daemon::start(world, Settings::on_request(inner, seed))
}

/// One whose backends have a changelog or not.
fn start_logging(world: &World, inner: InnerBackend, seed: u64, changelog: bool) -> Daemon {
    let mut settings = Settings::on_request(inner, seed);
    settings.options.changelog = changelog;
    Daemon::start(world, settings)
}

fn version(version: u32) -> StateDescriptor {
    let mut descriptor = StateDescriptor::new("a", StateKind::Value);
    descriptor.schema.value = Serializer { id: "row".to_owned(), version };
    descriptor
}

fn rows(from: usize, to: usize) -> BTreeMap<String, String> {
    (from..to).map(|row| (format!("key {row}"), format!("row {row}"))).collect()
}

fn rewritten(rows: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    rows.iter().map(|(key, value)| (key.clone(), format!("{value}, rewritten"))).collect()
}

async fn every_difference_is_refused_with_both_sides_after_a_restore_too(inner: InnerBackend) {
    let world = World::new();
    let daemon = start(&world, inner, 1);
    let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
    owner.register(&version(1), None).await;
    owner.checkpoint(1).await;
    let owner = Owner::open(&daemon, 2, RestoreFrom::Id(1)).await;
    let mut cases = vec![
        (StateDescriptor { kind: StateKind::Map, ..version(1) }, "kind Value", "kind Map"),
        (version(1).with_merge(MergeFunction::Append), "merge none", "merge Append"),
        (version(2), "`row` version 1", "`row` version 2"),
    ];
    let operator = StateDescriptor { redistribution: Some(Redistribution::Broadcast), ..version(1) };
    if owner.try_register(&operator, None).await.unwrap_err().reason != Reason::Unsupported {
        let operator = StateDescriptor { kind: StateKind::Map, ..operator };
        cases.push((operator, "kind Value", "redistribution Broadcast"));
    }
    for field in ["key", "namespace"] {
        let mut other = version(1);
        let serializer = Serializer { id: "other".to_owned(), version: 4 };
        if field == "key" {
            other.schema.key = serializer
        } else {
            other.schema.namespace = serializer
        }
        cases.push((other, "none", "`other` version 4"));
    }
    for (other, one_side, other_side) in cases {
        let error = owner.try_register(&other, None).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains(one_side) && error.message.contains(other_side), "{error}");
    }
    assert_eq!(owner.register(&version(1), None).await.id, StateId(1), "nothing was changed");
}

async fn a_restore_gives_back_the_descriptor_of_its_cut_along_every_branch(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let daemon = start_logging(&world, inner, 1, changelog);
    let compatible = Some(SchemaMode::Compatible);
    let (old, new, all) = (rows(0, 50), rows(50, 100), rows(0, 100));
    let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
    let state = owner.register(&version(1), None).await.id;
    owner.put(state, &old).await;
    owner.checkpoint(1).await;
    assert_eq!(owner.register(&version(2), compatible).await.id, state);
    owner.materialize().await;
    owner.put(state, &new).await;
    owner.checkpoint(2).await;
    let owner = Owner::open(&daemon, 2, RestoreFrom::Id(1)).await;
    assert_eq!(owner.told(), [(1, version(1), None)], "before the change");
    assert_eq!(owner.get(state, &all).await, old);
    let defaulted = StateDescriptor { default_value: bytes::Bytes::from_static(b"none"), ..version(1) };
    assert_eq!(owner.register(&defaulted, None).await.id, state, "the branch changes otherwise");
    owner.checkpoint(3).await;
    for (attempt, id, descriptor, found) in
        [(3, 2, version(2), &all), (4, 3, defaulted, &old), (5, 1, version(1), &old), (6, 2, version(2), &all)]
    {
        let owner = Owner::open(&daemon, attempt, RestoreFrom::Id(id)).await;
        assert_eq!(owner.told(), [(1, descriptor.clone(), None)], "checkpoint {id}");
        assert_eq!(&owner.get(state, found).await, found);
        assert!(owner.try_register(&version(9), None).await.is_err());
        assert_eq!(owner.register(&descriptor, None).await.id, state);
        assert_eq!(owner.backend.outline().states[0].state.descriptor, descriptor);
    }
}

async fn a_migration_goes_on_after_a_crash_in_its_middle(inner: InnerBackend, changelog: bool) {
    for materialized in [false, true] {
        let world = World::new();
        let daemon = start_logging(&world, inner, 1, changelog);
        let migrate = Some(SchemaMode::Migrate);
        let rows = rows(0, 30);
        let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
        let old = owner.register(&version(1), None).await.id;
        owner.put(old, &rows).await;
        owner.checkpoint(1).await;
        let state = owner.register(&version(2), migrate).await;
        assert_eq!(state.migrating_from, Some(old));
        let new = state.id;
        owner.rewrite((old, new), &rows, 10).await;
        if materialized {
            owner.materialize().await;
        }
        owner.checkpoint(2).await;
        owner.rewrite((old, new), &rows, 10).await;
        daemon.crash();
        let daemon = start_logging(&world, inner, 2, changelog);
        let owner = Owner::open(&daemon, 2, RestoreFrom::Id(2)).await;
        assert_eq!(owner.told(), [(1, version(1), None), (2, version(2), Some(1))]);
        assert_eq!(owner.get(old, &rows).await.len(), 20);
        let declared = if materialized { migrate } else { None };
        assert_eq!(owner.register(&version(2), declared).await.migrating_from, Some(old));
        owner.rewrite((old, new), &rows, 100).await;
        owner.checkpoint(3).await;
        assert_eq!(owner.register(&version(2), declared).await, RegisteredState { migrating_from: None, ..state });
        owner.checkpoint(4).await;
        for (attempt, id, states) in [(3, 4, 1), (4, 3, 2), (5, 1, 1), (6, 4, 1)] {
            let owner = Owner::open(&daemon, attempt, RestoreFrom::Id(id)).await;
            assert_eq!(owner.told().len(), states, "checkpoint {id}");
            let (state, expected) = if id == 1 { (old, rows.clone()) } else { (new, rewritten(&rows)) };
            assert_eq!(owner.get(state, &rows).await, expected);
        }
        let owner = Owner::open(&daemon, 7, RestoreFrom::Id(4)).await;
        let refused = Operation { state: old, key_group: Some(0), key: b"k", namespace: b"", op: Op::Put(b"v") };
        let refused = owner.backend.apply_batch(owner.backend.epoch(), None, 10, &[refused]).await.unwrap_err();
        assert_eq!(refused.reason, Reason::UnknownState, "nobody writes to the old state");
    }
}

async fn a_default_value_is_told_where_there_is_none_and_may_change(inner: InnerBackend) {
    let world = World::new();
    let daemon = start(&world, inner, 1);
    let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
    let with = |value: &'static [u8]| StateDescriptor { default_value: bytes::Bytes::from_static(value), ..version(1) };
    let state = owner.register(&with(b"zero"), None).await.id;
    let got = owner.apply(&[(state, "k", Op::Get)]).await;
    assert_eq!(got, [Some(Answer::Default(bytes::Bytes::from_static(b"zero")))]);
    let got = owner.apply(&[(state, "k", Op::Put(b"one")), (state, "k", Op::Get)]).await;
    assert_eq!(got, [Some(Answer::Value(Some(bytes::Bytes::from_static(b"one"))))]);
    owner.checkpoint(1).await;
    let owner = Owner::open(&daemon, 2, RestoreFrom::Id(1)).await;
    assert_eq!(owner.told(), [(1, with(b"zero"), None)], "by the log alone");
    owner.register(&with(b"none"), None).await;
    let got = owner.apply(&[(state, "other", Op::Get)]).await;
    assert_eq!(got, [Some(Answer::Default(bytes::Bytes::from_static(b"none")))]);
}

on_both! {
    every_difference_is_refused_with_both_sides_after_a_restore_too:
        super::every_difference_is_refused_with_both_sides_after_a_restore_too;
    a_restore_gives_back_the_descriptor_of_its_cut_along_every_branch: |inner| {
        super::a_restore_gives_back_the_descriptor_of_its_cut_along_every_branch(inner, true)
    };
    a_restore_without_changelog_gives_back_the_descriptor_of_its_cut: |inner| {
        super::a_restore_gives_back_the_descriptor_of_its_cut_along_every_branch(inner, false)
    };
    a_migration_goes_on_after_a_crash_in_its_middle: |inner| {
        super::a_migration_goes_on_after_a_crash_in_its_middle(inner, true)
    };
    a_migration_without_changelog_goes_on_after_a_crash_in_its_middle: |inner| {
        super::a_migration_goes_on_after_a_crash_in_its_middle(inner, false)
    };
    a_default_value_is_told_where_there_is_none_and_may_change:
        super::a_default_value_is_told_where_there_is_none_and_may_change;
}
