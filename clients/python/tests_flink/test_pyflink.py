"""`dstl.pyflink` with the real PyFlink, and a job on a daemon. `$DSTL_FLINK_JAR` names the jar of `clients/flink`."""

import os
import pathlib

import pytest

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


@pytest.fixture(scope="module")
def jar():
    jar = pathlib.Path(os.environ["DSTL_FLINK_JAR"]).resolve()
    assert jar.exists(), f"{jar} is missing: make flink-jar"
    return jar


def test_a_sql_job_keeps_its_state_in_the_daemon(jar, tmp_path):
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    limits = ['rpc.max-value-size="64 MiB"', 'rpc.max-message-size="64 MiB"']
    with Daemon(settings=limits) as daemon:
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
        assert pyflink.CustomStateBackend(java).java_state_backend is java
