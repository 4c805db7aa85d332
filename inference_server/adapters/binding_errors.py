"""The errors of adapters that cannot be bound: one function per reason."""

from __future__ import annotations

from inference_server.errors import RequestError, Violation
from wuliart_contract.status import Reason


def not_found(name: str, nearest: str | None) -> RequestError:
    """No such file; `nearest` is the usable adapter with the most similar name, if any."""
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    return RequestError(
        Reason.ADAPTER_NOT_FOUND,
        f"there is no adapter {name!r}{hint}",
        metadata={"adapter": name, **({"nearest": nearest} if nearest else {})},
    )


def refused(name: str, reason: str) -> RequestError:
    """The manager refused the file."""
    return RequestError(
        Reason.ADAPTER_REFUSED,
        f"adapter {name!r} cannot be used: {reason}",
        metadata={"adapter": name},
    )


def not_finished(name: str, reason: str) -> RequestError:
    """The manager waits for the file to be complete, which may never happen."""
    return RequestError(
        Reason.ADAPTER_REFUSED,
        f"adapter {name!r} cannot be used yet: {reason}",
        metadata={"adapter": name},
    )


def repeated(name: str) -> RequestError:
    """The request names one adapter twice, in two Unicode encodings."""
    text = f"names adapter {name!r} twice; name each at most once"
    return RequestError(
        Reason.INVALID_REQUEST, f"adapters {text}", violations=[Violation("adapters", text)]
    )


def too_many(named: int, limit: int) -> RequestError:
    """The adapters do not fit into the slots at once; waiting would not help."""
    text = f"has {named} adapters; this server keeps {limit} in memory at once beside those it pins"
    return RequestError(
        Reason.INVALID_REQUEST,
        f"adapters {text}; name fewer, or start it with more --slots",
        violations=[Violation("adapters", text)],
    )


def no_manager(name: str) -> RequestError:
    """The adapter is not resident and no manager is attached to load it."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"adapter {name!r} is not in memory and no LoRA manager is running to load it; "
        "start wuliart-lora-manager",
        metadata={"adapter": name},
    )


def none_reported(name: str) -> RequestError:
    """No manager has reported its directory since the server started."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"adapter {name!r} is not known: no LoRA manager has reported to this server yet which "
        "adapters there are; try again in a moment, or start wuliart-lora-manager",
        metadata={"adapter": name},
    )


def being_read(name: str) -> RequestError:
    """The manager has found the file and not read it yet."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"the file of adapter {name!r} is still being read; try again in a moment",
        metadata={"adapter": name},
    )


def not_loaded(name: str, seconds: float) -> RequestError:
    """The manager did not load the adapter in time."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"the LoRA manager did not load adapter {name!r} within {seconds:.0f} s; see its log",
        metadata={"adapter": name},
    )


def no_slot(name: str) -> RequestError:
    """No slot became free in time."""
    return RequestError(
        Reason.NO_FREE_SLOT,
        f"adapter {name!r} needs a slot and all of them are in use; try again shortly",
        metadata={"adapter": name},
        retry_after=1.0,
    )
