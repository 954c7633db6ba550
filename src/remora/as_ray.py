"""Running a program for Ray unchanged, every ``import ray`` in it reaching Remora.

python -m remora.as_ray program.py arguments ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

from remora.api.alias import install_as


def main(arguments: Sequence[str]) -> None:
    """``python -m remora.as_ray program.py arguments ...``, or ``-m module`` in place of the program."""
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        sys.exit(
            "usage: python -m remora.as_ray PROGRAM.py [ARGUMENTS...]\n       python -m remora.as_ray -m MODULE [...]"
        )
    install_as("ray")
    if arguments[0] == "-m":
        import runpy

        sys.argv = list(arguments[1:])
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    program = arguments[0]
    with open(program, "rb") as file:
        code = compile(file.read(), program, "exec")
    sys.argv = list(arguments)
    sys.path[0] = os.path.dirname(os.path.abspath(program))
    _run_as_main(code, program)


def _run_as_main(code: CodeType, program: str) -> None:
    """Run the program in a ``__main__`` of its own that stays, because workers and exit handlers come back to it."""
    module = ModuleType("__main__")
    module.__file__ = program
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
