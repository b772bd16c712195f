//! Tests of the backend on local disk.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::{
    state::{
        conformance,
        folder::Folders,
        ttl::{REMOVED, stamp},
    },
    types::KeyGroup,
};

const VALUE: StateId = StateId(1);
const MAP: StateId = StateId(2);
const LIST: StateId = StateId(300);
const TIMER: StateId = StateId(301);

/// Resources in a folder that is removed with them.
struct Home {
    resources: Resources,
    _root: tempfile::TempDir,
}

fn home(options: ResourceOptions) -> Home {
    let root = tempfile::tempdir().unwrap();
    let folders = Folders::new(&[root.path().to_owned()], Uuid::from_u128(1)).unwrap();
    Home { resources: Resources::new(options, folders).unwrap(), _root: root }
}

fn small() -> Home {
    home(ResourceOptions { memory_bytes: 16 << 20, ..ResourceOptions::default() })
}

fn range(first: u32, last: u32) -> KeyGroupRange {
    KeyGroupRange::new(first, last).unwrap()
}

fn backend(home: &Home, key_groups: KeyGroupRange) -> RocksDbBackend {
    let mut backend = RocksDbBackend::new(&home.resources, key_groups, 128).unwrap();
    for (state, kind) in
        [(VALUE, StateKind::Value), (MAP, StateKind::Map), (LIST, StateKind::List), (TIMER, StateKind::Timer)]
    {
        backend.register(state, &StateDescriptor::new("", kind));
    }
    backend
}

/// An address in the void namespace that owns its key.
#[derive(Clone, Copy)]
struct Spot {
    state: StateId,
    key_group: KeyGroup,
    key: [u8; 4],
}

impl Spot {
    fn address(&self) -> Address<'_> {
        Address { state: self.state, key_group: self.key_group, key: &self.key, namespace: b"" }
    }
}

fn at(state: StateId, key: u32) -> Spot {
    Spot { state, key_group: KeyGroup(u16::try_from(key % 128).unwrap()), key: key.to_be_bytes() }
}

fn apply(backend: &mut RocksDbBackend, spot: Spot, action: Action<'_>) {
    backend.apply(&Change { at: spot.address(), action }).unwrap();
}

fn fill(backend: &mut RocksDbBackend, keys: impl Iterator<Item = u32>) {
    for key in
        keys.filter(|key| backend.key_groups.contains(KeyGroup(u16::try_from(key % 128).unwrap()))).collect::<Vec<_>>()
    {
        apply(backend, at(VALUE, key), Action::Put(&key.to_le_bytes()));
        apply(backend, at(MAP, key), Action::MapPut { map_key: b"", value: b"empty" });
        apply(backend, at(MAP, key), Action::MapPut { map_key: b"m", value: &key.to_le_bytes() });
        apply(backend, at(LIST, key), Action::ListPut { index: 0, element: b"first" });
        apply(backend, at(LIST, key), Action::ListPut { index: 1, element: &key.to_le_bytes() });
        apply(backend, at(TIMER, key), Action::TimerPut { time: (key % 1_000).into() });
        apply(backend, at(TIMER, key), Action::TimerPut { time: -i64::from(key) });
    }
}

/// Everything in the backend, as changes in order of their places.
fn contents(backend: &RocksDbBackend) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for shard in &backend.shards {
        shard
            .scan_range(&[], None, &mut |key, value| {
                assert!(contents.insert(key.to_vec(), value.to_vec()).is_none());
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
    }
    contents
}

fn same_ids() -> StateIds {
    [VALUE, MAP, LIST, TIMER].map(|id| (id, id)).into()
}

/// One home for each timer service.
fn homes() -> [Home; 2] {
    [TimerService::RocksDb, TimerService::Heap]
        .map(|timers| home(ResourceOptions { memory_bytes: 16 << 20, timers, ..ResourceOptions::default() }))
}

#[test]
fn conforms() {
    let home = small();
    conformance::all(&|range| Box::new(RocksDbBackend::new(&home.resources, range, 20).unwrap()));
}

#[test]
fn conforms_with_timers_on_the_heap() {
    let [_, home] = homes();
    let factory: conformance::Factory<'_> = &|range| Box::new(RocksDbBackend::new(&home.resources, range, 20).unwrap());
    conformance::CHECKS.iter().filter(|(name, _)| name.contains("timer")).for_each(|(_, check)| check(factory));
    conformance::model::random_operations_equal_the_model_in(factory, 8);
}

#[test]
fn timers_of_images_fire_in_order_whatever_kept_them_before() {
    let homes = homes();
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut original = backend(&homes[from], range(0, 127));
        fill(&mut original, 0..3_000);
        for key in (0..3_000).step_by(3) {
            apply(&mut original, at(TIMER, key), Action::TimerRemove { time: -i64::from(key) });
        }
        let mut restored = backend(&homes[to], range(20, 95));
        assert!(pages(&restored, 10).is_empty());
        for part in 0..4 {
            let image = original.image(part).unwrap();
            restored.load(image, &same_ids()).unwrap();
        }
        // Part 1 is adopted, parts 0 and 2 are copied.
        let key = at(TIMER, 2_004);
        apply(&mut restored, key, Action::TimerPut { time: -7_000 });
        apply(&mut restored, key, Action::TimerRemove { time: 4 });
        let is_here = |key: &u32| (20..=95).contains(&(key % 128));
        let times = |key: u32| {
            [(i64::from(key % 1_000), key), (-i64::from(key), key)]
                .into_iter()
                .filter(|(time, key)| !(*time <= 0 && key % 3 == 0 && (*time < 0 || *key == 0)))
        };
        let mut expected: Vec<_> =
            (0..3_000).filter(is_here).flat_map(times).filter(|timer| *timer != (4, 2_004)).collect();
        expected.push((-7_000, 2_004));
        expected.sort_by_key(|(time, key)| (*time, key.to_be_bytes()));
        expected.dedup();
        for limit in [7, 10_000] {
            assert_eq!(pages(&restored, limit), expected, "{from} {to}");
        }
        assert_eq!(restored.entries(TIMER).unwrap(), expected.len() as u64);
    }
}

/// Times and keys of all timers, in pages of so many.
fn pages(backend: &RocksDbBackend, entries: usize) -> Vec<(i64, u32)> {
    let mut all: Vec<(i64, u32, KeyGroup)> = vec![];
    loop {
        let last = all.last().map(|(time, key, group)| (*time, key.to_be_bytes(), *group));
        let after = last.as_ref().map(|(time, key, key_group)| TimerRef {
            time: *time,
            key,
            namespace: b"",
            key_group: *key_group,
        });
        let limit = PageLimit { entries, bytes: usize::MAX };
        let mut read = |timer: TimerRef<'_>| {
            all.push((timer.time, u32::from_be_bytes(timer.key.try_into().unwrap()), timer.key_group));
        };
        if !backend.timer_page(TIMER, after, i64::MAX, limit, &mut read).unwrap() {
            return all.into_iter().map(|(time, key, _)| (time, key)).collect();
        }
    }
}

#[test]
fn random_operations_equal_the_model() {
    let home = small();
    let factory: conformance::Factory<'_> = &|range| Box::new(RocksDbBackend::new(&home.resources, range, 40).unwrap());
    conformance::model::random_operations_equal_the_model_in(factory, 24);
}

#[test]
fn equals_the_model_as_time_passes() {
    let home = small();
    let factory: conformance::Factory<'_> = &|range| Box::new(RocksDbBackend::new(&home.resources, range, 40).unwrap());
    conformance::aging::random_operations_equal_the_model(factory, 24);
}

#[test]
fn an_image_of_a_whole_part_is_adopted_and_its_files_keep_their_names() {
    let home = small();
    let mut original = backend(&home, range(0, 31));
    fill(&mut original, 0..2_000);
    let expected = contents(&original);
    let image = original.image(0).unwrap();
    fill(&mut original, 2_000..2_100);
    apply(&mut original, at(VALUE, 0), Action::Clear);
    let files = image.files.clone();
    let mut restored = backend(&home, range(0, 31));
    restored.set_stamp(7);
    assert_eq!(restored.load(image, &same_ids()).unwrap(), Loaded::Adopted(0));
    assert_eq!(contents(&restored), expected, "without what came later");
    fill(&mut restored, 5_000..5_100);
    let next = restored.image(0).unwrap();
    let tables: Vec<_> = files.iter().filter(|file| file.name.ends_with(".sst")).collect();
    assert!(!tables.is_empty() && tables.iter().all(|file| next.files.contains(file)), "{tables:?} {:?}", next.files);
}

#[test]
fn images_are_copied_into_other_parts_by_range_and_by_id() {
    let home = small();
    let mut original = backend(&home, range(0, 127));
    fill(&mut original, 0..3_000);
    let images: Vec<_> = (0..4).map(|part| original.image(part).unwrap()).collect();
    let mut narrow = backend(&home, range(20, 70));
    for image in images {
        narrow.load(image, &same_ids()).unwrap();
    }
    let mut expected = backend(&home, range(20, 70));
    fill(&mut expected, 0..3_000);
    assert_eq!(contents(&narrow), contents(&expected));
    // Other ids, and a state that does not exist.
    let swapped: StateIds = [(VALUE, StateId(9)), (LIST, LIST), (TIMER, StateId(10))].into();
    let mut renamed = backend(&home, range(20, 70));
    renamed.register(StateId(9), &StateDescriptor::new("", StateKind::Value));
    renamed.register(StateId(10), &StateDescriptor::new("", StateKind::Timer));
    for part in 0..3 {
        renamed.load(narrow.image(part).unwrap(), &swapped).unwrap();
    }
    let count = |backend: &RocksDbBackend, state| backend.entries(state).unwrap();
    assert_eq!(count(&renamed, StateId(9)), count(&expected, VALUE));
    assert_eq!(count(&renamed, LIST), count(&expected, LIST));
    assert_eq!(count(&renamed, StateId(10)), count(&expected, TIMER));
    assert_eq!((count(&renamed, VALUE), count(&renamed, MAP), count(&renamed, TIMER)), (0, 0, 0));
    assert_eq!(count(&expected, MAP), 2 * count(&expected, VALUE));
    fill(&mut expected, 3_000..20_000);
    let stopped = expected.counting()(&mut || false).unwrap();
    assert!(!stopped.complete && stopped.entries.values().sum::<u64>() > 1_000, "nobody counts on: {stopped:?}");
}

#[test]
fn an_image_is_read_into_any_backend_as_changes() {
    let home = small();
    let mut original = backend(&home, range(0, 31));
    fill(&mut original, 0..1_000);
    let mut rebuilt = backend(&home, range(0, 31));
    let kind = |state| original.kind(state).ok();
    let image = original.shards[0].image().unwrap();
    home.resources.read(image, range(0, 31), &kind, &mut |change| rebuilt.apply(change)).unwrap();
    assert_eq!(contents(&rebuilt), contents(&original));
}

#[test]
fn a_giant_map_is_cleared_whole_and_only_it() {
    let home = small();
    let mut backend = backend(&home, range(0, 31));
    let giant = |state, key: u32| at(state, key);
    for i in 0..2_000_u32 {
        apply(&mut backend, giant(MAP, 1), Action::MapPut { map_key: &i.to_be_bytes(), value: b"v" });
        apply(&mut backend, giant(LIST, 1), Action::ListPut { index: i.into(), element: b"e" });
    }
    fill(&mut backend, [0, 2].into_iter());
    let before = contents(&backend);
    for state in [MAP, LIST] {
        apply(&mut backend, giant(state, 1), Action::Clear);
    }
    let others: BTreeMap<_, _> = before
        .into_iter()
        .filter(|(key, _)| {
            key::head(key).unwrap().state == TIMER || key::parse(key).unwrap().at.key != 1_u32.to_be_bytes()
        })
        .collect();
    assert_eq!(contents(&backend), others);
    apply(&mut backend, giant(LIST, 1), Action::ListPut { index: 0, element: b"again" });
    assert_eq!(backend.entries(LIST).unwrap(), 5);
}

#[test]
fn options_are_checked_by_name_and_value() {
    let root = tempfile::tempdir().unwrap();
    let with = |name: &str, value: &str| {
        let folders = Folders::new(&[root.path().to_owned()], Uuid::new_v4()).unwrap();
        let overrides = [(name.to_owned(), value.to_owned())].into();
        Resources::new(ResourceOptions { overrides, ..ResourceOptions::default() }, folders)
    };
    for (name, value) in [("max_open_files", "500"), ("compression", "kZSTD"), ("write_buffer_size", "8388608")] {
        let resources = with(name, value).unwrap();
        RocksDbBackend::new(&resources, range(0, 3), 4).unwrap();
    }
    for (name, value) in [("max_opened_files", "500"), ("max_open_files", "many"), ("a;b", "1")] {
        let error = with(name, value).unwrap_err();
        assert!(matches!(error, StateError::Local(_)), "{name} {error}");
    }
    for predefined in
        [PredefinedOptions::SpinningDisk, PredefinedOptions::SpinningDiskHighMemory, PredefinedOptions::FlashSsd]
    {
        let home = home(ResourceOptions { predefined, ..ResourceOptions::default() });
        let mut backend = backend(&home, range(0, 127));
        fill(&mut backend, 0..100);
        assert_eq!(backend.entries(VALUE).unwrap(), 100);
    }
}

#[test]
fn memory_is_shared_and_counted_once() {
    let home = small();
    let mut backends = [backend(&home, range(0, 63)), backend(&home, range(64, 127))];
    for backend in &mut backends {
        // More than the buffer takes.
        fill(backend, 0..40_000);
        assert!(backend.memory_bytes() <= 8 << 20, "only the write buffers");
        assert!(backend.bytes() > 100_000);
    }
    let used = home.resources.memory_bytes();
    assert!(used > 0 && used < 20 << 20, "{used} bytes");
    assert!(home.resources.memtable_bytes() <= used);
    assert!(home.resources.property("estimate-num-keys") > 0);
}

/// A backend with entries that were touched at 100 and live for 10.
fn aging_backend(home: &Home, update: impl Fn(StateKind) -> crate::types::TtlCleanup) -> RocksDbBackend {
    let mut backend = RocksDbBackend::new(&home.resources, range(0, 31), 128).unwrap();
    for (state, kind) in [(VALUE, StateKind::Value), (MAP, StateKind::Map), (LIST, StateKind::List)] {
        let ttl = Ttl { cleanup: update(kind), ..Ttl::new(10) };
        backend.register(state, &StateDescriptor { ttl: Some(ttl), ..StateDescriptor::new("", kind) });
    }
    let (old, new) = (stamp(100, b"old"), stamp(105, b"new"));
    for (key, value) in [(0, &old), (1, &new)] {
        apply(&mut backend, at(VALUE, key), Action::Put(value));
    }
    for (map_key, value) in [(&b"a"[..], &old), (b"b", &new), (b"c", &old)] {
        apply(&mut backend, at(MAP, 2), Action::MapPut { map_key, value });
    }
    for (index, element) in [(0, &old), (1, &new), (2, &old)] {
        apply(&mut backend, at(LIST, 3), Action::ListPut { index, element });
    }
    backend
}

fn compact(backend: &RocksDbBackend) {
    for shard in &backend.shards {
        shard.hand_on().unwrap();
        shard.database().flush().unwrap();
        shard.database().compact_range(None::<&[u8]>, None::<&[u8]>);
    }
}

#[test]
fn compactions_leave_out_what_was_expired_at_the_last_batch() {
    let home = small();
    let mut backend = aging_backend(&home, |_| crate::types::TtlCleanup::default());
    let expired = || home.resources.expired().load(std::sync::atomic::Ordering::Relaxed);
    let all = contents(&backend);
    // Older versions below must not reappear.
    compact(&backend);
    backend.set_time(109);
    compact(&backend);
    assert_eq!((contents(&backend), expired()), (all.clone(), 0));
    backend.set_time(110);
    compact(&backend);
    assert_eq!(contents(&backend).len(), all.len() - 3);
    assert_eq!(expired(), 5);
    let elements = |backend: &RocksDbBackend| {
        let spot = at(LIST, 3);
        let (mut elements, limit) = (vec![], PageLimit { entries: 10, bytes: 1_000 });
        let at = spot.address();
        backend.list_page(at, 0, limit, &mut |element| elements.push(element.to_vec())).unwrap();
        assert_eq!(backend.len(at).unwrap(), elements.len() as u64);
        elements
    };
    let new = stamp(105, b"new");
    assert_eq!(elements(&backend), [REMOVED, &new[..], REMOVED]);
    // A replay finds the elements at their places.
    apply(&mut backend, at(LIST, 3), Action::ListPut { index: 0, element: &new });
    apply(&mut backend, at(LIST, 3), Action::ListPut { index: 3, element: &new });
    assert_eq!(elements(&backend), [&new[..], &new, REMOVED, &new]);
    backend.set_time(115);
    compact(&backend);
    assert_eq!(elements(&backend), [REMOVED; 4]);
    assert_eq!(contents(&backend).len(), 5, "the list alone");
    compact(&backend);
    assert_eq!(expired(), 5 + 5);
}

#[test]
fn compactions_keep_what_no_state_wants_to_be_cleaned_up() {
    let home = small();
    let without = crate::types::TtlCleanup { compaction: None, ..crate::types::TtlCleanup::default() };
    let cleanup = |kind| if kind == StateKind::Map { crate::types::TtlCleanup::default() } else { without };
    let mut backend = aging_backend(&home, cleanup);
    let all = contents(&backend);
    backend.set_time(1_000);
    compact(&backend);
    assert_eq!(contents(&backend).len(), all.len() - 3, "the map alone");
    // A changed TTL applies from then on, in a loaded image, too.
    let image = backend.image(0).unwrap();
    let mut loaded = RocksDbBackend::new(&home.resources, range(0, 31), 128).unwrap();
    loaded.register(
        VALUE,
        &StateDescriptor { ttl: Some(Ttl::new(10_000)), ..StateDescriptor::new("", StateKind::Value) },
    );
    loaded.register(MAP, &StateDescriptor::new("", StateKind::Map));
    loaded.register(LIST, &StateDescriptor::new("", StateKind::List));
    loaded.set_time(1_000);
    assert_eq!(loaded.load(image, &same_ids()).unwrap(), Loaded::Adopted(0));
    compact(&loaded);
    assert_eq!(contents(&loaded).len(), all.len() - 3);
    loaded.set_ttl(VALUE, Ttl::new(896));
    compact(&loaded);
    assert_eq!(contents(&loaded).len(), all.len() - 4, "one lives on");
    assert_eq!(loaded.periodic_seconds, 30 * 24 * 3600);
}

#[test]
fn marks_equal_copies_of_the_model() {
    let home = small();
    crate::state::undo::tests::marks_equal_copies_of_the_model(
        &|range| Box::new(RocksDbBackend::new(&home.resources, range, 128).unwrap()),
        40,
    );
}

/// Number of tombstones that a read walks over.
fn walked(read: impl FnOnce()) -> u64 {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    read();
    let walked = context.metric(PerfMetric::InternalDeleteSkippedCount);
    set_perf_stats(PerfStatsLevel::Disable);
    walked
}

/// A map, a list and the keys of a value state, in which `churn` adds and removes entries.
fn churned(churn: impl Fn(&mut RocksDbBackend, u32)) {
    let home = small();
    let mut backend = backend(&home, range(0, 31));
    // An entry that always exists, behind all others.
    apply(&mut backend, at(MAP, 2), Action::MapPut { map_key: b"\xff", value: b"last" });
    apply(&mut backend, at(VALUE, 31), Action::Put(b"last"));
    let first = PageLimit { entries: 1, bytes: 1 << 20 };
    for round in 0..20 {
        churn(&mut backend, round);
        let read = || {
            let (map, list) = (at(MAP, 2), at(LIST, 2));
            let (mut entries, mut elements, mut names) = (0, 0, 0);
            backend.map_page(map.address(), MapKeys::default(), first, &mut |_, _| entries += 1).unwrap();
            backend.list_page(list.address(), 0, first, &mut |_| elements += 1).unwrap();
            for group in range(0, 31).iter() {
                backend.name_page(VALUE, group, None, first, &mut |_, _| names += 1).unwrap();
            }
            assert_eq!((entries, elements, names, backend.len(map.address()).unwrap()), (1, 0, 1, 1));
        };
        read();
        let walked = walked(read);
        assert!(walked < 4 * gaps::WORTH, "{walked} tombstones in round {round}");
    }
}

/// The keys that one round of [`churned`] adds.
fn keys(round: u32) -> impl DoubleEndedIterator<Item = [u8; 4]> {
    (0..2_000_u32).map(move |n| (round * 10_000 + n).to_be_bytes())
}

#[test]
fn queues_are_read_without_walking_over_what_left_them() {
    churned(|backend, round| {
        for (index, map_key) in (0..).zip(keys(round)) {
            apply(backend, at(MAP, 2), Action::MapPut { map_key: &map_key, value: b"value" });
            apply(backend, Spot { state: VALUE, key_group: KeyGroup(2), key: map_key }, Action::Put(b"value"));
            apply(backend, at(LIST, 2), Action::ListPut { index, element: b"element" });
        }
        for map_key in keys(round) {
            apply(backend, at(MAP, 2), Action::MapRemove { map_key: &map_key });
            apply(backend, Spot { state: VALUE, key_group: KeyGroup(2), key: map_key }, Action::Clear);
        }
        apply(backend, at(LIST, 2), Action::Clear);
    });
}

#[test]
fn stacks_are_read_without_walking_over_what_left_them() {
    churned(|backend, _| {
        for map_key in keys(0) {
            apply(backend, at(MAP, 2), Action::MapPut { map_key: &map_key, value: b"value" });
            apply(backend, Spot { state: VALUE, key_group: KeyGroup(2), key: map_key }, Action::Put(b"value"));
        }
        for map_key in keys(0).rev() {
            apply(backend, at(MAP, 2), Action::MapRemove { map_key: &map_key });
            apply(backend, Spot { state: VALUE, key_group: KeyGroup(2), key: map_key }, Action::Clear);
        }
    });
}

/// A restore writes as fast as it reads. RocksDB alone lets memtables that wait for the disk pile up.
#[test]
fn memtables_stay_near_their_limit_however_fast_writes_come() {
    let home = small();
    let mut backend = backend(&home, range(0, 127));
    let limit = (16 << 20) / 3;
    let (mut value, mut most) = (vec![0; 4 << 10], 0);
    for key in 0..30_000_u32 {
        // Nothing that compression or the buffer would make smaller.
        value[..4].copy_from_slice(&key.wrapping_mul(0x9e37_79b9).to_le_bytes());
        apply(&mut backend, at(VALUE, key), Action::Put(&value));
        if key % 64 == 0 {
            backend.finish_batch().unwrap();
            most = most.max(home.resources.memtable_bytes());
        }
    }
    assert!(most > limit / 2 && most < 3 * limit, "{most} bytes of memtables where {limit} are the limit");
}

#[test]
fn a_row_in_memory_is_always_that_of_the_database() {
    use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

    // So few rows have room that the young ones take the place of the old ones again and again.
    let home = home(ResourceOptions { memory_bytes: 512 << 10, ..ResourceOptions::default() });
    let shard = Shard::create(&home.resources, range(0, 127), &Expiry::new(home.resources.expired().clone())).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut model: BTreeMap<[u8; 3], Vec<u8>> = BTreeMap::new();
    let (mut most, mut found) = (0, 0);
    for _ in 0..200_000 {
        // A prefix has more keys than a clear writes single tombstones for.
        let key: [u8; 3] = [random.random_range(0..2), random.random_range(0..6), random.random()];
        match random.random_range(0..10_000) {
            0..2 => {
                shard.clear(&key[..1]).unwrap();
                model.retain(|other, _| other[0] != key[0]);
            }
            2..50 => shard.hand_on().unwrap(),
            50..3_000 => {
                let mut value = vec![0; if random.random_bool(0.8) { 8 } else { random.random_range(0..300) }];
                random.fill_bytes(&mut value);
                shard.put(&key, Some(1), &value);
                model.insert(key, value);
            }
            3_000..4_000 => {
                shard.delete(&key, Some(1));
                model.remove(&key);
            }
            _ => {
                let stored = shard.get(&key, |stored| stored.map(<[u8]>::to_vec)).unwrap();
                assert_eq!(stored.as_ref(), model.get(&key), "{key:?}");
                found += usize::from(stored.is_some());
            }
        }
        most = most.max(home.resources.rows_bytes());
    }
    assert!(found > 40_000, "{found} reads of entries");
    assert!((32 << 10..192 << 10).contains(&most), "{most} bytes of rows, of which 128 KiB are allowed");
    drop(shard);
    assert_eq!(home.resources.rows_bytes(), 0);
}
