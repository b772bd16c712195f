"""Timers: order, duplicates, pages, firing with limits, what is refused, and exactly once across crashes and rescales."""

from support import LIST, MAP, VALUE, descriptor, op, put, refused, restore_latest, service_pb2, state_pb2
from world import scenario

TIMER = state_pb2.STATE_KIND_TIMER
LOWEST, HIGHEST = -(2**63), 2**63 - 1
INNER = (service_pb2.INNER_BACKEND_HASHMAP, service_pb2.INNER_BACKEND_ROCKSDB)


def register(state, time, key, ns=b""):
    return op("TIMER_REGISTER", state, key, namespace=ns, time=time)


def delete(state, time, key, ns=b""):
    return op("TIMER_DELETE", state, key, namespace=ns, time=time)


def names(timers):
    return [(timer.time, timer.key, timer.namespace) for timer in timers]


def timers(client, ref, state, up_to=HIGHEST, limit=0):
    """All of them, page by page."""
    found, token = [], b""
    while True:
        (page,) = client.read(ref, op("TIMERS", state, b"", time=up_to, token=token, limit=limit))
        assert page.found == (len(page.timers) > 0) and not page.more
        found += names(page.timers)
        token = page.token
        if not token:
            return found


def opened(world, inner, *states):
    client = world.client()
    job = f"{world.job[:50]}-{inner}"
    ref = client.open(job, inner=inner).backend
    return client, ref, client.register(ref, *states)


@scenario
def timers_come_and_fire_in_order_of_time_then_key_then_namespace(world):
    for inner in INNER:
        client, ref, (state, other) = opened(world, inner, descriptor("t", TIMER), descriptor("u", TIMER))
        session = client.session(ref)
        wanted = [(LOWEST + 1, b"z", b""), (-5, b"b", b""), (-5, b"ba", b""), (0, b"a", b""), (0, b"a", b"w")]
        wanted += [(0, b"a\x00", b""), (0, b"ab", b""), (7, b"%d" % 0, b"w")]
        wanted += [(8, b"%03d" % key, b"") for key in range(200)] + [(HIGHEST, b"a", b"")]
        session.batch(*[register(state, *one) for one in reversed(wanted)])
        session.batch(*[register(state, *one) for one in wanted], register(other, 3, b"other"))
        (peek,) = session.read(op("TIMERS", state, b"", time=HIGHEST, limit=1))
        assert names(peek.timers) == wanted[:1] and peek.token and peek.found
        for limit in (0, 1, 7):
            assert timers(client, ref, state, limit=limit) == wanted, limit
        assert timers(client, ref, state, up_to=-5) == wanted[:3]
        assert timers(client, ref, state, up_to=LOWEST) == []
        (description,) = [s for s in client.describe(ref).states if s.state.descriptor.name == "t"]
        assert description.entries == len(wanted)
        # The rest of the batch sees what fired; the writes of the same batch before it are fired, too.
        fired, none, again, left = session.read(
            register(state, -9, b"late"),
            op("TIMERS_FIRE", state, b"", time=-1, limit=2),
            op("TIMERS_FIRE", other, b"", time=2),
            op("TIMERS_FIRE", state, b"", time=-1),
            op("TIMERS", state, b"", time=0),
        )
        assert names(fired.timers) == [wanted[0], (-9, b"late", b"")] and fired.found and fired.more
        assert not none.found and not none.more and not none.timers
        assert names(again.timers) == wanted[1:3] and not again.more
        assert names(left.timers) == wanted[3:7]
        groups = {timer.key: timer.key_group for timer in left.timers}
        (keys,) = session.read(op("KEYS", state, b"", all_namespaces=True))
        assert {key.key: key.key_group for key in keys.keys if key.key in groups} == groups
        gone = [delete(state, 0, b"a"), delete(state, 0, b"a"), delete(state, 1, b"a"), delete(state, 0, b"nobody")]
        (left,) = session.read(*gone, op("TIMERS", state, b"", time=HIGHEST))
        assert names(left.timers) == wanted[4:]
        session.finish()


@scenario
def timers_that_do_not_fit_are_refused_and_change_nothing(world):
    client, ref, (state, value) = opened(world, 0, descriptor("t", TIMER), descriptor("v"))
    client.apply(ref, register(state, 1, b"k"))
    for wrong in (register(state, LOWEST, b"k"), delete(state, LOWEST, b"k")):
        with refused("REASON_INVALID_ARGUMENT", "operation 1", "a timer beyond the range", scope="SCOPE_BATCH"):
            client.apply(ref, register(state, 2, b"k"), wrong)
    for kind in ("CLEAR", "MERGE_NAMESPACES"):
        with refused("REASON_WRONG_KIND", "one by one"):
            client.apply(ref, op(kind, state, b"k"))
    for wrong in (put(state, b"k", b"v"), register(value, 1, b"k"), op("TIMERS", value, b""), op("MAP_COUNT", state, b"k")):
        with refused("REASON_WRONG_KIND"):
            client.apply(ref, wrong)
    for wrong in (
        register(state, 1, b""),
        op("TIMERS", state, b"k", time=1),
        op("TIMERS_FIRE", state, b"k", time=1),
        op("TIMERS", state, b"", namespace=b"w", time=1),
        op("TIMERS_FIRE", state, b"", namespace=b"w", time=1),
        op("TIMERS_FIRE", state, b"", token=b"x", time=1),
        op("TIMER_COUNT", state, b"k"),
        op("TIMER_COUNT", state, b"", limit=1),
        op("TIMER_COUNT", state, b"", time=1),
        op("TIMERS", state, b"", token=b"x", time=1),
        op("TIMER_REGISTER", state, b"k", time=1, limit=1),
        op("GET", value, b"k", time=1),
    ):
        with refused("REASON_INVALID_ARGUMENT", "operation 0", scope="SCOPE_BATCH"):
            client.apply(ref, wrong)
    assert timers(client, ref, state) == [(1, b"k", b"")]
    for fields in (
        dict(merge=state_pb2.MERGE_FUNCTION_COUNT),
        dict(ttl=state_pb2.Ttl(duration_ms=5)),
        dict(redistribution=state_pb2.REDISTRIBUTION_SPLIT),
        dict(default_value=b"d"),
    ):
        with refused("REASON_INVALID_ARGUMENT", "timers"):
            client.register(ref, descriptor("new", TIMER, **fields))
    # Tokens of another operation, and of an owner before.
    client.apply(ref, register(state, 2, b"k"), put(value, b"a", b"v"), put(value, b"b", b"v"))
    (page,) = client.read(ref, op("TIMERS", state, b"", time=9, limit=1))
    (keys,) = client.read(ref, op("KEYS", state, b"", all_namespaces=True, limit=1))
    with refused("REASON_INVALID_ARGUMENT", "token"):
        client.apply(ref, op("KEYS", state, b"", token=page.token))
    if keys.token:
        with refused("REASON_INVALID_ARGUMENT", "token"):
            client.apply(ref, op("TIMERS", state, b"", time=9, token=keys.token))
    again = client.open(world.job[:50] + "-0", attempt=2).backend
    client.register(again, descriptor("t", TIMER))
    with refused("REASON_INVALID_ARGUMENT", "token"):
        client.apply(again, op("TIMERS", state, b"", time=9, token=page.token))


@scenario
def timers_are_counted_and_read_of_one_key_group_whoever_assigns_them(world):
    given = dict(key_group_assignment=service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN)
    for inner, assignment in [(inner, assignment) for inner in INNER for assignment in ({}, given)]:
        client = world.client()
        job = f"{world.job[:40]}-{inner}-{len(assignment)}"
        ref = client.open(job, inner=inner, max_parallelism=8, **assignment).backend
        (state,) = client.register(ref, descriptor("t", TIMER))
        (empty,) = client.read(ref, op("TIMER_COUNT", state, b""))
        assert (empty.found, empty.count) == (False, 0)
        place = lambda n: dict(key_group=n % 8) if assignment else {}
        for n in range(40):
            client.apply(ref, op("TIMER_REGISTER", state, b"%d" % n, time=n // 2, **place(n)))
        (count, every) = client.read(ref, op("TIMER_COUNT", state, b""), op("TIMERS", state, b"", time=HIGHEST))
        assert (count.found, count.count, len(every.timers)) == (True, 40, 40)
        for group in range(8):
            wanted = [timer for timer in every.timers if timer.key_group == group]
            found, token = [], b""
            while True:
                (page,) = client.read(ref, op("TIMERS", state, b"", time=HIGHEST, limit=2, token=token, key_group=group))
                found, token = found + list(page.timers), page.token
                if not token:
                    break
            assert found == wanted, group
            (keys,) = client.read(ref, op("KEYS", state, b"", key_group=group))
            assert sorted(key.key for key in keys.keys) == sorted(timer.key for timer in wanted) and not keys.token
        for wrong in (op("TIMER_COUNT", state, b"", key_group=1), op("TIMERS", state, b"", key_group=8)):
            with refused("REASON_WRONG_KEY_GROUP"):
                client.read(ref, wrong)


@scenario
def firings_that_do_not_fit_a_message_lose_no_timer(world):
    for inner in INNER:
        client, ref, (state, value) = opened(world, inner, descriptor("t", TIMER), descriptor("v"))
        session = client.session(ref)
        long = b"k" * 20_000
        wanted = sorted((time % 3, long + b"%04d" % time, b"") for time in range(400))
        for at in range(0, 400, 100):
            session.batch(*[register(state, *one) for one in wanted[at : at + 100]])
        fired = []
        while len(fired) < len(wanted):
            # Three in a batch: together they would have 8 MB.
            for result in session.read(*[op("TIMERS_FIRE", state, b"", time=9) for _ in range(3)]):
                if result.outcome == state_pb2.OUTCOME_ASK_AGAIN:
                    assert not result.timers
                else:
                    fired += names(result.timers)
        assert fired == wanted
        session.finish()


@scenario
def timers_fire_exactly_once_across_crashes_and_rescales_on_both_inner_backends(world):
    """What a task does that reads what is due, and deletes each in the batch that writes what it leads to."""
    states = [descriptor("t", TIMER), descriptor("l", LIST), descriptor("m", MAP), descriptor("v", VALUE)]
    count, clock, attempt = 300, 0, 0
    for parallelism, inner, heap in ((1, 0, False), (3, 1, False), (2, 1, True), (3, 0, False), (1, 1, False)):
        attempt += 1
        for daemon in world.started:
            daemon.kill()
        settings = ["state.backend.rocksdb.timer-service.factory=HEAP"] if heap else []
        client = world.client(world.start(settings=settings))
        refs, found = [], []
        for subtask in range(parallelism):
            opened = client.open(
                world.job,
                subtask=subtask,
                parallelism=parallelism,
                max_parallelism=128 if attempt == 1 else 0,
                attempt=attempt,
                inner=INNER[inner],
                restore=restore_latest(),
            )
            refs.append((opened.backend, client.register(opened.backend, *states)))
        if attempt == 1:
            ((ref, (state, *_)),) = refs
            client.apply(ref, *[register(state, n % 100, b"key %03d" % n, b"w") for n in range(count)])
        for ref, (state, fired, *_) in refs:
            found += timers(client, ref, state, limit=11)
        assert sorted(found) == sorted((n % 100, b"key %03d" % n, b"w") for n in range(count) if n % 100 >= clock)
        for step in range(2):
            clock += 11
            for ref, (state, fired, *_) in refs:
                due = timers(client, ref, state, up_to=clock - 1)
                for time, key, namespace in due:
                    client.apply(
                        ref, op("LIST_ADD", fired, key, value=b"%d" % time), delete(state, time, key, ns=namespace)
                    )
                if step == 0 and attempt % 2:
                    client.call("Materialize", service_pb2.MaterializeRequest(backend=ref))
        for ref, _ in refs:
            checkpoint = client.checkpoint(ref, attempt)
            client.notify(ref, "COMPLETE", checkpoint.checkpoint)
        # After the checkpoint: fires again after the crash.
        for ref, (state, *_) in refs:
            client.apply(ref, op("TIMERS_FIRE", state, b"", time=HIGHEST))
    ((ref, (state, fired, *_)),) = [refs[0]]
    for n in range(count):
        (elements,) = client.read(ref, op("LIST_GET", fired, b"key %03d" % n))
        assert list(elements.elements) == [b"%d" % (n % 100)], (n, elements)
