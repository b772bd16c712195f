//! Tests of moving entries between inner states, in batches.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::*;
use crate::{
    backend::table::register::has_entries,
    state::{conformance::Factory, hashmap::HashMapBackend},
    types::{StateDescriptor, StateId},
};

const FROM: StateId = StateId(1);
const TO: StateId = StateId(2);
const NOW: TimeMs = 1_000;

fn range() -> KeyGroupRange {
    KeyGroupRange::new(0, 3).unwrap()
}

fn on_each(test: impl Fn(Factory<'_>)) {
    test(&|range| Box::new(HashMapBackend::new(range)));
    #[cfg(feature = "rocksdb")]
    {
        use crate::state::{
            folder::Folders,
            image::LocalBackends as _,
            rocksdb::{ResourceOptions, Resources},
        };
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(&[root.path().to_owned()], uuid::Uuid::from_u128(1)).unwrap();
        let resources = Resources::new(ResourceOptions::default(), folders).unwrap();
        test(&|range| resources.create(range, 128).unwrap());
    }
}

fn backend(factory: Factory<'_>, kind: StateKind) -> Box<dyn StateBackend> {
    let mut inner = factory(range());
    for state in [FROM, TO] {
        inner.register(state, &StateDescriptor::new("s", kind));
    }
    inner
}

fn at(state: StateId, key: &[u8]) -> Address<'_> {
    Address { state, key_group: KeyGroup(u16::from(key[0]) % 4), key, namespace: b"w" }
}

fn apply(inner: &mut dyn StateBackend, state: StateId, key: &[u8], action: Action<'_>) {
    inner.apply(&Change { at: at(state, key), action }).unwrap();
}

/// Moves all entries in batches of at most `entries`; returns how many changes each batch logged.
fn move_all(inner: &mut dyn StateBackend, kind: StateKind, rewrite: Rewrite, entries: usize) -> Vec<usize> {
    let of = Move { from: FROM, to: TO, kind, rewrite };
    let mut cursor = Cursor { group: Some(range().first()), after: None };
    let mut batches = vec![];
    while cursor.group.is_some() {
        let mut logged = 0;
        let mut log = |_: &Change<'_>| logged += 1;
        let left = PageLimit { entries, ..BATCH };
        Mover { inner: &mut *inner, of, time: NOW, log: &mut log, left }.run(&mut cursor, range()).unwrap();
        inner.finish_batch().unwrap();
        batches.push(logged);
    }
    assert!(!has_entries(inner, FROM, range()).unwrap());
    batches
}

/// All entries of the new state, by key and entry.
fn contents(inner: &dyn StateBackend, kind: StateKind, keys: &[Vec<u8>]) -> BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>> {
    let mut found = BTreeMap::new();
    let all = PageLimit { entries: usize::MAX, bytes: usize::MAX };
    for key in keys {
        let mut add = |entry: Vec<u8>, value: &[u8]| drop(found.insert((key.clone(), entry), value.to_vec()));
        let place = at(TO, key);
        match kind {
            StateKind::Value => {
                inner.value(place, &mut |value| value.into_iter().for_each(|value| add(vec![], value))).unwrap();
            }
            StateKind::Map => {
                inner.map_page(place, MapKeys::default(), all, &mut |entry, value| add(entry.to_vec(), value)).unwrap();
            }
            _ => {
                let mut index = 0_u8;
                inner
                    .list_page(place, 0, all, &mut |value| {
                        add(vec![index], value);
                        index += 1;
                    })
                    .unwrap();
            }
        }
    }
    found
}

#[test]
fn a_move_is_cut_into_batches_and_rewrites_every_entry_of_every_kind() {
    on_each(|factory| {
        for kind in [StateKind::Value, StateKind::Map, StateKind::List] {
            let mut inner = backend(factory, kind);
            let keys: Vec<Vec<u8>> = (0..40_u8).map(|key| vec![key, b'k']).collect();
            let mut expected = BTreeMap::new();
            for key in &keys {
                let entries = if kind == StateKind::Value { 1 } else { 7 };
                for entry in 0..entries {
                    let name = if kind == StateKind::Value { vec![] } else { vec![entry] };
                    let action = match kind {
                        StateKind::Value => Action::Put(b"v"),
                        StateKind::Map => Action::MapPut { map_key: &name, value: b"v" },
                        _ => Action::ListPut { index: entry.into(), element: b"v" },
                    };
                    apply(inner.as_mut(), FROM, key, action);
                    expected.insert((key.clone(), name.clone()), ttl::stamp(NOW, b"v"));
                }
            }
            let batches = move_all(inner.as_mut(), kind, Rewrite::Stamp, 10);
            assert!(batches.len() > 4, "{kind:?}: {batches:?}");
            assert!(batches.iter().all(|changes| *changes <= 24), "{kind:?}: {batches:?}");
            assert_eq!(contents(inner.as_ref(), kind, &keys), expected, "{kind:?}");
        }
    });
}

#[test]
fn what_loses_its_ttl_is_dropped_if_it_is_expired() {
    on_each(|factory| {
        let mut inner = backend(factory, StateKind::List);
        let (old, edge, new) = (ttl::stamp(0, b"old"), ttl::stamp(900, b"edge"), ttl::stamp(901, b"new"));
        for (index, element) in (0..).zip([&new, &old, &edge, &new]) {
            apply(inner.as_mut(), FROM, b"k", Action::ListPut { index, element });
        }
        apply(inner.as_mut(), FROM, b"x", Action::ListPut { index: 0, element: &old });
        move_all(inner.as_mut(), StateKind::List, Rewrite::Strip(100), 10);
        let found = contents(inner.as_ref(), StateKind::List, &[b"k".to_vec(), b"x".to_vec()]);
        assert_eq!(found.into_values().collect::<Vec<_>>(), [b"new", b"new"]);
    });
    assert!(rewritten(Rewrite::Strip(1), 5, &ttl::stamp(9, b"of a later clock")).unwrap().is_some());
    assert!(rewritten(Rewrite::Strip(1), 5, b"short").is_err());
    let removed = ttl::stamp(0, b"");
    assert!(rewritten(Rewrite::Strip(100), 5, &removed).unwrap().is_none(), "however little time has passed");
}

#[test]
fn what_is_in_the_new_state_already_stays_and_lists_are_joined() {
    on_each(|factory| {
        let keys = [b"k".to_vec()];
        let mut inner = backend(factory, StateKind::Map);
        for (state, name, value) in [(FROM, b"1", b"old"), (FROM, b"2", b"old"), (TO, b"2", b"new")] {
            apply(inner.as_mut(), state, b"k", Action::MapPut { map_key: name, value });
        }
        move_all(inner.as_mut(), StateKind::Map, Rewrite::Keep, 10);
        let found: Vec<_> = contents(inner.as_ref(), StateKind::Map, &keys).into_values().collect();
        assert_eq!(found, [b"old", b"new"]);
        let mut inner = backend(factory, StateKind::List);
        for (state, element) in [(FROM, b"moved"), (TO, b"there")] {
            apply(inner.as_mut(), state, b"k", Action::ListPut { index: 0, element });
        }
        move_all(inner.as_mut(), StateKind::List, Rewrite::Keep, 10);
        let found: Vec<_> = contents(inner.as_ref(), StateKind::List, &keys).into_values().collect();
        assert_eq!(found, [b"there", b"moved"]);
    });
}
