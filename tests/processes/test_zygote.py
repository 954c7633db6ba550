"""What a zygote does for a daemon: forks, reports, cleans up."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from node_stand_in import StandInNode

from remora.system.process_control import open_pidfd, wait_ended

TIMEOUT_S = 5.0


def test_a_worker_is_born_with_nothing_of_the_zygote(node: StandInNode) -> None:
    node.fork(main="idle", number=7)
    node.fork(main="tell_facts")
    facts = node.printed()
    assert facts["group"]
    assert facts["oom_score"] >= 500
    assert facts["title"] == "remora:worker"
    assert facts["comm"] == "remora:worker"
    assert facts["sigint"]
    assert facts["sigchld"]
    assert facts["wakeup_fd"] == -1
    assert facts["modules"] == []
    null, *pipes = facts["descriptors"]
    assert null == "/dev/null"
    # Standard output, standard error and the lifeline.
    assert len(pipes) == 3
    assert all(pipe.startswith("pipe:") for pipe in pipes)


def test_a_worker_gets_the_path_directory_and_variables_of_its_job(node: StandInNode, tmp_path: Path) -> None:
    paths = ["/first", *[path for path in os.sys.path if path], "/last"]  # type: ignore[attr-defined]
    node.fork(
        main="tell_facts",
        sys_path=paths,
        working_directory=str(tmp_path),
        main_file="/program.py",
        environment={"REMORA_TEST_SET": "1", "PATH": None},
    )
    facts = node.printed()
    assert facts["sys_path"] == paths
    assert facts["directory"] == str(tmp_path)
    assert facts["main_file"] == "/program.py"
    assert facts["environment"]["REMORA_TEST_SET"] == "1"
    assert "PATH" not in facts["environment"]


def test_a_missing_working_directory_is_told_and_survived(node: StandInNode) -> None:
    node.fork(main="return_at_once", working_directory="/not/there")
    assert "/not/there" in node.ask("output", number=1, is_error=True)
    assert node.ask("reports", kind="Exited")["exit_code"] == 0


def test_blas_threads_are_one_unless_the_user_said_otherwise(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    node = StandInNode(base)
    node.fork(main="tell_facts")
    environment = node.printed()["environment"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    node.close()


def test_workers_share_one_hash_seed_and_draw_different_random_numbers(node: StandInNode) -> None:
    assert node.ask("preload", modules=["numpy", "numpy.random"])["failures"] == []
    facts = []
    for number in (1, 2):
        node.fork(number, "tell_facts")
        facts.append(node.printed(number))
    assert facts[0]["modules"] == ["numpy"]
    assert facts[0]["hash"] == facts[1]["hash"]
    assert facts[0]["random"] != facts[1]["random"]
    assert facts[0]["numpy_random"] != facts[1]["numpy_random"]


def test_a_restarted_zygote_hashes_and_preloads_as_the_first(node: StandInNode) -> None:
    node.ask("preload", modules=["numpy"])
    node.fork(1, "tell_facts")
    os.kill(node.ask("pids")["zygote"], signal.SIGKILL)
    assert node.ask("reports", kind="ZygoteEnded")["how"] == "was killed by SIGKILL (9)"
    node.ask("restart")
    node.ask("reports", kind="Preloaded", count=2)
    node.fork(2, "tell_facts")
    before, after = node.printed(1), node.printed(2)
    assert before["hash"] == after["hash"]
    assert after["modules"] == ["numpy"]
    assert before["descriptors"][0] == after["descriptors"][0] == "/dev/null"
    assert len(after["descriptors"]) == 4


def test_a_module_that_cannot_be_imported_is_reported_and_the_others_are_there(node: StandInNode) -> None:
    report = node.ask("preload", modules=["not_a_module_of_anyone", "colorsys"])
    assert report["modules"] == ["colorsys"]
    assert len(report["failures"]) == 1
    assert "not_a_module_of_anyone" in report["failures"][0]


@pytest.mark.parametrize(
    ("main", "exit_code", "signal_number"),
    [
        ("return_at_once", 0, None),
        ("return_five", 5, None),
        ("exit_three", 3, None),
        ("exit_at_once", 4, None),
        ("exit_with_words", 1, None),
        ("fail", 1, None),
        ("no_such_function", 1, None),
        ("crash", None, signal.SIGSEGV),
    ],
)
def test_how_a_worker_ended_is_reported(
    node: StandInNode, main: str, exit_code: int | None, signal_number: int | None
) -> None:
    pid = node.fork(main=main)
    report = node.ask("reports", kind="Exited")
    assert report["pid"] == pid
    assert report["exit_code"] == exit_code
    assert report["signal"] == signal_number
    assert not report["out_of_memory"]


def test_the_last_words_of_a_worker_are_in_its_pipes(node: StandInNode) -> None:
    for number, main in enumerate(["return_at_once", "fail", "exit_with_words", "crash"], 1):
        node.fork(number, main)
    assert node.ask("output", number=1) == "done without a newline"
    assert "LookupError: where is it" in node.ask("output", number=2, is_error=True)
    assert node.ask("output", number=3, is_error=True) == "no more"
    assert "Segmentation fault" in node.ask("output", number=4, is_error=True)


def test_what_a_worker_started_dies_with_it(node: StandInNode) -> None:
    pid = node.fork(main="have_family")
    pidfds = [open_pidfd(member) for member in node.printed()]
    os.kill(pid, signal.SIGKILL)
    assert node.ask("reports", kind="Exited")["signal"] == signal.SIGKILL
    for pidfd in pidfds:
        assert wait_ended(pidfd, TIMEOUT_S)
        os.close(pidfd)


def test_killing_a_worker_leaves_its_neighbour_alone(node: StandInNode) -> None:
    node.fork(1, "have_family")
    neighbour = open_pidfd(node.fork(2, "have_family"))
    family, neighbours_family = node.printed(1), node.printed(2)
    pidfds = [open_pidfd(member) for member in family]
    neighbours_pidfds = [open_pidfd(member) for member in neighbours_family]
    node.ask("kill", number=1)
    node.ask("reports", kind="Exited", worker_number=1)
    assert all(wait_ended(pidfd, TIMEOUT_S) for pidfd in pidfds)
    assert not any(wait_ended(pidfd, 0) for pidfd in [neighbour, *neighbours_pidfds])
    for pidfd in [neighbour, *pidfds, *neighbours_pidfds]:
        os.close(pidfd)


def test_a_hundred_workers_are_forked_by_one_burst_of_requests(node: StandInNode) -> None:
    node.ask("preload", modules=["node_stand_in"])
    node.ask("fork", first=1, count=100, main="idle", options={"sys_path": ["/x" * 2000, *os.sys.path]})  # type: ignore[attr-defined]
    reports = node.ask("reports", kind="Forked", count=100)
    assert [report["worker_number"] for report in reports] == list(range(1, 101))
    assert len({report["pid"] for report in reports}) == 100


def test_daemon_and_zygote_are_out_of_reach_of_the_terminal(node: StandInNode) -> None:
    facts = node.ask("facts")
    assert facts["session"] == node.node.pid
    assert facts["zygote_session"] == node.ask("pids")["zygote"]
    assert facts["ignored_signals"] == []
    log = os.path.realpath(node.node.log_path)
    assert facts["descriptors"] == {"0": "/dev/null", "1": log, "2": log}
