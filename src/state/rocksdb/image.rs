//! Reads an image into other shards, or into any backend.

use std::ops::ControlFlow;

use rocksdb::SstFileWriter;

use super::{
    key,
    resources::{Resources, local},
    shard::Shard,
};
use crate::{
    state::{
        Action, Address, Change, StateError,
        image::{LocalImage, StateIds},
    },
    types::{KeyGroupRange, StateId, StateKind},
};

/// Size of entries at which a file to be ingested is full.
const INGEST_BYTES: usize = 32 << 20;

/// Copies the entries of an image that belong to `shards`, in sorted files that are ingested whole; or entry by entry
/// if an id differs.
pub(super) fn copy(
    resources: &Resources,
    image: LocalImage,
    states: &StateIds,
    shards: &[Shard],
) -> Result<(), StateError> {
    // The source is a database of its own until this returns. Its folder, and so the image, goes with it.
    let source = Shard::adopt(resources, image, None)?;
    let same = states.iter().all(|(there, here)| there == here);
    for shard in shards.iter().filter(|shard| shard.key_groups.overlaps(source.key_groups)) {
        if same {
            ingest(resources, &source, states, shard)?;
        } else {
            put(&source, states, shard)?;
        }
    }
    Ok(())
}

fn ingest(resources: &Resources, source: &Shard, states: &StateIds, into: &Shard) -> Result<(), StateError> {
    let options = resources.database_options()?;
    let folder = resources.folders().create()?;
    let mut open: Option<(SstFileWriter<'_>, std::path::PathBuf)> = None;
    let mut number = 0_u64;
    let (from, to) = bounds(into.key_groups);
    source.scan_range(&from, Some(to), &mut |key, value| {
        if !states.contains_key(&key::head(key)?.state) {
            return Ok(ControlFlow::Continue(()));
        }
        // The scan is in order of keys, so the entries of a file ascend, and the files do not overlap.
        if open.as_ref().is_some_and(|(writer, _)| writer.file_size() >= INGEST_BYTES as u64) {
            finish(&mut open, into)?;
        }
        if open.is_none() {
            number += 1;
            let path = folder.path().join(format!("{number}.sst"));
            let writer = SstFileWriter::create(&options);
            writer.open(&path).map_err(local)?;
            open = Some((writer, path));
        }
        if let Some((writer, _)) = &mut open {
            writer.put(key, value).map_err(local)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    finish(&mut open, into)
}

fn finish(open: &mut Option<(SstFileWriter<'_>, std::path::PathBuf)>, into: &Shard) -> Result<(), StateError> {
    let Some((mut writer, path)) = open.take() else { return Ok(()) };
    writer.finish().map_err(local)?;
    // Ordering: the writer lets go of the file before the database takes it over.
    drop(writer);
    into.ingest(&path)
}

fn put(source: &Shard, states: &StateIds, into: &Shard) -> Result<(), StateError> {
    let (from, to) = bounds(into.key_groups);
    let mut renamed = vec![];
    source.scan_range(&from, Some(to), &mut |key, value| {
        let head = key::head(key)?;
        if let Some(state) = states.get(&head.state) {
            renamed.clear();
            key::state_prefix(head.key_group, *state, &mut renamed);
            renamed.extend_from_slice(head.rest);
            // Writes are passed on before anything is scanned.
            into.put(&renamed, None, value);
        }
        if into.buffered_bytes() >= INGEST_BYTES {
            into.hand_on()?
        }
        Ok(ControlFlow::Continue(()))
    })?;
    into.hand_on()
}

/// The first key of a range of key groups, and the first key behind it.
fn bounds(key_groups: KeyGroupRange) -> (Vec<u8>, Vec<u8>) {
    let first = u32::from(key_groups.first().0);
    (key::group_start(first), key::group_start(u32::from(key_groups.last().0) + 1))
}

/// As [`LocalBackends::read`](crate::state::image::LocalBackends::read).
pub(super) fn read(
    resources: &Resources,
    image: LocalImage,
    key_groups: KeyGroupRange,
    kind: &dyn Fn(StateId) -> Option<StateKind>,
    read: &mut dyn FnMut(&Change<'_>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let source = Shard::adopt(resources, image, None)?;
    let (from, to) = bounds(key_groups);
    source.scan_range(&from, Some(to), &mut |key, value| {
        let head = key::head(key)?;
        let kind = kind(head.state);
        // Timers come first, because their keys have another layout: `parse` would misread them.
        if kind == Some(StateKind::Timer) {
            let timer = key::parse_timer(head.rest)?;
            let key::Head { key_group, state, .. } = head;
            let at = Address { state, key_group, key: &timer.key, namespace: timer.namespace };
            read(&Change { at, action: Action::TimerPut { time: timer.time } })?;
            return Ok(ControlFlow::Continue(()));
        }
        let key::Parsed { at, rest } = key::parse(key)?;
        let action = match kind {
            None | Some(StateKind::Timer) => return Ok(ControlFlow::Continue(())),
            Some(StateKind::Value) => Action::Put(value),
            Some(StateKind::Map) => Action::MapPut { map_key: rest, value },
            Some(StateKind::List) => match key::index(rest)? {
                Some(index) => Action::ListPut { index, element: value },
                // This is the record of the list's length, which the elements bring back by themselves.
                None => return Ok(ControlFlow::Continue(())),
            },
        };
        read(&Change { at, action })?;
        Ok(ControlFlow::Continue(()))
    })
}
