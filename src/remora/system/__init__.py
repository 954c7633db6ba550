"""Sockets, shared memory, child processes: does what it is told and reports what happened."""
