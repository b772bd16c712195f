"""What tests of PyFlink share: the jar of `clients/flink`, and a daemon for the tests of a file."""

import os
import pathlib

import pytest

from dstl.testing import Daemon


def pytest_configure(config):
    config.addinivalue_line("markers", "java: of programs in Java (`make examples-flink`)")
    # PyFlink and its dependencies have hundreds.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def jar():
    jar = pathlib.Path(os.environ["DSTL_FLINK_JAR"]).resolve()
    assert jar.exists(), f"{jar} is missing: make flink-jar"
    return jar


@pytest.fixture(scope="module")
def daemon():
    with Daemon() as daemon:
        yield daemon
