"""PyFlink on dstl: `DstlStateBackend`, and a counterpart for each of PyFlink's state backends, of old versions too.

Needs PyFlink (`apache-flink`, the version of the jar) and the jar of `clients/flink`, in PyFlink's `lib` folder or added by `pipeline.jars`.

```python
from dstl.pyflink import DstlStateBackend, set_state_backend

backend = DstlStateBackend("file:///var/checkpoints").set_socket("/run/dstl/dstl.sock")
set_state_backend(env, backend)                         # a StreamExecutionEnvironment or TableEnvironment
print(";\n".join(backend.to_sql()) + ";")                # the same for Flink's SQL client and SQL gateway
```

Flink 2 takes state backends by configuration alone (`env.set_state_backend` was removed), so a backend here is a set of options of Flink, which
its getters read and its setters check and change. `clients/python/docs/pyflink.md` has the table of names, arguments, defaults and checks.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

try:
    from pyflink.datastream.state_backend import PredefinedOptions, StateBackend
except ImportError as error:  # pragma: no cover
    raise ImportError("dstl.pyflink needs PyFlink: pip install apache-flink, in the version of dstl's jar") from error

__all__ = [
    "CustomStateBackend",
    "DstlStateBackend",
    "EmbeddedRocksDBStateBackend",
    "FsStateBackend",
    "HashMapStateBackend",
    "MemoryStateBackend",
    "PredefinedOptions",
    "RocksDBStateBackend",
    "StateBackend",
    "set_state_backend",
]

FACTORY = "io.dstl.flink.DstlStateBackendFactory"
_MIB = 1 << 20
_DSTL = "state.backend.dstl."
_THRESHOLD = "execution.checkpointing.data-inline-threshold"
_WRITE_BUFFER = "execution.checkpointing.write-buffer-size"
_DIRECTORY = "execution.checkpointing.dir"
_SAVEPOINTS = "execution.checkpointing.savepoint-dir"


def _check_int(name: str, value: Any, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected int for {name!r}, got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name!r} is {value}: it must be {limits}")
    return value


def _bytes(size: str) -> int:
    """A size as Flink writes it."""
    found = re.fullmatch(r"\s*(\d+)\s*(b|bytes|k|kb|kibibytes|m|mb|mebibytes)?\s*", size.lower())
    if found is None:
        raise ValueError(f"size {size!r}: use a number with `b`, `kb` or `mb`")
    return int(found.group(1)) << {"k": 10, "m": 20}.get((found.group(2) or "b")[0], 0)


def _check_flag(name: str, value: Any) -> bool | None:
    if value not in (None, True, False):
        raise TypeError(f"unsupported input for {name!r}: {value!r}; it must be None, True or False")
    return None if value is None else bool(value)


class DstlStateBackend(StateBackend):  # type: ignore[misc]
    """Keyed state in a dstl daemon beside each TaskManager; a checkpoint is a position in the daemon's changelog.

    `checkpoint_directory_uri` is where Flink keeps the metadata of checkpoints (`execution.checkpointing.dir`), `None` as Flink is configured.
    `options` are further options of Flink or of the backend, by their keys.
    """

    INNER: ClassVar[str | None] = None

    def __init__(self, checkpoint_directory_uri: str | None = None, *, options: Mapping[str, str] | None = None) -> None:
        # Not the base's initializer: it sets the backend of Java, which is made here when it is asked for.
        self._java: Any = None
        self._options: dict[str, str] = {"state.backend.type": FACTORY, "state.changelog.enabled": "false"}
        if self.INNER is not None:
            self.set_inner(self.INNER)
        if checkpoint_directory_uri is not None:
            self.set_option(_DIRECTORY, checkpoint_directory_uri)
        for key, value in (options or {}).items():
            self.set_option(key, value)

    # All options.

    @property
    def options(self) -> dict[str, str]:
        """The options of Flink that make this backend, by key."""
        return dict(self._options)

    def set_option(self, key: str, value: str) -> DstlStateBackend:
        """Sets any option of Flink or of the backend."""
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"option {key!r}: keys and values are text")
        if key == "state.backend.type" and value != FACTORY:
            raise ValueError(f"`state.backend.type: {value}` is another state backend")
        if key == "state.changelog.enabled" and value.lower() != "false":
            raise ValueError("`state.changelog.enabled` puts Flink's changelog around dstl, which is a changelog itself: leave it false")
        self._options[key] = value
        self._java = None
        return self

    def get_option(self, key: str, default: str | None = None) -> str | None:
        """An option, if it is set."""
        return self._options.get(key, default)

    def to_configuration(self, configuration: Any = None) -> Any:
        """Sets the options in a `pyflink.common.Configuration` (a new one by default), and returns it."""
        if configuration is None:
            from pyflink.common import Configuration

            configuration = Configuration()
        for key, value in self._options.items():
            configuration.set_string(key, value)
        return configuration

    def to_sql(self) -> list[str]:
        """The statements that set the options in Flink's SQL client or gateway; `TableEnvironment.execute_sql` takes no `SET`."""
        quoted = [(key.replace("'", "''"), value.replace("'", "''")) for key, value in self._options.items()]
        return [f"SET '{key}' = '{value}'" for key, value in quoted]

    @property
    def java_state_backend(self) -> Any:
        """The backend as Flink's Java classes have it. Needs the jar on the class path of PyFlink's JVM."""
        if self._java is None:
            from pyflink.util.java_utils import load_java_class

            factory = load_java_class(FACTORY).newInstance()
            configuration = self.to_configuration()._j_configuration
            self._java = factory.createFromConfig(configuration, factory.getClass().getClassLoader())
        return self._java

    @property
    def _j_state_backend(self) -> Any:
        """By this name PyFlink's own code asks a state backend for it."""
        return self.java_state_backend

    # The daemon.

    def set_socket(self, path: str) -> DstlStateBackend:
        """The Unix socket of the daemon beside the TaskManager; default: the daemon's own."""
        return self.set_option(_DSTL + "socket", path)

    def get_socket(self) -> str | None:
        """The socket, if it is set."""
        return self.get_option(_DSTL + "socket")

    def set_inner(self, inner: str) -> DstlStateBackend:
        """Where the daemon keeps state: `hashmap`, `rocksdb`, or `daemon` (as it is configured; default)."""
        if inner not in ("hashmap", "rocksdb", "daemon"):
            raise ValueError(f"inner backend {inner!r}: it must be 'hashmap', 'rocksdb' or 'daemon'")
        return self.set_option(_DSTL + "inner", inner)

    def get_inner(self) -> str:
        """Where the daemon keeps state."""
        return self._options.get(_DSTL + "inner", "daemon").lower()

    def set_cache_size(self, size: str) -> DstlStateBackend:
        """Most heap of one subtask's cache, as `64 mb`; default 32 MiB."""
        return self.set_option(_DSTL + "cache.size", size)

    def get_cache_size(self) -> str:
        """Most heap of one subtask's cache."""
        return self._options.get(_DSTL + "cache.size", "32 mb")

    def set_job_name(self, name: str) -> DstlStateBackend:
        """The name of the job in the daemon's store: up to 100 ASCII letters, digits, `-`, `_`, `.`."""
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) or name in (".", ".."):
            raise ValueError(f"job name {name!r}: use 1 to 100 ASCII letters, digits, `-`, `_`, `.`")
        return self.set_option(_DSTL + "job-name", name)

    def get_job_name(self) -> str | None:
        """The name of the job, if it is set."""
        return self.get_option(_DSTL + "job-name")

    # Checkpoints.

    def get_checkpoint_path(self) -> str | None:
        """Where Flink keeps metadata of checkpoints, if it is set."""
        return self.get_option(_DIRECTORY)

    def get_savepoint_path(self) -> str | None:
        """Flink's directory of savepoints, if it is set. dstl makes no savepoints yet."""
        return self.get_option(_SAVEPOINTS)

    def set_min_file_size_threshold(self, threshold: int) -> DstlStateBackend:
        """State below this size is in the metadata of a checkpoint: -1 (as configured) to 1 MiB."""
        value = _check_int("file_state_size_threshold", threshold, -1, _MIB)
        return self._set_or_leave(_THRESHOLD, value, -1)

    def get_min_file_size_threshold(self) -> int:
        """The threshold; Flink's default is 20 KiB."""
        return _bytes(self._options.get(_THRESHOLD, "20 kb"))

    def set_write_buffer_size(self, size: int) -> DstlStateBackend:
        """The buffer of Flink's own checkpoint streams: -1 (as configured) or more."""
        return self._set_or_leave(_WRITE_BUFFER, _check_int("write_buffer_size", size, -1), -1)

    def get_write_buffer_size(self) -> int:
        """The buffer, at least the threshold, as Flink has it; its default is 4 KiB."""
        return max(_bytes(self._options.get(_WRITE_BUFFER, "4096")), self.get_min_file_size_threshold())

    def is_using_asynchronous_snapshots(self) -> bool:
        """Always true: checkpoints are asynchronous."""
        return True

    def is_incremental_checkpoints_enabled(self) -> bool:
        """Always true: a checkpoint is what changed since the one before."""
        return True

    def _set_or_leave(self, key: str, value: int, unset: int) -> DstlStateBackend:
        if value == unset:
            self._options.pop(key, None)
            self._java = None
            return self
        return self.set_option(key, f"{value} b" if key == _THRESHOLD else str(value))

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}: {value}' for key, value in self._options.items())})"


class HashMapStateBackend(DstlStateBackend):
    """In place of Flink's of this name: the daemon keeps state in memory."""

    INNER = "hashmap"

    def __init__(self, j_hashmap_state_backend: Any = None) -> None:
        _refuse_java("j_hashmap_state_backend", j_hashmap_state_backend)
        super().__init__()


class MemoryStateBackend(DstlStateBackend):
    """In place of PyFlink 1's of this name: the daemon keeps state in memory, and checkpoints are durable all the same."""

    INNER = "hashmap"
    DEFAULT_MAX_STATE_SIZE = 5 * _MIB

    def __init__(
        self,
        checkpoint_path: str | None = None,
        savepoint_path: str | None = None,
        max_state_size: int | None = None,
        using_asynchronous_snapshots: bool | None = None,
        j_memory_state_backend: Any = None,
    ) -> None:
        _refuse_java("j_memory_state_backend", j_memory_state_backend)
        _warn_synchronous(_check_flag("using_asynchronous_snapshots", using_asynchronous_snapshots))
        super().__init__(checkpoint_path)
        if savepoint_path is not None:
            self.set_option(_SAVEPOINTS, savepoint_path)
        size = self.DEFAULT_MAX_STATE_SIZE if max_state_size is None else max_state_size
        self._max_state_size = _check_int("max_state_size", size, 1)

    def get_max_state_size(self) -> int:
        """As it was given. dstl has no such limit: state need not pass through the JobManager."""
        return self._max_state_size


class FsStateBackend(DstlStateBackend):
    """In place of PyFlink 1's of this name: the daemon keeps state in memory, and writes checkpoints to its store."""

    INNER = "hashmap"

    def __init__(
        self,
        checkpoint_directory_uri: str | None = None,
        default_savepoint_directory_uri: str | None = None,
        file_state_size_threshold: int | None = None,
        write_buffer_size: int | None = None,
        using_asynchronous_snapshots: bool | None = None,
        j_fs_state_backend: Any = None,
    ) -> None:
        _refuse_java("j_fs_state_backend", j_fs_state_backend)
        if checkpoint_directory_uri is None:
            raise ValueError("The parameter 'checkpoint_directory_uri' is required!")
        _warn_synchronous(_check_flag("using_asynchronous_snapshots", using_asynchronous_snapshots))
        super().__init__(checkpoint_directory_uri)
        if default_savepoint_directory_uri is not None:
            self.set_option(_SAVEPOINTS, default_savepoint_directory_uri)
        self.set_min_file_size_threshold(-1 if file_state_size_threshold is None else file_state_size_threshold)
        self.set_write_buffer_size(-1 if write_buffer_size is None else write_buffer_size)


class EmbeddedRocksDBStateBackend(DstlStateBackend):
    """In place of Flink's of this name: the daemon keeps state in RocksDB.

    RocksDB runs in the daemon, so that its settings are options of the daemon. What is set here is kept and checked as Flink does, and
    `daemon_settings` has it as arguments of `dstl serve`.
    """

    INNER = "rocksdb"

    def __init__(self, enable_incremental_checkpointing: bool | None = None, j_embedded_rocks_db_state_backend: Any = None) -> None:
        _refuse_java("j_embedded_rocks_db_state_backend", j_embedded_rocks_db_state_backend)
        if _check_flag("enable_incremental_checkpointing", enable_incremental_checkpointing) is False:
            warnings.warn("checkpoints of dstl are always incremental", stacklevel=2)
        super().__init__()
        self._paths: list[str] | None = None
        self._predefined = PredefinedOptions.DEFAULT
        self._threads = 4
        self._write_batch_size = 2 * _MIB

    def set_db_storage_paths(self, *paths: str | None) -> None:
        """The directories of RocksDB's files on the daemon's host; none, or `None`: as the daemon is configured."""
        if paths == (None,):
            paths = ()
        for path in paths:
            if not isinstance(path, str):
                raise TypeError(f"expected str as a path, got {type(path).__name__}")
            if not path.removeprefix("file://").startswith("/"):
                raise ValueError(f"path {path!r}: relative paths and other file systems are not supported")
        self._paths = [path.removeprefix("file://") for path in paths] or None

    def get_db_storage_paths(self) -> list[str] | None:
        """The directories, if they are set."""
        return None if self._paths is None else list(self._paths)

    def set_predefined_options(self, options: PredefinedOptions) -> None:
        """One of Flink's profiles."""
        if not isinstance(options, PredefinedOptions):
            raise TypeError(f"expected PredefinedOptions, got {type(options).__name__}")
        self._predefined = options

    def get_predefined_options(self) -> PredefinedOptions:
        """The profile; `DEFAULT` if none was set."""
        return self._predefined

    def set_options(self, options_factory_class_name: str) -> None:
        """Always refused: a factory in Java cannot set options of a RocksDB in another process."""
        raise ValueError(
            f"options factory {options_factory_class_name!r}: RocksDB runs in the daemon; set single options by their names in its "
            "configuration, in the table `state.backend.rocksdb.options`"
        )

    def get_options(self) -> str | None:
        """Always `None`: there are no factories."""
        return None

    def get_number_of_transfer_threads(self) -> int:
        """As it was given; Flink's default is 4. The daemon transfers as its own options say."""
        return self._threads

    def set_number_of_transfer_threads(self, number_of_transfering_threads: int) -> None:
        """At least 1."""
        self._threads = _check_int("number_of_transfer_threads", number_of_transfering_threads, 1)

    # The spelling of PyFlink 1.
    get_number_of_transfering_threads = get_number_of_transfer_threads
    set_number_of_transfering_threads = set_number_of_transfer_threads

    def get_write_batch_size(self) -> int:
        """As it was given; Flink's default is 2 MiB. Batches of the Flink backend have 256 KiB or 2,000 entries, whatever this says."""
        return self._write_batch_size

    def set_write_batch_size(self, write_batch_size: int) -> None:
        """At least 0, as Flink checks it."""
        self._write_batch_size = _check_int("write_batch_size", write_batch_size, 0)

    def is_ttl_compaction_filter_enabled(self) -> bool:
        """Whether the daemon removes what Flink's TTL has expired; RocksDB's compactions do that there."""
        return self._options.get(_DSTL + "ttl-cleanup", "true") == "true"

    def set_ttl_compaction_filter_enabled(self, enabled: bool) -> None:
        """Switches it."""
        if not isinstance(enabled, bool):
            raise TypeError(f"expected bool, got {type(enabled).__name__}")
        self.set_option(_DSTL + "ttl-cleanup", "true" if enabled else "false")

    def daemon_settings(self) -> list[str]:
        """What was set of RocksDB, as arguments of `dstl serve` (`--set KEY=VALUE`)."""
        settings = []
        if self._predefined is not PredefinedOptions.DEFAULT:
            settings.append(f"state.backend.rocksdb.predefined-options={self._predefined.name}")
        if self._paths:
            settings.append(f"state.backend.rocksdb.localdir={json.dumps(self._paths)}")
        return [word for setting in settings for word in ("--set", setting)]


class RocksDBStateBackend(EmbeddedRocksDBStateBackend):
    """In place of PyFlink 1's of this name."""

    def __init__(
        self,
        checkpoint_data_uri: str | None = None,
        enable_incremental_checkpointing: bool | None = None,
        checkpoint_stream_backend: DstlStateBackend | None = None,
        j_rocks_db_state_backend: Any = None,
    ) -> None:
        _refuse_java("j_rocks_db_state_backend", j_rocks_db_state_backend)
        super().__init__(enable_incremental_checkpointing)
        if checkpoint_data_uri is not None:
            self.set_option(_DIRECTORY, checkpoint_data_uri)
        elif isinstance(checkpoint_stream_backend, DstlStateBackend):
            for key in (_DIRECTORY, _SAVEPOINTS, _THRESHOLD, _WRITE_BUFFER):
                value = checkpoint_stream_backend.get_option(key)
                if value is not None:
                    self.set_option(key, value)
        elif checkpoint_stream_backend is not None:
            raise TypeError(f"expected a state backend of dstl.pyflink, got {type(checkpoint_stream_backend).__name__}")
        self._checkpoint_backend = checkpoint_stream_backend

    def get_checkpoint_backend(self) -> DstlStateBackend:
        """What keeps the metadata of checkpoints: the backend that was given, else this one."""
        return self._checkpoint_backend or self


class CustomStateBackend(DstlStateBackend):
    """In place of Flink's of this name, whose argument is a state backend of Java: only that of dstl is one here."""

    def __init__(self, j_custom_state_backend: Any) -> None:
        from pyflink.util.java_utils import get_field_value

        name = j_custom_state_backend.getClass().getName()
        if name != "io.dstl.flink.DstlStateBackend":
            raise TypeError(f"{name} is not the state backend of dstl")
        # What it was configured with, so that an environment gets all of it.
        super().__init__(options=dict(get_field_value(j_custom_state_backend, "options").toMap()))
        self._java = j_custom_state_backend


def set_state_backend(environment: Any, backend: DstlStateBackend) -> Any:
    """Sets the backend in a `StreamExecutionEnvironment` or `TableEnvironment`, and returns the environment."""
    if not isinstance(backend, DstlStateBackend):
        raise TypeError(f"expected a state backend of dstl.pyflink, got {type(backend).__name__}")
    if hasattr(environment, "get_config") and hasattr(environment, "execute_sql"):
        for key, value in backend.options.items():
            environment.get_config().set(key, value)
    else:
        environment.configure(backend.to_configuration())
    return environment


def _refuse_java(name: str, value: Any) -> None:
    if value is not None:
        raise TypeError(f"{name!r} is a state backend of Flink's own, not of dstl: leave it out")


def _warn_synchronous(asynchronous: bool | None) -> None:
    if asynchronous is False:
        warnings.warn("snapshots are always asynchronous", stacklevel=3)
