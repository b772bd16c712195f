//! Tests of the admin server, over real TCP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::{snapshot::BackendFigures, *};

struct Running {
    address: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

async fn start() -> Running {
    start_with(AdminOptions::default()).await
}

async fn start_with(options: AdminOptions) -> Running {
    let options = AdminOptions { address: Some("127.0.0.1:0".parse().unwrap()), ..options };
    let server = AdminServer::bind(&options, &Metrics::new()).await.unwrap();
    let address = server.address().unwrap();
    let metrics = Metrics::new();
    let readiness = Readiness::starting();
    let sources = AdminSources {
        metrics: metrics.clone(),
        heartbeat: Heartbeat::starting(),
        readiness: readiness.clone(),
        status: Arc::new(|| {
            let backend = BackendFigures { name: "orders/count/0".to_owned(), ..BackendFigures::default() };
            Snapshot { backends: vec![backend], ..Snapshot::default() }
        }),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.serve(sources, async move {
        let _ = stopped.await;
    }));
    Running { address, metrics, readiness, stop, ended }
}

/// The status line and headers, and the body.
async fn request(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    request_with(address, method, path, "").await
}

async fn request_with(address: SocketAddr, method: &str, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn ready_follows_the_daemons_life_and_live_does_not() {
    let running = start().await;
    for (state, code) in
        [(ReadinessState::Starting, "503"), (ReadinessState::Ready, "200"), (ReadinessState::Draining, "503")]
    {
        running.readiness.advance(state);
        let (head, body) = request(running.address, "GET", "/ready").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{head}");
        assert_eq!(body, format!("{state}\n"));
        let (head, _) = request(running.address, "GET", "/live").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
}

#[tokio::test]
async fn metrics_are_openmetrics_text_for_whoever_accepts_it() {
    let running = start().await;
    let counter: Counter = running.metrics.register("admin_test_things", "Things of a test", Counter::default());
    counter.inc_by(3);
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let (head, body) = request_with(running.address, "GET", "/metrics", accept).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-type: {OPENMETRICS}")), "{head}");
    assert_eq!(
        body,
        "# HELP dstl_admin_test_things Things of a test.\n# TYPE dstl_admin_test_things counter\n\
         dstl_admin_test_things_total 3\n# EOF\n"
    );
    let (head, body) = request(running.address, "GET", "/metrics").await;
    assert!(head.contains(&format!("content-type: {PLAIN}")), "{head}");
    assert!(body.starts_with("# HELP dstl_admin_test_things_total "), "{body}");
}

#[tokio::test]
async fn the_page_shows_the_status_and_loads_nothing() {
    let running = start().await;
    let (head, body) = request(running.address, "GET", "/").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("default-src 'none'"), "{head}");
    assert!(body.contains("<h3>orders/count/0</h3>"), "{body}");
    assert!(!body.contains("://"), "{body}");
    let (head, body) = request(running.address, "GET", "/status").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    let figures: Snapshot = serde_json::from_str(&body).unwrap();
    assert_eq!(figures.backends[0].name, "orders/count/0");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let running = start().await;
    for path in ["/nothing", "/metrics/", "/live/x", "/../etc/passwd"] {
        let (head, _) = request(running.address, "GET", path).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
    }
    let (head, _) = request(running.address, "POST", "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
}

#[tokio::test]
async fn an_idle_client_does_not_hold_up_the_end() {
    let running = start().await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
    request(running.address, "GET", "/live").await;
    running.stop.send(()).unwrap();
    tokio::time::timeout(CLOSE_TIMEOUT * 5, running.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn off_listens_nowhere_and_waits_for_the_end() {
    let server =
        AdminServer::bind(&AdminOptions { address: None, ..AdminOptions::default() }, &Metrics::new()).await.unwrap();
    assert_eq!(server.address(), None);
    let sources = AdminSources {
        metrics: Metrics::new(),
        heartbeat: Heartbeat::starting(),
        readiness: Readiness::starting(),
        status: Arc::new(Snapshot::default),
    };
    server.serve(sources, async {}).await;
}

#[tokio::test]
async fn a_taken_port_is_told_at_start() {
    let running = start().await;
    let options = AdminOptions { address: Some(running.address), ..AdminOptions::default() };
    let error = AdminServer::bind(&options, &Metrics::new()).await.unwrap_err();
    assert!(error.to_string().contains(&running.address.to_string()), "{error}");
}

/// Waits until the server has closed `stream`; returns the bytes that it sent before.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = vec![];
    let reading = stream.read_to_end(&mut got);
    let _ = tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it is closed");
    got
}

#[tokio::test]
async fn connections_without_a_whole_request_are_closed_however_they_dawdle() {
    let running =
        start_with(AdminOptions { header_timeout: Duration::from_millis(300), ..AdminOptions::default() }).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let (mut reading, mut writing) = slow.into_split();
    let dawdling = tokio::spawn(async move {
        while writing.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut got = vec![];
    let _ = tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut got)).await.expect("it is closed");
    closed(&mut silent).await;
    assert!(closed(&mut idle).await.ends_with(b"live\n"), "it was answered before");
    dawdling.await.unwrap();
}

#[tokio::test]
async fn at_most_so_many_are_open_and_a_scrape_gets_in_all_the_same() {
    let running = start_with(AdminOptions { max_connections: 2, ..AdminOptions::default() }).await;
    let mut idle = vec![];
    for _ in 0..5 {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    assert_eq!(request(running.address, "GET", "/live").await.1, "live\n");
    for stream in &mut idle[..4] {
        closed(stream).await;
    }
}
