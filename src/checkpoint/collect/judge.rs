//! The decision about each object, given the contents of the chains of its job. Pure.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Garbage, Kept, Live, Pins, Verdict};
use crate::{
    changelog::segment::SegmentHandle,
    checkpoint::{
        chain::KEPT_MANIFESTS,
        index::page_number,
        job::{JobRecord, KEPT_RECORDS, Report, is_outdated},
        manifest::{Fences, Import, Manifest, SnapshotFile},
    },
    object::ObjectName,
    types::{BackendId, Epoch, Name},
};

/// The facts that the manifest chain of one backend tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Number of its head.
    pub head: u64,
    /// The owner that wrote the head.
    pub epoch: Epoch,
    /// The daemon instance of that owner.
    pub instance: Uuid,
    /// Segments of `instance` below this number that the head does not name will never be named.
    pub segment_low_water: u64,
    /// Every segment that the head names, directly or through pages: instance and number.
    pub segments: BTreeSet<(Uuid, u64)>,
    /// Every page of the chain that the head names outside of imports, directly or through pages: epoch and id.
    pub pages: BTreeSet<(u64, Uuid)>,
    /// Every snapshot file that the head names, directly or through the index of a materialization: instance and name.
    pub snapshots: BTreeSet<(Uuid, Name)>,
    /// Every page and snapshot file that the head names in imports, directly or through others.
    pub imported: BTreeSet<ObjectName>,
    /// Snapshot files of the owner's epoch numbered below this that the head does not name will never be named.
    pub snapshot_low_water: u64,
    /// Pages of the owner's epoch numbered below this that the head does not name will never be named.
    pub page_low_water: u64,
    /// The facts that the head tells about manifests below it.
    pub told: Fences,
    /// The manifests below the head that were read, because the head tells nothing about them: their epochs, and
    /// whether they opened them.
    pub older: BTreeMap<u64, (Epoch, bool)>,
}

/// Everything that is known about a job. It was read after the job's objects were listed: chains first, then pins.
#[derive(Debug, Clone, Default)]
pub struct View {
    chains: BTreeMap<BackendId, Chain>,
    /// Every named segment, with a chain that names it.
    named: BTreeMap<(Uuid, u64), BackendId>,
    /// Objects that imports name, with a chain that has such an import.
    imported: BTreeMap<ObjectName, BackendId>,
    /// The lowest low water of each daemon instance, with the chain that has it.
    low_waters: BTreeMap<Uuid, (u64, BackendId)>,
    /// The manifests of each chain below the head that stay, with the reason.
    fences: BTreeMap<BackendId, BTreeMap<u64, Live>>,
    /// The newest record of the job's own chain.
    job: Option<JobRecord>,
    pins: Pins,
}

impl Chain {
    /// The facts that `head` itself tells, without pages and older manifests.
    #[must_use]
    pub fn new(head: &Manifest) -> Self {
        let imported = head.imports.iter().flat_map(|import| import.runs.values());
        let handles = head.runs.values().chain(imported).flat_map(|run| &run.handles);
        Self {
            head: head.number,
            epoch: head.owner().epoch,
            instance: head.instance,
            segment_low_water: head.segment_low_water,
            segments: handles.filter_map(SegmentHandle::segment).map(|id| (id.instance, id.number)).collect(),
            pages: BTreeSet::new(),
            snapshots: head
                .materializations
                .iter()
                .map(|base| (base.index.instance, base.index.name.clone()))
                .collect(),
            imported: head.imports.iter().filter_map(index_of).collect(),
            snapshot_low_water: head.snapshot_low_water,
            page_low_water: head.page_low_water,
            told: head.fences.clone(),
            older: BTreeMap::new(),
        }
    }

    /// A chain whose head, manifest `number`, retired it. That the head cannot be read does not matter.
    #[must_use]
    pub fn retired(number: u64) -> Self {
        Self {
            head: number,
            epoch: Epoch { number: u64::MAX, owner: Uuid::nil() },
            instance: Uuid::nil(),
            segment_low_water: u64::MAX,
            segments: BTreeSet::new(),
            pages: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            imported: BTreeSet::new(),
            snapshot_low_water: u64::MAX,
            page_low_water: u64::MAX,
            told: Fences::default(),
            older: BTreeMap::new(),
        }
    }

    /// The manifests below the head that stay for ever: the first and the last of each epoch.
    fn fences(&self) -> BTreeMap<u64, Live> {
        let mut last = BTreeMap::new();
        for (number, (epoch, _)) in &self.older {
            last.insert((epoch.number, epoch.owner), *number);
        }
        // The present epoch has not ended: its newest manifest is the head.
        let present = (self.epoch.number, self.epoch.owner);
        let ends = last.into_iter().filter(|(epoch, _)| *epoch != present);
        let mut fences: BTreeMap<u64, Live> = ends.map(|((epoch, _), number)| (number, Live::Ends(epoch))).collect();
        let opening = self.older.iter().filter(|(_, (_, opens))| *opens);
        // A manifest that both opened and ended its epoch is told as the opening one.
        fences.extend(opening.map(|(number, (epoch, _))| (*number, Live::Opens(epoch.number))));
        fences
    }
}

impl View {
    /// A view of `chains`; `pins` must have been listed after the chains were read.
    #[must_use]
    pub fn new(chains: BTreeMap<BackendId, Chain>, pins: Pins) -> Self {
        let mut view = Self { pins, ..Self::default() };
        for (id, chain) in &chains {
            for segment in &chain.segments {
                view.named.entry(*segment).or_insert_with(|| id.clone());
            }
            for name in &chain.imported {
                view.imported.entry(name.clone()).or_insert_with(|| id.clone());
            }
            // The lowest over all chains of the daemon: a segment has change sets of several backends, and each of
            // their owners may still name it.
            let lowest = view.low_waters.entry(chain.instance).or_insert((u64::MAX, id.clone()));
            if chain.segment_low_water < lowest.0 {
                *lowest = (chain.segment_low_water, id.clone());
            }
            view.fences.insert(id.clone(), chain.fences());
        }
        view.chains = chains;
        view
    }

    /// Adds the newest record of the job's own chain, which must have been read after the objects were listed.
    #[must_use]
    pub fn with_job(self, job: Option<JobRecord>) -> Self {
        Self { job, ..self }
    }

    /// The chains that were read.
    #[must_use]
    pub fn chains(&self) -> &BTreeMap<BackendId, Chain> {
        &self.chains
    }

    /// The pins that were listed.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Whether no chain was opened between this view and `other`.
    #[must_use]
    pub fn is_of_the_same_owners(&self, other: &Self) -> bool {
        let owners = |view: &Self| view.chains.iter().map(|(id, chain)| (id.clone(), chain.epoch)).collect::<Vec<_>>();
        owners(self) == owners(other)
    }

    /// The verdict on the object `name`, which was listed before this view was read. `is_young` says whether it is
    /// within the grace; `exists` tells whether another object was listed.
    #[must_use]
    pub fn judge(&self, name: &ObjectName, is_young: bool, exists: impl Fn(&ObjectName) -> bool) -> Verdict {
        let verdict = match name {
            ObjectName::Temporary { of, .. } if exists(of) => Verdict::Garbage(Garbage::Temporary),
            ObjectName::Temporary { of, .. } => self.unfinished(of),
            whole => self.whole(whole),
        };
        match verdict {
            // The objects that such a pin names cannot be read here, so every object may be among them.
            Verdict::Garbage(_) if self.pins.has_unknown() => Verdict::Kept(Kept::Pins),
            Verdict::Garbage(_) if is_young => Verdict::Kept(Kept::Grace),
            verdict => verdict,
        }
    }

    fn whole(&self, name: &ObjectName) -> Verdict {
        // Imports and pins come first. They name objects of other chains, whose own heads may have dropped them long
        // ago and would call them garbage.
        if let Some(by) = self.imported.get(name) {
            return Verdict::Live(Live::Named(by.clone()));
        }
        if let Some(by) = self.pins.holder(name) {
            return Verdict::Live(Live::Pinned(by));
        }
        match name {
            ObjectName::Segment { instance, number, .. } => self.segment(*instance, *number),
            ObjectName::IndexPage { backend, epoch, id } => self.page(backend, *epoch, *id),
            ObjectName::Manifest { backend, number } => self.manifest(backend, *number),
            ObjectName::Retired { backend, number } => match self.chains.get(backend) {
                None => Verdict::Kept(Kept::NoChain),
                // A head above it is another manifest, of which this object says nothing.
                Some(chain) if *number < chain.head => Verdict::Garbage(Garbage::Superseded),
                Some(_) => Verdict::Live(Live::Retired),
            },
            ObjectName::JobRecord { number, .. } => self.job_record(*number),
            ObjectName::Report { .. } => self.report(name),
            ObjectName::Clock { .. } => Verdict::Garbage(Garbage::Clock),
            ObjectName::SweepLease { .. } => Verdict::Live(Live::SweepLease),
            ObjectName::SavepointFile { .. } => Verdict::Live(Live::Savepoint),
            ObjectName::SnapshotFile { backend, instance, file } => self.snapshot_file(backend, *instance, file),
            ObjectName::Pin { id, .. } => self.pins.judge(*id),
            ObjectName::PinRenewal { id, .. } if self.pins.judge(*id).is_garbage() => {
                Verdict::Garbage(Garbage::Released)
            }
            ObjectName::PinRenewal { .. } => Verdict::Live(Live::Pin),
            ObjectName::Temporary { .. } => Verdict::Kept(Kept::Foreign),
        }
    }

    fn job_record(&self, number: u64) -> Verdict {
        match &self.job {
            Some(newest) if number + KEPT_RECORDS <= newest.number => Verdict::Garbage(Garbage::Superseded),
            // Also without any record of the job: there is nothing to compare with then.
            _ => Verdict::Live(Live::JobRecord),
        }
    }

    fn report(&self, name: &ObjectName) -> Verdict {
        match (&self.job, Report::of(name.clone())) {
            (Some(newest), Some(report)) if is_outdated(newest, &report) => Verdict::Garbage(Garbage::OutdatedReport),
            _ => Verdict::Live(Live::Report),
        }
    }

    fn segment(&self, instance: Uuid, number: u64) -> Verdict {
        if self.chains.is_empty() {
            return Verdict::Kept(Kept::NoChain);
        }
        if let Some(by) = self.named.get(&(instance, number)) {
            return Verdict::Live(Live::Named(by.clone()));
        }
        match self.low_waters.get(&instance) {
            // Above the low water an owner may have the segment uploaded and not yet listed.
            Some((low_water, owner)) if number >= *low_water => Verdict::Kept(Kept::MayBeNamed(owner.clone())),
            // Below the low water, which the owners have promised, or of an instance that owns no chain any more. The
            // heads were read after this segment was listed, so in the latter case the owners of its change sets are
            // fenced.
            _ => Verdict::Garbage(Garbage::Unnamed),
        }
    }

    fn page(&self, backend: &BackendId, epoch: u64, id: Uuid) -> Verdict {
        match self.chains.get(backend) {
            None => Verdict::Kept(Kept::NoChain),
            Some(chain) if chain.pages.contains(&(epoch, id)) => Verdict::Live(Live::Named(backend.clone())),
            // The epoch of the page has a successor, so its owner is fenced and names no further page.
            Some(chain) if epoch < chain.epoch.number => Verdict::Garbage(Garbage::Outdated(epoch)),
            // This also covers pages of a failed opener of that epoch, since the manifest that it would have made
            // exists already.
            Some(chain) if epoch == chain.epoch.number && page_number(id) < chain.page_low_water => {
                Verdict::Garbage(Garbage::Unnamed)
            }
            Some(_) => Verdict::Kept(Kept::MayBeNamed(backend.clone())),
        }
    }

    fn snapshot_file(&self, backend: &BackendId, instance: Uuid, file: &Name) -> Verdict {
        let Some(chain) = self.chains.get(backend) else { return Verdict::Kept(Kept::NoChain) };
        if chain.snapshots.contains(&(instance, file.clone())) {
            return Verdict::Live(Live::Named(backend.clone()));
        }
        match SnapshotFile::parse(file.as_str()) {
            None => Verdict::Unknown,
            Some((epoch, _)) if epoch < chain.epoch.number => Verdict::Garbage(Garbage::Outdated(epoch)),
            // The low water is a promise of this instance. Files of another instance under the same epoch go when the
            // epoch has a successor.
            Some((epoch, number)) if epoch == chain.epoch.number && instance == chain.instance => {
                if number < chain.snapshot_low_water {
                    Verdict::Garbage(Garbage::Unnamed)
                } else {
                    Verdict::Kept(Kept::MayBeNamed(backend.clone()))
                }
            }
            Some(_) => Verdict::Kept(Kept::MayBeNamed(backend.clone())),
        }
    }

    fn manifest(&self, backend: &BackendId, number: u64) -> Verdict {
        let Some(chain) = self.chains.get(backend) else { return Verdict::Kept(Kept::NoChain) };
        // The chain may have moved on since it was read, so numbers above the head are manifests, too.
        if number >= chain.head {
            return Verdict::Live(Live::Head);
        }
        if let Some(why) = self.fences.get(backend).and_then(|fences| fences.get(&number)) {
            return Verdict::Live(why.clone());
        }
        // A reader that listed the chain a moment ago still finds one of the newest manifests.
        if number + KEPT_MANIFESTS > chain.head {
            return Verdict::Live(Live::Recent);
        }
        match chain.older.get(&number) {
            Some(_) => Verdict::Garbage(Garbage::Superseded),
            None if chain.told.has(number) => Verdict::Live(Live::Fence),
            // It may have opened an epoch. Then its number must not become free, so an unreadable manifest stays.
            None => Verdict::Kept(Kept::Unreadable),
        }
    }

    /// The verdict on a temporary whose target does not exist: it goes if the target would be garbage.
    fn unfinished(&self, target: &ObjectName) -> Verdict {
        let is_garbage = match target {
            // Any number below the head that does not exist is free for ever.
            ObjectName::Manifest { backend, number } => {
                self.chains.get(backend).is_some_and(|chain| *number <= chain.head)
            }
            // The contents of a lease are never read.
            ObjectName::SweepLease { .. } => true,
            target => self.whole(target).is_garbage(),
        };
        if is_garbage { Verdict::Garbage(Garbage::Temporary) } else { Verdict::Kept(Kept::InTheMaking) }
    }
}

/// The object that lists the contents of an import's base.
pub(super) fn index_of(import: &Import) -> Option<ObjectName> {
    let file = &import.materialization.as_ref()?.index;
    let (backend, instance) = (import.origin.clone(), file.instance);
    Some(ObjectName::SnapshotFile { backend, instance, file: file.name.clone() })
}
