//! The log index: where the change sets of a run lie.
//!
//! ```text
//!   run:  level-2 pages │ level-1 pages │ handles in the manifest itself        (in order of sequence numbers)
//!            └─ up to 64 level-1 pages each
//!                            └─ up to 64 handles each
//! ```
//!
//! When a manifest would hold too many handles (or pages of one level), the oldest of them move into a page, an immutable
//! object that is durable before a manifest refers to it. So what a checkpoint writes stays bounded, however long the log.
//!
//! A handle may have its change set in itself (an inline tail): a checkpoint with few changes then takes no other object than its
//! manifest. Each later manifest repeats these bytes, so they move into a page, too, once there are more than
//! [`INLINE_BYTES`] of them; there they stay.

use bytes::Bytes;
use uuid::Uuid;

use super::envelope::{self, EnvelopeError, Kind};
use crate::{
    changelog::{
        compression::Compression,
        segment::{BlockHandle, Place, SegmentHandle, SegmentId},
    },
    object::ObjectName,
    proto::store,
    types::{BackendId, KeyGroupRange, Name, Sqn, SqnRange},
};

/// Entries of one level that a manifest holds at most; beyond, the oldest [`PAGE_ENTRIES`] move into a page.
pub const INLINE_ENTRIES: usize = 128;

/// Entries of one page.
pub const PAGE_ENTRIES: usize = 64;

/// Bytes of change sets that the manifest itself holds at most, of one epoch, its newest one not counted; beyond, all but that one
/// move into a page.
pub const INLINE_BYTES: usize = 64 << 10;

/// The changelog of one epoch.
///
/// Invariant: pages, then handles, ascend by sequence number; levels of pages descend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Older parts.
    pub pages: Vec<PageRef>,
    /// The newest part.
    pub handles: Vec<SegmentHandle>,
}

/// Refers to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// Names the object.
    pub uuid: Uuid,
    /// 1: it lists handles; above: pages of one level less.
    pub level: u32,
    /// What it covers.
    pub range: SqnRange,
    /// Checksum of the object.
    pub crc: u32,
    /// Sums over the change sets below.
    pub totals: Totals,
}

/// Sums over change sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Their number.
    pub change_sets: u64,
    /// Bytes on the store.
    pub stored_bytes: u64,
    /// State changes.
    pub changes: u64,
}

impl PageRef {
    /// The object that it refers to, in the log index of `backend`. A run, and with it its pages, is of one epoch.
    #[must_use]
    pub fn name(&self, backend: &BackendId) -> ObjectName {
        ObjectName::IndexPage { backend: backend.clone(), epoch: self.range.from.epoch(), id: self.uuid }
    }
}

/// The contents of a page.
#[derive(Debug, Clone, PartialEq)]
pub enum Page {
    /// Level 1.
    Handles(Vec<SegmentHandle>),
    /// Above.
    Pages(Vec<PageRef>),
}

impl Totals {
    fn add(self, other: Self) -> Self {
        Self {
            change_sets: self.change_sets + other.change_sets,
            stored_bytes: self.stored_bytes + other.stored_bytes,
            changes: self.changes + other.changes,
        }
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

    /// Sums over the whole run.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let pages = self.pages.iter().map(|page| page.totals);
        pages.chain(self.handles.iter().map(Totals::of)).fold(Totals::default(), Totals::add)
    }

    /// Bytes of change sets that the manifest itself holds.
    #[must_use]
    pub fn inline_bytes(&self) -> usize {
        self.handles.iter().map(SegmentHandle::inline_bytes).sum()
    }

    /// Forgets every page and handle that ends at or before `from`.
    pub fn drop_before(&mut self, from: Sqn) {
        self.pages.retain(|page| page.range.to > from);
        self.handles.retain(|handle| handle.range.to > from);
    }

    /// Forgets every page and handle that begins at or after `to`.
    pub fn drop_from(&mut self, to: Sqn) {
        self.pages.retain(|page| page.range.from < to);
        self.handles.retain(|handle| handle.range.from < to);
    }

    /// Moves the oldest entries of a level that has too many into a new page called `uuid`; returns its bytes, to be made
    /// durable before a manifest with this run is. `None` if every level is within its bound; call again until it is.
    pub fn fold(&mut self, uuid: impl FnOnce() -> Uuid) -> Option<(Uuid, Bytes)> {
        let newest = self.handles.last().map_or(0, SegmentHandle::inline_bytes);
        let is_heavy = self.inline_bytes() - newest > INLINE_BYTES;
        let moved = if is_heavy { self.handles.len() - 1 } else { PAGE_ENTRIES };
        if is_heavy || self.handles.len() > INLINE_ENTRIES {
            let handles: Vec<_> = self.handles.drain(..moved).collect();
            let end = self.pages.len();
            return Some(self.replace(end..end, Page::Handles(handles), uuid()));
        }
        let highest = self.pages.first().map_or(0, |page| page.level);
        for level in 1..=highest {
            let first = self.pages.iter().position(|page| page.level == level).unwrap_or(0);
            let count = self.pages.iter().filter(|page| page.level == level).count();
            if count > INLINE_ENTRIES {
                let range = first..first + PAGE_ENTRIES;
                let pages = self.pages.get(range.clone()).expect("inside the level").to_vec();
                return Some(self.replace(range, Page::Pages(pages), uuid()));
            }
        }
        None
    }

    fn replace(&mut self, range: std::ops::Range<usize>, page: Page, uuid: Uuid) -> (Uuid, Bytes) {
        let bytes = page.encode();
        self.pages.splice(range, [page.reference(uuid, envelope::crc_of(&bytes))]);
        (uuid, bytes)
    }

    pub(super) fn encode(&self, epoch: u64) -> store::Run {
        store::Run {
            epoch,
            pages: self.pages.iter().map(encode_page_ref).collect(),
            handles: self.handles.iter().map(encode_handle).collect(),
        }
    }

    pub(super) fn decode(job: &Name, run: &store::Run) -> Result<Self, &'static str> {
        Ok(Self {
            pages: run.pages.iter().map(decode_page_ref).collect::<Result<_, _>>()?,
            handles: run.handles.iter().map(|handle| decode_handle(job, handle)).collect::<Result<_, _>>()?,
        })
    }
}

impl Page {
    /// The page as an object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (level, pages, handles) = match self {
            Self::Handles(handles) => (1, vec![], handles.iter().map(encode_handle).collect()),
            Self::Pages(pages) => {
                (pages.first().map_or(1, |p| p.level) + 1, pages.iter().map(encode_page_ref).collect(), vec![])
            }
        };
        envelope::seal(Kind::Page, &store::Page { level, pages, handles })
    }

    /// Reads a page of `job`.
    ///
    /// # Errors
    /// If the bytes are damaged, or are not the page that `reference` means.
    pub fn decode(job: &Name, reference: &PageRef, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let page = Self::read(job, bytes)?;
        if envelope::crc_of(bytes) != reference.crc {
            return Err(EnvelopeError::Contents("not the page that its reference means".to_owned()));
        }
        Ok(page)
    }

    /// Reads any page of `job`; for tools.
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub fn read(job: &Name, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::Page = envelope::open(Kind::Page, bytes)?;
        let contents = |what: &'static str| EnvelopeError::Contents(what.to_owned());
        if message.level == 1 {
            let handles = message.handles.iter().map(|handle| decode_handle(job, handle));
            Ok(Self::Handles(handles.collect::<Result<_, _>>().map_err(contents)?))
        } else {
            let pages = message.pages.iter().map(decode_page_ref);
            Ok(Self::Pages(pages.collect::<Result<_, _>>().map_err(contents)?))
        }
    }

    fn reference(&self, uuid: Uuid, crc: u32) -> PageRef {
        let (level, ranges, totals): (u32, Vec<SqnRange>, Totals) = match self {
            Self::Handles(handles) => (
                1,
                handles.iter().map(|handle| handle.range).collect(),
                handles.iter().map(Totals::of).fold(Totals::default(), Totals::add),
            ),
            Self::Pages(pages) => (
                pages.first().map_or(1, |page| page.level) + 1,
                pages.iter().map(|page| page.range).collect(),
                pages.iter().map(|page| page.totals).fold(Totals::default(), Totals::add),
            ),
        };
        let from = ranges.first().map_or(Sqn(0), |range| range.from);
        let to = ranges.last().map_or(Sqn(0), |range| range.to);
        PageRef { uuid, level, range: SqnRange { from, to }, crc, totals }
    }
}

fn encode_page_ref(page: &PageRef) -> store::PageRef {
    store::PageRef {
        uuid: Bytes::copy_from_slice(page.uuid.as_bytes()),
        level: page.level,
        from: page.range.from.0,
        to: page.range.to.0,
        crc: page.crc,
        change_sets: page.totals.change_sets,
        stored_bytes: page.totals.stored_bytes,
        changes: page.totals.changes,
    }
}

fn decode_page_ref(page: &store::PageRef) -> Result<PageRef, &'static str> {
    Ok(PageRef {
        uuid: Uuid::from_slice(&page.uuid).map_err(|_| "a malformed UUID")?,
        level: page.level,
        range: SqnRange { from: Sqn(page.from), to: Sqn(page.to) },
        crc: page.crc,
        totals: Totals { change_sets: page.change_sets, stored_bytes: page.stored_bytes, changes: page.changes },
    })
}

fn encode_handle(handle: &SegmentHandle) -> store::SegmentHandle {
    let (instance, segment, inline) = match &handle.place {
        Place::Segment(id) => (Bytes::copy_from_slice(id.instance.as_bytes()), id.number, Bytes::new()),
        Place::Inline(bytes) => (Bytes::new(), 0, bytes.clone()),
    };
    store::SegmentHandle {
        instance,
        segment,
        inline,
        from: handle.range.from.0,
        to: handle.range.to.0,
        changes: handle.changes,
        blocks: handle
            .blocks
            .iter()
            .map(|block| store::Block {
                offset: block.offset,
                stored_bytes: block.stored_length,
                raw_bytes: block.length,
                crc: block.crc,
                compression: block.compression.code().into(),
                key_group_first: block.key_groups.first().0.into(),
                key_group_last: block.key_groups.last().0.into(),
            })
            .collect(),
    }
}

fn decode_handle(job: &Name, handle: &store::SegmentHandle) -> Result<SegmentHandle, &'static str> {
    let block = |block: &store::Block| {
        let compression = u8::try_from(block.compression).ok().and_then(Compression::from_code);
        Ok(BlockHandle {
            offset: block.offset,
            stored_length: block.stored_bytes,
            length: block.raw_bytes,
            crc: block.crc,
            compression: compression.ok_or("an unknown compression")?,
            key_groups: KeyGroupRange::stored(block.key_group_first, block.key_group_last)
                .map_err(|_| "a malformed range of key groups")?,
        })
    };
    let range = SqnRange { from: Sqn(handle.from), to: Sqn(handle.to) };
    if range.is_empty() {
        return Err("a change set with an empty range");
    }
    let place = if handle.inline.is_empty() {
        let instance = Uuid::from_slice(&handle.instance).map_err(|_| "a malformed UUID")?;
        Place::Segment(SegmentId { job: job.clone(), instance, number: handle.segment })
    } else {
        Place::Inline(handle.inline.clone())
    };
    Ok(SegmentHandle {
        place,
        range,
        changes: handle.changes,
        stored_bytes: handle.blocks.iter().map(|block| u64::from(block.stored_bytes)).sum(),
        blocks: handle.blocks.iter().map(block).collect::<Result<_, &'static str>>()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

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
            }
        }
        out.extend(run.handles.iter().cloned());
        out
    }

    #[test]
    fn a_manifest_holds_a_bounded_part_of_an_endless_log() {
        let (mut run, mut pages, mut next) = (Run::default(), BTreeMap::new(), 0);
        for i in 0..50_000_u64 {
            run.handles.push(handle(i, i + 1));
            while let Some((uuid, bytes)) = run.fold(|| {
                next += 1;
                Uuid::from_u128(next)
            }) {
                assert!(bytes.len() < 10_000);
                pages.insert(uuid, bytes);
            }
            assert!(run.handles.len() <= INLINE_ENTRIES);
            assert!(run.pages.len() <= 3 * INLINE_ENTRIES);
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
        tail.blocks[0] = BlockHandle { offset: 0, stored_length: u32::try_from(bytes).unwrap(), ..tail.blocks[0] };
        tail
    }

    #[test]
    fn tails_in_a_manifest_are_bounded_and_stay_in_order_with_segments() {
        let (mut run, mut pages, mut next) = (Run::default(), BTreeMap::new(), 0);
        for i in 0..10_000_u64 {
            let is_tail = i % 7 != 0;
            run.handles.push(if is_tail { tail(i, i + 1, 1 + (i * 37 % 20_000) as usize) } else { handle(i, i + 1) });
            while let Some((uuid, bytes)) = run.fold(|| {
                next += 1;
                Uuid::from_u128(next)
            }) {
                assert!(bytes.len() < INLINE_BYTES + 50_000, "{}", bytes.len());
                pages.insert(uuid, bytes);
            }
            assert!(run.inline_bytes() <= INLINE_BYTES + 20_000);
            let encoded = prost::Message::encoded_len(&run.encode(1));
            assert!(encoded <= INLINE_BYTES + 20_000 + 40_000, "{encoded} bytes after {i}");
        }
        let all = expand(&run, &pages);
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().zip(0..).all(|(handle, i)| handle.range.from == Sqn(i)));
        assert_eq!(all[8], tail(8, 9, 1 + 8 * 37));
    }

    #[test]
    fn a_page_that_is_another_than_meant_is_refused() {
        let page = Page::Handles(vec![handle(0, 1)]);
        let bytes = page.encode();
        let meant = page.reference(Uuid::nil(), envelope::crc_of(&bytes) ^ 1);
        assert!(Page::decode(&Name::new("job").unwrap(), &meant, &bytes).is_err());
    }
}
