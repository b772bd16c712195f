//! One owner of the exploration, and its surroundings in the daemon: the requests under way, and the knowledge of its
//! engine. Every decision is made by [`Owner`], the code that the daemon runs.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    base::{Made, Sent, piece},
    instance::{Instance, uuid},
    scope::Scope,
    script::{Objects, Request, Script, Stage},
};
use crate::{
    changelog::{
        block::ChangeSetBuilder,
        compression::Compression,
        segment::{self, Place, SegmentHandle, SegmentId},
    },
    checkpoint::{
        base::BaseIndex,
        chain::{self, ChainError},
        envelope,
        index::{Bounds, NewPage},
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget, Retention},
        manifest::{CheckpointRecord, Manifest, SnapshotFile, Source},
        owner::{Barrier, Beginning, Cut, Options, Outside, Owner, Publication, RolledOver, Tails, Turn},
        pages,
    },
    object::{ObjectName, Path, Retry, Store},
    types::{CheckpointIdentity, KeyGroup, Sqn},
};

/// The moment at which everything happens, until an owner is silent for long. Notices need not wait.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Longer than an owner keeps others waiting for its low water.
const SILENCE: Duration = Duration::from_secs(1_000);

/// Bounds so small that the second change set moves into a page.
const SOON: Bounds = Bounds { entries: 1, page_entries: 2, inline_bytes: 60 };

/// Bounds so small that the third change set moves into a page before its manifest.
const AT_ONCE: Bounds = Bounds { entries: 2, page_entries: 2, inline_bytes: 120 };

/// The phase of an owner's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Opening,
    Serving,
    Ended,
}

/// A change set on its way into a segment.
#[derive(Debug, Clone, Hash)]
pub(super) struct Upload {
    pub(super) handle: SegmentHandle,
    pub(super) has_arrived: bool,
}

/// A manifest that is being written, after its pages.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    pub(super) script: Script,
    pub(super) manifest: Arc<Manifest>,
    before: Arc<[NewPage]>,
}

/// Pages that are being written for the next manifest.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) script: Script,
    pages: Arc<[NewPage]>,
}

/// A materialization beside the log that is being made.
#[derive(Debug, Clone, Hash)]
pub(super) struct Making {
    from: Sqn,
    /// Once its last piece was copied.
    pub(super) sent: Option<Sent>,
}

/// A snapshot that is being made.
#[derive(Debug, Clone)]
pub(super) struct Snapping {
    truth: Truth,
    /// The newest materialization when it was frozen.
    known: Option<Made>,
    pub(super) state: Snap,
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Hash)]
pub(super) enum Snap {
    Waiting,
    /// It equals a durable materialization.
    Durable(Uuid),
    Sent(Sent),
}

/// The contents of a state as its engine knows them: parts of runs, in order.
pub(super) type Truth = Vec<Source>;

/// The contents and the files of a materialization.
type Base = (Uuid, (Truth, Vec<Path>));

/// An owner of the world. `number` is unique; its epoch number need not be.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) number: u64,
    pub(super) instance: usize,
    pub(super) phase: Phase,
    pub(super) owner: Owner,
    pub(super) is_claimed: bool,
    pub(super) began: Truth,
    pub(super) uploads: Vec<Upload>,
    pub(super) publication: Option<Sending>,
    pub(super) pages: Option<Writing>,
    pub(super) making: Option<Making>,
    pub(super) snapshots: BTreeMap<u64, Snapping>,
    /// The newest materialization, whose parts may be used again.
    newest: Option<Made>,
    files: u64,
    pub(super) batches: u64,
    pub(super) barriers: u8,
    /// The newest checkpoint id of its engine.
    last_id: u64,
    pub(super) closing: bool,
    /// Whether its last manifest is durable.
    pub(super) has_closed: bool,
    /// The checksum of its newest durable manifest; 0 before there is one.
    crc: u32,
    now: Instant,
}

/// An owner that is about to open.
pub(super) struct Opening {
    pub(super) number: u64,
    /// The daemon instance that it is on.
    pub(super) instance: usize,
    /// The manifest that it opens with.
    pub(super) manifest: Manifest,
    /// Pages that are written before the manifest.
    pub(super) before: Vec<NewPage>,
    /// The contents that it begins with.
    pub(super) began: Truth,
    /// The id of the checkpoint that its engine restored; 0 for none.
    pub(super) last_id: u64,
}

/// The two pieces of a materialization.
#[derive(Debug, Clone, Copy)]
struct Pieces {
    /// The sqn of the first one.
    from: Sqn,
    /// The sqn of the last one.
    complete_at: Sqn,
    has_contents: bool,
}

/// The result of one step of a publication.
pub(super) enum Progress {
    UnderWay,
    Opened,
    /// These checkpoints are restorable, and their engine is told so; these manifests may be deleted.
    Published(Vec<CheckpointRecord>, Vec<Path>),
    Fenced,
}

impl Actor {
    /// The owner of `opening`, whose manifest is under way.
    pub(super) fn new(stage: &Stage, opening: Opening, scope: &Scope) -> Self {
        let Opening { number, instance, manifest, before, began, last_id } = opening;
        let parts = manifest.shape.key_groups.parts(128).collect();
        let is_claimed = !scope.no_claim || manifest.owner().restored.is_none();
        let begins = Beginning {
            manifest: manifest.clone(),
            crc: envelope::crc_of(&manifest.encode()),
            retention: scope.retention.map_or(Retention::Explicit, Retention::Count),
            is_claimed,
            blocks: ChangeSetBuilder::new(parts, 100),
        };
        let whole = Options::new(Duration::ZERO);
        let options = if scope.folds { Options { soon: SOON, now: AT_ONCE, ..whole } } else { whole };
        let mut actor = Self {
            number,
            instance,
            phase: Phase::Opening,
            owner: Owner::new(begins, options, *NOW).without(scope.off),
            is_claimed,
            began,
            uploads: vec![],
            publication: None,
            pages: None,
            making: None,
            snapshots: BTreeMap::new(),
            newest: None,
            files: 1,
            batches: 0,
            barriers: 0,
            last_id,
            closing: false,
            has_closed: false,
            crc: 0,
            now: *NOW,
        };
        actor.send(stage, manifest, before);
        actor
    }

    pub(super) fn epoch(&self) -> u64 {
        self.owner.epoch().number
    }

    fn send(&mut self, stage: &Stage, manifest: Manifest, before: Vec<NewPage>) {
        let (manifest, before) = (Arc::new(manifest), Arc::from(before));
        let script = Script::begin(stage, |store| append(store, Arc::clone(&before), manifest.clone()));
        self.publication = Some(Sending { script, manifest, before });
    }

    fn write(&mut self, stage: &Stage, pages: Vec<NewPage>) {
        if !pages.is_empty() {
            let pages: Arc<[NewPage]> = Arc::from(pages);
            let script = Script::begin(stage, |store| write(store, pages.clone()));
            self.pages = Some(Writing { script, pages });
        }
    }

    /// UUIDs and bytes of all pages that are under way.
    pub(super) fn new_pages(&self) -> impl Iterator<Item = (Uuid, Bytes)> {
        let before = self.publication.iter().flat_map(|sending| sending.before.iter());
        let beside = self.pages.iter().flat_map(|writing| writing.pages.iter());
        before.chain(beside).map(|page| (page.reference.uuid, page.bytes.clone()))
    }

    /// The next request of the publication takes effect and is answered.
    pub(super) fn go(&mut self, stage: &Stage, objects: &mut Objects) -> Progress {
        let sending = self.publication.as_mut().expect("a manifest is on its way");
        let (before, manifest) = (sending.before.clone(), sending.manifest.clone());
        let make = |store| append(store, before.clone(), manifest.clone());
        let Some(appended) = sending.script.step(stage, objects, make) else { return Progress::UnderWay };
        self.publication = None;
        let Ok(crc) = appended else {
            self.end();
            return Progress::Fenced;
        };
        self.crc = crc;
        if self.phase == Phase::Opening {
            self.phase = Phase::Serving;
            return Progress::Opened;
        }
        let published = self.owner.published(crc, self.now);
        if self.pages.is_none() {
            self.owner.pages_written();
        }
        let superseded = self.owner.superseded().into_iter().flatten();
        let superseded = superseded.map(|number| chain::manifest_name(&manifest.backend, number).path()).collect();
        if self.owner.is_sealed() {
            self.has_closed = true;
            self.end();
        }
        Progress::Published(published.checkpoints, superseded)
    }

    /// The next request that writes pages takes effect and is answered.
    pub(super) fn write_page(&mut self, stage: &Stage, objects: &mut Objects) {
        let writing = self.pages.as_mut().expect("pages are on their way");
        let pages = writing.pages.clone();
        if writing.script.step(stage, objects, |store| write(store, pages.clone())).is_some() {
            self.pages = None;
            if self.publication.is_none() {
                self.owner.pages_written();
            }
        }
    }

    /// Ends the owner; its uploads that are in flight go on.
    pub(super) fn end(&mut self) {
        (self.phase, self.publication, self.pages, self.making) = (Phase::Ended, None, None, None);
        self.snapshots.clear();
    }

    /// Requests that were sent and may still arrive, although no caller waits for them any more.
    pub(super) fn sent(&self) -> Vec<Request> {
        let scripts = self.publication.iter().map(|sending| &sending.script);
        let scripts = scripts.chain(self.pages.iter().map(|writing| &writing.script));
        let snapshots = self.snapshots.values().flat_map(|snapshot| snapshot.state.sent());
        let making = self.making.iter().flat_map(|making| &making.sent).chain(snapshots).flat_map(Sent::left);
        let sent = scripts.filter_map(|script| script.next().cloned()).chain(making);
        sent.filter(|request| matches!(request, Request::Create(..))).collect()
    }

    /// Applies one batch, unless `is_idle`, and takes a barrier after it. The changes are inlined or go into a segment.
    pub(super) fn barrier(&mut self, instance: &mut Instance, inline: bool, is_idle: bool) -> CheckpointIdentity {
        if !is_idle {
            self.owner.begin_batch(self.batches, 1);
            self.owner.log().push(KeyGroup(70), |out| out.push(7));
            self.owner.end_batch(0);
            self.batches += 1;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.owner.check(id, 10, 100).expect("there is room");
        let cut = if self.owner.is_unlogged() { self.cut_state(id) } else { self.cut_log(instance, inline) };
        let barrier = Barrier {
            id,
            uuid: uuid(self.number, 100 + id),
            attachment: Bytes::new(),
            applied_to: self.batches,
            triggered_at: 0,
            time: 1,
            states_to: 1,
            missing_states: vec![],
        };
        self.barriers += 1;
        self.owner.trigger(barrier, cut)
    }

    fn cut_log(&mut self, instance: &mut Instance, inline: bool) -> Cut {
        let tails = Tails { most_bytes: if inline { 100 } else { 0 }, compression: Compression::None };
        let (cut, rolled) = self.owner.cut_log(tails);
        if let RolledOver::Upload(set) = rolled {
            let job = self.owner.manifest().backend.job.clone();
            let id = SegmentId { job, instance: instance.id, number: instance.begin() };
            let handles = segment::encode(id, &[set], Compression::None).handles;
            self.uploads.extend(handles.into_iter().map(|handle| Upload { handle, has_arrived: false }));
        }
        cut
    }

    fn cut_state(&mut self, id: u64) -> Cut {
        if let Some(cut) = self.owner.cut_durable(self.batches) {
            return cut;
        }
        let known = self.newest.clone();
        let cut = self.owner.begin_snapshot(id, self.batches, known.as_ref().map(|known| known.uuid));
        self.snapshots.insert(id, Snapping { truth: self.truth(), known, state: Snap::Waiting });
        cut
    }

    /// The present contents of the state.
    pub(super) fn truth(&self) -> Truth {
        self.truth_at(self.owner.writer().next())
    }

    fn truth_at(&self, to: Sqn) -> Truth {
        let from = Sqn::first_of(self.epoch());
        let own = (from < to).then(|| Source { epoch: self.epoch(), from, to });
        self.began.iter().copied().chain(own).collect()
    }

    /// The owner learns that an upload is durable.
    pub(super) fn learn(&mut self, at: usize, instance: &mut Instance) {
        let Upload { handle, .. } = self.uploads.remove(at);
        instance.in_flight.remove(&number_of(&handle));
        if self.phase != Phase::Ended {
            self.owner.on_uploaded(handle);
        }
    }

    /// The store refused an upload, or seemed to: the change set is sent again, in another segment.
    pub(super) fn refuse(&mut self, at: usize, instance: &mut Instance) {
        let mut upload = self.uploads.remove(at);
        instance.in_flight.remove(&number_of(&upload.handle));
        let Place::Segment(id) = &mut upload.handle.place else { panic!("uploads are segments") };
        id.number = instance.begin();
        upload.has_arrived = false;
        self.uploads.push(upload);
    }

    fn outside(&self, instance: &Instance) -> Outside {
        Outside { segments_to: instance.low_water(), next_file: self.files }
    }

    /// Whether a manifest is wanted. `is_asked` says that a caller waits for one.
    pub(super) fn wants_manifest(&self, instance: &Instance, is_asked: bool) -> bool {
        let is_free = self.phase == Phase::Serving && self.publication.is_none() && self.pages.is_none();
        is_free && self.owner.is_due(self.now, self.outside(instance), is_asked || self.closing)
    }

    /// Derives the next manifest and sends it.
    pub(super) fn begin(&mut self, stage: &Stage, instance: &Instance) {
        self.owner.note_notices(self.now);
        let (outside, states) = (self.outside(instance), self.owner.manifest().states.clone());
        let random = Uuid::from_u128(self.number.into());
        let Publication { before, manifest, beside, .. } = self.owner.begin(outside, states, || random);
        self.send(stage, manifest, before);
        self.write(stage, beside);
    }

    /// Its next manifest is the last one.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.owner.close();
    }

    /// Passes so much idle time that the owner tells others which objects it no longer needs.
    pub(super) fn be_silent(&mut self) {
        self.now += SILENCE;
    }

    /// Whether change sets may move into pages although no manifest is wanted.
    pub(super) fn wants_pages(&self) -> bool {
        self.phase == Phase::Serving && self.publication.is_none() && self.pages.is_none() && self.owner.wants_pages()
    }

    /// Moves change sets into pages although no manifest is wanted.
    pub(super) fn fold(&mut self, stage: &Stage) {
        let random = Uuid::from_u128(self.number.into());
        let pages = self.owner.next_pages(|| random);
        self.write(stage, pages);
    }

    /// Carries out a notice; returns its outcome, and the requests of a snapshot that was given up.
    pub(super) fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> (NoticeOutcome, Vec<Request>) {
        if self.owner.is_failed_by(kind, target) {
            return (NoticeOutcome::Done, self.fail(target.id));
        }
        (self.owner.notice(kind, target), vec![])
    }

    /// Fails a checkpoint; returns the requests of its snapshot that may still arrive.
    fn fail(&mut self, id: u64) -> Vec<Request> {
        self.owner.fail(id);
        let snapshot = self.snapshots.remove(&id);
        snapshot.iter().filter_map(|snapshot| snapshot.state.sent()).flat_map(Sent::left).collect()
    }

    /// Begins a materialization, or copies its last piece and sends its index.
    pub(super) fn materialize(&mut self, instance: &Instance) {
        let complete_at = self.owner.writer().next();
        let Some(Making { from, .. }) = self.making else {
            self.making = Some(Making { from: complete_at, sent: None });
            return;
        };
        let sent = self.make(instance, Pieces { from, complete_at, has_contents: false }, None);
        self.making = Some(Making { from, sent: Some(sent) });
    }

    /// Sends the files of a materialization: two empty pieces of a log's base, or two pieces of a snapshot. One of
    /// these may be `known`.
    fn make(&mut self, instance: &Instance, pieces: Pieces, known: Option<&Made>) -> Sent {
        let Pieces { from, complete_at, has_contents } = pieces;
        let file = |number, kind: &str, bytes: usize| {
            let name = SnapshotFile::name(self.epoch(), number, kind);
            SnapshotFile { instance: instance.id, name, bytes: bytes as u64 }
        };
        let data = has_contents.then(|| file(self.files, "data", 1));
        let used = known.and_then(|known| known.piece.clone()).or_else(|| data.clone());
        let index = BaseIndex::new([piece(64..=95, from, data.clone()), piece(96..=127, complete_at, used.clone())]);
        let bytes = index.expect("the pieces cover the range").encode();
        let number = self.files + u64::from(has_contents);
        let (index, uuid) = (file(number, "index", bytes.len()), uuid(self.number, 200 + number));
        self.files = number + 1;
        let path = |file: &SnapshotFile| file.path(&self.owner.manifest().backend);
        let requests = data.iter().map(|data| Request::Create(path(data), Bytes::from_static(b"x")));
        let requests = requests.chain([Request::Create(path(&index), bytes)]).collect();
        let files = [Some(index.clone()), data, used.clone()].into_iter().flatten().collect();
        Sent { requests, has_arrived: false, made: Made { uuid, from, complete_at, index, piece: used, files } }
    }

    /// The owner learns that the materialization is durable, or gives up.
    pub(super) fn materialized(&mut self, succeeded: bool) -> Option<Base> {
        let making = self.making.take().expect("a materialization is in the making");
        let made = making.sent.map(|sent| sent.made).filter(|_| succeeded);
        self.owner.materialized(made.as_ref().map(Made::record), self.files);
        made.map(|made| self.base_of(&made, self.truth_at(made.complete_at)))
    }

    /// Requests of the materialization in the making that have not arrived.
    pub(super) fn making_left(&self) -> Vec<Request> {
        self.making.iter().flat_map(|making| &making.sent).flat_map(Sent::left).collect()
    }

    /// The files of a snapshot arrive.
    pub(super) fn snapshot_arrives(&mut self, id: u64, objects: &mut Objects) {
        match self.snapshots.get_mut(&id).map(|snapshot| &mut snapshot.state) {
            Some(Snap::Sent(sent)) => sent.arrive(objects),
            other => panic!("{other:?} was sent"),
        }
    }

    /// The turn of a snapshot comes.
    pub(super) fn take_turn(&mut self, id: u64, instance: &Instance) {
        let cut = self.owner.snapshot_cut(id).expect("it is being made");
        let newest = self.newest.clone().filter(|newest| newest.complete_at <= cut);
        let turn = self.owner.take_turn(id, self.files, newest.as_ref().map(|newest| newest.uuid));
        let known = newest.or_else(|| self.snapshots[&id].known.clone());
        let state = match turn.expect("it is being made") {
            Turn::Durable(base) => Snap::Durable(base),
            Turn::Works => {
                let pieces = Pieces { from: cut, complete_at: cut, has_contents: true };
                Snap::Sent(self.make(instance, pieces, known.as_ref()))
            }
        };
        self.snapshots.get_mut(&id).expect("it is being made").state = state;
    }

    /// The owner learns that a snapshot is durable.
    pub(super) fn snapshotted(&mut self, id: u64) -> Option<Base> {
        let snapshot = self.snapshots.remove(&id).expect("it is being made");
        match snapshot.state {
            Snap::Waiting => panic!("its turn has not come"),
            Snap::Durable(base) => {
                self.owner.snapshotted(id, Err(base));
                None
            }
            Snap::Sent(Sent { made, .. }) => {
                if self.owner.snapshotted(id, Ok((made.record(), 1))) == Some(true) {
                    self.newest = Some(made.clone());
                }
                Some(self.base_of(&made, snapshot.truth))
            }
        }
    }

    /// The time of a snapshot's checkpoint is over. Returns the requests that may still arrive.
    pub(super) fn expire(&mut self, id: u64) -> Vec<Request> {
        self.fail(id)
    }

    fn base_of(&self, made: &Made, truth: Truth) -> Base {
        let backend = &self.owner.manifest().backend;
        (made.uuid, (truth, made.files.iter().map(|file| file.path(backend)).collect()))
    }

    /// A fingerprint of everything in it that matters for later steps.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.number, self.instance, self.phase, self.has_closed, self.crc).hash(&mut hasher);
        (self.barriers, self.last_id, &self.uploads).hash(&mut hasher);
        if self.phase != Phase::Ended {
            (self.files, self.closing, &self.making, &self.snapshots, &self.newest).hash(&mut hasher);
            self.owner.hash(&mut hasher);
            if let Some(Sending { script, manifest, before }) = &self.publication {
                (script, manifest.encode(), before.len()).hash(&mut hasher);
            }
            if let Some(Writing { script, pages }) = &self.pages {
                (script, pages.len()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

impl Hash for Snapping {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.known, &self.state).hash(state);
    }
}

impl Snap {
    pub(super) fn sent(&self) -> Option<&Sent> {
        match self {
            Self::Sent(sent) => Some(sent),
            Self::Waiting | Self::Durable(_) => None,
        }
    }
}

async fn append(store: Store, before: Arc<[NewPage]>, manifest: Arc<Manifest>) -> Result<u32, ChainError> {
    pages::write(&store, std::slice::from_ref(&manifest.backend), before.to_vec(), Retry::none()).await?;
    chain::append(&store, &manifest, Retry::none()).await
}

async fn write(store: Store, pages: Arc<[NewPage]>) {
    let backend = crate::checkpoint::manifest::tests::sample().backend;
    pages::write(&store, &[backend], pages.to_vec(), Retry::none()).await.expect("the store does not fail");
}

fn number_of(handle: &SegmentHandle) -> u64 {
    handle.segment().expect("uploads are segments").number
}

/// The request of an upload.
pub(super) fn place_of(upload: &Upload) -> Request {
    let SegmentId { job, instance, number } = upload.handle.segment().expect("uploads are segments").clone();
    Request::Create(ObjectName::Segment { job, instance, number }.path(), Bytes::new())
}
