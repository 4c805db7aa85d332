"""A prepared folder gives the same images, and proves that its parts belong together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading import prepare as preparing
from inference_server.loading import prepare_inputs
from inference_server.loading.load import load_model
from inference_server.loading.prepared_parts import Part
from inference_server.loading.sources import open_source
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.weights import manifest
from inference_server.model.weights import prepared_files as files
from inference_server.weight_kind import WeightKind

CPU = torch.device("cpu")


def prepare(
    out: Path,
    model: Path = EMBEDDED_MODEL,
    turbo: Path | None = EMBEDDED_TURBO,
    kind: WeightKind = WeightKind.BF16,
    schedule: str | None = None,
) -> None:
    with Progress(disable=True) as progress:
        preparing.prepare(model, turbo, out, kind=kind, schedule=schedule, progress=progress)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "embedded"
    prepare(out)
    return out


def generate(
    folder: Path, turbo: Path | None, weights: WeightKind | None = None, *, decoded: bool = True
) -> torch.Tensor:
    """Generates in bf16, the stored dtype; returns the image, or its latents in half the time."""
    source = open_source(folder, turbo)
    engine = Engine(load_model(source, CPU, torch.bfloat16, weights=weights))
    drawing = engine.begin(engine.encode("紫色背景上的火箭"), 1, 2)
    engine.step([drawing])
    engine.step([drawing])
    return engine.decode(drawing) if decoded else drawing.latents


def test_the_same_image_to_the_bit(folder: Path) -> None:
    assert torch.equal(generate(folder, None), generate(EMBEDDED_MODEL, EMBEDDED_TURBO))


def test_quantized_weights_are_prepared(tmp_path: Path) -> None:
    prepare(tmp_path / "fp8", kind=WeightKind.FP8)
    expected = generate(EMBEDDED_MODEL, EMBEDDED_TURBO, WeightKind.FP8, decoded=False)
    assert torch.equal(generate(tmp_path / "fp8", None, decoded=False), expected)
    with pytest.raises(ModelError, match="prepared with fp8 weights, not bf16"):
        generate(tmp_path / "fp8", None, WeightKind.BF16)


def test_the_manifest_names_the_sources(folder: Path) -> None:
    content = json.loads((folder / files.MANIFEST).read_text())
    about = content["about"]
    assert about["turbo_lora"] == EMBEDDED_TURBO.name
    assert about["model"] == EMBEDDED_MODEL.name
    assert about["levels"][0] == 1.0
    assert len(content["sources"]) == 4
    assert all(len(digest) == 64 for digest in content["sources"].values())
    assert not (folder / files.UNFINISHED).exists()
    # Without VAE encoder, vision tower, lm_head, modulation layers and 3-D kernels.
    used = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert used < 45 << 20


def test_an_interrupted_run_is_refused_by_the_server_and_resumes_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", list[str]()
    write = preparing.write_part

    def failing(out: Path, part: Part, stamp: str) -> None:
        if len(written) == 5:
            (out / f"{part.name}.part").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(part.name)
        write(out, part, stamp)

    monkeypatch.setattr(preparing, "write_part", failing)
    with pytest.raises(OSError, match="No space"):
        prepare(out)
    with pytest.raises(ModelError, match="was interrupted"):
        open_source(out, None)
    with pytest.raises(ModelError, match="started from other files"):
        prepare(out, turbo=None)
    seen = written.copy()
    written.clear()
    written.extend([""] * 6)
    prepare(out)
    assert not set(seen) & set(written[6:])
    assert len(seen) == 5
    open_source(out, None)
    assert not list(out.rglob("*.part"))


def test_a_run_interrupted_after_its_manifest_is_completed_by_the_next(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    began = tmp_path / "began"
    began.mkdir()
    preparing._begin(began, {"about": 1})
    shutil.copyfile(began / files.UNFINISHED, tmp_path / "copy" / files.UNFINISHED)
    with pytest.raises(ModelError, match="was interrupted"):
        open_source(tmp_path / "copy", None)
    preparing._begin(tmp_path / "copy", {"about": 1})
    with pytest.raises(ModelError, match="started from other files"):
        preparing._begin(tmp_path / "copy", {"about": 2})


def test_conflicting_arguments_are_refused(folder: Path, tmp_path: Path) -> None:
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
        (files.MANIFEST, b'{"format": 0}', "prepare it again"),
        (files.block_file(3), b"junk", "block-03"),
        (files.TABLES, None, "tables"),
        ("scheduler/scheduler_config.json", b'{"shift": 2.0}', "has changed since"),
    ],
    ids=["format", "damaged", "missing", "schedule"],
)
def test_a_damaged_folder_is_refused(
    folder: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(open_source(tmp_path / "copy", None), CPU, torch.bfloat16)


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Interrupts the next runs when `after` more parts have been written."""
    write, left = preparing.write_part, [after]

    def interrupting(out: Path, part: Part, stamp: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(out, part, stamp)

    monkeypatch.setattr(preparing, "write_part", interrupting)


INPUTS = {
    "schedule": ("scheduler/scheduler_config.json", '"base_shift": 1.0986', '"base_shift": 0.6986'),
    "text encoder": ("text_encoder/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
    "tokenizer": ("tokenizer/tokenizer_config.json", "{", '{"a": 1, '),
}


@pytest.mark.parametrize("changed", INPUTS)
def test_a_run_is_not_resumed_with_other_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Halves of two checkpoints in one folder were served: mean pixel difference 22."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(EMBEDDED_MODEL, model)
    interrupt(monkeypatch, after=3)
    with pytest.raises(KeyboardInterrupt):
        prepare(out, model, None)
    name, before, after = INPUTS[changed]
    text = (model / name).read_text()
    assert before in text
    (model / name).write_text(text.replace(before, after, 1))
    with pytest.raises(ModelError, match="started from other files"):
        prepare(out, model, None)
    # With the old input it would resume, but only with the same options.
    (model / name).write_text(text)
    with pytest.raises(ModelError, match="or options"):
        prepare(out, model, None, schedule="turbo")


def test_a_turbo_loras_strength_beside_it_is_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turbo, out = tmp_path / "turbo" / "adapter_model.safetensors", tmp_path / "out"
    turbo.parent.mkdir()
    shutil.copyfile(EMBEDDED_TURBO, turbo)
    sidecar = turbo.with_name("adapter_config.json")
    sidecar.write_text('{"peft_type": "LORA", "r": 64, "lora_alpha": 64}')
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        prepare(out, turbo=turbo)
    sidecar.write_text('{"peft_type": "LORA", "r": 64, "lora_alpha": 32}')
    with pytest.raises(ModelError, match="started from other files"):
        prepare(out, turbo=turbo)


def test_parts_of_two_folders_do_not_mix(folder: Path, tmp_path: Path) -> None:
    other, mixed = tmp_path / "other", tmp_path / "mixed"
    prepare(other, turbo=None)
    for part in (files.TABLES, files.block_file(0), files.VAE, files.MANIFEST):
        shutil.copytree(folder, mixed, dirs_exist_ok=True)
        shutil.copyfile(other / part, mixed / part)
        with pytest.raises(ModelError, match="not made together"):
            load_model(open_source(mixed, None), CPU, torch.bfloat16)


def test_a_part_in_anothers_place_is_refused(folder: Path, tmp_path: Path) -> None:
    for wrong, place in (
        (files.block_file(1), files.block_file(0)),
        (files.text_layer_file(1), files.text_layer_file(0)),
    ):
        copy = tmp_path / place.replace("/", "-")
        shutil.copytree(folder, copy)
        shutil.copyfile(folder / wrong, copy / place)
        with pytest.raises(ModelError, match=f"{place} holds '{wrong}', another part"):
            open_source(copy, None)


def test_a_changed_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    """A manifest with another family's levels was served with this family's tables."""
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / files.MANIFEST
    content = json.loads(path.read_text())
    turbo = ScheduleTable.build(FAMILIES["turbo"])
    assert len(turbo.rows) == len(content["about"]["levels"])
    content["about"]["schedule"] = manifest.schedule_entry(turbo.schedule)
    content["about"]["levels"] = list(turbo.rows)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"prepared\.json was changed after"):
        open_source(tmp_path / "copy", None)
    # A new stamp in the manifest is not that of the parts.
    content["stamp"] = manifest.stamp_of(content["about"])
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="not made together"):
        open_source(tmp_path / "copy", None)


CHANGES = {
    "weights": "transformer/diffusion_pytorch_model.safetensors",
    "config": "scheduler/scheduler_config.json",
    "Turbo LoRA": "turbo.safetensors",
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_source_that_changes_meanwhile_is_noticed(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the folder would mix two checkpoints."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(EMBEDDED_MODEL, model)
    turbo = shutil.copyfile(EMBEDDED_TURBO, model / "turbo.safetensors")
    write = preparing.write_part

    def changing(out: Path, part: Part, stamp: str) -> None:
        write(out, part, stamp)
        if part.name == files.block_file(1):
            path = model / changed
            path.write_bytes(path.read_bytes().replace(b"1.0986", b"1.0987"))

    monkeypatch.setattr(preparing, "write_part", changing)
    with pytest.raises(ModelError, match=f"{changed} changed while .* remove") as caught:
        prepare(out, model, turbo)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="was interrupted"):
        open_source(out, None)


def test_a_run_is_not_resumed_by_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, after=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "out")
    monkeypatch.setattr(preparing, "code_hash", lambda: "of the next version")
    with pytest.raises(ModelError, match="or by another version"):
        prepare(tmp_path / "out")


def test_the_code_that_makes_the_bytes_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    shutil.copytree(Path(prepare_inputs.inference_server.model.__path__[0]), package)
    fake = types.ModuleType("package")
    fake.__path__ = [str(package)]
    monkeypatch.setattr(prepare_inputs, "_PACKAGES", (fake,))
    before = prepare_inputs.code_hash.__wrapped__()
    assert before == prepare_inputs.code_hash.__wrapped__()
    (package / "weights" / "packing.py").write_text("ALIGNMENT = 512\n")
    assert before != prepare_inputs.code_hash.__wrapped__()


def test_the_schedule_a_folder_shows_is_accepted(folder: Path, tmp_path: Path) -> None:
    """The written form has six digits, and a family can be written out."""
    prepare(tmp_path / "out", schedule="mu=.916")
    shown = str(open_source(tmp_path / "out", None).schedule.schedule)
    assert shown == "shift=2.49927,steps=4"
    assert open_source(tmp_path / "out", None, shown)
    with pytest.raises(ModelError, match="prepared for the schedule shift=2"):
        open_source(tmp_path / "out", None, "turbo")


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
