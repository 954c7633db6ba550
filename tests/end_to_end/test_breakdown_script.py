"""The script that docs/performance.md takes its stages from runs with the code as it is."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "breakdown.py"


def test_each_stage_of_a_call_a_put_and_a_get_is_timed() -> None:
    run = subprocess.run([sys.executable, SCRIPT, "1"], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    stages = {line.partition(" us  ")[2] for line in run.stdout.splitlines() if " us  " in line}
    assert {"whole", "worker: run it: load, call, serialize the result, make the reply", "get of it"} <= stages
