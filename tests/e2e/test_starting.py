"""Tests of the errors with which the server process fails to start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.config import EMBEDDED_MODEL
from inference_server.model.weights.checkpoint import COMPONENTS
from tests.e2e.conftest import LiveService


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", "--runtime-dir", str(folder / "run")]
    command += ["--listen", f"unix:{folder}/public.sock", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("component", sorted(COMPONENTS))
def test_a_missing_component_is_one_clear_line(component: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, model)
    shutil.rmtree(model / component)
    result = start(tmp_path, "--model", str(model))
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert str(model) in result.stderr
    assert component in result.stderr


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_missing_weights_name_the_file(component: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, model)
    (weights,) = (model / component).glob("*.safetensors")
    weights.unlink()
    result = start(tmp_path, "--model", str(model))
    assert result.returncode == 1
    assert weights.name in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_damaged_weights_name_the_file(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = start(tmp_path, "--model", str(model))
    assert result.returncode == 1
    assert str(weights) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_turbo_lora_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "turbo.safetensors"
    path.write_bytes(b"rubbish")
    result = start(tmp_path, "--turbo-lora", str(path))
    assert result.returncode == 1
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_second_server_on_the_same_folder_is_refused(live: LiveService, tmp_path: Path) -> None:
    folder = live.service.runtime_dir
    result = start(tmp_path, "--runtime-dir", str(folder))
    assert result.returncode == 1
    assert str(folder) in result.stderr
    assert live.generate()
