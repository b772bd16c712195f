//! The log index: where the change sets of a run lie on the store.
//!
//! ```text
//!   run:  level-2 pages │ level-1 pages │ handles in the manifest itself        (in order of sequence numbers)
//!            └─ up to 64 level-1 pages each
//!                            └─ up to 64 handles each
//!   past: level-2 pages │ level-1 pages │ sources and their runs in the manifest itself
//!                            └─ sources, each with its run
//! ```
//!
//! When a manifest would have too many handles (or pages of one level), the oldest of them move into a page, an
//! immutable object that is durable before a manifest refers to it. So the bytes that a checkpoint writes stay bounded,
//! however long the log is. Pages are written beside one manifest and named by the next, so that no checkpoint waits
//! for them: [`Bounds`].
//!
//! A handle may contain its change set (an inline tail). A checkpoint with few changes then needs no other object than
//! its manifest. Each later manifest repeats these bytes, so they move into a page once there are more than
//! [`INLINE_BYTES`] of them, and stay there.
//!
//! A run grows only in its own epoch. The opener of the next epoch moves most of the remaining run into pages. It also
//! moves the list of such runs that its epoch begins with into pages, once the list is long
//! ([`Manifest::settle`](super::manifest::Manifest::settle)). Such pages belong to the epoch that wrote them, which may
//! differ from the epoch of the run, and may lie in another chain. So a reference says where its page lies ([`Home`]).
//!
//! Another kind of page has [attachments](super::manifest::Attachment) of checkpoints, and no part of the log.

mod page;

pub use self::page::Page;
pub(super) use self::page::{ascend, decode_page_ref, decode_past, decode_source, encode_page_ref, encode_source};

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    changelog::segment::SegmentHandle,
    object::ObjectName,
    proto::store,
    types::{BackendId, Name, Sqn, SqnRange},
};

/// Most bytes of inlined change sets in a manifest: beyond that no further one is inlined before they have moved into a
/// page.
pub const INLINE_BYTES: usize = 64 << 10;

/// How much of a log index may stand in a manifest itself; the rest moves into pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most handles of a run, and most pages of one level. At least 1.
    pub entries: usize,
    /// Most entries that move into one page together. At least 2.
    pub page_entries: usize,
    /// Most bytes of inlined change sets.
    pub inline_bytes: usize,
}

impl Bounds {
    /// Bounds of the run that grows. Entries beyond them move into pages that are written beside the manifest, for the
    /// next manifest to name.
    pub const SOON: Self = Self { entries: 128, page_entries: 64, inline_bytes: INLINE_BYTES };

    /// Bounds of the run that grows, for entries that came faster than pages were written. Entries beyond them move
    /// into pages that are written before the manifest.
    pub const NOW: Self = Self { entries: 256, page_entries: 64, inline_bytes: 2 * INLINE_BYTES };

    /// Bounds of parts that no longer grow: each older run, and the list of everything that an epoch began with.
    pub const SETTLED: Self = Self { entries: 16, page_entries: 64, inline_bytes: 4 << 10 };
}

/// The changelog of one epoch.
///
/// Invariant: pages, then handles, ascend by sequence number; levels of pages descend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Pages with the older part.
    pub pages: Vec<PageRef>,
    /// Handles of the newest part.
    pub handles: Vec<SegmentHandle>,
}

/// The run of `epoch` from `from` to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The epoch of the run.
    pub epoch: u64,
    /// The first sequence number, inclusive.
    pub from: Sqn,
    /// The end, exclusive.
    pub to: Sqn,
}

/// A source with its run. The run may reach further on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// The range that is meant.
    pub source: Source,
    /// The run that has it.
    pub run: Run,
}

/// The UUID of a page: its number among the pages of its epoch, from 0, and half of `random`.
#[must_use]
pub fn page_id(number: u64, random: Uuid) -> Uuid {
    // The number alone would not do: two openers that try the same epoch count from the same number, and their pages
    // must not share a name.
    let (_, random) = random.as_u64_pair();
    Uuid::from_u64_pair(number, random)
}

/// The number that is part of a page's UUID.
#[must_use]
pub fn page_number(id: Uuid) -> u64 {
    id.as_u64_pair().0
}

/// Where a page lies: in the chain of a subtask of the operator, under the epoch that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The subtask in whose chain it lies.
    pub subtask: u32,
    /// The number of the epoch that wrote it.
    pub epoch: u64,
}

/// A reference to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// The UUID in the name of the object.
    pub uuid: Uuid,
    /// The chain and epoch in whose folder it lies.
    pub home: Home,
    /// 1 for a page of handles, stretches or attachments; higher for pages of the next lower level.
    pub level: u32,
    /// The sequence numbers that it covers.
    pub range: SqnRange,
    /// Checksum of the page.
    pub crc: u32,
    /// Sums over all change sets below it.
    pub totals: Totals,
}

/// A page that is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPage {
    /// The reference to it.
    pub reference: PageRef,
    /// The bytes of the object.
    pub bytes: Bytes,
}

/// Moves entries of a log index into new pages.
pub struct Folding<'a> {
    /// How much may stay in the manifest itself.
    pub bounds: &'a Bounds,
    /// Where the new pages lie.
    pub home: Home,
    /// Makes the UUID of each new page.
    pub uuid: &'a mut dyn FnMut() -> Uuid,
}

/// Sums over change sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of change sets.
    pub change_sets: u64,
    /// Their bytes on the store.
    pub stored_bytes: u64,
    /// Their state changes.
    pub changes: u64,
}

impl Source {
    /// The sequence numbers that it covers.
    #[must_use]
    pub fn range(&self) -> SqnRange {
        SqnRange { from: self.from, to: self.to }
    }
}

impl PageRef {
    /// The name of the page's object; `of` is any backend of the operator.
    #[must_use]
    pub fn name(&self, of: &BackendId) -> ObjectName {
        let Home { subtask, epoch } = self.home;
        ObjectName::IndexPage { backend: BackendId { subtask, ..of.clone() }, epoch, id: self.uuid }
    }
}

impl Totals {
    /// Saturates, since a forged reference may have any number.
    fn add(self, other: Self) -> Self {
        Self {
            change_sets: self.change_sets.saturating_add(other.change_sets),
            stored_bytes: self.stored_bytes.saturating_add(other.stored_bytes),
            changes: self.changes.saturating_add(other.changes),
        }
    }

    /// The sum of all of them.
    #[must_use]
    pub fn sum(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::default(), Self::add)
    }

    fn of(handle: &SegmentHandle) -> Self {
        Self { change_sets: 1, stored_bytes: handle.stored_bytes, changes: handle.changes }
    }
}

impl Run {
    /// Whether it lists nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.handles.is_empty()
    }

    /// Number of handles and pages that it lists itself.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.pages.len() + self.handles.len()
    }

    /// Sums over all change sets of the run.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::sum(self.pages.iter().map(|page| page.totals).chain(self.handles.iter().map(Totals::of)))
    }

    /// Bytes of inlined change sets in the manifest itself.
    #[must_use]
    pub fn inline_bytes(&self) -> usize {
        self.handles.iter().map(SegmentHandle::inline_bytes).sum()
    }

    /// Drops every page and handle that ends at or before `from`.
    pub fn drop_before(&mut self, from: Sqn) {
        // A page that reaches beyond `from` stays as a whole. A reader ignores the entries in it that end before.
        self.pages.retain(|page| page.range.to > from);
        self.handles.retain(|handle| handle.range.to > from);
    }

    /// Drops every page and handle that begins at or after `to`.
    pub fn drop_from(&mut self, to: Sqn) {
        self.pages.retain(|page| page.range.from < to);
        self.handles.retain(|handle| handle.range.from < to);
    }

    /// Moves entries beyond the bounds of `folding`, oldest first, into new pages, and stays within the bounds. The
    /// pages must be durable before a manifest that has this run.
    pub fn fold(&mut self, folding: &mut Folding<'_>) -> Vec<NewPage> {
        let bounds = folding.bounds;
        let mut new = vec![];
        loop {
            // Inlined bytes are repeated by each manifest, so beyond their bound all handles move, however few they
            // are. After that round there is nothing heavy left, so the loop ends.
            let is_heavy = self.inline_bytes() > bounds.inline_bytes;
            if !is_heavy && self.handles.len() <= bounds.entries {
                break;
            }
            // Taken from the front: pages have the older part of a run, and readers take pages before handles.
            let moved = if is_heavy { self.handles.len() } else { self.handles.len().min(bounds.page_entries) };
            let page = folding.seal(Page::Handles(self.handles.drain(..moved).collect()));
            self.pages.push(page.reference);
            new.push(page);
        }
        new.extend(folding.fold_levels(&mut self.pages));
        new
    }

    pub(super) fn encode(&self, epoch: u64) -> store::Run {
        store::Run {
            epoch,
            pages: self.pages.iter().map(encode_page_ref).collect(),
            handles: self.handles.iter().map(page::encode_handle).collect(),
        }
    }

    pub(super) fn decode(job: &Name, run: &store::Run) -> Result<Self, &'static str> {
        // Before anything is computed from it: first sequence numbers are made by shifting the epoch.
        if !(1..=Sqn::MAX_EPOCH).contains(&run.epoch) {
            return Err("a run of an epoch that there is not");
        }
        let pages = decode_past(&run.pages)?;
        let handles: Vec<_> =
            run.handles.iter().map(|handle| page::decode_handle(job, handle)).collect::<Result<_, _>>()?;
        let ranges = || pages.iter().map(|page| page.range).chain(handles.iter().map(|handle| handle.range));
        page::ascend(ranges())?;
        if !ranges().all(|range| range.is_of(run.epoch)) {
            return Err("a run with a part of another epoch");
        }
        Ok(Self { pages, handles })
    }
}

impl Folding<'_> {
    /// Makes the next new page.
    fn seal(&mut self, page: Page) -> NewPage {
        page.seal(self.home, (self.uuid)())
    }

    /// Moves the oldest pages of each level that has too many into pages of the next one.
    fn fold_levels(&mut self, pages: &mut Vec<PageRef>) -> Vec<NewPage> {
        let bounds = self.bounds;
        let mut new = vec![];
        let mut level = 1;
        // Levels descend along the list, so the first page has the highest one. The loop ends above it.
        while pages.first().is_some_and(|page| page.level >= level) {
            // The pages of this level are neighbours, and the oldest of them is the first.
            let first = pages.iter().position(|page| page.level <= level).unwrap_or(pages.len());
            let count = pages.iter().filter(|page| page.level == level).count();
            if count <= bounds.entries {
                level += 1;
                continue;
            }
            let range = first..first + count.min(bounds.page_entries);
            let moved = pages.get(range.clone()).expect("inside the level").to_vec();
            let page = self.seal(Page::Pages(moved));
            // In their place. The new page is of the next level, and stands right behind the older pages of that level,
            // so the order by sequence numbers and the descent of levels both stay. The level is looked at once more,
            // since it may still be too long.
            pages.splice(range, [page.reference]);
            new.push(page);
        }
        new
    }

    /// Moves `sources` with their `runs` into a page that `past` lists, if they exceed the bounds together. Also moves
    /// pages of `past` beyond the bounds into further ones.
    pub(super) fn fold_past(
        &mut self,
        past: &mut Vec<PageRef>,
        sources: &mut Vec<Source>,
        runs: &BTreeMap<u64, Run>,
    ) -> Vec<NewPage> {
        let bounds = self.bounds;
        let stretch = |source: &Source| {
            let mut run = runs.get(&source.epoch).cloned().unwrap_or_default();
            // Only the part that the source means is listed.
            run.drop_before(source.from);
            run.drop_from(source.to);
            Stretch { source: *source, run }
        };
        let stretches: Vec<Stretch> = sources.iter().map(stretch).collect();
        // Each source counts as an entry, too: a job that restarts often without writing has many sources with short
        // runs.
        let entries: usize = stretches.iter().map(|stretch| 1 + stretch.run.entries()).sum();
        let inline_bytes: usize = stretches.iter().map(|stretch| stretch.run.inline_bytes()).sum();
        let mut new = vec![];
        if entries > bounds.entries || inline_bytes > bounds.inline_bytes {
            let page = self.seal(Page::Past(stretches));
            // All of them move, the newest included: the sources are in order, and the past stands before `sources`.
            sources.clear();
            past.push(page.reference);
            new.push(page);
        }
        new.extend(self.fold_levels(past));
        new
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        changelog::{
            compression::Compression,
            segment::{BlockHandle, Place, SegmentId},
        },
        types::KeyGroupRange,
    };

    pub(crate) const HOME: Home = Home { subtask: 1, epoch: 2 };

    pub(crate) fn handle(from: u64, to: u64) -> SegmentHandle {
        SegmentHandle {
            place: Place::Segment(SegmentId {
                job: Name::new("job").unwrap(),
                instance: Uuid::from_u128(99),
                number: from,
            }),
            range: SqnRange { from: Sqn(from), to: Sqn(to) },
            changes: 5,
            stored_bytes: 100,
            blocks: vec![BlockHandle {
                offset: 32,
                stored_length: 100,
                length: 200,
                crc: 7,
                compression: Compression::Lz4,
                key_groups: KeyGroupRange::new(0, 127).unwrap(),
            }],
        }
    }

    /// Every handle of a run, through its pages.
    fn expand(run: &Run, pages: &BTreeMap<Uuid, Bytes>) -> Vec<SegmentHandle> {
        let job = Name::new("job").unwrap();
        let mut open: Vec<PageRef> = run.pages.iter().rev().copied().collect();
        let mut out = vec![];
        while let Some(page) = open.pop() {
            match Page::decode(&job, &page, &pages[&page.uuid]).unwrap() {
                Page::Handles(handles) => out.extend(handles),
                Page::Pages(children) => open.extend(children.into_iter().rev()),
                _ => panic!("a run has neither past nor attachments"),
            }
        }
        out.extend(run.handles.iter().cloned());
        out
    }

    pub(crate) fn uuids() -> impl FnMut() -> Uuid {
        let mut next = 0;
        move || {
            next += 1;
            Uuid::from_u128(next)
        }
    }

    #[test]
    fn a_manifest_holds_a_bounded_part_of_an_endless_log() {
        let (mut run, mut pages, mut uuid) = (Run::default(), BTreeMap::new(), uuids());
        for i in 0..50_000_u64 {
            run.handles.push(handle(i, i + 1));
            for page in run.fold(&mut Folding { bounds: &Bounds::SOON, home: HOME, uuid: &mut uuid }) {
                assert!(page.bytes.len() < 10_000);
                pages.insert(page.reference.uuid, page.bytes);
            }
            assert!(run.handles.len() <= Bounds::SOON.entries);
            assert!(run.pages.len() <= 3 * Bounds::SOON.entries);
        }
        let all = expand(&run, &pages);
        assert_eq!(all.len(), 50_000);
        assert!(all.iter().zip(0..).all(|(handle, i)| handle.range.from == Sqn(i)));
        assert_eq!(run.totals(), Totals { change_sets: 50_000, stored_bytes: 5_000_000, changes: 250_000 });
    }

    /// A change set in its own handle.
    pub(crate) fn tail(from: u64, to: u64, bytes: usize) -> SegmentHandle {
        let mut tail = handle(from, to);
        tail.place = Place::Inline(vec![u8::try_from(from % 251).unwrap(); bytes].into());
        tail.stored_bytes = bytes as u64;
        let stored_length = u32::try_from(bytes).unwrap();
        tail.blocks[0] =
            BlockHandle { offset: 0, stored_length, length: (2 * stored_length).max(200), ..tail.blocks[0] };
        tail
    }

    #[test]
    fn tails_in_a_manifest_are_bounded_and_stay_in_order_with_segments() {
        let (mut run, mut pages, mut uuid) = (Run::default(), BTreeMap::new(), uuids());
        for i in 0..10_000_u64 {
            let is_tail = i % 7 != 0;
            run.handles.push(if is_tail { tail(i, i + 1, 1 + (i * 37 % 20_000) as usize) } else { handle(i, i + 1) });
            for page in run.fold(&mut Folding { bounds: &Bounds::SOON, home: HOME, uuid: &mut uuid }) {
                assert!(page.bytes.len() < INLINE_BYTES + 50_000, "{}", page.bytes.len());
                pages.insert(page.reference.uuid, page.bytes);
            }
            assert!(run.inline_bytes() <= INLINE_BYTES);
            let encoded = prost::Message::encoded_len(&run.encode(1));
            assert!(encoded <= INLINE_BYTES + 40_000, "{encoded} bytes after {i}");
        }
        let all = expand(&run, &pages);
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().zip(0..).all(|(handle, i)| handle.range.from == Sqn(i)));
        assert_eq!(all[8], tail(8, 9, 1 + 8 * 37));
    }

    #[test]
    fn a_page_that_is_another_than_meant_is_refused() {
        let NewPage { mut reference, bytes } = Page::Handles(vec![handle(0, 1)]).seal(HOME, Uuid::nil());
        reference.crc ^= 1;
        assert!(Page::decode(&Name::new("job").unwrap(), &reference, &bytes).is_err());
    }

    #[test]
    fn a_past_of_any_length_is_a_bounded_list_and_keeps_its_order() {
        let (mut past, mut sources, mut runs) = (vec![], vec![], BTreeMap::new());
        let (mut pages, mut uuid) = (BTreeMap::new(), uuids());
        let at = |epoch, n| Sqn(Sqn::first_of(epoch).0 + n);
        for epoch in 1..3_000 {
            let handles = (0..3 + epoch % 5).map(|i| handle(at(epoch, i).0, at(epoch, i + 1).0)).collect();
            runs.insert(epoch, Run { pages: vec![], handles });
            sources.push(Source { epoch, from: at(epoch, 1), to: at(epoch, 2 + epoch % 2) });
            let home = Home { epoch: epoch + 1, ..HOME };
            let mut folding = Folding { bounds: &Bounds::SETTLED, home, uuid: &mut uuid };
            for page in folding.fold_past(&mut past, &mut sources, &runs) {
                pages.insert(page.reference.uuid, page.bytes);
            }
            runs.retain(|epoch, _| sources.iter().any(|source| source.epoch == *epoch));
            assert!(past.len() <= 3 * Bounds::SETTLED.entries && sources.len() <= Bounds::SETTLED.entries);
        }
        let job = Name::new("job").unwrap();
        let (mut open, mut found) = (past.iter().rev().copied().collect::<Vec<_>>(), vec![]);
        while let Some(page) = open.pop() {
            match Page::decode(&job, &page, &pages[&page.uuid]).unwrap() {
                Page::Past(stretches) => found.extend(stretches),
                Page::Pages(children) => open.extend(children.into_iter().rev()),
                _ => panic!("a past lists sources"),
            }
        }
        for (stretch, epoch) in found.iter().zip(1..) {
            let source = Source { epoch, from: at(epoch, 1), to: at(epoch, 2 + epoch % 2) };
            assert_eq!(stretch.source, source);
            let range = |handle: &SegmentHandle| handle.range;
            assert_eq!(range(&stretch.run.handles[0]).from, source.from);
            assert_eq!(range(stretch.run.handles.last().unwrap()).to, source.to);
        }
        assert_eq!(found.len() + sources.len(), 2_999);
        let change_sets = found.iter().map(|stretch| stretch.run.totals().change_sets).sum::<u64>();
        assert_eq!(Totals::sum(past.iter().map(|page| page.totals)).change_sets, change_sets);
    }
}
