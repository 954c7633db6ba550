from __future__ import annotations

import gc
import sys
import weakref

import pytest

from remora.base import call_sites
from remora.base.call_sites import call_site, describe_site, note_site
from remora.base.ids import make_object_id, make_process_id
from remora.base.object_ref import ObjectRef


def make_ref() -> ObjectRef[int]:
    return ObjectRef(make_object_id(make_process_id(1, 1), 1))


def put_like() -> ObjectRef[int]:
    ref = make_ref()
    note_site(ref)
    return ref


def line() -> int:
    return sys._getframe(1).f_lineno


def test_a_site_names_file_line_and_function_of_the_caller() -> None:
    ref, at = put_like(), line()
    expected = f"{__file__}:{at} in test_a_site_names_file_line_and_function_of_the_caller"
    assert describe_site(ref.site) == expected


def test_two_calls_on_different_lines_have_different_sites_and_one_in_a_loop_has_one() -> None:
    first = put_like()
    looped = [put_like() for _ in range(3)]
    assert len({ref.site for ref in looped}) == 1
    assert first.site != looped[0].site


def test_every_ref_of_a_list_gets_the_site_and_no_refs_are_fine() -> None:
    refs = [make_ref(), make_ref()]

    def remote_like(made: list[ObjectRef[int]] | None) -> None:
        note_site(made)

    remote_like(refs)
    remote_like(None)
    assert refs[0].site == refs[1].site != 0


def test_a_site_keeps_a_ref_untracked_by_the_collector_and_no_variable_alive() -> None:
    class Big:
        pass

    def user() -> tuple[ObjectRef[int], weakref.ref[Big]]:
        big = Big()
        return put_like(), weakref.ref(big)

    ref, big = user()
    assert not gc.is_tracked(ref)
    assert big() is None


def test_a_site_outlives_the_code_that_made_it() -> None:
    names: dict[str, object] = {"put_like": put_like}
    exec(compile("def made():\n    return put_like()\nref = made()\n", "gone.py", "exec"), names)
    ref = names.pop("ref")
    names.clear()
    gc.collect()
    assert isinstance(ref, ObjectRef)
    assert describe_site(ref.site) == "gone.py:2 in made"


def test_code_of_remora_itself_stands_for_the_users_line_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {"call_site": call_site, "sys": sys}
    ours = compile("def put():\n    return call_site(sys._getframe(0))\n", call_sites._PACKAGE + "util/x.py", "exec")
    exec(ours, names)
    put = names["put"]
    assert callable(put)
    site, at = put(), line()
    assert describe_site(site).startswith(f"{__file__}:{at} in ")


def test_beyond_the_limit_new_sites_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_sites, "MAX_SITES", 0)
    ref = put_like()
    assert ref.site == 0
    assert describe_site(ref.site) == ""
