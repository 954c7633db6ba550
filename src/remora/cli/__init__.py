"""The command ``remora``."""
