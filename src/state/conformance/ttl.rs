//! Checks of states with TTL, at times that the checks set.

use std::sync::Arc;

use bytes::Bytes;

use super::{Factory, bench};
use crate::{
    state::{
        Action, Address, Change, MapKeys, StateBackend,
        op::{
            Answer, Op, OpContext, Upkeep, check, execute,
            incremental::{Cursor, Target, clean},
            lists::Cursors,
            scan::Reach,
        },
        ttl::{Lifespan, REMOVED, stamp},
    },
    types::{
        KeyGroup, Limits, MergeFunction, StateDescriptor, StateId, StateKind, TimeMs, Ttl, TtlUpdate, TtlVisibility,
    },
};

/// The TTL of entries in these checks.
pub(super) const LIVES: u64 = 10;

/// The id of the state on a timeline.
const STATE: StateId = StateId(1);

/// A TTL with which reads return expired entries until they are cleaned up.
pub(super) const SHOWN: Ttl = Ttl { visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp, ..plain() };

/// A TTL with which reads touch entries.
pub(super) const READ: Ttl = Ttl { update: TtlUpdate::OnReadAndWrite, ..plain() };

/// A TTL with Flink's defaults.
pub(super) const fn plain() -> Ttl {
    Ttl {
        duration_ms: LIVES,
        update: TtlUpdate::OnCreateAndWrite,
        visibility: TtlVisibility::NeverReturnExpired,
        cleanup: crate::types::TtlCleanup { at_materialization: false, incremental: None, compaction: None },
    }
}

/// A backend with one state, a clock and a log.
pub(super) struct Timeline {
    pub(super) backend: Box<dyn StateBackend>,
    pub(super) descriptor: StateDescriptor,
    pub(super) now: TimeMs,
    log: Vec<(KeyGroup, Vec<u8>)>,
    /// Entries that reads have removed.
    pub(super) removed: u64,
    cursors: Arc<Cursors>,
}

/// An action that owns its bytes.
pub(super) fn bytes_of(action: Action<'_>) -> Vec<u8> {
    let mut out = vec![];
    Change { at: bench::at(STATE, "k"), action }.encode(&mut out);
    out
}

pub(super) fn at<'a>(key: &'a str, namespace: &'a str) -> Address<'a> {
    bench::at_namespace(STATE, key, namespace)
}

impl Timeline {
    pub(super) fn new(factory: Factory<'_>, kind: StateKind, merge: Option<MergeFunction>, ttl: Ttl) -> Self {
        let descriptor = StateDescriptor { ttl: Some(ttl), ..StateDescriptor::new("s", kind).with_merge(merge) };
        let mut backend = factory(bench::range());
        backend.register(STATE, &descriptor);
        Self { backend, descriptor, now: 100, log: vec![], removed: 0, cursors: Arc::default() }
    }

    fn execute(&mut self, at: Address<'_>, op: Op<'_>, upkeep: Option<&Upkeep>) -> Option<Answer> {
        let cursors = Arc::clone(&self.cursors);
        let limits = Limits { max_value_bytes: bench::MAX_VALUE_BYTES, ..Limits::default() };
        check(&op, &at, &self.descriptor, &limits).unwrap();
        let context = OpContext {
            descriptor: &self.descriptor,
            max_value_bytes: bench::MAX_VALUE_BYTES,
            page_bytes: bench::PAGE_BYTES,
            key_groups: bench::range(),
            scope: 7,
            time: self.now,
            upkeep,
            reach: Reach::default(),
            cursors: Some(&cursors),
        };
        self.backend.set_time(self.now);
        let log = &mut self.log;
        let mut keep = |change: &Change<'_>| {
            let mut bytes = vec![];
            change.encode(&mut bytes);
            log.push((change.at.key_group, bytes));
        };
        execute(&mut *self.backend, at, &op, &context, &mut keep).unwrap()
    }

    /// Executes an operation as in a numbered batch.
    pub(super) fn run(&mut self, at: Address<'_>, op: Op<'_>) -> Option<Answer> {
        let upkeep = Upkeep::new(Arc::clone(&self.cursors));
        let answer = self.execute(at, op, Some(&upkeep));
        self.removed += upkeep.removed_entries();
        answer
    }

    /// Executes a read as in a batch without number, which changes nothing.
    pub(super) fn look(&mut self, at: Address<'_>, op: Op<'_>) -> Answer {
        let logged = self.log.len();
        let answer = self.execute(at, op, None).unwrap();
        assert_eq!(self.log.len(), logged, "{op:?} of a batch without number changes nothing");
        answer
    }

    /// Cleans up some entries in turn; returns how many were removed.
    pub(super) fn clean(&mut self, cursor: &mut Cursor, entries: u64) -> u64 {
        let upkeep = Upkeep::new(Arc::clone(&self.cursors));
        let life = Lifespan::new(self.descriptor.ttl.unwrap(), self.now);
        let target = Target { state: STATE, kind: self.descriptor.kind, key_groups: bench::range(), life, entries };
        let log = &mut self.log;
        clean(&mut *self.backend, &target, cursor, &upkeep, &mut |change| {
            let mut bytes = vec![];
            change.encode(&mut bytes);
            log.push((change.at.key_group, bytes));
        })
        .unwrap();
        upkeep.removed_entries()
    }

    /// Asserts that exactly these changes of key `k`, in the void namespace, were logged since the last call.
    pub(super) fn assert_logged(&mut self, expected: &[Action<'_>]) {
        let logged: Vec<_> = std::mem::take(&mut self.log).into_iter().map(|(_, bytes)| bytes).collect();
        let expected: Vec<_> = expected.iter().map(|action| bytes_of(*action)).collect();
        assert_eq!(logged, expected);
    }

    pub(super) fn forget_log(&mut self) {
        self.log.clear();
    }

    pub(super) fn logged(&self) -> usize {
        self.log.len()
    }

    /// A timeline on a fresh backend to which the log was replayed.
    pub(super) fn replayed(&self, factory: Factory<'_>) -> Self {
        let mut replayed =
            Self::new(factory, self.descriptor.kind, self.descriptor.merge, self.descriptor.ttl.unwrap());
        for (group, bytes) in &self.log {
            replayed.backend.apply(&Change::decode(*group, bytes).unwrap()).unwrap();
        }
        replayed.backend.finish_batch().unwrap();
        replayed.now = self.now;
        replayed
    }

    /// The value of `k`, as a batch without number sees it.
    pub(super) fn value(&mut self) -> Option<Bytes> {
        let Answer::Value(value) = self.look(at("k", ""), Op::Get) else { unreachable!("Get answers a value") };
        value
    }

    /// The map keys and values of `k`, as a batch without number sees them.
    pub(super) fn map(&mut self) -> Vec<(Bytes, Bytes)> {
        let answer = self.look(at("k", ""), Op::MapEntries { keys: MapKeys::default(), limit: 0 });
        let Answer::Entries { entries, more: false } = answer else { unreachable!("one page of entries") };
        let count = Answer::Count(entries.len() as u64);
        assert_eq!(self.look(at("k", ""), Op::MapCount), count);
        entries
    }

    /// The elements of `k`, as a batch without number sees them.
    pub(super) fn list(&mut self) -> Vec<Bytes> {
        let answer = self.look(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 0 });
        let Answer::Elements { elements, token: None } = answer else { unreachable!("one page of elements") };
        assert_eq!(self.look(at("k", ""), Op::ListCount), Answer::Count(elements.len() as u64));
        elements
    }
}

fn value(bytes: &'static [u8]) -> Option<Answer> {
    Some(Answer::Value(Some(Bytes::from_static(bytes))))
}

fn entry(key: &'static [u8], value: &'static [u8]) -> (Bytes, Bytes) {
    (Bytes::from_static(key), Bytes::from_static(value))
}

pub(super) fn values_expire_when_their_time_is_over(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::Value, None, plain());
    line.run(at("k", ""), Op::Put(b"v"));
    line.assert_logged(&[Action::Put(&stamp(100, b"v"))]);
    line.now = 109;
    assert_eq!(line.run(at("k", ""), Op::Get), value(b"v"));
    assert_eq!(line.run(at("k", ""), Op::Put(b"w")), None);
    line.assert_logged(&[Action::Put(&stamp(109, b"w"))]);
    line.now = 118;
    assert_eq!(line.run(at("k", ""), Op::Get), value(b"w"));
    line.now = 119;
    assert_eq!(line.value(), None, "hidden, but there");
    assert_eq!(line.backend.len(at("k", "")).unwrap(), 1);
    assert_eq!(line.run(at("k", ""), Op::Get), Some(Answer::Value(None)));
    line.assert_logged(&[Action::Clear]);
    assert_eq!((line.backend.len(at("k", "")).unwrap(), line.removed), (0, 1));
    line.run(at("k", ""), Op::Get);
    line.assert_logged(&[]);
    // Not even near the end of time.
    let mut line = Timeline::new(factory, StateKind::Value, None, Ttl { duration_ms: u64::MAX, ..plain() });
    line.run(at("k", ""), Op::Put(b""));
    line.now = u64::MAX - 1;
    assert_eq!(line.value(), Some(Bytes::new()));
}

pub(super) fn what_is_expired_is_shown_until_it_is_gone(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::Value, None, SHOWN);
    line.run(at("k", ""), Op::Put(b"v"));
    line.now = 1_000;
    assert_eq!(line.value(), Some(Bytes::from_static(b"v")));
    line.forget_log();
    assert_eq!(line.run(at("k", ""), Op::Get), value(b"v"), "once");
    line.assert_logged(&[Action::Clear]);
    assert_eq!(line.value(), None);
    let mut line = Timeline::new(factory, StateKind::Map, None, SHOWN);
    line.run(at("k", ""), Op::MapPut { map_key: b"a", value: b"v" });
    line.now = 105;
    line.run(at("k", ""), Op::MapPut { map_key: b"b", value: b"w" });
    line.now = 110;
    assert_eq!(line.map(), [entry(b"a", b"v"), entry(b"b", b"w")]);
    line.forget_log();
    assert_eq!(line.run(at("k", ""), Op::MapContains { map_key: b"a" }), Some(Answer::Found(true)));
    line.assert_logged(&[Action::MapRemove { map_key: b"a" }]);
    assert_eq!(line.map(), [entry(b"b", b"w")]);
    // A list element keeps its place, without its bytes, until half of the list is gone.
    let mut line = Timeline::new(factory, StateKind::List, None, SHOWN);
    for (now, element) in [(100, &b"a"[..]), (105, b"b"), (106, b"c"), (107, b"d")] {
        line.now = now;
        line.run(at("k", ""), Op::ListAdd(element));
    }
    line.now = 110;
    assert_eq!(line.list(), ["a", "b", "c", "d"]);
    line.forget_log();
    line.run(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 0 });
    line.assert_logged(&[Action::ListPut { index: 0, element: REMOVED }]);
    assert_eq!(line.list(), ["b", "c", "d"]);
}

pub(super) fn reads_touch_where_they_are_told_to(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::Value, None, READ);
    line.run(at("k", ""), Op::Put(b"v"));
    line.forget_log();
    assert_eq!(line.run(at("k", ""), Op::Get), value(b"v"));
    line.assert_logged(&[]);
    for now in [109, 118, 127] {
        line.now = now;
        assert_eq!(line.run(at("k", ""), Op::Get), value(b"v"));
        line.assert_logged(&[Action::Put(&stamp(now, b"v"))]);
    }
    line.now = 136;
    assert_eq!(line.value(), Some(Bytes::from_static(b"v")), "which touches nothing");
    line.now = 137;
    assert_eq!(line.run(at("k", ""), Op::Get), Some(Answer::Value(None)));
    line.assert_logged(&[Action::Clear]);

    let mut line = Timeline::new(factory, StateKind::Map, None, READ);
    for map_key in [&b"a"[..], b"b", b"c", b"d"] {
        line.run(at("k", ""), Op::MapPut { map_key, value: map_key });
    }
    line.now = 105;
    line.forget_log();
    let put = |now, map_key: &'static [u8]| (stamp(now, map_key), map_key);
    line.run(at("k", ""), Op::MapGet { map_key: b"a" });
    line.run(at("k", ""), Op::MapContains { map_key: b"b" });
    line.run(at("k", ""), Op::MapContains { map_key: b"x" });
    line.run(at("k", ""), Op::MapEntries { keys: MapKeys::from(b"c"), limit: 1 });
    line.run(at("k", ""), Op::MapCount);
    let touched = [put(105, b"a"), put(105, b"b"), put(105, b"c")];
    line.assert_logged(&touched.each_ref().map(|(value, map_key)| Action::MapPut { map_key, value }));
    line.now = 110;
    assert_eq!(line.map(), [entry(b"a", b"a"), entry(b"b", b"b"), entry(b"c", b"c")]);

    let mut line = Timeline::new(factory, StateKind::List, None, READ);
    line.run(at("k", ""), Op::ListAddAll(&bench::elements(&["a", "b", "c", "d", "e"])));
    line.now = 105;
    line.forget_log();
    line.run(at("k", ""), Op::ListCount);
    line.run(at("k", ""), Op::ListGet { start: 1, token: &[], limit: 3 });
    let touched = [(1, stamp(105, b"b")), (2, stamp(105, b"c")), (3, stamp(105, b"d"))];
    line.assert_logged(&touched.each_ref().map(|(index, element)| Action::ListPut { index: *index, element }));
    line.now = 110;
    assert_eq!(line.list(), ["b", "c", "d"]);
    // If most of a list is gone, the remaining elements are touched as they move.
    line.now = 114;
    line.run(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 1 });
    line.forget_log();
    line.now = 119;
    line.run(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 0 });
    line.assert_logged(&[Action::Clear, Action::ListPut { index: 0, element: &stamp(119, b"b") }]);
    line.now = 128;
    assert_eq!(line.list(), ["b"]);
}

pub(super) fn map_entries_expire_by_themselves(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::Map, None, plain());
    for (now, map_key) in [(100, &b"a"[..]), (103, b"b"), (106, b"c")] {
        line.now = now;
        line.run(at("k", ""), Op::MapPut { map_key, value: map_key });
        line.run(at("k", "ns"), Op::MapPut { map_key, value: map_key });
    }
    line.now = 112;
    assert_eq!(line.map(), [entry(b"b", b"b"), entry(b"c", b"c")]);
    assert_eq!(line.look(at("k", ""), Op::MapContains { map_key: b"a" }), Answer::Found(false));
    let page = line.look(at("k", ""), Op::MapEntries { keys: MapKeys::default(), limit: 1 });
    assert_eq!(page, Answer::Entries { entries: vec![entry(b"b", b"b")], more: true });
    line.now = 113;
    let page = line.look(at("k", ""), Op::MapEntries { keys: MapKeys::default(), limit: 1 });
    assert_eq!(page, Answer::Entries { entries: vec![entry(b"c", b"c")], more: false }, "no more that lives");
    line.forget_log();
    assert_eq!(line.run(at("k", ""), Op::MapCount), Some(Answer::Count(1)));
    line.assert_logged(&[Action::MapRemove { map_key: b"a" }, Action::MapRemove { map_key: b"b" }]);
    // Removals and clears also remove hidden entries.
    line.now = 116;
    assert_eq!(line.run(at("k", ""), Op::MapRemove { map_key: b"c" }), None);
    line.assert_logged(&[Action::MapRemove { map_key: b"c" }]);
    line.run(at("k", "ns"), Op::Clear);
    assert_eq!((line.logged(), line.backend.len(at("k", "ns")).unwrap()), (1, 0));
    line.run(at("k", "ns"), Op::Clear);
    assert_eq!(line.logged(), 1);
}

pub(super) fn merges_go_on_with_what_is_visible(factory: Factory<'_>) {
    let [one, two, three] = [1_i64, 2, 3].map(i64::to_le_bytes);
    for (ttl, late) in [(plain(), two), (SHOWN, three)] {
        let mut line = Timeline::new(factory, StateKind::Value, Some(MergeFunction::SumI64), ttl);
        line.run(at("k", ""), Op::Merge(&one));
        line.now = 110;
        line.forget_log();
        line.run(at("k", ""), Op::Merge(&two));
        line.assert_logged(&[Action::Put(&stamp(110, &late))]);
    }
    let mut line = Timeline::new(factory, StateKind::Map, Some(MergeFunction::Append), plain());
    for (now, operand, result) in [(100, "a", "a"), (109, "b", "ab"), (118, "c", "abc"), (128, "d", "d")] {
        line.now = now;
        line.forget_log();
        line.run(at("k", ""), Op::MapMerge { map_key: b"m", operand: operand.as_bytes() });
        line.assert_logged(&[Action::MapPut { map_key: b"m", value: &stamp(now, result.as_bytes()) }]);
    }
    // A merge that leaves the entry unchanged has touched it all the same.
    let set = |member: &str| [&(member.len() as u32).to_le_bytes()[..], member.as_bytes()].concat();
    let mut line = Timeline::new(factory, StateKind::Value, Some(MergeFunction::SetUnion), plain());
    for now in [100, 109] {
        line.now = now;
        line.run(at("k", ""), Op::Merge(&set("a")));
        line.assert_logged(&[Action::Put(&stamp(now, &set("a")))]);
    }
    // The limit applies to the value, not to its stored form.
    let mut line = Timeline::new(factory, StateKind::Value, Some(MergeFunction::Append), plain());
    let long = [7; bench::MAX_VALUE_BYTES];
    assert_eq!(line.run(at("k", ""), Op::Put(&long[1..])), None);
    assert_eq!(line.run(at("k", ""), Op::Merge(&long[..1])), None);
    assert_eq!(line.run(at("k", ""), Op::Merge(&long[..1])), Some(Answer::LimitReached));
    line.now = 110;
    assert_eq!(line.run(at("k", ""), Op::Merge(&long)), None);
}

pub(super) fn keys_are_those_of_visible_entries(factory: Factory<'_>) {
    for (kind, write) in [
        (StateKind::Value, Op::Put(b"v")),
        (StateKind::Map, Op::MapPut { map_key: b"m", value: b"v" }),
        (StateKind::List, Op::ListAdd(b"v")),
    ] {
        let mut line = Timeline::new(factory, kind, None, plain());
        for i in 0..100 {
            line.now = 100 + i / 10;
            line.run(at(&format!("key {i}"), ""), write);
        }
        for (now, expected) in [(109, 100), (110, 90), (114, 50), (119, 0)] {
            line.now = now;
            let (mut count, mut token) = (0, Bytes::new());
            let nowhere = Address { key: b"", ..at("", "") };
            loop {
                let answer = line.look(nowhere, Op::Keys { all_namespaces: true, token: &token, limit: 7 });
                let Answer::Keys { keys, token: next } = answer else { unreachable!("keys") };
                count += keys.len();
                match next {
                    Some(next) => token = next,
                    None => break,
                }
            }
            assert_eq!(count, expected, "{kind:?} at {now}");
        }
    }
}

pub(super) fn merged_namespaces_leave_behind_what_is_expired(factory: Factory<'_>) {
    let sources = bench::elements(&["a", "b", "c"]);
    let number = |n: i64| n.to_le_bytes();
    let mut line = Timeline::new(factory, StateKind::Value, Some(MergeFunction::SumI64), plain());
    for (now, namespace, n) in [(100, "", 1), (100, "a", 10), (105, "b", 100), (106, "c", 1_000)] {
        line.now = now;
        line.run(at("k", namespace), Op::Put(&number(n)));
    }
    line.now = 110;
    line.run(at("k", ""), Op::MergeNamespaces(&sources));
    assert_eq!(line.value(), Some(Bytes::copy_from_slice(&number(1_100))));
    assert!(["a", "b", "c"].iter().all(|ns| line.backend.len(at("k", ns)).unwrap() == 0), "cleared all the same");
    line.now = 119;
    assert_eq!(line.value(), Some(Bytes::copy_from_slice(&number(1_100))), "touched by the merge");
    line.now = 120;
    assert_eq!(line.value(), None);

    // A union that leaves the set unchanged touches it, too.
    let mut line = Timeline::new(factory, StateKind::Value, Some(MergeFunction::SetUnion), plain());
    line.run(at("k", ""), Op::Put(b"\x01\0\0\0x"));
    line.run(at("k", "a"), Op::Put(b"\x01\0\0\0x"));
    line.now = 109;
    line.run(at("k", ""), Op::MergeNamespaces(&sources));
    line.now = 118;
    assert!(line.value().is_some());

    // Elements keep their time.
    let mut line = Timeline::new(factory, StateKind::List, None, plain());
    for (now, namespace, element) in [(100, "", "t"), (100, "b", "x"), (104, "b", "y"), (106, "a", "z")] {
        line.now = now;
        line.run(at("k", namespace), Op::ListAdd(element.as_bytes()));
    }
    line.now = 110;
    line.run(at("k", ""), Op::MergeNamespaces(&sources));
    for (now, expected) in [(110, &["z", "y"][..]), (114, &["z"]), (116, &[])] {
        line.now = now;
        assert_eq!(line.list(), expected, "at {now}");
    }

    let mut line = Timeline::new(factory, StateKind::Map, Some(MergeFunction::SumI64), plain());
    for (now, namespace, map_key) in
        [(100, "", "m"), (100, "a", "m"), (105, "b", "m"), (100, "b", "n"), (105, "c", "o")]
    {
        line.now = now;
        line.run(at("k", namespace), Op::MapPut { map_key: map_key.as_bytes(), value: &number(now.cast_signed()) });
    }
    line.now = 110;
    line.run(at("k", ""), Op::MergeNamespaces(&sources));
    let merged = |map_key, n| (Bytes::from_static(map_key), Bytes::copy_from_slice(&number(n)));
    assert_eq!(line.map(), [merged(b"m", 105), merged(b"o", 105)]);
    assert_eq!(line.replayed(factory).map(), line.map());
}

pub(super) fn in_turn_entries_are_cleaned_up_and_the_living_stay(factory: Factory<'_>) {
    for (kind, entries) in [(StateKind::Value, 1), (StateKind::Map, 7), (StateKind::List, 7)] {
        let mut line = Timeline::new(factory, kind, None, plain());
        let write = |line: &mut Timeline, key: &str| {
            for map_key in (0..entries).map(|i| [b'm', i]) {
                line.run(
                    at(key, ""),
                    match kind {
                        StateKind::Value => Op::Put(b"v"),
                        StateKind::Map => Op::MapPut { map_key: &map_key, value: b"v" },
                        StateKind::List | StateKind::Timer => Op::ListAdd(b"v"),
                    },
                );
            }
        };
        for i in 0..600 {
            line.now = if i % 3 == 0 { 100 } else { 105 };
            write(&mut line, &format!("key {i}"));
        }
        let all = 600 * u64::from(entries);
        let stored = |line: &Timeline| line.backend.entries(STATE).unwrap();
        let mut cursor = Cursor::default();
        line.now = 109;
        assert_eq!((0..all).map(|_| line.clean(&mut cursor, 1)).sum::<u64>(), 0, "nothing is expired");
        assert_eq!(stored(&line), all);
        line.now = 110;
        // Some turns end where the next names have to be read.
        let looks = |line: &mut Timeline, cursor: &mut Cursor| -> Vec<u64> {
            (0..all / 5 + 20).map(|_| line.clean(cursor, 5)).collect()
        };
        let removed = looks(&mut line, &mut cursor);
        assert!(removed.iter().all(|removed| *removed <= 7), "a few at a time: {removed:?}");
        assert_eq!(removed.iter().sum::<u64>(), all / 3, "{kind:?}");
        assert_eq!(stored(&line), all - all / 3);
        line.forget_log();
        line.now = 114;
        looks(&mut line, &mut cursor);
        assert_eq!((line.logged(), stored(&line)), (0, all - all / 3), "the living stay");
        line.now = 115;
        looks(&mut line, &mut cursor);
        assert_eq!(stored(&line), 0, "{kind:?}");
    }
}
