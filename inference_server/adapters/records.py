"""Plain values that describe adapters: files, resident versions, and requests for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from wuliart_contract.status import Reason

if TYPE_CHECKING:
    # The front of a fleet uses these records and runs without torch.
    from inference_server.model.kernels.low_rank import AdapterTensors


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the watched directory, as the LoRA manager reported it."""

    name: str
    title: str
    trigger_words: tuple[str, ...]
    rank: int
    size_bytes: int
    content_hash: str
    refusal_reason: str = ""
    """Empty if the file can be used."""
    autov3: str = ""
    """AutoV3, the hash that other programs know the file by; empty if unknown."""
    waiting_reason: str = ""
    """Why the file's new content is not used yet; empty if it is."""
    notes: tuple[str, ...] = ()
    """What the file holds and the adapter does not, as sentences for users."""

    @property
    def is_judged(self) -> bool:
        """True once the manager has read the file."""
        return bool(self.content_hash or self.refusal_reason)


class AdapterState(Enum):
    """Says if an adapter can be used, and how soon."""

    RESIDENT = "resident"
    AVAILABLE = "available"
    REFUSED = "refused"
    WAITING = "waiting"
    """Its file is there and not complete."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter as clients see it."""

    entry: FileEntry
    state: AdapterState
    generation: int = 0
    """The slot write that holds it; 0 unless resident."""
    resident_since: float = 0.0
    """Seconds since the epoch; 0 unless resident."""
    slot: int | None = None
    """None unless resident."""
    pinned: bool = False
    """True if it is never evicted for another adapter."""
    thumbnail_hash: str = ""
    """SHA-256 of its thumbnail, 64 hexadecimal digits; empty if it has none."""


@dataclass(frozen=True, slots=True)
class Resident:
    """The content of a READY slot."""

    entry: FileEntry
    generation: int
    since: float
    """Seconds since the epoch."""
    tensors: AdapterTensors
    slot: int


@dataclass(frozen=True, slots=True)
class AdapterWeight:
    """An adapter as a request names it."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """An adapter of a request that its image is generated without."""

    name: str
    reason: Reason
    """ADAPTER_NOT_FOUND or ADAPTER_REFUSED."""
    message: str
    """One sentence for users: the fault, and what to do."""
