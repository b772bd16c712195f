//! The check of a batch before anything is done: shapes, ids and sizes, never contents. Also decides which key group an
//! operation belongs to.

use super::Table;
use crate::{
    backend::{error, words::Operation},
    error::{Error, Reason},
    state::{
        Address,
        op::{self, Op},
    },
    types::{KeyGroup, KeyGroupAssignment, KeyGroupRange, TtlUpdate},
};

/// The effects that a batch may have, judged by the kinds and states of its operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effects {
    /// Whether one of the operations is a write.
    pub(crate) writes: bool,
    /// Whether its reads may change state: they may clean up expired entries, or touch the entries that they read.
    pub(crate) reads_change: bool,
}

impl Table {
    /// Whether a batch costs credit and has a number: it has a write, or an operation on a state whose entries are
    /// touched by reads.
    pub(crate) fn writes(&self, operations: &[Operation<'_>]) -> bool {
        let touches = |operation: &Operation<'_>| {
            let ttl = self.states.get(operation.state).and_then(|descriptor| descriptor.ttl);
            ttl.is_some_and(|ttl| ttl.update == TtlUpdate::OnReadAndWrite)
        };
        operations.iter().any(|operation| operation.op.is_write() || touches(operation))
    }

    /// Checks every operation by its shape, ids and sizes. Puts the key groups into `self.key_groups`.
    pub(crate) fn check_batch(&mut self, operations: &[Operation<'_>]) -> Result<Effects, Error> {
        let limits = self.env.options.limits;
        // The count is bounded first, since everything below takes time and memory by it.
        if operations.len() > limits.max_batch_operations {
            let text = format!("{} operations: a batch has at most {}", operations.len(), limits.max_batch_operations);
            return Err(Error::new(Reason::LimitExceeded, text));
        }
        let mut effects = Effects { writes: false, reads_change: self.clean_ups.is_for_every_batch() };
        let mut grows = false;
        self.key_groups.clear();
        for (index, operation) in operations.iter().enumerate() {
            let key_group = self.check_operation(index, operation)?;
            self.key_groups.push(key_group);
            effects.writes |= operation.op.is_write();
            effects.reads_change |= self.states.get(operation.state).is_some_and(|descriptor| descriptor.ttl.is_some());
            grows |= operation.op.grows();
        }
        // Ordering: room is made last. It may end idle backends, and a malformed batch must not cost anybody a backend.
        if grows {
            self.check_state_memory()?;
        }
        Ok(effects)
    }

    /// Refuses writes that would add to the state while all state together exceeds its memory.
    pub(crate) fn check_state_memory(&self) -> Result<(), Error> {
        self.env.make_room_for_state();
        let (taken, allowed) = (self.env.taken_by_state(), self.env.options.state_memory);
        if taken < allowed {
            return Ok(());
        }
        let text = format!(
            "state takes {taken} bytes, `memory.state` allows {allowed}; deletes and reads still work, or raise the setting"
        );
        Err(Error::new(Reason::StateMemory, text))
    }

    /// Checks one operation by its shape, ids and sizes; returns its key group.
    pub(crate) fn check_operation(&self, index: usize, operation: &Operation<'_>) -> Result<KeyGroup, Error> {
        self.check_read_at(index, operation, false)
    }

    /// Checks an operation as [`check_operation`](Self::check_operation) does. It may read `at_mark`: an earlier
    /// moment, where lists cannot be rewritten.
    pub(crate) fn check_read_at(
        &self,
        index: usize,
        operation: &Operation<'_>,
        at_mark: bool,
    ) -> Result<KeyGroup, Error> {
        let Some(descriptor) = self.states.get(operation.state) else {
            let text = format!(
                "operation {index}: state id {} is not registered; ids come from RegisterStates",
                operation.state.0
            );
            return Err(Error::new(Reason::UnknownState, text));
        };
        let key_group = self.key_group(index, operation, descriptor.redistribution.is_some())?;
        let at = address(operation, key_group);
        let checked = op::check(&operation.op, &at, descriptor, &self.env.options.limits);
        checked.map_err(|fault| error::operation(index, &fault))?;
        let read = read_key_groups(operation, key_group, self.shape.key_groups);
        // Only lists with TTL are rewritten, so only their tokens need cursors. At a mark nothing is rewritten.
        let cursors = (descriptor.ttl.is_some() && !at_mark).then(|| &**self.clean_ups.lists());
        let token = op::scan::check_token(&operation.op, at, self.scope, cursors, read);
        token.map_err(|fault| error::operation(index, &fault))?;
        Ok(key_group)
    }

    fn key_group(&self, index: usize, operation: &Operation<'_>, is_operator_state: bool) -> Result<KeyGroup, Error> {
        let shape = &self.shape;
        let wrong = |what: String| Error::new(Reason::WrongKeyGroup, format!("operation {index}: {what}"));
        match operation.key_group {
            _ if !is_operator_state => {}
            None => return Ok(KeyGroup::OPERATOR),
            Some(group) => {
                return Err(wrong(format!("key group {group} is given, but operator state has none; leave it out")));
            }
        }
        // The client assigns key groups or the daemon does, for the life of the state. A key that came under two rules
        // would be found in two places.
        let group = match (shape.assignment, operation.key_group) {
            // Such an operation reads all key groups.
            (_, None) if !operation.op.is_keyed() => return Ok(shape.key_groups.first()),
            (_, Some(group)) if operation.op.may_be_of_key_group() => group,
            (_, Some(group)) if matches!(operation.op, Op::TimerCount) => {
                return Err(wrong(format!("key group {group} is given, but timers of all are counted; leave it out")));
            }
            (KeyGroupAssignment::Hashed, None) => hash_key_group(operation.key, shape.max_parallelism),
            (KeyGroupAssignment::Given, Some(group)) => group,
            (KeyGroupAssignment::Hashed, Some(group)) => {
                return Err(wrong(format!("key group {group} is given, but this backend hashes keys; leave it out")));
            }
            (KeyGroupAssignment::Given, None) => {
                return Err(wrong("no key group is given, but this backend was opened with GIVEN".to_owned()));
            }
        };
        u16::try_from(group).ok().map(KeyGroup).filter(|group| shape.key_groups.contains(*group)).ok_or_else(|| {
            wrong(format!(
                "key group {group} is outside {}, the range of this subtask; send the record to the subtask that owns it",
                shape.key_groups
            ))
        })
    }
}

/// The key groups that an operation without a key reads: the one that it names, or all.
pub(super) fn read_key_groups(operation: &Operation<'_>, key_group: KeyGroup, all: KeyGroupRange) -> KeyGroupRange {
    let of_one = operation.op.may_be_of_key_group() && operation.key_group.is_some();
    if of_one { KeyGroupRange::one(key_group) } else { all }
}

/// The key group of `key` if the daemon assigns key groups: murmur3_32 (seed 0) modulo `max_parallelism`, unsigned.
#[must_use]
pub fn hash_key_group(key: &[u8], max_parallelism: u32) -> u32 {
    let hash = murmur3::murmur3_32(&mut &*key, 0).expect("reading a slice cannot fail");
    hash % max_parallelism
}

/// The address of an operation.
pub(super) fn address<'a>(operation: &Operation<'a>, key_group: KeyGroup) -> Address<'a> {
    Address { state: operation.state, key_group, key: operation.key, namespace: operation.namespace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_groups_are_those_of_the_public_murmur3() {
        // Reference values of MurmurHash3_x86_32 with seed 0: "" is 0, "hello" is 0x248bfa47, "hello, world" is
        // 0x149bbb7f.
        for (key, hash) in [("", 0), ("hello", 0x248b_fa47_u32), ("hello, world", 0x149b_bb7f)] {
            assert_eq!(hash_key_group(key.as_bytes(), 128), hash % 128, "{key}");
        }
    }
}
