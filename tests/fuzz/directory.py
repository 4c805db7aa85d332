"""Fuzz target `directory`: a watched folder with hostile names.

Decisions become real folders, files, links and pipes. A look at them must raise nothing, offer
nothing outside the root for reading, and list names that can be shown and sent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import unicodedata
from pathlib import Path

from lora_manager.directory import adapter_name, inspect, is_candidate, scan
from tests.fuzz.choices import Choices
from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS

PARTS = (
    b"a", b"b", b"ink", b".hidden", b"..", b".", b" ", b"\t", b"\x1b[2J", b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u202egnp".encode(), "\u2028".encode(), "\u200b".encode(), "画".encode(), "e\u0301".encode(),
    b"-rf", b"~", b"$(id)", b"%s%n", b"con", b"a" * 190, b"a" * 240, "画".encode() * 80, b"\n",
)  # fmt: skip
ENDINGS = (b".safetensors", b".SAFETENSORS", b"", b".pt", b".part", b".safetensors.tmp", b".bin")
TARGETS = (b".", b"..", b"/etc", b"/etc/passwd", b"a", b"b/a.safetensors", b"/", b"../a", b"a/..")
HOSTILE = (
    "../etc/passwd.safetensors", "/etc/passwd.safetensors", "a/../../x.safetensors", ".safetensors",
    "//x.safetensors", "a//b.safetensors", "x.safetensors/", "\udcff.safetensors",
    "a/" * 40 + "x.safetensors", "a" * 300 + ".safetensors",
)  # fmt: skip
SHOWN_NEVER = ("Cc", "Cs", "Zl", "Zp")


def run(data: bytes) -> None:
    """Builds the folder that the decisions describe, and looks at it."""
    choices = Choices(data)
    with tempfile.TemporaryDirectory(prefix="wuliart-fuzz-", dir=_fast()) as outer:
        # The root has a sibling, so that there is an outside which the links can reach.
        root = Path(outer) / "root"
        (root / "a").mkdir(parents=True)
        (Path(outer) / "a.safetensors").touch()
        made = []
        for _ in range(8):
            if not choices:
                break
            with contextlib.suppress(OSError):
                made.append(_make(choices, os.fsencode(root)))
        check(root, [os.fsdecode(path) for path in made])
        shutil.rmtree(os.fsencode(root))


def check(root: Path, made: list[str]) -> None:
    """Everything that looks at a folder, on this one."""
    real = os.path.realpath(root)
    found = scan(root)
    for name, file in found.files.items():
        assert name == file.name
        _check_shown(name)
        _check_shown(file.refusal)
        assert 0 < len(name) <= MAX_ADAPTER_NAME_CHARACTERS and name.strip()
        if not file.refusal:
            assert os.path.realpath(file.path) == str(file.path)
            assert str(file.path).startswith(f"{real}/")
            assert stat.S_ISREG(file.path.lstat().st_mode)
        if is_candidate(file.relative) and "its name looks like" not in file.refusal:
            assert inspect(root, file.relative) == file
    usable = [file.look for file in found.files.values() if not file.refusal]
    assert len(usable) == len(set(usable)), "two names look alike"
    for relative in (*made, *HOSTILE):
        name, problem = adapter_name(relative)
        _check_shown(name)
        _check_shown(problem)
        seen = inspect(root, relative)
        if seen is not None and not seen.refusal:
            assert str(seen.path).startswith(f"{real}/")


def _make(choices: Choices, root: bytes) -> bytes:
    """One thing in the folder; its path below the root."""
    kind, depth = choices.below(8), choices.below(3)
    folders = [_part(choices) for _ in range(depth)]
    relative = b"/".join([*folders, _part(choices) + choices.pick(ENDINGS)])
    path = os.path.join(root, relative)
    # A made-up path may lead out; what is made there would stay behind.
    if not os.path.realpath(os.path.dirname(path)).startswith(os.path.realpath(root)):
        return relative
    if folders:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    if kind < 4:
        # Without O_EXCL a pipe made earlier would be opened, which waits for a reader.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    elif kind < 6:
        os.symlink(choices.pick(TARGETS), path)
    elif kind == 6:
        os.mkfifo(path)
    else:
        os.mkdir(path)
    return relative


def _part(choices: Choices) -> bytes:
    """One name: a known troublemaker or any bytes that the system takes."""
    if choices.below(4):
        return choices.pick(PARTS)
    return choices.bytes(1 + choices.below(20)).replace(b"/", b"_").replace(b"\0", b"_") or b"x"


def _check_shown(text: str) -> None:
    text.encode()
    assert not any(unicodedata.category(c) in SHOWN_NEVER for c in text), ascii(text)


def _fast() -> str | None:
    """Returns a folder in memory if there is one: only names are needed, no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def seeds() -> dict[str, bytes]:
    """One of everything, and each troublemaker as a file."""
    every = {f"kind_{kind}": bytes([kind, 1, 1, 0, 1, 0, 0, 0]) for kind in range(8)}
    names = {f"name_{n}": bytes([0, 0, 1, n, 0]) for n in range(len(PARTS))}
    links = {f"link_{n}": bytes([4, 0, 1, 1, n % 3, n]) for n in range(len(TARGETS))}
    return every | names | links
