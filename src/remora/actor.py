"""What Ray has in ``ray.actor``: handles, actor classes, ``method`` and ``exit_actor``."""

from remora.api.actor_class import ActorClass
from remora.api.actor_control import exit_actor
from remora.api.actors import ActorHandle, ActorMethod
from remora.api.decorators import method

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]
