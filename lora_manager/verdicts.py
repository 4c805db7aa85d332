"""Verdicts on files from earlier runs of the manager, so that a start does not read them again.

A verdict holds for one path, stamp, layout and version of the code that judges. It never stands
for weights: a file that becomes resident is read and hashed again, and the result replaces the
verdict.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import lora_manager
import wuliart_lora
from lora_manager.catalog import Entry
from lora_manager.lora_file import LoraFile, Stamp
from wuliart_contract.limits import MAX_LISTED_ADAPTERS
from wuliart_process.source_hash import source_hash

_SETTLED_SECONDS: Final = 2.0
"""A file that was written this short before may be written again without another time."""

_JUDGES: Final = ("loading.py", "hashes.py")
"""Modules of this package whose change may change a verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One file, as it was judged."""

    stamp: tuple[int, ...]
    sidecar: tuple[int, ...]
    """The stamp of its adapter_config.json; empty if it had none."""
    rival: str
    """Another file that an adapter_config.json in the folder could belong to; empty if none."""
    layout: str
    content_hash: str
    autov3: str
    title: str
    trigger_words: tuple[str, ...]
    rank: int
    refusal: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, entry: Entry, layout_hash: str) -> Verdict:
        """The verdict that an entry is."""
        sidecar = entry.found.sidecar_stamp
        return cls(
            astuple(entry.found.stamp),
            () if sidecar is None else astuple(sidecar),
            entry.found.sidecar_rival,
            layout_hash,
            entry.content_hash,
            entry.autov3,
            entry.title,
            entry.trigger_words,
            entry.rank,
            entry.refusal,
            entry.notes,
        )

    @classmethod
    def read(cls, row: Any) -> Verdict:
        """The verdict in a row of JSON; ValueError, TypeError or KeyError if it is none."""
        names = ("rival", "layout", "content_hash", "autov3", "title", "refusal")
        texts = [row[name] for name in names]
        lists = [row[name] for name in ("stamp", "sidecar", "trigger_words", "notes")]
        if not all(type(some) is list for some in lists):
            raise ValueError("not a verdict")
        stamp, sidecar, words, notes = map(tuple, lists)
        numbers = [row["rank"], *stamp, *sidecar]
        if (
            not all(type(text) is str for text in (*texts, *words, *notes))
            or not all(type(number) is int for number in numbers)
            or len(stamp) != len(Stamp.__slots__)
            or len(sidecar) not in (0, len(Stamp.__slots__))
        ):
            raise ValueError("not a verdict")
        rival, layout_hash, content_hash, autov3, title, refusal = texts
        return cls(
            stamp, sidecar, rival, layout_hash, content_hash, autov3, title, words, row["rank"],
            refusal, notes,
        )  # fmt: skip

    def entry(self, found: LoraFile) -> Entry:
        """The verdict on this file."""
        return Entry(
            found, self.content_hash, self.title, self.trigger_words, self.rank, self.refusal,
            self.autov3, self.notes,
        )  # fmt: skip

    def is_of(self, found: LoraFile, layout_hash: str) -> bool:
        """Returns True if the file is what was judged, as far as stamps tell."""
        sidecar = None if not self.sidecar else Stamp(*self.sidecar)
        return (
            self.layout == layout_hash
            and Stamp(*self.stamp) == found.stamp
            and sidecar == found.sidecar_stamp
            and self.rival == found.sidecar_rival
        )


class Verdicts:
    """All verdicts by path below the watched directory, those used last at the end."""

    def __init__(self, kept: bytes = b"") -> None:
        self._table: dict[str, Verdict] = dict(_read(kept))
        self.unsaved = False
        """True if there are verdicts that have not been written yet."""

    def __len__(self) -> int:
        return len(self._table)

    def find(self, found: LoraFile, layout_hash: str) -> Entry | None:
        """The entry of the file if it has been judged as it is now."""
        verdict = self._table.get(found.relative)
        if verdict is None or found.refusal or not verdict.is_of(found, layout_hash):
            return None
        self._table[found.relative] = self._table.pop(found.relative)
        return verdict.entry(found)

    def put(self, entry: Entry, layout_hash: str) -> None:
        """Keep what was found out of a file that was read whole."""
        if not entry.content_hash or not _identifies(entry.found.stamp):
            return
        verdict = Verdict.of(entry, layout_hash)
        self.unsaved |= self._table.pop(entry.found.relative, None) != verdict
        self._table[entry.found.relative] = verdict
        if len(self._table) > MAX_LISTED_ADAPTERS:
            del self._table[next(iter(self._table))]

    def rows(self) -> dict[str, Verdict]:
        """A copy for `to_json`, which may then run in a thread."""
        self.unsaved = False
        return dict(self._table)


def to_json(rows: dict[str, Verdict]) -> bytes:
    """The table as it is kept; empty if it could not be used."""
    if not judged_by():
        return b""
    files = {
        path: {name: getattr(verdict, name) for name in Verdict.__slots__}
        for path, verdict in rows.items()
    }
    return json.dumps({"judged_by": judged_by(), "files": files}).encode()


@cache
def judged_by() -> str:
    """SHA-256 of the code that judges, as another version may find otherwise; empty if unknown."""
    own = Path(lora_manager.__path__[0])
    try:
        return source_hash([Path(wuliart_lora.__path__[0]), *(own / name for name in _JUDGES)])
    except OSError:
        return ""


def _read(kept: bytes) -> Iterator[tuple[str, Verdict]]:
    """The rows that can be used; of what is misshapen none."""
    try:
        table = json.loads(kept) if kept else None
    except (ValueError, RecursionError):
        return
    if not isinstance(table, dict) or table.get("judged_by") != (judged_by() or None):
        return
    files = table.get("files")
    for path, row in list(files.items())[:MAX_LISTED_ADAPTERS] if isinstance(files, dict) else ():
        try:
            yield path, Verdict.read(row)
        except (ValueError, TypeError, KeyError):
            continue


def _identifies(stamp: Stamp) -> bool:
    """Returns True if other content would have another stamp."""
    if stamp.inode == 0:
        return stamp.mtime_ns > 0
    return time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) > _SETTLED_SECONDS * 1e9
