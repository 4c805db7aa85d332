"""`python scripts/audit.py`: asks pip-audit whether a pinned package has a known weakness.

Owns the difference between "nothing found" and "nothing looked up", which must never look alike:
0 everything was looked up and nothing found, 1 something was found, 2 nothing was checked.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

# A file of scripts/ that is run finds its neighbours, and not the folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.check_hashes import ROOT, pins

SECONDS = 300


def nothing_checked(why: str) -> int:
    """Says so, in words that cannot be taken for a good result."""
    print(f"NOTHING WAS CHECKED: {why}", file=sys.stderr)
    return 2


def main() -> int:
    """The exit status."""
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
