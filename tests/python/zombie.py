"""A daemon that is stopped (SIGSTOP), succeeded and swept behind, and goes on (SIGCONT): it publishes nothing."""

import copy
import random
import subprocess
import threading
import time

from crashes import STATES, Model, write_until_killed
from support import refused, restore_handles, restore_latest, retain
from world import scenario


def gc(world, store):
    command = [world.binary, "gc", "--store", str(store), world.job, "--delete", "--grace", "0s"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def restored(world, daemon, attempt, restore, models, where):
    """Opens, and checks that the state is exactly that of the checkpoint."""
    client = world.client(daemon)
    opened = client.open(world.job, attempt=attempt, restore=restore, retention=retain())
    checkpoint = opened.checkpoint
    key = (checkpoint.epoch, checkpoint.checkpoint_id) if checkpoint.checkpoint_id else None
    ids = client.register(opened.backend, *STATES)
    models[key].check(client, opened.backend, ids, f"{where}: attempt {attempt} at {key}")
    return client, opened, ids, copy.deepcopy(models[key])


def haunt(world, seed, goes_back):
    rng = random.Random(seed)
    where = f"seed {seed}"
    old = world.start()
    client = world.client(old)
    opened = client.open(world.job, restore=restore_latest(), retention=retain())
    ids, models, handles = client.register(opened.backend, *STATES), {0: Model()}, {}
    arguments = (random.Random(seed), client, opened.backend, ids, Model(), 0, handles, models)
    writing = threading.Thread(target=write_until_killed, args=arguments)
    writing.start()
    time.sleep(0.1 + 0.6 * rng.random())
    old.stop()
    # What was promised until now; the thread may still be about to note the newest.
    promised = dict(handles)
    epoch = opened.backend.epoch.number

    new = world.start(store=old.store)
    by_key = {None: Model()}
    by_key.update({(epoch, number): model for number, model in list(models.items()) if number})
    restore = restore_handles(promised[min(promised)]) if goes_back and promised else restore_latest()
    second, reopened, ids, model = restored(world, new, 2, restore, by_key, where)
    if not goes_back:
        assert reopened.checkpoint.checkpoint_id >= max(promised, default=0), where
    retained = [c.checkpoint for c in second.describe(reopened.backend).checkpoints]
    inherited = {(checkpoint.epoch, checkpoint.checkpoint_id) for checkpoint in retained}
    assert {(epoch, number) for number in promised} <= inherited, f"{where}: of {list(promised)} there are {inherited}"
    retained = {}
    for number in range(1, 5):
        identity = reopened.checkpoint.checkpoint_id + number
        second.apply(reopened.backend, *[model.change(rng, ids) for _ in range(20)])
        by_key[(reopened.backend.epoch.number, identity)] = copy.deepcopy(model)
        done = second.checkpoint(reopened.backend, identity)
        retained[identity] = done.handle
        if number % 2:
            second.notify(reopened.backend, "COMPLETE", done.checkpoint)
            gc(world, old.store)

    old.resume()
    writing.join(60)
    assert not writing.is_alive(), f"{where}: the zombie goes on"
    with refused("REASON_FENCED"):
        client.apply(opened.backend)
    late = {(epoch, number) for number in handles} - inherited
    assert not late, f"{where}: the zombie published {late}"
    gc(world, old.store)
    identity = reopened.checkpoint.checkpoint_id + 5
    by_key[(reopened.backend.epoch.number, identity)] = copy.deepcopy(model)
    retained[identity] = second.checkpoint(reopened.backend, identity).handle
    everything = {(epoch, number): handle for number, handle in promised.items()}
    everything.update({(reopened.backend.epoch.number, number): handle for number, handle in retained.items()})
    third = world.start(store=old.store)
    chosen = [*list(everything.items())[:2], *list(everything.items())[-5:]]
    for attempt, (_, handle) in enumerate(chosen, 3):
        restored(world, third, attempt, restore_handles(handle), by_key, where)


@scenario
def a_stopped_daemon_that_goes_on_behind_its_successor_publishes_nothing(world):
    haunt(world, 1, goes_back=False)


@scenario
def a_stopped_daemon_whose_successor_goes_back_publishes_nothing(world):
    haunt(world, 2, goes_back=True)


@scenario
def a_stopped_daemon_at_a_fresh_moment_publishes_nothing(world):
    haunt(world, int(time.time()), goes_back=False)
