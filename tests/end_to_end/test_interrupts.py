"""Ctrl-C: a wait ends at once, nothing is lost, and what was waited for can be waited for again."""

from __future__ import annotations

import signal

from driver_programs import running, told_by

INTERRUPTED_GET = """
import json, os, remora
remora.init(num_cpus=1)

@remora.remote
def reads(path):
    with open(path) as pipe:
        return pipe.read()

os.mkfifo("{pipe}")
ref = reads.remote("{pipe}")
with open("{pipe}", "w") as pipe:
    try:
        print(json.dumps("waiting"), flush=True)
        remora.get(ref)
    except KeyboardInterrupt:
        print(json.dumps("interrupted"), flush=True)
    pipe.write("done")
print(json.dumps(remora.get(ref, timeout=10)), flush=True)
"""


def test_ctrl_c_ends_a_get_at_once_and_the_value_can_still_be_got(tmp_path: object) -> None:
    with running(INTERRUPTED_GET.format(pipe=f"{tmp_path}/pipe")) as program:
        assert program.told() == "waiting"
        program.kill(signal.SIGINT)
        assert program.told(3) == "interrupted"
        assert program.told() == "done"
        assert program.wait() == 0


def test_an_uncaught_ctrl_c_ends_the_program_and_its_session() -> None:
    source = """
    import json, signal, remora
    remora.init(num_cpus=1)

    @remora.remote
    def endless():
        signal.pause()

    ref = endless.remote()
    print(json.dumps("waiting"), flush=True)
    remora.get(ref)
    """
    with running(source) as program:
        program.told()
        program.family()
        program.kill(signal.SIGINT)
        assert program.wait(5) == -signal.SIGINT
        assert "KeyboardInterrupt" in program.errors()
        assert program.survivors() == []


STORM = """
import json, os, signal, sys, threading, time, remora
remora.init(num_cpus=1)

@remora.remote
class Counter:
    def __init__(self):
        self.seen = []
    def add(self, number):
        self.seen.append(number)
        return number
    def all_seen(self):
        return self.seen

CALLS = {calls}
counter = Counter.remote()
remora.get(counter.add.remote(-1))
interrupts = wrong = number = 0
ended = threading.Event()

def storm():
    main = threading.main_thread().ident
    while not ended.wait(0.0005):
        signal.pthread_kill(main, signal.SIGINT)

sender = threading.Thread(target=storm)
refs = []
ref = got = None
sender.start()
while number < CALLS or refs:
    try:
        while number < CALLS:
            ref = None
            ref = counter.add.remote(number)
            refs.append((number, ref)); number += 1; ref = None
            if len(refs) >= 20:
                break
        while refs:
            expected, waited = refs[0]
            if remora.get(waited, timeout=20) != expected:
                wrong += 1
            del refs[0]
    except KeyboardInterrupt:
        interrupts += 1
while sender.is_alive():
    try:
        ended.set()
        sender.join()
    except KeyboardInterrupt:
        interrupts += 1
seen = remora.get(counter.all_seen.remote(), timeout=20)
values = [one for one in seen if one >= 0]
print(json.dumps([interrupts, wrong, sorted(set(values)) == list(range(CALLS)), values == sorted(values)]), flush=True)
"""


def storm(calls: int) -> list[object]:
    told: list[object] = told_by(STORM.format(calls=calls), timeout_s=60)
    return told


def test_a_hundred_thousand_calls_under_a_storm_of_ctrl_c_lose_nothing() -> None:
    interrupts, wrong, all_seen, in_order = storm(100_000)
    assert isinstance(interrupts, int)
    assert interrupts > 100
    assert wrong == 0
    assert all_seen
    assert in_order


def test_space_asked_for_by_a_put_that_was_interrupted_goes_back() -> None:
    source = """
    import json, threading, signal, time, numpy as np, remora
    remora.init(num_cpus=1, object_store_memory=64 << 20)
    held = remora.put(np.zeros(40 << 20, "u1"))
    value = np.ones(40 << 20, "u1")
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    try:
        remora.put(value)
        told = "put"
    except KeyboardInterrupt:
        told = "interrupted"
    del held
    for _ in range(5):
        assert remora.get(remora.put(value)).sum() == 40 << 20
    print(json.dumps(told), flush=True)
    """
    assert told_by(source) == "interrupted"
