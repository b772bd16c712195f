//! TTL that goes on and off: the daemon moves the entries, and goes on with it after a crash.

use dstl::types::Ttl;
use std::sync::atomic::Ordering;

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// Of each kind one state; the rows are its keys, in lists and maps with an entry more.
const KINDS: [StateKind; 3] = [StateKind::Value, StateKind::Map, StateKind::List];

fn lives(kind: StateKind, hours: Option<u64>) -> StateDescriptor {
    let ttl = hours.map(|hours| Ttl::new(hours * HOUR_MS));
    StateDescriptor { ttl, ..StateDescriptor::new(format!("{kind:?}"), kind) }
}

async fn fill(owner: &Owner, kind: StateKind, state: StateId, rows: &BTreeMap<String, String>) {
    let mut operations = vec![];
    for (key, value) in rows {
        let value = value.as_bytes();
        let (one, two): (Op<'_>, Op<'_>) = match kind {
            StateKind::Value => (Op::Put(b"first"), Op::Put(value)),
            StateKind::Map => (Op::MapPut { map_key: b"1", value }, Op::MapPut { map_key: b"2", value: b"second" }),
            _ => (Op::ListAdd(value), Op::ListAdd(b"second")),
        };
        operations.extend([(state, &key[..], one), (state, &key[..], two)]);
    }
    for operations in operations.chunks(200) {
        owner.apply(operations).await;
    }
}

/// How many entries the state has, each of which has to be what was written.
async fn count(owner: &Owner, kind: StateKind, state: StateId, rows: &BTreeMap<String, String>) -> usize {
    let read = |key| match kind {
        StateKind::Value => (state, key, Op::Get),
        StateKind::Map => (state, key, map_entries()),
        _ => (state, key, Op::ListGet { start: 0, token: &[], limit: 0 }),
    };
    let reads: Vec<_> = rows.keys().map(|key| read(&key[..])).collect();
    let mut found = 0;
    for (value, answer) in rows.values().zip(owner.apply(&reads).await) {
        let entries: Vec<Vec<u8>> = match answer {
            Some(Answer::Value(value)) => value.into_iter().map(|value| value.to_vec()).collect(),
            Some(Answer::Entries { entries, .. }) => entries.into_iter().map(|(_, value)| value.to_vec()).collect(),
            Some(Answer::Elements { elements, .. }) => elements.into_iter().map(|element| element.to_vec()).collect(),
            other => panic!("a read answers entries, not {other:?}"),
        };
        let expected = [value.as_bytes().to_vec(), b"second".to_vec()];
        assert_eq!(entries, expected[..entries.len()]);
        found += entries.len();
    }
    found
}

fn map_entries<'a>() -> Op<'a> {
    Op::MapEntries { keys: dstl::state::MapKeys::default(), limit: 0 }
}

async fn ttl_goes_on_and_off_and_on_with_a_crash_in_every_move(inner: InnerBackend) {
    for materialized in [false, true] {
        let world = World::new();
        let mut daemon = start(&world, inner, 1);
        let rows = rows(0, 600);
        let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
        for kind in KINDS {
            let state = owner.register(&lives(kind, None), None).await.id;
            fill(&owner, kind, state, &rows).await;
        }
        owner.checkpoint(1).await;
        let mut restore = 1;
        for (turn, hours) in (1_u64..).zip([Some(1), None, Some(1)]) {
            let owner = Owner::open(&daemon, 10 * turn, RestoreFrom::Id(restore)).await;
            for (nth, kind) in (0_u64..).zip(KINDS) {
                let id = 10 * turn + nth;
                let (wanted, backend) = (lives(kind, hours), &owner.backend);
                let moving = owner.register(&wanted, None);
                let cut = async {
                    tokio::task::yield_now().await;
                    owner.checkpoint(id).await;
                };
                let beside = async {
                    if materialized {
                        owner.materialize().await;
                    }
                };
                let (moved, (), ()) = tokio::join!(moving, cut, beside);
                let expected = if kind == StateKind::Value { rows.len() } else { 2 * rows.len() };
                assert_eq!(count(&owner, kind, moved.id, &rows).await, expected, "{kind:?} {hours:?}");
                assert_eq!(backend.describe().states.len(), 3);
                restore = id;
            }
            daemon.crash();
            daemon = start(&world, inner, turn + 1);
            let owner = Owner::open(&daemon, 10 * turn + 5, RestoreFrom::Id(restore)).await;
            assert_eq!(owner.told().len(), 4, "the cut was in the middle of a move");
            let last = lives(KINDS[2], hours);
            for kind in KINDS {
                let state = owner.register(&lives(kind, hours), None).await.id;
                let expected = if kind == StateKind::Value { rows.len() } else { 2 * rows.len() };
                assert_eq!(count(&owner, kind, state, &rows).await, expected, "{kind:?} {hours:?} after a crash");
            }
            let states = owner.backend.describe().states;
            assert!(states.len() == 3 && states.iter().any(|state| state.state.descriptor == last));
            if materialized {
                owner.materialize().await;
            }
            restore = 10 * turn + 7;
            owner.checkpoint(restore).await;
        }
    }
}

async fn what_was_stamped_expires_by_the_time_of_the_move_and_expired_entries_do_not_come_back(inner: InnerBackend) {
    let world = World::new();
    let daemon = start(&world, inner, 1);
    let rows = rows(0, 20);
    let owner = Owner::open(&daemon, 1, RestoreFrom::Empty).await;
    for kind in KINDS {
        let state = owner.register(&lives(kind, None), None).await.id;
        fill(&owner, kind, state, &rows).await;
    }
    world.time.fetch_add(5 * HOUR_MS, Ordering::Relaxed);
    for kind in KINDS {
        owner.register(&lives(kind, Some(2)), None).await;
    }
    world.time.fetch_add(HOUR_MS, Ordering::Relaxed);
    owner.checkpoint(1).await;
    for (attempt, hours) in [(2, 0), (3, 1)] {
        let owner = Owner::open(&daemon, attempt, RestoreFrom::Id(1)).await;
        world.time.fetch_add(hours * HOUR_MS, Ordering::Relaxed);
        for kind in KINDS {
            let state = owner.register(&lives(kind, None), None).await.id;
            let all = if kind == StateKind::Value { rows.len() } else { 2 * rows.len() };
            let expected = if hours == 0 { all } else { 0 };
            assert_eq!(count(&owner, kind, state, &rows).await, expected, "{kind:?} after {hours} more");
        }
    }
}

on_both! {
    ttl_goes_on_and_off_and_on_with_a_crash_in_every_move
    what_was_stamped_expires_by_the_time_of_the_move_and_expired_entries_do_not_come_back
}
