"""`python scripts/audit.py`: asks pip-audit for known weaknesses of the pinned packages.

Exit codes: 0 if every package was looked up and none has a weakness, 1 if one has, 2 if packages
could not be looked up. "Nothing found" and "nothing looked up" must never look alike.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

# Python puts the folder of a script on its path, not the folder above, where `scripts` is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.check_hashes import ROOT, pins

SECONDS = 300


def nothing_checked(why: str) -> int:
    """Reports that nothing was checked; returns exit code 2."""
    print(f"NOTHING WAS CHECKED: {why}", file=sys.stderr)
    return 2


def main() -> int:
    """Audits the lock file; returns the exit code."""
    if importlib.util.find_spec("pip_audit") is None:
        return nothing_checked("pip-audit is not installed; python -m pip install pip-audit")
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    options = ["--no-deps", "--disable-pip", "-r", str(ROOT / "requirements.lock")]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return nothing_checked(f"the database did not answer in {SECONDS} seconds")
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return nothing_checked(last)
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    looked_up = [p for p in packages if "skip_reason" not in p]
    missing = len(pins((ROOT / "requirements.lock").read_text())) - len(looked_up)
    found = [p for p in looked_up if p["vulns"]]
    for package in found:
        for weakness in package["vulns"]:
            fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {weakness['id']}, fixed in {fixed}")
    if found:
        return 1
    if missing:
        some = ", ".join(skipped[:3])
        return nothing_checked(f"{missing} packages were not found in the database ({some}, ...)")
    print(f"{len(looked_up)} packages looked up, no known weakness")
    return 0


if __name__ == "__main__":
    sys.exit(main())
