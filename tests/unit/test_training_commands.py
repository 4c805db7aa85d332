"""Every training command, from its command line to its files, with little of everything.

Only what would take long on a CPU is replaced: the transformer has one layer, all scenes look the
same, images are enlarged corners, and the VAE sees small crops, or is replaced by means of squares
where it is not trained.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from training import (
    assemble,
    base,
    composition,
    grounds,
    naming,
    options,
    renderings,
    resources,
    stream,
    style_adapters,
    trained,
    turbo,
    vae,
)
from training.autoencoder import Autoencoder, load
from training.data import concepts, sprites
from training.data.images import svg_name
from training.data.render import Pixels, render
from training.network import SHAPE

pytest.importorskip("resvg_py")

ROOT = Path(__file__).resolve().parents[2]
COMMON = ("--concepts", "3", "--device", "cpu", "--no-compile")
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<path d="M{} 4h16v24h-16z" fill="#c81e3c"/></svg>'
)
CROP = 64
DONE: list[str] = []


def same_scenes(scenes: list[object], workers: int) -> list[object]:
    """One scene, rendered once, for all."""
    return [grounds.render(scenes[0])] * len(scenes)  # type: ignore[arg-type]


def small_render(svg: str, size: int) -> Pixels:
    return render(svg, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data lies and each command finds what the one before has made."""
    made = tmp_path_factory.mktemp("training")
    with zipfile.ZipFile(made / "svg.zip", "w") as archive:
        for number, concept in enumerate(concepts.read()[:3]):
            for name in ("fluent", "flat"):
                archive.writestr(svg_name(name, concept.code), SVG.format(4 + number))
    return made


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(renderings, "render_all", same_scenes)
    monkeypatch.setattr(sprites, "render", small_render)
    monkeypatch.setattr(resources, "VARIANTS", 1)
    monkeypatch.setattr(vae, "VARIANTS", 1)
    monkeypatch.setattr(vae, "HELD_OUT", range(1, 2))
    monkeypatch.setattr(trained, "SHAPE", SHAPE | {"num_layers": 1})
    monkeypatch.setattr(stream.write_chunk, "__defaults__", (100,))
    torch.manual_seed(0)


WHOLE = composition.compose


def cropped(
    images: composition.Images, shown: composition.Shown, top: Tensor, left: Tensor, edge: int = 0
) -> Tensor:
    return WHOLE(images, shown, top, left, CROP)


def enlarged(
    images: composition.Images,
    shown: composition.Shown,
    top: Tensor,
    left: Tensor,
    edge: int = composition.SIZE,
) -> Tensor:
    return F.interpolate(WHOLE(images, shown, top, left, CROP), size=(edge, edge))


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the VAE, which takes seconds for an image on a CPU, by means of squares."""

    def encode(self: Autoencoder, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 32).repeat(1, 11, 1, 1)[:, :32]

    def decode(self: Autoencoder, z: Tensor) -> Tensor:
        return F.interpolate(z[:, :3], scale_factor=32)

    monkeypatch.setattr(Autoencoder, "encode", encode)
    monkeypatch.setattr(Autoencoder, "decode", decode)
    monkeypatch.setattr(composition, "compose", enlarged)


def call(monkeypatch: pytest.MonkeyPatch, *line: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *COMMON, *map(str, line)])


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, "pt") as file:
        assert all(bool(file.get_tensor(key).isfinite().all()) for key in file.keys())  # noqa: SIM118
        return {key: tuple(file.get_tensor(key).shape) for key in file.keys()}  # noqa: SIM118


def test_the_vae(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "compose", cropped)
    monkeypatch.setattr(vae, "JUDGED", 9)
    out = folder / "made"
    line = ("--cache", folder, "--out", out, "--batch", "2", "--stock-batch", "2")
    call(monkeypatch, *line, "--seconds", "1", "--stock-seconds", "1")
    vae.main()
    weights = out / "vae_frames.safetensors"
    assert len(shapes(weights)) == len(Autoencoder().state_dict()) - 1
    facts = json.loads((out / "vae.json").read_text())
    assert set(facts) == {"curve", "stock", "psnr_db", "stock_psnr_db"}
    assert len(facts["psnr_db"]) == 4 and facts["psnr_db"]["noise 0.0"] > 3
    with Image.open(out / "vae.jpg") as sheet:
        assert sheet.size == (12 * CROP // 2, 2 * CROP // 2)
    DONE.append("vae")


def test_the_text_encoder_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "named"
    line = ("--out", out, "--workers", "1", "--naming-batch", "16", "--naming-seconds", "2")
    call(monkeypatch, *line)
    monkeypatch.setattr(naming, "TRIALS", 4)
    monkeypatch.setattr(naming, "TRIED_AT_ONCE", 16)
    options.run(None, (naming.arguments, naming.train))
    facts = json.loads((out / "naming.json").read_text())
    scores = facts["scores"]
    assert facts["curve"][-1]["naming"] > 0
    assert set(scores) == set(naming.PARTS) and all(0 <= s <= 1 for s in scores.values())
    made = trained.load(out / "base", torch.device("cpu"))
    assert not bool(made.network.proj_out.weight.any())  # not trained yet


@pytest.mark.usefixtures("squares")
def test_the_base_from_random_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "vae" not in DONE:
        pytest.skip("needs the VAE that the test before has trained")
    out = folder / "made"
    line = ("--cache", folder, "--out", out, "--vae", out / "vae_frames.safetensors")
    call(
        monkeypatch, *line, "--workers", "1", "--fresh", "--base-batch", "2", "--base-seconds", "1"
    )
    options.run(None, (base.arguments, base.train))
    made = trained.load(out / "base", torch.device("cpu"))
    untouched = trained.untrained(out / "base")
    assert made.network.state_dict().keys() == untouched.network.state_dict().keys()
    assert bool(made.network.proj_out.weight.any())  # starts at zero
    facts = json.loads((out / "base.json").read_text())
    assert facts["fresh"] and facts["images"] == 2 * facts["curve"][-1]["step"] > 0
    assert {"flow", "naming"} < set(facts["curve"][-1])
    DONE.append("base")


@pytest.mark.usefixtures("squares")
def test_turbo_and_styles_on_that_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "base" not in DONE:
        pytest.skip("needs the base that the test before has trained")
    out = folder / "made"
    line = ("--cache", folder, "--out", out, "--vae", out / "vae_frames.safetensors")
    line += ("--base", out / "base", "--workers", "1", "--evaluated", "8")
    call(
        monkeypatch,
        *(*line, "--turbo-batch", "2", "--turbo-seconds", "1"),
        *("--styles", "flat", "pixel", "--style-batch", "2", "--style-seconds", "1"),
    )
    options.run(
        None, (turbo.arguments, turbo.train), (style_adapters.arguments, style_adapters.train)
    )
    scores = json.loads((out / "turbo.json").read_text())["scores"]
    assert set(scores) == {"turbo-1", "turbo-2", "turbo-3", "turbo-4", "base-4", "base-20"}
    assert all(0 < score["distance"] <= score["worst"] <= 1 for score in scores.values())
    factors = shapes(out / "turbo.safetensors")
    assert len(factors) == 2 * (14 + 3)
    for name in ("flat", "pixel"):
        adapter = shapes(out / f"{name}.safetensors")
        assert adapter.keys() == factors.keys()
        facts = json.loads((out / f"{name}.json").read_text())
        assert facts["paths"] == 2 * facts["curve"][-1]["step"] > 0
        assert 0 < facts["scores"]["distance"] < 1
        with Image.open(out / f"{name}.jpg") as sheet:
            assert sheet.size == (8 * 256, 2 * 256)
    assert not (out / "neon.json").exists()
    DONE.append("turbo")


@pytest.mark.usefixtures("squares")
def test_assembling_the_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "turbo" not in DONE:
        pytest.skip("needs the parts that the tests before have trained")
    made, out = folder / "made", folder / "checkpoint"
    few = SimpleNamespace(read=lambda: concepts.read()[:3])
    monkeypatch.setattr(assemble, "table", few)
    monkeypatch.setattr(assemble, "compose", enlarged)
    monkeypatch.setattr(assemble, "PREVIEW_IMAGES", 2)
    monkeypatch.setattr(assemble, "SHAPE", trained.SHAPE)
    weights = made / "vae_frames.safetensors"
    preview = assemble.preview_of(load(weights, torch.device("cpu")), folder, 1)
    assemble.assemble(made / "base", weights, out, preview)
    assert torch.tensor(preview["factors"]).shape == (32, 3)
    pipeline = QwenImagePipeline.from_pretrained(out, local_files_only=True)
    assert set(pipeline.transformer.state_dict()) == set(
        shapes(made / "base" / trained.TRANSFORMER)
    )
    assert json.loads((out / "vae" / "preview.json").read_text()) == preview
