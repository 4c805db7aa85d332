"""What the two applications know of each other: their names, and how much a replica takes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ray import serve


class Name(NamedTuple):
    """Of a deployment, as Serve knows it."""

    deployment: str
    application: str


AT_ONCE: Final = 6
"""Requests at a replica: one is generated, one stands by, and the rest let an adapter's holder be
asked although others have less to do. All others wait in the front, where any replica can take
them."""

FRONT: Final = Name("Front", "wuliart")
REPLICA: Final = Name("Replica", "wuliart-replicas")


def handle_of(name: Name) -> Any:
    """For calls; whether it is there yet does not matter, each waits for the other to come."""
    return serve.get_deployment_handle(*name, _check_exists=False)
