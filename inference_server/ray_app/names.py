"""What the two applications and their deployments are called: each looks the other up by name."""

from __future__ import annotations

from typing import Final, NamedTuple


class Name(NamedTuple):
    """Of a deployment, as Serve knows it."""

    deployment: str
    application: str


FRONT: Final = Name("Front", "wuliart")
REPLICA: Final = Name("Replica", "wuliart-replicas")
