//! Tests of the listeners, over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixListener as StdListener,
    },
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tonic::transport::Server;

use super::*;

const GRPCIO: &[u8] = include_bytes!("../../../tests/fixtures/authority/grpcio-1.85-socket-path.bin");

fn at(directory: &TempDir) -> ListenerOptions {
    ListenerOptions { socket: directory.path().join("dstl.sock"), ..ListenerOptions::default() }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn tls_options() -> TcpOptions {
    TcpOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        insecure: false,
        tls: Some(TlsOptions {
            certificate: fixture("server.pem"),
            key: fixture("server.key"),
            client_ca: fixture("ca.pem"),
        }),
    }
}

async fn bind(options: &ListenerOptions) -> Result<Incoming, ListenError> {
    Incoming::bind(options, &Metrics::new()).await
}

/// Health and reflection over `incoming`.
fn serve(incoming: Incoming) -> JoinHandle<()> {
    let (_, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    tokio::spawn(async move {
        Server::builder().add_service(health).add_service(reflection).serve_with_incoming(incoming).await.unwrap();
    })
}

/// A client that trusts the test authority and shows the certificate `identity`, if any.
async fn tls_client(address: SocketAddr, identity: Option<&str>) -> io::Result<impl AsyncRead + AsyncWrite + use<>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let certificate = CertificateDer::from_pem_file(fixture(&format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(fixture(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Sends grpcio's requests and waits for the replies of all four streams.
async fn call_as_grpcio(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(GRPCIO).await.unwrap();
    let mut ended = Vec::new();
    let mut replies = 0;
    while ended.len() < 4 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let stream_id = u32::from_be_bytes(head[5..9].try_into().unwrap());
        assert!(head[3] != 3 && head[3] != 7, "stream {stream_id} was reset or the connection closed: {payload:?}");
        if head[3] == 0 && !payload.is_empty() {
            replies += 1;
        }
        if head[3] == 1 && head[4] & 1 == 1 {
            ended.push(stream_id);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 3, 5, 7]);
    assert_eq!(replies, 6);
}

#[tokio::test]
async fn a_stock_grpcio_client_is_served() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    let server = serve(bind(&options).await.unwrap());
    call_as_grpcio(UnixStream::connect(&options.socket).await.unwrap()).await;
    server.abort();
}

#[tokio::test]
async fn a_tonic_client_is_served_and_its_peer_known() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    let mut incoming = bind(&options).await.unwrap();
    let client = UnixStream::connect(&options.socket).await.unwrap();
    let connection = incoming.next().await.unwrap().unwrap();
    let own = client.peer_cred().unwrap();
    assert!(matches!(connection.peer(), Peer::Unix { uid, gid, .. } if *uid == own.uid() && *gid == own.gid()));
    drop((client, connection));
    let server = serve(incoming);
    let endpoint = format!("unix:{}", options.socket.display());
    let channel = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let reply = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.unwrap();
    assert_eq!(reply.into_inner().status, 1);
    server.abort();
}

#[tokio::test]
async fn the_file_has_the_mode_asked_for_and_goes_with_the_listener() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    for mode in ["0600", "0660", "0777"] {
        options.socket_mode = mode.parse().unwrap();
        let incoming = bind(&options).await.unwrap();
        assert_eq!(incoming.socket(), options.socket);
        let permissions = fs::metadata(&options.socket).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o7777, options.socket_mode.bits());
        drop(incoming);
        assert!(!options.socket.exists());
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_file_gets_the_group_asked_for() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    let gid = fs::metadata(directory.path()).unwrap().gid();
    options.socket_group = Some(Group::Id(gid));
    let incoming = bind(&options).await.unwrap();
    assert_eq!(fs::metadata(&options.socket).unwrap().gid(), gid);
    drop(incoming);
    options.socket_group = Some(Group::Name("no-such-group-here".into()));
    assert!(matches!(bind(&options).await, Err(ListenError::UnknownGroup { name }) if name == "no-such-group-here"));
    assert!(!options.socket.exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    drop(StdListener::bind(&options.socket).unwrap());
    assert!(options.socket.exists());
    let mut incoming = bind(&options).await.unwrap();
    let _client = UnixStream::connect(&options.socket).await.unwrap();
    incoming.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_socket_of_a_living_daemon_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    let _first = bind(&options).await.unwrap();
    let error = bind(&options).await.unwrap_err();
    assert_eq!(error.to_string(), format!("another daemon is listening on `{}`", options.socket.display()));
    UnixStream::connect(&options.socket).await.unwrap();
}

#[tokio::test]
async fn of_daemons_that_start_together_one_wins() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    drop(StdListener::bind(&options.socket).unwrap());
    let started = futures::future::join_all((0..8).map(|_| bind(&options))).await;
    assert_eq!(started.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(started.iter().all(|result| matches!(result, Ok(_) | Err(ListenError::InUse { .. }))));
    UnixStream::connect(&options.socket).await.unwrap();
}

#[tokio::test]
async fn other_files_are_never_deleted() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    fs::write(&options.socket, "precious").unwrap();
    assert!(matches!(bind(&options).await, Err(ListenError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&options.socket).unwrap(), "precious");
    fs::remove_file(&options.socket).unwrap();
    std::os::unix::fs::symlink("/nowhere", &options.socket).unwrap();
    assert!(matches!(bind(&options).await, Err(ListenError::NotASocket { .. })));
}

#[tokio::test]
async fn a_file_that_is_no_longer_ours_stays() {
    let directory = TempDir::new().unwrap();
    let options = at(&directory);
    let incoming = bind(&options).await.unwrap();
    fs::rename(&options.socket, directory.path().join("old")).unwrap();
    let _next = StdListener::bind(&options.socket).unwrap();
    drop(incoming);
    assert!(options.socket.exists());
}

#[tokio::test]
async fn impossible_paths_are_told_in_clear_words() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.socket = directory.path().join("missing/dstl.sock");
    let error = bind(&options).await.unwrap_err().to_string();
    assert!(error.starts_with("directory `") && error.ends_with("missing` for the socket does not exist"), "{error}");
    options.socket = directory.path().join("x".repeat(120));
    let error = bind(&options).await.unwrap_err();
    assert!(matches!(error, ListenError::Options(OptionsFault::PathTooLong { .. })));
}

#[tokio::test]
async fn peers_without_permission_are_closed_and_counted() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    let own = UnixStream::pair().unwrap().0.peer_cred().unwrap().uid();
    options.allowed_uids = Some(vec![own.wrapping_add(1)]);
    let metrics = Metrics::new();
    let mut incoming = Incoming::bind(&options, &metrics).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(UnixStream::connect(&options.socket).await.unwrap());
    }
    assert!(incoming.next().now_or_never().is_none());
    for client in &mut clients {
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert!(
        metrics.encode().contains("dstl_rpc_connections_refused_total{transport=\"unix\"} 3\n"),
        "{}",
        metrics.encode()
    );
    assert!(!metrics.encode().contains("dstl_rpc_connections_accepted_total{"));
}

#[tokio::test]
async fn insecure_tcp_serves_on_loopback() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.tcp = Some(TcpOptions { address: "127.0.0.1:0".parse().unwrap(), insecure: true, tls: None });
    let metrics = Metrics::new();
    let incoming = Incoming::bind(&options, &metrics).await.unwrap();
    let address = incoming.tcp_address().unwrap();
    let server = serve(incoming);
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.unwrap();
    assert!(metrics.encode().contains("dstl_rpc_connections_accepted_total{transport=\"tcp\"} 1\n"));
    server.abort();
}

#[tokio::test]
async fn tls_lets_in_only_clients_with_a_certificate_of_the_authority() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.tcp = Some(tls_options());
    let metrics = Metrics::new();
    let mut incoming = Incoming::bind(&options, &metrics).await.unwrap();
    let address = incoming.tcp_address().unwrap();
    for identity in [None, Some("other-client")] {
        // With TLS 1.3 the client learns of the refusal only when it reads.
        let refused = async {
            match tls_client(address, identity).await {
                Ok(stream) => Box::pin(stream).read(&mut [0; 1]).await.is_err(),
                Err(_) => true,
            }
        };
        tokio::select! {
            biased;
            connection = incoming.next() => panic!("let in {connection:?}"),
            refused = refused => assert!(refused, "{identity:?}"),
        }
    }
    let (client, connection) = tokio::join!(tls_client(address, Some("client")), incoming.next());
    assert!(matches!(connection.unwrap().unwrap().peer(), Peer::Tls { .. }));
    drop(client.unwrap());
    let text = metrics.encode();
    assert!(text.contains("dstl_rpc_connections_refused_total{transport=\"tls\"} 2\n"), "{text}");
    assert!(text.contains("dstl_rpc_connections_accepted_total{transport=\"tls\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_silent_tls_client_holds_up_nobody() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.tcp = Some(tls_options());
    let mut incoming = bind(&options).await.unwrap();
    let address = incoming.tcp_address().unwrap();
    let _silent = TcpStream::connect(address).await.unwrap();
    let others = async { tokio::join!(tls_client(address, Some("client")), incoming.next()) };
    // The silent client may take ten seconds; a client that waited for it would exceed this timeout.
    let (client, connection) = tokio::time::timeout(std::time::Duration::from_secs(5), others).await.unwrap();
    client.unwrap();
    connection.unwrap().unwrap();
}

#[tokio::test]
async fn unusable_tls_files_are_named() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    for (tls, message) in [
        (TlsOptions { key: "/nowhere.key".into(), ..tls_options().tls.unwrap() }, "read pem file `/nowhere.key`"),
        (TlsOptions { certificate: fixture("server.key"), ..tls_options().tls.unwrap() }, "holds no certificate"),
        (TlsOptions { key: fixture("client.key"), ..tls_options().tls.unwrap() }, "server certificate and key"),
    ] {
        options.tcp = Some(TcpOptions { tls: Some(tls), ..tls_options() });
        let error = bind(&options).await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(!options.socket.exists());
}

#[tokio::test(start_paused = true)]
async fn accept_errors_pause_and_do_not_end() {
    let counters = Counters::default();
    let mut backoff = Backoff::new();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        backoff.on_error(&io::Error::from_raw_os_error(24), &counters);
        let start = Instant::now();
        std::future::poll_fn(|cx| backoff.poll_ready(cx)).await;
        pauses.push(start.elapsed().as_millis());
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    assert_eq!(counters.errors.get(), 9);
    backoff.on_accepted();
    backoff.on_error(&io::Error::from(io::ErrorKind::ConnectionAborted), &counters);
    assert!(std::future::poll_fn(|cx| backoff.poll_ready(cx)).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn trouble_is_logged_once_in_a_while() {
    let mut log = Occasionally::default();
    assert_eq!(log.due(), Some(0));
    assert_eq!(log.due(), None);
    assert_eq!(log.due(), None);
    tokio::time::advance(LOG_EVERY).await;
    assert_eq!(log.due(), Some(2));
    assert_eq!(log.due(), None);
}

#[tokio::test]
async fn the_socket_stays_out_of_folders_where_others_could_replace_it() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    let mode = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert!(matches!(bind(&options).await, Err(ListenError::OpenDirectory { .. })));
    mode(0o1777);
    drop(bind(&options).await.unwrap());
    mode(0o777);
    options.open_directory = true;
    drop(bind(&options).await.unwrap());
    mode(0o755);
    options.open_directory = false;
    drop(bind(&options).await.unwrap());
    // Only root can give a folder away.
    if std::os::unix::fs::chown(directory.path(), Some(61_234), None).is_ok() {
        let error = bind(&options).await.unwrap_err();
        assert!(matches!(error, ListenError::ForeignDirectory { owner: 61_234, .. }), "{error}");
    }
}

/// Short times, for a test.
fn hurried() -> crate::limits::Times {
    let ms = std::time::Duration::from_millis;
    crate::limits::Times { preface: ms(200), handshake: ms(200), first_call: ms(200), ..Default::default() }
}

/// The error with which a connection ends for a server that reads from it.
async fn fate(mut connection: Connection) -> io::Error {
    let reading = async {
        loop {
            let read = connection.read(&mut [0; 100]).await;
            match read {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it ends")
}

#[tokio::test]
async fn connections_that_do_not_call_are_closed() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.bounds.times = hurried();
    let mut incoming = bind(&options).await.unwrap();
    for sent in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut client = UnixStream::connect(&options.socket).await.unwrap();
        client.write_all(sent).await.unwrap();
        let started = Instant::now();
        let connection = incoming.next().await.unwrap().unwrap();
        assert_eq!(fate(connection).await.kind(), io::ErrorKind::TimedOut, "{sent:?}");
        let spoke = sent.len() > 24;
        assert_eq!(started.elapsed() >= Duration::from_millis(400), spoke, "{:?}", started.elapsed());
    }
    let mut client = UnixStream::connect(&options.socket).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let connection = incoming.next().await.unwrap().unwrap();
    tonic::transport::server::Connected::connect_info(&connection).settle();
    assert!(tokio::time::timeout(Duration::from_millis(600), fate(connection)).await.is_err(), "it has called");
}

#[tokio::test]
async fn where_all_places_are_taken_the_oldest_that_did_not_call_gives_way() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.bounds.connections = 2;
    let metrics = Metrics::new();
    let mut incoming = Incoming::bind(&options, &metrics).await.unwrap();
    let mut clients = vec![];
    let mut connections = vec![];
    for n in 0..3 {
        clients.push(UnixStream::connect(&options.socket).await.unwrap());
        connections.push(incoming.next().await.unwrap().unwrap());
        if n == 0 {
            tonic::transport::server::Connected::connect_info(&connections[0]).settle();
        }
    }
    assert!(metrics.encode().contains("dstl_rpc_connections_open 2\n"), "{}", metrics.encode());
    assert_eq!(fate(connections.remove(1)).await.kind(), io::ErrorKind::TimedOut);
    tonic::transport::server::Connected::connect_info(&connections[1]).settle();
    let mut late = UnixStream::connect(&options.socket).await.unwrap();
    assert!(incoming.next().now_or_never().is_none());
    assert_eq!(late.read(&mut [0; 1]).await.unwrap(), 0, "all have called");
    assert!(metrics.encode().contains("dstl_rpc_connections_over_limit_total 1\n"));
    drop(connections);
    clients.push(UnixStream::connect(&options.socket).await.unwrap());
    incoming.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn silent_tcp_clients_keep_nobody_from_shaking_hands() {
    let directory = TempDir::new().unwrap();
    let mut options = at(&directory);
    options.tcp = Some(tls_options());
    options.bounds.handshakes = 2;
    let mut incoming = bind(&options).await.unwrap();
    let address = incoming.tcp_address().unwrap();
    let mut silent = vec![];
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let others = async { tokio::join!(tls_client(address, Some("client")), incoming.next()) };
    let (client, connection) = tokio::time::timeout(Duration::from_secs(2), others).await.expect("at once");
    client.unwrap();
    let connection = connection.unwrap().unwrap();
    let Peer::Tls { names, .. } = connection.peer() else { panic!("{connection:?}") };
    assert!(!names.is_empty(), "a certificate has a name");
}

#[tokio::test]
async fn replaced_certificates_are_taken_and_broken_ones_are_not() {
    let (directory, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let put = |name: &str, from: &str| {
        fs::copy(fixture(from), files.path().join("new")).unwrap();
        fs::rename(files.path().join("new"), files.path().join(name)).unwrap();
    };
    let file = |name: &str| files.path().join(name);
    put("cert", "server.pem");
    put("key", "server.key");
    put("ca", "other-client.pem");
    let mut options = at(&directory);
    let tls = TlsOptions { certificate: file("cert"), key: file("key"), client_ca: file("ca") };
    options.tcp = Some(TcpOptions { tls: Some(tls), ..tls_options() });
    let metrics = Metrics::new();
    let mut incoming = Incoming::bind(&options, &metrics).await.unwrap();
    let (address, acceptor) = (incoming.tcp_address().unwrap(), incoming.tls().unwrap());
    let mut let_in = async |wanted: bool| {
        let client = async {
            match tls_client(address, Some("client")).await {
                Ok(stream) => Box::pin(stream).read(&mut [0; 1]).now_or_never().is_none(),
                Err(_) => false,
            }
        };
        tokio::select! {
            biased;
            connection = incoming.next() => assert!(wanted, "let in {connection:?}"),
            () = async { client.await; tokio::time::sleep(Duration::from_millis(500)).await } => assert!(!wanted),
        }
    };
    let_in(false).await;
    put("ca", "ca.pem");
    acceptor.reload(false).await;
    let_in(true).await;
    put("key", "client.key");
    acceptor.reload(false).await;
    let_in(true).await;
    let text = metrics.encode();
    assert!(
        text.contains("dstl_tls_reloads_total 1\n") && text.contains("dstl_tls_reload_failures_total 1\n"),
        "{text}"
    );
    let expiry =
        text.lines().find(|line| line.starts_with("dstl_tls_certificate_expiry_seconds{certificate=\"server\"}"));
    let seconds: u64 = expiry.unwrap_or_else(|| panic!("{text}")).rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(seconds > 1_700_000_000, "{seconds}");
    acceptor.reload(false).await;
    assert!(metrics.encode().contains("dstl_tls_reload_failures_total 1\n"), "told once");
}
