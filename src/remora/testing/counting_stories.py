"""Stories about counting: small programs on a small cluster, as text.

A story names its nodes and processes, then says what each does, in an order that a reader can follow::

    # A ref is kept by a worker of another node.
    nodes N1: A | N2: W X
    A put o
    A call W t1 [o] -> r
    A drop o
    W keep t1 o
    W return t1

The steps are: ``put NAME``, ``put NAME [REFS]``, ``store NAME [REFS]`` (in the arena), ``store NAME [REFS] copies N``
(on N nodes), ``actor PROCESS NAME`` (make it
an actor), ``call WORKER TASK [REFS] -> RESULT`` (nested refs), ``call WORKER TASK values [REFS] -> RESULT`` (at top
level), ``return TASK [REFS]``, ``return TASK large [REFS]``, ``yield TASK [REFS] -> ITEM``, ``keep TASK REF``, ``get
REF``, ``get REF in TASK``, ``know REF`` (whether it has a value), ``close REF`` (nothing looks at its value any more),
``drop REF``; and to wait: ``quiet`` (nothing is on its way), ``has REF`` (its value is
known here), ``has TASK`` (it runs here), ``closed TASK``.

Lines of nobody: ``kill PROCESS``, ``kill node NODE`` and ``cut NODE NODE`` are faults, ``stall FROM TO`` and ``unstall
FROM TO`` stop and start one channel, ``settle`` delivers all that is not stalled, ``wait SECONDS`` lets time pass,
``evict NODE`` asks for the space of all its copies.

Told *in order*, the first step that can be done is done, else the oldest message is delivered; what cannot be done
any more after a fault is left out. Told *shuffled*, from a seed, the processes go their own ways and messages take any
time. Either ends with every task ended, every ref dropped and the check that nothing is left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from remora.testing.counting_world import Layout

FAULTS = ("kill", "cut")
TIMING = ("stall", "unstall", "settle", "wait", "evict")
Step = list[str]


@dataclass
class Story:
    """A parsed story."""

    name: str
    layout: Layout
    steps: list[tuple[str, Step]]
    """Who (empty for faults) and what, in words."""

    @classmethod
    def read(cls, path: Path) -> Story:
        """The story in a file."""
        return cls.parse(path.stem, path.read_text())

    @classmethod
    def parse(cls, name: str, text: str) -> Story:
        """The story in a text. Lines that start with ``#`` are for the reader.

        Raises:
            ValueError: a line is of nobody in the story.
        """
        layout: Layout = {}
        steps: list[tuple[str, Step]] = []
        for line in text.splitlines():
            words = re.findall(r"\[[^\]]*\]|[^\s\[\]]+", line)
            if not words or line.startswith("#"):
                continue
            if words[0] == "nodes":
                for part in line.removeprefix("nodes").split("|"):
                    node, processes = part.split(":")
                    layout[node.strip()] = processes.split()
            elif words[0] in FAULTS + TIMING:
                steps.append(("", words))
            elif any(words[0] in processes for processes in layout.values()) or not layout:
                steps.append((words[0], words[1:]))
            else:
                raise ValueError(f"story {name}: nobody is called {words[0]} in {line!r}")
        return cls(name, layout, steps)

    @property
    def kills_a_node(self) -> bool:
        """Whether a node dies in it."""
        return any(step[:2] == ["kill", "node"] for _, step in self.steps)


@dataclass
class Death:
    """A process or node (``node NAME``) dies after so many steps; *settled*: when all has arrived."""

    victim: str
    after_steps: int
    settled: bool = False


def names_in(word: str) -> list[str]:
    """The names in ``[a, b]``."""
    return word.strip("[]").replace(",", " ").split()
