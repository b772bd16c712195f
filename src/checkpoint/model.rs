//! A model of owners that follow and outlive each other: writer, ledger, log index and manifest chain, over a store
//! that only creates absent objects. There are barriers of any kind, uploads in any order, failures, notices of any
//! identity at any time, and zombies. Owners begin with runs of earlier owners, or with imports of them. Bounds are so
//! small that all of it moves into pages again and again.
//!
//! The owners are those that the daemon runs ([`Owner`]). The exploration (`explore`) visits every order of few events;
//! this one visits some orders of many.
//!
//! `DSTL_MODEL_CASES` sets how many runs there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    expand,
    index::{Bounds, NewPage, PageRef, Run, Source},
    ledger::{NoticeKind, NoticeTarget, Retention},
    manifest::{Contents, Manifest, Materialization, SnapshotFile, tests::sample},
    owner::{Barrier, Beginning, Options, Outside, Owner, Publication, RolledOver, Tails},
};
use crate::{
    changelog::{
        block::ChangeSetBuilder,
        compression::Compression,
        segment::{self, ChangeSet, SegmentHandle, SegmentId},
    },
    types::{CheckpointIdentity, Epoch, KeyGroup, Sqn, StateId},
};

/// The only moment. Notices need not wait.
static AT: LazyLock<Instant> = LazyLock::new(Instant::now);

const SOON: Bounds = Bounds { entries: 3, page_entries: 2, inline_bytes: 60 };
const NOW: Bounds = Bounds { entries: 5, page_entries: 2, inline_bytes: 120 };
const SETTLED: Bounds = Bounds { entries: 2, page_entries: 2, inline_bytes: 30 };

/// An owner, with the requests that are under way.
struct Actor {
    owner: Owner,
    uploading: Vec<SegmentHandle>,
    /// The manifest that is being written.
    publishing: Option<Manifest>,
    batches: u64,
    /// Pages that are being written, for the next manifest.
    beside: Vec<NewPage>,
    /// Where the materialization began that is being made.
    making: Option<Sqn>,
    files: u64,
    /// The sources that its epoch began with.
    began: Vec<Source>,
    ended: bool,
}

#[derive(Default)]
struct World {
    chain: Vec<Manifest>,
    /// Numbers of durable segments.
    segments: BTreeSet<u64>,
    owners: Vec<Actor>,
    numbers: u64,
    /// Checkpoints that a reply called restorable, and that were neither let go nor superseded by an owner that did not
    /// restore them.
    promised: Vec<(CheckpointIdentity, u64)>,
    /// Durable pages, by their ids.
    pages: BTreeMap<Uuid, Bytes>,
    /// The contents of each checkpoint, by its UUID: parts of the logs of epochs.
    truth: BTreeMap<Uuid, Vec<Source>>,
    /// The contents of each materialization.
    bases: BTreeMap<Uuid, Vec<Source>>,
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
        (manifest.opens_epoch, manifest.segment_low_water, manifest.snapshot_low_water) = (true, 0, 0);
        manifest.prune(&[]);
        let pages = manifest.settle(&SETTLED, || self.uuid());
        self.write(pages);
        self.chain.push(manifest.clone());
        let parts = manifest.shape.key_groups.parts(128).collect();
        let blocks = ChangeSetBuilder::new(parts, 100);
        let begins = Beginning { manifest, crc: 0, retention: Retention::Count(2), is_claimed: true, blocks };
        let options = Options { soon: SOON, now: NOW, ..Options::new(Duration::ZERO) };
        self.owners.push(Actor {
            owner: Owner::new(begins, options, *AT),
            uploading: vec![],
            publishing: None,
            batches: 0,
            beside: vec![],
            making: None,
            files: 1,
            began,
            ended: false,
        });
    }

    fn write(&mut self, pages: Vec<NewPage>) {
        for page in pages {
            assert_eq!(self.pages.insert(page.reference.uuid, page.bytes), None, "a name that is used again");
        }
    }

    fn page(&self, page: &PageRef) -> Bytes {
        self.pages.get(&page.uuid).expect("a page is named before it is durable").clone()
    }

    fn handles(&self, run: &Run) -> Vec<SegmentHandle> {
        expand::handles(run, &|page| self.page(page))
    }

    /// The parts of the log of `contents`, and what bases and log have together, in order.
    fn read(&self, manifest: &Manifest, contents: &Contents) -> (Vec<expand::Part>, Vec<Source>) {
        let get = |page: &PageRef| self.page(page);
        let (mut parts, mut all) = (vec![], vec![]);
        let mut add = |base: Option<Uuid>, found: Vec<expand::Part>| {
            let of_base = base.iter().flat_map(|base| &self.bases[base]).copied();
            let sources = of_base.chain(found.iter().map(|(source, _)| *source)).collect::<Vec<_>>();
            all = expand::union(std::mem::take(&mut all), &sources);
            parts.extend(found);
        };
        for import in contents.imports.iter().map(|uuid| manifest.import(*uuid).expect("an import")) {
            let found = expand::parts_of(&import.past, &import.sources, &import.runs, &get);
            add(import.materialization.as_ref().map(|base| base.uuid), found);
        }
        let found = expand::parts_of(&contents.past, &contents.sources, &manifest.runs, &get);
        add(contents.base, found);
        (parts, all)
    }

    fn submit(&mut self, of: usize, set: ChangeSet) {
        self.numbers += 1;
        let id = SegmentId { job: set.backend.job.clone(), instance: Uuid::nil(), number: self.numbers };
        self.owners[of].uploading.extend(segment::encode(id, &[set], Compression::None).handles);
    }

    fn barrier(&mut self, of: usize, may_inline: bool) {
        let uuid = self.uuid();
        let Actor { owner, batches, began, .. } = &mut self.owners[of];
        let (id, epoch) = (owner.ledger().last_id() + 1, owner.epoch().number);
        if owner.check(id, 3, 20).is_err() {
            return;
        }
        let tails = Tails { most_bytes: if may_inline { 1_000 } else { 0 }, compression: Compression::None };
        let (cut, rolled) = owner.cut_log(tails);
        if let Some(id) = owner.gives_way(3) {
            owner.fail(id);
        }
        let own = Source { epoch, from: Sqn::first_of(epoch), to: owner.writer().next() };
        let truth = began.iter().copied().chain((own.to > own.from).then_some(own)).collect();
        self.truth.insert(uuid, truth);
        let barrier = Barrier {
            id,
            uuid,
            attachment: Bytes::new(),
            applied_to: *batches,
            triggered_at: 0,
            time: 1,
            states_to: 1,
            missing_states: vec![],
        };
        owner.trigger(barrier, cut);
        if let RolledOver::Upload(set) = rolled {
            self.submit(of, set);
        }
    }

    fn finish_upload(&mut self, of: usize, which: usize, again: bool) {
        let Actor { owner, uploading, .. } = &mut self.owners[of];
        if uploading.is_empty() {
            return;
        }
        let at = which % uploading.len();
        let handle = if again { uploading[at].clone() } else { uploading.remove(at) };
        self.segments.extend(handle.segment().map(|segment| segment.number));
        owner.on_uploaded(handle);
    }

    /// Begins a materialization, or makes the one that was begun durable.
    fn materialize(&mut self, of: usize, succeeds: bool) {
        let uuid = self.uuid();
        let Actor { owner, making, files, began, .. } = &mut self.owners[of];
        let (epoch, complete_at) = (owner.epoch().number, owner.writer().next());
        let Some(from) = making.take() else {
            *making = Some(complete_at);
            return;
        };
        *files += 1;
        let index = SnapshotFile { instance: Uuid::nil(), name: SnapshotFile::name(epoch, *files, "index"), bytes: 0 };
        let made = Materialization { uuid, from, complete_at, index, index_crc: None, stored_bytes: 0, changes: 0 };
        owner.materialized(succeeds.then_some(made), *files + 1);
        let own = Source { epoch, from: Sqn::first_of(epoch), to: complete_at };
        let truth = began.iter().copied().chain((own.to > own.from).then_some(own)).collect();
        self.bases.insert(uuid, truth);
    }

    /// The pages beside the last manifest become durable.
    fn finish_pages(&mut self, of: usize) {
        let beside = std::mem::take(&mut self.owners[of].beside);
        self.write(beside);
        self.owners[of].owner.pages_written();
    }

    fn begin(&mut self, of: usize, folds: bool) {
        if self.owners[of].publishing.is_some() {
            return;
        }
        self.finish_pages(of);
        let (random, next) = (self.uuid(), self.numbers + 1);
        let Actor { owner, uploading, publishing, beside, files, .. } = &mut self.owners[of];
        if folds {
            *beside = owner.next_pages(|| random);
            return self.finish_pages(of);
        }
        let uploading = uploading.iter().filter_map(SegmentHandle::segment).map(|segment| segment.number).min();
        let outside = Outside { segments_to: uploading.unwrap_or(next), next_file: *files + 1 };
        let states = owner.manifest().states.clone();
        let Publication { before, manifest, beside: pages, .. } = owner.begin(outside, states, || random);
        (*publishing, *beside) = (Some(manifest), pages);
        self.write(before);
    }

    fn finish(&mut self, of: usize) {
        let head = self.chain.last().unwrap().number;
        let actor = &mut self.owners[of];
        let Some(manifest) = actor.publishing.take() else { return };
        if manifest.number != head + 1 {
            actor.ended = true;
            return;
        }
        self.chain.push(manifest);
        let published = actor.owner.published(0, *AT).checkpoints;
        self.promised.extend(published.iter().map(|record| (record.identity, record.applied_to)));
    }

    fn notice(&mut self, of: usize, kind: u8, id: u64) {
        let owner = &mut self.owners[of].owner;
        let kinds = [NoticeKind::Complete, NoticeKind::Complete, NoticeKind::Subsume, NoticeKind::Abort];
        let epochs = owner.epoch().number;
        let target = NoticeTarget { epoch: epochs - u64::from(kind / 16).min(epochs - 1) % 2, id: id % 8, uuid: None };
        let kind = kinds[usize::from(kind % 4)];
        if owner.is_failed_by(kind, target) {
            owner.fail(target.id);
        } else {
            owner.notice(kind, target);
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
                let Actor { owner, batches, .. } = &mut self.owners[of];
                let before = owner.writer().active_bytes();
                owner.begin_batch(*batches, 1);
                owner.log().push(KeyGroup(70), |out| out.push(b));
                owner.end_batch(before);
                *batches += 1;
                if kind % 2 == 1 {
                    self.barrier(of, b.is_multiple_of(2));
                } else if !b.is_multiple_of(4)
                    && let Some(set) = owner.roll_over()
                {
                    self.submit(of, set);
                }
            }
            4..=6 => self.finish_upload(of, b.into(), b > 200),
            7..=9 => self.begin(of, b.is_multiple_of(5)),
            10..=11 => self.finish(of),
            12 => self.materialize(of, b > 50),
            13 => self.owners[of].owner.fail(u64::from(b) % 8),
            _ => self.notice(of, b, u64::from(b) / 4),
        }
    }

    /// Checks the checkpoints of the head: each part of their log exists, has no gaps, and is durable.
    fn check(&self) {
        let head = self.chain.last().unwrap();
        for record in &head.checkpoints {
            let (found, sources) = self.read(head, &head.contents(record));
            assert_eq!(sources, self.truth[&record.identity.uuid], "the parts of checkpoint {}", record.identity.id);
            for (source, handles) in found {
                let mut next = source.from;
                for handle in handles.iter().filter(|h| h.range.from < source.to && h.range.to > source.from) {
                    // A base may end within a change set.
                    let is_first = next == source.from && handle.range.from < next;
                    let follows = is_first || handle.range.from == next;
                    assert!(follows, "a gap in the log of checkpoint {}", record.identity.id);
                    next = handle.range.to;
                    let is_there = handle.segment().is_none_or(|segment| self.segments.contains(&segment.number));
                    assert!(is_there, "a segment is named before it is durable");
                }
                assert_eq!(next, source.to, "the log of checkpoint {} is cut off", record.identity.id);
            }
        }
        for Actor { owner, batches, .. } in self.owners.iter().filter(|actor| !actor.ended) {
            let epoch = owner.epoch().number;
            let (confirmed, persisted_to) = (owner.ledger().confirmed_to(), owner.writer().persisted_to());
            assert!(confirmed <= owner.writer().persisted_batches(*batches), "epoch {epoch}: confirmed, not durable");
            let of_head = head.runs.get(&epoch).filter(|_| head.owner().epoch == owner.epoch());
            if persisted_to > Sqn::first_of(epoch) && head.owner().epoch.number == epoch {
                let listed = of_head.map(|run| self.handles(run)).unwrap_or_default();
                let listed = listed.last().map_or(Sqn::first_of(epoch), |h| h.range.to);
                let tails = owner.manifest().runs.get(&epoch).into_iter().flat_map(|run| &run.handles);
                let durable = |h: &&SegmentHandle| h.segment().is_none() && h.range.to <= persisted_to;
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
        for owner in self.owners.iter().map(|actor| &actor.owner).filter(|owner| owner.epoch() == head.owner().epoch) {
            let own = |record: &&super::manifest::CheckpointRecord| record.identity.epoch == owner.epoch().number;
            for record in owner.ledger().retained().iter().filter(own) {
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
