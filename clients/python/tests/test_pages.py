"""Answers that come in parts, since they are longer than a message."""

import dstl
from dstl.testing import Daemon


def test_a_backend_with_many_states_opens_and_describes_in_pages():
    with Daemon(settings=["rpc.max-message-size=128 KiB", "rpc.max-value-size=32 KiB", "rpc.max-key-size=4 KiB"]) as daemon:
        with daemon.client() as client:
            names = [f"{number:04}-" + "x" * 190 for number in range(700)]
            with client.open("job", "op", attempt=1) as backend:
                with backend.session() as session:
                    for name in names:
                        backend.value_state(name, dstl.STR, dstl.STR)
                    session.complete(session.checkpoint(1))
            with client.open("job", "op", attempt=2) as backend:
                assert backend.state_names == names
                assert [state.state.descriptor.name for state in backend.describe().states] == names
                assert len(client.describe()) == 1
                state = backend.list_state("elements", dstl.STR, dstl.STR)
                blobs = backend.value_state("blobs", dstl.INT64, dstl.BYTES)
                with backend.session():
                    state.add_all("k", ["y" * 1000] * 40)
                    for _ in range(5):
                        state.add_all("k", ["y" * 1000] * 40)
                    assert len(state.get("k")) == 240
                    blobs.put_many(list(range(300)), [bytes(1000)] * 300).applied()
                    assert blobs.get_many(list(range(300))) == [bytes(1000)] * 300
