"""A runtime directory too long for its sockets' paths is an error of one line in both programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wuliart_process.sockets import MAX_SOCKET_PATH, runtime_dir_problem

SOCKET = "/descriptors.sock"


@pytest.mark.parametrize("by_environment", [False, True])
def test_server_and_manager_refuse_a_long_folder_in_the_same_words(
    tmp_path: Path, by_environment: bool
) -> None:
    folder = str(tmp_path / "画").ljust(MAX_SOCKET_PATH, "x")
    said = []
    for module, options in (
        ("inference_server", ["--model", "embedded"]),
        ("lora_manager", ["--loras", str(tmp_path / "loras")]),
    ):
        where = [] if by_environment else ["--runtime-dir", folder]
        ended = subprocess.run(
            [sys.executable, "-m", module, *options, *where],
            capture_output=True, text=True, timeout=120,
            env={"PATH": "/usr/bin", "WULIART_RUNTIME_DIR": folder if by_environment else "/tmp/x"},
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
        said.append(ended.stderr[ended.stderr.index("--runtime-dir") :].split(";")[0])
    assert said[0] == said[1]
    assert f"{len(folder.encode()) + len(SOCKET)} bytes" in said[0]
    assert not (tmp_path / "loras").exists()


def test_the_limit_is_that_of_the_longer_socket() -> None:
    longest = Path("/tmp/".ljust(MAX_SOCKET_PATH - len(SOCKET), "x"))
    assert not runtime_dir_problem(longest)
    assert "101 bytes" in runtime_dir_problem(Path(f"{longest}x"))
