"""Why a file is not finished, whatever its size and however long it has been still.

Owns the order of the signs and their sentences. Touches the file system, so it runs in a thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lora_manager.candidates import LoraFile, Stamp
from lora_manager.holes import unwritten
from lora_manager.writers import Writers, open_quietly, writers_of
from wuliart_contract.adapter_names import printable


@dataclass(frozen=True, slots=True)
class Signs:
    """What one look says of a file."""

    closed: bool = False
    """True if no process has it open for writing; False also where that is not known."""
    reason: str = ""
    """Why it is not finished and what to do; empty if nothing speaks against it."""


def signs_of(found: LoraFile) -> Signs:
    """Asks everything that there is to ask of one file.

    A downloader's control file counts first, then an open writer of the file or of its
    adapter_config.json, then what has not been written of it.
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
    closed = file is sidecar is Writers.NONE
    if zeros:
        return Signs(
            closed,
            f"{zeros}, as in a download that is not finished; let it finish, or copy the file "
            "again",
        )
    return Signs(closed)


def _look(path: Path, stamp: Stamp, *, zeros: bool) -> tuple[Writers, str]:
    """Who writes to the file, and which part of it has not been written."""
    try:
        descriptor = open_quietly(path)
    except BlockingIOError:
        return Writers.SOME, ""  # another process holds a lease to write to it
    except OSError:
        return Writers.UNKNOWN, ""
    try:
        writers = writers_of(descriptor, stamp)
        if not zeros or writers is Writers.SOME:
            return writers, ""
        return writers, unwritten(descriptor, stamp.size, closed=writers is Writers.NONE)
    except OSError:
        return Writers.UNKNOWN, ""  # the reader of the file reports why
    finally:
        os.close(descriptor)
