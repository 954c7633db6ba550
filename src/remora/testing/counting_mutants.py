"""Rules of counting switched off, to see that some story or seed breaks without them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.core.counting.directory import Directory
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import CountingError
from remora.testing.counting_programs import Simulation
from remora.testing.counting_stories import Story
from remora.testing.counting_telling import Telling


@dataclass
class Mutant:
    """A broken part, and where it shows: in stories, told with a fault or without, or in random programs."""

    part: type
    stories: str = ""
    fault: str = ""
    seeds: int = 400

    @property
    def parts(self) -> dict[str, Any]:
        if issubclass(self.part, ProcessRefs):
            return {"process_machine": self.part}
        return {"directory_machine": self.part} if issubclass(self.part, Directory) else {"make_world": self.part}

    def break_something(self, directory: Path) -> str | None:
        """Where it breaks first; None when nothing shows. The stories are in *directory*."""
        stories = [Story.read(directory / f"{name}.txt") for name in self.stories.split()]
        for story in stories:
            try:
                Telling(story, **self.parts).tell_in_order()
            except (AssertionError, CountingError) as violation:
                return f"{story.name}, in order: {violation}"
        for seed in range(self.seeds):
            try:
                for story in stories:
                    Telling(story, **self.parts).tell_shuffled(seed, self.fault)
                if not stories:
                    Simulation(seed, with_faults=bool(self.fault), **self.parts).run()
            except (AssertionError, CountingError) as violation:
                return f"seed {seed}: {violation}"
        return None
