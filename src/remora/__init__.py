"""Remora: remote objects for Python."""
