"""Futures of refs that nobody else has."""

from __future__ import annotations

import gc

import remora


@remora.remote
class Gate:
    def __init__(self) -> None:
        self.refs: list[remora.ObjectRef] = []

    def keep(self, refs: list[remora.ObjectRef]) -> None:
        self.refs = refs

    def give(self) -> list[remora.ObjectRef]:
        return self.refs


def test_a_future_keeps_a_ref_that_came_from_another_process() -> None:
    with remora.init(num_cpus=2):
        gate = Gate.remote()
        remora.get(gate.keep.remote([remora.put("kept there")]))
        future = remora.get(gate.give.remote())[0].future()
        gc.collect()
        assert future.result(20) == "kept there"
