//! Configurations as users write them: precedence, faults, and the example file that the project ships.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use dstl::{
    changelog::compression::Compression,
    checkpoint::ledger::Retention,
    config::{Config, Fault, Faults, File, Flag, Host, Sources, example, option_rows},
    state::options::PredefinedOptions,
    types::InnerBackend,
};

use crate::tidy::sources;

/// Files that quote names of options without declaring them.
const QUOTING: &[&str] = &[
    // Rules between options name those that they are about.
    "src/config/check.rs",
    // Flink's names and values lead to options.
    "src/config/legacy.rs",
    "src/config/translate.rs",
    // Some options have a flag, or a short environment variable.
    "src/cli/args/common.rs",
    "src/config/typed.rs",
];

fn root() -> Host {
    Host { uid: Some(0), memory_bytes: Some(8 << 30), ..Host::default() }
}

fn file(text: &str) -> Sources {
    let file = File { path: "dstl.toml".into(), contents: Ok(text.into()) };
    Sources { file: Some(file), ..Sources::default() }
}

fn flags(arguments: &[&str]) -> Sources {
    Sources { flags: arguments.iter().map(|it| Flag::Set((*it).into())).collect(), ..Sources::default() }
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Sources { environment, ..Sources::default() }
}

fn resolve(sources: &Sources) -> Result<Config, Faults> {
    Config::resolve(sources, &root())
}

/// The faults as shown, one line each.
fn faults(sources: &Sources) -> Vec<String> {
    resolve(sources).expect_err("faults are expected").0.iter().map(Fault::to_string).collect()
}

fn deployed() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dstl.toml");
    std::fs::read_to_string(path).expect("the example is part of the source tree")
}

#[test]
fn nothing_set_is_valid() {
    let config = resolve(&Sources::default()).expect("the defaults are valid");
    assert_eq!(config.changelog.base_path.as_str(), "file:///var/lib/dstl/store");
    let listener = config.listener;
    assert_eq!(listener.socket, PathBuf::from("/run/dstl/dstl.sock"));
    assert_eq!((listener.socket_mode.bits(), listener.socket_group, listener.tcp), (0o600, None, None));
    assert_eq!(config.admin.address, Some(SocketAddr::from(([127, 0, 0, 1], 9321))));
    assert_eq!(config.max_in_flight_bytes, 256 << 20);
    assert_eq!((config.backend.retention, config.drain_timeout), (Retention::Count(3), Duration::from_secs(30)));
    let budget = (8 << 30) / 100 * 80;
    let memory = (config.memory_budget, config.backend.state_memory, config.rocksdb.resources.memory_bytes);
    assert_eq!(memory, (budget, budget / 100 * 50, budget / 100 * 25));
    assert_eq!(config.rocksdb.local_dirs, [PathBuf::from("/var/lib/dstl/local")]);
}

#[test]
fn a_small_budget_is_shared_out_within_itself() {
    for mib in [48, 64, 256, 512, 2048] {
        let config = resolve(&flags(&[&format!("memory.budget={mib} MiB")])).expect("the shares follow the budget");
        let (state, changes) = (config.backend.state_memory, config.max_in_flight_bytes);
        assert_eq!(config.memory_budget, mib << 20);
        let all = state + config.rocksdb.resources.memory_bytes + changes;
        assert!(all <= config.memory_budget, "{mib}: {config:?}");
        assert!((10 << 20..=256 << 20).contains(&changes));
    }
    let config = resolve(&flags(&["memory.budget=512 MiB"])).expect("as above");
    assert_eq!(config.max_in_flight_bytes, (512 << 20) / 100 * 15);
    let config = resolve(&flags(&["rpc.max-message-size=256 MiB"])).expect("two of the longest messages fit");
    assert_eq!(config.max_in_flight_bytes, 512 << 20);
}

#[test]
fn parts_that_do_not_fit_the_budget_are_refused_together() {
    let shown = faults(&flags(&["memory.budget=1 GiB", "memory.state=700 MiB"]));
    let expected = "state in memory, RocksDB and changes that are not yet durable must fit the memory budget together; \
                    `memory.state` is `700 MiB` (flag --set), `memory.rocksdb` is `25%` (the default), \
                    `state.changelog.dstl.dfs.upload.max-in-flight` is `161061270 B` (the default), `memory.budget` is `1 GiB` \
                    (flag --set)";
    assert_eq!(shown, [expected]);
}

#[test]
fn rocksdb_is_set_up_by_the_file() {
    let config = resolve(&file(
        "state.backend.type = 'rocksdb'\n[state.backend.rocksdb]\nlocaldir = ['/mnt/a', '/mnt/b']\n\
         memory.write-buffer-ratio = 0.25\nthread.num = 3\npredefined-options = 'FLASH_SSD_OPTIMIZED'\n\
         metrics = ['estimate-num-keys', 'is-write-stopped']\n[state.backend.rocksdb.options]\nmax_open_files = 256\n\
         compression = 'kZSTD'\n",
    ))
    .expect("all are valid");
    let rocksdb = config.rocksdb;
    let resources = rocksdb.resources;
    assert_eq!(config.backend.inner, InnerBackend::RocksDb);
    assert_eq!((resources.threads, resources.write_buffer_ratio), (3, 0.25));
    assert_eq!(resources.predefined, PredefinedOptions::FlashSsd);
    assert_eq!(rocksdb.local_dirs, [Path::new("/mnt/a"), Path::new("/mnt/b")]);
    assert_eq!(rocksdb.metrics, ["estimate-num-keys", "is-write-stopped"]);
    let options: Vec<_> = resources.overrides.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(options, [("compression", "kZSTD"), ("max_open_files", "256")]);
}

#[test]
fn rocksdbs_own_options_are_checked_by_name_and_value() {
    let mut sources = file("[state.backend.rocksdb.options]\nmax_open_filez = 256\n");
    sources.flags = flags(&["state.backend.rocksdb.options.max_open_files=many"]).flags;
    let shown = faults(&sources);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(
        shown[0].starts_with("`state.backend.rocksdb.options.max_open_filez` is `256` (dstl.toml:2); "),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with("`state.backend.rocksdb.options.max_open_files` is `many` (flag --set); "),
        "{shown:?}"
    );
}

#[test]
fn each_option_is_declared_in_one_place_and_named_nowhere_else() {
    let sources = sources(&["src"]);
    let quotes = |path: &Path| QUOTING.iter().any(|file| path == Path::new(file));
    for row in option_rows() {
        let name = format!("\"{}\"", row.key);
        let places = sources.iter().filter(|source| !source.is_tests() && !quotes(&source.path)).flat_map(|source| {
            let code = source.text.lines().take(source.lines());
            code.filter(|line| line.contains(&name)).map(|_| source.path.display().to_string())
        });
        let places: Vec<_> = places.collect();
        assert_eq!(places.len(), 1, "{}: {places:?}", row.key);
    }
}

#[test]
fn the_shipped_file_is_the_example() {
    assert!(deployed() == example(), "`dstl config example > deploy/dstl.toml` brings it up to date");
}

#[test]
fn the_shipped_file_names_every_option_with_its_default() {
    let uncommented: String = deployed()
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(uncommented.lines().count(), option_rows().len());
    let defaults = resolve(&Sources::default()).expect("the defaults are valid");
    assert_eq!(resolve(&file(&uncommented)).expect("the example is valid"), defaults);
    assert_eq!(resolve(&file(&deployed())).expect("comments are valid"), defaults);
}

#[test]
fn later_sources_win() {
    let mut sources = file("drain-timeout = '1 s'\nlog.level = 'warn'\n[execution.checkpointing]\nnum-retained = 5\n");
    sources.environment = environment(&[("DSTL_DRAIN_TIMEOUT", "2 s"), ("DSTL_LOG", "debug")]).environment;
    sources.flags = flags(&["drain-timeout=3s", "drain-timeout=4s"]).flags;
    let config = resolve(&sources).expect("all are valid");
    assert_eq!(config.drain_timeout, Duration::from_secs(4));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.backend.retention, Retention::Count(5));
}

#[test]
fn every_option_has_a_variable() {
    for row in option_rows() {
        let shown =
            resolve(&environment(&[(&row.environment, "\u{1}")])).err().map(|it| it.to_string()).unwrap_or_default();
        assert!(!shown.contains("names no option"), "{}", row.environment);
    }
}

#[test]
fn store_options_are_merged_by_name_and_never_shown() {
    let mut sources =
        file("[state.changelog.dstl.dfs.store-options]\naws_region = 'eu'\naws_secret_access_key = 'hush'\n");
    sources.flags = flags(&["state.changelog.dstl.dfs.store-options.aws_region=us"]).flags;
    let config = resolve(&sources).expect("all are valid");
    let options: Vec<_> = config.changelog.store_options.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(options, [("aws_region", "us"), ("aws_secret_access_key", "hush")]);
    assert!(!format!("{config:?}").contains("hush"));
    let shown = faults(&environment(&[("DSTL_STATE_CHANGELOG_DSTL_DFS_STORE_OPTIONS", "hush")]));
    assert!(!shown.concat().contains("hush"), "{shown:?}");
}

#[test]
fn store_options_of_a_name_with_dots_are_one_entry() {
    let config = resolve(&flags(&["state.changelog.dstl.dfs.store-options.a.b=c"])).expect("a name may hold dots");
    assert_eq!(config.changelog.store_options.0.get("a.b").map(String::as_str), Some("c"));
}

#[test]
fn all_faults_are_reported_at_once_with_their_origins() {
    let mut sources = file(
        "rpc.max-value-size = '1 parsec'\nstate.backend = 'rocksdb'\n\n[log]\nformat = 'xml'\n[rpc.tcp]\naddress = [1]\n",
    );
    sources.environment = environment(&[("DSTL_LOG_LEVL", "info"), ("DSTL_GC_GRACE_PERIOD", "soon")]).environment;
    sources.flags = flags(&["drain-timeout=-1", "execution.checkpointing.num-retained=0", "oops"]).flags;
    let expected = [
        "`rpc.max-value-size` is `1 parsec` (dstl.toml:1); allowed is a memory size such as `64 MiB`, from `1 B` to `512 MiB`",
        "`state.backend` is `rocksdb` (dstl.toml:2), as in Flink; here it is `state.backend.type = \"rocksdb\"`",
        "`log.format` is `xml` (dstl.toml:5); allowed is `text` or `json`",
        "`rpc.tcp.address` is `[1]` (dstl.toml:7); allowed is an address with port such as `127.0.0.1:9321` or \
         `[::1]:9321`, or `off`",
        "`gc.grace-period` is `soon` (environment variable DSTL_GC_GRACE_PERIOD); allowed is a duration such as `10 ms` or \
         `5 min`, at least `1s`",
        "environment variable `DSTL_LOG_LEVL` names no option; did you mean `DSTL_LOG_LEVEL`?",
        "`drain-timeout` is `-1` (flag --set); allowed is a duration such as `10 ms` or `5 min`",
        "`execution.checkpointing.num-retained` is `0` (flag --set); allowed is an integer from 1 to 1000",
        "flag --set `oops` is not of the form `key=value`",
    ];
    assert_eq!(faults(&sources), expected);
}

#[test]
fn misspelt_keys_get_advice() {
    let shown = faults(&file(
        "no.such-thing = 4\nstate.changelog.dstl.dfs.upload.max-inflight = '1g'\nexecution.checkpointing.num-retaind = 2\n",
    ));
    let expected = [
        "`no.such-thing` (dstl.toml:1) is not an option; `dstl config options` lists them",
        "`state.changelog.dstl.dfs.upload.max-inflight` (dstl.toml:2) is not an option; did you mean \
         `state.changelog.dstl.dfs.upload.max-in-flight`?",
        "`execution.checkpointing.num-retaind` (dstl.toml:3) is not an option; did you mean `execution.checkpointing.num-retained`?",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn flinks_names_get_ours_in_every_source() {
    let mut sources = file(
        "state.backend.type = 'org.apache.flink.runtime.state.memory.MemoryStateBackend'\nstate.savepoints.dir = '/s'\n\
         taskmanager.numberOfTaskSlots = 4\n[dstl.dfs]\nupload.timeout = '1500 ms'\ncompression.enabled = true\n",
    );
    let variables = [
        ("DSTL_EXECUTION_SAVEPOINT_RESTORE_MODE", "CLAIM"),
        ("DSTL_STATE_BACKEND", "EmbeddedRocksDBStateBackend"),
        ("DSTL_STATE_BACKEND_ROCKSDB_METRICS_ESTIMATE_NUM_KEYS", "true"),
        ("DSTL_STATE_BACKEND_ROCKSDB_WRITEBUFFER_SIZE", "32 mb"),
        ("DSTL_STATE_BACKEND_CHANGELOG_ENABLED", "true"),
    ];
    sources.environment = environment(&variables).environment;
    let arguments = [
        "state.checkpoints.dir=s3://bucket/a",
        "state.checkpoints.num-retained=0",
        "state.backend.rocksdb.memory.managed=true",
        "queryable-state.enable=true",
        "s3.secret-key=hush",
    ];
    sources.flags = flags(&arguments).flags;
    let shown = faults(&sources);
    let expected = [
        "`state.backend.type` is `org.apache.flink.runtime.state.memory.MemoryStateBackend` (dstl.toml:1), as in Flink; here it is \
         `state.backend.type = \"hashmap\"`; checkpoints go to the store of state.changelog.dstl.dfs.base-path, not to the JobManager",
        "`state.savepoints.dir` is `/s` (dstl.toml:2), as in Flink; dstl has no such option: savepoints lie beside the job's checkpoints, ",
        "`taskmanager.numberOfTaskSlots` is `4` (dstl.toml:3), as in Flink; dstl has no such option: it is about Flink's own processes",
        "`dstl.dfs.upload.timeout` is `1500 ms` (dstl.toml:5), as in Flink; here it is \
         `state.changelog.dstl.dfs.upload.timeout = \"1s 500ms\"`",
        "`dstl.dfs.compression.enabled` is `true` (dstl.toml:6), as in Flink; here it is `state.changelog.dstl.dfs.compression = \"lz4\"`",
        "`DSTL_EXECUTION_SAVEPOINT_RESTORE_MODE` is `CLAIM` (environment variable DSTL_EXECUTION_SAVEPOINT_RESTORE_MODE), as in Flink; \
         here it is `DSTL_EXECUTION_STATE_RECOVERY_CLAIM_MODE=CLAIM`",
        "`DSTL_STATE_BACKEND` is `EmbeddedRocksDBStateBackend` (environment variable DSTL_STATE_BACKEND), as in Flink; here it is \
         `DSTL_STATE_BACKEND_TYPE=rocksdb`",
        "`DSTL_STATE_BACKEND_CHANGELOG_ENABLED` is `true` (environment variable DSTL_STATE_BACKEND_CHANGELOG_ENABLED), as in Flink; \
         here it is `DSTL_STATE_CHANGELOG_ENABLED=true`",
        "`DSTL_STATE_BACKEND_ROCKSDB_METRICS_ESTIMATE_NUM_KEYS` is `true` (environment variable \
         DSTL_STATE_BACKEND_ROCKSDB_METRICS_ESTIMATE_NUM_KEYS), as in Flink; here it is \
         `DSTL_STATE_BACKEND_ROCKSDB_METRICS=estimate-num-keys`",
        "`DSTL_STATE_BACKEND_ROCKSDB_WRITEBUFFER_SIZE` is `32 mb` (environment variable \
         DSTL_STATE_BACKEND_ROCKSDB_WRITEBUFFER_SIZE), as in Flink; here it is \
         `DSTL_STATE_BACKEND_ROCKSDB_OPTIONS=write_buffer_size=33554432`",
        "`state.checkpoints.dir` is `s3://bucket/a` (flag --set), as in Flink; here it is \
         `--set state.changelog.dstl.dfs.base-path=s3://bucket/a`; changelogs and checkpoints lie in one store",
        "`state.checkpoints.num-retained` is `0` (flag --set), as in Flink; here it is `execution.checkpointing.num-retained`, and \
         this value cannot stay: ",
        "`state.backend.rocksdb.memory.managed` is `true` (flag --set), as in Flink; dstl has no such option: ",
        "`queryable-state.enable` is `true` (flag --set), as in Flink; here it is `--set queryable-state.enabled=true`; there is no \
         query server: ",
        "`s3.secret-key` is `…` (flag --set), as in Flink; dstl has no such option: credentials come from the environment",
    ];
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected), "{shown}\n{expected}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_with_its_line() {
    let shown = faults(&file("log.level = 'info'\nlog.format = \n"));
    assert_eq!(shown.len(), 1);
    assert!(shown.concat().starts_with("dstl.toml:2: "), "{shown:?}");
}

#[test]
fn a_missing_file_is_a_fault_beside_others() {
    let missing = File::read(Path::new("/no/such/dstl.toml"));
    let sources = Sources { file: Some(missing), ..flags(&["log.format=xml"]) };
    let shown = faults(&sources);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.concat().starts_with("configuration file `/no/such/dstl.toml` is not readable: "), "{shown:?}");
}

#[test]
fn rules_between_options_quote_both_sides() {
    let mut sources = file("state.changelog.dstl.dfs.batch.persist-size-threshold = '300 mb'\n");
    let max_in_flight = "state.changelog.dstl.dfs.upload.max-in-flight=256 MiB";
    sources.flags = flags(&[max_in_flight, "rpc.tcp.address=0.0.0.0:9322", "rpc.tcp.insecure=true"]).flags;
    let expected = [
        "a batch of uploads must fit the budget of changes that are not yet durable; \
         `state.changelog.dstl.dfs.batch.persist-size-threshold` is `300 mb` (dstl.toml:1), \
         `state.changelog.dstl.dfs.upload.max-in-flight` is `256 MiB` (flag --set)",
        "TCP without TLS is allowed only on a loopback address; `rpc.tcp.address` is `0.0.0.0:9322` (flag --set), \
         `rpc.tcp.insecure` is `true` (flag --set)",
    ];
    assert_eq!(faults(&sources), expected);
}

#[test]
fn each_rule_is_enforced() {
    let prefix = "state.changelog.dstl.dfs";
    for broken in [
        &[format!("{prefix}.preemptive-persist-threshold=257 mb"), format!("{prefix}.upload.max-in-flight=256 mb")][..],
        &["rpc.max-message-size=129 mb".into(), format!("{prefix}.upload.max-in-flight=256 mb")],
        &[format!("{prefix}.upload.next-attempt-delay=6 s")],
        &[format!("{prefix}.upload.timeout=11 min")],
        &["gc.grace-period=1 min".into()],
        &["gc.interval=999 ms".into()],
        &["memory.state=1 mb".into()],
        &["memory.rocksdb=1 mb".into()],
        &["memory.budget=32 mb".into()],
        &["rpc.max-value-size=4 mb".into()],
        &["rpc.max-key-size=1 mb".into()],
        &[format!("rpc.socket=/{}", "x".repeat(107))],
        &["rpc.tcp.address=127.0.0.1:9322".into()],
        &["rpc.tcp.insecure=true".into(), "rpc.tcp.cert=/c".into()],
        &["rpc.tcp.address=127.0.0.1:9321".into(), "rpc.tcp.insecure=true".into()],
    ] {
        let arguments: Vec<_> = broken.iter().map(String::as_str).collect();
        let shown = faults(&flags(&arguments));
        assert_eq!(shown.len(), 1, "{broken:?}: {shown:?}");
    }
}

#[test]
fn a_faulty_value_is_not_judged_by_rules() {
    let shown = faults(&flags(&["gc.grace-period=soon", "execution.checkpointing.timeout=2 h"]));
    assert_eq!(shown.len(), 1, "{shown:?}");
}

#[test]
fn tcp_with_certificates_is_mutual_tls() {
    let lines =
        ["address=0.0.0.0:9322", "cert=/c.pem", "key=/k.pem", "client-ca=/ca.pem"].map(|it| format!("rpc.tcp.{it}"));
    let config = resolve(&flags(&lines.each_ref().map(String::as_str))).expect("certificates are complete");
    let tls = config.listener.tcp.expect("TCP is on").tls.expect("it has certificates");
    assert_eq!([tls.certificate, tls.key, tls.client_ca], ["/c.pem", "/k.pem", "/ca.pem"].map(PathBuf::from));
}

#[test]
fn values_may_be_toml_of_their_own_type() {
    let config = resolve(&file(
        "rpc.allowed-uids = [1000, 1001]\nrpc.socket-mode = 0o660\nmemory.state = 2_000_000_000\n\
         [state.changelog]\nenabled = false\n[state.changelog.dstl.dfs]\ncompression = \"zstd\"\n",
    ))
    .expect("all are valid");
    assert_eq!((config.listener.allowed_uids, config.listener.socket_mode.bits()), (Some(vec![1000, 1001]), 0o660));
    assert_eq!(config.backend.state_memory, 2_000_000_000);
    assert_eq!((config.backend.changelog, config.changelog.upload.compression), (false, Compression::Zstd));
}

#[test]
fn a_percentage_needs_a_machine_that_tells_its_memory() {
    let silent = Host { memory_bytes: None, ..root() };
    let faults = Config::resolve(&Sources::default(), &silent).expect_err("a half of unknown is unknown");
    assert!(faults.to_string().contains("`memory.budget` is `80%` (the default)"), "{faults}");
    assert!(Config::resolve(&flags(&["memory.budget=1 GiB"]), &silent).is_ok());
}

#[test]
fn variables_that_kubernetes_injects_are_ignored() {
    let injected = ["DSTL_SERVICE_HOST", "DSTL_ADMIN_SERVICE_PORT_HTTP", "DSTL_PORT", "DSTL_PORT_9321_TCP_ADDR"];
    assert!(resolve(&environment(&injected.map(|name| (name, "tcp://10.0.0.1:9321")))).is_ok());
}

fn dstl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
    command.args(arguments).env_clear().output().expect("the binary starts")
}

#[test]
fn a_bad_command_line_exits_with_64() {
    for arguments in [&["no-such-command"][..], &[], &["config"], &["config", "check", "--no-such-flag"]] {
        let output = dstl(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["config", "--help"], &["config", "check", "--help"]] {
        let output = dstl(arguments);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}

#[test]
fn a_configuration_is_checked_from_the_command_line() {
    let valid = dstl(&["config", "check", "--set", "memory.budget=1g"]);
    assert_eq!((valid.status.code(), valid.stdout.as_slice()), (Some(0), &b"configuration is valid\n"[..]));
    let faulty =
        dstl(&["config", "check", "--admin", "nowhere", "--set", "log.format=xml", "--set", "memory.budget=1g"]);
    assert_eq!((faulty.status.code(), faulty.stdout.len()), (Some(64), 0));
    let shown = String::from_utf8(faulty.stderr).expect("faults are text");
    assert!(shown.starts_with("dstl: the configuration has 2 faults:\n"), "{shown}");
    assert!(shown.contains("`admin.address` is `nowhere` (flag --admin)"), "{shown}");
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let mut command = Command::new("sh");
    let script = format!(
        "{} config options | true; {} config example | head -1",
        env!("CARGO_BIN_EXE_dstl"),
        env!("CARGO_BIN_EXE_dstl")
    );
    let output = command.args(["-c", &script]).output().expect("sh starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_options_are_listed_as_json() {
    let output = dstl(&["config", "options", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the output is JSON");
    let rows = rows.as_array().expect("the output is an array");
    assert_eq!(rows.len(), option_rows().len());
    let delay =
        rows.iter().find(|row| row["key"] == "state.changelog.dstl.dfs.batch.persist-delay").expect("it is listed");
    assert_eq!((delay["type"].as_str(), delay["default"].as_str()), (Some("duration"), Some("10 ms")));
}

fn flink(name: &str) -> String {
    format!("{}/tests/fixtures/flink/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What `dstl config translate` makes of a fixture: the settings, the whole file, and what it said.
fn translated(name: &str) -> (Vec<String>, String, String) {
    let output = dstl(&["config", "translate", &flink(name)]);
    let said = String::from_utf8(output.stderr).expect("remarks are text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    let toml = String::from_utf8(output.stdout).expect("TOML is text");
    let settings = toml.lines().filter(|it| !it.is_empty() && !it.starts_with('#')).map(Into::into).collect();
    (settings, toml, said)
}

#[test]
fn a_flat_flink_configuration_is_translated() {
    let (settings, toml, said) = translated("flink-conf.yaml");
    let expected = [
        "state.backend.type = \"rocksdb\"",
        "execution.state-recovery.from-local = true",
        "execution.checkpointing.data-inline-threshold = \"20 KiB\"",
        "state.changelog.dstl.dfs.base-path = \"s3://bucket/changelog\"",
        "execution.checkpointing.num-retained = 2",
        "execution.state-recovery.claim-mode = \"CLAIM\"",
        "state.changelog.dstl.dfs.store-options.aws_endpoint = \"http://127.0.0.1:9000\"",
        "state.changelog.dstl.dfs.store-options.aws_virtual_hosted_style_request = \"false\"",
        "state.changelog.enabled = true",
        "state.changelog.periodic-materialize.interval = \"5m\"",
        "state.changelog.dstl.dfs.upload.timeout = \"1s\"",
    ];
    assert_eq!(settings, expected, "{toml}");
    assert!(toml.contains("# dstl.dfs.upload.timeout: 1 s (line 26)\n#     Changed in meaning: "), "{toml}");
    assert!(toml.contains("# state.savepoints.dir: s3://bucket/savepoints (line 12)\n#     Left out: "), "{toml}");
    assert!(!toml.contains("not-to-be-seen"), "{toml}");
    let counts = "dstl: 24 settings of Flink: 0 taken over, 8 renamed, 3 changed in meaning, 10 left out, 0 unknown, 3 unrelated";
    assert!(said.starts_with(counts), "{said}");
    assert!(said.contains("unrelated to state: `jobmanager.rpc.address`, `taskmanager.numberOfTaskSlots`, "), "{said}");
}

#[test]
fn a_nested_flink_configuration_is_translated() {
    let (settings, toml, said) = translated("config.yaml");
    let expected = [
        "state.changelog.dstl.dfs.base-path = \"file:///var/lib/flink/checkpoints\"",
        "execution.checkpointing.num-retained = 5",
        "execution.checkpointing.timeout = \"2h\"",
        "execution.state-recovery.claim-mode = \"NO_CLAIM\"",
        "state.backend.type = \"rocksdb\"",
        "state.backend.rocksdb.localdir = [\"/mnt/a\", \"/mnt/b\"]",
        "state.backend.rocksdb.predefined-options = \"FLASH_SSD_OPTIMIZED\"",
        "memory.rocksdb = \"64 MiB\"",
        "state.backend.rocksdb.memory.write-buffer-ratio = 0.4",
        "state.backend.rocksdb.timer-service.factory = \"HEAP\"",
        "state.backend.rocksdb.options.write_buffer_size = \"33554432\"",
        "state.backend.rocksdb.options.block_based_table_factory = \"{block_size=16384}\"",
        "state.backend.rocksdb.options.compaction_style = \"kCompactionStyleLevel\"",
        "state.backend.rocksdb.metrics = [\"estimate-num-keys\", \"num-running-flushes\"]",
        "state.changelog.enabled = true",
        "state.changelog.dstl.dfs.compression = \"lz4\"",
        "state.changelog.dstl.dfs.upload.timeout = \"1s\"",
        "state.changelog.dstl.dfs.upload.max-in-flight = \"100 MiB\"",
        "gc.grace-period = \"2h\"",
    ];
    assert_eq!(settings, expected, "{toml}");
    assert!(said.contains("1 unknown, 3 unrelated to state\n  unknown: `state.changelog.misspelt`\n"), "{said}");
}

#[test]
fn what_was_translated_is_valid() {
    for name in ["flink-conf.yaml", "config.yaml"] {
        let (_, toml, _) = translated(name);
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let path = folder.path().join("dstl.toml");
        std::fs::write(&path, &toml).expect("the folder is ours");
        let output = dstl(&["serve", "--check-config", "--config", path.to_str().expect("the path is text")]);
        assert_eq!(output.status.code(), Some(0), "{}\n{toml}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_is_no_flink_configuration_exits_with_64() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let written = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.to_str().expect("the path is text").to_owned()
    };
    let files = ["/no/such/flink-conf.yaml".to_owned(), written("list", b"- a\n"), written("binary", b"a: \xff\xfe\n")];
    for file in files {
        let output = dstl(&["config", "translate", &file]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{file}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with(&format!("dstl: `{file}` is not a configuration of Flink: ")), "{said}");
    }
}
