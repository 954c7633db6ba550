"""Random programs on whole simulated clusters: nothing is freed too early, everything ends, nothing stays."""

from __future__ import annotations

import pytest

from remora.core.submission import Submission
from remora.core.task_queue import LeasedWorker
from remora.testing import cluster_simulation
from remora.testing.cluster_programs import MIXES, Simulation
from remora.testing.cluster_simulation import failures, run_seed, shrink, tell
from remora.testing.cluster_world import Machines
from remora.testing.simulation import main

SEEDS_PER_BLOCK = 50


@pytest.mark.parametrize("block", range(5))
def test_clusters_keep_their_promises_whoever_dies(block: int) -> None:
    assert list(failures(block * SEEDS_PER_BLOCK, SEEDS_PER_BLOCK)) == []


def test_without_faults_no_excuse_counts() -> None:
    for seed in range(1000, 1040):
        Simulation(seed, with_faults=False).run()


def test_a_seed_always_tells_the_same_story() -> None:
    assert tell(3) == tell(3)
    assert tell(3) != tell(4)


def test_the_seeds_do_all_that_they_are_for() -> None:
    sent: set[str] = set()
    what: list[str] = []
    for seed in range(60):
        simulation, _ = run_seed(seed)
        assert simulation.mix == MIXES[seed % len(MIXES)]
        assert 3 <= len(simulation.world.daemons) <= 40
        sent |= set(simulation.world.sent)
        what += [line.what for line in simulation.world.log if line.what]
    assert {"Register", "NodeRegister", "HandedBack", "Close", "ReplyAck", "Keep", "ObjectAt", "MakeCopy"} <= sent
    assert {"LeaseRejected", "LeaseBroken", "ReclaimLease", "ReserveBundles", "PlaceActor", "EndActor"} <= sent
    assert {"HomeReport", "Rejoined", "NodeDead", "JobEnded", "JoinRefused", "ReleaseCopies"} <= sent
    for happening in ("goes down", "dies", "is killed", "is cut off", "stops: "):
        assert any(happening in line for line in what), happening


class _RetriesWithoutEnd(Submission[object]):  # type: ignore[type-var]
    """What a dead worker had begun costs no retry."""

    def worker_died(self, worker: LeasedWorker[object], running_call: int | None, cause: str) -> None:  # type: ignore[type-var]
        super().worker_died(worker, None, cause)


def _broken() -> Machines:
    return Machines(submission=_RetriesWithoutEnd)


def test_a_failed_seed_is_told_by_what_touched_the_task_and_with_fewer_actions() -> None:
    seed = next(seed for seed in range(300) if run_seed(seed, machines=_broken)[1] is not None)
    simulation, violation = run_seed(seed, machines=_broken)
    assert violation is not None
    story = simulation.world.story(violation.concern)
    assert 0 < len(story) < len(simulation.world.log) / 5
    task = simulation.world.name(violation.concern)
    assert sum(f"begins {task}" in line for line in story) > 1
    skipped = shrink(seed, _broken)
    assert skipped
    assert run_seed(seed, skipped, _broken)[1] is not None


def test_the_command_line_counts_failures_and_tells_a_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--seeds", "2"]) == 0
    assert capsys.readouterr().out == "2 seeds, 0 violations\n"
    assert main(["--replay", "3"]) == 0
    assert "nothing is left and nobody waits" in capsys.readouterr().out
    monkeypatch.setattr(cluster_simulation, "failures", lambda first, count: iter(["seed 0: lost"]))
    assert main(["--seeds", "1"]) == 1
    assert capsys.readouterr().out == "seed 0: lost\n1 seeds, 1 violations\n"
