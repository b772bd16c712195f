"""`dstl.pyflink` with the real PyFlink, and a job on a daemon. `$DSTL_FLINK_JAR` names the jar of `clients/flink`."""

import inspect

import pytest
from pyflink.datastream import state_backend as flinks

import dstl
from dstl import pyflink
from dstl.pyflink import PredefinedOptions
from dstl.testing import Daemon


def test_defaults_are_those_of_the_counterparts():
    plain = pyflink.DstlStateBackend()
    assert plain.options == {"state.backend.type": pyflink.FACTORY, "state.changelog.enabled": "false"}
    assert (plain.get_inner(), plain.get_cache_size(), plain.get_socket(), plain.get_checkpoint_path()) == ("daemon", "32 mb", None, None)
    memory = pyflink.MemoryStateBackend()
    assert (memory.get_max_state_size(), memory.is_using_asynchronous_snapshots(), memory.get_inner()) == (5 << 20, True, "hashmap")
    files = pyflink.FsStateBackend("file:///c")
    assert (files.get_checkpoint_path(), files.get_min_file_size_threshold(), files.get_write_buffer_size()) == ("file:///c", 20 << 10, 20 << 10)
    assert pyflink.HashMapStateBackend().get_inner() == "hashmap"
    for rocks in (pyflink.EmbeddedRocksDBStateBackend(), pyflink.RocksDBStateBackend("file:///c")):
        assert (rocks.get_inner(), rocks.get_number_of_transfer_threads(), rocks.get_write_batch_size()) == ("rocksdb", 4, 2 << 20)
        assert rocks.get_predefined_options() is PredefinedOptions.DEFAULT
        assert (rocks.get_db_storage_paths(), rocks.get_options(), rocks.daemon_settings()) == (None, None, [])
        assert rocks.is_ttl_compaction_filter_enabled() and rocks.is_incremental_checkpoints_enabled()


def test_what_is_set_is_got():
    files = pyflink.FsStateBackend("file:///c", "file:///s", 2048, 4096, True)
    assert (files.get_savepoint_path(), files.get_min_file_size_threshold(), files.get_write_buffer_size()) == ("file:///s", 2048, 4096)
    rocks = pyflink.RocksDBStateBackend(checkpoint_stream_backend=files, enable_incremental_checkpointing=True)
    assert rocks.get_checkpoint_backend() is files and rocks.get_checkpoint_path() == "file:///c"
    rocks.set_db_storage_paths("/d1", "file:///d2")
    rocks.set_predefined_options(PredefinedOptions.FLASH_SSD_OPTIMIZED)
    rocks.set_number_of_transfering_threads(8)
    rocks.set_write_batch_size(0)
    rocks.set_ttl_compaction_filter_enabled(False)
    assert (rocks.get_db_storage_paths(), rocks.get_number_of_transfering_threads(), rocks.get_write_batch_size()) == (["/d1", "/d2"], 8, 0)
    assert rocks.daemon_settings() == [
        "--set", "state.backend.rocksdb.predefined-options=FLASH_SSD_OPTIMIZED",
        "--set", 'state.backend.rocksdb.localdir=["/d1", "/d2"]',
    ]
    rocks.set_db_storage_paths()
    assert rocks.get_db_storage_paths() is None
    rocks.set_db_storage_paths("/d1")
    rocks.set_db_storage_paths(None)
    assert rocks.get_db_storage_paths() is None and not rocks.is_ttl_compaction_filter_enabled()
    assert "SET 'state.backend.dstl.inner' = 'rocksdb'" in rocks.to_sql()


@pytest.mark.parametrize("threshold", [-2, (1 << 20) + 1])
def test_a_threshold_is_between_minus_one_and_one_mebibyte(threshold):
    with pytest.raises(ValueError, match="between -1 and 1048576"):
        pyflink.FsStateBackend("file:///c", file_state_size_threshold=threshold)
    for fine in (-1, 0, 1 << 20):
        pyflink.FsStateBackend("file:///c", file_state_size_threshold=fine)


def test_bad_input_is_refused_as_the_counterparts_do():
    rocks = pyflink.EmbeddedRocksDBStateBackend()
    for call in (
        lambda: pyflink.FsStateBackend(),
        lambda: pyflink.FsStateBackend("c", write_buffer_size=-2),
        lambda: pyflink.MemoryStateBackend(max_state_size=0),
        lambda: rocks.set_number_of_transfer_threads(0),
        lambda: rocks.set_write_batch_size(-1),
        lambda: rocks.set_options("com.example.Factory"),
        lambda: rocks.set_db_storage_paths("relative"),
        lambda: rocks.set_inner("forst"),
        lambda: rocks.set_job_name("a/b"),
        lambda: rocks.set_option("state.changelog.enabled", "true"),
        lambda: rocks.set_option("state.backend.type", "hashmap"),
    ):
        with pytest.raises(ValueError):
            call()
    for call in (
        lambda: pyflink.FsStateBackend("c", using_asynchronous_snapshots="yes"),
        lambda: pyflink.EmbeddedRocksDBStateBackend("yes"),
        lambda: rocks.set_predefined_options("DEFAULT"),
        lambda: rocks.set_number_of_transfer_threads("4"),
        lambda: pyflink.RocksDBStateBackend(checkpoint_stream_backend="x"),
        lambda: pyflink.HashMapStateBackend(object()),
        lambda: pyflink.set_state_backend(None, "hashmap"),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (lambda: pyflink.MemoryStateBackend(using_asynchronous_snapshots=False), lambda: pyflink.RocksDBStateBackend("c", False)):
        with pytest.warns(UserWarning):
            call()


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def public_methods(of):
    return {name: member for name, member in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["HashMapStateBackend", "EmbeddedRocksDBStateBackend", "CustomStateBackend"])
def test_each_class_of_this_pyflink_has_its_counterpart(name):
    theirs, ours = getattr(flinks, name), getattr(pyflink, name)
    assert issubclass(ours, flinks.StateBackend)
    assert parameters(ours.__init__) == parameters(theirs.__init__)
    for method, member in public_methods(theirs).items():
        assert parameters(getattr(ours, method)) == parameters(member), method
    assert name in pyflink.__all__ and pyflink.PredefinedOptions is flinks.PredefinedOptions


# Classes of PyFlink 1, which this PyFlink has no more: arguments, and methods with theirs.
OF_PYFLINK_1 = {
    "MemoryStateBackend": (
        ["checkpoint_path", "savepoint_path", "max_state_size", "using_asynchronous_snapshots", "j_memory_state_backend"],
        {"get_max_state_size": [], "is_using_asynchronous_snapshots": []},
    ),
    "FsStateBackend": (
        [
            "checkpoint_directory_uri", "default_savepoint_directory_uri", "file_state_size_threshold", "write_buffer_size",
            "using_asynchronous_snapshots", "j_fs_state_backend",
        ],
        {"get_checkpoint_path": [], "get_min_file_size_threshold": [], "is_using_asynchronous_snapshots": [], "get_write_buffer_size": []},
    ),
    "RocksDBStateBackend": (
        ["checkpoint_data_uri", "enable_incremental_checkpointing", "checkpoint_stream_backend", "j_rocks_db_state_backend"],
        {
            "get_checkpoint_backend": [], "set_db_storage_paths": ["paths"], "get_db_storage_paths": [],
            "is_incremental_checkpoints_enabled": [], "set_predefined_options": ["options"], "get_predefined_options": [],
            "set_options": ["options_factory_class_name"], "get_options": [], "get_number_of_transfering_threads": [],
            "set_number_of_transfering_threads": ["number_of_transfering_threads"],
        },
    ),
    "CustomStateBackend": (["j_custom_state_backend"], {}),
}


@pytest.mark.parametrize("name", OF_PYFLINK_1)
def test_each_class_of_pyflink_1_has_its_counterpart(name):
    arguments, methods = OF_PYFLINK_1[name]
    ours = getattr(pyflink, name)
    assert parameters(ours.__init__) == arguments
    assert {method: parameters(getattr(ours, method)) for method in methods} == methods
    assert pyflink.MemoryStateBackend.DEFAULT_MAX_STATE_SIZE == 5 * 1024 * 1024


def test_defaults_and_checks_are_those_of_flink_itself():
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    theirs, ours = flinks.EmbeddedRocksDBStateBackend(), pyflink.EmbeddedRocksDBStateBackend()
    assert theirs.get_number_of_transfer_threads() == ours.get_number_of_transfer_threads()
    assert theirs.get_predefined_options() is ours.get_predefined_options()
    assert theirs.get_options() is ours.get_options() is None
    assert theirs._j_state_backend.getWriteBatchSize() == ours.get_write_batch_size()
    assert theirs._j_state_backend.getDbStoragePaths() is ours.get_db_storage_paths() is None
    for call in (
        lambda backend: backend.set_number_of_transfer_threads(0),
        lambda backend: backend.set_db_storage_paths("relative"),
        lambda backend: backend.set_db_storage_paths("hdfs://host/path"),
    ):
        with pytest.raises((Py4JJavaError, ValueError)):
            call(theirs)
        with pytest.raises(ValueError):
            call(ours)
    for backend in (theirs, ours):
        with pytest.raises(TypeError, match="enable_incremental_checkpointing"):
            type(backend)("yes")
        backend.set_number_of_transfer_threads(1)
        backend.set_db_storage_paths("/a", "/b")
        backend.set_predefined_options(PredefinedOptions.SPINNING_DISK_OPTIMIZED)
        assert (backend.get_number_of_transfer_threads(), backend.get_db_storage_paths()) == (1, ["/a", "/b"])
        assert backend.get_predefined_options() is PredefinedOptions.SPINNING_DISK_OPTIMIZED
    options = get_gateway().jvm.org.apache.flink.configuration.CheckpointingOptions
    files = pyflink.FsStateBackend("file:///c", file_state_size_threshold=0)
    assert options.FS_WRITE_BUFFER_SIZE.defaultValue() == files.get_write_buffer_size()
    assert options.FS_SMALL_FILE_THRESHOLD.defaultValue().getBytes() == pyflink.FsStateBackend("file:///c").get_min_file_size_threshold()
    assert options.FS_SMALL_FILE_THRESHOLD.key() == pyflink._THRESHOLD and options.FS_WRITE_BUFFER_SIZE.key() == pyflink._WRITE_BUFFER
    assert options.CHECKPOINTS_DIRECTORY.key() == pyflink._DIRECTORY and options.SAVEPOINT_DIRECTORY.key() == pyflink._SAVEPOINTS


def test_a_configuration_and_an_environment_take_every_option():
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import EnvironmentSettings, TableEnvironment
    from pyflink.util.java_utils import get_j_env_configuration

    backend = pyflink.FsStateBackend("file:///c", "file:///s", 4096, 8192).set_socket("/run/x.sock").set_cache_size("1 mb")
    configuration = Configuration()
    assert backend.to_configuration(configuration) is configuration
    environment = pyflink.set_state_backend(StreamExecutionEnvironment.get_execution_environment(), backend)
    inside = get_j_env_configuration(environment._j_stream_execution_environment).toMap()
    table = pyflink.set_state_backend(TableEnvironment.create(EnvironmentSettings.in_streaming_mode()), backend)
    for key, value in backend.options.items():
        assert configuration.get_string(key, "") == inside[key] == table.get_config().get(key, "") == value


def test_flinks_parser_takes_the_statements_for_its_sql_client():
    from pyflink.table import EnvironmentSettings, TableEnvironment

    backend = pyflink.EmbeddedRocksDBStateBackend().set_socket("/run/it's.sock").set_job_name("a-b.c")
    parser = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())._j_tenv.getParser()
    found = {}
    for statement in backend.to_sql():
        (operation,) = parser.parse(statement)
        assert operation.getClass().getSimpleName() == "SetOperation"
        found[operation.getKey().get()] = operation.getValue().get()
    assert found == backend.options


def test_a_sql_job_keeps_its_state_in_the_daemon(jar, daemon, tmp_path):
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    backend = pyflink.EmbeddedRocksDBStateBackend().set_socket(daemon.socket).set_job_name("pyflink-sql")
    backend.set_option("execution.checkpointing.dir", f"file://{tmp_path}/checkpoints")
    configuration = Configuration()
    configuration.set_string("pipeline.jars", f"file://{jar}")
    configuration.set_string("execution.checkpointing.interval", "500 ms")
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    environment.set_parallelism(1)
    pyflink.set_state_backend(environment, backend)
    table = StreamTableEnvironment.create(environment)
    table.execute_sql(
        "CREATE TABLE numbers (n INT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',"
        " 'fields.n.end' = '400', 'rows-per-second' = '200')"
    )
    counts = {}
    with table.execute_sql("SELECT MOD(n, 7) AS k, COUNT(*) AS c FROM numbers GROUP BY MOD(n, 7)").collect() as rows:
        for row in rows:
            counts[row[0]] = row[1]
    assert counts == {k: sum(1 for n in range(1, 401) if n % 7 == k) for k in range(7)}
    with daemon.client() as client:
        described = client.describe_job("pyflink-sql")
    assert described.operators, "the job opened no backend"
    java = backend.java_state_backend
    assert java.getName() == "dstl"
    custom = pyflink.CustomStateBackend(java)
    assert custom.java_state_backend is custom._j_state_backend is java
    assert (custom.get_socket(), custom.get_inner(), custom.get_job_name()) == (daemon.socket, "rocksdb", "pyflink-sql")
    assert backend.set_cache_size("2 mb").java_state_backend is not java
    with pytest.raises(TypeError, match="HashMapStateBackend is not the state backend of dstl"):
        pyflink.CustomStateBackend(flinks.HashMapStateBackend()._j_state_backend)


def test_a_daemon_takes_what_was_set_of_its_rocksdb(tmp_path):
    rocks = pyflink.EmbeddedRocksDBStateBackend()
    rocks.set_predefined_options(PredefinedOptions.SPINNING_DISK_OPTIMIZED_HIGH_MEM)
    rocks.set_db_storage_paths(str(tmp_path / "one"), f"file://{tmp_path}/two")
    with Daemon(settings=rocks.daemon_settings()[1::2]) as daemon, daemon.client() as client:
        backends = [client.open(f"job-{number}", "op", attempt=1, inner=dstl.Inner.ROCKSDB) for number in range(6)]
        assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("MANIFEST-*")} == {"one", "two"}
        for backend in backends:
            backend.close()
