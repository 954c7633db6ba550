"""Programs on a host: what they say is heard, and none is waited for without an end."""

from __future__ import annotations

import os
import subprocess

import pytest
from running_processes import is_running

from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab
from remora.testing.network_programs import ProgramFailed


@pytest.fixture
def host(lab: NetworkLab) -> Host:
    return lab.add_host("north")


def test_a_program_runs_within_the_network_of_its_host_and_sees_the_same_files(host: Host) -> None:
    namespace = os.stat(f"/run/netns/{host.namespace.name}").st_ino
    assert host.run(["readlink", "/proc/self/ns/net"]) == f"net:[{namespace}]\n"
    assert os.readlink("/proc/thread-self/ns/net") != f"net:[{namespace}]"
    assert host.run(["ls", "/sys/fs"]) == subprocess.check_output(["ls", "/sys/fs"], text=True)


def test_python_code_runs_with_the_package_and_its_arguments(host: Host) -> None:
    code = """
        import sys
        from remora.base.ids import NodeId
        print(NodeId.__name__, *sys.argv[1:])
    """
    assert host.python(code, "x", "y z") == "NodeId x y z\n"


def test_a_program_that_fails_is_shown_with_what_it_said(host: Host) -> None:
    with pytest.raises(ProgramFailed, match=r"(?s)Host north 10\..*ended with 3:\nsaid\n.*complained"):
        host.python("import sys; print('said'); print('complained', file=sys.stderr); sys.exit(3)")


def test_a_program_that_does_not_end_is_killed_and_shown(host: Host) -> None:
    with pytest.raises(ProgramFailed, match=r"(?s)begun.*killed after 0.3 s"):
        host.run(["sh", "-c", "echo begun; exec sleep 1000"], timeout_s=0.3)


def test_a_program_is_spoken_to_line_by_line(host: Host) -> None:
    with host.start_python("print('ready'); print(input()[::-1]); print('end')") as program:
        assert program.read_line() == "ready"
        program.write_line("abc")
        assert program.read_line() == "cba"
        assert program.finish() == "end\n"


def test_a_program_that_is_silent_or_gone_or_fails_is_not_waited_for(host: Host) -> None:
    with host.start_python("input()") as program:
        with pytest.raises(ProgramFailed, match="is silent"):
            program.read_line(timeout_s=0.01)
        program.write_line("")
        with pytest.raises(ProgramFailed, match="ended without another line"):
            program.read_line()
    with (
        host.start_python("import sys; print('last'); sys.exit(2)") as program,
        pytest.raises(ProgramFailed, match="exit code 2"),
    ):
        program.finish()


def test_a_power_failure_ends_every_process_of_a_host_and_leaves_the_host(host: Host) -> None:
    code = """
        import os
        print(os.getpid())
        if os.fork() == 0:
            os.setsid()
            print(os.getpid())
        input()
    """
    with host.start_python(code) as program:
        pids = [int(program.read_line()), int(program.read_line())]
        host.kill_processes()
        assert program.process.returncode == -9
        for pid in pids:
            assert not is_running(pid)
    assert host.run(["echo", "lives"]) == "lives\n"
