"""Tests of the directory walk (names, links, file name extensions) on a real directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_manager import directory
from lora_manager.directory import adapter_name, covers, inspect, scan
from lora_manager.lora_file import LoraFile


def test_files_folders_and_what_is_ignored(tmp_path: Path) -> None:
    for relative in (
        "ink.safetensors", "OIL.SafeTensors", "a/b/deep.safetensors", "notes.txt",
        ".hidden.safetensors", ".cache/x.safetensors", "x.safetensors.part", "y.tmp",
        "z.safetensors.crdownload", "w.pt",
    ):  # fmt: skip
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    files = scan(tmp_path).files
    assert files.keys() == {"ink", "OIL", "a/b/deep", "w"}
    assert "pickle" in files["w"].refusal
    assert {name for name, found in files.items() if not found.refusal} == {
        "ink",
        "OIL",
        "a/b/deep",
    }
    for found in files.values():
        assert inspect(tmp_path, found.relative) == found


def test_of_one_name_the_safetensors_file_wins(tmp_path: Path) -> None:
    for suffix in ("bin", "safetensors", "pt"):
        (tmp_path / f"ink.{suffix}").write_bytes(b"")
    assert scan(tmp_path).files["ink"].relative == "ink.safetensors"


def test_links_inside_are_followed_links_outside_refused_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / ".store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for folder in (root / "real", root / ".store", tmp_path / "elsewhere"):
        (folder / "x.safetensors").write_bytes(b"")
    (root / "file.safetensors").symlink_to(root / ".store/x.safetensors")
    (root / "folder").symlink_to(".store")
    (root / "real/again").symlink_to(root)
    (root / "alias").symlink_to("real")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "leak.safetensors").symlink_to(tmp_path / "elsewhere/x.safetensors")
    (root / "dangling.safetensors").symlink_to(root / "nothing")
    (root / "self.safetensors").symlink_to("self.safetensors")
    files = scan(root).files
    assert files.keys() == {"file", "folder/x", "real/x", "out", "leak"}
    assert files["file"].path == root / ".store/x.safetensors"
    assert "outside" in files["leak"].refusal and "outside" in files["out"].refusal


def test_a_link_has_the_sidecar_of_its_target_and_never_two(tmp_path: Path) -> None:
    peft, other = tmp_path / "peft", tmp_path / "other"
    for folder in (peft, other):
        folder.mkdir()
    for path in (peft / "adapter_model.safetensors", peft / "adapter_config.json"):
        path.write_bytes(b"{}")
    link = other / "watercolor.safetensors"
    link.symlink_to(peft / "adapter_model.safetensors")

    def listed() -> LoraFile:
        found = inspect(tmp_path, "other/watercolor.safetensors")
        assert found is not None and scan(tmp_path).files["other/watercolor"] == found
        return found

    assert listed().sidecar == peft / "adapter_config.json" and not listed().refusal
    (other / "adapter_config.json").write_bytes(b"{}")
    assert "beside this link and also beside the file" in listed().refusal
    (other / "adapter_config.json").unlink()
    (other / "adapter_config.json").symlink_to(peft / "adapter_config.json")
    assert listed().sidecar == peft / "adapter_config.json" and not listed().refusal
    (peft / "adapter_config.json").rename(tmp_path / ".config")
    (other / "adapter_config.json").unlink()
    assert listed().sidecar is None
    (other / "adapter_config.json").write_bytes(b"{}")
    assert listed().sidecar == other / "adapter_config.json"


def test_a_snapshot_of_links_to_blobs_as_the_hub_caches_it(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/1").mkdir(parents=True)
    for name, blob in (("adapter_model.safetensors", "a1"), ("adapter_config.json", "b2")):
        (tmp_path / "blobs" / blob).write_bytes(b"{}")
        (tmp_path / "snapshots/1" / name).symlink_to(f"../../blobs/{blob}")
    (tmp_path / "blobs/c3.incomplete").write_bytes(b"")
    (found,) = scan(tmp_path).files.values()
    assert (found.path, found.sidecar) == (tmp_path / "blobs/a1", tmp_path / "blobs/b2")
    assert not found.control and not found.refusal
    assert inspect(tmp_path, found.relative) == found


def test_a_link_to_a_sibling_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    root, sibling = tmp_path / "loras", tmp_path / "loras-private"
    root.mkdir()
    sibling.mkdir()
    (sibling / "x.safetensors").write_bytes(b"")
    (root / "x.safetensors").symlink_to(sibling / "x.safetensors")
    assert "outside" in scan(root).files["x"].refusal


def test_the_root_may_be_a_link_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.safetensors").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    assert not scan(tmp_path / "link").files["x"].refusal
    with pytest.raises(OSError, match="nothing"):
        scan(tmp_path / "nothing")


def test_a_folder_that_cannot_be_listed_hides_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:
        if path.endswith("closed"):  # root, too, must be able to run this test
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    seen = scan(tmp_path)
    assert seen.hides("closed/x.safetensors")
    assert not seen.hides("open/x.safetensors")


@pytest.mark.parametrize(
    ("file", "name", "problem"),
    [
        ("水墨.safetensors", "水墨", ""),
        ("v1.5 final.safetensors", "v1.5 final", ""),
        ("a\nb.safetensors", "a\ufffdb", "invisible character U+000A; rename"),
        ("gpj\u202e.safetensors", "gpj\ufffd", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("in\u200bk.safetensors", "in\ufffdk", "U+200B ZERO WIDTH SPACE"),
        ("in\u200dk.safetensors", "in\ufffdk", "U+200D ZERO WIDTH JOINER"),
        ("\ufeffink.safetensors", "\ufffdink", "U+FEFF"),
        ("in\u00adk.safetensors", "in\ufffdk", "U+00AD SOFT HYPHEN"),
        ("in\u034fk.safetensors", "in\ufffdk", "U+034F"),
        ("in\u3164k.safetensors", "in\ufffdk", "U+3164 HANGUL FILLER"),
        ("ink\ufe0f.safetensors", "ink\ufffd", "U+FE0F"),
        ("水墨\u200d.safetensors", "水墨\ufffd", "U+200D"),
        ("ink\U000e0041.safetensors", "ink\ufffd", "U+E0041 TAG"),
        (os.fsdecode(b"caf\xe9.safetensors"), "caf\ufffd", "UTF-8"),
        ("  .safetensors", "\ufffd", "blank"),
        ("\u200b\u2060.safetensors", "\ufffd\ufffd", "blank"),
        ("ink/\u3164.safetensors", "ink/\ufffd", "blank"),
        ("👩\u200d🚀.safetensors", "👩\u200d🚀", ""),
        ("❤\ufe0f\u200d🔥 1\ufe0f\u20e3.safetensors", "❤\ufe0f\u200d🔥 1\ufe0f\u20e3", ""),
        ("می\u200cخواهم.safetensors", "می\u200cخواهم", ""),
        ("葛\U000e0100.safetensors", "葛\U000e0100", ""),
        ("水墨\u3000画.safetensors", "水墨\u3000画", ""),
        ("x" * 201 + ".safetensors", "x" * 199 + "…", "200 is the limit"),
    ],
)
def test_names(file: str, name: str, problem: str) -> None:
    shown, why = adapter_name(file)
    assert shown == name
    assert problem in why and bool(problem) == bool(why)
    shown.encode()


@pytest.mark.parametrize(
    ("plain", "twin", "how"),
    [
        ("水墨", "水\u200d墨", "differs only by U+200D ZERO WIDTH JOINER; rename"),
        ("❤", "❤\ufe0f", "differs only by U+FE0F VARIATION SELECTOR-16"),
        ("ink wash", "ink\u00a0wash", "differs only by U+00A0 NO-BREAK SPACE"),
        ("ink wash", "ink\u3000wash", "differs only by U+3000 IDEOGRAPHIC SPACE"),
        ("ink wash", "ink  wash", "differs only by spaces"),
        ("ink", "ink ", "differs only by spaces"),
        ("ink/wash", "ink /wash", "differs only by spaces"),
        ("café", "cafe\u0301", "in how its letters are encoded (Unicode NFC or NFD)"),
        ("\u00c5", "\u212b", "in how its letters are encoded"),
        ("가", "\u1100\u1161", "in how its letters are encoded"),
    ],
)
def test_of_two_names_that_look_alike_the_odd_one_is_refused(
    tmp_path: Path, plain: str, twin: str, how: str
) -> None:
    for name in (plain, twin):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    files = scan(tmp_path).files
    assert sorted(files) == [plain, f"{plain}\ufffd"]
    assert not files[plain].refusal and files[plain].relative == f"{plain}.safetensors"
    other = files[f"{plain}\ufffd"]
    assert other.relative == f"{twin}.safetensors"
    assert how in other.refusal and f'that of "{plain}.safetensors"' in other.refusal
    # Alone, it has its name.
    files[plain].path.unlink()
    (alone,) = scan(tmp_path).files.values()
    assert (alone.name, alone.refusal) == (twin, "")


def test_many_that_look_alike_are_two_lines(tmp_path: Path) -> None:
    for name in ("ink", "ink ", "ink  ", " ink", "in\u200bk"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    (tmp_path / "ink .pt").write_bytes(b"")
    files = scan(tmp_path).files
    assert sorted(files) == ["ink", "ink\ufffd", "in\ufffdk"]
    assert [name for name, found in files.items() if not found.refusal] == ["ink"]


def test_letters_of_other_scripts_and_other_cases_are_other_names(tmp_path: Path) -> None:
    names = {"ink", "Ink", "\u0456nk", "ｉｎｋ", "水墨", "墨水"}
    for name in names:
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert {n for n, found in scan(tmp_path).files.items() if not found.refusal} == names


def test_a_bad_name_on_disk_is_refused_and_travels(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"")
    (found,) = scan(tmp_path).files.values()
    assert found.name == "caf\ufffd" and "UTF-8" in found.refusal


def test_covers() -> None:
    assert covers(frozenset({"a"}), "a/b/c") and covers(frozenset({"a/b"}), "a/b")
    assert not covers(frozenset({"a"}), "ab") and not covers(frozenset(), "a")


def test_a_folder_without_end_is_listed_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "MAX_LISTED_ADAPTERS", 3)
    for name in ("a/c", "a/b", "b/d", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    seen = scan(tmp_path)
    assert seen.full and seen.files.keys() == {"e", "a/b", "a/c"}
    (tmp_path / "e.safetensors").unlink()
    (tmp_path / "b/d.safetensors").unlink()
    assert not scan(tmp_path).full


def test_what_is_as_it_was_is_not_described_again_and_every_change_is_seen(tmp_path: Path) -> None:
    names = ("a", "b", "folder/c", "folder/d", "empty")
    (tmp_path / "folder").mkdir()
    for name in names:
        (tmp_path / f"{name}.safetensors").write_bytes(b"" if name == "empty" else b"1")
    path = tmp_path / "a.safetensors"

    def rewritten() -> None:
        times = path.stat()
        path.write_bytes(b"2")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def linked() -> None:
        path.rename(tmp_path / ".a")
        path.symlink_to(".a")

    changes = [
        lambda: None,
        rewritten,
        lambda: path.write_bytes(b"22"),
        lambda: path.replace(tmp_path / "b.safetensors"),
        lambda: path.write_bytes(b"1"),
        lambda: (tmp_path / "a.safetensors.aria2").write_bytes(b""),
        lambda: (tmp_path / "a.safetensors.aria2").unlink(),
        lambda: (tmp_path / "folder/c.safetensors").unlink(),
        lambda: (tmp_path / "folder/adapter_config.json").write_text("{}"),
        lambda: (tmp_path / "folder/adapter_config.json").write_text("{ }"),
        lambda: (tmp_path / "folder/adapter_config.json").unlink(),
        linked,
        lambda: (tmp_path / "empty.part").write_bytes(b""),
        lambda: (tmp_path / "folder").rename(tmp_path / "other"),
    ]
    before = {found.relative: found for found in scan(tmp_path).files.values()}
    for change in changes:
        change()
        seen, anew = scan(tmp_path, before).files, scan(tmp_path).files
        assert seen == anew
        assert {n: f.control for n, f in seen.items()} == {n: f.control for n, f in anew.items()}
        before = {found.relative: found for found in seen.values()}
    same = scan(tmp_path, before).files["b"]
    assert same is before["b.safetensors"]


def test_folders_need_no_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some FUSE mounts every file and folder has the inode number 0."""
    for name in ("ink", "a/oil", "a/b/chalk"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.safetensors").write_bytes(b"1")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    stat = os.stat

    def numberless(*arguments: object, **options: object) -> os.stat_result:
        fields, more = stat(*arguments, **options).__reduce__()[1]  # type: ignore[arg-type, misc, call-overload]
        return os.stat_result((fields[0], 0, *fields[2:]), more)

    monkeypatch.setattr(os, "stat", numberless)
    assert scan(tmp_path).files.keys() == {"ink", "a/oil", "a/b/chalk"}
