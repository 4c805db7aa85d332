"""`make lock`: pins everything anew in requirements.lock and requirements-dev.lock.

Installs into a scratch environment, so that nothing that happens to lie in .venv is locked.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PINNED = ("torch==2.13.0", "pillow==12.3.0")
"""torch: a newer one needs a look at the GPU first. pillow: Gradio wants one below 13."""

RUNTIME_HEADER = """\
# What the product runs on, pinned. Made by: make lock
# torch: on a machine with an NVIDIA GPU the same pin installs the CUDA build.
"""

DEV_HEADER = """\
# What tests, checks and benchmarks need on top of requirements.lock, pinned. Made by: make lock
-r requirements.lock
"""


def frozen(pip: list[str]) -> list[str]:
    """What the environment holds, one pin a line, without local version labels."""
    lines = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    return [
        line.split("+")[0] if line.startswith("torch==") else line
        for line in lines.splitlines()
        if not line.startswith(("wuliart", "-e "))
    ]


def main() -> None:
    """Writes both files."""
    with tempfile.TemporaryDirectory(prefix="wuliart-lock-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip"]
        # One by one: resolving torch together with the rest may prefer another build of it.
        for package in (*PINNED, str(ROOT)):
            subprocess.run([*pip, "install", "--quiet", package], check=True)
        runtime = frozen(pip)
        (ROOT / "requirements.lock").write_text(RUNTIME_HEADER + "\n".join(runtime) + "\n")
        wanted = ROOT / "requirements-dev.in"
        subprocess.run(
            [*pip, "install", "--quiet", "-r", wanted, "-c", ROOT / "requirements.lock"], check=True
        )
        dev = [line for line in frozen(pip) if line not in runtime]
        (ROOT / "requirements-dev.lock").write_text(DEV_HEADER + "\n".join(dev) + "\n")


if __name__ == "__main__":
    main()
