"""Arrow arrays: their own reduction sends buffers out of band, but the whole buffers even of a small slice.

Tables, record batches and chunked arrays are made of arrays, so this one rule is enough for all.
"""

from __future__ import annotations

from typing import Any

import pyarrow

from remora.serialization.reducers import register_reducer

SLACK_BYTES = 256
"""Padding and unused bits of its buffers that an array may carry without being copied."""


def register() -> None:
    """Has Arrow arrays taken apart by this module."""
    register_reducer(pyarrow.Array, reduce_array, subclasses=True)


def reduce_array(array: Any) -> Any:
    """The array as Arrow takes it apart; a slice is first copied into buffers of its own size."""
    if array.get_total_buffer_size() > array.nbytes + SLACK_BYTES:
        array = pyarrow.concat_arrays([array])
    return array.__reduce_ex__(5)
