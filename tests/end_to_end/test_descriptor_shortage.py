"""A driver that has no file descriptor left for a while says so, and goes on when it has some."""

from __future__ import annotations

import pytest
from driver_programs import running

PROGRAM = """
import json, os, resource, warnings
import remora

warnings.simplefilter("always")

@remora.remote
def double(number):
    return 2 * number

@remora.remote
class Counter:
    def count(self):
        return 1

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
remora.init(num_cpus=2)
remora.get(remora.put(1)), remora.wait  # imported while files can be opened
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
ref = CALL
ready, waiting = remora.wait([ref], timeout=1)
print(json.dumps(len(waiting)), flush=True)
for descriptor in held:
    os.close(descriptor)
print(json.dumps(remora.get(ref, timeout=30)), flush=True)
print(json.dumps(remora.get(double.remote(2), timeout=30)), flush=True)
"""


@pytest.mark.parametrize(("call", "value"), [("double.remote(21)", 42), ("Counter.remote().count.remote()", 1)])
def test_calls_wait_for_a_descriptor_with_a_warning_and_then_go_on(call: str, value: int) -> None:
    with running(PROGRAM.replace("CALL", call)) as program:
        assert program.told() == 1, "it needs no descriptor"
        assert program.told(40) == value
        assert program.told(40) == 4
        assert program.wait() == 0
        assert "Too many open files; close files, or raise the limit (ulimit -n)" in program.errors()
