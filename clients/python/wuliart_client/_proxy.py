"""Which HTTP proxy a connection uses: none to this machine, otherwise the environment's.

gRPC applies the environment's proxy to every target, loopback addresses included. This module
decides where to switch that off, and predicts gRPC's choice so that error messages can name the
proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

NO_PROXY_OPTION: Final = ("grpc.enable_http_proxy", 0)

HOSTS_FILE: Final = Path("/etc/hosts")

_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""In gRPC's order, for TLS and plain connections alike. gRPC reads no upper-case names."""

_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")

_SCHEME: Final = re.compile(r"(?:dns:(?://[^/]*/)?|(ipv4|ipv6):(?:///)?)")

_LOCAL_NAMES: Final = frozenset(
    {
        "localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6",
        "localhost6.localdomain6", "ip6-localhost", "ip6-loopback",
    }
)  # fmt: skip
"""Names of the loopback addresses in the hosts files of Debian and Fedora."""

_NUMERIC: Final = re.compile(r"[0-9a-fx.]+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the environment variable that names it; `address` has no user or password."""

    variable: str
    address: str


def is_direct(target: str) -> bool:
    """Returns True for a target that must not be reached through a proxy.

    These are Unix sockets and this machine: loopback addresses in every spelling of inet_aton(3)
    (127.1, 0x7f000001), 0.0.0.0 and [::], localhost with the names below it and its aliases, and
    names that the hosts file gives to a loopback address. Several addresses (`ipv4:a:1,b:1`) are
    direct, too, because gRPC would pass them to a proxy as if they were one name.
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = _hosts(target)
    return len(hosts) > 1 or _is_local(hosts[0])


def proxy_of(target: str) -> Proxy | None:
    """Returns the proxy that gRPC uses for a target; None if it connects directly."""
    if is_direct(target):
        return None
    found = ((name, os.environ[name]) for name in _VARIABLES if name in os.environ)
    variable, value = next(found, ("", ""))
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname:
        return None  # gRPC logs an error and connects directly
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if name in os.environ), "")
    if _is_excepted(_hosts(target)[0], exceptions):
        return None
    return Proxy(variable, parts.netloc.rpartition("@")[2])


def _hosts(target: str) -> list[str]:
    """Returns the hosts of "host:port", "dns:host:port", "ipv4:a:1,b:1" or "ipv6:[a]:1,[b]:1"."""
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
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    address = _address(host) or _short_address(name)
    return _is_loopback(address) if address is not None else name in _hosts_file_names()


def _is_loopback(address: Address) -> bool:
    """Returns True for an address that connects to this machine, the unspecified one included."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _short_address(name: str) -> ipaddress.IPv4Address | None:
    """Reads the IPv4 spellings that resolvers accept beside the usual one (see inet_aton(3))."""
    # inet_aton ignores whatever follows a space.
    if not _NUMERIC.fullmatch(name):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def _hosts_file_names() -> set[str]:
    """Returns the names, in lower case, that the hosts file gives to loopback addresses."""
    try:
        lines = HOSTS_FILE.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    except OSError:
        return set()
    found: set[str] = set()
    for line in lines:
        number, *names = line.partition("#")[0].split() or [""]
        address = _address(number)
        if address is not None and _is_loopback(address):
            found.update(names)
    return found


def _is_excepted(host: str, exceptions: str) -> bool:
    """Returns True if gRPC finds the host in the list of a `no_proxy` variable."""
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
