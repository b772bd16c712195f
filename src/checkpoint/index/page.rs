//! Pages of the log index, as objects.

use bytes::Bytes;
use uuid::Uuid;

use super::{Home, NewPage, PageRef, Run, Source, Stretch, Totals};
use crate::{
    changelog::{
        compression::Compression,
        segment::{BlockHandle, Place, SegmentHandle, SegmentId},
    },
    checkpoint::envelope::{self, EnvelopeError, Kind},
    proto::store,
    types::{KeyGroupRange, Name, Sqn, SqnRange},
};

/// The contents of a page.
#[derive(Debug, Clone, PartialEq)]
pub enum Page {
    /// Level 1 of a run.
    Handles(Vec<SegmentHandle>),
    /// Level 1 of a past.
    Past(Vec<Stretch>),
    /// Above.
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
            Self::Pages(pages) => message.pages = pages.iter().map(encode_page_ref).collect(),
        }
        let bytes = envelope::seal(Kind::Page, &message);
        let crc = envelope::crc_of(&bytes);
        let (range, totals) = (self.range(), self.totals());
        NewPage { reference: PageRef { uuid, home, level: message.level, range, crc, totals }, bytes }
    }

    /// Reads a page of `job`.
    ///
    /// # Errors
    /// If the bytes are damaged, or are not the page that `reference` means.
    pub fn decode(job: &Name, reference: &PageRef, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (page, ..) = Self::read(job, bytes)?;
        if envelope::crc_of(bytes) != reference.crc {
            return Err(EnvelopeError::Contents("not the page that its reference means".to_owned()));
        }
        Ok(page)
    }

    /// Reads any page of `job`, and what it says where it lies; for tools.
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub fn read(job: &Name, bytes: &[u8]) -> Result<(Self, Home, Uuid), EnvelopeError> {
        let message: store::Page = envelope::open(Kind::Page, bytes)?;
        decode(job, &message).map_err(|what| EnvelopeError::Contents(what.to_owned()))
    }

    /// 1, or one more than that of the pages that it lists.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Handles(_) | Self::Past(_) => 1,
            Self::Pages(pages) => pages.first().map_or(1, |page| page.level) + 1,
        }
    }

    fn range(&self) -> SqnRange {
        let ends = match self {
            Self::Handles(handles) => handles.first().zip(handles.last()).map(|(a, b)| (a.range.from, b.range.to)),
            Self::Past(stretches) => stretches.first().zip(stretches.last()).map(|(a, b)| (a.source.from, b.source.to)),
            Self::Pages(pages) => pages.first().zip(pages.last()).map(|(a, b)| (a.range.from, b.range.to)),
        };
        let (from, to) = ends.unwrap_or((Sqn(0), Sqn(0)));
        SqnRange { from, to }
    }

    fn totals(&self) -> Totals {
        match self {
            Self::Handles(handles) => Totals::sum(handles.iter().map(Totals::of)),
            Self::Past(stretches) => Totals::sum(stretches.iter().map(|stretch| stretch.run.totals())),
            Self::Pages(pages) => Totals::sum(pages.iter().map(|page| page.totals)),
        }
    }
}

fn decode(job: &Name, message: &store::Page) -> Result<(Page, Home, Uuid), &'static str> {
    let uuid = Uuid::from_slice(&message.uuid).map_err(|_| "a malformed UUID")?;
    let home = Home { subtask: message.home_subtask, epoch: message.home_epoch };
    let page = match (message.level, message.past.is_empty()) {
        (1, true) => {
            Page::Handles(message.handles.iter().map(|handle| decode_handle(job, handle)).collect::<Result<_, _>>()?)
        }
        (1, false) => {
            Page::Past(message.past.iter().map(|stretch| decode_stretch(job, stretch)).collect::<Result<_, _>>()?)
        }
        _ => Page::Pages(decode_page_refs(&message.pages)?),
    };
    Ok((page, home, uuid))
}

fn encode_stretch(stretch: &Stretch) -> store::Stretch {
    let Stretch { source, run } = stretch;
    store::Stretch { source: Some(encode_source(source)), run: Some(run.encode(source.epoch)) }
}

fn decode_stretch(job: &Name, message: &store::Stretch) -> Result<Stretch, &'static str> {
    let source = message.source.as_ref().ok_or("a stretch without source")?;
    let run = message.run.as_ref().ok_or("a stretch without run")?;
    Ok(Stretch { source: decode_source(source), run: Run::decode(job, run)? })
}

pub(in crate::checkpoint) fn encode_source(source: &Source) -> store::Source {
    store::Source { epoch: source.epoch, from: source.from.0, to: source.to.0 }
}

pub(in crate::checkpoint) fn decode_source(message: &store::Source) -> Source {
    Source { epoch: message.epoch, from: Sqn(message.from), to: Sqn(message.to) }
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

pub(in crate::checkpoint) fn decode_page_refs(pages: &[store::PageRef]) -> Result<Vec<PageRef>, &'static str> {
    let decode = |page: &store::PageRef| {
        Ok(PageRef {
            uuid: Uuid::from_slice(&page.uuid).map_err(|_| "a malformed UUID")?,
            home: Home { subtask: page.home_subtask, epoch: page.home_epoch },
            level: page.level,
            range: SqnRange { from: Sqn(page.from), to: Sqn(page.to) },
            crc: page.crc,
            totals: Totals { change_sets: page.change_sets, stored_bytes: page.stored_bytes, changes: page.changes },
        })
    };
    pages.iter().map(decode).collect()
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
