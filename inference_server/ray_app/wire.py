"""The items that a replica streams to the front.

Errors travel as values: Ray would wrap an exception in its own, and their details would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_server.errors import RequestError, Violation
from wuliart_contract.status import Reason


@dataclass(frozen=True, slots=True)
class Accepted:
    """First item: the replica has received the request."""

    replica: str
    resident: bool
    """True if all adapters of the request were in memory."""


@dataclass(frozen=True, slots=True)
class Response:
    """A serialized `GenerateImageResponse`."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Last item of a call that fails: the values of a `RequestError`."""

    reason: str
    message: str
    metadata: dict[str, str]
    violations: tuple[tuple[str, str], ...]
    retry_after: float | None

    @classmethod
    def of(cls, error: RequestError) -> Failure:
        """Returns the error's values."""
        violations = tuple((v.field, v.description) for v in error.violations)
        return cls(
            error.reason.value, error.message, dict(error.metadata), violations, error.retry_after
        )

    def error(self) -> RequestError:
        """Returns an error of these values."""
        fields: dict[str, Any] = {"metadata": self.metadata, "retry_after": self.retry_after}
        violations = [Violation(*pair) for pair in self.violations]
        return RequestError(Reason(self.reason), self.message, violations=violations, **fields)


Item = Accepted | Response | Failure
