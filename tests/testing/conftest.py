"""A network of two hosts for each test that asks; skipped where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from remora.testing.namespaces import skip_reason
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab


@pytest.fixture
def lab() -> Iterator[NetworkLab]:
    if reason := skip_reason():
        pytest.skip(reason)
    with NetworkLab() as lab:
        yield lab


@pytest.fixture
def hosts(lab: NetworkLab) -> tuple[Host, Host]:
    return lab.add_host(), lab.add_host()
