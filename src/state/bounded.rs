//! An inner backend in memory with a bounded size. To read the state of others a part at a time, a reader fills it;
//! when it is full, the reader starts again with a smaller part.

use super::{Change, PieceSnapshots as _, StateBackend, StateError, forward::forward, hashmap::HashMapBackend};
use crate::{
    tasks,
    types::{KeyGroup, KeyGroupRange, StateId},
};

/// A hash map of bounded size.
pub struct BoundedBackend {
    inner: HashMapBackend,
    max_bytes: u64,
}

impl BoundedBackend {
    /// An empty backend of `key_groups` that takes at most about `max_bytes`.
    #[must_use]
    pub fn new(key_groups: KeyGroupRange, max_bytes: u64) -> Self {
        Self { inner: HashMapBackend::new(key_groups), max_bytes }
    }

    /// Calls `read` with the changes that rebuild one piece of (state, key group) in an empty backend: the next cells
    /// whose stable hashes are `first` or higher. The changes of one cell follow each other, in order. Returns where
    /// the next piece begins; `None` after the last one.
    ///
    /// # Errors
    /// As `PieceSnapshots::copy_piece`.
    pub fn piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        first: u64,
        read: &mut dyn FnMut(&Change<'_>),
    ) -> Result<Option<u64>, StateError> {
        let mut read = |change: &Change<'_>| {
            tasks::breathe();
            read(change);
        };
        Ok(self.inner.copy_piece(state, key_group, first, &mut read)?.checked_add(1))
    }
}

impl StateBackend for BoundedBackend {
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        tasks::breathe();
        self.inner.apply(change)?;
        // The size is known only after the change. A reader drops a full backend, so the change that is too much does
        // no harm.
        let (bytes, allowed) = (self.inner.bytes(), self.max_bytes);
        if bytes <= allowed { Ok(()) } else { Err(StateError::Full { allowed }) }
    }

    forward! {
        inner: register, value, map_value, map_page, list_page, timer, timer_page, timer_count, len, has_entries, name_page, name_rank,
        counting, bytes, memory_bytes, set_stamp, set_time, set_ttl, warm, finish_batch
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        state::{Action, Address},
        types::{StateDescriptor, StateKind},
    };

    #[test]
    fn a_bounded_backend_is_full_once_it_has_what_it_may() {
        let mut backend = BoundedBackend::new(KeyGroupRange::one(KeyGroup(3)), 10_000);
        backend.register(StateId(1), &StateDescriptor::new("a", StateKind::Value));
        let put = |backend: &mut BoundedBackend, n: u32| {
            let key = n.to_be_bytes();
            let at = Address { state: StateId(1), key_group: KeyGroup(3), key: &key, namespace: b"" };
            backend.apply(&Change { at, action: Action::Put(&[7; 100]) })
        };
        let full = (0..1_000).find(|n| put(&mut backend, *n).is_err()).unwrap();
        assert!((20..100).contains(&full), "{full} entries of 100 bytes and their names");
        assert!(matches!(put(&mut backend, 2_000), Err(StateError::Full { allowed: 10_000 })));
        let mut seen = 0;
        let next = backend.piece(StateId(1), KeyGroup(3), 0, &mut |_| seen += 1).unwrap();
        assert_eq!((seen, next), (backend.entries(StateId(1)).unwrap(), None));
    }

    #[test]
    fn a_key_group_of_any_size_comes_in_pieces_of_a_bounded_one() {
        let mut backend = BoundedBackend::new(KeyGroupRange::one(KeyGroup(3)), u64::MAX);
        backend.register(StateId(1), &StateDescriptor::new("a", StateKind::Value));
        for n in 0..10_000_u32 {
            let at = Address { state: StateId(1), key_group: KeyGroup(3), key: &n.to_be_bytes(), namespace: b"" };
            backend.apply(&Change { at, action: Action::Put(&[7; 1_000]) }).unwrap();
        }
        let (mut seen, mut next) = (vec![], Some(0));
        while let Some(first) = next {
            let before = seen.len();
            let read = &mut |change: &Change<'_>| seen.push(change.at.key.to_vec());
            next = backend.piece(StateId(1), KeyGroup(3), first, read).unwrap();
            assert!(seen.len() - before < 2_000, "about a megabyte each");
        }
        seen.sort_unstable();
        assert!(seen.iter().eq((0..10_000_u32).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>().iter()));
    }
}
