"""What passes between the front and a replica: plain bytes and values, no exceptions of ours.

Owns the form; an exception would arrive wrapped in Ray's own, its details lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_server.errors import RequestError, Violation
from wuliart_contract.status import Reason


@dataclass(frozen=True, slots=True)
class Taken:
    """First of all: the replica has the request."""

    replica: str
    resident: bool
    """Whether all its adapters were in memory already."""


@dataclass(frozen=True, slots=True)
class Event:
    """A serialized `GenerateImageResponse`."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Last of all: a `RequestError`."""

    reason: str
    message: str
    metadata: dict[str, str]
    violations: tuple[tuple[str, str], ...]
    retry_after: float | None

    @classmethod
    def of(cls, error: RequestError) -> Failed:
        """The error's values."""
        violations = tuple((v.field, v.description) for v in error.violations)
        return cls(
            error.reason.value, error.message, dict(error.metadata), violations, error.retry_after
        )

    def error(self) -> RequestError:
        """The same error again."""
        fields: dict[str, Any] = {"metadata": self.metadata, "retry_after": self.retry_after}
        violations = [Violation(*pair) for pair in self.violations]
        return RequestError(Reason(self.reason), self.message, violations=violations, **fields)
