"""``remora start`` and ``remora stop``: what they print, what they refuse, and what they leave, on one machine."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator

import pytest
from machines import BIN, JOIN_FILE, Machine, command_line, wait_until

from remora.testing.network_lab import NetworkLab


@pytest.fixture(scope="module")
def shared(module_lab: NetworkLab) -> Machine:
    return Machine(module_lab.add_host())


@pytest.fixture
def machine(shared: Machine) -> Iterator[Machine]:
    """Nothing runs on it before and after each test."""
    yield shared
    shared.finish("stop")
    wait_until(lambda: not shared.processes(), "the end of what the test started")
    assert_nothing_is_left(shared)


def assert_nothing_is_left(machine: Machine) -> None:
    assert not machine.processes()
    assert not list(machine.tmp.glob("remora-*"))


def test_quiet_prints_the_join_string_and_nothing_else(machine: Machine) -> None:
    printed = machine.remora("start", "--head", "--quiet", "--num-cpus", "1")
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"remora://{machine.address}:")
    assert machine.remora("stop").startswith("stopped: /tmp/remora-")
    assert_nothing_is_left(machine)


def test_without_quiet_it_says_what_to_do_next(machine: Machine) -> None:
    printed = machine.remora("start", "--head", "--num-cpus", "1")
    assert f"remora://{machine.address}:" in printed
    assert "remora start --join" in printed
    assert 'remora.init(address="auto")' in printed


def test_the_join_string_is_in_no_command_line_and_in_no_log(machine: Machine) -> None:
    join = machine.start_head()
    machine.join(join)
    secret = join.rsplit("/", 1)[1]
    with machine.driver() as driver:
        assert driver("remora.get(double.remote(4))") == 8
        lines = [command_line(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    assert any("remora:head" in line for line in lines)
    assert not [line for line in lines if secret in line]
    for path in machine.tmp.rglob("*.log"):
        assert secret not in path.read_text(errors="replace"), path


def test_files_of_a_node_are_its_users_only(machine: Machine) -> None:
    machine.join(machine.start_head())
    seen = 0
    for path in [path for top in machine.tmp.glob("remora-*") for path in (top, *top.rglob("*"))]:
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            assert stat.S_IMODE(status.st_mode) == 0o700, path
        elif not stat.S_ISLNK(status.st_mode):
            assert not stat.S_IMODE(status.st_mode) & 0o077, path
            seen += path.name in ("join", "head.sqlite", "key.pem", "daemon.log")
    assert seen >= 4, list(machine.tmp.rglob("*"))


def test_an_init_without_an_address_opens_no_port(machine: Machine) -> None:
    with machine.driver("local") as driver:
        assert driver("remora.get(double.remote(4))") == 8
        assert machine.run("ss", "--tcp", "--udp", "--listening", "--no-header").strip() == ""
        driver("remora.shutdown()")
        driver("remora.init()")
        assert machine.run("ss", "--tcp", "--udp", "--listening", "--no-header").strip() == ""


def test_a_node_has_one_port(machine: Machine) -> None:
    machine.start_head("--port", "7001", "--num-cpus", "1")
    with machine.driver() as driver:
        assert driver("remora.get(double.remote(4))") == 8
        listening = machine.run("ss", "--tcp", "--udp", "--listening", "--no-header", "--numeric").splitlines()
    assert [line.split()[4] for line in listening] == [f"{machine.address}:7001"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_block_stays_until_it_is_told_to_end_and_leaves_nothing(machine: Machine, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests were started in the background, and what they start ignores the signal with them")
    with machine.start(BIN / "remora", "start", "--head", "--quiet", "--block", "--num-cpus", "1") as program:
        assert program.read_line(30).startswith("remora://")
        program.process.send_signal(number)
        assert program.finish(20) == ""
    assert_nothing_is_left(machine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_node_that_comes_up_ends_with_the_command_that_was_to_tell_of_it(
    machine: Machine, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests were started in the background, and what they start ignores the signal with them")
    for _ in range(10):
        with machine.start(BIN / "remora", "start", "--head", "--quiet") as program:
            wait_until(lambda: any("remora:daemon" in line for line in machine.processes().values()), "its daemon")
            program.process.send_signal(number)
            exit_code = program.process.wait(20)
        if exit_code:
            break
        machine.remora("stop")  # it was up, and the command at its end, before it was signalled
    assert exit_code == 1
    assert_nothing_is_left(machine)


def test_block_ends_with_an_error_when_the_node_does(machine: Machine) -> None:
    with machine.start(
        BIN / "remora", "start", "--head", "--quiet", "--block", "--num-cpus", "1", stderr=-2
    ) as program:
        assert program.read_line(30).startswith("remora://")
        os.kill(machine.pid_of("remora:daemon"), signal.SIGKILL)
        assert "the node has ended" in program.read_line(20)
        assert program.process.wait(20) == 1
    wait_until(lambda: not machine.processes(), "the end of the killed node")
    machine.start_head()  # sweeps what a killed one left


def test_all_addresses_can_be_listened_at(machine: Machine) -> None:
    assert machine.start_head("--node-ip", "0.0.0.0", "--num-cpus", "1").startswith(f"remora://{machine.address}:")
    with machine.driver() as driver:
        assert driver("remora.get(double.remote(4))") == 8


def test_a_join_string_that_others_can_read_is_warned_of(machine: Machine) -> None:
    machine.start_head("--num-cpus", "1")
    warning = f"warning: others can read the secret in {JOIN_FILE}: chmod 600 {JOIN_FILE}\n"
    for mode, said in ((0o600, ""), (0o644, warning)):
        (machine.tmp / "join").chmod(mode)
        done = machine.finish("start", "--join", JOIN_FILE, "--quiet", "--num-cpus", "1")
        assert (done.returncode, done.stderr) == (0, said)


REFUSED = {
    "nothing was said of a cluster": ([], "give --head, or --join FILE, or a join string in REMORA_JOIN"),
    "head and join": (["--head", "--join", "/tmp/x"], "give one of them"),
    "no file": (["--join", "/nope"], "cannot be read from /nope: No such file"),
    "a folder": (["--join", "/tmp"], "cannot be read from /tmp: Is a directory"),
    "state of a joiner": (["--join", "-", "--state", "/tmp/x"], "--state and --no-encrypt are decided"),
    "another machine's address": (["--head", "--node-ip", "192.0.2.1"], "192.0.2.1 is no address of this machine"),
    "a port that is none": (["--head", "--port", "80000"], "80000 is not in the range"),
    "resources that are no JSON": (["--head", "--resources", "disk"], "'disk' is no JSON"),
    "resources that are no object": (["--head", "--resources", "[1]"], "it must be an object"),
    "resources with an option of their own": (["--head", "--resources", '{"CPU": 1}'], "use the argument num_cpus"),
    "a negative amount": (["--head", "--num-cpus", "-1"], "num_cpus=-1.0: it must not be negative"),
    "a label without a value": (["--head", "--labels", "zone"], "'zone' is not KEY=VALUE"),
    "a label that is none": (["--head", "--labels", "zone=a b"], "'a b' is no value of a label"),
    "a folder that cannot be made": (["--head", "--state", "/proc/nope"], "/proc/nope"),
    "an unknown database": (["--head", "--state", "mysql://x"], "not in 'mysql://x'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_sentence(machine: Machine, case: str) -> None:
    arguments, sentence = REFUSED[case]
    said = machine.fail("start", *arguments)
    assert sentence in said
    assert_nothing_is_left(machine)


def test_a_join_string_as_an_argument_is_refused_and_not_repeated(machine: Machine) -> None:
    join = machine.start_head()
    said = machine.fail("start", "--join", join)
    assert "--join takes the name of a file" in said
    assert join.rsplit("/", 1)[1] not in said


def test_a_port_in_use_is_refused_by_its_number(machine: Machine) -> None:
    with machine.host.entered(), socket.create_server((machine.address, 0)) as server:
        port = server.getsockname()[1]
        said = machine.fail("start", "--head", "--port", str(port))
    assert f"port {port} of {machine.address} is in use" in said


def test_stop_without_a_node_says_so(machine: Machine) -> None:
    assert "no node that `remora start` has started runs here" in machine.fail("stop")


def test_stop_ends_all_nodes_of_this_machine_or_the_one_that_is_named(machine: Machine) -> None:
    for _ in range(3):
        machine.start_head("--num-cpus", "1")
    first = machine.session_folders()[0]
    inside = f"/tmp/{first.relative_to(machine.tmp)}"
    assert machine.remora("stop", "--session", inside) == f"stopped: {inside}\n"
    assert first not in machine.session_folders()
    assert len(machine.remora("stop").splitlines()) == 2
    assert_nothing_is_left(machine)


def test_a_stopped_node_ends_its_drivers_with_an_error_that_says_so(machine: Machine) -> None:
    machine.start_head()
    with machine.driver() as driver:
        driver("forever = remora.remote(lambda: open('/tmp/begun', 'w') and __import__('time').sleep(1000)).remote()")
        driver.begin("remora.get(forever)")
        wait_until((machine.tmp / "begun").exists, "the task")
        machine.remora("stop")
        with pytest.raises(AssertionError, match="`remora stop` was called"):
            driver.end()


def test_auto_without_a_node_says_what_to_start(machine: Machine) -> None:
    code = "import remora\ntry: remora.init(address='auto')\nexcept ConnectionError as error: print(error)"
    said = machine.run(sys.executable, "-c", code)
    assert "no node of a cluster runs on this machine" in said
    assert "remora start --head" in said


def test_the_state_of_a_head_outlives_it_where_it_was_told_to(machine: Machine) -> None:
    state = machine.tmp / "state"
    first = machine.start_head("--state", "/tmp/state", "--port", "7003", "--num-cpus", "1")
    assert (state / "head.sqlite").exists()
    said = machine.fail("start", "--head", "--state", "/tmp/state", "--num-cpus", "1")
    assert "/tmp/state" in said
    assert "in use" in said or "another" in said
    machine.remora("stop")
    assert machine.start_head("--state", "/tmp/state", "--port", "7003", "--num-cpus", "1") == first
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in state.iterdir())
    machine.remora("stop")
    machine.run("rm", "-r", "/tmp/state")


def test_two_clusters_side_by_side_do_not_see_each_other(machine: Machine) -> None:
    machine.start_head("--num-cpus", "1", "--resources", '{"m1": 1}')
    machine.start_head("--num-cpus", "1", "--resources", '{"m2": 1}')
    folders = [f"/tmp/{path.relative_to(machine.tmp)}" for path in machine.session_folders()]
    assert len(folders) == 2
    seen = []
    for folder in folders:
        with machine.driver(folder) as driver:
            assert len(driver("alive()")) == 1
            assert driver("remora.get(double.remote(4))") == 8
            seen.append({name for name in driver("remora.cluster_resources()") if name.startswith("m")} - {"memory"})
    assert sorted(map(sorted, seen)) == [["m1"], ["m2"]]
