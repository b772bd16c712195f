//! Begins with a savepoint: rows in files, which have no owner and are never written again.
//!
//! The rows of the savepoint become entries of the requested inner backend, whichever it was made with, as far as they
//! belong to its key groups. Operator state is redistributed as after a rescale. The owner serves only once all of its
//! state is in a materialization of its own.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    restored::{Contents as Filled, LoadError, Loaded, RESTORE_READ_ATTEMPTS, restore},
    shares::{self, Shares},
};
use crate::{
    backend::{environment::Environment, error},
    claim::{claimed::Claim, error::unreadable_savepoint, source::Source, states::States},
    object::{Path, Retry},
    restore::{Progress, block_memory},
    savepoint::{Entry, FileMeta, OperatorMeta, Place, Row, SavepointError, read_rows},
    state::{
        StateBackend as _, StateError,
        operator::{Contents, Successor, WithOperatorState, share, sources},
    },
    tasks,
    types::{InnerBackend, KeyGroupRange, StateId, StateKind},
};

/// An inner backend filled with the rows of `source` that belong to it.
pub(super) async fn load(
    env: &Environment,
    claim: &Claim,
    source: &Source,
    states: States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Loaded, LoadError> {
    // The manifest names nothing of the savepoint. So this restores the empty state, with all states registered.
    let mut contents = restore(env, claim, &states, None, |_| {}).await?;
    let (subtask, parallelism) = (claim.manifest.backend.subtask, claim.manifest.shape.parallelism);
    let to = Successor { subtask, parallelism };
    let key_groups = claim.manifest.shape.key_groups;
    let mut loading = Loading { source, key_groups, operator: BTreeMap::new(), fault: None };
    let files = source.operator.files.iter().filter(|file| loading.needs(file, to));
    let files: Vec<&FileMeta> = files.collect();
    let done = &mut contents.restored.progress;
    done.bytes_total = files.iter().map(|file| file.bytes).sum();
    let retry = Retry::forever().at_most(RESTORE_READ_ATTEMPTS);
    let refused = |error| LoadError::Refused(unreadable_savepoint(&claim.manifest.backend, error));
    let faulty = |fault: &StateError| LoadError::Refused(error::local_store(fault));
    for file in files {
        let operator = &claim.manifest.backend.operator;
        let read = OperatorMeta::read_file(&env.store, &source.id, operator, file, retry).await;
        let (path, bytes) = read.map_err(refused)?;
        let inner = &mut contents.inner;
        let most = block_memory(env.options.state_memory);
        let read = RowFile { meta: file, path, bytes };
        let rows = tasks::blocking_if(inner.may_block(), || loading.file(inner, &read, most));
        // Ordering: a fault of the inner backend comes before the error of the rows, which is only its consequence. The
        // savepoint is not damaged then.
        if let Some(fault) = loading.fault.take() {
            return Err(faulty(&fault));
        }
        done.changes += rows.map_err(refused)?;
        done.bytes_done += file.bytes;
        progress(*done);
        tokio::task::yield_now().await;
    }
    let shares = loading.shares(to);
    let shares = shares::changed(&contents.inner, shares, &states).map_err(|fault| faulty(&fault))?;
    let Filled { inner, restored, .. } = contents;
    let on_disk = claim.manifest.shape.inner == InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(Default::default);
    let parts = claim.parts.clone();
    Ok(Loaded { inner, states, parts, restored, previous: None, images, shares, warm: None, not_warm: String::new() })
}

/// Rows that are being loaded into a backend.
struct Loading<'a> {
    source: &'a Source,
    key_groups: KeyGroupRange,
    /// Operator state by state, then by the subtask that had it.
    operator: BTreeMap<StateId, BTreeMap<u32, Contents>>,
    /// An error of the inner backend, as opposed to one of the savepoint.
    fault: Option<StateError>,
}

/// A file of rows that was read.
struct RowFile<'a> {
    /// The entry of the file in the metadata.
    meta: &'a FileMeta,
    /// The path of the file, for messages.
    path: Path,
    /// The contents of the file.
    bytes: Bytes,
}

impl Loading<'_> {
    /// Whether a file has rows for the subtask `to`.
    fn needs(&self, file: &FileMeta, to: Successor) -> bool {
        let operator = &self.source.operator;
        match (file.key_groups(), file.subtask) {
            (Some(key_groups), _) => key_groups.overlaps(self.key_groups),
            (None, Some(subtask)) => {
                let redistributions = operator.states.iter().filter_map(|state| state.descriptor.redistribution);
                redistributions.into_iter().any(|one| sources(one, operator.parallelism, to).contains(&subtask))
            }
            (None, None) => false,
        }
    }

    /// Loads one file, whose row groups may have `max_bytes` uncompressed; returns how many rows it had.
    fn file(
        &mut self,
        inner: &mut WithOperatorState,
        file: &RowFile<'_>,
        max_bytes: u64,
    ) -> Result<u64, SavepointError> {
        let RowFile { meta, path, bytes } = file;
        let rows = read_rows(path, bytes, max_bytes, |row| self.row(inner, row))?;
        if rows != meta.rows {
            let what = format!("it has {rows} rows, {} recorded", meta.rows);
            return Err(SavepointError::damaged(path, None, what));
        }
        self.fault = inner.finish_batch().err();
        Ok(rows)
    }

    fn row(&mut self, inner: &mut WithOperatorState, row: &Row<'_>) -> Result<(), String> {
        let (Some(state), Some(id)) = (self.source.operator.state(row.state), self.source.names.get(row.state)) else {
            return Err(format!("the metadata has no state `{}`", row.state));
        };
        row.check(state)?;
        match row.place {
            // A file may have key groups of other subtasks, too.
            Place::KeyGroup(key_group) if !self.key_groups.contains(key_group) => Ok(()),
            Place::KeyGroup(_) => row.change(*id, |change| inner.apply(change)).map_err(|error| {
                let what = error.to_string();
                self.fault = Some(error).filter(|error| !error.is_damage());
                what
            }),
            Place::Subtask(subtask) => self.of_subtask(*id, subtask, row),
        }
    }

    fn of_subtask(&mut self, id: StateId, subtask: u32, row: &Row<'_>) -> Result<(), String> {
        let copied = Bytes::copy_from_slice;
        let empty = || match row.entry.kind() {
            StateKind::Map => Contents::Entries(vec![]),
            _ => Contents::Elements(vec![]),
        };
        let had = self.operator.entry(id).or_default().entry(subtask).or_insert_with(empty);
        match (row.entry, had) {
            // Elements come in order and without gaps. Anything else is a damaged file.
            (Entry::Element(index, value), Contents::Elements(elements)) if index == elements.len() as u64 => {
                elements.push(copied(value));
                Ok(())
            }
            (Entry::Map(key, value), Contents::Entries(entries)) => {
                entries.push((copied(key), copied(value)));
                Ok(())
            }
            _ => Err(format!("an element of `{}` that does not follow the one before", row.state)),
        }
    }

    /// The share of the subtask `to` in each operator state.
    fn shares(self, to: Successor) -> Shares {
        let parallelism = self.source.operator.parallelism;
        let share_of = |(id, mut had): (StateId, BTreeMap<u32, Contents>)| {
            had.values_mut().for_each(|contents| {
                if let Contents::Entries(entries) = contents {
                    // In the order in which a backend lists its map, with which they are compared.
                    entries.sort();
                }
            });
            let name = self.source.names.iter().find(|(_, other)| **other == id)?.0;
            let redistribution = self.source.operator.state(name)?.redistribution?;
            Some((id, share(redistribution, &had, parallelism, to)))
        };
        self.operator.into_iter().filter_map(share_of).collect()
    }
}
