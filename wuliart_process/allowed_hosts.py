"""Decides which `Host` headers an HTTP port answers, against DNS rebinding.

DNS rebinding makes a browser call a port of its own machine under an attacker's name, with the
attacker's page as the same origin. The `Host` header then carries that name. A literal address
cannot be rebound, because no DNS answer is involved. Neither can `localhost`, which browsers and
resolvers answer themselves (RFC 6761); names below it are less safe and are rejected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

ANY: Final = "*"
"""As an allowed name: any well-formed name. Turns the protection off."""

_PORT: Final = r"(?::[0-9]{1,5})?"
_NAMED: Final = re.compile(rf"([A-Za-z0-9._-]{{1,254}}){_PORT}")
_BRACKETED: Final = re.compile(rf"\[([0-9A-Fa-f:.]{{2,45}})\]{_PORT}")


def allowed(host_header: str, extra: Collection[str]) -> bool:
    """Returns True if a request with this `Host` header may be answered.

    Allowed are `localhost`, any literal IPv4 address, any literal IPv6 address in brackets, and the
    names in `extra`. The port, case and one trailing dot are ignored.

    Args:
        host_header: the header's value, "host" or "host:port"; empty if there is none.
        extra: further names, without a port; "*" allows every well-formed name.

    Returns:
        False also for an empty or malformed header.
    """
    if bracketed := _BRACKETED.fullmatch(host_header):
        return _is_address(bracketed[1], ipaddress.IPv6Address)
    named = _NAMED.fullmatch(host_header)
    if named is None:
        return False
    host = _canonical(named[1])
    if not host or host.startswith(".") or ".." in host or host.endswith("."):
        return False
    return (
        host == "localhost"
        or ANY in extra
        or host in map(_canonical, extra)
        or _is_address(host, ipaddress.IPv4Address)
    )


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str, kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
