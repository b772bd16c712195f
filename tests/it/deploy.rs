//! What the project ships for operators: image, manifests, unit, alerts, dashboard and the page that explains them,
//! each held against the program that it is about.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use clap::Parser as _;
use dstl::{
    backend::{BackendMetrics, ProofMetrics},
    changelog::metrics::UploadMetrics,
    checkpoint::collect::metrics::GcMetrics,
    cli::{Args, Command as Cli},
    client::{Client, OpenOptions, StateOptions},
    config::{Config, File, Host, Sources},
    metrics::Metrics,
    object::metered::StoreMetrics,
    rpc::listener::{Incoming, ListenerOptions},
};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The words of a text that can be names of our metrics.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("dstl_")).map(str::to_owned).collect()
}

/// The value of the first line `<indentation><key>: <value>` of a YAML file, for numbers.
fn number(yaml: &str, key: &str) -> u64 {
    let line = yaml.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("`{key}` with a number"))
}

/// A literal block of a YAML file, its indentation taken away.
fn literal_block(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim() != format!("{key}: |"));
    let outer = lines.next().map(|line| line.len() - line.trim_start().len()).expect("the block is there");
    let inside = lines.take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > outer);
    inside.map(|line| format!("{}\n", line.get(outer + 2..).unwrap_or_default())).collect()
}

fn resolve(text: String, environment: &[(&str, &str)]) -> Config {
    let sources = Sources {
        file: Some(File { path: "dstl.toml".into(), contents: Ok(text) }),
        environment: environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        ..Sources::default()
    };
    let state_home = environment.iter().find(|(name, _)| *name == "XDG_STATE_HOME").map(|(_, value)| value.into());
    let runtime_dir = environment.iter().find(|(name, _)| *name == "XDG_RUNTIME_DIR").map(|(_, value)| value.into());
    let host = Host { uid: Some(10_001), memory_bytes: Some(2 << 30), state_home, runtime_dir, ..Host::default() };
    Config::resolve(&sources, &host).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A daemon of the real binary in a folder of its own; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) admin: SocketAddr,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_dstl"))
            .args(["serve", "--admin", "127.0.0.1:0", "--socket"])
            .arg(folder.path().join("s"))
            .arg("--store")
            .arg(folder.path().join("store"))
            .args(["--set", &format!("dstl.data-dir={}", folder.path().display())])
            .args(["--set", "state.backend.rocksdb.metrics=is-write-stopped,background-errors,estimate-num-keys"])
            .args(["--set", "execution.checkpointing.local-backup.enabled=true"])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .env_clear()
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
        let admin = log.find_map(|line| {
            let line = line.expect("the log is text");
            line.split_once(" admin=")?.1.split(' ').next()?.parse().ok()
        });
        std::thread::spawn(move || log.for_each(drop));
        Self { child, folder, admin: admin.expect("the daemon says where it serves") }
    }

    pub(crate) fn get(&self, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin address answers");
        let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split_once("\r\n\r\n").expect("an answer has a body").1.to_owned()
    }

    /// Exit code of `dstl health`.
    fn health(&self) -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
        command.args(["health", "--admin", &self.admin.to_string()]).env_clear();
        command.output().expect("the binary starts").status.code()
    }

    /// Writes, checkpoints, and restores in a second attempt, so that metrics with labels appear.
    async fn exercise(&self) {
        let client = Client::connect(self.folder.path().join("s")).await.expect("the socket answers");
        for attempt in 1..=2 {
            let options = OpenOptions::new("job", "operator").attempt(attempt);
            let backend = client.open(options).await.expect("the backend opens");
            let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.expect("a state");
            let session = backend.session().await.expect("a session");
            session.run(state.put("word", &1)).await.expect("a write");
            session.barrier(1, "").await.expect("a barrier").await.expect("a checkpoint");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every name that a daemon's text can ever hold: what each part registers, and what a running daemon serves.
async fn known_names(served: &str) -> Vec<String> {
    let metrics = Metrics::new();
    let _ = (BackendMetrics::register(&metrics), GcMetrics::register(&metrics));
    let _ = (UploadMetrics::register(&metrics), StoreMetrics::register(&metrics), ProofMetrics::register(&metrics));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ListenerOptions { socket: folder.path().join("s"), ..ListenerOptions::default() };
    Incoming::bind(&options, &metrics).await.expect("the socket can be made");
    let mut names = metrics.sample_names();
    let lines = served.lines().filter(|line| !line.starts_with('#'));
    let more: BTreeSet<_> = lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    names.extend(more.into_iter().filter(|name| !metrics.sample_names().contains(name)));
    names
}

/// `program`, if there is one. In CI there must be; Debian has it in `package`.
pub(crate) fn installed(program: &'static str, package: &str) -> Option<&'static str> {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(found || !in_ci, "{program} is missing: install the package `{package}`");
    if !found {
        eprintln!("{program} is missing: LEFT OUT");
    }
    found.then_some(program)
}

/// Runs promtool with `input`; it must succeed and, where `silent`, have nothing to say.
fn run_promtool(arguments: &[&str], input: &str, silent: bool) {
    let Some(promtool) = installed("promtool", "prometheus") else { return };
    let mut command = Command::new(promtool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    // It may be done before it has read everything.
    let _ = child.stdin.take().expect("it was asked for").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && (!silent || said.is_empty()), "promtool {arguments:?}: {said}");
}

/// The queries of the dashboard, with Grafana's variables filled in.
fn dashboard_queries() -> Vec<String> {
    fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(|expr| expr.as_str()).map(str::to_owned));
                fields.values().for_each(|value| collect(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let dashboard = serde_json::from_str(&read("deploy/grafana-dashboard.json")).expect("the dashboard is JSON");
    let mut found = vec![];
    collect(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");
    found.iter().map(|query| query.replace("$__rate_interval", "5m").replace("$instance", ".*")).collect()
}

#[tokio::test]
async fn every_metric_that_rules_dashboard_and_docs_name_exists() {
    let daemon = Daemon::start();
    let known = known_names(&daemon.get("/metrics", "text/plain")).await;
    let unique: BTreeSet<_> = known.iter().cloned().collect();
    assert_eq!(unique.len(), known.len(), "a name is registered twice: {known:?}");
    for name in ["deploy/prometheus-rules.yaml", "deploy/prometheus-rules.test.yaml", "deploy/grafana-dashboard.json"] {
        let unknown: Vec<_> = metric_names(&read(name)).difference(&unique).cloned().collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}");
    }
    let histogram = |name: &String| unique.contains(&format!("{name}_bucket"));
    let mut documented = metric_names(&read("deploy/OPERATIONS.md"));
    documented.retain(|name| !unique.contains(name) && !histogram(name));
    assert!(documented.is_empty(), "OPERATIONS.md names {documented:?}");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_running_daemon() {
    let daemon = Daemon::start();
    assert_eq!(daemon.health(), Some(0));
    daemon.exercise().await;
    let plain = daemon.get("/metrics", "*/*");
    for line in ["dstl_checkpoint_completed_total 2", "dstl_restore_completed_total 1", "dstl_backend_open 1"] {
        assert!(plain.lines().any(|found| found == line), "{line}\n{plain}");
    }
    run_promtool(&["check", "metrics"], &plain, true);
    let openmetrics = daemon.get("/metrics", "application/openmetrics-text; version=1.0.0");
    assert!(openmetrics.ends_with("# EOF\n"), "{openmetrics}");
    let described: Vec<_> = openmetrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(described.iter().collect::<BTreeSet<_>>().len(), described.len(), "{described:?}");
}

#[test]
fn a_daemon_that_is_not_there_is_not_healthy() {
    let daemon = Daemon::start();
    let address = daemon.admin.to_string();
    drop(daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
    let output = command.args(["health", "--admin", &address]).env_clear().output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("dstl: asking the daemon at `{address}`: ")), "{said}");
}

#[test]
fn promtool_accepts_the_rules_and_each_alert_fires_when_it_should() {
    let rules = path("deploy/prometheus-rules.yaml");
    run_promtool(&["check", "rules", "--lint-fatal", &rules.to_string_lossy()], "", false);
    run_promtool(&["test", "rules", &path("deploy/prometheus-rules.test.yaml").to_string_lossy()], "", false);
}

#[test]
fn promtool_accepts_the_queries_of_the_dashboard() {
    let rules: Vec<_> = dashboard_queries()
        .iter()
        .enumerate()
        .map(|(i, query)| serde_json::json!({ "record": format!("panel:{i}"), "expr": query }))
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    // JSON is YAML.
    let text = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
    fs::write(file.path(), text).expect("it can be written");
    run_promtool(&["check", "rules", &file.path().to_string_lossy()], "", false);
}

#[test]
fn every_alert_is_tested_and_explained() {
    let (rules, tests) = (read("deploy/prometheus-rules.yaml"), read("deploy/prometheus-rules.test.yaml"));
    let page = read("deploy/OPERATIONS.md");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test of {alert}");
        assert!(page.lines().any(|line| line == format!("### {alert}")), "OPERATIONS.md does not explain {alert}");
    }
}

#[test]
fn the_sidecar_of_kubernetes_has_a_valid_configuration() {
    let manifest = read("deploy/kubernetes.yaml");
    let config = resolve(literal_block(&manifest, "dstl.toml"), &[]);
    assert_eq!(config.listener.socket, Path::new("/run/dstl/dstl.sock"));
    assert_eq!((config.listener.socket_mode.bits(), config.data_dir.as_path()), (0o660, Path::new("/var/lib/dstl")));
    assert_eq!(config.admin.address, Some(SocketAddr::from(([0, 0, 0, 0], 9321))));
    assert!(manifest.contains("{name: dstl-admin, containerPort: 9321}"));
    assert!(number(&manifest, "terminationGracePeriodSeconds") > config.drain_timeout.as_secs() + 12 + 30);
    assert!(manifest.contains("args: [serve, --config, /etc/dstl/dstl.toml]"));
    Args::try_parse_from(["dstl", "serve", "--config", "/etc/dstl/dstl.toml"]).expect("these are its arguments");
}

#[test]
fn the_unit_of_systemd_runs_valid_commands() {
    let unit = read("deploy/dstl.service");
    let all = |key: &str| -> Vec<String> {
        let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    for (key, check) in [("ExecStartPre", true), ("ExecStart", false)] {
        let args = Args::try_parse_from(all(key)).expect("clap accepts it");
        let Cli::Serve(serve) = args.command else { panic!("{key} does not serve") };
        assert_eq!((serve.check_config, serve.config.config), (check, Some("/etc/dstl/dstl.toml".into())));
    }
    let environment = all("Environment");
    let environment: Vec<_> = environment.iter().filter_map(|setting| setting.split_once('=')).collect();
    let config = resolve(read("deploy/dstl.toml"), &environment);
    assert_eq!(config.listener.socket, Path::new("/run/dstl/dstl.sock"));
    assert_eq!((config.listener.socket_mode.bits(), config.data_dir.as_path()), (0o660, Path::new("/var/lib/dstl")));
    let stop: u64 = all("TimeoutStopSec").concat().parse().expect("seconds");
    assert!(stop > config.drain_timeout.as_secs() + 12);
    assert_eq!(all("RestartPreventExitStatus"), [dstl::cli::EXIT_USAGE.to_string()]);
}

#[test]
fn the_image_is_built_of_files_that_exist() {
    let (dockerfile, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let kept: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copies =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|it| !it.starts_with("--from"));
    let copied: BTreeSet<_> = copies
        .flat_map(|line| line.split(' ').rev().skip(1).collect::<Vec<_>>())
        .inspect(|name| assert!(path(name).exists(), "{name} does not exist"))
        .collect();
    assert_eq!(copied, kept);
    // Cargo refuses a package one of whose declared targets has no file.
    let package: toml::Table = read("Cargo.toml").parse().expect("the package is TOML");
    for (kind, folder) in [("bin", "src"), ("test", "tests"), ("bench", "benches"), ("example", "examples")] {
        for target in package.get(kind).and_then(|it| it.as_array()).into_iter().flatten() {
            let name = target.get("name").and_then(|it| it.as_str()).expect("a target has a name");
            let file =
                target.get("path").and_then(|it| it.as_str()).map_or(format!("{folder}/{name}.rs"), str::to_owned);
            assert!(dockerfile.contains(&file), "the skeleton lacks {file}");
        }
    }
    let package = &package["workspace"];
    let rust = package["package"]["rust-version"].as_str().expect("the package names its Rust");
    assert!(dockerfile.contains(&format!("ARG RUST_VERSION={rust}\n")));
    let version = package["package"]["version"].as_str().expect("the package has a version");
    assert!(dockerfile.contains(&format!("ARG VERSION={version}\n")));
    assert!(read("deploy/kubernetes.yaml").contains(&format!("image: dstl:{version}\n")));
    assert!(dockerfile.contains("CMD [\"dstl\", \"health\"]"));
    Args::try_parse_from(["dstl", "health"]).expect("these are its arguments");
}
