"""The internal key-value store, under the names that programs for Ray use."""

from __future__ import annotations

import pytest

import remora
from remora.experimental import internal_kv as kv

pytestmark = pytest.mark.usefixtures("runtime_mode")


def test_a_value_is_put_read_listed_and_deleted() -> None:
    assert kv._internal_kv_put("key", b"one", namespace="space") is False
    assert kv._internal_kv_get(b"key", namespace=b"space") == b"one"
    assert kv._internal_kv_put("key", "two", overwrite=False, namespace="space") is True
    assert kv._internal_kv_get("key", namespace="space") == b"one"
    assert kv._internal_kv_put("key", "two", namespace="space") is True
    assert kv._internal_kv_list("k", namespace="space") == [b"key"]
    assert kv._internal_kv_del("key", namespace="space") == 1
    assert kv._internal_kv_get("key", namespace="space") is None
    assert not kv._internal_kv_exists("key", namespace="space")


def test_namespaces_have_nothing_to_do_with_each_other() -> None:
    kv._internal_kv_put("same", b"here", namespace="one")
    kv._internal_kv_put("same", b"there")
    assert kv._internal_kv_get("same", namespace="one") == b"here"
    assert kv._internal_kv_del("sa", del_by_prefix=True) == 1
    assert kv._internal_kv_exists("same", namespace="one")


def test_tasks_see_what_the_driver_put() -> None:
    kv._internal_kv_put("seen", b"by all")

    @remora.remote
    def read() -> bytes | None:
        return kv._internal_kv_get("seen")

    assert remora.get(read.remote()) == b"by all"


def test_what_cannot_be_a_key_or_a_value_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match="key must be bytes or str, not 7"):
        kv._internal_kv_get(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="value must be bytes or str"):
        kv._internal_kv_put("key", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 16,777,216"):
        kv._internal_kv_put("key", bytes(17 << 20))


def test_a_key_that_is_too_long_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match=r"at most 2,000 are taken"):
        kv._internal_kv_put("k" * 2001, b"value")
    assert kv._internal_kv_get("k" * 2001) is None
