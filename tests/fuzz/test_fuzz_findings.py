"""Regression tests of faults that fuzzing found."""

from __future__ import annotations

from pathlib import Path

from lora_manager.directory import inspect, scan


def test_scan_and_inspect_agree_on_a_link_to_an_outside_folder(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "ink.safetensors").symlink_to(tmp_path)
    (found,) = scan(root).files.values()
    assert found.refusal.startswith("a link to a folder outside")
    assert inspect(root, "ink.safetensors") == found
