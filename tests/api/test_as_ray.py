"""Another name for Remora, and what importing it costs. Each test has an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import ray
import ray.util.queue
from ray.exceptions import GetTimeoutError
from ray.util import ActorPool
import remora

assert ray is remora and ray.util.queue is remora.util.queue
assert GetTimeoutError is remora.exceptions.GetTimeoutError
assert ray.__spec__.name == "remora" and ray.util.queue.__spec__.name == "remora.util.queue"
assert __name__ == "__main__" and sys.modules["__main__"].__file__ == __file__

ray.init(local_mode=True)

@ray.remote
def square(x):
    return x * x

print(ray.get(square.remote(7)), sys.argv[1:])
"""


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "REMORA_INSTALL_AS"}
    environment.update(env or {})
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def check(*arguments: str, env: dict[str, str] | None = None) -> str:
    done = run(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_program_for_ray_runs_unchanged(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert check("-m", "remora.as_ray", str(program), "one", "-x") == "49 ['one', '-x']\n"


def test_a_module_runs_too(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import ray, sys; print(ray.__name__, sys.argv[1:])")
    assert check("-m", "remora.as_ray", "-m", "tool", "a", env={"PYTHONPATH": str(tmp_path)}) == "remora ['a']\n"


def test_without_a_program_the_usage_is_printed() -> None:
    done = run("-m", "remora.as_ray")
    assert done.returncode != 0
    assert "usage: python -m remora.as_ray" in done.stderr


def test_child_processes_know_the_name_too() -> None:
    code = (
        "import remora, subprocess, sys; remora.install_as('ray'); remora.install_as('ray')\n"
        "subprocess.run([sys.executable, '-c', 'import remora; import ray.util; print(ray.util.__name__)'], check=True)"
    )
    assert check("-c", code) == "remora.util\n"


def test_a_module_that_is_imported_already_is_not_replaced() -> None:
    code = "import json as ray, sys; sys.modules['ray'] = ray; import remora; remora.install_as('ray')"
    assert "another module 'ray' is imported already" in run("-c", code).stderr


@pytest.mark.parametrize("name", ["", "a.b", "remora"])
def test_only_another_top_level_name_is_accepted(name: str) -> None:
    from remora.api.alias import install_as

    with pytest.raises(ValueError, match="top-level module"):
        install_as(name)


def test_what_is_not_part_of_remora_is_named() -> None:
    code = "import remora; remora.install_as('ray'); import ray.data"
    assert "ModuleNotFoundError: ray.data: data is not part of Remora" in run("-c", code).stderr


def test_importing_remora_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import remora; new = set(sys.modules) - before\n"
        "heavy = {'numpy', 'asyncio', 'concurrent.futures', 'multiprocessing', 'subprocess', 'psutil'}\n"
        "heavy |= {'rich', 'click'}\n"
        "assert not new & heavy, new & heavy\n"
        "remora.init, remora.remote, remora.get, remora.ObjectRef\n"
        "heavy = {'numpy', 'asyncio', 'concurrent.futures', 'multiprocessing'}\n"
        "assert not set(sys.modules) & heavy, set(sys.modules) & heavy"
    )
    check("-c", code)


def test_every_exported_name_is_there() -> None:
    code = (
        "import remora, remora.util, remora.actor, remora.exceptions, remora.cloudpickle\n"
        "for module in (remora, remora.util, remora.actor, remora.exceptions, remora.cloudpickle):\n"
        "    for name in module.__all__:\n"
        "        assert getattr(module, name) is not None, (module, name)\n"
        "        assert name in dir(module)\n"
        "assert remora.exceptions.RayTaskError is remora.exceptions.TaskError\n"
        "try: remora.nothing\n"
        "except AttributeError as error: print(error)"
    )
    assert check("-c", code) == "module 'remora' has no attribute 'nothing'\n"
