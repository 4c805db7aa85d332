"""Checks that hashes/ covers the lock files, and selects the hashes of this machine's torch.

The same pin of torch installs a build with or without CUDA, depending on the machine. So its hashes
are in two files, apart from those of all other packages.

    python scripts/check_hashes.py           compare hashes/ with the lock files; needs no network
    python scripts/check_hashes.py --torch   print the file that has the build pip would install
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HASHES = ROOT / "hashes"
TORCH_CUDA, TORCH_CPU = "torch-cuda.txt", "torch-cpu.txt"

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


def canonical(name: str) -> str:
    """Returns a package's normalised name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[tuple[str, str], list[str]]:
    """Returns the lines of each (name, version), including hashes."""
    found: dict[tuple[str, str], list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if (match := _PIN.match(line)) is not None:
            lines = found.setdefault((canonical(match[1]), match[2]), [])
        if not line.startswith(("#", "-r")):
            lines.append(line)
    return found


def hashes(name: str) -> dict[tuple[str, str], set[str]]:
    """Returns the SHA-256 of all files of each (name, version), from a file of hashes/."""
    text = (HASHES / name).read_text()
    return {pin: set(_HASH.findall("".join(lines))) for pin, lines in pins(text).items()}


def problems() -> list[str]:
    """Returns one line for each mismatch."""
    runtime = pins((ROOT / "requirements.lock").read_text()).keys()
    dev = pins((ROOT / "requirements-dev.lock").read_text()).keys()
    torch = {pin for pin in runtime if pin[0] == "torch"}
    found: list[str] = []
    for name, locked in (("runtime.txt", runtime - torch), ("dev.txt", dev)):
        have = hashes(name).keys()
        found += [f"hashes/{name} lacks {p}=={v}; run make lock" for p, v in locked - have]
        found += [f"hashes/{name} has {p}=={v}, no lock does" for p, v in have - locked]
    for name in (TORCH_CUDA, TORCH_CPU):
        if not torch <= hashes(name).keys():
            found.append(f"hashes/{name} has another torch than requirements.lock; run make lock")
        if twice := hashes(name).keys() & hashes("runtime.txt").keys():
            found.append(f"hashes/{name} repeats {', '.join(p for p, _ in twice)}")
    for name in ("runtime.txt", "dev.txt", TORCH_CUDA, TORCH_CPU):
        found += [f"{p}=={v} has no hash in {name}" for (p, v), h in hashes(name).items() if not h]
    return sorted(found)


def torch_file() -> Path:
    """Returns the file with the hash of the torch that pip would install on this machine.

    Raises:
        SystemExit: No file has it; that build must not be installed.
    """
    (pin,) = (p for p in pins((ROOT / "requirements.lock").read_text()) if p[0] == "torch")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    report = subprocess.run(
        [*command, "--ignore-installed", "--report", "-", "==".join(pin)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    (install,) = json.loads(report)["install"]
    digest = install["download_info"]["archive_info"]["hashes"]["sha256"]
    for name in (TORCH_CUDA, TORCH_CPU):
        if digest in hashes(name)[pin]:
            return (HASHES / name).relative_to(ROOT)
    sys.exit(
        f"pip would install a torch {install['metadata']['version']} whose SHA-256 is {digest}, "
        "which is not in hashes/; check where it comes from, then run make lock"
    )


def main() -> None:
    """Exits with 1 if there is a mismatch."""
    if sys.argv[1:] == ["--torch"]:
        print(torch_file())
        return
    if found := problems():
        sys.exit("\n".join(found))
    print("every pin has its hashes")


if __name__ == "__main__":
    main()
