//! One owner of the exploration: the decisions of a backend between writer, ledger, manifest and store, a step at a
//! time. They are written again here, since the exploration cannot run `backend::Core`.

use std::{
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    script::{Objects, Request, Script, Stage},
    world::{Instance, uuid},
};
use crate::{
    changelog::{
        block::ChangeSetBuilder,
        compression::Compression,
        segment::{self, Place, SegmentHandle, SegmentId},
        writer::Writer,
    },
    checkpoint::{
        base::{BaseIndex, Piece},
        chain,
        ledger::{Awaits, Ledger, NoticeKind, NoticeOutcome, NoticeTarget, Retention},
        manifest::{CheckpointRecord, Manifest, Materialization, SnapshotFile, Source, tests::sample},
    },
    object::{ObjectName, Retry},
    types::{CheckpointIdentity, HashRange, KeyGroup, KeyGroupRange, Sqn, StateId},
};

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

/// A manifest that is being written.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    pub(super) script: Script,
    pub(super) manifest: Arc<Manifest>,
    listed_to: Sqn,
}

/// A materialization that is being made.
#[derive(Debug, Clone, Hash)]
pub(super) struct Making {
    from: Sqn,
    /// Once its last piece was copied: the request for its index, and whether that has arrived.
    pub(super) sent: Option<(Request, bool)>,
    complete_at: Sqn,
}

/// The contents of a state as its engine knows them: parts of runs, in order.
pub(super) type Truth = Vec<Source>;

/// An owner. `number` is unique; its epoch number need not be.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) number: u64,
    pub(super) instance: usize,
    pub(super) phase: Phase,
    pub(super) manifest: Manifest,
    crc: u32,
    pub(super) writer: Writer,
    pub(super) ledger: Ledger,
    pub(super) began: Truth,
    pub(super) uploads: Vec<Upload>,
    pub(super) publication: Option<Publication>,
    pub(super) making: Option<Making>,
    base: Option<Materialization>,
    files: u64,
    snapshot_low_water: u64,
    pub(super) batches: u64,
    pub(super) barriers: u8,
    withdrawing: bool,
    pub(super) closing: bool,
    sealed: bool,
}

/// The result of one step of a publication.
pub(super) enum Progress {
    UnderWay,
    Opened,
    /// These checkpoints are restorable, and their engine is told so.
    Published(Vec<CheckpointRecord>),
    Fenced,
}

impl Owner {
    /// An owner that will open with `manifest`.
    pub(super) fn new(stage: &Stage, number: u64, instance: usize, manifest: Manifest, began: Truth) -> Self {
        let epoch = manifest.owner().epoch.number;
        let parts = manifest.shape.key_groups.parts(128).collect();
        let blocks = ChangeSetBuilder::new(parts, 100);
        let mut owner = Self {
            number,
            instance,
            phase: Phase::Opening,
            crc: 0,
            writer: Writer::new(manifest.backend.clone(), epoch, blocks),
            ledger: Ledger::new(epoch, Retention::Explicit, manifest.checkpoints.clone(), 0),
            began,
            uploads: vec![],
            publication: None,
            making: None,
            base: None,
            files: 1,
            snapshot_low_water: 0,
            batches: 0,
            barriers: 0,
            withdrawing: false,
            closing: false,
            sealed: false,
            manifest,
        };
        owner.send(stage);
        owner
    }

    pub(super) fn epoch(&self) -> u64 {
        self.manifest.owner().epoch.number
    }

    pub(super) fn retain(&mut self, retention: Retention, last_id: u64) {
        self.ledger = Ledger::new(self.epoch(), retention, self.manifest.checkpoints.clone(), last_id);
    }

    fn send(&mut self, stage: &Stage) {
        let (manifest, listed_to) = (Arc::new(self.manifest.clone()), self.writer.listed_to());
        let script = Script::begin(stage, |store| append(store, manifest.clone()));
        self.publication = Some(Publication { script, manifest, listed_to });
    }

    /// The next request of the publication takes effect and is answered.
    pub(super) fn go(&mut self, stage: &Stage, objects: &mut Objects) -> Progress {
        let publication = self.publication.as_mut().expect("a manifest is on its way");
        let manifest = publication.manifest.clone();
        let appended = publication.script.step(stage, objects, |store| append(store, manifest.clone()));
        let Some(appended) = appended else { return Progress::UnderWay };
        let listed_to = publication.listed_to;
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
        self.writer.on_published(listed_to);
        let published = self.ledger.published();
        if self.sealed {
            self.end();
        }
        Progress::Published(published)
    }

    /// Ends the owner; its uploads that are in flight go on.
    pub(super) fn end(&mut self) {
        (self.phase, self.publication, self.making) = (Phase::Ended, None, None);
    }

    /// Applies one batch, which is inlined or goes into a segment, and takes a barrier after it. Returns the
    /// checkpoint.
    pub(super) fn barrier(&mut self, instance: &mut Instance, inline: bool) -> CheckpointIdentity {
        self.writer.begin_batch(self.batches, 1);
        self.writer.push(KeyGroup(70), |out| out.push(7));
        self.writer.end_batch(0);
        self.batches += 1;
        let is_all_listed = self.writer.is_all_listed();
        let set = self.writer.roll_over().expect("a batch with a change");
        if inline && is_all_listed {
            let handle = segment::inline(&set, Compression::None);
            self.writer.on_inlined(handle.range);
            self.manifest.runs.entry(set.epoch).or_default().handles.push(handle);
        } else {
            let job = self.manifest.backend.job.clone();
            let id = SegmentId { job, instance: instance.id, number: instance.begin() };
            let handles = segment::encode(id, &[set], Compression::None).handles;
            self.uploads.extend(handles.into_iter().map(|handle| Upload { handle, has_arrived: false }));
        }
        let (epoch, id) = (self.epoch(), self.ledger.last_id() + 1);
        let base = self.base.as_ref().filter(|base| base.complete_at <= self.writer.next());
        let record = CheckpointRecord {
            identity: CheckpointIdentity { epoch, id, uuid: uuid(self.number, 100 + id) },
            attempt: self.manifest.owner().attempt,
            cut: self.writer.next(),
            applied_to: self.batches,
            attachment: Bytes::new().into(),
            completed: false,
            base: base.map(|base| base.uuid),
            ..sample().checkpoints[0].clone()
        };
        let identity = record.identity;
        self.ledger.trigger(record, Awaits::Log);
        self.barriers += 1;
        identity
    }

    /// The present contents of the state.
    pub(super) fn truth(&self) -> Truth {
        let (from, to) = (Sqn::first_of(self.epoch()), self.writer.next());
        let own = (from < to).then(|| Source { epoch: self.epoch(), from, to });
        self.began.iter().copied().chain(own).collect()
    }

    /// The owner learns that an upload is durable.
    pub(super) fn learn(&mut self, at: usize, instance: &mut Instance) {
        let Upload { handle, .. } = self.uploads.remove(at);
        instance.in_flight.remove(&number_of(&handle));
        if self.phase == Phase::Ended {
            return;
        }
        let epoch = self.epoch();
        let uploaded = self.writer.on_uploaded(handle);
        if !uploaded.handles.is_empty() {
            self.manifest.runs.entry(epoch).or_default().handles.extend(uploaded.handles);
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

    /// Whether a manifest is wanted.
    pub(super) fn wants_manifest(&self) -> bool {
        let listed_to = self.writer.listed_to();
        let is_wanted = self.ledger.is_ready(listed_to) || self.writer.awaits_manifest();
        self.phase == Phase::Serving
            && self.publication.is_none()
            && !self.sealed
            && (is_wanted || self.ledger.is_dirty() || self.withdrawing || self.closing)
    }

    /// Derives the next manifest and sends it.
    pub(super) fn begin(&mut self, stage: &Stage, instance: &Instance) {
        let unlisted = self.writer.lowest_unlisted_segment();
        let uploading = instance.low_water();
        let low_water = unlisted.map_or(uploading, |unlisted| unlisted.min(uploading));
        self.sealed = self.closing;
        self.withdrawing = false;
        let (_, records) = self.ledger.begin_publishing(self.writer.listed_to());
        self.manifest.number += 1;
        self.manifest.previous_crc = self.crc;
        self.manifest.opens_epoch = false;
        self.manifest.checkpoints = records;
        let all = |low_water| if self.sealed { u64::MAX } else { low_water };
        self.manifest.segment_low_water = all(low_water);
        self.manifest.snapshot_low_water = all(self.snapshot_low_water);
        let in_flight: Vec<_> = self.ledger.in_flight_records().map(|r| self.manifest.contents(r)).collect();
        self.manifest.prune(&in_flight);
        self.send(stage);
    }

    /// Carries out a notice; returns its outcome.
    pub(super) fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> NoticeOutcome {
        let is_end = matches!(kind, NoticeKind::Abort | NoticeKind::Discard);
        if is_end && self.ledger.means_in_flight(target) {
            self.ledger.fail(target.id);
            return NoticeOutcome::Done;
        }
        let outcome = self.ledger.notice(kind, target);
        self.withdrawing |= is_end && outcome == NoticeOutcome::Done;
        outcome
    }

    /// Begins a materialization, or copies its last piece and sends its index.
    pub(super) fn materialize(&mut self, instance: &Instance) {
        let now = self.writer.next();
        let Some(making) = &mut self.making else {
            self.making = Some(Making { from: now, sent: None, complete_at: now });
            return;
        };
        making.complete_at = now;
        let path = index_file(self.epoch(), self.files, instance.id, 0).path(&self.manifest.backend);
        let making = self.making.as_mut().expect("as seen above");
        making.sent = Some((Request::Create(path, index_of(making).encode()), false));
        self.files += 1;
    }

    /// The owner learns that the index is durable, or gives up.
    pub(super) fn materialized(&mut self, instance: &Instance, succeeded: bool) -> Option<(Uuid, Truth)> {
        let making = self.making.take().expect("a materialization is in the making");
        self.snapshot_low_water = self.files;
        if !succeeded {
            return None;
        }
        let bytes = index_of(&making).encode().len() as u64;
        let index = index_file(self.epoch(), self.files - 1, instance.id, bytes);
        let uuid = uuid(self.number, 200 + self.files);
        let Making { from, complete_at, .. } = making;
        let base = Materialization { uuid, from, complete_at, index, index_crc: None, stored_bytes: 0, changes: 0 };
        self.manifest.materializations.push(base.clone());
        self.base = Some(base);
        let own = Source { epoch: self.epoch(), from: Sqn::first_of(self.epoch()), to: complete_at };
        let own = (own.from < own.to).then_some(own);
        Some((uuid, self.began.iter().copied().chain(own).collect()))
    }

    /// A fingerprint of everything in it that matters for later steps.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.number, self.instance, self.phase, self.crc, self.barriers).hash(&mut hasher);
        self.uploads.hash(&mut hasher);
        if self.phase != Phase::Ended {
            (self.files, self.snapshot_low_water, self.withdrawing, self.closing, self.sealed).hash(&mut hasher);
            (&self.making, self.manifest.encode()).hash(&mut hasher);
            if let Some(Publication { script, manifest, listed_to }) = &self.publication {
                (script, manifest.encode(), listed_to).hash(&mut hasher);
            }
            write!(Feed(&mut hasher), "{:?}{:?}", self.writer, self.ledger).expect("hashing does not fail");
        }
        hasher.finish()
    }
}

async fn append(store: crate::object::Store, manifest: Arc<Manifest>) -> Result<u32, chain::ChainError> {
    chain::append(&store, &manifest, Retry::none()).await
}

fn number_of(handle: &SegmentHandle) -> u64 {
    handle.segment().expect("uploads are segments").number
}

/// The request of an upload.
pub(super) fn place_of(upload: &Upload) -> Request {
    let SegmentId { job, instance, number } = upload.handle.segment().expect("uploads are segments").clone();
    Request::Create(ObjectName::Segment { job, instance, number }.path(), Bytes::new())
}

fn index_file(epoch: u64, number: u64, instance: Uuid, bytes: u64) -> SnapshotFile {
    SnapshotFile { instance, name: SnapshotFile::name(epoch, number, "index"), bytes }
}

fn index_of(making: &Making) -> BaseIndex {
    let piece = |first, last, sqn| {
        let key_groups = KeyGroupRange::new(first, last).unwrap();
        Piece { state: StateId(1), key_groups, hashes: HashRange::ALL, sqn, block: None }
    };
    BaseIndex::new([piece(64, 95, making.from), piece(96, 127, making.complete_at)]).unwrap()
}

/// Feeds written text to a hasher.
struct Feed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Feed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
