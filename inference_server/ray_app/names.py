"""Names of the two applications, and the number of requests that the front gives a replica."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ray import serve


class Name(NamedTuple):
    """Name of a deployment in Serve."""

    deployment: str
    application: str


MAX_ONGOING_REQUESTS: Final = 6
"""Requests at one replica: one running, one ready to run, and the rest so that the router can
prefer a replica that holds the adapter although others have less to do. All others wait in the
front, where any replica can take them."""

FRONT: Final = Name("Front", "wuliart")
REPLICA: Final = Name("Replica", "wuliart-replicas")


def handle_of(name: Name) -> Any:
    """Returns a handle for calls; the deployment need not exist yet."""
    return serve.get_deployment_handle(*name, _check_exists=False)
