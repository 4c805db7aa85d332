"""Builds the project's wheels, and installs them in environments that hold nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 180
"""Seconds that a command may take on a busy machine; tests assert nothing about time."""

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NOT_BUILT_FROM = shutil.ignore_patterns(
    ".[!g]*", ".git", "shared", "tests", "docs", "node_modules", "__pycache__", "*_pb2*"
)


class Builder:
    """A copy of the checkout, and an environment with what its projects need to be built.

    A build generates the stubs. In the checkout itself, a process that another test starts at that
    moment would import half a file.
    """

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "tools" / "bin"
        checkout = folder / "checkout"
        shutil.copytree(ROOT, checkout, symlinks=True, ignore=NOT_BUILT_FROM)
        self.projects = (checkout / "clients" / "python", checkout)
        # One environment, as `pip wheel` would make one for each build.
        texts = [(project / "pyproject.toml").read_text("utf-8") for project in self.projects]
        needs = {tuple(tomllib.loads(text)["build-system"]["requires"]) for text in texts}
        (requirements,) = needs
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", self._bin.parent], check=True
        )
        self._pip("install", "--quiet", *requirements)

    def sdist(self, project: Path, folder: Path) -> None:
        """Builds a project's sdist into a folder."""
        command = [self._bin / "python", "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
        subprocess.run(command, cwd=project, env=self._environment(), check=True)

    def wheels(self, folder: Path, *sources: Path) -> dict[str, Path]:
        """Builds the wheels of projects or sdists into a folder; returns them by name."""
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
        self._pip("wheel", *options, *map(str, sources))
        return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}

    def _pip(self, *arguments: str) -> None:
        python = ("--python", str(self._bin / "python"))
        subprocess.run([*PIP, *python, *arguments], env=self._environment(), check=True)

    def _environment(self) -> dict[str, str]:
        """The build calls protoc's plugins by their names."""
        found = clean_environment()
        return found | {"PATH": f"{self._bin}{os.pathsep}{found['PATH']}"}


class Environment:
    """A virtual environment without pip; `requirements` are the linked distributions' names."""

    def __init__(self, folder: Path, *wheels: Path, extras: tuple[str, ...] = ()) -> None:
        self.bin = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        install = ["--python", str(self.bin / "python"), "install", "--quiet", "--no-deps"]
        subprocess.run([*PIP, *install, *wheels], check=True)
        (self.site,) = folder.glob("lib/python*/site-packages")
        self.requirements: set[str] = set()
        for own in importlib.metadata.distributions(path=[str(self.site)]):
            self._link_requirements(own, extras)

    def run(self, command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=cwd,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    @contextmanager
    def running(self, command: str, *arguments: str, cwd: Path) -> Iterator[None]:
        process = subprocess.Popen(
            [self.bin / command, *arguments], cwd=cwd, env=clean_environment()
        )
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(60) in (0, -signal.SIGTERM)  # the page passes the signal on

    def _link_requirements(
        self, distribution: importlib.metadata.Distribution, extras: tuple[str, ...]
    ) -> None:
        """Links what the distribution requires from the environment of the tests."""
        for line in distribution.requires or ():
            required = Requirement(line)
            name = canonicalize_name(required.name)
            wanted = any(
                required.marker is None or required.marker.evaluate({"extra": extra})
                for extra in ("", *extras)
            )
            if not wanted or name in self.requirements or name.startswith("wuliart"):
                continue
            self.requirements.add(name)
            found = importlib.metadata.distribution(name)
            self._link_files(found)
            self._link_requirements(found, tuple(required.extras))

    def _link_files(self, distribution: importlib.metadata.Distribution) -> None:
        for file in distribution.files or ():
            top, source = file.parts[0], Path(str(distribution.locate_file("")))
            if top in ("..", "__pycache__"):
                continue
            # Several distributions share a namespace package, which has no __init__.py.
            whole = top.endswith(".dist-info") or (source / top / "__init__.py").exists()
            link = self.site / (top if whole else file)
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source / (top if whole else file))


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
