"""What is measured, and the process that measures it.

This package imports nothing of Remora: the same files run in a peer's virtual environment, where Remora is not
installed. Every function and class that a row sends to other processes is defined inside the row's function, so
it travels by value and the other process needs none of these files.
"""
