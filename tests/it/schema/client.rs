//! The Rust client's migration, against a daemon behind a socket.

use bytes::Bytes;
use dstl::{
    client::{Client, OldEntries, OpenOptions, Restore, StateOptions, ValueState},
    metrics::Metrics,
    proto::v1,
    rpc::{
        Routed,
        listener::{Incoming, ListenerOptions},
    },
    types::Schema,
};

use super::*;

async fn serve(world: &World, inner: InnerBackend, seed: u64) -> (Daemon, Client) {
    let daemon = start(world, inner, seed);
    let socket = world.disk.path().join(format!("{seed}.sock"));
    let options = ListenerOptions { socket: socket.clone(), ..ListenerOptions::default() };
    let incoming = Incoming::bind(&options, &Metrics::new()).await.unwrap();
    let serving = tonic::transport::Server::builder().add_service(Routed::new(&daemon.directory));
    tokio::spawn(serving.serve_with_incoming(incoming));
    (daemon, Client::connect(socket).await.unwrap())
}

fn options(version: u32) -> StateOptions {
    let value = Serializer { id: "row".to_owned(), version };
    StateOptions::new().with_schema(Schema { value, ..Schema::default() })
}

fn barrier(id: u64) -> v1::Barrier {
    v1::Barrier { checkpoint_id: id, ..v1::Barrier::default() }
}

/// Numbers become texts; in the middle the task dies.
async fn typed_entries_are_rewritten_and_a_second_call_goes_on_where_the_first_ended(inner: InnerBackend) {
    let world = World::new();
    let (daemon, client) = serve(&world, inner, 1).await;
    let backend = client.open(OpenOptions::new("job", "op").attempt(1)).await.unwrap();
    let old: ValueState<String, i64> = backend.value_state("a", options(1)).await.unwrap();
    let lists = backend.list_state::<String, i64>("l", options(1)).await.unwrap();
    let session = backend.session().await.unwrap();
    let mut batch = session.batch();
    for row in 0..250_i64 {
        batch.push(old.namespace(if row % 2 == 0 { "even" } else { "" }).put(&format!("key {row}"), &row));
        batch.push(lists.add_all(&format!("key {row}"), &[row, row + 1]));
    }
    session.send(batch).await.unwrap().applied().await.unwrap();
    session.close().await.unwrap();
    let wanted = options(2).descriptor("a", StateKind::Value);
    let mut rewritten = 0;
    let died = backend.migrate(&wanted, |old, batch| {
        rewritten += 1;
        if rewritten > 100 {
            return Err(dstl::client::ClientError::Closed);
        }
        let OldEntries::Value(value) = &old.entries else { panic!("a state of values") };
        let value = i64::from_le_bytes(value[..].try_into().unwrap()).to_string();
        batch.push(old.value_state::<Bytes, String>().put(&old.stored.key, &value));
        Ok(())
    });
    died.await.unwrap_err();
    client.checkpoint(backend.reference(), barrier(1)).await.unwrap();
    daemon.crash();
    let (_daemon, client) = serve(&world, inner, 2).await;
    let restore = Restore::Id(1);
    let backend = client.open(OpenOptions::new("job", "op").attempt(2).restore(restore)).await.unwrap();
    let mut left = 0;
    let rewrite = |key: String, value: i64| {
        left += 1;
        (key, value.to_string())
    };
    let new: ValueState<String, String> = backend.migrate_values(&wanted, rewrite).await.unwrap();
    assert_eq!(left, 150, "what was rewritten before the checkpoint stays so");
    let texts = options(2).descriptor("l", StateKind::List);
    let texts = backend.migrate(&texts, |old, batch| {
        let OldEntries::List(elements) = &old.entries else { panic!("a state of lists") };
        let numbers = elements.iter().map(|it| i64::from_le_bytes(it[..].try_into().unwrap()));
        let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
        batch.push(old.list_state::<Bytes, String>().add_all(&old.stored.key, &texts));
        Ok(())
    });
    let texts = texts.await.unwrap();
    assert_eq!(client.describe(Some(backend.reference())).await.unwrap()[0].states.len(), 2);
    let session = backend.session().await.unwrap();
    for row in 0..250_i64 {
        let namespaced = new.namespace(if row % 2 == 0 { "even" } else { "" });
        let found = session.run(namespaced.get(&format!("key {row}"))).await.unwrap();
        assert_eq!(found, Some(row.to_string()));
        let lists = dstl::client::ListState::<String, String>::from_id(texts.id);
        let found = lists.scan(&format!("key {row}")).collect(&session).await.unwrap();
        assert_eq!(found, [row.to_string(), (row + 1).to_string()]);
    }
}

#[tokio::test]
async fn typed_entries_in_memory_are_rewritten() {
    typed_entries_are_rewritten_and_a_second_call_goes_on_where_the_first_ended(InnerBackend::HashMap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_entries_on_disk_are_rewritten() {
    typed_entries_are_rewritten_and_a_second_call_goes_on_where_the_first_ended(InnerBackend::RocksDb).await;
}
