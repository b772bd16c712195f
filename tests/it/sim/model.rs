//! What the state of a backend must be: plain maps, and operations on them written down a second time.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use dstl::{
    random::Random,
    state::{
        Address, MapKeys, PageLimit, StateBackend, TimerRef,
        op::{self, Answer, Op},
    },
    types::{KeyGroup, KeyGroupRange, MergeFunction, StateDescriptor, StateId, StateKind},
};

use MergeFunction::{Append, MaxI64, SumI64};
use StateKind::{List, Map, Timer, Value};

/// Longest value in the simulation: so short that appends reach it.
pub(super) const MAX_VALUE_BYTES: usize = 600;

/// The states of the simulation; the last two share a name, so that a backend has one of them at a time.
const STATES: [(&str, StateKind, Option<MergeFunction>); 10] = [
    ("value", Value, None),
    ("sum", Value, Some(SumI64)),
    ("text", Value, Some(Append)),
    ("list", List, None),
    ("map", Map, None),
    ("sums", Map, Some(SumI64)),
    ("texts", Map, Some(Append)),
    ("timer", Timer, None),
    ("either", Value, Some(MaxI64)),
    ("either", List, None),
];

pub(super) const STATE_COUNT: usize = STATES.len();
pub(super) const EITHER: [usize; 2] = [STATE_COUNT - 2, STATE_COUNT - 1];
const MAP_KEYS: u64 = 6;
const LONGEST_LIST: usize = 12;
/// Times of timers.
const TIMES: [i64; 4] = [i64::MIN + 1, -1, 7, i64::MAX];
const NAMESPACES: [&str; 3] = ["", "window-1", "window-2"];

pub(super) fn descriptor(state: usize) -> StateDescriptor {
    let (name, kind, merge) = STATES[state];
    StateDescriptor::new(name, kind).with_merge(merge)
}

/// A key and its key group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: u16,
    pub(super) bytes: Vec<u8>,
}

/// State, key, namespace.
type Place = (usize, Key, &'static str);

/// Map entries; list elements by big-endian index; a value under the empty key; nothing under times.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// One operation and where.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) state: usize,
    pub(super) key: Key,
    pub(super) namespace: &'static str,
    verb: Verb,
    map_key: Vec<u8>,
    value: Vec<u8>,
    elements: Vec<Bytes>,
    start: u64,
    limit: u64,
    time: i64,
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Clear,
    Put,
    Get,
    Merge,
    MapPut,
    MapGet,
    MapRemove,
    MapContains,
    MapMerge,
    MapEntries,
    MapCount,
    ListAdd,
    ListAddAll,
    ListUpdate,
    ListGet,
    ListCount,
    MergeNamespaces,
    TimerRegister,
    TimerDelete,
    Timers,
    TimersFire,
}

impl Step {
    /// Any operation that fits one of `states`; values have up to `longest` bytes.
    pub(super) fn random(random: &Random, states: &[usize], keys: &[Key], longest: u64) -> Self {
        use Verb::*;
        let state = *pick(random, states);
        let (_, kind, merge) = STATES[state];
        let verbs: &[Verb] = match (kind, merge) {
            (Value, None) => &[Put, Put, Put, Get, Clear, MergeNamespaces],
            (Value, Some(_)) => &[Merge, Merge, Merge, Put, Get, Clear, MergeNamespaces],
            (List, _) => &[ListAdd, ListAdd, ListAddAll, ListUpdate, ListGet, ListCount, Clear, MergeNamespaces],
            (Map, None) => {
                &[MapPut, MapPut, MapPut, MapRemove, MapGet, MapContains, MapEntries, MapCount, Clear, MergeNamespaces]
            }
            (Map, Some(_)) => {
                &[MapMerge, MapMerge, MapPut, MapRemove, MapGet, MapEntries, MapCount, Clear, MergeNamespaces]
            }
            (Timer, _) => &[TimerRegister, TimerRegister, TimerRegister, TimerRegister, TimerDelete, TimersFire],
        };
        let value = match merge {
            Some(SumI64 | MaxI64) => (random.below(2000) as i64 - 1000).to_le_bytes().to_vec(),
            _ => bytes(random, longest),
        };
        let (namespace, verb) = (NAMESPACES[random.below(3) as usize], *pick(random, verbs));
        let elements = match verb {
            MergeNamespaces => {
                let mut sources: Vec<Bytes> =
                    NAMESPACES.into_iter().filter(|n| *n != namespace).map(Bytes::from).collect();
                sources.rotate_left(random.below(2) as usize);
                sources.truncate(random.below(3) as usize);
                sources
            }
            _ => (0..random.below(4)).map(|_| bytes(random, longest).into()).collect(),
        };
        Self {
            state,
            key: pick(random, keys).clone(),
            namespace,
            verb,
            map_key: map_key(random.below(MAP_KEYS)),
            value,
            elements,
            start: random.below(5),
            limit: random.below(4),
            time: *pick(random, &TIMES),
        }
    }

    /// Reads all of a place.
    pub(super) fn read(state: usize, key: &Key, namespace: &'static str) -> Self {
        let verb = match STATES[state].1 {
            Value => Verb::Get,
            List => Verb::ListGet,
            Map => Verb::MapEntries,
            Timer => Verb::Timers,
        };
        let (key, map_key, value, elements) = (key.clone(), vec![], vec![], vec![]);
        Self { state, key, namespace, verb, map_key, value, elements, start: 0, limit: 0, time: i64::MAX }
    }

    /// The reads that together tell the contents of `states`.
    pub(super) fn read_all(states: &[usize], keys: &[Key]) -> Vec<Self> {
        let places = states.iter().flat_map(|s| keys.iter().flat_map(move |k| NAMESPACES.map(|n| (*s, k, n))));
        // One read has all timers.
        let first = keys.first().map(|key| (key, NAMESPACES[0]));
        let places = places.filter(|(state, key, ns)| STATES[*state].1 != Timer || Some((*key, *ns)) == first);
        places.map(|(state, key, namespace)| Self::read(state, key, namespace)).collect()
    }

    pub(super) fn op(&self) -> Op<'_> {
        let Self { map_key, value, elements, start, limit, time, .. } = self;
        match self.verb {
            Verb::Clear => Op::Clear,
            Verb::Put => Op::Put(value),
            Verb::Get => Op::Get,
            Verb::Merge => Op::Merge(value),
            Verb::MapPut => Op::MapPut { map_key, value },
            Verb::MapGet => Op::MapGet { map_key },
            Verb::MapRemove => Op::MapRemove { map_key },
            Verb::MapContains => Op::MapContains { map_key },
            Verb::MapMerge => Op::MapMerge { map_key, operand: value },
            Verb::MapEntries => Op::MapEntries { keys: MapKeys::from(map_key), limit: *limit },
            Verb::MapCount => Op::MapCount,
            Verb::ListAdd => Op::ListAdd(value),
            Verb::ListAddAll => Op::ListAddAll(elements),
            Verb::ListUpdate => Op::ListUpdate(elements),
            Verb::ListGet => Op::ListGet { start: *start, token: &[], limit: *limit },
            Verb::ListCount => Op::ListCount,
            Verb::MergeNamespaces => Op::MergeNamespaces(elements),
            Verb::TimerRegister => Op::TimerRegister { time: *time },
            Verb::TimerDelete => Op::TimerDelete { time: *time },
            Verb::Timers => Op::Timers { up_to: *time, token: b"", limit: *limit },
            Verb::TimersFire => Op::TimersFire { up_to: *time, limit: 1 + *limit },
        }
    }

    /// About as many bytes as its message would have.
    pub(super) fn bytes(&self) -> u64 {
        let elements: usize = self.elements.iter().map(|element| element.len() + 4).sum();
        (32 + self.key.bytes.len() + self.namespace.len() + self.map_key.len() + self.value.len() + elements) as u64
    }
}

/// The contents of a backend. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model(BTreeMap<Place, Arc<Entries>>);

impl Model {
    /// Does what `step` does; returns what it answers.
    pub(super) fn apply(&mut self, step: &Step) -> Option<Answer> {
        if let Verb::MergeNamespaces = step.verb {
            return self.merge_namespaces(step);
        }
        match step.op() {
            Op::Timers { up_to, .. } => {
                return Some(Answer::Timers { timers: self.timers(step.state, up_to), token: None });
            }
            Op::TimersFire { up_to, limit } => return Some(self.fire(step.state, up_to, limit)),
            _ => {}
        }
        let place = (step.state, step.key.clone(), step.namespace);
        let mut shared = self.0.remove(&place).unwrap_or_default();
        let answer = match read(&shared, &step.op()) {
            Some(answer) => Some(answer),
            None => write(Arc::make_mut(&mut shared), step),
        };
        if !shared.is_empty() {
            self.0.insert(place, shared);
        }
        answer
    }

    /// The timers of a state at or before a time, in order.
    fn timers(&self, state: usize, up_to: i64) -> Vec<op::Timer> {
        let mut timers = vec![];
        for ((_, key, namespace), times) in self.0.iter().filter(|(place, _)| place.0 == state) {
            let (key_group, namespace) = (KeyGroup(key.group), Bytes::from(*namespace));
            for time in TIMES.into_iter().filter(|time| *time <= up_to && times.contains_key(&at(*time))) {
                let (key, namespace) = (key.bytes.clone().into(), namespace.clone());
                timers.push(op::Timer { time, key, namespace, key_group });
            }
        }
        timers.sort();
        timers
    }

    fn fire(&mut self, state: usize, up_to: i64, limit: u64) -> Answer {
        let mut timers = self.timers(state, up_to);
        let more = timers.len() as u64 > limit;
        timers.truncate(limit as usize);
        for timer in &timers {
            let key = Key { group: timer.key_group.0, bytes: timer.key.to_vec() };
            let namespace = NAMESPACES.into_iter().find(|name| timer.namespace == name).unwrap();
            let place = (state, key, namespace);
            let times = self.0.get_mut(&place).unwrap();
            Arc::make_mut(times).remove(&at(timer.time));
            if times.is_empty() {
                self.0.remove(&place);
            }
        }
        Answer::Fired { timers, more }
    }

    fn merge_namespaces(&mut self, step: &Step) -> Option<Answer> {
        let place = |namespace| (step.state, step.key.clone(), namespace);
        let (_, kind, function) = STATES[step.state];
        let mut target = self.0.get(&place(step.namespace)).map(|shared| (**shared).clone()).unwrap_or_default();
        let named = |source: &Bytes| NAMESPACES.into_iter().find(|name| source == name).unwrap();
        let sources: Vec<_> = step.elements.iter().map(|source| place(named(source))).collect();
        for (map_key, value) in sources.iter().filter_map(|source| self.0.get(source)).flat_map(|shared| &**shared) {
            match (kind, function) {
                (List, _) => _ = target.insert(index(target.len()), value.clone()),
                (Map, None) => _ = target.insert(map_key.clone(), value.clone()),
                (Value, None) => _ = target.entry(map_key.clone()).or_insert_with(|| value.clone()),
                (Timer, None) => unreachable!("timers are not merged"),
                (_, Some(_)) => {
                    if let Some(limited) = merge(&mut target, step.state, map_key, value) {
                        return Some(limited);
                    }
                }
            }
        }
        sources.iter().for_each(|source| _ = self.0.remove(source));
        if !target.is_empty() {
            self.0.insert(place(step.namespace), target.into());
        }
        None
    }

    /// Takes what `other` has of `key_groups`.
    pub(super) fn take(&mut self, other: &Self, key_groups: KeyGroupRange) {
        let own = other.0.iter().filter(|(place, _)| key_groups.contains(KeyGroup(place.1.group)));
        self.0.extend(own.map(|(place, entries)| (place.clone(), entries.clone())));
    }

    /// Whether appending to the list of `step` would make it longer than answers have room for.
    pub(super) fn is_full(&self, step: &Step) -> bool {
        let length =
            |namespace| self.0.get(&(step.state, step.key.clone(), namespace)).map_or(0, |entries| entries.len());
        match step.verb {
            Verb::ListAdd | Verb::ListAddAll => length(step.namespace) >= LONGEST_LIST,
            Verb::MergeNamespaces if STATES[step.state].1 == List => {
                NAMESPACES.into_iter().map(length).sum::<usize>() > LONGEST_LIST
            }
            _ => false,
        }
    }

    pub(super) fn entries(&self, state: usize) -> u64 {
        self.0.iter().filter(|(place, _)| place.0 == state).map(|(_, entries)| entries.len() as u64).sum()
    }

    /// How `inner`, where states have `ids`, differs from this.
    pub(super) fn difference(&self, inner: &dyn StateBackend, ids: &BTreeMap<usize, StateId>) -> Option<String> {
        for ((state, key, namespace), expected) in &self.0 {
            let Some(id) = ids.get(state) else { return Some(format!("state {state} is not there")) };
            let at = Address {
                state: *id,
                key_group: KeyGroup(key.group),
                key: &key.bytes,
                namespace: namespace.as_bytes(),
            };
            let found = contents(inner, at, STATES[*state].1);
            if found != **expected {
                return Some(format!("state {state}, key {key:?}, `{namespace}`: {found:?} instead of {expected:?}"));
            }
        }
        let wrong = ids.iter().find(|(state, id)| inner.entries(**id).unwrap() != self.entries(**state));
        wrong.map(|(state, id)| {
            format!("state {state} has {} entries instead of {}", inner.entries(*id).unwrap(), self.entries(*state))
        })
    }
}

fn contents(inner: &dyn StateBackend, at: Address<'_>, kind: StateKind) -> Entries {
    let (mut found, all) = (Entries::new(), PageLimit { entries: usize::MAX, bytes: usize::MAX });
    let read = match kind {
        Value => inner.value(at, &mut |value| found.extend(value.map(|value| (vec![], value.to_vec())))),
        List => {
            let mut add = |element: &[u8]| _ = found.insert(index(found.len()), element.to_vec());
            inner.list_page(at, 0, all, &mut add).map(|_| ())
        }
        Map => {
            let mut add = |key: &[u8], value: &[u8]| _ = found.insert(key.to_vec(), value.to_vec());
            inner.map_page(at, MapKeys::default(), all, &mut add).map(|_| ())
        }
        Timer => {
            let mut add = |timer: TimerRef<'_>| {
                if (timer.key, timer.namespace) == (at.key, at.namespace) {
                    found.insert(self::at(timer.time), vec![]);
                }
            };
            inner.timer_page(at.state, None, i64::MAX, all, &mut add).map(|_| ())
        }
    };
    read.unwrap();
    found
}

/// What a read answers; `None` for a write.
fn read(entries: &Entries, op: &Op<'_>) -> Option<Answer> {
    let most = |limit: u64| if limit == 0 { usize::MAX } else { limit as usize };
    let copy = |value: &Vec<u8>| Bytes::copy_from_slice(value);
    Some(match *op {
        Op::Get => Answer::Value(entries.get(&vec![]).map(copy)),
        Op::MapGet { map_key } => Answer::Value(entries.get(map_key).map(copy)),
        Op::MapContains { map_key } => Answer::Found(entries.contains_key(map_key)),
        Op::MapCount | Op::ListCount => Answer::Count(entries.len() as u64),
        Op::MapEntries { keys: MapKeys { from, .. }, limit } => {
            let mut rest = entries.range(from.to_vec()..).map(|(key, value)| (copy(key), copy(value)));
            let entries = rest.by_ref().take(most(limit)).collect();
            Answer::Entries { entries, more: rest.next().is_some() }
        }
        Op::ListGet { start, limit, .. } => {
            let mut rest = entries.values().skip(start as usize).map(copy);
            let elements = rest.by_ref().take(most(limit)).collect();
            Answer::Elements { elements, token: rest.next().map(|_| Bytes::new()) }
        }
        _ => return None,
    })
}

fn write(entries: &mut Entries, step: &Step) -> Option<Answer> {
    match step.op() {
        Op::Clear => entries.clear(),
        Op::Put(value) => _ = entries.insert(vec![], value.to_vec()),
        Op::MapPut { map_key, value } => _ = entries.insert(map_key.to_vec(), value.to_vec()),
        Op::MapRemove { map_key } => _ = entries.remove(map_key),
        Op::Merge(operand) => return merge(entries, step.state, &[], operand),
        Op::MapMerge { map_key, operand } => return merge(entries, step.state, map_key, operand),
        Op::ListAdd(element) => _ = entries.insert(index(entries.len()), element.to_vec()),
        Op::ListUpdate(elements) | Op::ListAddAll(elements) => {
            if matches!(step.verb, Verb::ListUpdate) {
                entries.clear();
            }
            for element in elements {
                entries.insert(index(entries.len()), element.to_vec());
            }
        }
        Op::TimerRegister { time } => _ = entries.insert(at(time), vec![]),
        Op::TimerDelete { time } => _ = entries.remove(&at(time)),
        read => panic!("{read:?} is no write"),
    }
    None
}

fn merge(entries: &mut Entries, state: usize, map_key: &[u8], operand: &[u8]) -> Option<Answer> {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
    let merged = match (entries.get(map_key), STATES[state].2.unwrap()) {
        (None, _) => operand.to_vec(),
        (Some(stored), SumI64) => number(stored).wrapping_add(number(operand)).to_le_bytes().to_vec(),
        (Some(stored), MaxI64) => number(stored).max(number(operand)).to_le_bytes().to_vec(),
        (Some(stored), _) => [stored, operand].concat(),
    };
    if merged.len() > MAX_VALUE_BYTES {
        return Some(Answer::LimitReached);
    }
    entries.insert(map_key.to_vec(), merged);
    None
}

fn at(time: i64) -> Vec<u8> {
    time.to_be_bytes().to_vec()
}

fn index(index: usize) -> Vec<u8> {
    (index as u64).to_be_bytes().to_vec()
}

fn map_key(n: u64) -> Vec<u8> {
    format!("m{n}").into_bytes()
}

fn bytes(random: &Random, longest: u64) -> Vec<u8> {
    let length = random.below(longest + 1);
    let byte = random.below(256) as u8;
    (0..length).map(|i| byte.wrapping_add(i as u8)).collect()
}

pub(super) fn pick<'a, T>(random: &Random, from: &'a [T]) -> &'a T {
    &from[random.below(from.len() as u64) as usize]
}
