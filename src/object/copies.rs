//! Local copies of objects, so that a restore on the host that wrote them does not have to fetch them.
//!
//! ```text
//!   Store::create … durable ──▶ Copies::keep ──bounded queue──▶ worker ──▶ file below one of the folders
//!   Store::get, get_range ──▶ Copies::read ──verified──▶ bytes          │ judges: what no open backend wants and no
//!                                └─ miss, corrupt ──▶ the store         ▼ closed one may come back for is removed
//! ```
//!
//! * Copies are made of what never changes and is named by manifests: segments, pages of the log index, snapshot files.
//!   What exists, who owns it and what it consists of is always asked of the store; a copy only stands for the contents
//!   of an object that was named. Names of objects are unique over all stores and never used again, so that a copy
//!   never stands for another object.
//! * A copy that cannot be made is counted, and nothing else happens: [`Copies::keep`] neither waits nor fails.
//! * Every part of a copy is verified as it is read. A damaged one is deleted and the object read from the store.
//! * The folders belong to one process at a time (flock) and outlive it: that is the point.
//! * Warm restarts of backends on local disk need copies, too: where no others are asked for, only of what those want,
//!   in folders that go with the process, and without files of images ([`CopyScope::Wanted`]). What waits to be written
//!   is read from memory.
//!
//! | file | |
//! | --- | --- |
//! | `wants` | which copies are needed: pure |
//! | `file` | the format of a copy |
//! | `folder` | where they lie |

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

/// Bytes that may wait to be written. What comes beyond is not copied; a single larger object is, if nothing waits.
const QUEUE_BYTES: u64 = 32 << 20;

/// Settings of local copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    /// Where they lie; files are spread over the folders.
    pub folders: Vec<PathBuf>,
    /// What copies are made of.
    pub write: CopyScope,
    /// Whether they are read by who does not ask for that ([`Store::recalling`](super::Store::recalling)).
    pub read: bool,
    /// Most bytes of all copies; beyond, the oldest go.
    pub max_bytes: u64,
    /// After this long the copies of a backend that is not open are removed.
    pub idle_timeout: Duration,
}

/// What copies are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyScope {
    /// Nothing.
    Nothing,
    /// What backends that are open said that they want, but for files of images: those they keep themselves.
    Wanted,
    /// All that is created.
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
    /// The order of the next copy.
    next: u64,
    queue: std::collections::VecDeque<Pending>,
    queued_bytes: u64,
    /// Taken from the queue, and not a copy yet.
    writing: Option<Pending>,
    wants: Wants,
    /// Something changed that may make copies unneeded.
    unjudged: bool,
    /// The last copy could not be made, and the log says so.
    failing: bool,
}

/// A copy that there is.
struct Kept {
    file: PathBuf,
    head: Arc<Head>,
    /// Bytes of the file.
    bytes: u64,
    /// Lower is older.
    order: u64,
}

impl Copies {
    /// Takes the folders, which are made if they are missing, and looks at what an earlier daemon left in them. Blocks
    /// for that. [`run`](Self::run) has to be spawned.
    ///
    /// # Errors
    /// A folder cannot be written, another process has it, or there is none.
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
            wants: Wants::new(options.idle_timeout, Instant::now()),
            unjudged: true,
            failing: false,
        };
        for (file, bytes, head) in folders.scan()? {
            state.insert(file, bytes, head);
        }
        metrics.bytes(state.bytes);
        let copies = Self(Arc::new(Inner { options, folders, metrics, state: Mutex::new(state), wake: Notify::new() }));
        copies.0.make_room(0);
        Ok(copies)
    }

    /// Whether an object gets copies.
    fn is_copied(path: &Path) -> bool {
        let name = ObjectName::parse(path);
        matches!(
            name,
            Some(ObjectName::Segment { .. } | ObjectName::IndexPage { .. } | ObjectName::SnapshotFile { .. })
        )
    }

    /// Has the object at `path`, which is durable, copied in the background. Never waits.
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
        if state.queued_bytes > 0 && state.queued_bytes.saturating_add(bytes) > QUEUE_BYTES {
            self.0.failed(&mut state, path, &"local disk is slower than the store: too much waits to be copied");
            return;
        }
        state.queued_bytes += bytes;
        state.queue.push_back(Pending { path: path.clone(), payload, label });
        drop(state);
        self.0.wake.notify_one();
    }

    /// The bytes of the object at `path`, or those in `range`, if there is a copy and it is sound. Blocks for the disk.
    #[must_use]
    pub fn read(&self, path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
        if self.0.options.read { self.recall(path, range) } else { None }
    }

    /// Whether all that is created is copied, rather than what its owners say that they want.
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.0.options.write != CopyScope::Wanted
    }

    /// As [`read`](Self::read), whatever the settings say.
    #[must_use]
    pub fn recall(&self, path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
        if !Self::is_copied(path) {
            return None;
        }
        let found = {
            let mut state = self.0.state.lock();
            if let Some(waiting) = state.waiting(path) {
                self.0.metrics.read(Read::Hit);
                return waiting.slice(range);
            }
            let State { copies, wants, .. } = &mut *state;
            copies.get(path).map(|kept| {
                kept.head.label.uses.iter().for_each(|usage| wants.used(&usage.backend, Instant::now()));
                (kept.file.clone(), kept.head.clone())
            })
        };
        let Some((file, head)) = found else {
            self.0.metrics.read(Read::Miss);
            return None;
        };
        match tasks::blocking(|| head.read(&file, range)) {
            Ok(Some(bytes)) => {
                self.0.metrics.read(Read::Hit);
                Some(bytes)
            }
            // The store knows better what to say of a range beyond the end.
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

    /// Says what owner `epoch` of `backend` needs from now on: what no open backend needs is removed. An older owner's
    /// is ignored.
    pub fn want(&self, backend: &BackendId, epoch: u64, wanted: Wanted) {
        let mut state = self.0.state.lock();
        state.unjudged |= state.wants.set(backend, epoch, wanted);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Owner `epoch` of `backend` has ended; a later one may come for its copies, until they have been idle for too
    /// long.
    pub fn release(&self, backend: &BackendId, epoch: u64) {
        let mut state = self.0.state.lock();
        state.wants.release(backend, epoch, Instant::now());
        drop(state);
        self.0.wake.notify_one();
    }

    /// Paths of the objects that there are copies of, in order.
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
    /// What is not written yet of the object at `path`.
    fn waiting(&self, path: &Path) -> Option<&Pending> {
        self.queue.iter().chain(&self.writing).find(|pending| pending.path == *path)
    }

    fn insert(&mut self, file: PathBuf, bytes: u64, head: Head) {
        let order = self.next;
        self.next += 1;
        self.bytes += bytes;
        let path = head.path.clone();
        if let Some(old) = self.copies.insert(path, Kept { file, head: Arc::new(head), bytes, order }) {
            self.bytes -= old.bytes;
        }
    }
}

impl Inner {
    /// Counts a copy that was not made; the log hears of the first in a row.
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
