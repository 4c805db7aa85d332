"""Hostile checkpoints given to `wuliart-server` and `wuliart-server prepare`, as processes.

Each exits with code 1 and one line within seconds. Here is what only a process shows;
tests/unit/test_hostile_checkpoints.py tests each kind of damage.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.model.weights.prepared_files import MANIFEST
from tests.support.hostile_checkpoints import Damage, changed, index, linked, piped
from tests.support.processes import FinishedProcess, run

SERVER = [sys.executable, "-m", "inference_server"]
SECONDS = 120
MOST_RSS = 1 << 30
"""Bytes; the server takes 0.5 GB before it loads."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")


def prepare(folder: Path, out: Path, *arguments: str | Path, **options: Any) -> FinishedProcess:
    command = [*SERVER, "prepare", "--model", folder, "--out", out, *arguments]
    return run(command, SECONDS, **options)


def serve(folder: Path, runtime_dir: Path, *arguments: str | Path) -> FinishedProcess:
    where = ["--listen", "127.0.0.1:0", "--runtime-dir", runtime_dir, "--device", "cpu"]
    return run([*SERVER, "--model", folder, *where, *arguments], SECONDS)


def assert_refused(ended: FinishedProcess, why: str) -> None:
    # Progress output may come first; there must be one message and no traceback.
    assert ended.code == 1, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert "Traceback" not in ended.stderr
    assert [line for line in lines if line.startswith("wuliart-server")] == lines[-1:]
    assert why in lines[-1]
    assert ended.peak_rss < MOST_RSS


ATTACKS: dict[str, tuple[Damage, str]] = {
    "a link to a secret": (linked("tokenizer/vocab.json", "/etc/shadow"), "outside"),
    "endless layers": (changed("transformer/config.json", ("num_layers",), 10**9), "num_layers"),
    "a pipe": (piped("tokenizer/added_tokens.json"), "Not a regular file"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_checkpoint_is_not_prepared(name: str, folder: Path, tmp_path: Path) -> None:
    damage, why = ATTACKS[name]
    damage(folder)
    out = tmp_path / "out"
    assert_refused(prepare(folder, out), why)
    assert not out.exists()


def test_a_hostile_checkpoint_is_not_served(folder: Path, tmp_path: Path) -> None:
    index({"a": "../text_encoder/model.safetensors"})(folder)
    assert_refused(serve(folder, tmp_path / "run"), "weight_map")


def test_a_hostile_turbo_lora_is_not_served(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "turbo.safetensors")
    ended = serve(folder, tmp_path / "run", "--turbo-lora", tmp_path / "turbo.safetensors")
    assert_refused(ended, "Not a regular file")


def test_unusable_names(tmp_path: Path) -> None:
    assert_refused(serve(Path("a" * 300), tmp_path / "run"), "File name too long")
    (tmp_path / "file").touch()
    assert_refused(prepare(EMBEDDED_MODEL, tmp_path / "file" / "out"), "Not a directory")


def test_a_full_disk_is_one_line_and_the_next_run_resumes(folder: Path, tmp_path: Path) -> None:
    """A file size limit simulates the full disk; foreign files are not copied."""
    (folder / "tokenizer" / "letter.txt").write_text("dear")
    (folder / "vae" / "code.py").write_text("")
    (folder / "transformer" / "notes.json").symlink_to("/etc/passwd")
    os.mkfifo(folder / "transformer" / "more.safetensors")
    out = tmp_path / "out"
    limit = ["bash", "-c", 'umask 027; ulimit -f 2000; exec "$0" "$@"']
    command = [*SERVER, "prepare", "--model", folder, "--out", out, "--turbo-lora", EMBEDDED_TURBO]
    full = run([*limit, *command], SECONDS)
    assert_refused(full, "File too large")
    assert f"cannot write {out}/" in full.stderr and "run it again" in full.stderr
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert written

    ended = run(["bash", "-c", 'umask 027; exec "$0" "$@"', *command], SECONDS)
    assert ended.code == 0, ended.stderr
    assert written.items() <= {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}.items()
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o640 for path in files.values())
    assert {name for name in files if not name.endswith(".safetensors")} == {
        MANIFEST,
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "vae/config.json",
        "vae/preview.json",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], 10).code != 0:
        pytest.skip("no small disk can be mounted here")
    try:
        assert_refused(prepare(folder, disk / "out"), "No space left on device")
        assert run(["mount", "-o", "remount,size=200m", disk], 10).code == 0
        ended = prepare(folder, disk / "out")
        assert ended.code == 0, ended.stderr
        assert not list((disk / "out").rglob("*.part"))
    finally:
        run(["umount", disk], 10)
