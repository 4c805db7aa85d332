"""Runs the Python examples, unchanged, against a whole service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import LiveService

EXAMPLES = Path(__file__).parents[2] / "clients" / "python" / "examples"


def run(live: LiveService, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    script, *arguments = command
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env={**os.environ, "WULIART_TARGET": live.service.listen},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_examples_generate_and_save(trained: LiveService, tmp_path: Path) -> None:
    trained.drop("ink", trained.adapter_file(1))
    trained.wait_usable("ink")
    bar = run(trained, tmp_path, "progress_bar.py", "一只狐狸", "ink")
    assert bar.returncode == 0, bar.stderr
    assert "step 4/4" in bar.stdout and "saved outputs/" in bar.stdout

    wrong = run(trained, tmp_path, "progress_bar.py", "a fox", "imk")
    assert wrong.returncode == 1
    assert "ink" in wrong.stderr and "Traceback" not in wrong.stderr

    both = run(trained, tmp_path, "two_at_once.py")
    assert both.returncode == 0, both.stderr
    for prompt in ("a red fox", "一座灯塔"):
        assert f"{prompt}: step 4, a preview of" in both.stdout
        assert f"{prompt}: saved outputs/" in both.stdout
    reflection = run(trained, tmp_path, "reflection_call.py", "a fox")
    assert reflection.returncode == 0, reflection.stderr
    assert "ImageGenerationService" in reflection.stdout and "completed" in reflection.stdout

    images = list((tmp_path / "outputs").iterdir())
    assert len(images) == 3
    assert all(image.read_bytes()[:2] == b"\xff\xd8" for image in images)
