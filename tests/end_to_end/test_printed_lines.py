"""What workers print is shown by the driver, all of it, also when the driver ends with the task that printed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

LINES = 20_000


def run(source: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """A driver program that has ended well."""
    program = [sys.executable, "-c", "import remora, sys, os, time\n" + textwrap.dedent(source)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


def test_lines_printed_just_before_the_driver_ends_are_all_shown_with_name_and_pid() -> None:
    shown = run(
        f"""
        remora.init(num_cpus=2)

        @remora.remote
        def count():
            for number in range({LINES}):
                print(number)
            return os.getpid()

        pids = remora.get([count.remote(), count.remote()])
        print(*pids)
        """
    ).stdout.splitlines()
    (pids,) = [line for line in shown if not line.startswith("(")]
    for pid in pids.split():
        of_worker = [line for line in shown if line.startswith(f"(count pid={pid}) ")]
        numbers = [int(line.rpartition(" ")[2]) for line in of_worker]
        expected = list(range(LINES)) * (2 if pids.split() == [pid, pid] else 1)
        assert numbers == expected, f"{len(numbers)} lines of {len(expected)}"


def test_what_an_actor_writes_to_standard_error_is_shown_there_with_its_class() -> None:
    ended = run(
        """
        remora.init(num_cpus=1)

        @remora.remote
        class Speaker:
            def speak(self):
                print("to the log", file=sys.stderr)

        remora.get(Speaker.remote().speak.remote())
        """
    )
    assert ended.stdout == ""
    assert re.fullmatch(r"\(Speaker pid=\d+\) to the log\n", ended.stderr)


def test_a_line_that_was_begun_and_not_ended_is_shown_at_the_end() -> None:
    ended = run(
        """
        remora.init(num_cpus=1)

        @remora.remote
        def ask():
            print("really?", end=" ", flush=True)

        remora.get(ask.remote())
        """
    )
    assert re.fullmatch(r"\(ask pid=\d+\) really\? \n", ended.stdout)


def test_a_driver_that_does_not_want_lines_gets_none() -> None:
    ended = run(
        """
        remora.init(num_cpus=1, log_to_driver=False)

        @remora.remote
        def speak():
            print("hello")

        remora.get(speak.remote())
        """
    )
    assert ended.stdout == ended.stderr == ""


def test_a_task_that_prints_without_end_does_not_keep_the_driver_from_ending() -> None:
    ended = run(
        """
        remora.init(num_cpus=1)

        @remora.remote
        def babble():
            while True:
                print("la " * 20)

        ref = babble.remote()
        remora.wait([ref], timeout=0.3)
        """
    )
    assert "la la" in ended.stdout


def test_a_node_that_does_not_answer_keeps_a_driver_that_leaves_for_a_moment_only() -> None:
    took_s = run(
        """
        import signal, psutil

        remora.init(num_cpus=1)
        (daemon,) = [child for child in psutil.Process().children() if "daemon" in " ".join(child.cmdline())]
        os.kill(daemon.pid, signal.SIGSTOP)
        begun_s = time.monotonic()
        remora.shutdown()
        print(time.monotonic() - begun_s)
        """
    ).stdout
    assert float(took_s) < 10
