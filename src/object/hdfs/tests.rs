//! Tests on a real HDFS, which `DSTL_TEST_HDFS` names. `make test-stores` starts one and runs them.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStoreExt as _, PutMode};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    clock::Clock,
    metrics::Metrics,
    object::{ObjectName, Retry, Store, conformance, open::open},
    types::Name,
};

/// Large enough to be observed while it is written.
const LARGE_BYTES: usize = 48 << 20;

fn url(folder: &str) -> String {
    let cluster = std::env::var("DSTL_TEST_HDFS").expect("DSTL_TEST_HDFS names a cluster: run `make test-stores`");
    format!("{cluster}/tests/{folder}")
}

/// A client of its own for each store, as in two processes.
fn connect(folder: &str, seed: u64) -> HdfsStore {
    let url = Url::parse(&url(folder)).unwrap();
    let base = Path::from_url_path(url.path()).unwrap();
    HdfsStore::open(&StoreOptions::new(url.as_str()), &url, &base, Random::seeded(seed)).unwrap()
}

fn door(folder: &str) -> Store {
    open(&StoreOptions::new(url(folder)), &Metrics::new(), &Clock::system(), Random::seeded(1)).unwrap()
}

fn at(folder: &str, name: &str) -> Path {
    Path::parse(format!("tests/{folder}/{name}")).unwrap()
}

async fn create(store: &HdfsStore, path: &Path, bytes: Bytes) -> Result<()> {
    store.put_opts(path, bytes.into(), PutOptions::from(PutMode::Create)).await.map(drop)
}

async fn listed(store: &HdfsStore, folder: &str) -> Vec<String> {
    let found: Vec<_> = store.list(Some(&at(folder, ""))).try_collect().await.unwrap();
    found.into_iter().map(|meta| meta.location.to_string()).collect()
}

#[tokio::test]
#[ignore = "needs HDFS: make test-stores"]
async fn hdfs_conforms() {
    conformance::all(&door("conforms"), &Clock::system()).await;
}

#[tokio::test]
#[ignore = "needs HDFS: make test-stores"]
async fn an_object_that_is_being_written_is_never_visible_and_is_whole_when_it_is() {
    let (writer, reader) = (connect("partial", 1), connect("partial", 2));
    let path = at("partial", "a");
    let writing = create(&writer, &path, Bytes::from(vec![7; LARGE_BYTES]));
    let mut seen_temporary = false;
    let watching = async {
        loop {
            // Ordering: an object that is listed must be whole for the read that follows.
            let listed: Vec<_> = reader.list(Some(&at("partial", ""))).try_collect().await.unwrap();
            for meta in listed {
                let is_temporary = meta.location.as_ref().contains('#');
                seen_temporary |= is_temporary;
                assert!(is_temporary || meta.size == LARGE_BYTES as u64, "{meta:?}");
            }
            match reader.get(&path).await {
                Ok(got) => break assert_eq!(got.bytes().await.unwrap().len(), LARGE_BYTES),
                Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error}"),
            }
        }
    };
    let (written, ()) = tokio::join!(writing, watching);
    written.unwrap();
    assert!(seen_temporary);
    let other = create(&reader, &path, Bytes::from_static(b"other")).await;
    assert!(matches!(other, Err(Error::AlreadyExists { .. })), "{other:?}");
    assert_eq!(listed(&reader, "partial").await, [path.to_string()], "and the other's temporary is gone");
    reader.delete(&path).await.unwrap();
}

#[tokio::test]
#[ignore = "needs HDFS: make test-stores"]
async fn what_a_killed_writer_leaves_is_in_nobodys_way_and_is_deleted() {
    let store = connect("killed", 1);
    let record = ObjectName::JobRecord { job: Name::new("wc").unwrap(), number: 1 };
    let path = at("killed", record.path().as_ref());
    // A temporary as a process leaves it that is killed before the rename: open, and with bytes.
    let name = format!("/{path}#17");
    let client = store.0.connection.call(|client| async { Ok(client) }).await.unwrap();
    let mut writer = client.create(&name, WriteOptions::default()).await.unwrap();
    writer.write_bytes(Bytes::from_static(b"half of")).await.unwrap();
    writer.hsync().await.unwrap();
    drop(writer);

    create(&store, &path, Bytes::from_static(b"whole")).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "whole");
    let mut both = listed(&store, "killed").await;
    both.sort();
    assert_eq!(both, [path.to_string(), format!("{path}#17")]);
    let seen_by_sweep = door("killed").list(&Path::default(), Retry::none()).await.unwrap();
    let names: Vec<_> = seen_by_sweep.iter().map(|meta| ObjectName::parse(&meta.path)).collect();
    let temporary = ObjectName::Temporary { of: Box::new(record.clone()), number: 17 };
    assert_eq!(names, [Some(record), Some(temporary)]);
    for left in both {
        store.delete(&Path::parse(left).unwrap()).await.unwrap();
    }
    assert_eq!(listed(&store, "killed").await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs HDFS: make test-stores"]
async fn what_an_attempt_leaves_that_was_given_up_is_deleted_by_the_next() {
    let store = connect("given-up", 1);
    let path = at("given-up", "a");
    let large = Bytes::from(vec![7; LARGE_BYTES]);
    timeout(Duration::from_millis(100), create(&store, &path, large)).await.unwrap_err();
    // The NameNode may handle the request after its caller is gone.
    sleep(Duration::from_secs(1)).await;
    let head = store.head(&path).await;
    assert!(matches!(head, Err(Error::NotFound { .. })), "{head:?}");
    create(&store, &path, Bytes::from_static(b"small")).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "small");
    assert_eq!(listed(&store, "given-up").await, [path.to_string()]);
    store.delete(&path).await.unwrap();
}

#[tokio::test]
#[ignore = "needs HDFS: make test-stores"]
async fn a_delete_takes_the_folders_with_it_that_it_leaves_empty() {
    let store = connect("folders", 1);
    let paths = ["a/b/c/1", "a/b/2", "d/3"].map(|name| at("folders", name));
    for path in &paths {
        create(&store, path, Bytes::from_static(b"1")).await.unwrap();
    }
    let client = store.0.connection.call(|client| async { Ok(client) }).await.unwrap();
    let folders = async || {
        let all = client.list_status("/tests/folders", true).await.unwrap();
        let mut folders: Vec<_> = all.into_iter().filter(|it| it.isdir).map(|it| it.path).collect();
        folders.sort();
        folders
    };
    store.delete(&paths[0]).await.unwrap();
    assert_eq!(folders().await, ["/tests/folders/a", "/tests/folders/a/b", "/tests/folders/d"]);
    let deleted = store.delete_stream(stream::iter(paths).map(Ok).boxed());
    assert_eq!(deleted.try_collect::<Vec<_>>().await.unwrap().len(), 3, "one was gone");
    assert_eq!(folders().await, [""; 0], "the base stays");
}
