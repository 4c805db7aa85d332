"""Preparing a model once changes where its parts come from and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading import prepare as command
from inference_server.loading.load import load_model, open_source
from inference_server.model.weights import prepared
from inference_server.weight_kind import WeightKind

CPU = torch.device("cpu")


def prepare(
    out: Path,
    model: Path = EMBEDDED_MODEL,
    turbo: Path | None = EMBEDDED_TURBO,
    kind: WeightKind = WeightKind.BF16,
) -> None:
    command.prepare(model, turbo, out, kind, Progress(disable=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "embedded"
    prepare(out)
    return out


def draw(
    folder: Path, turbo: Path | None, weights: WeightKind | None = None, *, decoded: bool = True
) -> torch.Tensor:
    """An image in bf16, in which weights are stored; or its latents, in half the time."""
    source = open_source(folder, turbo)
    engine = Engine(load_model(source, CPU, torch.bfloat16, weights=weights))
    drawing = engine.begin(engine.encode("紫色背景上的火箭"), 1, 2)
    engine.step([drawing])
    engine.step([drawing])
    return engine.decode(drawing) if decoded else drawing.latents


def test_the_same_image_to_the_bit(folder: Path) -> None:
    assert torch.equal(draw(folder, None), draw(EMBEDDED_MODEL, EMBEDDED_TURBO))


def test_eight_bits_are_prepared_as_well(tmp_path: Path) -> None:
    prepare(tmp_path / "eight", kind=WeightKind.FP8)
    expected = draw(EMBEDDED_MODEL, EMBEDDED_TURBO, WeightKind.FP8, decoded=False)
    assert torch.equal(draw(tmp_path / "eight", None, decoded=False), expected)
    with pytest.raises(ModelError, match="prepared with fp8 weights, not bf16"):
        draw(tmp_path / "eight", None, WeightKind.BF16)


def test_the_manifest_names_what_it_was_made_from(folder: Path) -> None:
    manifest = json.loads((folder / prepared.MANIFEST).read_text())
    assert manifest["turbo_lora"] == EMBEDDED_TURBO.name
    assert manifest["model"] == EMBEDDED_MODEL.name
    assert manifest["levels"][0] == 1.0
    assert len(manifest["sources"]) == 4
    assert all(len(digest) == 64 for digest in manifest["sources"].values())
    assert not (folder / prepared.UNFINISHED).exists()
    # Neither encoder nor vision tower, head, modulation or 3-D kernels.
    used = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert used < 45 << 20


def test_a_run_that_was_broken_off_is_refused_by_the_server_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", []
    write = command._write

    def failing(path: Path, tensors: dict[str, torch.Tensor], stamp: str) -> None:
        if len(written) == 5:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, tensors, stamp)

    monkeypatch.setattr(command, "_write", failing)
    with pytest.raises(OSError, match="No space"):
        prepare(out)
    with pytest.raises(ModelError, match="broken off"):
        open_source(out, None)
    with pytest.raises(ModelError, match="begun from other files"):
        prepare(out, turbo=None)
    seen = written.copy()
    written.clear()
    written.extend([Path()] * 6)
    prepare(out)
    assert not set(seen) & set(written[6:])
    assert len(seen) == 5
    open_source(out, None)
    assert not list(out.rglob("*.part"))


def test_a_run_that_ended_between_its_last_two_acts_is_ended_by_the_next(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    began = tmp_path / "began"
    began.mkdir()
    command._begin(began, "about")
    (tmp_path / "copy" / prepared.UNFINISHED).write_text("about")
    with pytest.raises(ModelError, match="broken off"):
        open_source(tmp_path / "copy", None)
    command._begin(tmp_path / "copy", "about")
    with pytest.raises(ModelError, match="begun from other files"):
        command._begin(tmp_path / "copy", "other")


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"prepared with turbo\.safetensors"):
        open_source(folder, EMBEDDED_TURBO)
    with pytest.raises(ModelError, match="prepared already"):
        prepare(folder)
    with pytest.raises(ModelError, match="prepared already"):
        prepare(tmp_path / "again", model=folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ModelError, match="holds something else"):
        prepare(tmp_path / "mine")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (prepared.MANIFEST, b'{"format": 0}', "prepare it again"),
        (prepared.block_file(3), b"junk", "block-03"),
        (prepared.TABLES, None, "tables"),
        ("scheduler/scheduler_config.json", b'{"shift": 2.0}', "has changed since"),
    ],
    ids=["format", "damaged", "missing", "schedule"],
)
def test_a_folder_that_does_not_hold_together_is_refused(
    folder: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(open_source(tmp_path / "copy", None), CPU, torch.bfloat16)


INPUTS = {
    "schedule": ("scheduler/scheduler_config.json", '"base_shift": 1.0986', '"base_shift": 0.6986'),
    "text encoder": ("text_encoder/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
    "tokenizer": ("tokenizer/tokenizer_config.json", "{", '{"a": 1, '),
}


@pytest.mark.parametrize("changed", INPUTS)
def test_a_run_is_not_taken_up_again_with_other_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Two halves of two checkpoints made a folder that was served: mean pixel difference 22."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(EMBEDDED_MODEL, model)
    write, left = command._write, [4]

    def breaking_off(path: Path, tensors: dict[str, torch.Tensor], stamp: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(path, tensors, stamp)

    monkeypatch.setattr(command, "_write", breaking_off)
    with pytest.raises(KeyboardInterrupt), Progress(disable=True) as progress:
        command.prepare(model, None, out, WeightKind.BF16, progress)
    name, before, after = INPUTS[changed]
    text = (model / name).read_text()
    assert before in text
    (model / name).write_text(text.replace(before, after, 1))
    with pytest.raises(ModelError, match="begun from other files"), Progress(disable=True) as p:
        command.prepare(model, None, out, WeightKind.BF16, p)
    # With what it was begun from it goes on, and so only with the same options.
    (model / name).write_text(text)
    with pytest.raises(ModelError, match="or options"), Progress(disable=True) as p:
        command.prepare(model, None, out, WeightKind.BF16, p, "turbo")


def test_a_turbo_loras_strength_beside_it_is_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turbo, out = tmp_path / "turbo" / "adapter_model.safetensors", tmp_path / "out"
    turbo.parent.mkdir()
    shutil.copyfile(EMBEDDED_TURBO, turbo)
    sidecar = turbo.with_name("adapter_config.json")
    sidecar.write_text('{"peft_type": "LORA", "r": 64, "lora_alpha": 64}')

    def breaking_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_write", breaking_off)
    with pytest.raises(KeyboardInterrupt):
        prepare(out, turbo=turbo)
    sidecar.write_text('{"peft_type": "LORA", "r": 64, "lora_alpha": 32}')
    with pytest.raises(ModelError, match="begun from other files"):
        prepare(out, turbo=turbo)


def test_parts_of_two_folders_do_not_mix(folder: Path, tmp_path: Path) -> None:
    other, mixed = tmp_path / "other", tmp_path / "mixed"
    with Progress(disable=True) as progress:
        command.prepare(EMBEDDED_MODEL, None, other, WeightKind.BF16, progress)
    for part in (prepared.TABLES, prepared.block_file(0), prepared.VAE, prepared.MANIFEST):
        shutil.copytree(folder, mixed, dirs_exist_ok=True)
        shutil.copyfile(other / part, mixed / part)
        with pytest.raises(ModelError, match="not made together"):
            load_model(open_source(mixed, None), CPU, torch.bfloat16)


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "ready"
    arguments = ["--model", str(EMBEDDED_MODEL), "--out", str(out)]
    run = [sys.executable, "-m", "inference_server", "prepare", *arguments]
    first = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0, first.stderr
    assert f"wuliart-server --model {out}" in first.stderr
    second = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert "prepared already" in second.stderr and len(second.stderr.strip().splitlines()) == 1
