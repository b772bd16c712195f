//! Local copies of objects, so that a restore on the host that wrote them does not have to download them.
//!
//! ```text
//!   Store::create … durable ──▶ Copies::keep ──bounded queue──▶ worker ──▶ file below one of the folders
//!   Store::get, get_range ──▶ Copies::read ──verified──▶ bytes          │ removes copies that no open backend wants
//!                                └─ miss, corrupt ──▶ the store         ▼ and no closed one may come back for
//! ```
//!
//! * Copies are made of objects that never change and are named by manifests: segments, pages of the log index,
//!   snapshot files. Whether an object exists, who owns it, and which objects make up a checkpoint is always asked of
//!   the store; a copy only stands for the contents of an object that was named. Names of objects are unique over all
//!   stores and are never used again, so a copy never stands for another object.
//! * A copy that cannot be made is counted and logged, without further effect: [`Copies::keep`] neither waits nor
//!   fails.
//! * Every part of a copy is verified as it is read. A damaged copy is deleted, and the object is read from the store.
//! * The folders belong to one process at a time (flock). Their copies outlive it, so that the next process can use
//!   them.
//! * Warm restarts of backends on local disk need copies, too. If none are configured, copies are made only of the
//!   objects that those backends want, without files of images ([`CopyScope::Wanted`]), in folders that are removed
//!   with the process. An object that waits to be written is read from memory.
//!
//! | file | |
//! | --- | --- |
//! | `wants` | the decision which copies are needed; pure |
//! | `file` | the format of a copy |
//! | `folder` | the place of the copies |

mod file;
mod folder;
mod metrics;
mod wants;
mod worker;

use std::{collections::BTreeMap, fmt, io, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{PutPayload, path::Path};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

pub use self::wants::{Label, Part, Use, Wanted};
use self::{
    file::Head,
    folder::Folders,
    metrics::{CopyMetrics, Read},
    wants::Wants,
    worker::Pending,
};
use super::ObjectName;
use crate::{metrics::Metrics, tasks, types::BackendId};

/// Most bytes of objects that wait to be written. Further objects are not copied, but a single larger object is
/// accepted if no other waits.
const QUEUE_BYTES: u64 = 32 << 20;

/// Settings of local copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    /// Folders of the copies, which take turns. At least one.
    pub folders: Vec<PathBuf>,
    /// Objects of which copies are made.
    pub write: CopyScope,
    /// Whether every read tries a copy first. If not, only a store of [`Store::recalling`](super::Store::recalling)
    /// does.
    pub read: bool,
    /// Most bytes of all copies together. Beyond that, the oldest are removed.
    pub max_bytes: u64,
    /// Time after which the copies of a backend that is not open are removed.
    pub idle_timeout: Duration,
}

/// The objects of which copies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyScope {
    /// No copies are made.
    Nothing,
    /// Objects that open backends may need (see [`Copies::want`]), except files of images, which those backends keep
    /// themselves.
    Wanted,
    /// All segments, index pages and snapshot files that this daemon creates.
    All,
}

/// The local copies of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Copies(Arc<Inner>);

struct Inner {
    options: CopyOptions,
    folders: Folders,
    metrics: CopyMetrics,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    copies: BTreeMap<Path, Kept>,
    bytes: u64,
    /// Order of the next copy.
    next: u64,
    queue: std::collections::VecDeque<Pending>,
    queued_bytes: u64,
    /// The object that is being written: no longer in the queue, and not a copy yet.
    writing: Option<Pending>,
    wants: Wants,
    /// Whether a change may have made copies unneeded since they were last judged.
    unjudged: bool,
    /// Whether the last copy could not be made. The log mentions only the first failure in a row.
    failing: bool,
}

/// A copy on disk.
struct Kept {
    file: PathBuf,
    head: Arc<Head>,
    /// Bytes of the file, head included.
    bytes: u64,
    /// The lower, the older.
    order: u64,
}

impl Copies {
    /// Locks the folders, which are created if they are missing, and reads the heads of the copies in them. Blocks
    /// meanwhile. The caller has to spawn [`run`](Self::run).
    ///
    /// # Errors
    /// A folder cannot be written, another process holds it, or `options` has no folder.
    pub fn open(options: CopyOptions, metrics: &Metrics) -> io::Result<Self> {
        let metrics = CopyMetrics::register(metrics);
        let folders = Folders::open(&options.folders)?;
        let mut state = State {
            copies: BTreeMap::new(),
            bytes: 0,
            next: 0,
            queue: std::collections::VecDeque::new(),
            queued_bytes: 0,
            writing: None,
            // Copies of an earlier process count as used now: their backends have the whole idle time to come back.
            wants: Wants::new(options.idle_timeout, Instant::now()),
            unjudged: true,
            failing: false,
        };
        // In the order of their age, which becomes their `order`.
        for (file, bytes, head) in folders.scan()? {
            state.insert(file, bytes, head);
        }
        metrics.bytes(state.bytes);
        let copies = Self(Arc::new(Inner { options, folders, metrics, state: Mutex::new(state), wake: Notify::new() }));
        // The limit may have been lowered since these copies were made.
        copies.0.make_room(0);
        Ok(copies)
    }

    /// Whether an object of this name gets copies.
    fn is_copied(path: &Path) -> bool {
        let name = ObjectName::parse(path);
        matches!(
            name,
            Some(ObjectName::Segment { .. } | ObjectName::IndexPage { .. } | ObjectName::SnapshotFile { .. })
        )
    }

    /// Queues a copy of the object at `path`, which must be durable. Never waits.
    pub fn keep(&self, path: &Path, payload: PutPayload, label: Label) {
        let scope = self.0.options.write;
        if scope == CopyScope::Nothing || !Self::is_copied(path) {
            return;
        }
        let bytes = payload.content_length() as u64;
        let mut state = self.0.state.lock();
        if scope == CopyScope::Wanted && !state.wants.is_asked_for(&label) {
            return;
        }
        // Refused instead of waited for: a slow disk must not delay an upload.
        if state.queued_bytes > 0 && state.queued_bytes.saturating_add(bytes) > QUEUE_BYTES {
            self.0.failed(&mut state, path, &"local disk is slower than the store: too much waits to be copied");
            return;
        }
        state.queued_bytes += bytes;
        state.queue.push_back(Pending { path: path.clone(), payload, label });
        drop(state);
        self.0.wake.notify_one();
    }

    /// The bytes of the object at `path`, or those in `range`, if there is a sound copy and the settings allow reading
    /// it. Blocks for the disk.
    #[must_use]
    pub fn read(&self, path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
        if self.0.options.read { self.recall(path, range) } else { None }
    }

    /// Whether copies do not depend on the wishes of their owners: the scope is not [`CopyScope::Wanted`].
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.0.options.write != CopyScope::Wanted
    }

    /// As [`read`](Self::read), even if the settings forbid reading.
    #[must_use]
    pub fn recall(&self, path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
        if !Self::is_copied(path) {
            return None;
        }
        let found = {
            let mut state = self.0.state.lock();
            // The queue is looked at first, and under the same lock by which the worker takes from it. So an object is
            // always found in the queue, as the one being written, or as a copy.
            if let Some(waiting) = state.waiting(path) {
                self.0.metrics.read(Read::Hit);
                return waiting.slice(range);
            }
            let State { copies, wants, .. } = &mut *state;
            copies.get(path).map(|kept| {
                // A copy that is read counts as used, so that it does not expire in the middle of a restore.
                kept.head.label.uses.iter().for_each(|usage| wants.used(&usage.backend, Instant::now()));
                (kept.file.clone(), kept.head.clone())
            })
        };
        let Some((file, head)) = found else {
            self.0.metrics.read(Read::Miss);
            return None;
        };
        // The lock is released before the disk is touched. The copy may be removed meanwhile; then the read fails like
        // one of a copy that never was.
        match tasks::blocking(|| head.read(&file, range)) {
            Ok(Some(bytes)) => {
                self.0.metrics.read(Read::Hit);
                Some(bytes)
            }
            // The store reports a range beyond the end of the object with its size.
            Ok(None) => {
                self.0.metrics.read(Read::Miss);
                None
            }
            Err(error) => {
                let gone = error.kind() == io::ErrorKind::NotFound;
                self.0.metrics.read(if gone { Read::Miss } else { Read::Corrupt });
                if !gone {
                    tracing::warn!(object = %path, file = %file.display(), %error, "a local copy is damaged: deleted");
                }
                self.0.remove(std::slice::from_ref(path));
                None
            }
        }
    }

    /// Sets the needs of owner `epoch` of `backend`. Copies that no open backend needs are removed. A call of an older
    /// owner is ignored.
    pub fn want(&self, backend: &BackendId, epoch: u64, wanted: Wanted) {
        let mut state = self.0.state.lock();
        // A statement of an older owner changes nothing, and needs no judgement.
        state.unjudged |= state.wants.set(backend, epoch, wanted);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Ends owner `epoch` of `backend`. Its copies stay for a later owner until they have been idle for the configured
    /// time.
    pub fn release(&self, backend: &BackendId, epoch: u64) {
        let mut state = self.0.state.lock();
        state.wants.release(backend, epoch, Instant::now());
        drop(state);
        self.0.wake.notify_one();
    }

    /// Paths of the objects that have a copy, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<Path> {
        self.0.state.lock().copies.keys().cloned().collect()
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copies({:?})", self.0.options.folders)
    }
}

impl State {
    /// The object at `path`, if it is queued or being written.
    fn waiting(&self, path: &Path) -> Option<&Pending> {
        self.queue.iter().chain(&self.writing).find(|pending| pending.path == *path)
    }

    fn insert(&mut self, file: PathBuf, bytes: u64, head: Head) {
        let order = self.next;
        self.next += 1;
        self.bytes += bytes;
        let path = head.path.clone();
        // The path had a copy before. Its entry is replaced, and its bytes no longer count.
        if let Some(old) = self.copies.insert(path, Kept { file, head: Arc::new(head), bytes, order }) {
            self.bytes -= old.bytes;
        }
    }
}

impl Inner {
    /// Counts a copy that was not made. Only the first failure in a row is logged.
    fn failed(&self, state: &mut State, path: &Path, why: &dyn fmt::Display) {
        self.metrics.failed();
        if !std::mem::replace(&mut state.failing, true) {
            tracing::warn!(object = %path, why = %why, "no local copy was made; further failures are only counted");
        }
    }

    fn remove(&self, paths: &[Path]) {
        let mut files = vec![];
        {
            let mut state = self.state.lock();
            for path in paths {
                let Some(kept) = state.copies.remove(path) else { continue };
                // The entry goes before the file: a reader that comes in between misses the copy and asks the store.
                state.bytes -= kept.bytes;
                files.push(kept.file);
            }
            self.metrics.bytes(state.bytes);
        }
        tasks::blocking(|| files.iter().for_each(|file| self.folders.remove(file)));
    }

    /// Removes the oldest copies until `bytes` more fit.
    fn make_room(&self, bytes: u64) {
        let mut oldest = vec![];
        {
            let state = self.state.lock();
            let mut left = state.bytes;
            let mut copies: Vec<_> = state.copies.iter().map(|(path, kept)| (kept.order, kept.bytes, path)).collect();
            // By `order`, which comes first and is unique.
            copies.sort_unstable();
            for (_, size, path) in copies {
                if left.saturating_add(bytes) <= self.options.max_bytes {
                    break;
                }
                left -= size;
                oldest.push(path.clone());
            }
        }
        if !oldest.is_empty() {
            self.remove(&oldest);
        }
    }
}
