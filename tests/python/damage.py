"""Objects damaged by hand: a restore equals the model, or names the object and the checkpoint that it spoils."""

import pathlib
import shutil

from support import Refused, descriptor, get, objects, op, put, restore_id, restore_latest, retain, service_pb2
from world import scenario

CHECKPOINTS = (1, 2, 3)


def flip(at):
    def damage(path):
        contents = bytearray(path.read_bytes())
        contents[at if at >= 0 else len(contents) + at] ^= 0x10
        path.write_bytes(contents)

    return damage


def middle(path):
    flip(path.stat().st_size // 2)(path)


def truncate(path):
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) * 2 // 3])


DAMAGES = {
    "its first byte flipped": flip(0),
    "a byte in the middle flipped": middle,
    "its last byte flipped": flip(-1),
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "a byte too long": lambda path: path.write_bytes(path.read_bytes() + b"!"),
    "deleted": pathlib.Path.unlink,
}


def build(world, job, change_sets=0):
    """A store with three checkpoints under two owners, before them so many change sets; returns what each holds."""
    daemon = world.start()
    client = world.client(daemon)
    model = {}
    ref = client.open(job, retention=retain()).backend
    (state,) = client.register(ref, descriptor("v"))
    for number in range(change_sets):
        client.apply(ref, put(state, b"k", b"%d" % number))
        client.call("Persist", service_pb2.PersistRequest(backend=ref))
    for number in CHECKPOINTS:
        if number == 3:
            ref = client.open(job, attempt=2, retention=retain()).backend
        client.apply(ref, put(state, b"k", b"%d" % number), put(state, b"only %d" % number, b"x" * 3000))
        client.apply(ref, op("CLEAR", state, b"only %d" % (number - 1)))
        done = client.checkpoint(ref, number, attachment=b"offset %d" % number)
        client.notify(ref, "COMPLETE", done.checkpoint)
        model[number] = [b"%d" % number] + [b"x" * 3000 if n == number else b"" for n in CHECKPOINTS]
    client.end(ref)
    daemon.kill()
    return daemon.store, state, model


def suffer(world, store, state, model, job, names, unread=()):
    """What restoring the latest, then each checkpoint by id, gives with each object damaged in each way."""
    place = world.folder / "damaged"
    client = world.client(world.start(store=place))
    outcomes = {}
    for name in names:
        for how, damage in DAMAGES.items():
            if name in unread and how not in ("truncated", "deleted"):
                continue
            # The directory itself stays: another one in its place counts as an outage.
            for there in place.iterdir():
                # Not at once where the daemon is deleting what it no longer needs.
                while there.exists():
                    shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(store, place, dirs_exist_ok=True)
            damage(place / name)
            worked = []
            for attempt, way in enumerate([restore_latest()] + [restore_id(n) for n in CHECKPOINTS], start=10):
                worked.append(restore(client, job, state, model, attempt, way, name, how))
                for backend in client.call("Describe", service_pb2.DescribeRequest()).backends:
                    client.end(backend.backend)
            outcomes[name, how] = worked
    return outcomes


def restore(client, job, state, model, attempt, way, path, how):
    """Opens; returns whether it worked. Whatever else happens must name the damaged object."""
    where = f"`{path}` {how}, restoring {str(way).strip()}"
    try:
        opened = client.open(job, attempt=attempt, restore=way)
    except Refused as error:
        assert error.reason in ("REASON_CORRUPT_OBJECT", "REASON_MISSING_OBJECT", "REASON_CHECKPOINT_NOT_FOUND",
                                "REASON_NO_CONSISTENT_CHECKPOINT"), f"{where}: {error}"
        if error.reason in ("REASON_CORRUPT_OBJECT", "REASON_MISSING_OBJECT"):
            assert path in error.message, f"{where}: the object is not named: {error}"
            assert "/manifest/" in path or "/job/" in path or "checkpoint" in error.message, f"{where}: {error}"
        else:
            # Only a manifest that is gone without a trace can hide a checkpoint.
            assert how == "deleted" and "/manifest/" in path, f"{where}: {error}"
        return False
    number = opened.checkpoint.checkpoint_id
    assert number in model, f"{where}: began with checkpoint {number}"
    assert opened.attachment == b"offset %d" % number
    found = client.read(opened.backend, get(state, b"k"), *[get(state, b"only %d" % n) for n in CHECKPOINTS])
    assert [f.value for f in found] == model[number], f"{where}: a wrong state: {found}"
    return True


@scenario
def a_damaged_object_is_named_and_never_served(world):
    job = "j"
    store, state, model = build(world, job)
    names = sorted(objects(store))
    assert {name.split("/")[1] for name in names} == {"segments", "job", "operators"}, names
    head = max(name for name in names if "/manifest/" in name)
    unread = [name for name in names if "/manifest/" in name and name != head]
    for (name, how), (latest, *by_id) in suffer(world, store, state, model, job, names, unread).items():
        if name == head:
            assert how == "deleted" or not any([latest, *by_id]), f"the newest manifest is the only authority: {how}"
        elif "/segments/" not in name:
            assert all(by_id), f"`{name}` {how} spoils checkpoints that do not need it: {by_id}"
        elif how in ("truncated", "emptied", "deleted", "a byte in the middle flipped"):
            assert not latest and not by_id[-1], f"`{name}` {how} was not noticed"
            assert by_id == sorted(by_id, reverse=True), f"`{name}` {how} spoils older checkpoints: {by_id}"


@scenario
def a_damaged_page_of_the_index_is_named_and_never_served(world):
    store, state, model = build(world, "j", change_sets=140)
    pages = [name for name in objects(store) if "/manifest/" not in name and "/operators/" in name]
    assert pages, "so many change sets do not fit the manifest"
    outcomes = suffer(world, store, state, model, "j", pages)
    for (name, how), (latest, *by_id) in outcomes.items():
        assert not latest and not by_id[-1], f"`{name}` {how} was not noticed: {latest} {by_id}"
        # What the second owner began with is listed by a page that only its own checkpoint needs.
        assert by_id in ([False] * 3, [True, True, False]), f"`{name}` {how} spoils {by_id}"
    assert any(not any(by_id) for _, *by_id in outcomes.values()), "older pages spoil them all"
