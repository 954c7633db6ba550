"""The command ``remora``: finds the subcommand and imports only that one."""

from __future__ import annotations

import importlib

import click

#: Module and attribute of each subcommand, and what ``remora --help`` says of it. The sentence stands here because
#: importing all subcommands for one page of help would take longer than reading it.
SUBCOMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("remora.cli.demo", "demo", "Find the most alike modules of Python's standard library."),
    "bench": ("remora.cli.bench.command", "bench", "Measure Remora, alone or against a peer."),
    "start": ("remora.cli.start", "start", "Start a node of a cluster on this machine."),
    "stop": ("remora.cli.start", "stop", "Stop the nodes of clusters on this machine."),
    "status": ("remora.cli.status", "status", "Show resources, tasks and store use of a session or cluster."),
    "memory": ("remora.cli.memory", "memory", "Show every object, who holds it, and from which line."),
    "list": ("remora.cli.list", "list_command", "List nodes, tasks, actors, objects or placement groups."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is run."""

    def list_commands(self, _: click.Context) -> list[str]:
        """The names, in the order of `SUBCOMMANDS`."""
        return list(SUBCOMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """The subcommand, imported; None for an unknown name."""
        if name not in SUBCOMMANDS:
            return None
        module, attribute, _help = SUBCOMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in SUBCOMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="remora")
def main() -> None:
    """Remote objects for Python: tasks, actors and a zero-copy object store."""
