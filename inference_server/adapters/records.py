"""What is known of one LoRA file. Plain values; knows nothing of slots or gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from wuliart_contract.status import Reason

if TYPE_CHECKING:
    # A fleet's front has adapters' records, and no torch.
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
    """The hash by which other programs know the file; empty if it is not known."""
    waiting_reason: str = ""
    """Why the file's content of now is not used yet; empty if nothing is waited for."""

    @property
    def is_judged(self) -> bool:
        """False if nothing is known of the file but that it is there."""
        return bool(self.content_hash or self.refusal_reason)


class AdapterState(Enum):
    """Whether an adapter can be used, and how soon."""

    RESIDENT = "resident"
    AVAILABLE = "available"
    REFUSED = "refused"
    WAITING = "waiting"
    """Its file is there and not finished."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter as the world sees it."""

    entry: FileEntry
    state: AdapterState
    generation: int = 0
    """The slot write that holds it; 0 unless resident."""
    resident_since: float = 0.0
    """Seconds since the epoch; 0 unless resident."""
    slot: int | None = None
    """None unless resident."""
    pinned: bool = False
    """Whether it makes no room for others once it is resident."""


@dataclass(frozen=True, slots=True)
class Resident:
    """What a READY slot holds."""

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
    """An adapter that a request names and its image is generated without."""

    name: str
    reason: Reason
    """ADAPTER_NOT_FOUND or ADAPTER_REFUSED."""
    message: str
    """For people: what is wrong, what to do."""
