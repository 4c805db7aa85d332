"""Why a request's adapter cannot be bound, in words: one function per reason.

Owns the sentences; who decides is `binder`.
"""

from __future__ import annotations

from inference_server.errors import RequestError, Violation
from wuliart_contract.status import Reason


def not_found(name: str, nearest: str | None) -> RequestError:
    """There is no such file; `nearest` is the usable adapter whose name is most like it."""
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
    """The manager waits for the file to be finished, which may be never."""
    return RequestError(
        Reason.ADAPTER_REFUSED,
        f"adapter {name!r} cannot be used yet: {reason}",
        metadata={"adapter": name},
    )


def repeated(name: str) -> RequestError:
    """The request names it twice, its letters encoded in two ways."""
    text = f"names adapter {name!r} twice; name each at most once"
    return RequestError(
        Reason.INVALID_REQUEST, f"adapters {text}", violations=[Violation("adapters", text)]
    )


def too_many(named: int, room: int) -> RequestError:
    """They would not fit into the slots at once, however long one waits."""
    text = f"has {named} adapters; this server keeps {room} in memory at once beside those it pins"
    return RequestError(
        Reason.INVALID_REQUEST,
        f"adapters {text}; name fewer, or start it with more --slots",
        violations=[Violation("adapters", text)],
    )


def no_manager(name: str) -> RequestError:
    """It would have to be loaded, and nobody is there to do it."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"adapter {name!r} is not in memory and no LoRA manager is running to load it; "
        "start wuliart-lora-manager",
        metadata={"adapter": name},
    )


def none_reported(name: str) -> RequestError:
    """Nobody has told yet which adapters there are."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"adapter {name!r} is not known: no LoRA manager has told this server yet which adapters "
        "there are; try again in a moment, or start wuliart-lora-manager",
        metadata={"adapter": name},
    )


def being_read(name: str) -> RequestError:
    """The file is there; the manager has not judged it yet."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"the file of adapter {name!r} is still being read; try again in a moment",
        metadata={"adapter": name},
    )


def not_loaded(name: str, seconds: float) -> RequestError:
    """The manager was asked and did not deliver."""
    return RequestError(
        Reason.MANAGER_UNAVAILABLE,
        f"the LoRA manager did not load adapter {name!r} within {seconds:.0f} s; see its log",
        metadata={"adapter": name},
    )


def no_slot(name: str) -> RequestError:
    """No slot came free."""
    return RequestError(
        Reason.NO_FREE_SLOT,
        f"adapter {name!r} needs a slot and all of them are in use; try again shortly",
        metadata={"adapter": name},
        retry_after=1.0,
    )
