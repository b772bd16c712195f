//! The world of an exploration: a store, owners that follow and outlive each other, a sweep, and the possible next
//! steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    actor::{Actor, Opening, Phase, Progress, Snap, Truth, place_of},
    instance::{Instance, uuid},
    reader::Reader,
    scope::{Scope, Step},
    script::{Objects, Request, Script, Stage},
};
use crate::{
    checkpoint::{
        chain,
        collect::{self, SweepOptions, SweepReport},
        index::Bounds,
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
        manifest::{Manifest, tests::sample},
    },
    object::{ObjectName, Path, Retry, Store},
    types::{CheckpointIdentity, Epoch},
};

/// Bounds so small that nearly all that an epoch begins with moves into pages.
const SETTLED: Bounds = Bounds { entries: 1, page_entries: 2, inline_bytes: 30 };

/// The state of the whole world.
#[derive(Clone)]
pub(super) struct World {
    pub(super) objects: Objects,
    head: Option<(Path, Arc<Manifest>)>,
    pub(super) instances: Vec<Instance>,
    pub(super) owners: Vec<Arc<Actor>>,
    /// Fingerprints of the owners.
    prints: Vec<u64>,
    pub(super) late: Vec<Request>,
    pub(super) sweep: Option<Script>,
    pub(super) readers: Vec<Reader>,
    pub(super) left: Scope,
    /// The contents of checkpoints, by epoch and id.
    pub(super) truths: Arc<BTreeMap<(u64, u64), (CheckpointIdentity, Truth)>>,
    /// The contents and files of materializations.
    pub(super) bases: BTreeMap<Uuid, (Truth, Vec<Path>)>,
    /// Every page that was ever made.
    pub(super) pages: Arc<BTreeMap<Uuid, Bytes>>,
    /// Checkpoints that an engine was told to be restorable, and did not let go since.
    pub(super) promised: BTreeSet<(u64, u64)>,
    /// Checkpoints that an engine called complete, or restored.
    completed: BTreeSet<(u64, u64)>,
}

impl World {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            objects: Objects::default(),
            head: None,
            instances: vec![],
            owners: vec![],
            prints: vec![],
            late: vec![],
            sweep: None,
            readers: vec![],
            left: scope,
            truths: Arc::default(),
            bases: BTreeMap::new(),
            pages: Arc::default(),
            promised: BTreeSet::new(),
            completed: BTreeSet::new(),
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.objects, &self.instances, &self.prints, &self.late).hash(&mut hasher);
        (&self.sweep, &self.readers, self.left.events(), &self.promised, &self.completed).hash(&mut hasher);
        hasher.finish()
    }

    /// The newest manifest on the store.
    pub(super) fn head(&self) -> Option<Arc<Manifest>> {
        self.head.as_ref().map(|(_, head)| head.clone())
    }

    /// Finds the newest manifest, if there may be a newer one.
    pub(super) fn find_head(&mut self) {
        let (first, last) = &*MANIFESTS;
        let newest = self.objects.last_in(first..last);
        if self.head.as_ref().map(|(path, _)| path) != newest.map(|(path, _)| path) {
            let decode = |bytes| Arc::new(Manifest::decode(bytes).expect("nobody damages it"));
            self.head = newest.map(|(path, bytes)| (path.clone(), decode(bytes)));
        }
    }

    /// All steps that are possible now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = vec![];
        for (owner, it) in self.owners.iter().enumerate() {
            self.steps_of(owner, it, &mut steps);
        }
        if self.left.opens > 0 {
            self.opens(&mut steps);
        }
        if self.left.crashes > 0 {
            let alive = self.instances.iter().enumerate().filter(|(_, it)| !it.dead);
            steps.extend(alive.map(|(instance, _)| Step::Crash { instance }));
        }
        steps.extend((0..self.late.len()).map(|request| Step::Late { request }));
        if self.left.readers > 0 {
            let checkpoints = self.head().map_or(0, |head| head.checkpoints.len());
            steps.extend((0..checkpoints).map(|checkpoint| Step::Read { checkpoint }));
        }
        for (reader, it) in self.readers.iter().enumerate() {
            steps.extend(it.is_pinning().then_some(Step::Reader { reader }));
            steps.extend(it.holds().then_some(Step::Release { reader }));
        }
        if self.sweep.is_some() || self.left.sweeps > 0 && !self.owners.is_empty() {
            steps.push(Step::Sweep);
        }
        steps
    }

    fn opens(&self, steps: &mut Vec<Step>) {
        let checkpoints = self.head().map_or(0, |head| head.checkpoints.len());
        let restores = if checkpoints == 0 { vec![None] } else { (0..checkpoints).map(Some).collect() };
        let alive = (0..self.instances.len()).filter(|at| self.left.same_daemon && !self.instances[*at].dead);
        for on in alive.map(Some).chain([None]) {
            steps.extend(restores.iter().map(|restore| Step::Open { restore: *restore, on }));
        }
    }

    fn steps_of(&self, owner: usize, it: &Actor, steps: &mut Vec<Step>) {
        for (upload, sent) in it.uploads.iter().enumerate() {
            steps.push(if sent.has_arrived { Step::Learn { owner, upload } } else { Step::Arrive { owner, upload } });
            if self.left.refusals > 0 && it.phase == Phase::Serving {
                steps.push(Step::Refuse { owner, upload });
            }
        }
        if it.publication.is_some() {
            steps.push(Step::Go { owner });
        }
        if it.pages.is_some() {
            steps.push(Step::Page { owner });
        }
        if it.phase != Phase::Serving {
            return;
        }
        if it.wants_manifest(&self.instances[it.instance], false) {
            steps.push(Step::Begin { owner });
        }
        steps.extend(it.wants_pages().then_some(Step::Fold { owner }));
        // Without a claim, an owner with a log serves once it has a base of its own.
        let serves = it.is_claimed || it.owner.is_unlogged() || it.owner.base().is_some();
        if it.barriers < self.left.barriers && !it.closing && serves {
            steps.extend(self.left.segments.then_some(Step::Barrier { owner, inline: false }));
            let may_inline = self.left.inline && it.owner.writer().is_all_listed();
            steps.extend(may_inline.then_some(Step::Barrier { owner, inline: true }));
            steps.extend(self.left.idle.then_some(Step::IdleBarrier { owner }));
        }
        self.steps_of_bases(owner, it, steps);
        if self.left.closes > 0 && !it.closing {
            steps.push(Step::Close { owner });
        }
        if self.left.notices > 0 {
            for kind in [NoticeKind::Complete, NoticeKind::Abort, NoticeKind::Subsume, NoticeKind::Discard] {
                steps.extend(self.truths.keys().map(|of| Step::Notice { owner, kind, of: *of }));
            }
        }
    }

    fn steps_of_bases(&self, owner: usize, it: &Actor, steps: &mut Vec<Step>) {
        for (id, snapshot) in &it.snapshots {
            let id = *id;
            steps.push(match &snapshot.state {
                Snap::Waiting => Step::Turn { owner, id },
                Snap::Sent(sent) if !sent.has_arrived => Step::SnapshotArrives { owner, id },
                Snap::Sent(_) | Snap::Durable(_) => Step::Snapshotted { owner, id },
            });
            steps.extend((self.left.refusals > 0).then_some(Step::Expire { owner, id }));
        }
        match it.making.as_ref().map(|making| &making.sent) {
            None if self.left.materializations > 0 => steps.push(Step::Materialize { owner }),
            Some(None) => steps.push(Step::Materialize { owner }),
            Some(Some(sent)) if !sent.has_arrived => steps.push(Step::MaterializationArrives { owner }),
            Some(Some(_)) => steps.push(Step::Materialized { owner, succeeded: true }),
            None => {}
        }
        if it.making.is_some() && self.left.refusals > 0 {
            steps.push(Step::Materialized { owner, succeeded: false });
        }
    }

    /// Carries out `step`.
    pub(super) fn take(&mut self, stage: &Stage, step: Step) {
        self.happen(stage, step);
        self.find_head();
    }

    fn happen(&mut self, stage: &Stage, step: Step) {
        match step {
            Step::Open { restore, on } => self.open(stage, restore, on),
            Step::Crash { instance } => {
                self.left.crashes -= 1;
                self.crash(instance);
            }
            Step::Late { request } => {
                let request = self.late.remove(request);
                self.arrives(&request);
            }
            Step::Sweep => drop(self.sweep_step(stage)),
            Step::Read { checkpoint } => {
                self.left.readers -= 1;
                let number = self.readers.len() as u64;
                self.readers.push(Reader::new(stage, number, &mut self.objects, checkpoint));
            }
            Step::Reader { reader } => self.readers[reader].step(stage, &mut self.objects),
            Step::Release { reader } => self.readers[reader].release(&mut self.objects),
            Step::Barrier { owner, .. }
            | Step::IdleBarrier { owner }
            | Step::Arrive { owner, .. }
            | Step::Learn { owner, .. }
            | Step::Refuse { owner, .. }
            | Step::Begin { owner }
            | Step::Go { owner }
            | Step::Fold { owner }
            | Step::Page { owner }
            | Step::Notice { owner, .. }
            | Step::Materialize { owner }
            | Step::MaterializationArrives { owner }
            | Step::Materialized { owner, .. }
            | Step::Turn { owner, .. }
            | Step::SnapshotArrives { owner, .. }
            | Step::Snapshotted { owner, .. }
            | Step::Expire { owner, .. }
            | Step::Close { owner } => {
                self.act(stage, owner, step);
                self.know_pages(owner);
                self.prints[owner] = self.owners[owner].fingerprint();
            }
        }
    }

    fn act(&mut self, stage: &Stage, at: usize, step: Step) {
        let owner = Arc::make_mut(&mut self.owners[at]);
        let instance = &mut self.instances[owner.instance];
        match step {
            Step::Barrier { .. } | Step::IdleBarrier { .. } => {
                let is_inline = matches!(step, Step::Barrier { inline: true, .. });
                let identity = owner.barrier(instance, is_inline, matches!(step, Step::IdleBarrier { .. }));
                let before =
                    Arc::make_mut(&mut self.truths).insert((identity.epoch, identity.id), (identity, owner.truth()));
                assert!(before.is_none(), "an epoch has one owner that is served");
            }
            Step::Arrive { upload, .. } => {
                owner.uploads[upload].has_arrived = true;
                place_of(&owner.uploads[upload]).arrive(&mut self.objects);
            }
            Step::Learn { upload, .. } => owner.learn(upload, instance),
            Step::Refuse { upload, .. } => {
                self.left.refusals -= 1;
                if !owner.uploads[upload].has_arrived {
                    self.late.push(place_of(&owner.uploads[upload]));
                }
                owner.refuse(upload, instance);
            }
            Step::Begin { .. } => owner.begin(stage, instance),
            Step::Fold { .. } => owner.fold(stage),
            Step::Page { .. } => owner.write_page(stage, &mut self.objects),
            Step::Go { .. } => self.go(stage, at),
            Step::Notice { kind, of, .. } => self.notice(at, kind, of),
            Step::Materialize { .. } => {
                self.left.materializations -= u8::from(owner.making.is_none());
                owner.materialize(instance);
            }
            Step::MaterializationArrives { .. } => {
                let sent = owner.making.as_mut().and_then(|making| making.sent.as_mut()).unwrap();
                sent.arrive(&mut self.objects);
            }
            Step::Materialized { succeeded, .. } => {
                if !succeeded {
                    self.left.refusals -= 1;
                    self.late.extend(owner.making_left());
                }
                self.bases.extend(owner.materialized(succeeded));
            }
            Step::Turn { id, .. } => owner.take_turn(id, instance),
            Step::SnapshotArrives { id, .. } => owner.snapshot_arrives(id, &mut self.objects),
            Step::Snapshotted { id, .. } => self.bases.extend(owner.snapshotted(id)),
            Step::Expire { id, .. } => {
                self.left.refusals -= 1;
                self.late.extend(owner.expire(id));
            }
            Step::Close { .. } => {
                self.left.closes -= 1;
                owner.close();
            }
            Step::Open { .. }
            | Step::Crash { .. }
            | Step::Late { .. }
            | Step::Sweep
            | Step::Read { .. }
            | Step::Reader { .. }
            | Step::Release { .. } => unreachable!("not of an owner"),
        }
    }

    /// Notes the contents of pages that are under way.
    fn know_pages(&mut self, at: usize) {
        for (uuid, bytes) in self.owners[at].new_pages() {
            if !self.pages.contains_key(&uuid) {
                Arc::make_mut(&mut self.pages).insert(uuid, bytes);
            }
        }
    }

    /// Lets a request of a dead daemon take effect.
    pub(super) fn arrives(&mut self, request: &Request) {
        if let Request::Create(path, bytes) = request
            && matches!(ObjectName::parse(path), Some(ObjectName::Manifest { .. }))
            && !self.objects.has(path)
        {
            self.check_publication(&Manifest::decode(bytes).unwrap());
        }
        request.arrive(&mut self.objects);
    }

    /// Checks that a new head derives from the old one, and is of the old head's owner or opens an epoch.
    fn check_publication(&self, manifest: &Manifest) {
        let Some(head) = self.head() else { return };
        let what = format!("manifest {} of epoch {}", manifest.number, manifest.owner().epoch);
        assert_eq!(manifest.number, head.number + 1, "{what} is not the one after the head");
        let bytes = self.objects.get(&chain::manifest_name(&head.backend, head.number).path()).unwrap();
        let crc = crate::checkpoint::envelope::crc_of(bytes);
        assert_eq!(manifest.previous_crc, crc, "{what} does not derive from the head");
        let is_own = manifest.owner().epoch == head.owner().epoch;
        assert!(manifest.opens_epoch || is_own, "{what} is of a stale owner");
    }

    fn go(&mut self, stage: &Stage, at: usize) {
        let publication = self.owners[at].publication.as_ref().unwrap();
        if let Some(Request::Create(path, _)) = publication.script.next()
            && matches!(ObjectName::parse(path), Some(ObjectName::Manifest { .. }))
            && !self.objects.has(path)
        {
            self.check_publication(&publication.manifest);
        }
        let owner = Arc::make_mut(&mut self.owners[at]);
        match owner.go(stage, &mut self.objects) {
            Progress::UnderWay | Progress::Fenced => {}
            Progress::Published(published, superseded) => {
                self.promised.extend(published.iter().map(|record| (record.identity.epoch, record.identity.id)));
                self.late.extend((!superseded.is_empty()).then_some(Request::Delete(superseded)));
            }
            Progress::Opened => {
                let (instance, number) = (owner.instance, owner.number);
                for other in 0..self.owners.len() {
                    let it = &self.owners[other];
                    if it.instance == instance && it.number < number && it.phase != Phase::Ended {
                        self.abandon(other);
                    }
                }
            }
        }
    }

    /// Ends an owner whose daemon may live or not. A manifest or index that is under way may still arrive.
    pub(super) fn abandon(&mut self, at: usize) {
        let owner = Arc::make_mut(&mut self.owners[at]);
        self.late.extend(owner.sent());
        owner.end();
        self.prints[at] = owner.fingerprint();
    }

    pub(super) fn crash(&mut self, instance: usize) {
        self.instances[instance].dead = true;
        self.instances[instance].in_flight.clear();
        for at in (0..self.owners.len()).filter(|at| self.owners[*at].instance == instance).collect::<Vec<_>>() {
            let owner = Arc::make_mut(&mut self.owners[at]);
            let uploads = std::mem::take(&mut owner.uploads);
            self.late.extend(uploads.iter().filter(|upload| !upload.has_arrived).map(place_of));
            self.abandon(at);
        }
    }

    pub(super) fn open(&mut self, stage: &Stage, restore: Option<usize>, on: Option<usize>) {
        self.left.opens -= 1;
        let number = self.owners.len() as u64 + 1;
        let instance = on.unwrap_or_else(|| {
            let (id, in_flight) = (uuid(0, number), BTreeSet::new());
            self.instances.push(Instance { id, next: 0, in_flight, dead: false });
            self.instances.len() - 1
        });
        let read = |store: Store| async move { chain::read_head(&store, &sample().backend, Retry::none()).await };
        let head = Script::whole(stage, &mut self.objects, read).unwrap();
        let crc = head.as_ref().map_or(0, |head| head.crc);
        let mut manifest = head.map_or_else(empty, |head| head.manifest);
        manifest.shape.changelog = !self.left.unlogged;
        let restored = restore.map(|at| manifest.checkpoints[at].clone());
        let key = restored.as_ref().map(|record| (record.identity.epoch, record.identity.id));
        let began = key.map(|key| self.truths[&key].1.clone()).unwrap_or_default();
        let mut record = manifest.owner().clone();
        record.epoch = Epoch { number: record.epoch.number + 1, owner: uuid(number, 0) };
        record.attempt += 1;
        record.contents = restored.as_ref().map(|record| manifest.contents(record)).unwrap_or_default();
        record.restored = restored.as_ref().map(|record| (record.identity, record.attempt));
        manifest.epochs.push(record);
        manifest.number += 1;
        (manifest.previous_crc, manifest.opens_epoch) = (crc, true);
        manifest.fences.open(manifest.number);
        (manifest.instance, manifest.segment_low_water, manifest.snapshot_low_water) =
            (self.instances[instance].id, 0, 0);
        for record in &mut manifest.checkpoints {
            record.completed |= restored.as_ref().is_some_and(|restored| restored.identity == record.identity);
        }
        self.completed.extend(key);
        manifest.prune(&[]);
        let bounds = if self.left.folds { SETTLED } else { Bounds::SETTLED };
        let before = manifest.settle(&bounds, || Uuid::from_u128(number.into()));
        // The engine goes on from the checkpoint that it restored, so it uses ids again.
        let last_id = restored.map_or(0, |record| record.identity.id);
        let owner = Actor::new(stage, Opening { number, instance, manifest, before, began, last_id }, &self.left);
        self.prints.push(owner.fingerprint());
        self.owners.push(Arc::new(owner));
        self.know_pages(self.owners.len() - 1);
    }

    fn notice(&mut self, at: usize, kind: NoticeKind, of: (u64, u64)) {
        let before = self.prints[at];
        let owner = Arc::make_mut(&mut self.owners[at]);
        let target = NoticeTarget { epoch: of.0, id: of.1, uuid: None };
        let retained = |owner: &Actor| -> BTreeSet<(u64, u64)> {
            let retained = owner.owner.ledger().retained().iter();
            retained.map(|record| (record.identity.epoch, record.identity.id)).collect()
        };
        let in_flight = |owner: &Actor| -> BTreeSet<(u64, u64)> {
            owner.owner.ledger().in_flight_ids().map(|id| (owner.epoch(), id)).collect()
        };
        let (were_retained, were_in_flight) = (retained(owner), in_flight(owner));
        let is_retained = were_retained.contains(&of);
        let (outcome, late) = owner.notice(kind, target);
        let (are_retained, are_in_flight) = (retained(owner), in_flight(owner));
        let may_go = |one: &(u64, u64)| match kind {
            NoticeKind::Abort | NoticeKind::Discard => *one == of,
            NoticeKind::Subsume => one.0 == of.0 && one.1 <= of.1,
            NoticeKind::Complete => self.left.retention.is_some(),
        };
        assert!(were_retained.difference(&are_retained).all(may_go), "a notice about {of:?} lets go of others");
        let fails = |one: &(u64, u64)| *one == of && may_go(one);
        assert!(were_in_flight.difference(&are_in_flight).all(fails), "a notice about {of:?} fails others");
        self.late.extend(late);
        // A repeated notice has no effect, so it may come any number of times.
        self.left.notices -= u8::from(owner.fingerprint() != before);
        let epoch = owner.owner.epoch();
        if self.head().is_none_or(|head| head.owner().epoch != epoch) || !is_retained {
            // A stale owner cannot let a checkpoint go.
            return;
        }
        assert_ne!(outcome, NoticeOutcome::Unknown);
        match kind {
            NoticeKind::Abort | NoticeKind::Discard => drop(self.promised.remove(&of)),
            NoticeKind::Subsume => self.promised.retain(|(epoch, id)| *epoch != of.0 || *id > of.1),
            NoticeKind::Complete => drop(self.completed.insert(of)),
        }
        if let Some(count) = self.left.retention {
            let completed = self.completed.clone();
            self.promised.retain(|one| completed.iter().filter(|other| *other > one).count() < count);
        }
    }

    pub(super) fn sweep_step(&mut self, stage: &Stage) -> Option<SweepReport> {
        let Some(mut script) = self.sweep.take() else {
            self.left.sweeps -= 1;
            self.sweep = Some(Script::begin(stage, sweep));
            return None;
        };
        let swept = script.step(stage, &mut self.objects, sweep);
        if swept.is_none() {
            self.sweep = Some(script);
        }
        swept.map(|swept| swept.expect("the store does not fail"))
    }
}

async fn sweep(store: Store) -> Result<SweepReport, collect::SweepError> {
    let options = SweepOptions { grace: std::time::Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&store, &sample().backend.job, &options, Retry::none()).await
}

/// The range of paths of manifests.
static MANIFESTS: LazyLock<(Path, Path)> = LazyLock::new(|| {
    let path = |number| chain::manifest_name(&sample().backend, number).path();
    (path(0), path(u64::MAX))
});

/// The manifest before the first owner.
fn empty() -> Manifest {
    let mut first = sample();
    (first.number, first.checkpoints, first.runs) = (0, vec![], BTreeMap::new());
    first.epochs.truncate(1);
    first.epochs[0].epoch.number = 0;
    first
}
