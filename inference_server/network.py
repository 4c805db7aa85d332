"""Settings of the public port: addresses, TLS, tokens and limits per client, and their checks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wuliart_process.exposure import reaches_other_machines


@dataclass(frozen=True, slots=True)
class Network:
    """Settings of the public port."""

    listen: str = "127.0.0.1:50051"
    """The address clients connect to: host:port or unix:/path."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """Clients need a certificate that this authority has signed."""
    tokens: Path | None = None
    """Clients need a token from this file; see `wuliart_process.tokens`."""
    insecure: bool = False
    """Allow listening beyond this machine without TLS or tokens."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that the metrics port accepts; see `wuliart_process.allowed_hosts`."""
    reflection: bool = True
    per_client: int | None = None
    """Queued and running images of one client; None: no limit but the queue."""
    per_minute: int | None = None
    """Images that one client may request in a minute; None: no limit."""


NAMES = tuple(Network.__dataclass_fields__)


class _Append(argparse.Action):
    """argparse's "append" action for tuples."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for every field of `Network`."""
    defaults = Network()
    add = parser.add_argument_group("access").add_argument
    add("--listen", default=defaults.listen, help="host:port or unix:/path for clients")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM; turns TLS on")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    add(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="clients must have a certificate of this authority, PEM",
    )
    add(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="clients must send one of these bearer tokens; a line each: NAME TOKEN. Read again"
        " when it changes",
    )
    add(
        "--insecure",
        action="store_true",
        help="listen beyond this machine even without TLS and tokens: everyone who can reach the"
        " port may generate, and read what others generate",
    )
    add(
        "--allowed-host",
        dest="allowed_hosts",
        metavar="NAME",
        action=_Append,
        default=defaults.allowed_hosts,
        help="name by which the metrics port is addressed, for one that is neither localhost nor an"
        " address; may be repeated, '*' allows any",
    )
    add(
        "--no-reflection",
        dest="reflection",
        action="store_false",
        help="do not offer gRPC reflection",
    )
    add(
        "--per-client",
        type=int,
        metavar="N",
        help="images of one client, waiting or running; default: as many as the queue holds",
    )
    add(
        "--per-minute",
        type=int,
        metavar="N",
        help="images one client may request in a minute; default: no limit",
    )


def conflict_in(network: Network) -> str:
    """Describes the first conflict between settings; empty if there is none."""
    if (network.tls_cert is None) != (network.tls_key is None):
        return "--tls-cert and --tls-key belong together"
    if network.tls_client_ca is not None and network.tls_cert is None:
        return "--tls-client-ca needs --tls-cert and --tls-key"
    for name in ("per_client", "per_minute"):
        value = getattr(network, name)
        if value is not None and value < 1:
            return f"--{name.replace('_', '-')} must be at least 1"
    if not reaches_other_machines(network.listen) or network.insecure:
        return ""
    missing = []
    if network.tls_cert is None:
        missing.append("TLS (--tls-cert, --tls-key)")
    if network.tokens is None and network.tls_client_ca is None:
        missing.append("tokens (--tokens)")
    if not missing:
        return ""
    return (
        f"--listen {network.listen} can be reached from other machines and has no "
        f"{' and no '.join(missing)}; add that, listen on 127.0.0.1, or give --insecure if "
        "everyone who can reach it may use it"
    )
