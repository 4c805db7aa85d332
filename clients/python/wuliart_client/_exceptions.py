"""The exceptions of this package.

WuliArtError
  ├── InvalidRequest      a field of the request is wrong; `.violations` lists them all
  ├── AdapterNotFound     no adapter of that name; `.nearest` is the most similar one
  ├── AdapterRefused      the adapter's file was refused; the message says why
  ├── Busy                worth trying again after `.retry_after` seconds
  │     ├── QueueFull     the server's queue is full
  │     ├── NoFreeSlot    every adapter slot is in use by an image being generated
  │     └── RateLimited   the client has reached its limit of images
  ├── Unauthenticated     the server requires a valid token
  ├── Unavailable         not reachable, starting, draining, or without its LoRA manager
  ├── DeadlineExceeded    the timeout passed
  ├── Cancelled           the call was cancelled, here or by the server
  ├── GenerationFailed    the model failed: a non-finite value, or an error inside the server
  └── ProtocolError       the other side does not speak this contract
"""
# ruff: noqa: N818 - they are named for what happened, as in httpx

from __future__ import annotations

from collections.abc import Mapping


class WuliArtError(Exception):
    """The base class of all exceptions of this package.

    `message` says what happened and what to do. `reason` is a name from
    `wuliart_contract.status.Reason`, None if the failure did not come from
    the server. `metadata` holds the details that the server added to the reason.
    """

    def __init__(
        self,
        message: str,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidRequest(WuliArtError):
    """A field of the request is wrong.

    `violations` holds one (field, description) for each thing that is wrong.
    """

    def __init__(
        self,
        message: str,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, reason, metadata)
        self.violations = violations


class AdapterNotFound(WuliArtError):
    """There is no adapter of that name."""

    @property
    def nearest(self) -> str | None:
        """The most similar name there is; None if there is none."""
        return self.metadata.get("nearest") or None


class AdapterRefused(WuliArtError):
    """The adapter's file was refused; the message has the LoRA manager's reason."""


class Busy(WuliArtError):
    """The server cannot take the request now.

    `retry_after` is the delay in seconds before the next attempt; None if the server gave none.
    """

    def __init__(
        self,
        message: str,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason, metadata)
        self.retry_after = retry_after


class QueueFull(Busy):
    """The server's queue is full."""


class NoFreeSlot(Busy):
    """Every adapter slot is in use by an image being generated."""


class RateLimited(Busy):
    """The client has reached the server's limit of images per client."""


class Unauthenticated(WuliArtError):
    """The server requires a valid token."""


class Unavailable(WuliArtError):
    """The server is not reachable, starting, draining, or lacks its LoRA manager."""


class DeadlineExceeded(WuliArtError):
    """The timeout passed before the answer was complete; the work was stopped."""


class Cancelled(WuliArtError):
    """The call was cancelled, here or by the server."""


class GenerationFailed(WuliArtError):
    """The model produced a non-finite value, or an error happened inside the server."""


class ProtocolError(WuliArtError):
    """The other side does not speak this contract."""
