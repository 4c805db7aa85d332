"""Looks for signs that a file is not finished, whatever its size and however long it stays equal.

Opens the files in question, so it runs in a thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora_manager.holes import unwritten
from lora_manager.lora_file import LoraFile, Stamp
from lora_manager.unclosed_writes import WRITER_SILENCE_SECONDS, UnclosedWrites
from lora_manager.writers import Writers, open_quietly, writers_of
from wuliart_contract.adapter_names import printable

NOT_CLOSED: Final = (
    "another program has written to {file} and not closed it yet; let that finish (it is used "
    f"{WRITER_SILENCE_SECONDS / 60:.0f} minutes after the last write at the latest)"
)


@dataclass(frozen=True, slots=True)
class Signs:
    """The result of one look at a file."""

    closed: bool = False
    """True if no process has it open for writing; False also if the system does not say."""
    reason: str = ""
    """Why it is not finished and what to do; empty if there is no sign against it."""


def signs_of(found: LoraFile, unclosed: UnclosedWrites | None = None) -> Signs:
    """Looks at one file.

    A downloader's control file counts first, then an open writer of the file or of its
    adapter_config.json, then missing data.

    Args:
        found: the file.
        unclosed: files that were written to and not closed since, according to events. They count
            where the kernel does not say whether a file is open. None without events.
    """
    if found.refusal:
        return Signs()
    if found.control:
        return Signs(
            reason=f'a download of it is not finished, as "{printable(found.control)}" beside it '
            "shows; let the download finish, or remove both"
        )
    sidecar = Writers.NONE
    if found.sidecar is not None and found.sidecar_stamp is not None:
        sidecar, _ = _look(found.sidecar, found.sidecar_stamp, zeros=False)
    file, zeros = _look(found.path, found.stamp, zeros=True)
    if file is Writers.SOME:
        return Signs(reason="another program has it open for writing; let that finish")
    if sidecar is Writers.SOME:
        return Signs(
            reason="another program has adapter_config.json beside it open for writing; let that "
            "finish"
        )
    if unclosed is not None:
        if file is Writers.UNKNOWN and unclosed.has(str(found.path)):
            return Signs(reason=NOT_CLOSED.format(file="it"))
        if sidecar is Writers.UNKNOWN and unclosed.has(str(found.sidecar)):
            return Signs(reason=NOT_CLOSED.format(file="adapter_config.json beside it"))
    closed = file is sidecar is Writers.NONE
    if zeros:
        return Signs(
            closed,
            f"{zeros}, as in a download that is not finished; let it finish, or copy the file "
            "again",
        )
    return Signs(closed)


def _look(path: Path, stamp: Stamp, *, zeros: bool) -> tuple[Writers, str]:
    """Returns whether the file has writers, and a description of the data it lacks."""
    try:
        descriptor = open_quietly(path)
    except BlockingIOError:
        return Writers.SOME, ""  # another process holds a write lease
    except OSError:
        return Writers.UNKNOWN, ""
    try:
        writers = writers_of(descriptor, stamp)
        if not zeros or writers is Writers.SOME:
            return writers, ""
        return writers, unwritten(descriptor, stamp.size, closed=writers is Writers.NONE)
    except OSError:
        return Writers.UNKNOWN, ""  # loading the file reports why
    finally:
        os.close(descriptor)
