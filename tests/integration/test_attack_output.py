"""Commands whose standard streams are closed, full or no longer read: no traceback, no loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_image_server import (
    DEADLINE,
    JPEG,
    FakeImageServer,
    Hold,
    adapter,
    change,
    completed,
    snapshot,
    started,
    step,
)
from tests.support.processes import FinishedProcess, run

PROGRAMS = {
    "wuliart": ["wuliart_client"],
    "wuliart-server": ["inference_server"],
    "wuliart-server prepare": ["inference_server", "prepare"],
    "wuliart-lora-manager": ["lora_manager"],
    "wuliart-web": ["wuliart_web"],
}
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture
def fake() -> Iterator[FakeImageServer]:
    with FakeImageServer() as server:
        server.adapters = [adapter(f"adapter-{n}") for n in range(50)]
        yield server


def shell(module: list[str], arguments: str, cwd: Path, target: str = "") -> FinishedProcess:
    """Runs `python -m MODULE ARGUMENTS`, where the arguments may redirect."""
    line = f'exec "$0" -m {" ".join(module)} {arguments}'
    environment = BUFFERED | {"WULIART_TARGET": target}
    return run(["bash", "-c", line, sys.executable], DEADLINE, cwd=cwd, env=environment)


def unread(module: list[str], arguments: str, cwd: Path, target: str = "") -> FinishedProcess:
    """The same, with a standard output whose reader has gone already."""
    line = f'exec "$0" -m {" ".join(module)} {arguments}'
    reader, writer = os.pipe()
    os.close(reader)
    environment = BUFFERED | {"WULIART_TARGET": target}
    try:
        command = ["bash", "-c", line, sys.executable]
        return run(command, DEADLINE, cwd=cwd, env=environment, stdout=writer)
    finally:
        os.close(writer)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_that_cannot_be_written(program: str, tmp_path: Path) -> None:
    module = PROGRAMS[program]
    full = shell(module, "--help >/dev/full", tmp_path)
    message = f"{program}: cannot write to standard output: No space left on device\n"
    assert (full.code, full.stderr) == (1, message)
    broken = unread(module, "--help", tmp_path)
    assert (broken.code, broken.stderr) == (141, "")
    if program == "wuliart-server prepare":
        return  # it imports torch each time, and is the same process as wuliart-server
    closed = shell(module, "--help >&-", tmp_path)
    assert (closed.code, closed.stderr) == (0, "")
    nowhere = shell(module, "--unheard-of <&- >&- 2>&-", tmp_path)
    assert nowhere.code == 2


@pytest.mark.parametrize("command", ["adapters", "adapters --json", "generate p", "watch", "info"])
def test_results_that_cannot_be_written(
    fake: FakeImageServer, tmp_path: Path, command: str
) -> None:
    fake.watches.extend([snapshot(1, adapter("a")), Hold()] for _ in range(2))
    full = shell(["wuliart_client"], f"{command} >/dev/full", tmp_path, fake.target)
    message = "wuliart: cannot write to standard output: No space left on device\n"
    assert (full.code, full.stderr) == (1, message)
    broken = unread(["wuliart_client"], command, tmp_path, fake.target)
    assert (broken.code, broken.stderr) == (141, "")


def test_a_closed_output_costs_no_image(fake: FakeImageServer, tmp_path: Path) -> None:
    for streams in (">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"):
        ended = shell(["wuliart_client"], f"generate p --out out {streams}", tmp_path, fake.target)
        assert (ended.code, ended.stderr) == (0, ""), streams
    images = list((tmp_path / "out").iterdir())
    assert [image.read_bytes() for image in images] == [JPEG] * 4


def test_a_watch_ends_when_its_reader_does(fake: FakeImageServer, tmp_path: Path) -> None:
    """`wuliart watch --json | head -1`, with nothing more to write for hours."""
    fake.watches.append([snapshot(1, adapter("a")), change(2, added=adapter("b")), Hold()])
    process = subprocess.Popen(
        [sys.executable, "-m", "wuliart_client", "watch", "--json", "--target", fake.target],
        env=BUFFERED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert [json.loads(process.stdout.readline())["kind"] for _ in range(2)]
    assert fake.holding.wait(DEADLINE)
    process.stdout.close()
    assert process.wait(DEADLINE) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_what_cannot_be_written_is_named(fake: FakeImageServer, tmp_path: Path) -> None:
    fake.default = [started(), step(1, 1, b"preview"), completed()]
    (tmp_path / "file").touch()
    (tmp_path / "previews" / "step-1.jpg" / "x").mkdir(parents=True)
    for arguments, name, why in (
        ("--out file", "file", "Not a directory"),
        ("--out file/x", "file/x", "Not a directory"),
        ("--preview-dir file", "file", "Not a directory"),
        ("--preview-dir previews", "previews/step-1.jpg", "Is a directory"),
    ):
        ended = shell(["wuliart_client"], f"generate p {arguments}", tmp_path, fake.target)
        assert (ended.code, ended.stderr) == (1, f"wuliart: cannot write {name}: {why}\n")


def test_an_image_that_does_not_fit_is_named_and_removed(
    fake: FakeImageServer, tmp_path: Path
) -> None:
    """The limit of a file's size stands for a full disk: the write itself fails."""
    line = 'ulimit -f 1; exec "$0" -m wuliart_client generate p --out out'
    fake.default = [started(), step(1, 1), completed(image=JPEG + bytes(5000))]
    environment = BUFFERED | {"WULIART_TARGET": fake.target}
    command = ["bash", "-c", line, sys.executable]
    with (tmp_path / "stderr").open("w+b") as err:
        code = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=err, check=False
        ).returncode
    message = (tmp_path / "stderr").read_text()
    assert code == 1 and message.count("\n") == 1
    assert message.startswith("wuliart: cannot write out/") and "File too large" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_token_file_is_bounded(fake: FakeImageServer, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for file, why in (("/dev/zero", "no token"), ("bytes", "ASCII"), (".", "Is a directory")):
        ended = shell(["wuliart_client"], f"adapters --token-file {file}", tmp_path, fake.target)
        assert ended.code == 1 and ended.stderr.count("\n") == 1
        assert why in ended.stderr and file in ended.stderr
    ended = shell(
        ["wuliart_client"], "adapters --token-file <(echo 0123456789abcdef)", tmp_path, fake.target
    )
    assert ended.code == 0, ended.stderr
