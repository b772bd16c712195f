//! Finds the missing and corrupt objects of retained checkpoints, and the checkpoints that they spoil.
//!
//! ```text
//!   parts ──▶ base indexes, pages (read, verified) ──▶ objects, with the blocks that each part needs of them
//!         ──▶ lengths: asked for one by one, or listed where many lie in one folder
//!         ──▶ small objects: read, each block verified
//! ```
//!
//! No state is loaded. The contents of large objects are not read, so a part without a fault may still have one inside
//! such an object. A restore finds such a fault and reports it; [`survey`] takes known faults into account. To find out
//! whether such a fault is still there, a caller names the object as a suspect; then the needed bytes of it are read.
//!
//! Two reads must agree on each fault: one wrong answer of the store is not enough.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    base::BaseIndex,
    chain,
    index::{Page, PageRef, Run},
    manifest::{CheckpointRecord, Manifest, Materialization, Source},
};
use crate::{
    changelog::segment::SegmentHandle,
    object::{ObjectName, Path, Retry, Store, StoreError},
    types::{BackendId, KeyGroupRange},
};

/// Requests in flight at the same time.
const CONCURRENT_READS: usize = 16;

/// A folder is listed if more than this many of its objects are needed; otherwise each is asked for.
const LIST_ABOVE: usize = 16;

/// Objects up to this many bytes are read.
const SMALL_OBJECT_BYTES: u64 = 64 << 10;

/// Most small objects that one survey reads.
const MAX_SMALL_OBJECTS: usize = 1024;

/// One object that is missing or corrupt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Path of the object.
    pub object: String,
    /// Offset of the fault in the object; `None` if the whole object is at fault.
    pub offset: Option<u64>,
    /// The object, the place and the kind of the fault, for people.
    pub what: String,
    /// Whether the object is gone rather than changed.
    pub missing: bool,
}

impl Fault {
    /// The fault that `object` is missing.
    #[must_use]
    pub fn missing(object: &Path) -> Self {
        Self { object: object.to_string(), offset: None, what: format!("object `{object}` is missing"), missing: true }
    }

    /// The fault that `object` is corrupt; `how` follows its path in the text.
    #[must_use]
    pub fn corrupt(object: &Path, offset: Option<u64>, how: impl std::fmt::Display) -> Self {
        let place = offset.map_or_else(String::new, |offset| format!("byte {offset}: "));
        Self { object: object.to_string(), offset, what: format!("object `{object}`, {place}{how}"), missing: false }
    }

    /// The fault that the newest manifest of a chain lacks something.
    #[must_use]
    pub fn of_manifest(head: &Manifest, how: impl std::fmt::Display) -> Self {
        Self { missing: true, ..Self::corrupt(&chain::manifest_name(&head.backend, head.number).path(), None, how) }
    }
}

/// The damage of some parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Every fault, by object.
    pub faults: Vec<Fault>,
    /// For each part, in the order in which the parts were given: indexes of the faults that spoil it.
    pub of: Vec<BTreeSet<usize>>,
    /// Suspects that were not read, because no part needs them as far as can be seen.
    pub unexamined: BTreeSet<Path>,
    /// Every object that the parts need, beside their manifests.
    pub needed: BTreeSet<Path>,
}

impl Damage {
    /// The first fault that spoils part `part`.
    #[must_use]
    pub fn first_of(&self, part: usize) -> Option<&Fault> {
        self.faults.get(*self.of.get(part)?.first()?)
    }

    fn add(&mut self, fault: Fault, parts: impl IntoIterator<Item = usize>) {
        let index = self.faults.len();
        self.faults.push(fault);
        for part in parts {
            if let Some(of) = self.of.get_mut(part) {
                of.insert(index);
            }
        }
    }
}

/// A range of an object, with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    offset: u64,
    length: u64,
    crc: u32,
}

impl Block {
    /// The end of the range, exclusive.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The bytes of the range in `object`, if the object is long enough.
    fn of<'b>(&self, object: &'b [u8]) -> Option<&'b [u8]> {
        let (from, length) = (usize::try_from(self.offset).ok()?, usize::try_from(self.length).ok()?);
        object.get(from..)?.get(..length)
    }

    /// Checks the bytes of the range; the error says how they differ.
    fn check(&self, stored: Option<&[u8]>) -> Result<(), String> {
        let crc = stored.map(crc32fast::hash);
        if crc == Some(self.crc) {
            return Ok(());
        }
        Err(format!("the checksum is {:08x}, {:08x} recorded", crc.unwrap_or_default(), self.crc))
    }
}

/// An object that lists others.
#[derive(Debug, Clone)]
enum Meta {
    Base(Materialization),
    Page(PageRef),
}

/// The entries that a part needs of such an object.
#[derive(Debug, Clone)]
struct Want {
    part: usize,
    origin: BackendId,
    /// The source whose change sets are needed; `None` for everything that the object lists.
    source: Option<Source>,
    /// The key groups that are needed; `None` for all.
    key_groups: Option<KeyGroupRange>,
}

impl Want {
    fn wants(&self, key_groups: KeyGroupRange) -> bool {
        self.key_groups.is_none_or(|wanted| wanted.overlaps(key_groups))
    }
}

/// An object that lists others, with the entries of it that parts need.
#[derive(Debug, Clone)]
struct WantedMeta {
    meta: Meta,
    wants: Vec<Want>,
}

type Metas = BTreeMap<Path, WantedMeta>;

struct Survey<'s> {
    store: &'s Store,
    retry: Retry,
    /// For each object the ranges that are needed, and by which parts.
    needed: BTreeMap<Path, BTreeMap<Block, BTreeSet<usize>>>,
    /// For each index or page the parts that need it.
    metas: BTreeMap<Path, BTreeSet<usize>>,
    damage: Damage,
}

/// Looks for missing and corrupt objects of `parts`: checkpoints, each with the manifest that retains it. `known` are
/// faults that reads have met. Of `suspects`, the needed bytes are read, however large the objects are. Local copies
/// are ignored. Cancel-safe.
///
/// # Errors
/// If the store does not answer.
pub async fn survey(
    store: &Store,
    parts: &[(&Manifest, &CheckpointRecord)],
    known: &[Fault],
    suspects: &BTreeSet<Path>,
    retry: Retry,
) -> Result<Damage, StoreError> {
    let of = vec![BTreeSet::new(); parts.len()];
    let damage = Damage { of, ..Damage::default() };
    // A copy on this host does not tell what other hosts would find.
    let store = &store.clone().with_copies(None);
    let mut survey = Survey { store, retry, needed: BTreeMap::new(), metas: BTreeMap::new(), damage };
    let mut open = Metas::new();
    for (part, (head, record)) in parts.iter().enumerate() {
        survey.begin(part, head, record, &mut open);
    }
    // Level by level: pages lead to further pages. In each round an object is read once, whichever parts need it.
    while !open.is_empty() {
        open = survey.expand(open).await?;
    }
    survey.verify(suspects).await?;
    let is_known = |path: &&Path| survey.needed.contains_key(*path) || survey.metas.contains_key(*path);
    let unexamined = suspects.iter().filter(|path| !is_known(path)).cloned().collect();
    survey.damage.unexamined = unexamined;
    survey.damage.needed = survey.needed.keys().chain(survey.metas.keys()).cloned().collect();
    // Last, when the needed ranges are known: they tell which parts a known fault spoils.
    for fault in known {
        survey.learn(fault);
    }
    Ok(survey.damage)
}

impl Survey<'_> {
    /// Notes the objects that the manifest itself names for a part.
    fn begin(&mut self, part: usize, head: &Manifest, record: &CheckpointRecord, open: &mut Metas) {
        let contents = head.contents(record);
        let own = Want { part, origin: head.backend.clone(), source: None, key_groups: None };
        match contents.base.map(|uuid| head.materialization(uuid).ok_or(uuid)) {
            Some(Ok(base)) => want_base(&own, base, open),
            // The decoder does not check this reference, so a forged or mended manifest may lack the base.
            Some(Err(uuid)) => {
                let fault = Fault::of_manifest(head, format_args!("the manifest has no materialization {uuid}"));
                self.damage.add(fault, [part]);
            }
            None => {}
        }
        want_pages(&own, &contents.past, open);
        // Without its attachment a checkpoint cannot be restored either.
        want_pages(&own, record.attachment.page().as_slice(), open);
        self.sources(&own, &contents.sources, &head.runs, open);
        for uuid in &contents.imports {
            let Some(import) = head.import(*uuid) else {
                let fault = Fault::of_manifest(head, format_args!("the manifest has no import {uuid}"));
                self.damage.add(fault, [part]);
                continue;
            };
            let key_groups = Some(import.key_groups);
            let want = Want { part, origin: import.origin.clone(), source: None, key_groups };
            if let Some(base) = &import.materialization {
                want_base(&want, base, open);
            }
            want_pages(&want, &import.past, open);
            self.sources(&want, &import.sources, &import.runs, open);
        }
    }

    fn sources(&mut self, want: &Want, sources: &[Source], runs: &BTreeMap<u64, Run>, open: &mut Metas) {
        for source in sources {
            // A source may have no run in the manifest if its part of the log is empty.
            let Some(run) = runs.get(&source.epoch) else { continue };
            self.run(want, source, run, open);
        }
    }

    fn run(&mut self, want: &Want, source: &Source, run: &Run, open: &mut Metas) {
        let want = Want { source: Some(*source), ..want.clone() };
        want_pages(&want, &run.pages, open);
        self.handles(&want, &run.handles);
    }

    /// Notes the ranges that a replay reads.
    fn handles(&mut self, want: &Want, handles: &[SegmentHandle]) {
        let Some(source) = want.source else { return };
        // A cut lies between two change sets, so no handle reaches over the end of the source. One may reach over its
        // beginning, where a base begins in the middle of a change set; it is read, too.
        for handle in handles.iter().filter(|handle| handle.range.to > source.from && handle.range.to <= source.to) {
            // Inlined change sets were read with the manifest.
            let Some(segment) = handle.segment() else { continue };
            let (job, instance, number) = (segment.job.clone(), segment.instance, segment.number);
            let path = ObjectName::Segment { job, instance, number }.path();
            for block in handle.blocks.iter().filter(|block| want.wants(block.key_groups)) {
                let block = Block { offset: block.offset, length: block.stored_length.into(), crc: block.crc };
                self.need(&path, block, want.part);
            }
        }
    }

    fn need(&mut self, path: &Path, block: Block, part: usize) {
        self.needed.entry(path.clone()).or_default().entry(block).or_default().insert(part);
    }

    /// Reads indexes and pages; returns the pages below.
    async fn expand(&mut self, open: Metas) -> Result<Metas, StoreError> {
        let (store, retry) = (self.store, self.retry);
        let reads: Vec<_> = open.into_iter().map(|(path, wanted)| read(store, path, wanted, retry)).collect();
        let mut read = stream::iter(reads).buffered(CONCURRENT_READS);
        let mut below = Metas::new();
        while let Some((path, wanted, bytes)) = read.try_next().await? {
            self.metas.entry(path.clone()).or_default().extend(wanted.wants.iter().map(|want| want.part));
            let mut told = self.tell(&path, &wanted, bytes, &mut below);
            // Two reads have to agree. The second one takes the object as it is now, and its result alone counts.
            if told.is_err() {
                let bytes = store.get_optional(&path, retry).await?;
                told = self.tell(&path, &wanted, bytes, &mut below);
            }
            if let Err(fault) = told {
                self.damage.add(fault, wanted.wants.iter().map(|want| want.part));
            }
        }
        Ok(below)
    }

    /// Notes the objects that an index or page lists, if it is whole.
    fn tell(
        &mut self,
        path: &Path,
        WantedMeta { meta, wants }: &WantedMeta,
        bytes: Option<Bytes>,
        below: &mut Metas,
    ) -> Result<(), Fault> {
        let bytes = bytes.ok_or_else(|| Fault::missing(path))?;
        let told = match meta {
            Meta::Base(base) => BaseIndex::of(base, &bytes).map(|base| self.base(wants, &base)),
            Meta::Page(page) => self.page(page, wants, &bytes, below),
        };
        told.map_err(|error| Fault::corrupt(path, None, error))
    }

    fn base(&mut self, wants: &[Want], base: &BaseIndex) {
        for want in wants {
            for (_, block) in base.stored().filter(|(piece, _)| want.wants(piece.key_groups)) {
                let found = Block { offset: block.offset, length: block.stored_length.into(), crc: block.crc };
                self.need(&block.file.path(&want.origin), found, want.part);
            }
            for stored in base.images().iter().filter(|image| want.wants(image.key_groups)).flat_map(|i| &i.files) {
                let whole = Block { offset: 0, length: stored.file.bytes, crc: stored.crc };
                self.need(&stored.file.path(&want.origin), whole, want.part);
            }
        }
    }

    fn page(
        &mut self,
        page: &PageRef,
        wants: &[Want],
        bytes: &Bytes,
        below: &mut Metas,
    ) -> Result<(), super::envelope::EnvelopeError> {
        let Some(first) = wants.first() else { return Ok(()) };
        match Page::decode(&first.origin.job, page, bytes)? {
            Page::Handles(handles) => wants.iter().for_each(|want| self.handles(want, &handles)),
            Page::Pages(pages) => wants.iter().for_each(|want| want_pages(want, &pages, below)),
            // They name no objects; that the page itself is whole was checked by decoding it.
            Page::Attachments(_) => {}
            Page::Past(stretches) => {
                let of_all = wants.iter().flat_map(|want| stretches.iter().map(move |stretch| (want, stretch)));
                of_all.for_each(|(want, stretch)| self.run(want, &stretch.source, &stretch.run, below));
            }
        }
        Ok(())
    }

    /// Compares lengths, and reads small and suspected objects.
    async fn verify(&mut self, suspects: &BTreeSet<Path>) -> Result<(), StoreError> {
        let mut sizes = self.sizes().await?;
        let needed = std::mem::take(&mut self.needed);
        let (store, retry) = (self.store, self.retry);
        let mut small = vec![];
        for (path, blocks) in &needed {
            let end = blocks.keys().map(|block| block.offset.saturating_add(block.length)).max().unwrap_or(0);
            // A listing may lag behind, or miss an object that was created during it. Asking for the object itself
            // decides.
            if sizes.get(path).is_none_or(|size| *size < end)
                && let Some(meta) = store.head(path, retry).await?
            {
                sizes.insert(path.clone(), meta.size);
            }
            let Some(size) = sizes.get(path).copied() else {
                self.damage.add(Fault::missing(path), blocks.values().flatten().copied());
                continue;
            };
            if size < end {
                let is_cut = |block: &Block| block.end() > size;
                let cut = blocks.iter().filter(|(block, _)| is_cut(block)).flat_map(|(_, parts)| parts);
                let what = format_args!("the object ends there, {end} bytes are recorded");
                self.damage.add(Fault::corrupt(path, Some(size), what), cut.copied());
            } else if suspects.contains(path) {
                self.verify_blocks(path, blocks).await?;
            } else if size <= SMALL_OBJECT_BYTES {
                small.push((path, blocks));
            }
        }
        // Bounded, since a job may have very many of them. The others are judged by their length alone.
        let reads = small.into_iter().take(MAX_SMALL_OBJECTS);
        let reads: Vec<_> = reads.map(|(path, blocks)| read(store, path.clone(), blocks, retry)).collect();
        let mut read = stream::iter(reads).buffered(CONCURRENT_READS);
        while let Some((path, blocks, bytes)) = read.try_next().await? {
            let is_sound = |bytes: &Bytes| blocks.keys().all(|block| block.check(block.of(bytes)).is_ok());
            // One wrong read is no proof. `verify_blocks` reads each range again, and names the block at fault.
            if !bytes.as_ref().is_some_and(is_sound) {
                self.verify_blocks(&path, blocks).await?;
            }
        }
        drop(read);
        self.needed = needed;
        Ok(())
    }

    /// Reads the needed ranges of one object, and notes those whose bytes differ from their checksums.
    async fn verify_blocks(
        &mut self,
        path: &Path,
        blocks: &BTreeMap<Block, BTreeSet<usize>>,
    ) -> Result<(), StoreError> {
        for (block, parts) in blocks {
            // Only the ranges that parts need: damage in bytes that nobody reads spoils nothing.
            let range = block.offset..block.offset.saturating_add(block.length);
            let read =
                self.store.get_range_checked(path, range, self.retry, |bytes| block.check(Some(bytes.as_ref()))).await;
            let fault = match read {
                Ok(Ok(())) => continue,
                Ok(Err(what)) => Fault::corrupt(path, Some(block.offset), what),
                Err(StoreError::NotFound { .. }) => Fault::missing(path),
                // The object was cut since its length was asked for.
                Err(StoreError::OutOfRange { size, .. }) => {
                    Fault::corrupt(path, Some(size), "the object ends there, more is recorded")
                }
                Err(error) => return Err(error),
            };
            self.damage.add(fault, parts.iter().copied());
        }
        Ok(())
    }

    /// The lengths of those needed objects that exist.
    async fn sizes(&self) -> Result<BTreeMap<Path, u64>, StoreError> {
        let mut folders: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
        for path in self.needed.keys() {
            let folder = path.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(path);
        }
        let (store, retry) = (self.store, self.retry);
        let (mut lists, mut heads) = (vec![], vec![]);
        for (folder, paths) in folders {
            if paths.len() > LIST_ABOVE {
                // The folder of a valid path is a valid path.
                let folder = Path::parse(folder).unwrap_or_default();
                lists.push(async move { store.list(&folder, retry).await });
            } else {
                heads.extend(paths.into_iter().map(|path| async move { store.head(path, retry).await }));
            }
        }
        let listed: Vec<_> = stream::iter(lists).buffered(CONCURRENT_READS).try_collect().await?;
        let asked: Vec<_> = stream::iter(heads).buffered(CONCURRENT_READS).try_collect().await?;
        let found = listed.into_iter().flatten().chain(asked.into_iter().flatten());
        Ok(found.map(|meta| (meta.path, meta.size)).collect())
    }

    /// Adds a known fault, unless it was found already.
    fn learn(&mut self, fault: &Fault) {
        let same = |found: &Fault| found.object == fault.object && (found.missing || found.offset == fault.offset);
        // Found by this survey already, and attributed to its parts.
        if self.damage.faults.iter().any(same) {
            return;
        }
        let Ok(path) = Path::parse(&fault.object) else { return self.damage.add(fault.clone(), []) };
        let lies_in = |block: &Block| fault.offset.is_none_or(|at| (block.offset..block.end()).contains(&at));
        let blocks = self.needed.get(&path).into_iter().flatten();
        let mut parts: BTreeSet<usize> =
            blocks.filter(|(block, _)| lies_in(block)).flat_map(|(_, parts)| parts).copied().collect();
        // A fault in an index or page spoils every part that needs it, wherever in the object it is.
        parts.extend(self.metas.get(&path).into_iter().flatten());
        self.damage.add(fault.clone(), parts);
    }
}

fn want_base(want: &Want, base: &Materialization, open: &mut Metas) {
    let entry = open
        .entry(base.index.path(&want.origin))
        .or_insert_with(|| WantedMeta { meta: Meta::Base(base.clone()), wants: vec![] });
    entry.wants.push(want.clone());
}

fn want_pages(want: &Want, pages: &[PageRef], open: &mut Metas) {
    let is_wanted = |page: &&PageRef| want.source.is_none_or(|source| page.range.from < source.to);
    for page in pages.iter().filter(is_wanted) {
        let entry = open
            .entry(page.name(&want.origin).path())
            .or_insert_with(|| WantedMeta { meta: Meta::Page(*page), wants: vec![] });
        entry.wants.push(want.clone());
    }
}

/// Reads one object, `None` if it is missing, and returns `with` beside it.
async fn read<T>(store: &Store, path: Path, with: T, retry: Retry) -> Result<(Path, T, Option<Bytes>), StoreError> {
    let bytes = store.get_optional(&path, retry).await?;
    Ok((path, with, bytes))
}
