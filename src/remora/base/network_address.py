"""Addresses as text: ``host:port``, where a numeric IPv6 host is in brackets."""

from __future__ import annotations

HIGHEST_PORT = 65535
LOOPBACK = "127.0.0.1"
"""Also what stands for the address of a node that listens nowhere."""


def join_address(host: str, port: int) -> str:
    """One text for host and port.

    Example:
        >>> join_address("fd00::1", 6390)
        '[fd00::1]:6390'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        ValueError: it is no ``host:port``; the message says what is wrong with it.

    Example:
        >>> split_address("[fd00::1]:6390")
        ('fd00::1', 6390)
    """
    host, colon, port_text = address.rpartition(":")
    if not colon:
        raise ValueError(f"the address {address!r} has no port: it must be host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"the address {address!r} has an IPv6 host without brackets: it must be [host]:port")
    if not host or any(character.isspace() or character in "[]/@" for character in host):
        raise ValueError(f"the address {address!r} has no valid host: it must be host:port")
    if not (port_text.isascii() and port_text.isdigit()) or not 1 <= int(port_text) <= HIGHEST_PORT:
        raise ValueError(f"the address {address!r} has no valid port: it must be a number from 1 to {HIGHEST_PORT}")
    return host, int(port_text)
