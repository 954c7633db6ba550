"""``remora list``: one table, or JSON, of nodes, tasks, actors, jobs, objects or placement groups."""

from __future__ import annotations

from datetime import datetime
from time import time
from typing import Any

import click
from rich.markup import escape

from remora.base.ids import node_of, short
from remora.cli.inspector import ask, choose_session, session_option
from remora.cli.joined_memory import join_memory
from remora.cli.joined_status import ClusterStatus, join_status
from remora.cli.status import describe_bundles, describe_process
from remora.cli.text import (
    describe_silent,
    format_amounts,
    format_bytes,
    format_count,
    format_duration,
    format_labels,
    format_site,
    make_console,
    make_table,
    to_json,
    without_bundles,
)
from remora.messages.inspection import (
    CallReport,
    GetNodes,
    InspectMemory,
    InspectStatus,
    Jobs,
    ListJobs,
    MemoryReport,
    Nodes,
    ProcessStatus,
    SilentNode,
    StatusReport,
)
from remora.system.session_directory import SessionRecord

Row = dict[str, Any]
"""What JSON shows of one thing; a table shows some of it, and shorter."""


class Listing:
    """What was found: for each thing a row for JSON and the cells of a table; who did not answer."""

    def __init__(self, title: str, *columns: str) -> None:
        self.title = title
        self.columns = columns
        self.rows: list[tuple[Row, list[str]]] = []
        self.silent: list[SilentNode] = []
        self.total = 0
        """How many there are, when that is more than were told."""

    def add(self, row: Row, *cells: str) -> None:
        """One thing more."""
        self.rows.append((row, list(cells)))

    def show(self, limit: int, as_json: bool) -> None:
        """Print the first *limit*."""
        for one in self.silent:
            click.echo(describe_silent(one), err=True)
        shown = self.rows[:limit]
        if as_json:
            click.echo(to_json([row for row, _ in shown], bytes.hex))
            return
        total = max(self.total, len(self.rows))
        title = format_count(total, self.title)
        if total > len(shown):
            title += f", {len(shown):,} of them here (--limit N shows more)"
        table = make_table(title, *self.columns)
        for _, cells in shown:
            table.add_row(*map(escape, cells))
        make_console().print(table)


# ---------------------------------------------------------------------- what is listed


def list_nodes(session: SessionRecord, limit: int) -> Listing:
    """Nodes that live, then those that are gone, with the cause."""
    listing = Listing("nodes", "id", "state", "address", "resources", "labels", "why")
    for node in ask(session, GetNodes(1), Nodes).nodes:
        state = "ALIVE" if node.is_alive else "DEAD"
        row = {
            "node_id": node.node,
            "state": state,
            "node_address": node.address,
            "node_name": node.hostname,
            "is_head_node": node.is_head_node,
            "resources_total": node.resources,
            "resources_available": node.available,
            "labels": node.labels,
            "state_message": node.cause,
        }
        resources = format_amounts(without_bundles(node.resources)) if node.is_alive else ""
        labels = format_labels(node.labels)
        listing.add(row, short(node.node), state, node.address, resources, labels, node.cause)
    return listing


def list_tasks(session: SessionRecord, limit: int) -> Listing:
    """Calls of functions and methods that have not ended, those that run first."""
    status = join_status(ask(session, InspectStatus(max_calls=limit), StatusReport))
    listing = Listing("calls", "id", "name", "state", "called by", "runs at")
    listing.silent = status.silent
    listing.total = sum(call.queued + call.sent for process in status.processes for call in process.submitted)
    workers = {task: process for process in status.processes for task in process.running_tasks}
    calls = [(call, caller) for caller in status.processes for call in caller.calls]
    calls.sort(key=lambda one: one[0].task not in workers)
    for call, caller in calls:
        _add_call(listing, call, caller, workers.get(call.task), status)
    return listing


CALL_STATES = {
    "waits_for_arguments": "PENDING_ARGS_AVAIL",
    "queued": "PENDING_NODE_ASSIGNMENT",
    "sent": "SUBMITTED_TO_WORKER",
}
"""What Ray calls them."""


def _add_call(
    listing: Listing, call: CallReport, caller: ProcessStatus, worker: ProcessStatus | None, status: ClusterStatus
) -> None:
    state = "RUNNING" if worker is not None else CALL_STATES[call.state]
    row = {
        "task_id": call.task,
        "name": call.name,
        "state": state,
        "attempt_number": call.attempt,
        "caller_id": caller.process,
        "caller_pid": caller.pid,
        "node_id": node_of(worker.process) if worker is not None else None,
        "worker_id": worker.process if worker is not None else None,
        "worker_pid": worker.pid if worker is not None else None,
    }
    runs_at = describe_process(worker, status) if worker is not None else ""
    listing.add(row, short(call.task), call.name, state, describe_process(caller, status), runs_at)


def list_actors(session: SessionRecord, limit: int) -> Listing:
    """Actors that live, or whose handles do."""
    status = join_status(ask(session, InspectStatus(), StatusReport))
    listing = Listing("actors", "id", "class", "state", "name", "node", ">pid", ">restarts", "job", "why")
    listing.silent = status.silent
    for actor in status.actors:
        row = {
            "actor_id": actor.actor,
            "class_name": actor.class_name,
            "state": actor.state.upper(),
            "name": actor.name,
            "ray_namespace": actor.namespace,
            "node_id": actor.node or None,
            "pid": actor.pid,
            "num_restarts": actor.restarts,
            "job_id": actor.job,
            "is_detached": actor.is_detached,
            "death_cause": actor.cause,
        }
        cells = (short(actor.node), str(actor.pid or ""), str(actor.restarts or ""), short(actor.job), actor.cause)
        listing.add(row, short(actor.actor), actor.class_name, actor.state.upper(), actor.name, *cells)
    return listing


def list_jobs(session: SessionRecord, limit: int) -> Listing:
    """Drivers that run, then those that ended, the last one first."""
    listing = Listing("jobs", "id", "state", ">pid", "program", "began", ">took", "why")
    reports = ask(session, ListJobs(1), Jobs).jobs
    for job in sorted(reports, key=lambda job: (bool(job.ended_s), -job.ended_s, -job.started_s)):
        state = "ENDED" if job.ended_s else "RUNNING"
        row = {
            "job_id": job.job,
            "type": "DRIVER",
            "status": state,
            "entrypoint": job.entrypoint,
            "ray_namespace": job.namespace,
            "driver_node_id": node_of(job.job),
            "driver_pid": job.pid,
            "start_time": job.started_s,
            "end_time": job.ended_s or None,
            "message": job.cause,
        }
        began = datetime.fromtimestamp(job.started_s).strftime("%Y-%m-%d %H:%M:%S")
        took = format_duration((job.ended_s or time()) - job.started_s)
        listing.add(row, short(job.job), state, str(job.pid), job.entrypoint, began, took, job.cause)
    return listing


def list_objects(session: SessionRecord, limit: int) -> Listing:
    """Objects that another process may know of, the largest first."""
    memory = join_memory(ask(session, InspectMemory(limit), MemoryReport), limit)
    listing = Listing("objects", "id", ">size", "state", "lies on", ">held by", "line")
    listing.silent = memory.silent
    listing.total = memory.total_objects
    for one in memory.objects:
        places = [*([one.primary] if one.primary else []), *(copy.node for copy in one.copies)]
        site = next((holder.site for holder in one.holders if holder.site), "")
        row = {
            "object_id": one.id,
            "object_size": one.size_bytes,
            "state": one.state.upper(),
            "node_ids": places,
            "home_node_id": node_of(one.id),
            "call_site": site,
            "holders": one.holders,
            "views": one.views,
            "is_leaked": one.is_leaked,
        }
        listing.add(
            row,
            short(one.id),
            format_bytes(one.size_bytes),
            one.state.upper(),
            ", ".join(map(short, places)),
            str(len(one.holders)),
            format_site(site),
        )
    return listing


def list_placement_groups(session: SessionRecord, limit: int) -> Listing:
    """Placement groups, with those that were removed last."""
    status = join_status(ask(session, InspectStatus(), StatusReport))
    listing = Listing("placement groups", "id", "name", "strategy", "state", "bundles", "why")
    listing.silent = status.silent
    for group in status.placement_groups:
        nodes = group.nodes or [b""] * len(group.bundles)
        bundles = zip(group.bundles, nodes, strict=True)
        row = {
            "placement_group_id": group.group,
            "name": group.name,
            "ray_namespace": group.namespace,
            "state": group.state.upper(),
            "strategy": group.strategy,
            "bundles": [{"resources": bundle, "node_id": node or None} for bundle, node in bundles],
            "creator_job_id": group.job,
            "is_detached": group.is_detached,
            "state_message": group.reason,
        }
        bundle_lines = "\n".join(describe_bundles(group))
        listing.add(row, group.group.hex(), group.name, group.strategy, group.state.upper(), bundle_lines, group.reason)
    return listing


KINDS = {
    "nodes": list_nodes,
    "tasks": list_tasks,
    "actors": list_actors,
    "jobs": list_jobs,
    "objects": list_objects,
    "placement-groups": list_placement_groups,
}


@click.command(name="list")
@click.argument("kind", type=click.Choice(list(KINDS)))
@session_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON; ids are hexadecimal, as in Python.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many to list.")
def list_command(kind: str, session: str | None, as_json: bool, limit: int) -> None:
    """List nodes, tasks, actors, jobs, objects or placement groups of a session, or of its cluster.

    Who does not answer in time is named on standard error, and what only he knows is missing.
    """
    chosen, _ = choose_session(session)
    KINDS[kind](chosen, limit).show(limit, as_json)
