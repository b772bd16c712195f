//! A model of owners that follow and outlive each other: writer, ledger, log index and manifest chain, over a store
//! that only creates absent objects. There are barriers of any kind, uploads in any order, failures, notices of any
//! identity at any time, and zombies. Owners begin with runs of earlier owners, or with imports of them. Bounds are so
//! small that all of it moves into pages again and again.
//!
//! The composition of these parts is the model's own (`Owner`), not `backend::Core`. It has no bases.
//!
//! `DSTL_MODEL_CASES` sets how many runs there are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    index::{Bounds, NewPage, Page, PageRef, Run, Source, Stretch},
    ledger::{Awaits, Ledger, NoticeKind, NoticeTarget, Retention},
    manifest::{CheckpointRecord, Contents, Manifest, tests::sample},
};
use crate::{
    changelog::{
        block::ChangeSetBuilder,
        compression::Compression,
        segment::{self, SegmentHandle, SegmentId},
        writer::Writer,
    },
    types::{CheckpointIdentity, Epoch, KeyGroup, Sqn, StateId},
};

const SOON: Bounds = Bounds { entries: 3, page_entries: 2, inline_bytes: 60 };
const NOW: Bounds = Bounds { entries: 5, page_entries: 2, inline_bytes: 120 };
const SETTLED: Bounds = Bounds { entries: 2, page_entries: 2, inline_bytes: 30 };

struct Owner {
    manifest: Manifest,
    writer: Writer,
    ledger: Ledger,
    uploading: Vec<SegmentHandle>,
    /// The manifest that is being written, and the end of its log index.
    publishing: Option<(Manifest, Sqn)>,
    batches: u64,
    next_page: u64,
    /// Pages that are being written, for the next manifest.
    beside: Vec<NewPage>,
    /// The sources that its epoch began with.
    began: Vec<Source>,
    ended: bool,
}

#[derive(Default)]
struct World {
    chain: Vec<Manifest>,
    /// Numbers of durable segments.
    segments: BTreeSet<u64>,
    owners: Vec<Owner>,
    numbers: u64,
    /// Checkpoints that a reply called restorable, and that were neither let go nor superseded by an owner that did not
    /// restore them.
    promised: Vec<(CheckpointIdentity, u64)>,
    /// Durable pages, by their ids.
    pages: BTreeMap<Uuid, Bytes>,
    /// The contents of each checkpoint, by its UUID: parts of the logs of epochs.
    truth: BTreeMap<Uuid, Vec<Source>>,
}

fn writer(manifest: &Manifest) -> Writer {
    let parts = manifest.shape.key_groups.parts(128).collect();
    Writer::new(manifest.backend.clone(), manifest.owner().epoch.number, ChangeSetBuilder::new(parts, 100))
}

impl World {
    fn uuid(&mut self) -> Uuid {
        self.numbers += 1;
        Uuid::from_u128(self.numbers.into())
    }

    fn open(&mut self, is_import: bool) {
        let owner = self.uuid();
        let mut manifest = self.chain.last().cloned().unwrap_or_else(|| {
            let mut first = sample();
            (first.number, first.checkpoints, first.runs) = (0, vec![], std::collections::BTreeMap::new());
            first.epochs.truncate(1);
            first.epochs[0].epoch.number = 0;
            first
        });
        let restored = manifest.checkpoints.last().cloned();
        let began = restored.as_ref().map(|record| self.truth[&record.identity.uuid].clone()).unwrap_or_default();
        let mut record = manifest.owner().clone();
        record.epoch = Epoch { number: record.epoch.number + 1, owner };
        record.attempt += 1;
        record.contents = restored.as_ref().map(|record| manifest.contents(record)).unwrap_or_default();
        if let Some(restored) = restored.as_ref().filter(|_| is_import) {
            let states = BTreeMap::from([(StateId(1), StateId(1))]);
            let imports = manifest.export(restored, manifest.shape.key_groups, &states, || self.uuid());
            record.contents =
                Contents { imports: imports.iter().map(|import| import.uuid).collect(), ..Contents::default() };
            manifest.imports.extend(imports);
        }
        record.restored = restored.map(|record| (record.identity, record.attempt));
        manifest.epochs.push(record);
        manifest.number += 1;
        manifest.prune(&[]);
        let pages = manifest.settle(&SETTLED, || self.uuid());
        self.write(pages);
        let number = manifest.owner().epoch.number;
        let mut ledger = Ledger::new(number, Retention::Count(2), manifest.checkpoints.clone(), 0);
        if let Some((restored, attempt)) = manifest.owner().restored {
            ledger.begin((attempt, restored.id));
        }
        self.chain.push(manifest.clone());
        let (writer, uploading, publishing) = (writer(&manifest), vec![], None);
        let (next_page, beside) = (manifest.page_low_water, vec![]);
        let (batches, ended) = (0, false);
        self.owners.push(Owner {
            manifest,
            writer,
            ledger,
            uploading,
            publishing,
            batches,
            next_page,
            beside,
            began,
            ended,
        });
    }

    fn write(&mut self, pages: Vec<NewPage>) {
        for page in pages {
            assert_eq!(self.pages.insert(page.reference.uuid, page.bytes), None, "a name that is used again");
        }
    }

    /// The contents of `contents` in `manifest`, in order, with all pages read.
    fn read(&self, manifest: &Manifest, contents: &Contents) -> Vec<(Source, Vec<SegmentHandle>)> {
        let imports = contents.imports.iter().map(|uuid| manifest.import(*uuid).expect("an import"));
        let imports = imports.map(|import| (&import.past, &import.sources, &import.runs));
        let parts = imports.chain([(&contents.past, &contents.sources, &manifest.runs)]);
        let mut stretches = vec![];
        for (past, sources, runs) in parts {
            for page in self.leaves(past) {
                let Page::Past(found) = page else { panic!("a past lists sources") };
                stretches.extend(found);
            }
            let run = |source: &Source| runs.get(&source.epoch).expect("the run of a source").clone();
            stretches.extend(sources.iter().map(|source| Stretch { source: *source, run: run(source) }));
        }
        stretches.into_iter().map(|stretch| (stretch.source, self.handles(&stretch.run))).collect()
    }

    fn handles(&self, run: &Run) -> Vec<SegmentHandle> {
        let mut handles = vec![];
        for page in self.leaves(&run.pages) {
            let Page::Handles(found) = page else { panic!("a run lists handles") };
            handles.extend(found);
        }
        handles.extend_from_slice(&run.handles);
        handles
    }

    fn leaves(&self, pages: &[PageRef]) -> Vec<Page> {
        let mut leaves = vec![];
        for page in pages {
            let bytes = self.pages.get(&page.uuid).expect("a page is named before it is durable");
            match Page::decode(&sample().backend.job, page, bytes).unwrap() {
                Page::Pages(pages) => leaves.extend(self.leaves(&pages)),
                leaf => leaves.push(leaf),
            }
        }
        leaves
    }

    fn roll_over(&mut self, of: usize, may_inline: bool) {
        self.numbers += 1;
        let number = self.numbers;
        let owner = &mut self.owners[of];
        let may_inline = may_inline && owner.writer.is_all_listed();
        let Some(set) = owner.writer.roll_over() else { return };
        if may_inline {
            let handle = segment::inline(&set, Compression::None);
            owner.writer.on_inlined(handle.range);
            owner.manifest.runs.entry(set.epoch).or_default().handles.push(handle);
        } else {
            let id = SegmentId { job: owner.manifest.backend.job.clone(), instance: Uuid::nil(), number };
            owner.uploading.extend(segment::encode(id, &[set], Compression::None).handles);
        }
    }

    fn barrier(&mut self, of: usize) {
        let uuid = self.uuid();
        let owner = &mut self.owners[of];
        let (id, epoch) = (owner.ledger.last_id() + 1, owner.manifest.owner().epoch.number);
        if owner.ledger.check(id, 3, 20).is_err() {
            return;
        }
        let record = CheckpointRecord {
            identity: CheckpointIdentity { epoch, id, uuid },
            cut: owner.writer.next(),
            applied_to: owner.batches,
            attachment: Bytes::new().into(),
            completed: false,
            base: None,
            ..sample().checkpoints[0].clone()
        };
        let own = Source { epoch, from: Sqn::first_of(epoch), to: record.cut };
        let truth = owner.began.iter().copied().chain((own.to > own.from).then_some(own)).collect();
        self.truth.insert(uuid, truth);
        owner.ledger.trigger(record, Awaits::Log);
    }

    fn finish_upload(&mut self, of: usize, which: usize, again: bool) {
        let owner = &mut self.owners[of];
        if owner.uploading.is_empty() {
            return;
        }
        let at = which % owner.uploading.len();
        let handle = if again { owner.uploading[at].clone() } else { owner.uploading.remove(at) };
        self.segments.extend(handle.segment().map(|segment| segment.number));
        let uploaded = owner.writer.on_uploaded(handle);
        let epoch = owner.manifest.owner().epoch.number;
        if !uploaded.handles.is_empty() {
            owner.manifest.runs.entry(epoch).or_default().handles.extend(uploaded.handles);
        }
    }

    fn begin(&mut self, of: usize) {
        let owner = &mut self.owners[of];
        if owner.publishing.is_some() {
            return;
        }
        let beside = std::mem::take(&mut owner.beside);
        self.write(beside);
        let random = self.uuid();
        let owner = &mut self.owners[of];
        let listed_to = owner.writer.listed_to();
        let (_, records) = owner.ledger.begin_publishing(listed_to);
        let before = owner.manifest.fold(&NOW, &mut owner.next_page, || random);
        owner.manifest.page_low_water = owner.next_page;
        owner.manifest.number += 1;
        owner.manifest.checkpoints = records;
        let in_flight: Vec<_> = owner.ledger.in_flight_records().map(|r| owner.manifest.contents(r)).collect();
        owner.manifest.prune(&in_flight);
        owner.publishing = Some((owner.manifest.clone(), listed_to));
        owner.beside = owner.manifest.fold(&SOON, &mut owner.next_page, || random);
        self.write(before);
    }

    fn finish(&mut self, of: usize) {
        let head = self.chain.last().unwrap().number;
        let owner = &mut self.owners[of];
        let Some((manifest, listed_to)) = owner.publishing.take() else { return };
        if manifest.number != head + 1 {
            owner.ended = true;
            return;
        }
        self.chain.push(manifest);
        owner.writer.on_published(listed_to);
        let published = owner.ledger.published();
        self.promised.extend(published.iter().map(|record| (record.identity, record.applied_to)));
    }

    fn notice(&mut self, of: usize, kind: u8, id: u64) {
        let owner = &mut self.owners[of];
        let kinds = [NoticeKind::Complete, NoticeKind::Complete, NoticeKind::Subsume, NoticeKind::Abort];
        let epochs = owner.manifest.owner().epoch.number;
        let target = NoticeTarget { epoch: epochs - u64::from(kind / 16).min(epochs - 1) % 2, id: id % 8, uuid: None };
        if kinds[usize::from(kind % 4)] == NoticeKind::Abort && owner.ledger.means_in_flight(target) {
            owner.ledger.fail(target.id);
        } else {
            owner.ledger.notice(kinds[usize::from(kind % 4)], target);
        }
    }

    fn act(&mut self, kind: u8, a: u8, b: u8) {
        let newest = self.owners.len() - 1;
        // The other owners are zombies.
        let of = if a < 160 { newest } else { usize::from(a) % self.owners.len() };
        if kind.is_multiple_of(16) && self.owners.len() < 8 {
            return self.open(b.is_multiple_of(3));
        }
        if self.owners[of].ended {
            return;
        }
        match kind % 16 {
            0..=3 => {
                let owner = &mut self.owners[of];
                owner.writer.begin_batch(owner.batches, 1);
                owner.writer.push(KeyGroup(70), |out| out.push(b));
                owner.writer.end_batch(0);
                owner.batches += 1;
                self.roll_over(of, b.is_multiple_of(2));
                if kind % 2 == 1 {
                    self.barrier(of);
                }
            }
            4..=6 => self.finish_upload(of, b.into(), b > 200),
            7..=9 => self.begin(of),
            10..=12 => self.finish(of),
            13 => drop(self.owners[of].ledger.fail(u64::from(b) % 8)),
            _ => self.notice(of, b, u64::from(b) / 4),
        }
    }

    /// Checks the checkpoints of the head: each part of their log exists, has no gaps, and is durable.
    fn check(&self) {
        let head = self.chain.last().unwrap();
        for record in &head.checkpoints {
            let found = self.read(head, &head.contents(record));
            let sources: Vec<Source> = found.iter().map(|(source, _)| *source).collect();
            assert_eq!(sources, self.truth[&record.identity.uuid], "the parts of checkpoint {}", record.identity.id);
            for (source, handles) in found {
                let mut next = source.from;
                for handle in handles.iter().filter(|h| h.range.from < source.to && h.range.to > source.from) {
                    assert_eq!(handle.range.from, next, "a gap in the log of checkpoint {}", record.identity.id);
                    next = handle.range.to;
                    let is_there = handle.segment().is_none_or(|segment| self.segments.contains(&segment.number));
                    assert!(is_there, "a segment is named before it is durable");
                }
                assert_eq!(next, source.to, "the log of checkpoint {} is cut off", record.identity.id);
            }
        }
        for owner in self.owners.iter().filter(|owner| !owner.ended) {
            let epoch = owner.manifest.owner().epoch.number;
            let confirmed = owner.ledger.confirmed_to();
            assert!(
                confirmed <= owner.writer.persisted_batches(owner.batches),
                "epoch {epoch}: confirmed, not durable"
            );
            let of_head = head.runs.get(&epoch).filter(|_| head.owner().epoch == owner.manifest.owner().epoch);
            if owner.writer.persisted_to() > Sqn::first_of(epoch) && head.owner().epoch.number == epoch {
                let listed = of_head.map(|run| self.handles(run)).unwrap_or_default();
                let listed = listed.last().map_or(Sqn::first_of(epoch), |h| h.range.to);
                let tails = owner.manifest.runs.get(&epoch).into_iter().flat_map(|run| &run.handles);
                let durable = |h: &&SegmentHandle| h.segment().is_none() && h.range.to <= owner.writer.persisted_to();
                assert!(tails.filter(durable).all(|h| h.range.to <= listed), "a tail that no manifest has");
            }
        }
        let present = head.owner();
        let runs = head.runs.iter().filter(|(epoch, _)| **epoch != present.epoch.number).map(|(_, run)| run);
        for run in runs.chain(head.imports.iter().flat_map(|import| import.runs.values())) {
            assert!(is_within(&SETTLED, run), "{run:?}");
        }
        assert!(head.runs.get(&present.epoch.number).is_none_or(|run| is_within(&NOW, run)));
        let pasts = head.imports.iter().map(|import| (&import.past, &import.sources));
        let pasts = pasts.chain(head.epochs.iter().map(|record| (&record.contents.past, &record.contents.sources)));
        for (past, sources) in pasts {
            assert!(sources.len() <= SETTLED.entries && levels_are_within(&SETTLED, past));
        }
        // A checkpoint that was replied stays restorable until its owner is told otherwise.
        for owner in self.owners.iter().filter(|owner| head.owner().epoch == owner.manifest.owner().epoch) {
            for record in
                owner.ledger.retained().iter().filter(|record| record.identity.epoch == head.owner().epoch.number)
            {
                let is_promised = self.promised.iter().any(|(identity, _)| *identity == record.identity);
                let is_named = head.checkpoints.iter().any(|named| named.identity == record.identity);
                assert!(is_named || !is_promised, "checkpoint {} was replied and is gone", record.identity.id);
            }
        }
    }
}

fn is_within(bounds: &Bounds, run: &Run) -> bool {
    let handles = run.handles.len() <= bounds.entries && run.inline_bytes() <= bounds.inline_bytes;
    handles && levels_are_within(bounds, &run.pages)
}

fn levels_are_within(bounds: &Bounds, pages: &[PageRef]) -> bool {
    (1..20).all(|level| pages.iter().filter(|page| page.level == level).count() <= bounds.entries)
        && pages.is_sorted_by(|a, b| a.level >= b.level && a.range.to <= b.range.from)
}

fn cases() -> u32 {
    std::env::var("DSTL_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_head_names_is_durable_and_what_was_replied_is_named(
        acts in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..200)
    ) {
        let mut world = World::default();
        world.open(false);
        for (kind, a, b) in acts {
            world.act(kind, a, b);
            world.check();
        }
    }
}
