"""Random programs on simulated clusters: nothing is freed too early, everything in the end, nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from remora.messages.copies import HomeReport
from remora.testing.counting_programs import MIXES, Simulation
from remora.testing.simulation import main, replay, run_seeds

SEEDS_PER_BLOCK = 200
OnSend = Callable[[bytes, bytes, msgspec.Struct], None]


@pytest.mark.parametrize("block", range(8))
def test_random_programs_with_deaths_and_cuts_keep_the_protocol(block: int) -> None:
    assert run_seeds(block * SEEDS_PER_BLOCK, SEEDS_PER_BLOCK) == []


@pytest.mark.parametrize("block", range(2))
def test_without_faults_no_excuse_counts(block: int) -> None:
    for seed in range(block * SEEDS_PER_BLOCK, (block + 1) * SEEDS_PER_BLOCK):
        Simulation(seed, with_faults=False).run()


def test_long_programs_keep_the_protocol() -> None:
    for seed in range(6):
        Simulation(seed, max_steps=1500).run()


def test_a_seed_always_tells_the_same_story() -> None:
    assert replay(11) == replay(11)
    assert replay(11) != replay(12)


def test_every_mix_does_what_it_is_for() -> None:
    for mix_index, mix in enumerate(MIXES):
        kinds = set()
        for seed in range(mix_index, 90, len(MIXES)):
            simulation = Simulation(seed, with_faults=False)
            simulation.run()
            assert simulation.mix == mix
            kinds |= set(simulation.world.message_counts)
        assert {"Publish", "Register", "NodeRegister", "NodeRelease", "Close"} <= kinds
        copies = {"ObjectAt", "CopyArrived", "CopyDropped", "FreeCopies", "MakeCopy", "CopyKept", "ReleaseCopies"}
        assert mix != "read" or copies <= kinds
        assert mix != "uniform" or {"Store", "Keep", "Item", "ItemAck", "ReplyAck", "Ping"} <= kinds


def test_homes_die_with_objects_that_others_hold() -> None:
    stored = 0
    for seed in range(300):
        simulation = Simulation(seed)
        simulation.world.on_send = count_reported = ReportedCopies(simulation.world.on_send)
        simulation.run()
        stored += count_reported.copies
    assert stored > 10


class ReportedCopies:
    """Counts the copies that heirs are told of, and passes everything on."""

    def __init__(self, then: OnSend | None) -> None:
        self.copies = 0
        self._then = then

    def __call__(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        if isinstance(message, HomeReport):
            self.copies += len(message.copies)
        if self._then is not None:
            self._then(sender, to, message)


def test_the_command_line_counts_violations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--counting", "--seeds", "3"]) == 0
    assert capsys.readouterr().out == "3 seeds, 0 violations\n"
    assert main(["--counting", "--replay", "5"]) == 0
    assert "everything was freed and nobody waits" in capsys.readouterr().out
