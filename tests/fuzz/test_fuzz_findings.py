"""What fuzzing has found, each by a test that says it plainly."""

from __future__ import annotations

from pathlib import Path

from lora_manager.directory import inspect, scan


def test_an_outside_folder_is_called_the_same_by_a_scan_and_by_a_closer_look(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "ink.safetensors").symlink_to(tmp_path)
    (found,) = scan(root).files.values()
    assert found.refusal.startswith("a link to a folder outside")
    assert inspect(root, "ink.safetensors") == found
