"""Finds parts of a LoRA file that a download has not written yet: runs of zeros in its tensors.

A file that is given its full size before its content contains zeros, or holes, where nothing has
been written. Trained tensors contain long runs of zeros in two cases only, which are not a sign:

* An up matrix (B) that is zero from end to end. Training starts from such a B and a random A, so a
  down matrix (A) of zeros is a sign, also where the zeros begin exactly at a tensor's first byte.
* Whole rows of zeros: down matrices that are padded to a larger rank, and up matrices with outputs
  that training never used (the text modulation of the last block).

Reads only the header and the tensors in question.
"""

from __future__ import annotations

import os
from typing import Final

from wuliart_lora import HEAD_BYTES, LoraError, header_bytes, read_header
from wuliart_lora.errors import shown
from wuliart_lora.keys import Role, role_of
from wuliart_lora.reader import Header, Span

MIN_RUN_BYTES: Final = 4096
"""Shorter runs of zeros are not a sign: file systems reserve space in pages."""

PAGE_BYTES: Final = 4096

_MIN_SHARE_BYTES: Final = 64
"""Least part of a run that lies in a tensor with other data: single numbers may be zero."""

_PIECE_BYTES: Final = 1 << 20
_MAX_TAIL_BYTES: Final = 16 << 20
"""How far back from the end of the file zeros are counted: a tensor's length or two."""

_MAX_SLACK_BYTES: Final = 8
_SLACK_SHARE: Final = 16

_MAX_HOLES: Final = 256


def unwritten(descriptor: int, size: int, *, closed: bool) -> str:
    """Returns what shows that the file is incomplete, as part of a sentence; empty if nothing does.

    Args:
        descriptor: the file, open for reading.
        size: its size in bytes.
        closed: True if no process has the file open for writing. Zeros that were written to such a
            file are content, so only holes count. Otherwise zeros at its end count, too.

    Raises:
        OSError: the file cannot be read.
    """
    regions = _holes(descriptor, size)
    if not closed and (tail := _zero_tail(descriptor, size)) < size:
        regions.append((tail, size))
    if not regions:
        return ""
    if regions[0][0] < HEAD_BYTES <= size and not any(os.pread(descriptor, HEAD_BYTES, 0)):
        return "it begins with zeros"
    try:
        head = os.pread(descriptor, HEAD_BYTES, 0)
        header = read_header(os.pread(descriptor, header_bytes(head, size), 0), size)
    except LoraError:
        return ""  # the reader of the file reports why
    for begin, end in regions:
        # A hole begins with a page, and what was written may end within the page before.
        start = _last_nonzero(descriptor, max(0, begin - PAGE_BYTES), begin)
        if start <= header.nbytes and end >= size:
            return "everything behind its header is zeros"
        if text := _zeros_inside(descriptor, header, start, end):
            return text
    return ""


def _holes(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Returns the ranges without stored data; none if the file system does not report them."""
    found: list[tuple[int, int]] = []
    end = 0
    try:
        while len(found) < _MAX_HOLES:
            begin = os.lseek(descriptor, end, os.SEEK_HOLE)
            if begin >= size:
                break
            try:
                end = os.lseek(descriptor, begin, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind it
                end = size
            found.append((begin, min(end, size)))
            if end >= size:
                break
    except OSError:
        pass  # EINVAL: the file system does not support SEEK_HOLE
    return found


def _zero_tail(descriptor: int, size: int) -> int:
    """Returns a position from which the file is zeros to its end; `size` if it ends otherwise."""
    start = size
    least = max(0, size - _MAX_TAIL_BYTES)
    step = MIN_RUN_BYTES
    while start > least:
        begin = max(least, start - step)
        kept = os.pread(descriptor, start - begin, begin).rstrip(b"\0")
        if kept:
            start = begin + len(kept)
            break
        start, step = begin, _PIECE_BYTES
    return start if size - start >= MIN_RUN_BYTES else size


def _zeros_inside(descriptor: int, header: Header, begin: int, end: int) -> str:
    """Describes the first tensor that lacks data between `begin` and `end`; empty if none does."""
    for name, span in header.spans.items():
        first, last = header.nbytes + span.begin, header.nbytes + span.end
        if last <= begin or first >= end:
            continue
        run_begin = _last_nonzero(descriptor, first, max(begin, first))
        run_end = _first_nonzero(descriptor, min(end, last), last)
        if max(end, run_end) - min(begin, run_begin) < MIN_RUN_BYTES:
            continue
        if run_begin == first and run_end == last:
            unwritten = role_of(name) is Role.DOWN
        else:
            unwritten = run_end - run_begin >= _MIN_SHARE_BYTES and not _is_padding(
                span, first, last, (run_begin, run_end)
            )
        if unwritten:
            return f"its tensor {shown(name)!r} is zeros from the file's byte {run_begin:,} on"
    return ""


def _last_nonzero(descriptor: int, first: int, position: int) -> int:
    """Returns where the zeros before `position` begin, but no earlier than `first`."""
    while position > first:
        begin = max(first, position - _PIECE_BYTES)
        kept = os.pread(descriptor, position - begin, begin).rstrip(b"\0")
        if kept:
            return begin + len(kept)
        position = begin
    return first


def _first_nonzero(descriptor: int, position: int, last: int) -> int:
    """Returns where the zeros from `position` on end, but no later than `last`."""
    while position < last:
        piece = os.pread(descriptor, min(_PIECE_BYTES, last - position), position)
        if not piece:
            return last
        if left := len(piece.lstrip(b"\0")):
            return position + len(piece) - left
        position += len(piece)
    return last


def _is_padding(span: Span, first: int, last: int, run: tuple[int, int]) -> bool:
    """Returns True if the zeros are whole rows that do not merely end where a page ends.

    The number beside the run may begin or end with zero bytes, so the run may be longer than the
    rows: by a number of 8 bytes, and by no more than 1/16 of a short row, because a download that
    stopped anywhere should not pass for one that stopped between two rows.
    """
    row = (last - first) // span.shape[0] if len(span.shape) > 1 and span.shape[0] else 0
    if not row:
        return False
    begin, end = run
    slack = min(_MAX_SLACK_BYTES, row // _SLACK_SHARE)
    begins = begin == first or (-(begin - first) % row <= slack and begin % PAGE_BYTES != 0)
    ends = end == last or ((end - first) % row <= slack and end % PAGE_BYTES != 0)
    return begins and ends
