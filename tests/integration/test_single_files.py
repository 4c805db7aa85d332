"""Every form of a single checkpoint file: how it is kept, the messages about it, the latents.

The oracle of a form is a diffusers folder that holds the weights meant: it must give the same
latents. `test_stock_parity` compares such folders with stock diffusers.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file

from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.prepare import prepare
from inference_server.loading.sources import open_source
from inference_server.model.schedule import FAMILIES
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights import packing
from inference_server.model.weights.source import Source
from inference_server.model.weights.transformer import IMG, TXT, block_fields
from inference_server.model_parts import ModelParts
from inference_server.weight_kind import WeightKind
from tests.support.few_step_loras import LIGHTNING, write_few_step_lora
from tests.support.single_files import (
    Form,
    Tensors,
    comfy_text_names,
    component_tensors,
    int8,
    native,
    old_scaled,
    plain,
    unscaled,
    wan_names,
    write_single,
)
from tests.support.small_model import make_checkpoint

CPU = torch.device("cpu")
BF16, FP8 = WeightKind.BF16, WeightKind.FP8
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MATRICES = 2 * 2 * 6
"""Of two blocks with two streams."""


class Case(NamedTuple):
    form: Form
    kind: WeightKind
    """What the engine keeps it as by default."""
    said: str
    """Matches the remarks to the operator; empty: there are none."""


CASES = {
    "bf16": Case(plain(torch.bfloat16), BF16, ""),
    "fp16": Case(plain(torch.float16), BF16, ""),
    "fp32": Case(plain(torch.float32), BF16, ""),
    "bf16, model.diffusion_model.": Case(plain(torch.bfloat16, "model.diffusion_model."), BF16, ""),
    "bf16, diffusion_model.": Case(plain(torch.bfloat16, "diffusion_model."), BF16, ""),
    "e4m3": Case(unscaled(E4M3), FP8, "24 as F8_E4M3; .*keep their bits"),
    "e5m2": Case(unscaled(E5M2), BF16, "24 as F8_E5M2; .*widened to bf16"),
    "scaled_fp8": Case(old_scaled(), FP8, "24 as F8_E4M3 with scales; .*keep their bits"),
    "scaled_fp8 without inputs": Case(old_scaled(inputs=False), FP8, "keep their bits"),
    "scaled_fp8, full precision": Case(old_scaled(elements=2), BF16, "asks for .*full precision"),
    "scaled_fp8, e5m2": Case(old_scaled(E5M2), BF16, "24 as F8_E5M2 with scales; .*widened"),
    "comfy_quant": Case(native(), FP8, "keep their bits"),
    "comfy_quant, prefix": Case(native(prefix="model.diffusion_model."), FP8, "keep their bits"),
    "comfy_quant, rows": Case(native(rows=True), FP8, "keep their bits"),
    "comfy_quant, full precision": Case(
        native(full_precision=True), BF16, "asks for .*full precision"
    ),
    "header": Case(native(in_header=True), FP8, "keep their bits"),
    "header, prefix": Case(
        native(in_header=True, prefix="diffusion_model."), FP8, "keep their bits"
    ),
    "header, e5m2": Case(native(E5M2, in_header=True), BF16, "widened"),
    "int8": Case(int8(rotated=False), BF16, "24 as I8 with scales; .*widened"),
    "ConvRot": Case(int8(rotated=True), BF16, r"24 as I8, rotated \(ConvRot\); .*widened"),
    "ConvRot, group 16": Case(int8(rotated=True, group=16), BF16, "ConvRot"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("stock") / "model")


@pytest.fixture(scope="module")
def transformer(checkpoint: Path) -> Tensors:
    return component_tensors(checkpoint, "transformer")


def latents(
    source: Source, kind: WeightKind | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    engine = Engine(load_model(source, CPU, dtype, weights=kind))
    image = engine.begin(engine.encode("a red fox"), 7, 2)
    for _ in range(2):
        engine.step([image])
    return image.latents


def folder_of(checkpoint: Path, component: str, tensors: Tensors, out: Path) -> Path:
    """Copies the checkpoint with other weights for one component."""
    shutil.copytree(checkpoint, out)
    for path in (out / component).glob("*.safetensors*"):
        path.unlink()
    stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, out / component / f"{stem}.safetensors")
    return out


@pytest.mark.parametrize("name", CASES)
def test_a_form_gives_the_latents_of_the_weights_it_means(
    name: str, checkpoint: Path, transformer: Tensors, tmp_path: Path
) -> None:
    case = CASES[name]
    written = write_single(tmp_path / "qwen_image.safetensors", transformer, case.form)
    parts = ModelParts(components=checkpoint)
    source = open_source(tmp_path / "qwen_image.safetensors", None, parts=parts)
    assert source.stored_kind is case.kind
    said = " ".join(remark.text for remark in source.remarks(case.kind))
    assert re.search(case.said, said) if case.said else not said
    assert source.parameters == sum(tensor.numel() for tensor in transformer.values())

    meant = folder_of(checkpoint, "transformer", written.meant, tmp_path / "meant")
    assert torch.equal(latents(source, BF16), latents(open_source(meant, None), BF16))
    if case.kind is FP8:
        check_bits(source, written.tensors, written.meant)


def check_bits(source: Source, stored: Tensors, meant: Tensors) -> None:
    """Compares a block's float8 matrices with the file's, bit by bit."""
    fields = block_fields(
        TransformerConfig.from_json(source.config("transformer")), torch.float32, FP8
    )
    for index in range(2):
        buffer = torch.zeros(packing.nbytes(fields), dtype=torch.uint8)
        source.fill_block(fields, index, buffer)
        views = packing.views(fields, buffer)
        for stream, names in (("img", IMG), ("txt", TXT)):
            modules = {"qkv": names.qkv, "mlp_down": (f"{names.mlp}.net.2",)}
            for field, parts in modules.items():
                paths = [f"transformer_blocks.{index}.{part}.weight" for part in parts]
                held = views[f"{stream}.{field}"]
                files = [next(t for n, t in stored.items() if n.endswith(path)) for path in paths]
                bits = torch.cat([file.view(torch.uint8) for file in files])
                assert torch.equal(held.view(torch.uint8), bits)
                wide = held.float() * views[f"{stream}.{field}.scale"]
                assert torch.equal(wide, torch.cat([meant[path].float() for path in paths]))


@pytest.fixture
def lora(transformer: Tensors, tmp_path: Path) -> Path:
    """A few-step LoRA that fits the transformer, in Lightning's layout."""
    linears = {
        name.removesuffix(".weight"): (tensor.shape[1], tensor.shape[0])
        for name, tensor in transformer.items()
        if name.endswith(".weight") and tensor.dim() == 2
    }
    return write_few_step_lora(tmp_path / LIGHTNING, linears, lightning=True)


def test_a_few_step_lora_is_fused_into_a_scaled_base(
    checkpoint: Path, transformer: Tensors, lora: Path, tmp_path: Path
) -> None:
    written = write_single(tmp_path / "base.safetensors", transformer, old_scaled())
    source = open_source(
        tmp_path / "base.safetensors", lora, parts=ModelParts(components=checkpoint)
    )
    (remark,) = source.remarks(FP8)
    assert not remark.warning and f"except where {LIGHTNING} is fused" in remark.text
    meant = folder_of(checkpoint, "transformer", written.meant, tmp_path / "meant")
    for kind in (BF16, FP8):  # quantised anew, both have the same bits
        assert torch.equal(latents(source, kind), latents(open_source(meant, lora), kind))


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_an_unscaled_base_with_a_few_step_lora_is_warned_of(
    dtype: torch.dtype, checkpoint: Path, transformer: Tensors, lora: Path, tmp_path: Path
) -> None:
    path = tmp_path / "qwen_image_fp8.safetensors"
    write_single(path, transformer, unscaled(dtype))
    parts = ModelParts(components=checkpoint)
    warnings = [r.text for r in open_source(path, lora, parts=parts).remarks(FP8) if r.warning]
    assert len(warnings) == 1 and "shows a grid" in warnings[0]
    assert path.name in warnings[0] and LIGHTNING in warnings[0]
    assert not [r for r in open_source(path, None, parts=parts).remarks(FP8) if r.warning]


def test_the_name_of_a_fused_base_decides(
    checkpoint: Path, transformer: Tensors, lora: Path, tmp_path: Path
) -> None:
    path = tmp_path / "qwen_image_2512_fp8_e4m3fn_scaled_comfyui_4steps_v1.0.safetensors"
    write_single(path, transformer, old_scaled())
    parts = ModelParts(components=checkpoint)
    chosen = open_source(path, None, parts=parts).schedule
    assert chosen.schedule == FAMILIES["lightning"] and not chosen.warning
    assert path.name in chosen.why
    given = open_source(path, None, "turbo", parts).schedule
    assert given.schedule.is_same(FAMILIES["turbo"])
    with pytest.raises(ModelError, match="has a few-step LoRA fused in, by its name"):
        open_source(path, lora, parts=parts)
    unclear = path.rename(tmp_path / "mine_4steps.safetensors")
    # The embedded model's scheduler config is one for few steps; the published one is not.
    assert open_source(unclear, None, parts=parts).schedule.why.startswith("the checkpoint's own")


def test_a_prepared_folder_keeps_the_files_bits(
    checkpoint: Path, transformer: Tensors, tmp_path: Path
) -> None:
    path, out = tmp_path / "qwen_image.safetensors", tmp_path / "out"
    write_single(path, transformer, native())
    parts = ModelParts(components=checkpoint)
    with Progress(disable=True) as progress:
        prepare(path, None, out, given=parts, progress=progress)
    prepared = open_source(out, None)
    assert prepared.kind is FP8
    assert prepared.remarks(FP8) == tuple(open_source(path, None, parts=parts).remarks(FP8))
    source = open_source(path, None, parts=parts)
    bf16 = torch.bfloat16
    assert torch.equal(latents(prepared, dtype=bf16), latents(source, dtype=bf16))
    with pytest.raises(ModelError, match="is prepared, with all its parts"):
        open_source(out, None, parts=parts)
    with Progress(disable=True) as progress:
        prepare(path, None, tmp_path / "wide", kind=BF16, given=parts, progress=progress)
    assert open_source(tmp_path / "wide", None).kind is BF16


@pytest.mark.parametrize("form", [plain(torch.bfloat16), old_scaled(inputs=False), native()])
def test_a_text_encoder_file_gives_the_latents_of_the_weights_it_means(
    form: Form, checkpoint: Path, tmp_path: Path
) -> None:
    tensors = comfy_text_names(component_tensors(checkpoint, "text_encoder"))
    written = write_single(tmp_path / "qwen_2.5_vl_7b.safetensors", tensors, form)
    parts = ModelParts(text_encoder=tmp_path / "qwen_2.5_vl_7b.safetensors")
    source = open_source(checkpoint, None, parts=parts)
    said = [remark.text for remark in source.remarks(BF16)]
    assert said == ["from single files: text encoder qwen_2.5_vl_7b.safetensors"]
    meant = folder_of(checkpoint, "text_encoder", written.meant, tmp_path / "meant")
    assert torch.equal(latents(source), latents(open_source(meant, None)))


@pytest.mark.parametrize("wan", [True, False])
def test_a_vae_file_decodes_as_the_folders(checkpoint: Path, tmp_path: Path, wan: bool) -> None:
    tensors = component_tensors(checkpoint, "vae")
    if wan:
        tensors = wan_names(tensors, res_blocks=1)
    write_single(tmp_path / "qwen_image_vae.safetensors", tensors, plain(torch.float32))
    parts = ModelParts(vae=tmp_path / "qwen_image_vae.safetensors")
    images = []
    for source in (open_source(checkpoint, None), open_source(checkpoint, None, parts=parts)):
        engine = Engine(load_model(source, CPU, torch.float32))
        images.append(engine.decode(engine.begin(engine.encode("a red fox"), 7, 1)))
    assert torch.equal(*images)
