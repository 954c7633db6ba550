"""Measures a cluster whose nodes are in network namespaces of this machine: ``python -m remora.testing.cluster_bench``.

A side is Remora (with TLS and in the clear) or Ray. Sides take turns and never run at once, since eight stores fill the
memory of a small machine. What is measured is in :mod:`.driver_program`, which runs unchanged against either.
"""
