"""The address that a node gives to others, on machines with and without a way out."""

from __future__ import annotations

import pytest

from remora.system.network.own_address import own_address
from remora.testing.namespaces import skip_reason
from remora.testing.network_lab import NetworkLab

SHOW = "import sys; from remora.system.network.own_address import own_address; print(own_address(*sys.argv[1:]))"


def test_on_the_way_to_the_loopback_it_is_the_loopback() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"


def test_a_machine_without_a_way_out_has_the_address_of_its_link() -> None:
    if reason := skip_reason():
        pytest.skip(reason)
    with NetworkLab() as lab:
        a, b = lab.add_host(), lab.add_host()
        assert a.python(SHOW).strip() == a.address
        assert a.python(SHOW, b.address).strip() == a.address
        a.namespace.ip("link set eth0 down")
        assert a.python(SHOW).strip() == a.address
        a.namespace.ip("link delete eth0")
        assert a.python(SHOW).strip() == "127.0.0.1"
