"""The command ``python -m remora.testing.cluster_bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from remora.cli.bench.environments import peer_environment
from remora.cli.bench.markdown import to_markdown
from remora.cli.bench.report import print_report
from remora.testing.cluster_bench.catalogue import all_scenarios, select
from remora.testing.cluster_bench.parts import Effort
from remora.testing.cluster_bench.runner import ClusterRun
from remora.testing.namespaces import skip_reason

DEFAULTS = Effort()


@click.command()
@click.option("--against", "peer", type=click.Choice(["ray"]), help="Measure this peer in the same run.")
@click.option("--rows", "patterns", multiple=True, metavar="PATTERN", help="Part of a row's name, or a shell pattern.")
@click.option("--pairs", default=DEFAULTS.pairs, show_default=True, type=click.IntRange(1), help="Of short rows.")
@click.option(
    "--long-pairs", default=DEFAULTS.long_pairs, show_default=True, type=click.IntRange(1), help="Of long ones."
)
@click.option("--seconds", default=DEFAULTS.seconds, show_default=True, type=click.FloatRange(0.001), help="Of a rate.")
@click.option("--large", default=DEFAULTS.large_bytes, show_default=True, type=click.IntRange(1), help="Bytes.")
@click.option("--small", default=DEFAULTS.small_objects, show_default=True, type=click.IntRange(1), help="Objects.")
@click.option("--most-readers", default=max(DEFAULTS.readers), show_default=True, type=click.IntRange(1))
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path, dir_okay=False), help="Write tables here.")
@click.option("--list", "only_list", is_flag=True, help="Print the names of the rows and stop.")
def cluster_bench(
    peer: str | None,
    patterns: tuple[str, ...],
    pairs: int,
    long_pairs: int,
    seconds: float,
    large: int,
    small: int,
    most_readers: int,
    json_file: Path | None,
    markdown_file: Path | None,
    only_list: bool,
) -> None:
    """Measure a cluster of Remora in network namespaces, alone or against a peer in alternating pairs.

    Root is needed. A peer is installed into an environment of its own under ~/.cache/remora/peers on first use.
    """
    readers = (*(count for count in DEFAULTS.readers if count < most_readers), most_readers)
    effort = Effort(pairs, long_pairs, seconds, large, small, readers)
    try:
        scenarios = select(all_scenarios(effort), patterns)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if only_list:
        names = [row.name_for(side) for scenario in scenarios for row in scenario.rows() for side in row.sides]
        click.echo("\n".join(names))
        return
    if reason := skip_reason():
        raise click.ClickException(reason)
    console = Console()
    try:
        theirs = peer_environment(peer, console.print) if peer else None
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    run = ClusterRun(
        scenarios, theirs, effort, say=lambda text: console.print(text, highlight=False, markup=False)
    ).run()
    print_report(run, console)
    if json_file:
        json_file.write_text(json.dumps(run.to_json(), indent=1) + "\n")
    if markdown_file:
        markdown_file.write_text(to_markdown(run))


if __name__ == "__main__":
    cluster_bench()
