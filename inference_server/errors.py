"""The server's exceptions. Only the service layer translates them to gRPC statuses.

ServerError
├── RequestError          ends one call, with a reason from the contract's table
└── ModelError            the checkpoint cannot be served; ends the process at start
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wuliart_contract.status import Reason


class ServerError(Exception):
    """Base class of the server's own exceptions."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a request that breaks a rule."""

    field: str
    description: str


class RequestError(ServerError):
    """Ends one call.

    Args:
        reason: looked up in the contract's table for the status code.
        message: what happened, what was given, what to do.
        metadata: details for programs, sent as `ErrorInfo.metadata`.
        violations: every invalid field, for INVALID_REQUEST.
        retry_after: seconds until a retry makes sense; None: it does not.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after


class ModelError(ServerError):
    """The checkpoint cannot be served; the message names the folder and what is wrong with it."""


def one_line(text: str) -> str:
    """Returns a message on one line, without characters that could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
