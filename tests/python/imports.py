"""Savepoints made of Parquet files that other programs wrote, and what is refused instead."""

import itertools
import json
import pathlib
import re
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from support import LIST, MAP, Refused, descriptor, op, service_pb2, state_pb2
from world import scenario

KEYS = [b"key %d" % number for number in range(500)]
DESCRIPTORS = [
    descriptor("value"),
    descriptor("list", LIST),
    descriptor("map", MAP),
    descriptor("timer", state_pb2.STATE_KIND_TIMER),
]
ROOT = pathlib.Path(__file__).parents[2]


def dstl(world, store, *arguments, code=0):
    store.mkdir(parents=True, exist_ok=True)
    command = [world.binary, *map(str, arguments), "--store", str(store), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == code, ran
    return json.loads(ran.stdout) if code == 0 else ran.stderr


def sql(query):
    """Its rows. DuckDB's default connection is for one thread."""
    return duckdb.connect().sql(query).fetchall()


def rows():
    """The rows of five states for each of the keys, in an order that no savepoint has."""
    found = []
    for key in KEYS:
        found.append(dict(state="value", kind="value", key=key, value=key * 2))
        found.append(dict(state="list", kind="list", key=key, list_index=1, value=b"second"))
        found.append(dict(state="list", kind="list", key=key, list_index=0, value=b"first"))
        found.append(dict(state="map", kind="map", key=key, map_key=b"entry", value=key))
        found.append(dict(state="timer", kind="timer", key=key, time=len(key)))
    return found[::-1]


TYPES = dict(
    key_group=pa.int32(), subtask=pa.int32(), state=pa.string(), kind=pa.string(), key=pa.binary(), namespace=pa.binary(),
    map_key=pa.binary(), list_index=pa.int64(), value=pa.binary(), touched_ms=pa.int64(), time=pa.int64(),
)


def table(found, **types):
    """A table of these rows, with the columns that they have; `types` are other types than a savepoint's."""
    names = [name for name in TYPES if any(name in row for row in found)]
    columns = [pa.array([row.get(name) for row in found], types.get(name, TYPES[name])) for name in names]
    return pa.table(columns, names=names)


def restored(world, store, savepoint):
    """All keys as two subtasks have them that begin with the savepoint."""
    daemon = world.start(store=store)
    client, refs = world.client(daemon), []
    for subtask in range(2):
        restore = service_pb2.Restore(savepoint=savepoint)
        opened = client.open("begun", subtask=subtask, parallelism=2, restore=restore)
        refs.append((opened.backend, client.register(opened.backend, *DESCRIPTORS)))
    for key in KEYS:
        answers = []
        for ref, (value, elements, entries, _) in refs:
            try:
                reads = op("GET", value, key), op("LIST_GET", elements, key), op("MAP_GET", entries, key, map_key=b"entry")
                answers.append(client.read(ref, *reads))
            except Refused as error:
                assert error.reason == "REASON_WRONG_KEY_GROUP", error
        ((value, elements, entry),) = answers
        assert (value.value, list(elements.elements), entry.value) == (key * 2, [b"first", b"second"], key), key
    counts = [client.read(ref, op("TIMER_COUNT", states[3], b""))[0].count for ref, states in refs]
    assert sum(counts) == len(KEYS) and all(counts), counts


@scenario
def files_of_pyarrow_with_every_compression_become_one_savepoint(world):
    store, folder = world.folder / "store", world.folder / "files"
    folder.mkdir(parents=True)
    found, kinds = rows(), itertools.product(["none", "snappy", "gzip", "brotli", "zstd", "lz4"], ["1.0", "2.0"])
    kinds = list(kinds)
    size = len(found) // len(kinds) + 1
    for number, (compression, version) in enumerate(kinds):
        part = table(found[number * size : (number + 1) * size])
        pq.write_table(
            part, folder / f"{number}.parquet", compression=compression, data_page_version=version,
            use_dictionary=number % 3 > 0, row_group_size=50,
        )
    for savepoint, memory in ("roomy", "64MiB"), ("narrow", "20KiB"):
        made = dstl(world, store, "savepoint", "import", f"wc/savepoints/{savepoint}", f"op={folder}", "--memory", memory)
        assert made["rows"] == len(found), made
        dstl(world, store, "verify", made["savepoint"])
    files = [sql(f"from '{store}/wc/savepoints/{name}/op/*.parquet'") for name in ("roomy", "narrow")]
    assert files[0] == files[1] and len(files[0]) == len(found)
    assert [row[0] for row in files[0]] == sorted(row[0] for row in files[0])
    restored(world, store, "wc/savepoints/roomy")


@scenario
def types_that_pyarrow_and_duckdb_write_are_those_of_a_savepoint(world):
    store, folder = world.folder / "store", world.folder / "files"
    folder.mkdir(parents=True)
    found = [dict(row, key=row["key"].ljust(8)) for row in rows()]
    words = pa.dictionary(pa.int8(), pa.string())
    types = dict(state=words, kind=words, key=pa.binary(8), list_index=pa.uint16(), time=pa.timestamp("ms"))
    pq.write_table(table(found, **types), folder / "arrow.parquet")
    made = dstl(world, store, "savepoint", "import", "a/savepoints/arrow", f"op={folder}/arrow.parquet")
    # What DuckDB makes of the savepoint itself comes back as it was.
    source = f"{store}/a/savepoints/arrow/op/*.parquet"
    for codec in "uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4", "lz4_raw":
        target = folder / codec
        duckdb.connect().sql(f"copy (from '{source}' order by hash(key)) to '{target}' (format parquet, compression {codec})")
        again = dstl(world, store, "savepoint", "import", f"a/savepoints/{codec}", f"op={target}")
        assert again["rows"] == made["rows"] == len(found)
        # Rows of one key group have no order among each other.
        one, other = (sql(f"from '{store}/a/savepoints/{name}/op/*.parquet'") for name in ("arrow", codec))
        assert sorted(map(repr, one)) == sorted(map(repr, other)), codec


@scenario
def operator_state_and_time_to_live_are_imported_as_declared(world):
    store, folder = world.folder / "store", world.folder / "files"
    folder.mkdir(parents=True)
    found = [dict(state="aging", kind="value", key=b"k", value=b"v", touched_ms=1000)]
    found += [dict(state="offsets", kind="list", subtask=subtask, key=b"", list_index=0, value=b"o") for subtask in (1, 0)]
    pq.write_table(table(found), folder / "rows.parquet")
    cleanup = dict(at_materialization=True, incremental=None, compaction=None)
    ttl = dict(duration_ms=60_000, update="on_create_and_write", visibility="never_return_expired", cleanup=cleanup)
    states = [dict(name="aging", kind="value", ttl=ttl), dict(name="offsets", kind="list", redistribution="split")]
    (folder / "states.json").write_text(json.dumps({"op": dict(max_parallelism=8, states=states)}))
    arguments = "savepoint", "import", "wc/savepoints/s", f"op={folder}/rows.parquet"
    assert "has to be declared" in dstl(world, store, *arguments, code=1)
    made = dstl(world, store, *arguments, "--states", folder / "states.json")
    (operator,) = made["operators"]
    assert (operator["parallelism"], operator["max_parallelism"]) == (2, 8), made
    # What one savepoint declares is what another is like.
    like = dstl(world, store, "savepoint", "import", "wc/savepoints/like", f"op={folder}/rows.parquet", "--like", "wc/savepoints/s")
    assert like["operators"] == made["operators"]


def refusals(folder):
    """Files that are none of a savepoint, each with what is to be said of it."""
    good = dict(state="s", kind="value", key=b"k", value=b"v")

    def written(name, found, **options):
        types = options.pop("types", {})
        pq.write_table(found if isinstance(found, pa.Table) else table(found, **types), folder / name, **options)
        return folder / name

    yield written("foreign.parquet", pa.table({"a": [1], "b": ["x"]})), "column `state` is missing; there are: `a`, `b`"
    yield written("nokey.parquet", [dict(state="s", kind="value", value=b"v")]), "column `key` is missing"
    yield written("novalue.parquet", [dict(state="s", kind="value", key=b"k")]), "row group 0: row 0: `value` is missing"
    nested = pa.table({"state": [["s"]], "kind": ["value"], "key": [b"k"]})
    yield written("nested.parquet", nested), "column `state` is missing"
    yield written("number.parquet", pa.table({"state": [1], "kind": ["value"], "key": [b"k"]})), "column `state` is of type INT64"
    yield written("float.parquet", [dict(good, list_index=1.5)], types=dict(list_index=pa.float64())), "`list_index` is of type DOUBLE"
    yield written("micros.parquet", [dict(good, time=1)], types=dict(time=pa.timestamp("us"))), "`time` is of type INT64"
    yield written("kind.parquet", [good, dict(good, key=b"l", kind="set")]), "row group 0: row 1: `kind` is none of"
    yield written("group.parquet", [dict(good, key_group=77)]), "key group 77, the key belongs to"
    yield written("beyond.parquet", [dict(good, key_group=4000)]), "key group 4000, the operator has 128"
    yield written("both.parquet", [dict(good, key_group=1, subtask=1)]), "neither a `key_group` nor a `subtask`, or both"
    twice = [good] + [dict(good, key=b"%d" % number) for number in range(9)] + [good]
    yield written("twice.parquet", twice, row_group_size=10), "state `s` (value), key 0x6b: this entry is there twice"
    yield written("gap.parquet", [dict(good, kind="list", list_index=1)]), "element 1 of the list, 0 is missing"
    yield written("kinds.parquet", [good, dict(good, key=b"l", kind="timer", time=1)]), "state `s` is of kind Value"
    yield written("large.parquet", [dict(good, value=b"x" * (1 << 20) + b"x")]), "`value` has 1048577 bytes, at most 1048576"
    later = table([good]).replace_schema_metadata({"dstl.savepoint.version": "2"})
    yield written("later.parquet", later), "it is of version `2` of savepoints"
    whole = written("whole.parquet", [dict(good, key=b"%d" % number) for number in range(1000)]).read_bytes()
    for name, damaged in [
        ("cut.parquet", whole[: len(whole) // 2]),
        ("tail.parquet", whole[-200:]),
        ("empty.parquet", b""),
        ("text.parquet", b"state,kind,key\n" * 100),
        ("flipped.parquet", whole[:60] + bytes(byte ^ 0x5A for byte in whole[60:90]) + whole[90:]),
    ]:
        (folder / name).write_bytes(damaged)
        yield folder / name, ""


@scenario
def what_is_no_savepoint_is_named_by_file_and_row_group_and_nothing_is_made(world):
    store, folder = world.folder / "store", world.folder / "files"
    folder.mkdir(parents=True)
    count = 0
    for file, said in refusals(folder):
        told = dstl(world, store, "savepoint", "import", "wc/savepoints/s", f"op={file}", code=1)
        assert file.name in told and said in told and "panicked at" not in told, (file, told)
        assert not list(store.rglob("*.parquet")) and not list(store.rglob("*.json")), file
        count += 1
    assert count > 20
    told = dstl(world, store, "savepoint", "import", "wc/savepoints/s", f"op={folder}/none", code=1)
    assert "neither a file nor a folder" in told
    told = dstl(world, store, "savepoint", "import", "wc/savepoints/s", f"op={folder}/whole.parquet", "--memory", "100", code=1)
    assert "key group" in told and "give more" in told, told


@scenario
def the_documents_tell_how_to_bootstrap_state_and_read_it(world):
    """The program of docs/bootstrap.md writes a file, which becomes a savepoint, which that of docs/duckdb.md reads."""
    folder, store = world.folder / "program", world.folder / "program/store"
    folder.mkdir(parents=True)

    def run(page):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
        assert blocks, page
        ran = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    run("bootstrap.md")
    made = dstl(world, store, "savepoint", "import", "wordcount/savepoints/bootstrap", f"counter={folder}/counts.parquet")
    told = run("duckdb.md")
    assert made["rows"] == 3 and "('the', 3)" in told, told


@scenario
def a_savepoint_is_exported_and_imported_whole(world):
    store, folder = world.folder / "store", world.folder / "files"
    folder.mkdir(parents=True)
    pq.write_table(table(rows()), folder / "rows.parquet")
    dstl(world, store, "savepoint", "import", "wc/savepoints/s", f"op={folder}/rows.parquet")
    out, back = world.folder / "out", world.folder / "back"
    dstl(world, store, "savepoint", "export", "wc/savepoints/s", f"{out}/renamed/savepoints/t")
    told = dstl(world, store, "savepoint", "export", "wc/savepoints/s", f"{out}/renamed/savepoints/t", code=1)
    assert "exists already there" in told
    dstl(world, back, "savepoint", "import", "wc/savepoints/u", f"{out}/renamed/savepoints/t")
    restored(world, back, "wc/savepoints/u")
    (file,) = (out / "renamed/savepoints/t/op").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    told = dstl(world, world.folder / "third", "savepoint", "import", "wc/savepoints/u", f"{out}/renamed/savepoints/t", code=1)
    assert file.name in told and not list((world.folder / "third").rglob("*.parquet"))
