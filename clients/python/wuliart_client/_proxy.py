"""Which HTTP proxy a connection goes through: none to this machine, else the environment's.

Owns that judgement: what a target's hosts are, and the variables that gRPC reads. Makes no
connection.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

NO_PROXY_OPTION: Final = ("grpc.enable_http_proxy", 0)

_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""In gRPC's order, for TLS and plain connections alike; it reads no upper-case names."""

_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")

_SCHEME: Final = re.compile(r"(?:dns:(?://[^/]*/)?|(ipv4|ipv6):(?:///)?)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the environment variable that names it; `address` has no user or password."""

    variable: str
    address: str


def is_direct(target: str) -> bool:
    """Returns True for a target that no proxy may stand before.

    Those are Unix sockets and this machine's own addresses: localhost and names below it, loopback
    addresses, and 0.0.0.0 or [::], which connect to this machine. So are several addresses
    (`ipv4:a:1,b:1`), which gRPC asks a proxy for as if they were one name.
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = _hosts(target)
    return len(hosts) > 1 or _is_local(hosts[0])


def proxy_of(target: str) -> Proxy | None:
    """The proxy that gRPC connects to a target through, None if it connects directly."""
    if is_direct(target):
        return None
    found = ((name, os.environ[name]) for name in _VARIABLES if name in os.environ)
    variable, value = next(found, ("", ""))
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname:
        return None  # gRPC logs it and connects directly
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if name in os.environ), "")
    if _is_excepted(_hosts(target)[0], exceptions):
        return None
    return Proxy(variable, parts.netloc.rpartition("@")[2])


def _hosts(target: str) -> list[str]:
    """The hosts of "host:port", "dns:host:port", "ipv4:a:1,b:1" or "ipv6:[a]:1,[b]:1"."""
    scheme = _SCHEME.match(target)
    rest = unquote(target[scheme.end() :]) if scheme else target
    addresses = rest.split(",") if scheme and scheme[1] else [rest]
    return [_host(address) for address in addresses]


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, colon, _ = address.rpartition(":")
    return host if colon and ":" not in host else address


def _is_local(host: str) -> bool:
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_excepted(host: str, exceptions: str) -> bool:
    address = _address(host)
    for entry in filter(None, map(str.strip, exceptions.split(","))):
        if host.lower().endswith(entry.lower().removeprefix(".")):
            return True
        try:
            if address is not None and address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False
