"""At which of its addresses this machine is reached by the others of a cluster, when nobody has said it."""

from __future__ import annotations

import ipaddress
import socket

from remora.base.network_address import LOOPBACK

NOBODY = "192.0.2.1"
"""An address that no machine has (RFC 5737): the way to it is the way out."""
_ANY_PORT = 9


def own_address(head_host: str = "") -> str:
    """The address of this machine from which *head_host* is reached; of a head, the one that faces the way out.

    A machine without a way out, as in a lab or behind a cable between two machines, has the first address of its links
    that is not its loopback's; one without any link has only that.

    Example:
        >>> own_address("127.0.0.1")
        '127.0.0.1'
    """
    return _address_facing(head_host or NOBODY) or _first_address_of_links() or LOOPBACK


def _address_facing(host: str) -> str | None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)  # sends nothing: it only chooses a route
            return str(sock.getsockname()[0])
    except OSError:
        return None


def _first_address_of_links() -> str | None:
    import psutil

    for _, addresses in sorted(psutil.net_if_addrs().items()):
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6) and _is_for_others(one.address):
                return str(one.address)
    return None


def _is_for_others(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # it has a zone: link-local, and of no use without it
        return False
    return not parsed.is_loopback and not parsed.is_link_local
