"""Merges the manager's report of the directory with what earlier reports said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from inference_server.adapters.records import FileEntry


def merge_report(
    entries: Iterable[FileEntry],
    *,
    pending: Collection[str],
    waiting: Iterable[FileEntry],
    known: Callable[[str], FileEntry | None],
) -> dict[str, FileEntry]:
    """Returns the entry of each adapter by name.

    A restarted manager has not read its files again yet, and a file that is being replaced is not
    finished. The last entry of both stays in use.

    Args:
        entries: files that the manager has read.
        pending: names of files that it has not read yet.
        waiting: files whose new content is not finished.
        known: the entry of a name before this report.
    """
    merged = {entry.name: entry for entry in entries}
    for name in pending:
        if name not in merged and (before := known(name)) is not None and before.is_judged:
            merged[name] = replace(before, waiting_reason="")
    for file in waiting:
        merged[file.name] = replace(merged.get(file.name, file), waiting_reason=file.waiting_reason)
    return merged
