//! Peers that take what they can: half messages, empty fields, answers that nobody reads, calls without end. The daemon
//! stays within its budget of memory and answers others.

use std::{
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dstl::{
    client::{Client, InnerBackend, OpenOptions, StateOptions},
    proto::v1::{self, OperationKind, QueryStart, Reason, query_start::View},
};

use crate::local::Daemon;

const BUDGET: u64 = 256 << 20;

/// What the whole process may take: its budget, and a tenth for what the allocator has not given back.
const RESIDENT: u64 = BUDGET + BUDGET / 10;

const SERVICE: &str = "/dstl.v1.StateBackendService/";

fn daemon(folder: &Path, settings: &[&str]) -> Daemon {
    let usual = ["memory.budget=256MiB", "gc.interval=0s", "queryable-state.enabled=true"];
    Daemon::start(folder, &usual.iter().chain(settings).map(|&it| it.to_owned()).collect::<Vec<_>>())
}

fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Watches how much a process takes at most.
struct Watch {
    top: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn over(id: u32) -> Self {
        let (top, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (most, ended) = (top.clone(), stop.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(resident(id), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { top, stop }
    }

    fn top(&self) -> u64 {
        self.top.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// HTTP/2 by hand: what no library sends.
struct Raw(UnixStream);

impl Raw {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("it listens");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it takes the preface");
        let mut reader = stream.try_clone().expect("a second handle");
        // Whatever comes is thrown away.
        std::thread::spawn(move || while reader.read(&mut [0; 65_536]).is_ok_and(|read| read > 0) {});
        let mut raw = Self(stream);
        raw.frame(4, 0, 0, &[]);
        raw
    }

    /// Whether the daemon still took it.
    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        self.0.write_all(&frame).is_ok()
    }

    fn request(&mut self, stream: u32, method: &str) -> bool {
        let mut block = vec![];
        let path = format!("{SERVICE}{method}");
        let fields: [(&str, &str); 6] = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        for (name, value) in fields {
            block.extend([0, name.len() as u8]);
            block.extend(name.bytes());
            block.push(value.len() as u8);
            block.extend(value.bytes());
        }
        self.frame(1, 4, stream, &block)
    }
}

/// A client of the daemon gets its answers, and soon.
async fn serves_others(daemon: &Daemon) {
    let started = Instant::now();
    let client = tokio::time::timeout(Duration::from_secs(10), Client::connect(daemon.socket())).await;
    client.expect("in time").expect("it answers").hello().await.expect("it answers");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn half_messages_of_many_calls_on_many_connections_stay_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &[]);
    daemon.client().await;
    let watch = Watch::over(daemon.id());
    let mut peers: Vec<_> = (0..8).map(|_| Raw::connect(daemon.socket())).collect();
    let mut half = vec![0];
    half.extend((4_000_000_u32).to_be_bytes());
    half.resize(16_384, 1);
    for call in 0..100_u32 {
        for (peer, method) in peers.iter_mut().zip(["ApplyBatch", "Query", "Session", "Open"].iter().cycle()) {
            let stream = 1 + 2 * call;
            let _ = peer.request(stream, method) && peer.frame(0, 0, stream, &half);
            for _ in 0..3 {
                let _ = peer.frame(0, 0, stream, &[1; 16_384]);
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    serves_others(&daemon).await;
    assert!(watch.top() < RESIDENT, "{} MiB", watch.top() >> 20);
}

#[tokio::test]
async fn messages_of_empty_fields_cost_their_own_size() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &[]);
    let client = daemon.client().await;
    let backend = client.open(OpenOptions::new("job", "operator")).await.unwrap();
    let watch = Watch::over(daemon.id());
    let operations = vec![v1::Operation::default(); 1_500_000];
    for _ in 0..2 {
        let batch = v1::Batch { number: 0, operations: operations.clone() };
        let refused = client.apply_batch(backend.reference(), batch, false).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::LimitExceeded, "{refused}");
    }
    drop(operations);
    assert!(watch.top() < RESIDENT, "{} MiB", watch.top() >> 20);
}

#[tokio::test]
async fn answers_that_nobody_reads_stay_within_the_budget_and_others_read_on() {
    for inner in [InnerBackend::Hashmap, InnerBackend::Rocksdb] {
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(folder.path(), &["rpc.stuck-timeout=1s"]);
        let client = daemon.client().await;
        let backend = client.open(OpenOptions::new("job", "operator").inner(inner)).await.unwrap();
        let state = backend.value_state::<String, Vec<u8>>("values", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        for n in 0..6 {
            session.run(state.put(&n.to_string(), &vec![n; 1_000_000])).await.unwrap();
        }
        let watch = Watch::over(daemon.id());
        let id = backend.reference().id.clone();
        let mut readers = vec![];
        for _ in 0..60 {
            // A connection of its own, of which nobody takes what comes.
            let reader = Client::connect(daemon.socket()).await.unwrap();
            let start = QueryStart { backend: id.clone(), view: View::Applied.into() };
            let mut query = reader.query(start).await.unwrap();
            let state = query.state("values").unwrap().id;
            let get = |n: u8| v1::Operation {
                kind: OperationKind::Get.into(),
                state,
                key: n.to_string().into_bytes().into(),
                ..Default::default()
            };
            for _ in 0..4 {
                let asked = query.read((0..3).map(get).collect());
                // Asked, and left.
                let _ = tokio::time::timeout(Duration::from_millis(1), asked).await;
            }
            readers.push((reader, query));
        }
        // The writer's own reads go on, and so do those of a reader who reads.
        let started = Instant::now();
        assert_eq!(session.run(state.get("5")).await.unwrap().map(|value| value.len()), Some(1_000_000));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let start = QueryStart { backend: id.clone(), view: View::Applied.into() };
        let mut query = client.query(start).await.unwrap();
        let state = query.state("values").unwrap().id;
        let key = "1".as_bytes().to_vec().into();
        let get = v1::Operation { kind: OperationKind::Get.into(), state, key, ..Default::default() };
        let read =
            tokio::time::timeout(Duration::from_secs(30), query.read(vec![get])).await.expect("in time").unwrap();
        assert_eq!(read.results[0].value.len(), 1_000_000);
        assert!(watch.top() < RESIDENT, "{inner:?}: {} MiB", watch.top() >> 20);
    }
}

#[tokio::test]
async fn calls_without_end_are_refused_and_the_daemon_serves_on_once_they_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &["rpc.max-calls=64", "rpc.request-timeout=2s"]);
    daemon.client().await;
    let mut peers: Vec<_> = (0..4).map(|_| Raw::connect(daemon.socket())).collect();
    for call in 0..100_u32 {
        for peer in &mut peers {
            let _ = peer.request(1 + 2 * call, "ApplyBatch");
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = Client::connect(daemon.socket()).await.expect_err("there are too many");
    assert_eq!((refused.reason(), refused.is_retryable()), (Reason::TooManyCalls, true), "{refused}");
    // Whoever sends nothing is given up.
    tokio::time::sleep(Duration::from_secs(3)).await;
    serves_others(&daemon).await;
}

#[tokio::test]
async fn calls_that_are_cancelled_by_the_thousand_cost_the_session_beside_them_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &[]);
    let client = daemon.client().await;
    let backend = client.open(OpenOptions::new("job", "operator")).await.unwrap();
    let state = backend.value_state::<String, i64>("values", StateOptions::new()).await.unwrap();
    let session = backend.session().await.unwrap();
    for round in 0..3_000_i64 {
        let describe = client.describe(None);
        // Sent, and left.
        let _ = tokio::time::timeout(Duration::from_micros(50), describe).await;
        if round % 100 == 0 {
            session.run(state.put("n", &round)).await.unwrap();
        }
    }
    assert_eq!(session.run(state.get("n")).await.unwrap(), Some(2_900));
    session.barrier(1, "").await.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_a_daemon_writes_is_its_users_alone_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let settings =
        ["execution.checkpointing.local-backup.enabled=true", "execution.checkpointing.data-inline-threshold=0"];
    let daemon = daemon(&home, &settings);
    let client = daemon.client().await;
    for (operator, inner) in [("hashmap", InnerBackend::Hashmap), ("rocksdb", InnerBackend::Rocksdb)] {
        let backend = client.open(OpenOptions::new("job", operator).inner(inner)).await.unwrap();
        let state = backend.value_state::<String, i64>("values", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        session.run(state.put("k", &1)).await.unwrap();
        session.barrier(1, "").await.unwrap().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut files = 0;
    for entry in walkdir::WalkDir::new(&home).min_depth(1) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        files += usize::from(entry.file_type().is_file());
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
    assert!(files > 10, "{files}");
}

#[tokio::test]
async fn a_peer_uses_the_jobs_that_it_may_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let allowed = format!("rpc.allowed-jobs.uid:{own}=mine open-*");
    let daemon = daemon(folder.path(), &[&allowed, "rpc.allowed-jobs.uid:4242=theirs"]);
    let client = daemon.client().await;
    let backend = client.open(OpenOptions::new("mine", "operator")).await.unwrap();
    client.open(OpenOptions::new("open-house", "operator")).await.unwrap();
    let done =
        client.checkpoint(backend.reference(), v1::Barrier { checkpoint_id: 1, ..Default::default() }).await.unwrap();
    let mut theirs = backend.reference().clone();
    theirs.id.as_mut().unwrap().job = "theirs".into();
    let refused = |error: dstl::client::ClientError| assert_eq!(error.reason(), Reason::NotAllowed, "{error}");
    refused(client.open(OpenOptions::new("theirs", "operator")).await.unwrap_err());
    refused(client.describe(Some(&theirs)).await.unwrap_err());
    refused(client.apply_batch(&theirs, v1::Batch::default(), false).await.unwrap_err());
    refused(client.persist(&theirs).await.unwrap_err());
    let identity = done.checkpoint.clone().unwrap();
    refused(client.pin(&theirs, &identity).await.unwrap_err());
    let start = QueryStart { backend: theirs.id.clone(), view: View::Applied.into() };
    refused(client.query(start).await.unwrap_err());
    let seen = client.describe(None).await.unwrap();
    assert_eq!(seen.len(), 2);
}
