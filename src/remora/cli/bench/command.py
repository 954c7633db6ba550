"""The command ``remora bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from remora.cli.bench.environments import PEER_PACKAGES, ours, peer_environment
from remora.cli.bench.markdown import to_markdown
from remora.cli.bench.pairs import Effort
from remora.cli.bench.report import print_progress, print_report
from remora.cli.bench.runner import run_benchmark
from remora.cli.bench.selection import select


@click.command()
@click.option("--against", "peer", type=click.Choice(list(PEER_PACKAGES)), help="Measure this peer in the same run.")
@click.option("--rows", "patterns", multiple=True, metavar="PATTERN", help="Part of a row's name, or a shell pattern.")
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(1), help="Measurements on each side.")
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(0.001), help="Length of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path, dir_okay=False), help="Write tables here.")
@click.option("--list", "only_list", is_flag=True, help="Print the names of the rows and stop.")
def bench(
    peer: str | None,
    patterns: tuple[str, ...],
    pairs: int,
    seconds: float,
    json_file: Path | None,
    markdown_file: Path | None,
    only_list: bool,
) -> None:
    """Measure Remora, alone or against a peer in alternating pairs.

    The peer is installed into an environment of its own under ~/.cache/remora/peers on first use.
    """
    try:
        selection = select(peer or "", patterns)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if only_list:
        click.echo("\n".join(selection.names()))
        return
    console = Console()
    with console.status("starting") as status:
        try:
            theirs = peer_environment(peer, console.print) if peer else None
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None
        run = run_benchmark(
            selection,
            ours(),
            theirs,
            Effort(pairs, seconds),
            say=status.update,
            show=lambda result: print_progress(result, peer or "", console),
        )
    print_report(run, console)
    if json_file:
        json_file.write_text(json.dumps(run.to_json(), indent=1) + "\n")
    if markdown_file:
        markdown_file.write_text(to_markdown(run))
