//! An inner backend whose calls wait at a gate, like those of a backend on a disk that hangs. For tests.

use std::{fmt, io, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{
    Address, Change, Counting, HashRange, MapKeys, PageLimit, PieceSnapshots, StateBackend, StateError,
    cut::{CutPiece, Kept},
    folder::Folder,
    forward::forward,
    hashmap::HashMapBackend,
    image::{LocalBackends, LocalImage},
};
use crate::types::{KeyGroup, KeyGroupRange, StateDescriptor, StateId, StateKind, Ttl};

/// A gate opens by itself after this time, so that a failing test ends.
const LONGEST: Duration = Duration::from_secs(30);

/// A gate, open at first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    closed: Mutex<Closed>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Closed {
    is_closed: bool,
    waiting: usize,
}

impl Gate {
    /// Makes calls wait from now on.
    pub fn close(&self) {
        self.0.closed.lock().is_closed = true;
    }

    /// Lets all calls through again.
    pub fn open(&self) {
        self.0.closed.lock().is_closed = false;
        self.0.changed.notify_all();
    }

    /// Number of calls that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.closed.lock().waiting
    }

    /// Blocks the thread while the gate is closed.
    fn pass(&self) {
        let mut closed = self.0.closed.lock();
        if closed.is_closed {
            closed.waiting += 1;
            self.0.changed.wait_while_for(&mut closed, |closed| closed.is_closed, LONGEST);
            closed.waiting -= 1;
        }
    }
}

/// Makes backends in memory, each with its own gate, in place of backends on disk. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct GatedBackends {
    /// The gate at which the making of backends waits.
    pub making: Gate,
    made: Arc<Mutex<Vec<Gate>>>,
}

impl GatedBackends {
    /// The gate of the newest backend.
    #[must_use]
    pub fn newest(&self) -> Gate {
        self.made.lock().last().cloned().unwrap_or_default()
    }
}

impl LocalBackends for GatedBackends {
    fn create(&self, key_groups: KeyGroupRange, _max_parallelism: u32) -> Result<Box<dyn StateBackend>, StateError> {
        self.making.pass();
        let gate = Gate::default();
        self.made.lock().push(gate.clone());
        Ok(Box::new(GatedBackend { inner: HashMapBackend::new(key_groups), gate }))
    }

    fn folder(&self) -> io::Result<Folder> {
        Err(io::Error::other("it has no files"))
    }

    fn read(
        &self,
        _image: LocalImage,
        _key_groups: KeyGroupRange,
        _kind: &dyn Fn(StateId) -> Option<StateKind>,
        _read: &mut dyn FnMut(&Change<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        Err(StateError::Undecodable("it has no images"))
    }
}

/// A hash map whose calls wait at a gate.
pub struct GatedBackend {
    inner: HashMapBackend,
    gate: Gate,
}

impl fmt::Debug for GatedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedBackend").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Drop for GatedBackend {
    fn drop(&mut self) {
        crate::tasks::blocking(|| self.gate.pass());
    }
}

impl StateBackend for GatedBackend {
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor) {
        self.gate.pass();
        self.inner.register(state, descriptor);
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        self.gate.pass();
        self.inner.apply(change)
    }

    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        self.gate.pass();
        self.inner.value(at, read)
    }

    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        self.gate.pass();
        self.inner.map_value(at, map_key, read)
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        self.gate.pass();
        self.inner.map_page(at, keys, limit, read)
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        self.gate.pass();
        self.inner.list_page(at, from, limit, read)
    }

    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        self.gate.pass();
        self.inner.len(at)
    }

    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        self.gate.pass();
        self.inner.name_page(state, key_group, after, limit, read)
    }

    fn counting(&self) -> Counting {
        self.gate.pass();
        let (gate, counting) = (self.gate.clone(), self.inner.counting());
        Box::new(move |go_on| {
            gate.pass();
            counting(go_on)
        })
    }

    fn bytes(&self) -> u64 {
        self.gate.pass();
        self.inner.bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }

    fn set_ttl(&mut self, state: StateId, ttl: Ttl) {
        self.gate.pass();
        self.inner.set_ttl(state, ttl);
    }

    fn may_block(&self) -> bool {
        true
    }

    fn pieces(&self) -> Option<&dyn PieceSnapshots> {
        Some(self)
    }

    fn pieces_mut(&mut self) -> Option<&mut dyn PieceSnapshots> {
        Some(self)
    }

    fn finish_batch(&mut self) -> Result<(), StateError> {
        self.gate.pass();
        self.inner.finish_batch()
    }

    forward!(inner: timer, timer_page, has_entries, name_rank, set_stamp, set_time, warm);
}

/// Calls that copy contents wait; calls about cuts do not.
impl PieceSnapshots for GatedBackend {
    fn copy_piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, StateError> {
        self.gate.pass();
        self.inner.copy_piece(state, key_group, from, copy)
    }

    fn changed(&self, state: StateId, key_group: KeyGroup, range: HashRange) -> u64 {
        self.inner.changed(state, key_group, range)
    }

    fn slice(&self, state: StateId, key_group: KeyGroup, hash: u64) -> HashRange {
        self.inner.slice(state, key_group, hash)
    }

    fn begin_cut(&mut self, number: u64, kept: Kept) {
        self.gate.pass();
        self.inner.begin_cut(number, kept);
    }

    fn keep(&mut self, number: u64, kept: Kept) {
        self.inner.keep(number, kept);
    }

    fn next_of_cut(&mut self, number: u64) -> Result<Option<CutPiece>, StateError> {
        self.gate.pass();
        self.inner.next_of_cut(number)
    }

    fn end_cut(&mut self, number: u64) {
        self.inner.end_cut(number);
    }

    fn held_bytes(&self) -> u64 {
        self.inner.held_bytes()
    }
}
