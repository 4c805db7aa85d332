"""Tests that lock files, hashes, licences, and the audit agree, without network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit, check_hashes, licences
from wuliart_contract.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def test_every_pin_has_its_hashes() -> None:
    assert check_hashes.problems() == []


def test_a_pin_without_hashes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text + "later==1.0\n", encoding="utf-8")
    monkeypatch.setattr(check_hashes, "ROOT", tmp_path)
    assert [line.partition(" has")[0] for line in check_hashes.problems()] == [
        "hashes/dev.txt lacks later==1.0; run make lock",
        "hashes/runtime.txt lacks later==1.0; run make lock",
    ]


def test_nvjpeg_is_locked_for_the_locked_torch() -> None:
    """Version 0.N of torchvision requires version 2.(N - 15) of torch."""
    locked = dict(check_hashes.pins((ROOT / "hashes/torch-cuda.txt").read_text()).keys())
    torch, torchvision = (locked[name].split(".") for name in ("torch", "torchvision"))
    assert (torch[0], torchvision[0]) == ("2", "0")
    assert int(torchvision[1]) == int(torch[1]) + 15


def test_all_clients_have_one_version() -> None:
    node = json.loads((ROOT / "clients" / "node" / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((ROOT / "clients/node/package-lock.json").read_text(encoding="utf-8"))
    assert node["version"] == lock["version"] == VERSION


def test_pip_takes_the_hash_files() -> None:
    for path in (ROOT / "hashes").iterdir():
        text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            assert line.startswith("#") or re.fullmatch(
                r"[\w.-]+==\S+( ; [^\\#]+?)?( +--hash=sha256:[0-9a-f]{64})+ *", line
            ), line


def test_the_licences_are_listed_and_fit() -> None:
    text, bad = licences.report()
    assert bad == []
    written = licences.REPORT.read_text(encoding="utf-8")
    assert written == text, "run python scripts/licences.py"
    listed = {
        (check_hashes.canonical(match[1]), match[2])
        for match in re.finditer(r"^\| (\S+) \| (\S+) \|", written, re.MULTILINE)
    }
    pinned = check_hashes.pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert pinned.keys() <= listed


@pytest.mark.parametrize(
    ("expression", "fit"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-or-later", False),
        ("none given", False),
    ],
)
def test_which_licences_fit(expression: str, fit: bool) -> None:
    assert licences.fits(expression) is fit


DEPENDENCIES = {
    "clean": '{"dependencies": [%s]}',
    "skipped": '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}',
    "broken": "",
}


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("clean", 0, "no known weakness"),
        ("skipped", 2, "NOTHING WAS CHECKED"),
        ("broken", 2, "NOTHING WAS CHECKED: no network"),
    ],
)
def test_the_audit_reports_if_nothing_was_checked(
    answer: str,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pins = check_hashes.pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    all_of_them = ",".join(f'{{"name": "{n}", "version": "{v}", "vulns": []}}' for n, v in pins)
    output = DEPENDENCIES[answer].replace("%s", all_of_them)
    done = subprocess.CompletedProcess([sys.executable], 1, output, "no network\n")
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.main() == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_a_known_weakness_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = (
        '{"dependencies": [{"name": "a", "version": "1", '
        '"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}'
    )
    done = subprocess.CompletedProcess([sys.executable], 1, output, "")
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.main() == 1
    assert "a 1: CVE-1, fixed in 2" in capsys.readouterr().out
