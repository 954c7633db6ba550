"""Threads of numpy's linear algebra, in processes of their own: numpy reads its variables when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import numpy, os
from remora.system.blas_threads import set_blas_threads

def threads():
    numpy.ones((500, 500)) @ numpy.ones((500, 500))
    return len(os.listdir("/proc/self/task"))

print(threads(), set_blas_threads(2), threads())
"""


def test_threads_come_when_they_are_asked_for() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1", "1", "2"]


def test_without_numpy_nobody_is_told() -> None:
    code = "from remora.system.blas_threads import set_blas_threads; print(set_blas_threads(2))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert result.stdout == "0\n"
