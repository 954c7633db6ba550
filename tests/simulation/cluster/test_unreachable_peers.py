"""Two nodes that cannot reach each other, and a head that is killed after it has heard of it."""

from __future__ import annotations

from remora.base.resources import Resources
from remora.core.membership import UNREACHABLE_S
from remora.testing.cluster_world import World

TURN_S = 0.1


def run(world: World, seconds: float) -> None:
    """All that happens in so many seconds."""
    for _ in range(round(seconds / TURN_S)):
        world.pass_time(TURN_S)
        while move(world):
            pass


def move(world: World) -> bool:
    """Something happens; false when nothing can without time."""
    step, channels = next(world.steps(), None), world.open_channels()
    if step is not None:
        world.take_step(step)
    elif channels:
        world.deliver(channels[0])
    return step is not None or bool(channels)


def test_a_head_that_was_killed_hears_anew_of_nodes_that_cannot_reach_each_other() -> None:
    world = World()
    one, two, three = (world.add_node(Resources.of(num_cpus=1)) for _ in range(3))
    run(world, 1)
    two.head.peer_reachability(three.node, False, "its link broke")
    run(world, 1)
    assert two.head.link.kept_count == 0, "the report is confirmed, so the link does not say it again"
    world.kill_head()
    world.restart_head()
    run(world, UNREACHABLE_S - 1)
    assert three.node in world.alive
    run(world, 2)
    assert {one.node, two.node} <= world.alive
    assert three.node not in world.alive
