"""The manager's process makes thumbnails of the images beside adapter files.

The images come before, after and without their files, change, and are hostile; no file is read
again because of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import RESCAN
from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes
from tests.support.preview_images import color_of, image, png, zeros

RED, BLUE = (200, 30, 30), (30, 30, 200)


def color(server: FakeSegmentServer, name: str) -> tuple[int, int, int] | None:
    jpeg = server.thumbnail(name)
    return None if jpeg is None else color_of(jpeg)


async def test_an_image_comes_after_its_file_changes_and_goes(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: server.thumbnails_complete and "ink" in server.resident)
    commits = list(server.commits)
    for name, shade in (("ink.png", RED), ("ink.png", BLUE), ("ink.png", RED)):
        (loras / name).write_bytes(image(color=shade))
        await server.until(lambda shade=shade: color(server, "ink") == shade)
    aside = loras.parent / "aside"
    aside.write_bytes(image("WEBP", BLUE))
    aside.rename(loras / "ink.png")
    await server.until(lambda: color(server, "ink") == BLUE)
    (loras / "ink.png").rename(loras / "oil.png")
    await server.until(lambda: not server.thumbnails)
    (loras / "oil.png").rename(loras / "ink.preview.png")
    await server.until(lambda: color(server, "ink") == BLUE)
    (loras / "ink.preview.png").unlink()
    await server.until(lambda: not server.thumbnails)
    assert server.commits == commits, "the adapter itself was not touched"


async def test_events_alone_are_enough(server: FakeSegmentServer, loras: Path) -> None:
    async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "3600"):
        await server.until(lambda: server.reports)
        (loras / "ink.safetensors").write_bytes(lora_bytes(1))
        await server.until(lambda: "ink" in server.resident)
        (loras / "ink.webp").write_bytes(image("WEBP", RED))
        await server.until(lambda: color(server, "ink") == RED)
        (loras / "ink.png").symlink_to("ink.webp")
        (loras / "ink.webp").write_bytes(image("WEBP", BLUE))
        await server.until(lambda: color(server, "ink") == BLUE)
        (loras / "ink.webp").unlink()
        await server.until(lambda: not server.thumbnails)


async def test_an_image_that_was_there_before_its_file(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    (loras / "sub").mkdir()
    (loras / "sub/ink.jpg").write_bytes(image("JPEG", RED))
    (loras / "sub/ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: color(server, "sub/ink") == RED)
    (loras / "sub/ink.safetensors").rename(loras / "sub/oil.safetensors")
    await server.until(lambda: not server.thumbnails)
    (loras / "sub/ink.jpg").rename(loras / "sub/oil.jpg")
    await server.until(lambda: color(server, "sub/oil") == RED)
    (loras / "sub").rename(loras / "moved")
    await server.until(lambda: color(server, "moved/oil") == RED)


async def test_hostile_images_harm_none_but_themselves(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    secret = loras.parent / "secret.png"
    secret.write_bytes(image(color=BLUE))
    hostile = {
        "text": b"not an image",
        "half": image(size=(400, 400))[:300],
        "huge": png(100_000, 100_000, zeros(1 << 20)),
        "empty": b"",
    }
    for name, data in hostile.items():
        (loras / f"{name}.safetensors").write_bytes(lora_bytes(1))
        (loras / f"{name}.png").write_bytes(data)
    for name in ("linked", "pipe", "good"):
        (loras / f"{name}.safetensors").write_bytes(lora_bytes(2))
    (loras / "linked.png").symlink_to(secret)
    os.mkfifo(loras / "pipe.png")
    with (loras / "large.png").open("wb") as file:
        file.truncate(1 << 30)
    (loras / "large.safetensors").write_bytes(lora_bytes(3))
    (loras / "good.png").write_bytes(image(color=RED))
    names = {*hostile, "linked", "pipe", "large", "good"}
    await server.until(lambda: set(server.catalog) == names and color(server, "good") == RED)
    for name in ("text", "half", "huge"):
        await server.until(lambda name=name: manager.said(f'no thumbnail of "{name}"'))
    await server.until(lambda: manager.said("1,073,741,824 bytes and 33,554,432 is the limit"))
    assert set(server.thumbnails) == {"good"}
    # Each is looked at again once it is good.
    for name in ("text", "half", "huge", "large"):
        (loras / f"{name}.png").write_bytes(image(color=BLUE))
    await server.until(lambda: set(server.thumbnails) == {"good", "text", "half", "huge", "large"})
    assert manager.process.returncode is None


async def test_a_server_that_starts_again_gets_all_thumbnails(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    for number in range(70):
        (loras / f"{number}.safetensors").write_bytes(lora_bytes(1))
        (loras / f"{number}.png").write_bytes(image(color=(3 * number, 100, 100)))
    await server.until(lambda: len(server.jpegs) == 70)
    await server.stop()
    await server.start()
    await server.until(lambda: len(server.jpegs) == 70 == len(server.thumbnails))


async def test_the_first_report_of_a_manager_keeps_what_the_server_knows(
    server: FakeSegmentServer, loras: Path
) -> None:
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    (loras / "ink.png").write_bytes(image(color=RED))
    seen: list[tuple[bool, dict[str, str]]] = []
    report = server.ReportCatalog

    async def noted(request, context):
        response = await report(request, context)
        seen.append((server.thumbnails_complete, dict(server.thumbnails)))
        return response

    server.ReportCatalog = noted  # type: ignore[method-assign]
    await server.stop()
    await server.start()
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
        await server.until(lambda: color(server, "ink") == RED)
    assert all(thumbnails for complete, thumbnails in seen if complete), seen


@pytest.mark.parametrize("way", ["link", "other user's"])
async def test_images_that_are_links_or_another_users(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path, way: str
) -> None:
    (loras / "store").mkdir()
    (loras / "store/blob.png").write_bytes(image(color=RED))
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    if way == "link":
        (loras / "ink.png").symlink_to("store/blob.png")
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(loras / "store/blob.png", 1234, 1234)
        (loras / "store/blob.png").rename(loras / "ink.png")
    await server.until(lambda: color(server, "ink") == RED)
