"""Decides whether other machines can reach an address."""

from __future__ import annotations

import ipaddress


def reaches_other_machines(address: str) -> bool:
    """Returns True if other machines may reach a server at "host:port" or "unix:path".

    A name other than localhost may stand for any address and counts as reachable.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return False
    host = address.rpartition(":")[0].strip("[]") or address
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
