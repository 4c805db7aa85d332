"""The Node client: built and packed as users would, its own tests and example against a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.conftest import LiveService

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "node"
PATIENCE = 240

pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None, reason="npm is not installed; the Node client needs Node 20"
)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """The command's standard output; fails with everything it printed."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """The packed client."""
    return built()


def built() -> Path:
    """Builds and packs the client; returns the package."""
    run("make", "node", cwd=ROOT)
    # Not what make prints: under `make -C DIR` that ends in lines of its own.
    pack = ("npm", "pack", "--json", "--dry-run", "--ignore-scripts")
    (packed,) = json.loads(run(*pack, cwd=CLIENT))
    return CLIENT / packed["filename"]


def test_the_package_holds_what_is_needed_and_nothing_else(package: Path) -> None:
    with tarfile.open(package) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    assert {"package.json", "README.md", "dist/index.js", "dist/index.d.ts"} <= names
    assert "dist/gen/wuliart/v1/image_generation_pb.js" in names
    assert not any(name.startswith(("src/", "test/", "node_modules/")) for name in names)


def test_the_package_is_found_under_a_make_that_names_its_folders(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make -C DIR test` hands the option on to each make below it."""
    monkeypatch.setenv("MAKEFLAGS", "w")
    assert built() == package and package.is_file()


def test_its_own_tests_pass_against_a_running_server(package: Path, trained: LiveService) -> None:
    trained.drop("ink", trained.adapter_file(seed=1))
    trained.wait_usable("ink")
    environment = {"WULIART_TARGET": trained.service.listen, "WULIART_ADAPTER": "ink"}
    run("npm", "test", "--silent", cwd=CLIENT, **environment)


def test_the_progress_bar_example_saves_an_image(
    package: Path, live: LiveService, tmp_path: Path
) -> None:
    example = str(CLIENT / "examples" / "progress.mjs")
    output = run("node", example, "一只狐狸", cwd=tmp_path, WULIART_TARGET=live.service.listen)
    assert "████ step 4/4" in output
    (image,) = (tmp_path / "outputs").iterdir()
    assert f"saved outputs/{image.name}" in output
    assert image.read_bytes()[:2] == b"\xff\xd8"
