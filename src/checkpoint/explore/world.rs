//! The world of an exploration: a store, owners that follow and outlive each other, a sweep, and the possible next
//! steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{Arc, LazyLock},
};

use uuid::Uuid;

use super::{
    owner::{Owner, Phase, Progress, Truth, place_of},
    reader::Reader,
    scope::{Scope, Step},
    script::{Objects, Request, Script, Stage},
};
use crate::{
    checkpoint::{
        chain,
        collect::{self, SweepOptions, SweepReport},
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget, Retention},
        manifest::{Manifest, tests::sample},
    },
    object::{ObjectName, Path, Retry, Store},
    types::{CheckpointIdentity, Epoch},
};

/// A daemon process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Instance {
    pub(super) id: Uuid,
    next: u64,
    pub(super) in_flight: BTreeSet<u64>,
    dead: bool,
}

impl Instance {
    pub(super) fn begin(&mut self) -> u64 {
        self.next += 1;
        self.in_flight.insert(self.next);
        self.next
    }

    pub(super) fn low_water(&self) -> u64 {
        self.in_flight.first().copied().unwrap_or(self.next + 1)
    }
}

/// A name that does not depend on the order of events.
pub(super) fn uuid(owner: u64, of: u64) -> Uuid {
    Uuid::from_u128((u128::from(owner) << 64) + u128::from(of))
}

/// The state of the whole world.
#[derive(Clone)]
pub(super) struct World {
    pub(super) objects: Objects,
    head: Option<(Path, Arc<Manifest>)>,
    pub(super) instances: Vec<Instance>,
    pub(super) owners: Vec<Arc<Owner>>,
    /// Fingerprints of the owners.
    prints: Vec<u64>,
    late: Vec<Request>,
    sweep: Option<Script>,
    pub(super) readers: Vec<Reader>,
    pub(super) left: Scope,
    /// The contents of checkpoints, by epoch and id.
    pub(super) truths: Arc<BTreeMap<(u64, u64), (CheckpointIdentity, Truth)>>,
    /// The contents of materializations.
    pub(super) bases: BTreeMap<Uuid, Truth>,
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
            promised: BTreeSet::new(),
            completed: BTreeSet::new(),
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.objects, &self.instances, &self.prints, &self.late).hash(&mut hasher);
        (&self.sweep, &self.readers, &self.left, &self.promised, &self.completed).hash(&mut hasher);
        hasher.finish()
    }

    /// The newest manifest on the store.
    pub(super) fn head(&self) -> Option<Arc<Manifest>> {
        self.head.as_ref().map(|(_, head)| head.clone())
    }

    /// Finds the newest manifest, if there may be a newer one.
    fn find_head(&mut self) {
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

    fn steps_of(&self, owner: usize, it: &Owner, steps: &mut Vec<Step>) {
        for (upload, sent) in it.uploads.iter().enumerate() {
            steps.push(if sent.has_arrived { Step::Learn { owner, upload } } else { Step::Arrive { owner, upload } });
            if self.left.refusals > 0 && it.phase == Phase::Serving {
                steps.push(Step::Refuse { owner, upload });
            }
        }
        if it.publication.is_some() {
            steps.push(Step::Go { owner });
        }
        if it.phase != Phase::Serving {
            return;
        }
        if it.wants_manifest() {
            steps.push(Step::Begin { owner });
        }
        if it.barriers < self.left.barriers && !it.closing {
            steps.extend(self.left.segments.then_some(Step::Barrier { owner, inline: false }));
            let may_inline = self.left.inline && it.writer.is_all_listed();
            steps.extend(may_inline.then_some(Step::Barrier { owner, inline: true }));
        }
        match it.making.as_ref().map(|making| &making.sent) {
            None if self.left.materializations > 0 => steps.push(Step::Materialize { owner }),
            Some(None) => steps.push(Step::Materialize { owner }),
            Some(Some((_, false))) => steps.push(Step::MaterializationArrives { owner }),
            Some(Some((_, true))) => steps.push(Step::Materialized { owner, succeeded: true }),
            None => {}
        }
        if it.making.is_some() && self.left.refusals > 0 {
            steps.push(Step::Materialized { owner, succeeded: false });
        }
        if self.left.closes > 0 && !it.closing {
            steps.push(Step::Close { owner });
        }
        if self.left.notices > 0 {
            for kind in [NoticeKind::Complete, NoticeKind::Abort, NoticeKind::Subsume, NoticeKind::Discard] {
                steps.extend(self.truths.keys().map(|of| Step::Notice { owner, kind, of: *of }));
            }
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
            | Step::Arrive { owner, .. }
            | Step::Learn { owner, .. }
            | Step::Refuse { owner, .. }
            | Step::Begin { owner }
            | Step::Go { owner }
            | Step::Notice { owner, .. }
            | Step::Materialize { owner }
            | Step::MaterializationArrives { owner }
            | Step::Materialized { owner, .. }
            | Step::Close { owner } => {
                self.act(stage, owner, step);
                self.prints[owner] = self.owners[owner].fingerprint();
            }
        }
    }

    fn act(&mut self, stage: &Stage, at: usize, step: Step) {
        let owner = Arc::make_mut(&mut self.owners[at]);
        let instance = &mut self.instances[owner.instance];
        match step {
            Step::Barrier { inline, .. } => {
                let identity = owner.barrier(instance, inline);
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
            Step::Go { .. } => self.go(stage, at),
            Step::Notice { kind, of, .. } => self.notice(at, kind, of),
            Step::Materialize { .. } => {
                self.left.materializations -= u8::from(owner.making.is_none());
                owner.materialize(instance);
            }
            Step::MaterializationArrives { .. } => {
                let sent = owner.making.as_mut().and_then(|making| making.sent.as_mut()).unwrap();
                sent.1 = true;
                sent.0.arrive(&mut self.objects);
            }
            Step::Materialized { succeeded, .. } => {
                if !succeeded {
                    self.left.refusals -= 1;
                    let sent = owner.making.as_ref().and_then(|making| making.sent.clone());
                    self.late.extend(sent.filter(|(_, arrived)| !arrived).map(|(request, _)| request));
                }
                self.bases.extend(owner.materialized(instance, succeeded));
            }
            Step::Close { .. } => {
                self.left.closes -= 1;
                owner.closing = true;
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

    /// Lets a request of a dead daemon take effect.
    fn arrives(&mut self, request: &Request) {
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
            && !self.objects.has(path)
        {
            self.check_publication(&publication.manifest);
        }
        let owner = Arc::make_mut(&mut self.owners[at]);
        match owner.go(stage, &mut self.objects) {
            Progress::UnderWay | Progress::Fenced => {}
            Progress::Published(published) => {
                self.promised.extend(published.iter().map(|record| (record.identity.epoch, record.identity.id)));
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
    fn abandon(&mut self, at: usize) {
        let owner = Arc::make_mut(&mut self.owners[at]);
        let manifest = owner.publication.as_ref().and_then(|publication| publication.script.next().cloned());
        let sent = owner.making.as_ref().and_then(|making| making.sent.clone()).filter(|(_, arrived)| !arrived);
        let creates = manifest.into_iter().chain(sent.map(|(request, _)| request));
        self.late.extend(creates.filter(|request| matches!(request, Request::Create(..))));
        owner.end();
        self.prints[at] = owner.fingerprint();
    }

    fn crash(&mut self, instance: usize) {
        self.instances[instance].dead = true;
        self.instances[instance].in_flight.clear();
        for at in (0..self.owners.len()).filter(|at| self.owners[*at].instance == instance).collect::<Vec<_>>() {
            let owner = Arc::make_mut(&mut self.owners[at]);
            let uploads = std::mem::take(&mut owner.uploads);
            self.late.extend(uploads.iter().filter(|upload| !upload.has_arrived).map(place_of));
            self.abandon(at);
        }
    }

    fn open(&mut self, stage: &Stage, restore: Option<usize>, on: Option<usize>) {
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
        let mut owner = Owner::new(stage, number, instance, manifest, began);
        let retention = self.left.retention.map_or(Retention::Explicit, Retention::Count);
        // The engine goes on from the checkpoint that it restored, so it uses ids again.
        owner.retain(retention, restored.map_or(0, |record| record.identity.id));
        self.prints.push(owner.fingerprint());
        self.owners.push(Arc::new(owner));
    }

    fn notice(&mut self, at: usize, kind: NoticeKind, of: (u64, u64)) {
        let before = self.prints[at];
        let owner = Arc::make_mut(&mut self.owners[at]);
        let target = NoticeTarget { epoch: of.0, id: of.1, uuid: None };
        let is_retained =
            owner.ledger.retained().iter().any(|record| (record.identity.epoch, record.identity.id) == of);
        let outcome = owner.notice(kind, target);
        // A repeated notice has no effect, so it may come any number of times.
        self.left.notices -= u8::from(owner.fingerprint() != before);
        let epoch = owner.manifest.owner().epoch;
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

    fn sweep_step(&mut self, stage: &Stage) -> Option<SweepReport> {
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

    /// Lets all requests arrive and all daemons die; then one more owner opens and closes, and an undisturbed sweep
    /// ends. Checks that no unreferenced object remains, and no other object is gone.
    pub(super) fn settle(mut self, stage: &Stage) {
        for instance in 0..self.instances.len() {
            self.crash(instance);
        }
        for request in std::mem::take(&mut self.late) {
            self.arrives(&request);
            self.find_head();
        }
        self.readers.iter_mut().for_each(|reader| reader.release(&mut self.objects));
        self.check();
        let checkpoints = self.head().map_or(0, |head| head.checkpoints.len());
        self.left = Scope { opens: 1, sweeps: 1, closes: 1, ..self.left };
        self.open(stage, checkpoints.checked_sub(1), None);
        let owner = self.owners.len() - 1;
        let last = |world: &Self| world.owners[owner].clone();
        while last(&self).publication.is_some() {
            self.take(stage, Step::Go { owner });
        }
        self.take(stage, Step::Close { owner });
        self.take(stage, Step::Begin { owner });
        self.take(stage, Step::Go { owner });
        assert_eq!(last(&self).phase, Phase::Ended, "nobody else is there");
        self.sweep = None;
        self.sweep_step(stage);
        let report = loop {
            if let Some(report) = self.sweep_step(stage) {
                break report;
            }
        };
        self.check();
        let stays = |finding: &&collect::Finding| !finding.deleted && finding.verdict.word() != "live";
        let unreferenced: Vec<_> = report.findings.iter().filter(stays).collect();
        assert!(unreferenced.is_empty(), "{unreferenced:?}");
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
