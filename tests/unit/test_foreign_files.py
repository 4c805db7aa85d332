"""Files that the engine cannot use are refused by name, and damaged marks with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference_server.config import EMBEDDED_MODEL
from inference_server.errors import ModelError
from inference_server.loading.sources import open_source
from inference_server.model.weights.checkpoint import open_shards
from inference_server.model.weights.scaling import hadamard
from inference_server.model.weights.single_file import open_single
from tests.support.hostile_checkpoints import changed, copy

BLOCK = "transformer_blocks.0.attn.to_q"
ONE = torch.ones(1)
WIDE = torch.ones(4, 16)

FOREIGN = {
    "qwen_image.safetensors": {
        f"{BLOCK}.qweight": "nunchaku",
        f"{BLOCK}.wscales": "nunchaku",
        f"{BLOCK}.smooth_factor": "nunchaku",
        f"{BLOCK}.weight.absmax": "bitsandbytes",
        f"{BLOCK}.weight.quant_state.bitsandbytes__nf4": "bitsandbytes",
        f"{BLOCK}.SCB": "bitsandbytes",
        f"{BLOCK}.weight_scale_2": "an NVFP4 layout",
        f"{BLOCK}.lora_A.weight": "a LoRA.*--turbo-lora",
        "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": "a LoRA",
        "lycoris_transformer_blocks_0_attn_to_q.lokr_w1": "a LoRA",
        f"transformer.{BLOCK}.lora.up.weight": "a LoRA",
        f"{BLOCK}.lora_linear_layer.up.weight": "a LoRA",
        f"diffusion_model.{BLOCK}.diff_b": "a LoRA",
        f"{BLOCK}.oft_R.weight": "a LoRA",
        "time_text_embed.addition_t_embedding.weight": "Qwen-Image-Layered",
        "__index_timestep_zero__": "Qwen-Image-Edit-2511",
        "txt_in.in_layer.weight": "Qwen-Image-2.1",
        "controlnet_blocks.0.weight": "a ControlNet",
        "double_blocks.0.img_attn.qkv.weight": "Flux",
        "single_transformer_blocks.0.attn.to_q.weight": "Flux",
        "joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
        "model.diffusion_model.input_blocks.0.0.weight": "Stable Diffusion",
        "blocks.0.cross_attn.q.weight": "Wan",
        "noise_refiner.0.attention.qkv.weight": "Z-Image",
        "model.layers.0.self_attn.q_proj.weight": "is a text encoder.*--text-encoder",
        "decoder.conv1.weight": "is a VAE.*--vae",
        "decoder.conv_in.weight": "is a VAE.*--vae",
        "something.else": "none of its 1 tensors",
    },
    "qwen_image_edit_2509_fp8_e4m3fn.safetensors": {f"{BLOCK}.weight": "Qwen-Image-Edit"},
    "qwen-edit-2511-bf16.safetensors": {f"{BLOCK}.weight": "Qwen-Image-Edit"},
    "Qwen-Rapid-AIO-NSFW-v10.safetensors": {f"{BLOCK}.weight": "Qwen-Image-Edit"},
    "Qwen-Image-Layered-bf16.safetensors": {f"{BLOCK}.weight": "Qwen-Image-Layered"},
    "qwen-image-2.1-bf16.safetensors": {f"{BLOCK}.weight": r"Qwen-Image-2\.1"},
    "svdq-int4_r32-qwen-image.safetensors": {f"{BLOCK}.weight": "nunchaku"},
}
"""File name -> a tensor in it -> what the refusal says."""


@pytest.mark.parametrize(
    ("file", "tensor"), [(file, tensor) for file, names in FOREIGN.items() for tensor in names]
)
def test_a_foreign_file_is_refused_by_name(file: str, tensor: str, tmp_path: Path) -> None:
    save_file({tensor: ONE}, tmp_path / file)
    with pytest.raises(ModelError, match=FOREIGN[file][tensor]) as error:
        open_single(tmp_path / file, "transformer")
    assert len(str(error.value)) < 500 and file in str(error.value)


@pytest.mark.parametrize(
    ("begins", "what"),
    [
        (b"PK\x03\x04" + bytes(80), "a zip archive .*pickles.*, never loaded"),
        (b"\x80\x02}q\x00." + bytes(80), "a pickle, which can run code and is never loaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    ],
)
def test_a_file_of_another_format_is_not_called_damaged(
    begins: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / "qwen_image.safetensors").write_bytes(begins)
    with pytest.raises(ModelError, match=rf"is {what}.*: give the weights themselves"):
        open_single(tmp_path / "qwen_image.safetensors", "transformer")


def test_a_transformer_is_no_text_encoder(tmp_path: Path) -> None:
    save_file({f"{BLOCK}.weight": ONE}, tmp_path / "a.safetensors")
    for component in ("text_encoder", "vae"):
        with pytest.raises(ModelError, match=r"is a transformer, not .*: give it with --model"):
            open_single(tmp_path / "a.safetensors", component)


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
@pytest.mark.parametrize("method", ["bitsandbytes", "modelopt"])
def test_a_folder_quantised_by_another_program_is_refused(
    component: str, method: str, tmp_path: Path
) -> None:
    folder = copy(EMBEDDED_MODEL, tmp_path / "model")
    changed(f"{component}/config.json", ("quantization_config",), {"quant_method": method})(folder)
    with pytest.raises(ModelError, match=f"quantised by '{method}', which this server cannot use"):
        open_source(folder, None)


def mark(**fields: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


E4M3 = WIDE.to(torch.float8_e4m3fn)
INT8 = WIDE.to(torch.int8)
ROTATED = {"format": "int8_tensorwise", "convrot": True}

DAMAGED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "nvfp4": ({"weight": E4M3, "comfy_quant": mark(format="nvfp4")}, "'nvfp4', which is not read"),
    "mxfp8": ({"weight": E4M3, "comfy_quant": mark(format="mxfp8")}, "'mxfp8', which is not read"),
    "no format": ({"weight": E4M3, "comfy_quant": mark()}, "lacks format"),
    "a list": (
        {"weight": E4M3, "comfy_quant": torch.tensor([91, 93], dtype=torch.uint8)},
        "does not hold a JSON object",
    ),
    "no JSON": ({"weight": E4M3, "comfy_quant": torch.zeros(3, dtype=torch.uint8)}, "cannot read"),
    "deep": (
        {"weight": E4M3, "comfy_quant": torch.full((4000,), 91, dtype=torch.uint8)},
        "cannot read",
    ),
    "too long": (
        {"weight": E4M3, "comfy_quant": torch.full((5000,), 32, dtype=torch.uint8)},
        "larger than a mark",
    ),
    "another type": (
        {"weight": INT8, "comfy_quant": mark(format="float8_e4m3fn"), "weight_scale": ONE},
        "as I8, its mark says float8_e4m3fn",
    ),
    "int8 without mark": ({"weight": INT8, "weight_scale": ONE}, "without saying how it is scaled"),
    "int8 without scale": (
        {"weight": INT8, "comfy_quant": mark(format="int8_tensorwise")},
        "without saying how it is scaled",
    ),
    "packed": ({"weight": WIDE.to(torch.uint8)}, "as U8 without saying"),
    "DeepSeek's scales": ({"weight": E4M3, "weight_scale_inv": ONE}, "weight_scale_inv' beside a"),
    "smoothed": (
        {
            "weight": INT8,
            "weight_scale": ONE,
            "comfy_quant": mark(format="int8_tensorwise"),
            "smooth_factors": WIDE[0],
        },
        "smooth_factors' beside a weight, a form that is not read",
    ),
    "low-rank rest": (
        {"weight": E4M3, "weight_scale": ONE, "svd_up": WIDE, "svd_down": WIDE.clone()},
        "svd_(up|down)' beside a weight",
    ),
    "NaN": ({"weight": E4M3, "scale_weight": torch.tensor(float("nan"))}, "is not finite"),
    "infinite": ({"weight": E4M3, "weight_scale": torch.full((4, 1), torch.inf)}, "is not finite"),
    "block scales": ({"weight": E4M3, "weight_scale": torch.ones(4, 2)}, "one for each row"),
    "column scales": ({"weight": E4M3, "weight_scale": torch.ones(1, 16)}, "one for each row"),
    "a scalar": ({"weight": torch.ones(()), "weight_scale": ONE}, "one for each row"),
    "byte scales": ({"weight": E4M3, "weight_scale": torch.ones(4, 1, dtype=torch.uint8)}, "of U8"),
    "group of 8": (
        {"weight": INT8, "weight_scale": ONE, "comfy_quant": mark(**ROTATED, convrot_groupsize=8)},
        "power of four",
    ),
    "group too large": (
        {"weight": INT8, "weight_scale": ONE, "comfy_quant": mark(**ROTATED)},
        "groups of 256",
    ),
    "group of 0": (
        {"weight": INT8, "weight_scale": ONE, "comfy_quant": mark(**ROTATED, convrot_groupsize=0)},
        "whole number",
    ),
    "group of text": (
        {
            "weight": INT8,
            "weight_scale": ONE,
            "comfy_quant": mark(**ROTATED, convrot_groupsize="256"),
        },
        "whole number",
    ),
    "convrot of text": (
        {
            "weight": INT8,
            "weight_scale": ONE,
            "comfy_quant": mark(format="int8_tensorwise", convrot="yes"),
        },
        "true or false",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_mark_is_refused(name: str, tmp_path: Path) -> None:
    tensors, message = DAMAGED[name]
    save_file(
        {f"{BLOCK}.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ModelError, match=message) as error:
        open_single(tmp_path / "a.safetensors", "transformer")
    assert len(str(error.value)) < 500


def test_a_rotated_float8_matrix_does_not_keep_its_bits(tmp_path: Path) -> None:
    tensors = {
        "weight": E4M3,
        "weight_scale": ONE,
        "comfy_quant": mark(format="float8_e4m3fn", convrot=True, convrot_groupsize=4),
    }
    save_file({f"{BLOCK}.{key}": t for key, t in tensors.items()}, tmp_path / "a.safetensors")
    weights = open_single(tmp_path / "a.safetensors", "transformer")
    assert weights.read_quantized(f"{BLOCK}.weight") is None
    assert torch.equal(
        weights.read(f"{BLOCK}.weight"), (E4M3.float().view(-1, 4) @ hadamard(4)).view(4, 16)
    )


def test_a_scaled_file_in_a_diffusers_folder_is_scaled(tmp_path: Path) -> None:
    tensors = {f"{BLOCK}.weight": E4M3, f"{BLOCK}.scale_weight": ONE / 2}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    weights = open_shards(tmp_path, "diffusion_pytorch_model")
    assert list(weights) == [f"{BLOCK}.weight"]
    assert torch.equal(weights.read(f"{BLOCK}.weight"), WIDE / 2)


@pytest.mark.parametrize("text", ["[]", "{", '{"layers": []}', '{"layers": {"a": 1}}', "{}"])
def test_damaged_metadata_is_refused(text: str, tmp_path: Path) -> None:
    metadata = {"_quantization_metadata": text}
    save_file({f"{BLOCK}.weight": E4M3}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(ModelError):
        open_single(tmp_path / "a.safetensors", "transformer")
