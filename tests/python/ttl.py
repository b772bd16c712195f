"""States whose entries live for some time, by the daemon's clock."""

import time

from support import LIST, MAP, VALUE, Merge, descriptor, eventually, get, op, put, refused, restore_latest, state_pb2
from world import scenario

Ttl = state_pb2.Ttl

# An hour does not pass in a test; this does.
LONG, SHORT = 3_600_000, 300


def ttl(duration, update="ON_CREATE_AND_WRITE", visibility="NEVER_RETURN_EXPIRED", **cleanup):
    return Ttl(
        duration_ms=duration,
        update=Ttl.Update.Value(f"UPDATE_{update}"),
        visibility=Ttl.Visibility.Value(f"VISIBILITY_{visibility}"),
        cleanup=Ttl.Cleanup(**cleanup),
    )


def opened(world, *states, **fields):
    client = world.client()
    ref = client.open(world.job, **fields).backend
    return client, ref, client.register(ref, *states)


def states(duration, **options):
    kinds = [("value", VALUE), ("map", MAP), ("list", LIST)]
    return [descriptor(f"{name} {duration}", kind, ttl=ttl(duration, **options)) for name, kind in kinds]


def fill(ids, key, value=b"v"):
    in_value, in_map, in_list = ids
    return [
        put(in_value, key, value),
        op("MAP_PUT", in_map, key, map_key=value, value=value),
        op("LIST_ADD", in_list, key, value=value),
    ]


def look(ids, key):
    in_value, in_map, in_list = ids
    return [
        get(in_value, key),
        op("MAP_CONTAINS", in_map, key, map_key=b"v"),
        op("MAP_ENTRIES", in_map, key),
        op("MAP_COUNT", in_map, key),
        op("LIST_GET", in_list, key),
        op("LIST_COUNT", in_list, key),
    ]


def keys(state):
    return op("KEYS", state, b"", all_namespaces=True)


def is_gone(results):
    return not any(r.found or r.count or r.entries or r.elements or r.value or r.keys for r in results)


@scenario
def entries_of_every_kind_live_as_long_as_their_state_says(world):
    client, ref, ids = opened(world, *states(SHORT), *states(LONG))
    short, long = ids[:3], ids[3:]
    session = client.session(ref)
    session.batch(*fill(short, b"k"), *fill(long, b"k"))
    everything = look(short, b"k") + [keys(state) for state in short]
    eventually("all of it is expired", lambda: is_gone(session.read(*everything)))
    lives = session.read(*look(long, b"k"), *[keys(state) for state in long])
    assert all(result.found for result in lives), lives
    # They begin anew, and merging into what is expired is merging into nothing.
    sum_i64 = Merge.Value("MERGE_FUNCTION_SUM_I64")
    (total,) = client.register(ref, descriptor("sum", merge=sum_i64, ttl=ttl(SHORT)))
    session.batch(op("MERGE", total, b"k", value=(5).to_bytes(8, "little")))
    eventually("the sum is expired", lambda: is_gone(session.read(get(total, b"k"))))
    session.batch(op("MERGE", total, b"k", value=(2).to_bytes(8, "little")))
    (found,) = session.read(get(total, b"k"))
    assert not found.found or found.value == (2).to_bytes(8, "little"), found
    session.finish()


@scenario
def what_is_expired_is_returned_until_a_numbered_batch_reads_it(world):
    shown = states(SHORT, visibility="RETURN_EXPIRED_IF_NOT_CLEANED_UP")
    hidden = [descriptor("hidden", ttl=ttl(SHORT))]
    client, ref, (*ids, watch) = opened(world, *shown, *hidden)
    client.apply(ref, *fill(ids, b"k"), put(watch, b"k", b"v"))
    eventually("their time is over", lambda: is_gone(client.read(ref, get(watch, b"k"))))
    for _ in range(2):
        results = client.read(ref, *look(ids, b"k"))
        assert all(result.found for result in results), "a batch without number cleans up nothing"
    session = client.session(ref)
    value, contained, *_ = session.read(get(ids[0], b"k"), op("MAP_CONTAINS", ids[1], b"k", map_key=b"v"))
    assert value.found and value.value == b"v" and contained.found, "this one still sees it"
    (elements,) = session.read(op("LIST_GET", ids[2], b"k"))
    assert list(elements.elements) == [b"v"]
    assert is_gone(session.read(*look(ids, b"k")))
    session.finish()


@scenario
def reads_that_touch_keep_entries_alive_and_are_writes(world):
    lives = 3_000
    touched = descriptor("touched", ttl=ttl(lives, update="ON_READ_AND_WRITE"))
    client, ref, (state,) = opened(world, touched)
    session = client.session(ref)
    start = last = time.monotonic()
    session.batch(put(state, b"k", b"v"))
    longest = 0.0
    while last - start < 1.5 * lives / 1000:
        time.sleep(0.2)
        (found,) = session.read(get(state, b"k"))
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        # A machine that stands still for so long proves nothing.
        assert found.found or longest > 0.5 * lives / 1000, "it was read all the time"
    with refused("REASON_BATCH_OUT_OF_ORDER"):
        client.read(ref, get(state, b"k"))
    time.sleep(1.1 * lives / 1000)
    (found,) = session.read(get(state, b"k"))
    assert not found.found, "nobody read it any more"
    session.finish()


@scenario
def entries_expire_in_turn_and_after_a_crash(world):
    incremental = {"incremental": Ttl.Incremental(entries=7, every_batch=True)}
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (short, long, other) = client.register(
        ref, descriptor("short", ttl=ttl(SHORT, **incremental)), descriptor("long", ttl=ttl(LONG)), descriptor("other")
    )
    count = 200
    client.apply(ref, *[put(state, b"%d" % i, b"v") for i in range(count) for state in (short, long)])
    client.checkpoint(ref, 1)

    def entries(client, ref):
        return {s.state.id: s.entries for s in client.describe(ref).states}

    def step(client, ref):
        client.apply(ref, put(other, b"k", b"v"))
        return entries(client, ref)[short] == 0

    eventually("batches of others have removed them", lambda: step(client, ref))
    assert entries(client, ref)[long] == count
    daemon.kill()
    daemon.start()
    client = world.client(daemon)
    opened = client.open(world.job, attempt=2, restore=restore_latest())
    restored = {s.descriptor.name: s.descriptor for s in opened.states}
    assert restored["short"].ttl == ttl(SHORT, **incremental), restored
    ref = opened.backend
    found = client.read(ref, *[get(state, b"%d" % i) for i in range(count) for state in (short, long)])
    assert [r.found for r in found] == [False, True] * count, "they were written before the crash"
    eventually("they are removed here, too", lambda: step(client, ref))
    assert entries(client, ref)[long] == count
