"""The fixtures that this package brings to pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .. import Client
    from . import Daemon


@pytest.fixture
def dstl_daemon() -> Iterator[Daemon]:
    """A private daemon with an empty store."""
    from . import Daemon

    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def dstl_client(dstl_daemon: Daemon) -> Iterator[Client]:
    """A blocking client of the private daemon."""
    with dstl_daemon.client() as client:
        yield client
