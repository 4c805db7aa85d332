"""The wheel works outside the checkout: embedded model, stubs and console commands included."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `pip install --target` filled from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [
        n for n in names if n.startswith(("tests/", "scripts/", "benchmarks/", "training/"))
    ]
    assert {"wuliart_web/assets/page.css", "wuliart_web/assets/viewer.js"} <= set(names)
    target = folder / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    return target


def run(installed: Path, *command: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_packages_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import inference_server.config as c, lora_manager, wuliart_client, wuliart_web, "
        "wuliart.v1.image_generation_pb2_grpc, wuliart.internal.v1.segment_pb2_grpc;"
        "print(c.__file__, lora_manager.__file__, wuliart_client.__file__, c.EMBEDDED_MODEL)"
    )
    paths = run(installed, sys.executable, "-c", code, cwd=tmp_path).split()
    assert all(path.startswith(str(installed)) for path in paths), paths
    assert (Path(paths[-1]) / "vae" / "diffusion_pytorch_model.safetensors").is_file()


@pytest.mark.parametrize(
    "command", ["wuliart", "wuliart-server", "wuliart-lora-manager", "wuliart-web"]
)
def test_console_commands_answer(installed: Path, tmp_path: Path, command: str) -> None:
    assert command in run(installed, str(installed / "bin" / command), "--help", cwd=tmp_path)


def test_the_installed_server_draws(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    socket = f"unix:{tmp_path}/public.sock"
    server = subprocess.Popen(
        [installed / "bin" / "wuliart-server", "--listen", socket, "--runtime-dir", tmp_path / "r"],
        cwd=tmp_path,
        env=environment,
    )
    try:
        wait = "import sys; from pathlib import Path; from scripts.processes import Service; "
        wait += (
            f"Service(Path('{tmp_path}/r'), Path('{tmp_path}/l'), '{socket}').wait_until_ready()"
        )
        subprocess.run([sys.executable, "-c", wait], cwd=ROOT, check=True, timeout=120)
        command = [str(installed / "bin" / "wuliart"), "--target", socket, "generate", "a boat"]
        run(installed, *command, "--out", str(tmp_path / "outputs"), cwd=tmp_path)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    (image,) = (tmp_path / "outputs").iterdir()
    assert image.read_bytes()[:2] == b"\xff\xd8"
