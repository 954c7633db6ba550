"""Behaviour of the API, the same in every runtime: in local mode, and with worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import remora

MODES = ["local"] + (["processes"] if find_spec("remora.processes.client.session") else [])


@pytest.fixture(scope="module", params=MODES)
def runtime_mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """A session that the tests of a module share; the value says of which kind."""
    remora.shutdown()
    remora.init(num_cpus=4, namespace="tests", local_mode=request.param == "local")
    yield request.param
    remora.shutdown()


@pytest.fixture
def no_session() -> Iterator[None]:
    """No session before the test and none after it."""
    remora.shutdown()
    yield
    remora.shutdown()
