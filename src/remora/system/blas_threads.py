"""How many threads numpy's linear algebra uses, changed while it is loaded.

The zygote loads it with one thread, because a process with more cannot be forked safely, and the libraries read the
environment only when they are loaded.
"""

from __future__ import annotations

import ctypes
import re

_LIBRARY = re.compile(r"/\S*(?:openblas|mkl_rt|libgomp|libomp)[^/\s]*\.so[^/\s]*$", re.MULTILINE)
_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
    "omp_set_num_threads",
)


def set_blas_threads(count: int) -> int:
    """Let the linear algebra libraries that are loaded use *count* threads; how many libraries were told.

    Example:
        >>> import numpy
        >>> set_blas_threads(2)
        1
    """
    with open("/proc/self/maps") as file:
        paths = set(_LIBRARY.findall(file.read()))
    told = 0
    for path in paths:
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(count))
                told += 1
                break
    return told
