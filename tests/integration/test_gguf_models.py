"""Whole models from GGUF files against stock diffusers and transformers with the same weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from rich.progress import Progress
from safetensors.torch import save_file

from inference_server.config import EMBEDDED_MODEL
from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.prepare import prepare
from inference_server.loading.sources import open_source
from inference_server.model.weights.source import Source
from inference_server.model_parts import ModelParts
from inference_server.weight_kind import WeightKind
from tests.support.gguf_files import (
    Stored,
    meant,
    quantized,
    random_tensor,
    transformer_tensors,
    write_gguf,
)
from tests.support.single_files import Tensors, comfy_text_names, component_tensors
from tests.support.small_model import make_checkpoint

CPU = torch.device("cpu")
PROMPT, SEED, STEPS = "a red fox", 7, 2
WIDE = {
    "num_attention_heads": 2,
    "attention_head_dim": 128,  # the rows of a K-quant divide by 256
    "axes_dims_rope": (16, 56, 56),
}
MIXTURES = {
    "Q8_0": ("Q8_0",),
    "Q5_1": ("Q5_1", "Q5_0"),
    "Q4_1": ("Q4_1", "Q4_0"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q4_K"),
    "Q3_K_L": ("Q3_K", "Q5_K"),
    "Q2_K": ("Q2_K", "Q3_K"),
    "F16": ("F16",),
    "BF16": ("BF16",),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("stock") / "model", **WIDE)


@pytest.fixture(scope="module")
def transformer(checkpoint: Path) -> Tensors:
    return component_tensors(checkpoint, "transformer")


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> QwenImagePipeline:
    shutil.copy(EMBEDDED_MODEL / "model_index.json", checkpoint)
    pipe = QwenImagePipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(source: Source) -> torch.Tensor:
    engine = Engine(load_model(source, CPU, torch.float32))
    image = engine.begin(engine.encode(PROMPT), SEED, STEPS)
    for _ in range(STEPS):
        engine.step([image])
    return image.latents


def stock_latents(pipe: Any, weights: Tensors) -> torch.Tensor:
    model = QwenImageTransformer2DModel.from_config(pipe.transformer.config)
    model.load_state_dict(weights)
    pipe.transformer = model.eval()
    found = pipe(
        PROMPT,
        num_inference_steps=STEPS,
        true_cfg_scale=1.0,
        height=1024,
        width=1024,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    )
    return found.images[0]


def write(path: Path, tensors: dict[str, Stored], **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(path, tensors, **values)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_transformer_gives_the_latents_of_stock_diffusers(
    name: str,
    checkpoint: Path,
    transformer: Tensors,
    pipeline: QwenImagePipeline,
    tmp_path: Path,
) -> None:
    tensors = transformer_tensors(transformer, MIXTURES[name])
    file = write(tmp_path / f"qwen-image-{name}.gguf", tensors)
    source = open_source(file, None, parts=ModelParts(components=checkpoint))
    assert source.stored_kind is WeightKind.BF16
    assert source.parameters == sum(tensor.numel() for tensor in transformer.values())
    said = " ".join(remark.text for remark in source.remarks(WeightKind.BF16))
    if name not in ("F16", "BF16"):
        for kind in set(MIXTURES[name]):
            assert re.search(rf"stored .*\d+ as {kind}.*widened to bf16", said)
    stock = stock_latents(pipeline, meant(tensors))
    assert (latents(source) - stock).norm() < 1e-4 * stock.norm()


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_names_may_have_a_prefix(
    prefix: str, checkpoint: Path, transformer: Tensors, tmp_path: Path
) -> None:
    tensors = transformer_tensors(transformer, ["Q8_0"])
    parts = ModelParts(components=checkpoint)
    bare = open_source(write(tmp_path / "a.gguf", tensors), None, parts=parts)
    wrapped = {prefix + name: stored for name, stored in tensors.items()}
    file = write(tmp_path / "b.gguf", wrapped, architecture="pig")
    assert torch.equal(latents(open_source(file, None, parts=parts)), latents(bare))


@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.FP8])
def test_it_is_prepared_like_a_folder_with_its_weights(
    kind: WeightKind, checkpoint: Path, transformer: Tensors, tmp_path: Path
) -> None:
    tensors = transformer_tensors(transformer, MIXTURES["Q4_K_M"])
    file = write(tmp_path / "qwen-image-Q4_K_M.gguf", tensors, file_type=15)
    folder = shutil.copytree(checkpoint, tmp_path / "folder")
    save_file(meant(tensors), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    made = []
    for model, parts in ((file, ModelParts(components=checkpoint)), (folder, ModelParts())):
        out = tmp_path / f"prepared-{model.name}"
        with Progress() as progress:
            prepare(model, None, out, kind=kind, given=parts, progress=progress)
        made.append(open_source(out, None))
    assert torch.equal(latents(made[0]), latents(made[1]))
    assert "as Q4_K" in " ".join(remark.text for remark in made[0].remarks(kind))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_a_text_encoder_gives_the_latents_of_the_weights_it_means(
    kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    named = comfy_text_names(component_tensors(checkpoint, "text_encoder"))
    tensors = {
        llama_name(name): quantized("F32" if tensor.dim() == 1 else kind, tensor)
        for name, tensor in named.items()
    }
    file = write(tmp_path / "Qwen2.5-VL-7B.gguf", tensors, architecture="qwen2vl")
    source = open_source(checkpoint, None, parts=ModelParts(text_encoder=file))
    folder = shutil.copytree(checkpoint, tmp_path / "folder")
    weights = dict(zip(named, meant(tensors).values(), strict=True))
    save_file(weights, folder / "text_encoder" / "model.safetensors")
    assert torch.equal(latents(source), latents(open_source(folder, None)))


def llama_name(name: str) -> str:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 28)
    return str(names.get_name(name, try_suffixes=(".weight", ".bias")))


def test_a_link_of_a_hubs_cache_is_followed(
    checkpoint: Path, transformer: Tensors, tmp_path: Path
) -> None:
    write(tmp_path / "blobs" / "0123abcd", transformer_tensors(transformer, ["Q8_0"]))
    link = tmp_path / "qwen-image-Q8_0.gguf"
    link.symlink_to(tmp_path / "blobs" / "0123abcd")
    assert open_source(link, None, parts=ModelParts(components=checkpoint)).parameters


def test_a_text_encoder_is_not_a_model(checkpoint: Path, tmp_path: Path) -> None:
    tensors = {"token_embd.weight": random_tensor("Q8_0", (64, 64))}
    tensors |= {"blk.0.attn_q.weight": random_tensor("Q8_0", (64, 64))}
    file = write(tmp_path / "x.gguf", tensors, architecture="qwen2vl")
    with pytest.raises(ModelError, match=r"x\.gguf is a text encoder, not a transformer: give it"):
        open_source(file, None, parts=ModelParts(components=checkpoint))


def test_a_file_with_another_models_tensors_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = {"double_blocks.0.img_attn.qkv.weight": random_tensor("Q8_0", (64, 64))}
    file = write(tmp_path / "x.gguf", tensors, architecture="pig")
    with pytest.raises(ModelError, match=r"x\.gguf is Flux or HunyuanVideo"):
        open_source(file, None, parts=ModelParts(components=checkpoint))
