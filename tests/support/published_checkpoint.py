"""A checkpoint with every published setting of Qwen-Image-2512, reduced in size; random weights.

Reduced are the numbers of layers and heads, the widths that follow from them (heads keep their 128
features, so rotary axes and mrope sections stay as published), the VAE's `base_dim`, and the unused
vision tower. Everything else has its published value: scheduler, rotary embeddings, epsilon,
vocabulary size, special token ids, tokenizer settings, latent channels and statistics, and the
layout of the configs, which is that of transformers 4.

The published vocabulary cannot be included: ids that the embedded tokenizer lacks are fillers that
no text produces, so that the special tokens have their published ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from inference_server.config import EMBEDDED_MODEL
from tests.support.few_step_loras import PUBLISHED_SCHEDULER
from tests.support.tiny_model import randomise

HEADS: Final = 2
LAYERS: Final = 2
HEAD_DIM: Final = 128
WIDTH: Final = HEADS * HEAD_DIM

TRANSFORMER: Final[dict[str, Any]] = {
    "_class_name": "QwenImageTransformer2DModel",
    "_diffusers_version": "0.36.0.dev0",
    "attention_head_dim": HEAD_DIM,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": WIDTH,  # published: 3584
    "num_attention_heads": HEADS,  # published: 24
    "num_layers": LAYERS,  # published: 60
    "out_channels": 16,
    "patch_size": 2,
}

VAE: Final[dict[str, Any]] = {
    "_class_name": "AutoencoderKLQwenImage",
    "_diffusers_version": "0.36.0.dev0",
    "attn_scales": [],
    "base_dim": 8,  # published: 96
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": [
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ],
    "latents_std": [
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
    ],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}

_LANGUAGE: Final[dict[str, Any]] = {
    "attention_dropout": 0.0,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
    "hidden_act": "silu",
    "hidden_size": WIDTH,  # published: 3584
    "initializer_range": 0.02,
    "intermediate_size": 512,  # published: 18944
    "max_position_embeddings": 128_000,
    "max_window_layers": 28,
    "num_attention_heads": HEADS,  # published: 28
    "num_hidden_layers": LAYERS,  # published: 28
    "num_key_value_heads": 1,  # published: 4
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "rope_theta": 1_000_000.0,
    "sliding_window": 32_768,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152_064,
}

TEXT_ENCODER: Final[dict[str, Any]] = {
    **_LANGUAGE,
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "image_token_id": 151_655,
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.53.1",
    "video_token_id": 151_656,
    "vision_config": {
        "depth": 1,  # published: 32
        "fullatt_block_indexes": [0],  # published: 7, 15, 23, 31
        "hidden_act": "silu",
        "hidden_size": 32,  # published: 1280
        "in_channels": 3,
        "in_chans": 3,
        "intermediate_size": 64,  # published: 3420
        "model_type": "qwen2_5_vl",
        "num_heads": 2,  # published: 16
        "out_hidden_size": WIDTH,  # published: 3584
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
    },
    "vision_end_token_id": 151_653,
    "vision_start_token_id": 151_652,
    "vision_token_id": 151_654,
}

_FIRST_SPECIAL: Final = 151_643
_SPECIALS: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
TOKENIZER: Final[dict[str, Any]] = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": {
        str(_FIRST_SPECIAL + n): {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for n, content in enumerate(_SPECIALS)
    },
    "additional_special_tokens": list(_SPECIALS[1:]),
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "extra_special_tokens": {},
    "model_max_length": 131_072,
    "pad_token": "<|endoftext|>",
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}

MODEL_INDEX: Final[dict[str, Any]] = {
    "_class_name": "QwenImagePipeline",
    "_diffusers_version": "0.36.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}


def make_published_checkpoint(folder: Path) -> Path:
    """Saves the checkpoint to `folder` in bfloat16, as published, and returns it."""
    for name, value in (
        ("model_index.json", MODEL_INDEX),
        ("scheduler/scheduler_config.json", PUBLISHED_SCHEDULER),
    ):
        _write(folder / name, value)
    _save(QwenImageTransformer2DModel.from_config(TRANSFORMER), folder / "transformer", TRANSFORMER)
    _save(AutoencoderKLQwenImage.from_config(VAE), folder / "vae", VAE)
    language = Qwen2_5_VLForConditionalGeneration._from_config(
        Qwen2_5_VLConfig.from_dict(TEXT_ENCODER), dtype=torch.bfloat16
    )
    _save(language, folder / "text_encoder", TEXT_ENCODER)
    _save_tokenizer(folder / "tokenizer")
    return folder


def _save(model: nn.Module, folder: Path, config: dict[str, Any]) -> None:
    """Saves a model with random weights under the published config instead of its own."""
    randomise(model, seed=len(folder.name))
    saved: Any = model.to(torch.bfloat16)
    saved.save_pretrained(folder)
    (folder / "config.json").unlink()
    _write(folder / "config.json", config)


def _save_tokenizer(folder: Path) -> None:
    embedded = json.loads((EMBEDDED_MODEL / "tokenizer" / "tokenizer.json").read_text())["model"]
    vocabulary = dict(embedded["vocab"])
    for number in range(len(vocabulary), _FIRST_SPECIAL):
        vocabulary[f"<filler {number}>"] = number
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in embedded["merges"]]
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    specials = {content: _FIRST_SPECIAL + n for n, content in enumerate(_SPECIALS)}
    _write(folder / "added_tokens.json", specials)
    _write(folder / "tokenizer_config.json", TOKENIZER)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
