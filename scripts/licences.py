"""`python scripts/licences.py`: writes docs/licences.md, a line for each package.

Owns what licences a package may have that comes beside a program under Apache-2.0, and what
packages say of themselves in words of their own. Fails on any other; `--check` writes nothing
and fails if the file is not what would be written.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

# A file of scripts/ that is run finds its neighbours, and not the folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.check_hashes import HASHES, ROOT, TORCH_CUDA, pins

REPORT: Final = ROOT / "docs" / "licences.md"

FITTING: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
        "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
    }
)  # fmt: skip
"""Permissive ones, and MPL-2.0: it reaches no further than the package's own files, which are used
as they come."""

WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    # Of these packages: mpmath, sympy (three clauses), semantic-version (two), Jinja2 (three).
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
}
"""What packages write that have no expression of SPDX."""

READ: Final = {"semantic-version": "BSD-2-Clause"}
"""Looked up in the package's own LICENSE file, because its metadata is not exact."""

CUDA: Final = {"setuptools": "MIT", "triton": "MIT"}
"""What comes with torch's CUDA build and is not NVIDIA's."""

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

On Linux, torch's own build brings NVIDIA's libraries. They are not free software: who hands on an
image built from the Dockerfile hands them on too, and the terms that come with each apply. They
are listed from `hashes/torch-cuda.txt`; what they say of themselves is not read here.

| Package | Version | Licence |
| --- | --- | --- |
"""


def licence(package: Distribution) -> str:
    """What a package is licensed under, as an expression of SPDX where its words are known."""
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
    """Whether every licence that applies is one of `FITTING`; of alternatives, whether one is."""
    return all(
        any(choice.strip() in FITTING for choice in re.split(r"\bOR\b", part))
        for part in re.split(r"\bAND\b", re.sub(r"[()]", "", expression))
    )


def report() -> tuple[str, list[str]]:
    """The report's text, and the packages whose licence does not fit."""
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
