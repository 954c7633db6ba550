"""Every error of Remora, under its own name and under Ray's."""

from remora.base.errors import *  # noqa: F403
from remora.base.errors import __all__ as __all__
