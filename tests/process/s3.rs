//! S3 for real: the store's conformance suite, a restore and the demo against a server that speaks S3 over HTTP.
//!
//! The server is moto, pinned in `tests/python/s3/requirements.txt`: one for all tests of the process, on a free port
//! of loopback. Each test has a bucket of its own. The server ends when its standard input does, so with this process,
//! however that ends.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use dstl::{
    client::{Client, OpenOptions, Restore, StateOptions},
    clock::Clock,
    metrics::Metrics,
    object::{Retry, Store, StoreOptions, conformance, open},
    random::Random,
};

use crate::venv::environment;

/// How long a daemon or a materialization is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. `process` holds the pipe that keeps it alive.
struct Server {
    address: String,
    _process: Child,
}

/// The address of the server, started when it is first asked for.
fn server() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let start = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/s3");
        let python = environment("python-s3", &folder.join("requirements.txt"), "moto.moto_server.werkzeug_app");
        let mut command = Command::new(python);
        command.arg(folder.join("server.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        assert!(
            address.starts_with("http://127.0.0.1:"),
            "the S3 server said `{address}` and nothing else on its output"
        );
        Server { address, _process: process }
    };
    &SERVER.get_or_init(start).address
}

/// Makes a bucket.
fn make_bucket(name: &str) {
    let address = server().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    // Whoever it is: only for the form of it does the server look.
    let identity =
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let request = format!(
        "PUT /{name} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {identity}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// What the environment of a user has who works with S3.
fn environment_of_user() -> [(&'static str, &'static str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", server()),
    ]
}

fn store(url: &str) -> Store {
    let mut options = StoreOptions::new(url);
    let given =
        [("access_key_id", "test"), ("secret_access_key", "test"), ("region", "us-east-1"), ("endpoint", server())];
    options.options = given.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    open::open(&options, &Metrics::new(), &Clock::system(), Random::seeded(1)).unwrap()
}

/// A daemon of the real binary; killed with SIGKILL when dropped.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
        command.args(["serve", "--admin", "off", "--store", url, "--socket"]).arg(folder.path().join("s"));
        command.args(["--set", "state.changelog.periodic-materialize.interval=1 s"]);
        command.args(["--set", &format!("dstl.data-dir={}", folder.path().display())]);
        let child = command.env_clear().envs(environment_of_user()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, folder }
    }

    async fn client(&self) -> Client {
        let begun = Instant::now();
        loop {
            match Client::connect(self.folder.path().join("s")).await {
                Ok(client) => return client,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_s3_server_conforms() {
    make_bucket("conformance");
    conformance::all(&store("s3://conformance/some/prefix"), &Clock::system()).await;
}

#[test]
fn the_doctor_finds_all_promises_kept_on_s3_and_no_bucket_where_there_is_none() {
    make_bucket("doctor");
    let doctor = |url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
        command.args(["store", "doctor", "--json", url]).env_clear().envs(environment_of_user()).output().unwrap()
    };
    let examined = doctor("s3://doctor/some/prefix");
    let (report, told) = (String::from_utf8_lossy(&examined.stdout), String::from_utf8_lossy(&examined.stderr));
    assert!(examined.status.success(), "{report}{told}");
    assert_eq!(report.matches("\"holds\": true").count(), 12, "{report}");
    assert!(!report.contains("\"holds\": false"), "{report}");

    let refused = doctor("s3://no-such-bucket/some/prefix");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("NoSuchBucket"), "{told}");
}

#[tokio::test]
async fn a_state_on_s3_is_materialized_and_restored_elsewhere_after_a_kill() {
    make_bucket("restored");
    let url = "s3://restored/some/prefix";
    let daemon = Daemon::start(url);
    let client = daemon.client().await;
    let backend = client.open(OpenOptions::new("job", "operator").attempt(1)).await.unwrap();
    let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.unwrap();
    let session = backend.session().await.unwrap();
    let mut model = BTreeMap::new();
    let random = Random::seeded(3);
    for _ in 0..20 {
        let mut batch = session.batch();
        for _ in 0..200 {
            let (key, value) = (format!("key {}", random.below(2000)), i64::try_from(random.below(1 << 40)).unwrap());
            batch.push(state.put(&key, &value));
            model.insert(key, value);
        }
        session.send(batch).await.unwrap();
    }
    session.persist().await.unwrap();
    materialized(&store(url)).await;
    // The log after the materialization is part of what is restored.
    for number in 0..50 {
        let key = format!("late {number}");
        session.run(state.put(&key, &number)).await.unwrap();
        model.insert(key, number);
    }
    let checkpoint = session.barrier(7, "at 7").await.unwrap().await.unwrap();
    session.complete(&checkpoint.checkpoint.unwrap()).await.unwrap();
    session.run(state.put("never in a checkpoint", &1)).await.unwrap();
    drop(daemon);

    let daemon = Daemon::start(url);
    let client = daemon.client().await;
    let options = OpenOptions::new("job", "operator").attempt(2).restore(Restore::Latest { or_empty: false });
    let backend = client.open(options).await.unwrap();
    assert_eq!(backend.checkpoint().unwrap().checkpoint_id, 7);
    assert_eq!(&backend.attachment()[..], b"at 7");
    let described = client.describe(Some(backend.reference())).await.unwrap();
    assert_eq!(described[0].states[0].entries, model.len() as u64);
    let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.unwrap();
    let session = backend.session().await.unwrap();
    let entries: Vec<_> = model.iter().collect();
    for some in entries.chunks(500) {
        let mut batch = session.batch();
        let reads: Vec<_> = some.iter().map(|(key, _)| batch.push(state.get(*key))).collect();
        let applied = session.send(batch).await.unwrap().applied().await.unwrap();
        for (read, (key, expected)) in reads.into_iter().zip(some) {
            assert_eq!(applied.get(read).unwrap(), Some(**expected), "{key}");
        }
    }
}

/// Waits until a materialization is whole: its index is written last.
async fn materialized(store: &Store) {
    let begun = Instant::now();
    loop {
        let objects = store.list(&dstl::object::Path::from("job/operators"), Retry::none()).await.unwrap();
        if objects.iter().any(|object| object.path.as_ref().ends_with(".index")) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no materialization among {objects:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn the_demo_survives_its_kills_on_s3() {
    make_bucket("demo");
    let folder = tempfile::tempdir().unwrap();
    let words: String = (0..20_000_u64).map(|at| format!("w{} ", (at * at) % (97 + at))).collect();
    std::fs::write(folder.path().join("text.txt"), words).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl-demo"));
    command.args(["--kills", "3", "--seed", "5", "--json", "--store", "s3://demo/some/prefix"]);
    command.arg(folder.path()).env_remove("DSTL_CONFIG").envs(environment_of_user());
    let output = command.output().unwrap();
    let said = crate::venv::text(&output);
    assert!(output.status.success(), "{said}");
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let numbers = ["records", "mismatches"].map(|name| outcome[name].as_u64().unwrap());
    assert_eq!((outcome["ok"].as_bool(), numbers), (Some(true), [20_000, 0]), "{said}");
    assert_eq!(outcome["kills"]["daemon"].as_u64().unwrap() + outcome["kills"]["task"].as_u64().unwrap(), 3, "{said}");
    assert_eq!(outcome["objects"]["unreferenced"], 0, "{said}");
}

#[test]
fn make_demo_takes_a_store() {
    let mut make = Command::new("make");
    make.args(["--dry-run", "demo", "STORE=s3://bucket/prefix", "ARGS=--kills 3"]);
    let output = make.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let said = crate::venv::text(&output);
    assert!(said.contains("/dstl-demo --store 's3://bucket/prefix' --kills 3"), "{said}");
}
