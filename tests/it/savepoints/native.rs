//! Native savepoints: the objects of a checkpoint in a folder of their own, which any backend can begin with.

use dstl::{backend::OpenSpec, error::Reason, export::ExportError, object::Retry, types::InnerBackend};
use object_store::ObjectStoreExt as _;

use super::{
    Subtask, copy, create, create_native, expected, from, id, job,
    restored::{keyed, operator, other},
    rows,
};
use crate::support::{Daemon, Settings, World, on_both, spec};

on_both! {
    it_is_restored_by_either_inner_backend_at_any_parallelism_in_another_store_as_another_job
    it_needs_nothing_of_its_job_and_its_job_nothing_of_it
    it_is_there_with_its_metadata_alone_and_what_is_damaged_makes_none
    of_two_makers_of_one_name_one_makes_it
}

async fn it_is_restored_by_either_inner_backend_at_any_parallelism_in_another_store_as_another_job(
    inner: InnerBackend,
) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create_native(&world, &daemon, ("job", "s")).await.unwrap();
    for (to, parallelism) in [(inner, 1), (inner, 2), (other(inner), 2), (other(inner), 3)] {
        let elsewhere = World::new();
        let moved = copy(&world, &id("job", "s"), &elsewhere, "renamed").await;
        let daemon = Daemon::start(&elsewhere, Settings::on_request(to, 50));
        let mut subtasks = vec![];
        for subtask in 0..parallelism {
            let spec = OpenSpec { restore: from(&moved), assignment: None, ..spec(subtask, parallelism, 1) };
            let opened = Subtask::open(&daemon, spec).await;
            assert_eq!(opened.task.opened.checkpoint.unwrap().id, 1);
            assert!(opened.task.opened.parts.iter().all(|part| part.attachment == "at 1" && part.time >= 1_000));
            subtasks.push(opened);
        }
        // It is needed no more.
        let store = elsewhere.store();
        let objects = store.list(&moved.folder(), Retry::none()).await.unwrap();
        store.delete_all(objects.into_iter().map(|object| object.path).collect(), Retry::none()).await.unwrap();
        for subtask in &mut subtasks {
            subtask.task.checkpoint(5).await;
        }
        create(&elsewhere, &daemon, "job", "again", 64 << 20).await.unwrap();
        let restored = rows(&elsewhere, &id("job", "again")).await;
        assert_eq!(keyed(restored.clone()), keyed(expected()), "{to} with {parallelism}");
        assert_eq!(operator(restored.clone()), operator(expected()), "{to} with {parallelism}");
        let split = restored.iter().filter(|row| row.contains("\"split\"")).count();
        assert_eq!(split, 6, "no element is lost or there twice");
    }
}

async fn it_needs_nothing_of_its_job_and_its_job_nothing_of_it(inner: InnerBackend) {
    let world = World::new();
    let (daemon, mut subtasks) = job(&world, inner).await;
    let metadata = create_native(&world, &daemon, ("job", "s")).await.unwrap();
    assert_eq!(world.paths("pins").await, Vec::<String>::new());
    assert!(metadata.objects.iter().all(|object| object.bytes > 0) && metadata.operators["op"].parallelism == 2);
    for path in world.paths("").await.iter().filter(|path| !path.starts_with("job/savepoints/")) {
        if path.contains("/segments/") || path.contains("/snapshot/") || path.contains("/index/") {
            let bytes = world.objects.get(&path.as_str().into()).await.unwrap().bytes().await.unwrap();
            let copied = metadata.objects.iter().find(|object| object.path == *path);
            let Some(copied) = copied else { continue };
            let at = copied.at(&metadata.folder(&id("job", "s")));
            assert_eq!(world.objects.get(&at).await.unwrap().bytes().await.unwrap(), bytes);
        }
    }
    // The job goes on, and restores what it made after.
    for subtask in &mut subtasks {
        subtask.task.checkpoint(2).await;
    }
}

async fn it_is_there_with_its_metadata_alone_and_what_is_damaged_makes_none(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    let metadata = create_native(&world, &daemon, ("job", "s")).await.unwrap();
    let refused = async |world: &World, reason, word: &str| {
        let daemon = Daemon::start(world, Settings::on_request(inner, 50));
        let spec = OpenSpec { restore: from(&id("job", "s")), assignment: None, ..spec(0, 1, 9) };
        let error = daemon.directory.open(spec, |_| {}).await.unwrap_err();
        assert_eq!(error.reason, reason, "{}", error.message);
        assert!(error.message.contains(word), "{}", error.message);
    };
    let folder = metadata.folder(&id("job", "s"));
    for victim in metadata.objects.iter().step_by(3) {
        let elsewhere = World::new();
        copy(&world, &id("job", "s"), &elsewhere, "job").await;
        elsewhere.objects.delete(&victim.at(&folder)).await.unwrap();
        let word = if victim.path.contains("/manifest/") { "manifest" } else { victim.path.as_str() };
        refused(&elsewhere, Reason::MissingObject, word).await;
    }
    let elsewhere = World::new();
    copy(&world, &id("job", "s"), &elsewhere, "job").await;
    elsewhere.objects.delete(&id("job", "s").metadata()).await.unwrap();
    refused(&elsewhere, Reason::CheckpointNotFound, "there is no savepoint").await;
    // None is made of a checkpoint that lacks an object.
    let victim = metadata.objects.iter().find(|object| !object.path.contains("/manifest/")).unwrap();
    world.objects.delete(&victim.path.as_str().into()).await.unwrap();
    let error = create_native(&world, &daemon, ("job", "none")).await.unwrap_err();
    assert!(error.to_string().contains(&victim.path), "{error}");
    assert_eq!(world.paths("savepoints/none").await, Vec::<String>::new());
}

async fn of_two_makers_of_one_name_one_makes_it(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    let make = || create_native(&world, &daemon, ("job", "s"));
    let (one, other) = tokio::join!(make(), make());
    let made = match (one, other) {
        (Ok(made), Err(ExportError::Exists(_))) | (Err(ExportError::Exists(_)), Ok(made)) => made,
        both => panic!("{both:?}"),
    };
    let paths = world.paths("savepoints/s").await;
    assert_eq!(paths.len(), made.objects.len() + 1, "nothing of the other one is left: {paths:?}");
    let again = create_native(&world, &daemon, ("job", "s")).await.unwrap_err();
    assert!(matches!(again, ExportError::Exists(_)), "{again}");
}
