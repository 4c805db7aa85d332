"""Which addresses strangers can reach. Owns that judgement; opens nothing."""

from __future__ import annotations

import ipaddress


def reaches_strangers(address: str) -> bool:
    """Whether somebody on another machine may reach what listens on "host:port" or "unix:path".

    A name other than localhost may stand for any address, so it counts as reachable.
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
