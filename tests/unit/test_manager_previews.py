"""Which image belongs to which adapter's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_manager.directory import scan
from lora_manager.previews import find_previews, is_preview


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    return path


def put(loras: Path, *names: str) -> None:
    for name in names:
        (loras / name).parent.mkdir(exist_ok=True)
        (loras / name).write_bytes(b"x")


def found(loras: Path) -> dict[str, str]:
    files = scan(loras).files.values()
    root = os.path.realpath(loras)
    return {
        name: os.path.relpath(preview.path, root)
        for name, preview in find_previews(loras, files).items()
    }


@pytest.mark.parametrize(
    "ending", ["png", "jpg", "jpeg", "webp", "PNG", "preview.png", "Preview.JPG"]
)
@pytest.mark.parametrize("folder", ["", "sub/"])
def test_the_image_beside_a_file(loras: Path, folder: str, ending: str) -> None:
    put(loras, f"{folder}ink.safetensors", f"{folder}ink.{ending}")
    assert found(loras) == {f"{folder}ink": f"{folder}ink.{ending}"}


def test_the_first_of_several_in_the_order_of_a1111(loras: Path) -> None:
    endings = ["png", "preview.png", "jpg", "preview.jpg", "jpeg", "preview.jpeg", "webp"]
    put(loras, "ink.safetensors", *(f"ink.{ending}" for ending in endings))
    for ending in endings:
        assert found(loras) == {"ink": f"ink.{ending}"}
        (loras / f"ink.{ending}").unlink()
    assert found(loras) == {}


@pytest.mark.parametrize(
    "name",
    [
        "ink2.png", "in.png", "INK.png", "ink.gif", "ink.svg", "ink.txt", "ink", "ink.png.part",
        "other/ink.png", ".ink.png", "ink.example.png", "ink.preview.preview.png",
    ],
)  # fmt: skip
def test_other_files_belong_to_none(loras: Path, name: str) -> None:
    put(loras, "ink.safetensors", name)
    assert found(loras) == {}


def test_a_name_with_points_and_one_that_ends_in_preview(loras: Path) -> None:
    put(loras, "ink.v1.0.safetensors", "ink.v1.0.png", "oil.preview.safetensors", "oil.preview.png")
    put(loras, "gouache.safetensors", "gouache.preview.webp")
    assert found(loras) == {
        "ink.v1.0": "ink.v1.0.png",
        "oil.preview": "oil.preview.png",
        "gouache": "gouache.preview.webp",
    }


def test_a_refused_file_has_one_too(loras: Path) -> None:
    put(loras, "ink.pt", "ink.png")
    assert found(loras) == {"ink": "ink.png"}


def test_links_below_the_root_count_and_others_do_not(loras: Path, tmp_path: Path) -> None:
    put(loras, "ink.safetensors", "store/blob.png")
    (loras / "ink.png").symlink_to("store/blob.png")
    assert found(loras) == {"ink": "store/blob.png"}
    (tmp_path / "private.png").write_bytes(b"x")
    for target in (tmp_path / "private.png", "/etc/passwd", "nowhere.png", "ink.png", "store"):
        (loras / "ink.png").unlink()
        (loras / "ink.png").symlink_to(target)
        assert found(loras) == {}


def test_a_linked_folder_and_a_link_to_a_file(loras: Path) -> None:
    put(loras, "store/blob.safetensors", "store/blob.png")
    (loras / "ink.safetensors").symlink_to("store/blob.safetensors")
    assert found(loras)["ink"] == "store/blob.png"
    put(loras, "ink.png")
    assert found(loras) == {"ink": "ink.png", "store/blob": "store/blob.png"}
    (loras / "ink.safetensors").unlink()
    (loras / "again").symlink_to("store")
    assert found(loras) == {"store/blob": "store/blob.png"}


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_no_image(loras: Path, kind: str) -> None:
    put(loras, "ink.safetensors", "ink.webp")
    if kind == "folder":
        (loras / "ink.png").mkdir()
    else:
        os.mkfifo(loras / "ink.png")
    assert found(loras) == {"ink": "ink.webp"}


def test_a_folder_that_cannot_be_listed_hides_its_images(loras: Path) -> None:
    put(loras, "sub/ink.safetensors", "sub/ink.png")
    files = scan(loras).files.values()
    (loras / "sub").rename(loras / "moved")
    assert find_previews(loras, files) == {}


def test_events_of_these_names_are_followed() -> None:
    assert is_preview("sub/ink.PNG") and is_preview("ink.preview.webp")
    assert not is_preview("ink.safetensors") and not is_preview("ink.png.part")
