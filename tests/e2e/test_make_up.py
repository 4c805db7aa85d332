"""Tests that `make up` and `make demo` behave as the README says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from wuliart_client import Client, Unavailable

ROOT = Path(__file__).resolve().parents[2]


def test_ctrl_c_stops_all(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/public.sock"
    command = [sys.executable, "scripts/up.py", "--listen", listen, "--loras", tmp_path / "loras"]
    command += ["--web-port", "0"]
    up = subprocess.Popen(
        [*command, "--runtime-dir", tmp_path / "run"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with Client(listen) as client:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if client.info().lora_manager_connected:
                        break
                except Unavailable:
                    assert time.monotonic() < deadline
                time.sleep(0.1)
        # As a terminal does, signal the whole foreground process group.
        os.killpg(up.pid, signal.SIGINT)
        output, _ = up.communicate(timeout=60)
    finally:
        if up.poll() is None:
            up.kill()
    assert up.returncode == 0, output
    assert "Stopped." in output
    assert "Traceback" not in output
    left = subprocess.run(
        ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert not left.stdout


def demo(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_demo_generates_adds_an_adapter_and_generates_again(tmp_path: Path) -> None:
    result = demo(tmp_path, PROMPT="红色的船", SEED="5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "红色的船" in result.stdout
    assert "seed 5" in result.stdout
    assert result.stdout.count("Step 4/4 → Done") == 2
    images = list((tmp_path / "outputs").iterdir())
    assert len(images) == 2 and all(f"outputs/{path.name}" in result.stdout for path in images)
    contents = [path.read_bytes() for path in images]
    assert all(data[:2] == b"\xff\xd8" for data in contents)
    assert contents[0] != contents[1]


def test_demo_refuses_an_invalid_seed(tmp_path: Path) -> None:
    result = demo(tmp_path, SEED="seven")
    assert result.returncode == 2
    assert "SEED" in result.stderr


def test_demo_fails_when_the_server_cannot_start(tmp_path: Path) -> None:
    result = demo(tmp_path, OMP_NUM_THREADS="1", PYTHONPATH=str(break_server(tmp_path)))
    assert result.returncode == 1
    assert "The demo failed" in result.stderr


def break_server(tmp_path: Path) -> Path:
    """Returns a folder whose `inference_server` exits at once."""
    package = tmp_path / "broken" / "inference_server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('no GPU today')")
    return tmp_path / "broken"
