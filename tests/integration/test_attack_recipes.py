"""Untrusted image files, given to `wuliart info` and `wuliart generate --like`.

Each is refused with one line, within seconds and in little memory.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.recipe import PIXELS, jpeg
from tests.support.processes import FinishedProcess, run

HEAD = "a fox\nSteps: 4, Seed: 1, Model: m, "
TAIL = ", Version: WuliArt 1"
MOST_SECONDS = 10
MOST_RSS = 160 << 20
"""Bytes; the command itself takes 70 MB."""


def text_file(text: str) -> bytes:
    return jpeg(text.encode("utf-16-be"))


def adapters(value: str) -> bytes:
    return text_file(f"{HEAD}Adapters: {json.dumps(value)}{TAIL}")


def long_name(length: int) -> bytes:
    """Letters without a colon, where a setting's name should stand."""
    return text_file("a\n" + "a" * length + TAIL)


def many_segments() -> bytes:
    """EXIF that some readers put together from many segments: 200,000 characters."""
    name = ("a" * 200_000 + TAIL).encode("utf-16-be")
    whole = io.BytesIO(b"MM\0*" + struct.pack(">I", 8))
    whole.seek(8)
    whole.write(struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0))
    whole.write(struct.pack(">HHHIII", 1, 0x9286, 7, len(name) + 8, 44, 0) + b"UNICODE\0" + name)
    exif = whole.getvalue()
    pieces = [exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
    segments = (b"Exif\0\0" + piece for piece in pieces)
    exif_segments = b"".join(
        b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment for segment in segments
    )
    return b"\xff\xd8" + exif_segments + PIXELS


def overlapping_entries() -> bytes:
    """5,000 entries that each claim the same 60,000 bytes."""
    entries = b"".join(struct.pack(">HHII", 0x9286 + n, 7, 60_000, 0) for n in range(5_000))
    content = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 5_000) + entries
    return b"\xff\xd8\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + PIXELS


def png_of_zeros() -> bytes:
    """690 MB of EXIF in 0.7 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    squeeze = zlib.compressobj(9)
    packed = b"".join(squeeze.compress(bytes(10**6)) for _ in range(690)) + squeeze.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def large_bitmap() -> bytes:
    """More pixels than Pillow decodes."""
    start = b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0"
    return b"\xff\xd8" + start + b"\xff\xda\0\x02"


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a long name": (lambda: long_name(32_000), "damaged"),
    "many segments": (many_segments, "damaged"),
    "overlapping entries": (overlapping_entries, "no recipe"),
    "a PNG": (png_of_zeros, "not a JPEG file"),
    "many pixels": (large_bitmap, "no recipe"),
    "a million markers": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000, "more than 1,000"),
    "a million fill bytes": (lambda: b"\xff\xd8" + b"\xff" * 1_000_000, "not a complete JPEG"),
    "deep": (lambda: adapters("[" * 12_000), "damaged"),
    "a huge weight": (lambda: adapters(f'[["a", 1{"0" * 4000}, "{"ab" * 32}"]]'), "weight"),
    "an endless weight": (lambda: adapters(f'[["a", 1e999, "{"ab" * 32}"]]'), "weight"),
    "a number too many": (lambda: adapters(f'[["a", 1{"0" * 9000}, "{"ab" * 32}"]]'), "damaged"),
    "no number": (lambda: adapters(f'[["a", NaN, "{"ab" * 32}"]]'), "weight"),
    "names that are none": (lambda: adapters('[[["a"], 1, {}]]'), "name"),
    "a table": (lambda: adapters('{"abc": 1}'), "not a list"),
    "many adapters": (lambda: adapters(json.dumps([["a", 1, "ab" * 32]] * 5)), "5 adapters"),
    "a large seed": (
        lambda: text_file(f'a\nSteps: 4, Seed: {"9" * 5000}, Model: m, Adapters: "[]"{TAIL}'),
        "Seed",
    ),
    "many steps": (
        lambda: text_file(f'a\nSteps: 1000000000, Seed: 1, Model: m, Adapters: "[]"{TAIL}'),
        "Steps",
    ),
    "half a character": (
        lambda: text_file(f'a\nSteps: 4, Seed: 1, Model: "\\ud800", Adapters: "[]"{TAIL}'),
        "damaged",
    ),
}


def ask(command: list[str], path: Path) -> FinishedProcess:
    # Nothing listens there: a file that were taken for good would end in another message.
    target = ["--target", "127.0.0.1:1"]
    return run([sys.executable, "-m", "wuliart_client", *command, str(path), *target], seconds=60)


def assert_refused(ended: FinishedProcess, path: Path, why: str) -> None:
    assert ended.code == 1, ended.stderr
    assert ended.stderr.startswith("wuliart: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert str(path) in ended.stderr and why in ended.stderr
    assert ended.stdout == ""
    assert ended.seconds < MOST_SECONDS
    assert ended.peak_rss < MOST_RSS


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file(name: str, tmp_path: Path) -> None:
    make, why = FILES[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(make())
    assert_refused(ask(["generate", "--like"], path), path, why)


def test_a_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(b"\xff\xd8\xff\xda\0\2")
    os.truncate(path, 1 << 30)
    for command in (["info"], ["info", "--json"], ["generate", "--like"]):
        assert_refused(ask(command, path), path, "no recipe")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert_refused(ask(["info"], pipe), pipe, "Not a regular file")
    for device in (Path("/dev/zero"), Path("/dev/stdin")):
        assert_refused(ask(["generate", "--like"], device), device, "Not a regular file")
    assert_refused(ask(["info"], tmp_path), tmp_path, "Is a directory")
