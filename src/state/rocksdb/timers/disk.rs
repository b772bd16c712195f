//! Timers in order on disk: the first rows of each key group are in memory, and reads merge the key groups.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque, btree_set},
    ops::{Bound, ControlFlow},
};

use super::{Rows, key};
use crate::{
    state::{Page, PageLimit, StateError, TimerRef},
    types::{KeyGroup, KeyGroupRange},
};

/// Number of rows in memory per backend, over all its key groups.
const CACHED_ROWS: usize = 16 << 10;

/// Fewest and most rows in memory per key group.
const GROUP_ROWS: (usize, usize) = (8, 4096);

/// Bytes of memory for each row that a key group may have in memory.
const BYTES_PER_ROW: usize = 256;

/// Bounds of one read of a key group from the database.
const CHUNK: Share = Share { rows: 256, bytes: 256 * BYTES_PER_ROW };

/// Overhead of a row in memory: the allocator's, and B-tree nodes that are two thirds full.
const ROW_BYTES: usize = 16 + size_of::<Box<[u8]>>() * 3 / 2;

/// Used for the head of a key group that has to be looked up. No timer has this time.
const UNKNOWN: i64 = i64::MIN;

/// Bounds of rows in memory; the first row is always kept.
#[derive(Debug, Clone, Copy)]
struct Share {
    rows: usize,
    bytes: usize,
}

/// The first timers of each key group.
pub(in crate::state::rocksdb) struct Disk {
    key_groups: KeyGroupRange,
    /// Whether the state was empty at first.
    is_empty: bool,
    /// Bounds of each key group.
    most: Share,
    /// One for each key group; empty before the first use.
    groups: Vec<Group>,
    /// The time of the first timer, or [`UNKNOWN`], of each key group that may have one, with its index.
    heads: BTreeSet<(i64, usize)>,
    bytes: u64,
}

/// The first timers of one key group.
struct Group {
    /// Rows: the part of a key behind key group and state. All rows of the key group, as far as it is known.
    cached: BTreeSet<Box<[u8]>>,
    /// Bytes of the rows in memory, as allocated.
    bytes: usize,
    known: Known,
}

/// How far the rows of a key group are known.
enum Known {
    Nothing,
    /// Up to this row, inclusive; it need not exist any more.
    UpTo(Box<[u8]>),
    All,
}

impl Disk {
    pub(super) fn new(key_groups: KeyGroupRange, is_empty: bool) -> Self {
        let (least, most) = GROUP_ROWS;
        let rows = (CACHED_ROWS / key_groups.count()).clamp(least, most);
        let most = Share { rows, bytes: rows * BYTES_PER_ROW };
        Self { key_groups, is_empty, most, groups: vec![], heads: BTreeSet::new(), bytes: 0 }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new(self.key_groups, false);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes + (self.groups.len() * size_of::<Group>()) as u64
    }

    /// Notes that a row was added, or removed.
    pub(super) fn note(&mut self, key_group: KeyGroup, row: &[u8], is_there: bool) {
        let index = self.key_groups.index(key_group).expect("the caller checks the key group");
        let most = self.most;
        self.allocate();
        self.change(index, |group| {
            // A row behind the known part is not taken: rows between the two may be missing in memory, and it would
            // hide them.
            if !is_there {
                group.remove(row);
            } else if group.knows(row) {
                group.insert(row.into());
                group.cut(most);
            }
        });
    }

    /// As [`StateBackend::timer_page`](crate::state::StateBackend::timer_page).
    pub(super) fn page(
        &mut self,
        rows: Rows<'_>,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        self.allocate();
        self.find_heads(rows)?;
        let mut page = Page::new(limit);
        let mut merge = Merge::new(self, rows, after);
        while let Some((row, index)) = merge.next()? {
            let timer = key::parse_timer(&row)?;
            let timer = timer.of(self.key_group(index));
            if timer.time > up_to {
                break;
            }
            if !page.takes(timer.page_bytes()) {
                return Ok(true);
            }
            read(timer);
        }
        Ok(false)
    }

    fn allocate(&mut self) {
        if self.groups.is_empty() {
            let known = || if self.is_empty { Known::All } else { Known::Nothing };
            let group = || Group { cached: BTreeSet::new(), bytes: 0, known: known() };
            self.groups = self.key_groups.iter().map(|_| group()).collect();
            let heads = self.groups.iter().enumerate().filter_map(|(index, group)| Some((group.head()?, index)));
            self.heads = heads.collect();
        }
    }

    fn key_group(&self, index: usize) -> KeyGroup {
        let index = u16::try_from(index).expect("there are fewer key groups");
        KeyGroup(self.key_groups.first().0 + index)
    }

    fn group(&self, index: usize) -> &Group {
        self.groups.get(index).expect("one for each key group")
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Group)) {
        let group = self.groups.get_mut(index).expect("one for each key group");
        let (head, bytes) = (group.head(), group.bytes as u64);
        change(group);
        self.bytes = self.bytes - bytes + group.bytes as u64;
        let new = group.head();
        // Most changes leave the head as it is, and then `heads` is not touched.
        if head != new {
            head.map(|time| self.heads.remove(&(time, index)));
            new.map(|time| self.heads.insert((time, index)));
        }
    }

    /// Looks up every head that is not known.
    fn find_heads(&mut self, rows: Rows<'_>) -> Result<(), StateError> {
        // Unknown heads sort first. Each turn ends one: its group has no row in memory, so there is room, and a fill
        // reads at least one row or learns that there is none.
        while let Some((UNKNOWN, index)) = self.heads.first().copied() {
            let shard = rows.position(self.key_group(index));
            let hands_on = rows.hands_on(self.key_group(index));
            // Ordering: the question is asked before the fill, which passes the writes on.
            self.fill(index, rows)?;
            if !hands_on {
                continue;
            }
            // Refills other short key groups of this shard now, so that its writes need not be passed on again for each
            // of them.
            for other in 0..self.groups.len() {
                let is_short = self.group(other).cached.len() <= self.most.rows / 2;
                if is_short && rows.position(self.key_group(other)) == shard {
                    self.fill(other, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Reads rows of a key group behind the known ones, up to its bounds.
    fn fill(&mut self, index: usize, rows: Rows<'_>) -> Result<(), StateError> {
        let group = self.group(index);
        let Some(from) = group.unknown_from() else { return Ok(()) };
        let mut chunk = Chunk { rows: VecDeque::new(), next: None };
        let room = Share {
            rows: self.most.rows.saturating_sub(group.cached.len()),
            bytes: self.most.bytes.saturating_sub(group.bytes),
        };
        // A group with rows in memory has a head, and needs no others while it is full.
        if !group.cached.is_empty() && (room.rows == 0 || room.bytes == 0) {
            return Ok(());
        }
        chunk.read(rows, self.key_group(index), &from, room)?;
        self.change(index, |group| {
            group.known = match (chunk.next, chunk.rows.back()) {
                (Some(_), Some(last)) => Known::UpTo(last.clone()),
                _ => Known::All,
            };
            chunk.rows.into_iter().for_each(|row| group.insert(row));
        });
        Ok(())
    }
}

impl Group {
    /// The time of its first timer; `None` if there is none.
    fn head(&self) -> Option<i64> {
        match (self.cached.first(), &self.known) {
            (Some(row), _) => Some(key::time(row).expect("a row begins with its time")),
            (None, Known::All) => None,
            (None, _) => Some(UNKNOWN),
        }
    }

    fn knows(&self, row: &[u8]) -> bool {
        match &self.known {
            Known::Nothing => false,
            Known::UpTo(last) => *row <= **last,
            Known::All => true,
        }
    }

    /// The first row that it might have without knowing; `None` if everything is known.
    fn unknown_from(&self) -> Option<Vec<u8>> {
        match &self.known {
            Known::Nothing => Some(vec![]),
            Known::UpTo(last) => Some(behind(last)),
            Known::All => None,
        }
    }

    fn insert(&mut self, row: Box<[u8]>) {
        let bytes = row.len() + ROW_BYTES;
        if self.cached.insert(row) {
            self.bytes += bytes;
        }
    }

    fn remove(&mut self, row: &[u8]) {
        if self.cached.remove(row) {
            self.bytes -= row.len() + ROW_BYTES;
        }
    }

    /// Forgets the last rows, if there are more than the bounds allow.
    fn cut(&mut self, most: Share) {
        while (self.cached.len() > most.rows || self.bytes > most.bytes) && self.cached.len() > 1 {
            let last = self.cached.pop_last();
            self.bytes -= last.map_or(0, |row| row.len() + ROW_BYTES);
            // The group no longer knows its rows behind the one that is the last now.
            self.known = self.cached.last().map_or(Known::Nothing, |last| Known::UpTo(last.clone()));
        }
    }
}

/// A row, and the index of its key group.
type Found<'a> = (Cow<'a, [u8]>, usize);

/// The rows of all key groups in order, from the beginning of a page on.
struct Merge<'a> {
    disk: &'a Disk,
    rows: Rows<'a>,
    /// The row that the page before ended with, with its time and key group.
    after: Option<(Vec<u8>, i64, KeyGroup)>,
    /// Key groups whose rows were not needed yet, in order of their heads.
    waiting: std::iter::Peekable<btree_set::Iter<'a, (i64, usize)>>,
    first: BinaryHeap<Reverse<Found<'a>>>,
    /// The rows after the first one, for each key group that has begun.
    rest: BTreeMap<usize, Rest<'a>>,
}

/// The following rows of one key group.
struct Rest<'a> {
    cached: btree_set::Range<'a, Box<[u8]>>,
    chunk: Chunk,
}

/// Rows that were read from the database.
struct Chunk {
    rows: VecDeque<Box<[u8]>>,
    /// Where to read on; `None` after the last row.
    next: Option<Vec<u8>>,
}

impl<'a> Merge<'a> {
    fn new(disk: &'a Disk, rows: Rows<'a>, after: Option<TimerRef<'_>>) -> Self {
        let after = after.map(|timer| {
            let mut row = vec![];
            key::push_timer(timer.time, timer.key, timer.namespace, &mut row);
            (row, timer.time, timer.key_group)
        });
        let waiting = disk.heads.iter().peekable();
        Self { disk, rows, after, waiting, first: BinaryHeap::new(), rest: BTreeMap::new() }
    }

    /// The next row, and the index of its key group.
    fn next(&mut self) -> Result<Option<Found<'a>>, StateError> {
        while let Some(&&(head, index)) = self.waiting.peek() {
            let may_be_next = match self.first.peek() {
                None => true,
                // A group with an equal head begins, too: key and namespace decide among equal times.
                Some(Reverse((row, _))) => head <= key::time(row)?,
            };
            if !may_be_next && self.after.as_ref().is_none_or(|(_, time, _)| head > *time) {
                break;
            }
            self.waiting.next();
            self.begin(index)?;
        }
        let Some(Reverse((row, index))) = self.first.pop() else { return Ok(None) };
        self.advance(index)?;
        Ok(Some((row, index)))
    }

    fn begin(&mut self, index: usize) -> Result<(), StateError> {
        let from = match &self.after {
            None => vec![],
            // Equal rows are in order of their key groups. So those above that of `after` still have to return theirs.
            Some((row, _, key_group)) if self.disk.key_group(index) > *key_group => row.clone(),
            Some((row, _, _)) => behind(row),
        };
        let group = self.disk.group(index);
        // The database is read from behind the known rows, never through them: that part may be full of tombstones of
        // fired timers.
        let next = group.unknown_from().map(|unknown| unknown.max(from.clone()));
        let cached = group.cached.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded));
        self.rest.insert(index, Rest { cached, chunk: Chunk { rows: VecDeque::new(), next } });
        self.advance(index)
    }

    fn advance(&mut self, index: usize) -> Result<(), StateError> {
        let Some(rest) = self.rest.get_mut(&index) else { return Ok(()) };
        let row = match rest.cached.next() {
            Some(row) => Some(Cow::Borrowed(&**row)),
            None => rest.chunk.pop(self.rows, self.disk.key_group(index))?.map(|row| Cow::Owned(row.into())),
        };
        self.first.extend(row.map(|row| Reverse((row, index))));
        Ok(())
    }
}

impl Chunk {
    fn pop(&mut self, rows: Rows<'_>, key_group: KeyGroup) -> Result<Option<Box<[u8]>>, StateError> {
        if self.rows.is_empty()
            && let Some(from) = self.next.take()
        {
            self.read(rows, key_group, &from, CHUNK)?;
        }
        Ok(self.rows.pop_front())
    }

    fn read(&mut self, rows: Rows<'_>, key_group: KeyGroup, from: &[u8], most: Share) -> Result<(), StateError> {
        let mut bytes = 0;
        rows.scan(key_group, from, &mut |row| {
            bytes += row.len() + ROW_BYTES;
            if !self.rows.is_empty() && (self.rows.len() >= most.rows || bytes > most.bytes) {
                self.next = Some(row.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            self.rows.push_back(row.into());
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// The first possible row behind another one.
fn behind(row: &[u8]) -> Vec<u8> {
    [row, &[0]].concat()
}
