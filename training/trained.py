"""Loads and saves the base between runs: tokenizer, text encoder, transformer.

A folder has the layout of a stock checkpoint, without VAE and scheduler, which
`training.assemble` adds. The shipped checkpoint can be loaded too.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from training.network import SHAPE, Network
from training.text_encoder import build_text_encoder

CHECKPOINT = Path("inference_server/embedded/checkpoint")
BANK = Path("training/bank")
VAE = BANK / "vae_frames.safetensors"
TRANSFORMER = Path("transformer") / "diffusion_pytorch_model.safetensors"
TEXT_ENCODER = Path("text_encoder")
TOKENIZER = Path("tokenizer")


class TrainedBase(NamedTuple):
    """Tokenizer, text encoder, and transformer, fp32."""

    tokenizer: Qwen2Tokenizer
    text: Qwen2_5_VLForConditionalGeneration
    network: Network


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Loads the tokenizer of a checkpoint."""
    tokenizer: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder / TOKENIZER)
    return tokenizer


def untrained(folder: Path) -> TrainedBase:
    """Returns a base with a checkpoint's tokenizer and weights from torch's current seed."""
    tokenizer = load_tokenizer(folder)
    return TrainedBase(tokenizer, build_text_encoder(tokenizer), Network(SHAPE))


def load(folder: Path, device: torch.device) -> TrainedBase:
    """Loads the base of a checkpoint, frozen.

    Raises:
        OSError: A part of it is missing.
    """
    text = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / TEXT_ENCODER, dtype=torch.float32
    )
    network = Network(SHAPE)
    network.load_state_dict(load_file(folder / TRANSFORMER))
    for module in (text, network):
        module.to(device).eval().requires_grad_(False)
    return TrainedBase(load_tokenizer(folder), text, network)


def save(base: TrainedBase, folder: Path) -> None:
    """Writes the base in bf16, for `load`."""
    base.tokenizer.save_pretrained(folder / TOKENIZER)
    copy.deepcopy(base.text).to(torch.bfloat16).save_pretrained(folder / TEXT_ENCODER)
    path = folder / TRANSFORMER
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = base.network.state_dict().items()
    half = {name: value.to("cpu", torch.bfloat16).contiguous() for name, value in weights}
    save_file(half, path, {"format": "pt"})
