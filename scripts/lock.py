"""`make lock`: renews the pins in requirements*.lock and the SHA-256 sums in hashes/.

Installs into a temporary environment, so that other packages in .venv are not locked. The registry
supplies the hashes of all files of a release, so they hold for every system and Python version, and
no package is downloaded for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Python puts the folder of a script on its path, not the folder above, where `scripts` is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.check_hashes import HASHES, ROOT, TORCH_CPU, TORCH_CUDA, pins

PINNED = ("torch==2.13.0", "pillow==12.3.0")
"""torch: a newer version must be tried on a GPU first. pillow: Gradio requires one below 13."""

NVJPEG = "torchvision ; sys_platform == 'linux'"
"""Its wheels contain nvJPEG, which encodes on a GPU; each version requires one version of torch."""

PROJECTS = (str(ROOT / "clients" / "python"), f"{ROOT}[page]")
"""Installed together, because the server's wheel requires the client's of the same version."""

MARKERS = {"atheris": ' ; platform_machine == "x86_64" and python_version < "3.14"'}
"""Markers of packages without builds for some systems; `pip freeze` drops them."""

RUNTIME_HEADER = """\
# What the product runs on, pinned. Made by: make lock
# torch: on a machine with an NVIDIA GPU the same pin installs the CUDA build.
"""

DEV_HEADER = """\
# What tests, checks and benchmarks need on top of requirements.lock, pinned. Made by: make lock
-r requirements.lock
"""

HASHES_HEADER = "# {}\n# For pip install --require-hashes. Made by: make lock\n"

CPU_ONLY = "torch's build without CUDA, as pip found it on the machine that made the lock."


def frozen(pip: list[str]) -> list[str]:
    """Returns a pin for each installed package, without local version labels."""
    lines = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    return [
        (line.split("+")[0] if line.startswith("torch==") else line)
        + MARKERS.get(line.partition("==")[0], "")
        for line in lines.splitlines()
        if not line.startswith(("wuliart", "-e "))
    ]


def hashed(wanted: list[str], *options: str) -> str:
    """Returns the pins with the hashes of all their files in the registry."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--native-tls"]
    form = ["--generate-hashes", "--no-annotate", "--no-header", "--universal"]
    return subprocess.run(
        [*command, *form, "--python-version", "3.11", *options, "-"],
        input="\n".join(wanted),
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def write_hashes(runtime: list[str], dev: list[str]) -> None:
    """Writes all files of hashes/."""
    torch = next(line for line in runtime if line.startswith("torch=="))
    others = [line for line in runtime if line != torch]
    _write("runtime.txt", "All of requirements.lock but torch.", hashed(others, "--no-deps"))
    _write("dev.txt", "All of requirements-dev.lock.", hashed(dev, "--no-deps"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraint:
        constraint.write("\n".join(others))
        constraint.flush()
        cuda = hashed([torch, NVJPEG], "--constraint", constraint.name)
    # The hashes of what torch shares with other packages are in runtime.txt.
    known = {line.partition("==")[0].lower().replace("_", "-") for line in others}
    entries = [e for e in _entries(cuda) if e.partition("==")[0] not in known]
    what = "torch with CUDA, what it needs for that, and torchvision for nvJPEG."
    _write(TORCH_CUDA, what, "".join(entries))
    if (built := _without_cuda(torch)) is not None:
        # torch needs setuptools, which `pip freeze` leaves out.
        tools = "".join(e for e in entries if e.startswith("setuptools=="))
        _write(TORCH_CPU, CPU_ONLY, f"{torch} \\\n    --hash=sha256:{built}\n{tools}")


def _entries(text: str) -> list[str]:
    """Returns each pin with its hashes."""
    return ["".join(lines) for lines in pins(text).values()]


def _without_cuda(torch: str) -> str | None:
    """Returns the SHA-256 of the build that pip selects here; None if the registry lists it."""
    report = subprocess.run(
        [*(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"),
         *("--ignore-installed", "--report", "-", torch)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    (install,) = json.loads(report)["install"]
    local = "+" in install["metadata"]["version"]
    return str(install["download_info"]["archive_info"]["hashes"]["sha256"]) if local else None


def _write(name: str, what: str, text: str) -> None:
    (HASHES / name).write_text(HASHES_HEADER.format(what) + text)


def _read_lock(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if "==" in line and not line.startswith("#")]


def main() -> None:
    """Writes all files; with --hashes only those of hashes/, from the existing pins."""
    if sys.argv[1:] == ["--hashes"]:
        write_hashes(_read_lock("requirements.lock"), _read_lock("requirements-dev.lock"))
        return
    with tempfile.TemporaryDirectory(prefix="wuliart-lock-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-m", "pip"]
        # One at a time: resolved together with other packages, pip may prefer another torch build.
        for packages in (*((pin,) for pin in PINNED), PROJECTS):
            subprocess.run([*pip, "install", "--quiet", *packages], check=True)
        runtime = frozen(pip)
        (ROOT / "requirements.lock").write_text(RUNTIME_HEADER + "\n".join(runtime) + "\n")
        wanted = ROOT / "requirements-dev.in"
        subprocess.run(
            [*pip, "install", "--quiet", "-r", wanted, "-c", ROOT / "requirements.lock"], check=True
        )
        dev = [line for line in frozen(pip) if line not in runtime]
        (ROOT / "requirements-dev.lock").write_text(DEV_HEADER + "\n".join(dev) + "\n")
        # Installed after the pins are written, because only this script needs it.
        subprocess.run([*pip, "install", "--quiet", "uv"], check=True)
        subprocess.run([python, __file__, "--hashes"], check=True)


if __name__ == "__main__":
    main()
