//! What is in a savepoint, and when there is one.

use std::collections::BTreeSet;

use dstl::{
    export::{ExportError, source::SourceError},
    object::{Retry, layout},
    savepoint::{Metadata, SavepointError},
    types::InnerBackend,
};

use super::{create, expected, id, job, name, rows};
use crate::support::{World, on_both};

on_both! {
    a_savepoint_has_all_state_of_its_checkpoint_and_nothing_since
    parts_that_do_not_fit_into_memory_are_halved
    a_savepoint_is_there_with_its_metadata_alone_and_its_name_is_taken_before
    whoever_makes_one_leaves_no_pin_and_hinders_nobody
}

async fn a_savepoint_has_all_state_of_its_checkpoint_and_nothing_since(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    let metadata = create(&world, &daemon, "job", "first", 64 << 20).await.unwrap();
    let rows = rows(&world, &id("job", "first")).await;
    assert_eq!(rows.iter().cloned().collect::<BTreeSet<_>>(), expected());
    assert_eq!(rows.len(), expected().len(), "no row is there twice");
    let operator = &metadata.operators["op"];
    assert_eq!((metadata.checkpoint, operator.parallelism, operator.max_parallelism), (1, 2, 128));
    let attachments: Vec<_> = operator.subtasks.iter().map(|subtask| &subtask.attachment[..]).collect();
    assert_eq!(attachments, [b"at 1", b"at 1"]);
    let counted: u64 = operator.states.iter().map(|state| state.rows).sum();
    assert_eq!(counted, rows.len() as u64);
    assert_eq!(Metadata::decode(&metadata.encode()).unwrap(), metadata);
}

async fn parts_that_do_not_fit_into_memory_are_halved(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "small", 200_000).await.unwrap();
    let rows = rows(&world, &id("job", "small")).await;
    assert_eq!(rows.iter().cloned().collect::<BTreeSet<_>>(), expected());
    assert_eq!(rows.len(), expected().len());
    let error = create(&world, &daemon, "job", "tiny", 300).await.unwrap_err().to_string();
    assert!(error.contains("`job/op/0`: key group 0 alone takes more than the 300 bytes"), "{error}");
    let left = world.paths("savepoints/tiny").await;
    assert!(left.is_empty(), "nothing of it stays: {left:?}");
}

async fn a_savepoint_is_there_with_its_metadata_alone_and_its_name_is_taken_before(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    let again = create(&world, &daemon, "job", "s", 64 << 20).await.unwrap_err();
    assert!(matches!(&again, ExportError::Exists(path) if *path == layout::savepoint(&name("job"), &name("s"))));
    world.store().delete(&id("job", "s").metadata(), Retry::none()).await.unwrap();
    let read = Metadata::read(&world.store(), &id("job", "s"), Retry::none()).await;
    assert!(matches!(read, Err(SavepointError::NotFound(_))), "{read:?}");
    let again = create(&world, &daemon, "job", "s", 64 << 20).await.unwrap_err();
    assert!(matches!(again, ExportError::Exists(_)), "files of one that was not finished: {again}");
    let other = create(&world, &daemon, "other", "s", 64 << 20).await.unwrap_err();
    assert!(matches!(other, ExportError::Source(SourceError::NoJob(_))), "{other}");
}

async fn whoever_makes_one_leaves_no_pin_and_hinders_nobody(inner: InnerBackend) {
    let world = World::new();
    let (daemon, mut subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    assert_eq!(world.paths("pins").await, Vec::<String>::new());
    for subtask in &mut subtasks {
        subtask.task.checkpoint(2).await;
    }
}
