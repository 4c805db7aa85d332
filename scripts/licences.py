"""`python scripts/licences.py`: writes docs/licences.md, one line for each package.

Fails on a licence that may not accompany a program under Apache-2.0. `--check` writes nothing and
fails if the file is out of date.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

# Python puts the folder of a script on its path, not the folder above, where `scripts` is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.check_hashes import HASHES, ROOT, TORCH_CUDA, pins

REPORT: Final = ROOT / "docs" / "licences.md"

FITTING: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
        "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
    }
)  # fmt: skip
"""Permissive licences, and MPL-2.0, which covers only the package's own, unmodified files."""

WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    # Read in the packages: mpmath, sympy (three clauses), semantic-version (two), Jinja2 (three).
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
}
"""SPDX expressions for the licence names of packages that give none."""

READ: Final = {"semantic-version": "BSD-2-Clause"}
"""Licences read in the package's LICENSE file, because its metadata is not exact."""

CUDA: Final = {
    "setuptools": "MIT",
    "torchvision": "BSD-3-Clause; its wheel holds NVIDIA's nvJPEG and CUDA runtime, libjpeg-turbo, "
    "libpng, libwebp and zlib",
    "triton": "MIT",
}
"""Packages of torch's CUDA build that are not NVIDIA's; read in their LICENSE files."""

HEAD: Final = """\
# Licences

WuliArt Turbo is under Apache-2.0. It runs on the packages below, which are installed beside it and
of which it holds no copy. Made by `python scripts/licences.py` from what each package says of
itself; it fails on a licence that does not fit.

| Package | Version | Licence |
| --- | --- | --- |
"""

CUDA_HEAD: Final = """
## With torch's CUDA build

On Linux, torch's own build brings NVIDIA's libraries, and torchvision's wheel nvJPEG. They are not
free software: an image built from the Dockerfile contains them, and distributing it is subject to
their terms. The list comes from `hashes/torch-cuda.txt`; their metadata is not read.

| Package | Version | Licence |
| --- | --- | --- |
"""


def licence(package: Distribution) -> str:
    """Returns a package's licence, as an SPDX expression where its name is known."""
    metadata = package.metadata
    if (read := READ.get(package.name)) is not None:
        return read
    if expression := " AND ".join(metadata.get_all("License-Expression") or []):
        return expression
    written = "".join(metadata.get_all("License") or []).strip()
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License ::")
    ]
    # Some put the licence's whole text in that field.
    words = [written] if written and "\n" not in written else classified
    return " AND ".join(WORDS.get(word, word) for word in words) or "none given"


def fits(expression: str) -> bool:
    """Returns True if every licence that applies is in `FITTING`; of alternatives, one suffices."""
    return all(
        any(choice.strip() in FITTING for choice in re.split(r"\bOR\b", part))
        for part in re.split(r"\bAND\b", re.sub(r"[()]", "", expression))
    )


def report() -> tuple[str, list[str]]:
    """Returns the report, and the packages whose licence does not fit."""
    rows, bad = [], []
    for name, version in pins((ROOT / "requirements.lock").read_text()):
        package = distribution(name)
        if package.version.partition("+")[0] != version:
            sys.exit(f"{name} {package.version} is installed, the lock has {version}; make install")
        expression = licence(package)
        rows.append(f"| {package.name} | {version} | {expression} |\n")
        if not fits(expression):
            bad.append(f"{package.name}: {expression}")
    cuda = [
        f"| {name} | {version} | {CUDA.get(name, 'NVIDIA software licence')} |\n"
        for name, version in pins((HASHES / TORCH_CUDA).read_text())
        if name != "torch"
    ]
    return HEAD + "".join(rows) + CUDA_HEAD + "".join(cuda), bad


def main() -> None:
    """Exits with 1 if a licence does not fit, or with --check if the file is out of date."""
    text, bad = report()
    if bad:
        sys.exit("licences that do not fit Apache-2.0:\n" + "\n".join(bad))
    if sys.argv[1:] == ["--check"]:
        if REPORT.read_text() != text:
            sys.exit(f"{REPORT.relative_to(ROOT)} is out of date; run python scripts/licences.py")
    else:
        REPORT.write_text(text)


if __name__ == "__main__":
    main()
