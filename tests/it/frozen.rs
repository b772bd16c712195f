//! A disk that hangs: calls of one inner backend block their threads, and whoever needs that backend waits. Everything
//! else answers.
//!
//! The daemon runs on a runtime of its own, with real time and real threads; what asks it runs on another.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dstl::{
    admin::{
        AdminOptions, AdminServer, AdminSources, Heartbeat, Readiness, ReadinessState, Watch, errors::Complaints,
        prices::Prices,
    },
    backend::{Backend, BackendOptions, BarrierRequest, OpenSpec, Operation, RestoreFrom},
    checkpoint::ledger::{NoticeKind, NoticeTarget},
    client::{Client, OpenOptions, StateOptions, ValueState},
    materialization::schedule::ScheduleOptions,
    metrics::Metrics,
    proto::v1,
    rpc::{
        Routed,
        listener::{Incoming, ListenerOptions},
    },
    state::{
        gated::{Gate, GatedBackends},
        image::LocalBackends,
        op::Op,
    },
    types::{BackendId, InnerBackend, Name, StateId},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use super::support::{Daemon, Settings, World, group_of, spec, states};

/// Well above what a machine that does other things beside needs, well below what the disk hangs.
const SOON: Duration = Duration::from_secs(2);

/// Callers that wait for the backend whose disk hangs: many more than workers.
const CALLERS: usize = 40;

/// A daemon with its wire.
struct House {
    /// It runs here.
    runtime: Runtime,
    daemon: Daemon,
    disks: GatedBackends,
    socket: PathBuf,
    admin: SocketAddr,
    /// Dropped, it ends the admin server.
    _stop: oneshot::Sender<()>,
    _world: World,
}

impl House {
    fn start(workers: usize) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        let (world, disks) = (World::new(), GatedBackends::default());
        let materialization =
            ScheduleOptions { interval: Some(Duration::from_millis(50)), ..ScheduleOptions::default() };
        let options = BackendOptions { queries: true, materialization, ..BackendOptions::default() };
        let local: Option<Arc<dyn LocalBackends>> = Some(Arc::new(disks.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = world.disk.path().join("socket");
        let (daemon, admin) = runtime.block_on(async {
            let daemon = Daemon::start(&world, Settings { options, local, ..Settings::default() });
            let listener = ListenerOptions { socket: socket.clone(), ..ListenerOptions::default() };
            let incoming = Incoming::bind(&listener, &Metrics::new()).await.unwrap();
            let serving = tonic::transport::Server::builder().add_service(Routed::new(&daemon.directory));
            tokio::spawn(serving.serve_with_incoming(incoming));
            let address = Some("127.0.0.1:0".parse().unwrap());
            let options = AdminOptions { address, ..AdminOptions::default() };
            let server = AdminServer::bind(&options, &daemon.metrics).await.unwrap();
            let address = server.address().unwrap();
            let (heartbeat, readiness) = (Heartbeat::starting(), Readiness::starting());
            readiness.advance(ReadinessState::Ready);
            tokio::spawn(heartbeat.clone().beat());
            let complaints = Complaints::new(daemon.directory.environment().clock.clone());
            let watch = Watch::new(daemon.directory.clone(), readiness.clone(), Prices::default(), complaints);
            tokio::spawn(watch.clone().run());
            let status = Arc::new(move || watch.snapshot());
            let metrics = daemon.metrics.clone();
            let sources = AdminSources { metrics, heartbeat, readiness, status };
            let shutdown = async move {
                let _ = stopped.await;
            };
            drop(server.spawn(sources, shutdown).unwrap());
            (daemon, address)
        });
        Self { runtime, daemon, disks, socket, admin, _stop: stop, _world: world }
    }

    /// Opens a backend whose disk can hang, and where.
    fn on_disk(&self, job: &str) -> (Backend, Gate) {
        let name = |name: &str| Name::new(name).unwrap();
        let id = BackendId { job: name(job), operator: name("op"), subtask: 0 };
        let spec = OpenSpec { id, inner: Some(InnerBackend::RocksDb), restore: RestoreFrom::Empty, ..spec(0, 1, 1) };
        let opened = self.runtime.block_on(self.daemon.directory.open(spec, |_| {})).unwrap();
        opened.backend.register(opened.backend.epoch(), &states()).unwrap();
        (opened.backend, self.disks.newest())
    }

    /// The time that the admin server takes to say that the daemon lives.
    fn live(&self, path: &str) -> Duration {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        began.elapsed()
    }
}

/// What each of many callers asks of a backend, in turn.
async fn call(backend: Backend, number: usize) {
    let (epoch, id) = (backend.epoch(), number as u64);
    let key_group = Some(group_of(backend.key_groups(), "key"));
    let operation = |op| Operation { state: StateId(1), key_group, key: b"key", namespace: b"", op };
    match number % 6 {
        0 => drop(backend.apply_batch(epoch, None, 100, &[operation(Op::Put(b"value"))]).await),
        1 => drop(backend.apply_batch(epoch, None, 0, &[operation(Op::Get)]).await),
        2 => drop(backend.notice(epoch, NoticeKind::Complete, NoticeTarget { epoch: 1, id, uuid: None })),
        3 => drop(tokio::task::block_in_place(|| backend.describe())),
        4 => drop(backend.persist(epoch).await),
        _ => drop(backend.checkpoint(epoch, BarrierRequest { id, attachment: Bytes::new(), timeout: None }).await),
    }
}

fn others_answer_while_one_disk_hangs(workers: usize) {
    let house = House::start(workers);
    let asker = Builder::new_current_thread().enable_all().build().unwrap();
    let others = asker.block_on(async {
        let client = Client::connect(&house.socket).await.unwrap();
        let mut others = vec![];
        for (job, inner) in [("memory", v1::InnerBackend::Hashmap), ("disk", v1::InnerBackend::Rocksdb)] {
            let backend = client.open(OpenOptions::new(job, "op").attempt(1).inner(inner)).await.unwrap();
            let state: ValueState<String, i64> = backend.value_state("a", StateOptions::new()).await.unwrap();
            others.push((backend.session().await.unwrap(), state));
        }
        others
    });
    let (hangs, gate) = house.on_disk("hangs");
    gate.close();
    let calls: Vec<_> = (0..CALLERS).map(|number| house.runtime.spawn(call(hangs.clone(), number))).collect();
    let patience = Instant::now();
    while gate.waiting() == 0 {
        assert!(patience.elapsed() < Duration::from_secs(20), "nothing waits for the disk");
        std::thread::yield_now();
    }
    // So that whoever polls for sockets and timers has met the lock, if anybody ever does.
    std::thread::sleep(Duration::from_millis(300));
    for round in 1..=10 {
        for path in ["/live", "/metrics", "/"] {
            let took = house.live(path);
            assert!(took < SOON, "{path} took {took:?}");
        }
        let began = Instant::now();
        asker.block_on(async {
            Client::connect(&house.socket).await.unwrap();
            for (session, state) in &others {
                let mut batch = session.batch();
                batch.push(state.put("key", &round));
                session.send(batch).await.unwrap().applied().await.unwrap();
                session.barrier(round.unsigned_abs(), "").await.unwrap().await.unwrap();
            }
        });
        assert!(began.elapsed() < SOON, "another backend took {:?}", began.elapsed());
    }
    assert!(gate.waiting() > 0, "the disk hangs all the while");
    gate.open();
    asker.block_on(async {
        for call in calls {
            tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap();
        }
    });
}

#[test]
fn others_answer_while_a_disk_hangs_on_one_worker() {
    others_answer_while_one_disk_hangs(1);
}

#[test]
fn others_answer_while_a_disk_hangs_on_two_workers() {
    others_answer_while_one_disk_hangs(2);
}

#[test]
fn others_answer_while_a_disk_hangs_on_four_workers() {
    others_answer_while_one_disk_hangs(4);
}
