//! Checkpoints that are read through a daemon, key group by key group.

use std::{collections::BTreeSet, time::Duration};

use dstl::{
    backend::BarrierRequest,
    checkpoint::handle::CheckpointHandle,
    error::{Error, Reason},
    export::pages::{Header, Message, Page, Wanted},
    savepoint::{Entry, Place, Row},
    types::{InnerBackend, KeyGroupRange},
};

use super::{KEYS, Subtask, expected, filled, text, write};
use crate::support::{Daemon, Settings, World};

/// Everything that a reading gives.
async fn read(daemon: &Daemon, handle: &[u8], wanted: Wanted) -> Result<(Header, Vec<Page>), Error> {
    let handle = CheckpointHandle::decode(handle).unwrap();
    let mut messages = daemon.directory.read_checkpoint(handle, wanted);
    let Some(Message::Header(header)) = messages.recv().await.transpose()? else { panic!("the header comes first") };
    let mut pages = vec![];
    while let Some(message) = messages.recv().await.transpose()? {
        let Message::Page(page) = message else { panic!("one header") };
        pages.push(page);
    }
    Ok((header, pages))
}

/// The rows of pages, as those of a savepoint.
fn rows(header: &Header, pages: &[Page]) -> Vec<String> {
    let (mut rows, mut index, mut goes_on) = (vec![], 0, false);
    for page in pages {
        let state = &header.states.iter().find(|(id, _)| *id == page.state).unwrap().1.name;
        for (number, stored) in page.entries.iter().enumerate() {
            if number > 0 || !goes_on {
                index = 0;
            }
            let mut touched = stored.touched.iter().copied();
            let mut row = |entry: Entry<'_>| {
                let (key, namespace) = (&stored.key[..], &stored.namespace[..]);
                rows.push(text(&Row { place: page.place, state, key, namespace, entry, touched: touched.next() }));
            };
            stored.value.iter().for_each(|value| row(Entry::Value(value)));
            stored.entries.iter().for_each(|(key, value)| row(Entry::Map(key, value)));
            for value in &stored.elements {
                row(Entry::Element(index, value));
                index += 1;
            }
            stored.times.iter().for_each(|time| row(Entry::Timer(*time)));
        }
        goes_on = page.continued;
    }
    rows
}

fn of_subtask(subtask: u32) -> BTreeSet<String> {
    let is_of = |row: &String| match row.split_once("KeyGroup(KeyGroup(") {
        Some((_, rest)) => (rest.split(')').next().unwrap().parse::<u32>().unwrap() < 64) == (subtask == 0),
        None => row.contains(&format!("Subtask({subtask})")),
    };
    expected().into_iter().filter(is_of).collect()
}

/// A readable checkpoint of each subtask, with writes behind it.
async fn readable(inner: InnerBackend, memory: u64) -> (World, Daemon, Vec<Subtask>, Vec<bytes::Bytes>) {
    let world = World::new();
    let mut settings = Settings::on_request(inner, 7);
    settings.options.reading_memory = memory;
    let (daemon, mut subtasks) = filled(&world, settings).await;
    let mut handles = vec![];
    for subtask in &mut subtasks {
        let request = BarrierRequest { id: 5, attachment: "at 5".into(), timeout: None };
        subtask.task.session.readable_barrier(request).unwrap();
        match subtask.task.event().await {
            dstl::backend::SessionEvent::CheckpointCompleted(completed) => handles.push(completed.handle.clone()),
            other => panic!("{other:?}"),
        }
    }
    write(&mut subtasks, 2, 0..KEYS);
    (world, daemon, subtasks, handles)
}

async fn has_every_entry(inner: InnerBackend) {
    for (memory, page_bytes) in [(64 << 20, 1 << 20), (100_000, 500)] {
        let (world, daemon, subtasks, handles) = readable(inner, memory).await;
        for (subtask, handle) in (0..).zip(&handles) {
            let wanted = Wanted { page_bytes, ..Wanted::default() };
            let (header, pages) = read(&daemon, handle, wanted).await.unwrap();
            assert_eq!((&header.attachment[..], header.max_parallelism), (&b"at 5"[..], 128));
            assert_eq!(header.key_groups.count(), 64);
            let found = rows(&header, &pages);
            assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), of_subtask(subtask));
            assert_eq!(found.len(), of_subtask(subtask).len(), "no entry comes twice");
            let order = |page: &Page| match page.place {
                Place::KeyGroup(key_group) => (u32::from(key_group.0), page.state),
                Place::Subtask(_) => (u32::MAX, page.state),
            };
            assert!(pages.is_sorted_by_key(order), "in order of key groups and states");
            assert_eq!(page_bytes == 500, pages.iter().any(|page| page.continued));
        }
        assert_eq!(world.paths("pins").await, Vec::<String>::new());
        for subtask in &subtasks {
            let checkpoints = subtask.task.opened.backend.outline().manifest.checkpoints;
            assert!(checkpoints.is_empty(), "it is let go once it was read: {checkpoints:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_state_in_memory_it_has_every_entry_once_and_in_order() {
    has_every_entry(InnerBackend::HashMap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_state_on_disk_it_has_every_entry_once_and_in_order() {
    has_every_entry(InnerBackend::RocksDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_groups_and_states_can_be_chosen() {
    let (_world, daemon, _subtasks, handles) = readable(InnerBackend::HashMap, 64 << 20).await;
    let wanted =
        Wanted { key_groups: KeyGroupRange::new(7, 8).ok(), states: ["list".to_owned()].into(), page_bytes: 1 << 20 };
    let (header, pages) = read(&daemon, &handles[0], wanted).await.unwrap();
    let is_wanted =
        |row: &String| row.contains("\"list\"") && (row.contains("KeyGroup(7)") || row.contains("KeyGroup(8)"));
    let found: BTreeSet<_> = rows(&header, &pages).into_iter().collect();
    assert_eq!(found, expected().into_iter().filter(is_wanted).collect());
    assert!(!found.is_empty());
    let wanted = Wanted { states: ["lisp".to_owned()].into(), ..Wanted::default() };
    let error = read(&daemon, &handles[1], wanted).await.unwrap_err();
    assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_retained_or_missing_is_told() {
    let (world, daemon, mut subtasks, handles) = readable(InnerBackend::HashMap, 64 << 20).await;
    let mut unknown = CheckpointHandle::decode(&handles[0]).unwrap();
    unknown.checkpoint.id = 77;
    let error = read(&daemon, &unknown.encode(), Wanted::default()).await.unwrap_err();
    assert_eq!(error.reason, Reason::CheckpointNotFound, "{error}");
    for path in world.paths("snapshot").await {
        world.store().delete(&path.into(), dstl::object::Retry::none()).await.unwrap();
    }
    let error = read(&daemon, &handles[0], Wanted::default()).await.unwrap_err();
    assert_eq!(error.reason, Reason::MissingObject, "{error}");
    subtasks[0].task.checkpoint(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_hinders_nobody_but_readers() {
    let (world, daemon, mut subtasks, handles) = readable(InnerBackend::HashMap, 64 << 20).await;
    let wanted = Wanted { page_bytes: 100, ..Wanted::default() };
    let stuck = daemon.directory.read_checkpoint(CheckpointHandle::decode(&handles[0]).unwrap(), wanted);
    for id in 6..12 {
        subtasks[0].task.checkpoint(id).await;
    }
    let other = read(&daemon, &handles[1], Wanted { page_bytes: 1 << 20, ..Wanted::default() });
    let mut other = std::pin::pin!(other);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut other).await.is_err(), "one at a time");
    drop(stuck);
    other.await.unwrap();
    assert_eq!(world.paths("pins").await, Vec::<String>::new());
}
