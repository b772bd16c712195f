//! Pages of the log index, as objects.

use bytes::Bytes;
use uuid::Uuid;

use super::{Home, NewPage, PageRef, Run, Source, Stretch, Totals};
use crate::{
    changelog::{
        compression::Compression,
        segment::{BlockHandle, Place, SegmentHandle, SegmentId},
    },
    checkpoint::{
        envelope::{self, EnvelopeError, Kind},
        handle::{identity_of, name_of},
    },
    proto::store,
    types::{CheckpointIdentity, KeyGroupRange, Name, Sqn, SqnRange},
};

/// Highest level of a page. Each level has 64 times as many change sets as the one below, so real pages stay far below
/// it.
const MAX_LEVEL: u32 = 32;

/// The contents of a page.
#[derive(Debug, Clone, PartialEq)]
pub enum Page {
    /// Change sets of a run; level 1.
    Handles(Vec<SegmentHandle>),
    /// Sources of a past with their runs; level 1.
    Past(Vec<Stretch>),
    /// Attachments of checkpoints, which are no part of the log: level 1, with an empty range.
    Attachments(Vec<(CheckpointIdentity, Bytes)>),
    /// Pages of the next lower level.
    Pages(Vec<PageRef>),
}

impl Page {
    /// The page as the object `uuid` at `home`.
    #[must_use]
    pub fn seal(&self, home: Home, uuid: Uuid) -> NewPage {
        let mut message = store::Page {
            level: self.level(),
            uuid: Bytes::copy_from_slice(uuid.as_bytes()),
            home_subtask: home.subtask,
            home_epoch: home.epoch,
            ..store::Page::default()
        };
        match self {
            Self::Handles(handles) => message.handles = handles.iter().map(encode_handle).collect(),
            Self::Past(stretches) => message.past = stretches.iter().map(encode_stretch).collect(),
            Self::Attachments(all) => message.attachments = all.iter().map(encode_attachment).collect(),
            Self::Pages(pages) => message.pages = pages.iter().map(encode_page_ref).collect(),
        }
        let bytes = envelope::seal(Kind::Page, &message);
        let crc = envelope::crc_of(&bytes);
        let (range, totals) = (self.range(), self.totals());
        NewPage { reference: PageRef { uuid, home, level: message.level, range, crc, totals }, bytes }
    }

    /// Reads the page of `job` that `reference` means.
    ///
    /// # Errors
    /// If the bytes are damaged, or are another page.
    pub fn decode(job: &Name, reference: &PageRef, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (page, home, uuid) = Self::read(job, bytes)?;
        let (level, crc, range, totals) = (page.level(), envelope::crc_of(bytes), page.range(), page.totals());
        // The whole reference is compared, and not the checksum alone: sums and ranges of references decide which pages
        // a reader opens and how long it expects to take, so they have to be true.
        if *reference != (PageRef { uuid, home, level, range, crc, totals }) {
            return Err(EnvelopeError::Contents("not the page that its reference means".to_owned()));
        }
        Ok(page)
    }

    /// Reads any page of `job`, with the place and UUID that it records; for tools.
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub fn read(job: &Name, bytes: &[u8]) -> Result<(Self, Home, Uuid), EnvelopeError> {
        let message: store::Page = envelope::open(Kind::Page, bytes)?;
        decode(job, &message).map_err(|what| EnvelopeError::Contents(what.to_owned()))
    }

    /// 1 for a page without pages, otherwise one more than the level of the pages in it.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Handles(_) | Self::Past(_) | Self::Attachments(_) => 1,
            // All pages in it are of one level, as `check` makes sure.
            Self::Pages(pages) => pages.first().map_or(1, |page| page.level) + 1,
        }
    }

    fn range(&self) -> SqnRange {
        let ends = match self {
            Self::Handles(handles) => handles.first().zip(handles.last()).map(|(a, b)| (a.range.from, b.range.to)),
            Self::Past(stretches) => stretches.first().zip(stretches.last()).map(|(a, b)| (a.source.from, b.source.to)),
            Self::Pages(pages) => pages.first().zip(pages.last()).map(|(a, b)| (a.range.from, b.range.to)),
            Self::Attachments(_) => None,
        };
        let (from, to) = ends.unwrap_or((Sqn(0), Sqn(0)));
        SqnRange { from, to }
    }

    fn totals(&self) -> Totals {
        match self {
            Self::Handles(handles) => Totals::sum(handles.iter().map(Totals::of)),
            Self::Past(stretches) => Totals::sum(stretches.iter().map(|stretch| stretch.run.totals())),
            Self::Pages(pages) => Totals::sum(pages.iter().map(|page| page.totals)),
            Self::Attachments(_) => Totals::default(),
        }
    }
}

fn decode(job: &Name, message: &store::Page) -> Result<(Page, Home, Uuid), &'static str> {
    let uuid = Uuid::from_slice(&message.uuid).map_err(|_| "a malformed UUID")?;
    let home = Home { subtask: message.home_subtask, epoch: message.home_epoch };
    let store::Page { pages, handles, past, attachments, .. } = message;
    // Exactly one list has entries. A page of two kinds would be read as one of them, and the entries of the other be
    // lost.
    let page = match (pages.is_empty(), handles.is_empty(), past.is_empty(), attachments.is_empty()) {
        (true, false, true, true) => {
            Page::Handles(handles.iter().map(|handle| decode_handle(job, handle)).collect::<Result<_, _>>()?)
        }
        (true, true, false, true) => {
            Page::Past(past.iter().map(|stretch| decode_stretch(job, stretch)).collect::<Result<_, _>>()?)
        }
        (true, true, true, false) => {
            Page::Attachments(attachments.iter().map(decode_attachment).collect::<Result<_, _>>()?)
        }
        (false, true, true, true) => Page::Pages(decode_page_refs(pages)?),
        _ => return Err("a page that has not exactly one list"),
    };
    check(&page)?;
    if page.level() != message.level {
        return Err("a page of another level than its entries make it");
    }
    Ok((page, home, uuid))
}

/// Checks that the entries follow each other without overlap, and that listed pages are of one level. So no entry is
/// listed twice. Since a page must also be exactly what its reference says, range included, the number of listed
/// entries is bounded by the objects that exist.
fn check(page: &Page) -> Result<(), &'static str> {
    match page {
        Page::Handles(handles) => ascend(handles.iter().map(|handle| handle.range)),
        Page::Past(stretches) => ascend(stretches.iter().map(|stretch| stretch.source.range())),
        Page::Attachments(_) => Ok(()),
        Page::Pages(pages) => {
            if pages.windows(2).any(|pair| matches!(pair, [one, next] if one.level != next.level)) {
                return Err("a page of pages of several levels");
            }
            ascend(pages.iter().map(|page| page.range))
        }
    }
}

/// Checks that no range is empty, and that none begins before the end of the one before it.
pub(in crate::checkpoint) fn ascend(ranges: impl Iterator<Item = SqnRange>) -> Result<(), &'static str> {
    let mut end = Sqn(0);
    for range in ranges {
        if range.is_empty() || range.from < end {
            return Err("parts of the log that are empty, overlap, or are out of order");
        }
        end = range.to;
    }
    Ok(())
}

fn encode_attachment((of, bytes): &(CheckpointIdentity, Bytes)) -> store::Attachment {
    store::Attachment { name: Some(name_of(of)), bytes: bytes.clone() }
}

fn decode_attachment(message: &store::Attachment) -> Result<(CheckpointIdentity, Bytes), &'static str> {
    let of = message.name.as_ref().and_then(identity_of).ok_or("an attachment without checkpoint")?;
    Ok((of, message.bytes.clone()))
}

fn encode_stretch(stretch: &Stretch) -> store::Stretch {
    let Stretch { source, run } = stretch;
    store::Stretch { source: Some(encode_source(source)), run: Some(run.encode(source.epoch)) }
}

fn decode_stretch(job: &Name, message: &store::Stretch) -> Result<Stretch, &'static str> {
    let source = message.source.as_ref().ok_or("a stretch without source")?;
    let run = message.run.as_ref().ok_or("a stretch without run")?;
    // Sequence numbers of the source would otherwise be looked up in a run that cannot have them.
    if run.epoch != source.epoch {
        return Err("a stretch whose run is of another epoch");
    }
    Ok(Stretch { source: decode_source(source)?, run: Run::decode(job, run)? })
}

pub(in crate::checkpoint) fn encode_source(source: &Source) -> store::Source {
    store::Source { epoch: source.epoch, from: source.from.0, to: source.to.0 }
}

pub(in crate::checkpoint) fn decode_source(message: &store::Source) -> Result<Source, &'static str> {
    let source = Source { epoch: message.epoch, from: Sqn(message.from), to: Sqn(message.to) };
    // A range over two epochs could not be looked up in one run.
    if !source.range().is_of(source.epoch) {
        return Err("a source that is no part of its epoch");
    }
    Ok(source)
}

pub(in crate::checkpoint) fn encode_page_ref(page: &PageRef) -> store::PageRef {
    store::PageRef {
        uuid: Bytes::copy_from_slice(page.uuid.as_bytes()),
        level: page.level,
        from: page.range.from.0,
        to: page.range.to.0,
        crc: page.crc,
        change_sets: page.totals.change_sets,
        stored_bytes: page.totals.stored_bytes,
        changes: page.totals.changes,
        home_subtask: page.home.subtask,
        home_epoch: page.home.epoch,
    }
}

fn decode_page_refs(pages: &[store::PageRef]) -> Result<Vec<PageRef>, &'static str> {
    pages.iter().map(decode_page_ref).collect()
}

pub(in crate::checkpoint) fn decode_page_ref(page: &store::PageRef) -> Result<PageRef, &'static str> {
    // `Page::level` adds to it, where a forged one would overflow.
    if !(1..=MAX_LEVEL).contains(&page.level) {
        return Err("a page of a level that there is not");
    }
    Ok(PageRef {
        uuid: Uuid::from_slice(&page.uuid).map_err(|_| "a malformed UUID")?,
        home: Home { subtask: page.home_subtask, epoch: page.home_epoch },
        level: page.level,
        range: SqnRange { from: Sqn(page.from), to: Sqn(page.to) },
        crc: page.crc,
        totals: Totals { change_sets: page.change_sets, stored_bytes: page.stored_bytes, changes: page.changes },
    })
}

/// Decodes a list of pages, each of which follows the one before.
pub(in crate::checkpoint) fn decode_past(pages: &[store::PageRef]) -> Result<Vec<PageRef>, &'static str> {
    let pages = decode_page_refs(pages)?;
    ascend(pages.iter().map(|page| page.range))?;
    Ok(pages)
}

pub(super) fn encode_handle(handle: &SegmentHandle) -> store::SegmentHandle {
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

pub(super) fn decode_handle(job: &Name, handle: &store::SegmentHandle) -> Result<SegmentHandle, &'static str> {
    let range = SqnRange { from: Sqn(handle.from), to: Sqn(handle.to) };
    if range.is_empty() {
        return Err("a change set with an empty range");
    }
    // A change set has at least one change, so an inlined one is never empty.
    let place = if handle.inline.is_empty() {
        let instance = Uuid::from_slice(&handle.instance).map_err(|_| "a malformed UUID")?;
        Place::Segment(SegmentId { job: job.clone(), instance, number: handle.segment })
    } else {
        Place::Inline(handle.inline.clone())
    };
    let blocks: Vec<BlockHandle> =
        handle.blocks.iter().map(|block| decode_block(&place, block)).collect::<Result<_, _>>()?;
    // Disjoint key groups let a reader replay the blocks one after the other: a key's changes all lie in one of them.
    if blocks.is_empty() || !blocks.is_sorted_by(|one, next| one.key_groups.last() < next.key_groups.first()) {
        return Err("a change set without blocks, or with blocks whose key groups overlap");
    }
    let stored_bytes = blocks.iter().map(|block| u64::from(block.stored_length)).sum();
    Ok(SegmentHandle { place, range, changes: handle.changes, stored_bytes, blocks })
}

fn decode_block(place: &Place, block: &store::Block) -> Result<BlockHandle, &'static str> {
    let compression = u8::try_from(block.compression).ok().and_then(Compression::from_code);
    let block = BlockHandle {
        offset: block.offset,
        stored_length: block.stored_bytes,
        length: block.raw_bytes,
        crc: block.crc,
        compression: compression.ok_or("an unknown compression")?,
        key_groups: KeyGroupRange::stored(block.key_group_first, block.key_group_last)
            .map_err(|_| "a malformed range of key groups")?,
    };
    // Before any reader takes memory by these lengths.
    block.compression.check(u64::from(block.stored_length), u64::from(block.length))?;
    let end = block.stored_range().map(|range| range.end);
    let is_there = match place {
        // The length of the segment is unknown here; only its end can be computed.
        Place::Segment(_) => end.is_some(),
        Place::Inline(bytes) => end.is_some_and(|end| end <= bytes.len() as u64),
    };
    if is_there { Ok(block) } else { Err("a block that ends beyond what it lies in") }
}
