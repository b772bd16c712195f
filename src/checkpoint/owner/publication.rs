//! Manifests: when one is wanted, its contents, and what follows once it is durable.
//!
//! A manifest also promises which objects no later one will name unless it names them itself: the *low waters* of
//! segments, snapshot files and pages. A sweep deletes the objects below them that are not named. So a low water may
//! never be too high, and should be no lower than necessary.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    rules::Rule,
    state::{Owner, Publishing, Sustained},
};
use crate::{
    checkpoint::{
        chain,
        index::{Bounds, NewPage},
        manifest::{CheckpointRecord, Contents, Manifest, Registration},
    },
    types::{CheckpointId, StateId},
};

/// A silent owner keeps the segments of this daemon from deletion. Once it keeps this many, it publishes a manifest
/// with a higher low water after [`LOW_WATER_DELAY`].
const LOW_WATER_STEP: u64 = 32;

/// How long after its last manifest a silent owner publishes a higher low water.
const LOW_WATER_DELAY: Duration = Duration::from_secs(30);

/// How long after its last manifest a silent owner publishes a higher low water if it keeps fewer than
/// [`LOW_WATER_STEP`] segments.
const LOW_WATER_SILENCE: Duration = Duration::from_secs(300);

/// Numbers that objects of this owner have reached.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// Segments of this daemon below this number are uploaded or given up, and this owner was told. Read it before the
    /// manifest begins: every segment below it is then listed, or never will be.
    pub segments_to: u64,
    /// The number of the next snapshot file.
    pub next_file: u64,
}

/// A manifest to write, and the pages that belong to it.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Pages that this manifest names, so they must be durable before it. There are some only if more entries came than
    /// could be moved into pages earlier.
    pub before: Vec<NewPage>,
    /// The manifest to write.
    pub manifest: Manifest,
    /// Pages that the next manifest names. They may be written at the same time as this one, and must be durable before
    /// the next one begins: see [`Owner::pages_written`].
    pub beside: Vec<NewPage>,
    /// Checkpoints that it publishes: their contents are durable.
    pub publishes: Vec<CheckpointId>,
    /// Whether checkpoints of older owners were let go.
    pub lets_go: bool,
}

/// The effect of a durable manifest.
#[derive(Debug)]
pub struct Published {
    /// The checkpoints that it publishes, lowest id first. Only now may anyone hear of them.
    pub checkpoints: Vec<CheckpointRecord>,
    /// Bytes of changes that no longer have to stay in memory.
    pub released_bytes: u64,
}

impl Owner {
    /// Notes since when notices wait for a manifest.
    pub fn note_notices(&mut self, now: Instant) {
        self.dirty_since = self.ledger.is_dirty().then(|| self.dirty_since.unwrap_or(now));
    }

    /// When notices that were [noted](Self::note_notices) want a manifest.
    #[must_use]
    pub fn notices_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.options.notice_delay)
    }

    /// Whether a manifest is wanted now. `is_asked` says that callers wait for one.
    #[must_use]
    pub fn is_due(&self, now: Instant, outside: Outside, is_asked: bool) -> bool {
        // Ordering: a manifest begins only when nothing of the one before is under way. Two manifests at once would be
        // derived from the same predecessor, and the second would record a checksum that is not its predecessor's. And
        // pages under way are named by this manifest's log index already: if it became durable first, a crash in
        // between would leave a head that names a page which does not exist.
        if self.publishing != Publishing::Idle || self.pages_under_way {
            return false;
        }
        let dirty_since = self.dirty_since.unwrap_or(now);
        let is_dirty = self.ledger.is_dirty() && self.obeys(Rule::RemovalsArePublished);
        let notices_due = is_dirty && dirty_since + self.options.notice_delay <= now;
        // Also if the checkpoint of an inlined tail has failed: its changes become durable, and their memory free, only
        // with a manifest.
        let is_ready = self.ledger.is_ready(self.writer.listed_to()) || self.writer.awaits_manifest();
        is_ready || notices_due || self.withdrawing || is_asked || self.is_waited_for(now, outside)
    }

    /// Whether segments are kept only because this owner has not published its low water for a while.
    fn is_waited_for(&self, now: Instant, outside: Outside) -> bool {
        let behind = self.segment_low_water(outside).saturating_sub(self.manifest.segment_low_water);
        behind >= LOW_WATER_STEP && self.is_silent_for(LOW_WATER_DELAY, now)
            || behind > 0 && self.is_silent_for(LOW_WATER_SILENCE, now)
    }

    /// Whether the owner neither published nor checked the chain for `time`.
    #[must_use]
    pub fn is_silent_for(&self, time: Duration, now: Instant) -> bool {
        self.heard + time <= now
    }

    /// Notes that the chain is being checked at `now`.
    pub fn look(&mut self, now: Instant) {
        assert!(now >= self.heard, "time does not go back");
        self.heard = now;
    }

    /// The next manifest is the last one.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the last manifest has begun.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self.publishing, Publishing::Last { .. } | Publishing::Sealed)
    }

    /// Derives the next manifest, which has the registrations `states`.
    pub fn begin(
        &mut self,
        outside: Outside,
        states: impl IntoIterator<Item = (StateId, Registration)>,
        mut random: impl FnMut() -> Uuid,
    ) -> Publication {
        assert_eq!(self.publishing, Publishing::Idle, "one manifest at a time, and none after the last");
        assert!(!self.pages_under_way, "a manifest names only pages that are durable before it");
        // Order: 1. seal, 2. take the low water. The last manifest says that this owner will name no further segment,
        // page or snapshot file, and a sweep then deletes all that it does not name. So no manifest may follow it.
        let (is_last, to) = (self.closing, self.writer.listed_to());
        // From here on no other manifest begins until this one is published, so `to` is exactly the end of the log
        // index that its bytes have.
        self.publishing = if is_last { Publishing::Last { to } } else { Publishing::UnderWay { to } };
        (self.withdrawing, self.dirty_since) = (false, None);
        // 3. The extent of this manifest. Only changes within it are released once it is durable.
        // The ledger may let go of older owners' checkpoints as it begins, so the number is taken before.
        let retained = self.ledger.retained().len();
        let durable_to = if self.obeys(Rule::ListedBeforeNamed) { to } else { self.writer.next() };
        let (publishes, records) = self.ledger.begin_publishing(durable_to);
        let lets_go = self.ledger.retained().len() < retained;
        // 4. Pages that this manifest names. The caller makes them durable before the manifest.
        let before = self.fold(self.options.now, &mut random);
        let next_page = self.next_page;
        self.manifest.number += 1;
        if self.obeys(Rule::DerivesFromTheHead) {
            self.manifest.previous_crc = self.crc;
        }
        self.manifest.opens_epoch = false;
        // `records` replaces the list as a whole. A checkpoint that was let go or withdrawn since the last manifest
        // leaves the chain by not being in it.
        self.manifest.checkpoints = records;
        self.manifest.note_published();
        self.manifest.states = states.into_iter().collect::<BTreeMap<_, _>>();
        self.take_low_waters(outside, is_last);
        // 5. Pruning, after the records are complete. Contents of checkpoints in flight, and of snapshots that still
        //    upload, stay named.
        self.manifest.prune(&self.in_flight_contents());
        // 6. The manifest is copied before more entries move into pages: it does without the pages that are written
        //    beside it.
        let mut manifest = self.manifest.clone();
        let mut beside = vec![];
        // The last manifest has no successor that could name these pages, so they would be garbage at once.
        if !is_last {
            beside = self.fold(self.options.soon, &mut random);
            beside.extend(self.fold_attachments(&mut random));
        }
        if !self.obeys(Rule::PagesAreNamedLater) && !is_last {
            manifest.page_low_water = self.next_page;
        }
        let (before, beside) = self.in_order(before, beside);
        self.pages_under_way = !beside.is_empty();
        let names_later = is_last || manifest.page_low_water <= next_page;
        assert!(names_later || self.rules.is_broken(), "pages beside a manifest are above its low water");
        Publication { before, manifest, beside, publishes, lets_go }
    }

    /// Promises which names no later manifest will have, unless this one has them.
    fn take_low_waters(&mut self, outside: Outside, is_last: bool) {
        let before = (self.manifest.segment_low_water, self.manifest.page_low_water);
        // After the last manifest there is no next one that could name an object, so every number is ruled out.
        let all = |low_water| if is_last { u64::MAX } else { low_water };
        if self.obeys(Rule::LowWatersRise) {
            self.manifest.segment_low_water = all(self.segment_low_water(outside));
            self.manifest.snapshot_low_water = all(self.snapshot_low_water(outside.next_file));
            // After the pages that this manifest names, and before those that only the next one names. A sweep may
            // delete a page below it that this manifest does not name.
            self.manifest.page_low_water = all(self.next_page);
        }
        let after = (self.manifest.segment_low_water, self.manifest.page_low_water);
        assert!(before.0 <= after.0 && before.1 <= after.1, "a promise is not taken back");
    }

    /// Segments of this daemon below this number will never be named, except those that the manifest names now.
    fn segment_low_water(&self, outside: Outside) -> u64 {
        // A segment behind a gap in the log is uploaded, and will be named once the gap is closed.
        let unlisted = self.writer.lowest_unlisted_segment().filter(|_| self.obeys(Rule::UnlistedSegments));
        unlisted.map_or(outside.segments_to, |unlisted| unlisted.min(outside.segments_to))
    }

    /// The contents that the manifest keeps for checkpoints in flight and for running snapshots.
    fn in_flight_contents(&self) -> Vec<Contents> {
        // A checkpoint in flight is in no manifest yet, but the next one will publish it. If its base or its part of
        // the log were pruned now, a sweep between the two manifests could delete objects that the next one names.
        let in_flight = self.ledger.in_flight_records().map(|record| self.manifest.contents(record));
        let in_flight = in_flight.filter(|_| self.obeys(Rule::InFlightStaysNamed));
        let snapshots = self.snapshot_contents().filter(|_| self.obeys(Rule::SnapshotsKeepTheirBases));
        in_flight.chain(snapshots).collect()
    }

    /// The pages before and beside a manifest.
    fn in_order(&self, before: Vec<NewPage>, beside: Vec<NewPage>) -> (Vec<NewPage>, Vec<NewPage>) {
        if self.obeys(Rule::PagesBeforeManifests) {
            return (before, beside);
        }
        (vec![], before.into_iter().chain(beside).collect())
    }

    /// Pages to write now if many change sets are in no manifest yet, since the next barrier may be far away.
    pub fn next_pages(&mut self, random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        // `wants_pages` is false while a manifest is under way: the pages that it writes beside itself already carry
        // the same run.
        if !self.wants_pages() {
            return vec![];
        }
        let pages = self.fold(self.options.soon, random);
        self.pages_under_way = !pages.is_empty();
        pages
    }

    /// Whether there are [pages to write](Self::next_pages) now.
    #[must_use]
    pub fn wants_pages(&self) -> bool {
        let Bounds { entries, page_entries, .. } = self.options.soon;
        let run = self.manifest.runs.get(&self.epoch.number);
        let is_long = run.is_some_and(|run| run.handles.len() > entries + page_entries);
        is_long && self.publishing == Publishing::Idle && !self.pages_under_way
    }

    /// Notes that the pages beside the last manifest, or the [next pages](Self::next_pages), are durable.
    pub fn pages_written(&mut self) {
        assert!(
            !matches!(self.publishing, Publishing::UnderWay { .. }),
            "a manifest is durable before the next begins"
        );
        self.pages_under_way = false;
    }

    fn fold(&mut self, bounds: Bounds, random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        self.manifest.fold(&bounds, &mut self.next_page, random)
    }

    /// Moves attachments into pages if the next manifests would repeat many bytes of them.
    fn fold_attachments(&mut self, random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let pages = self.manifest.fold_attachments(&mut self.next_page, random);
        if !pages.is_empty() {
            self.ledger.follow(&self.manifest.checkpoints);
        }
        pages
    }

    /// Notes that the manifest that was begun is durable, with the checksum `crc`.
    pub fn published(&mut self, crc: u32, now: Instant) -> Published {
        let (to, next) = match self.publishing {
            Publishing::UnderWay { to } => (to, Publishing::Idle),
            Publishing::Last { to } => (to, Publishing::Sealed),
            Publishing::Idle | Publishing::Sealed => unreachable!("a manifest was begun"),
        };
        // Order: 1. the checksum that the next manifest is chained to.
        (self.publishing, self.crc, self.heard) = (next, crc, now);
        let durable_to = if self.obeys(Rule::TailsAreDurableLater) { to } else { self.writer.listed_to() };
        // Up to `to`, the end of the log index that this manifest has, and not up to `listed_to`, which may have passed
        // it since.
        let released_bytes = self.writer.on_published(durable_to);
        // 2. Checkpoints only now: no caller may hear of one before its manifest is durable.
        let checkpoints = self.ledger.published();
        // The first cut of an owner without a claim names only objects of its own, so from its publication on nothing
        // restored is needed. A checkpoint that failed while its manifest was under way does not count, because no
        // engine hears of it.
        if let (Sustained::NotYet, Some(first)) = (self.sustained, checkpoints.first()) {
            self.sustained = Sustained::Since(first.identity.id);
        }
        self.assert_in_order();
        Published { checkpoints, released_bytes }
    }

    /// Superseded manifests of this epoch to delete, once there are a few. They are deleted once.
    pub fn superseded(&mut self) -> Option<Range<u64>> {
        // The opening manifest stays for ever. Its number is the one that the owner before would use next, so if it
        // were free, that owner could publish beside this one.
        let opened = self.opened_number - u64::from(!self.obeys(Rule::OpenersStay));
        let range = chain::deletable(self.deleted_below, opened, self.manifest.number);
        assert!(range.start > self.opened_number || self.rules.is_broken(), "an opening manifest stays");
        // One request for a few manifests, instead of one each.
        if range.end.saturating_sub(range.start) < chain::KEPT_MANIFESTS {
            return None;
        }
        // Noted before the deletion is carried out. If that fails, a sweep finds these manifests.
        self.deleted_below = range.end;
        Some(range)
    }

    /// Manifests of earlier owners to delete, those between their first and last ones, so that later reads need not
    /// look there again. `None` if there are none, or they are being deleted already. Call [`Owner::settled`]
    /// afterwards.
    pub fn settle(&mut self) -> Option<Vec<Range<u64>>> {
        let between = self.manifest.fences.between(self.manifest.number);
        if between.is_empty() || self.settling {
            return None;
        }
        self.settling = true;
        Some(between)
    }

    /// Notes that the manifests that [were to be deleted](Self::settle) are deleted: all below `end`, if it is given.
    /// The next manifest says that none is left there, so it must not be told before.
    pub fn settled(&mut self, end: Option<u64>) {
        assert!(self.settling, "it was begun");
        self.settling = false;
        if let Some(end) = end {
            self.manifest.fences.settle(end);
        }
    }
}
