"""Loads what earlier runs left in the bank: tokenizer, text encoder, transformer.

Owns where each of them lies. `save_base` and `load_base` are each other's inverse up to bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from training import bank
from training.network import SHAPE, Network
from training.text_encoder import build_text_encoder

BANK = Path("training/bank")
VAE = "vae_frames.safetensors"
TRANSFORMER = "transformer"
TEXT_ENCODER = "text_encoder"
TOKENIZER = "tokenizer"
HEAD = "lm_head.weight"
"""Tied to the embedding: not stored twice."""


class TrainedBase(NamedTuple):
    """The base in fp32, frozen."""

    tokenizer: Qwen2Tokenizer
    text: Qwen2_5_VLForConditionalGeneration
    network: Network


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer of the bank."""
    tokenizer: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder / TOKENIZER)
    return tokenizer


def fill_text_encoder(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Loads banked weights into a text encoder of the same shape."""
    weights = bank.load(folder, TEXT_ENCODER)
    weights[HEAD] = weights["model.language_model.embed_tokens.weight"]
    model.load_state_dict(weights)


def save_base(text: nn.Module, network: nn.Module, folder: Path) -> None:
    """Banks both as bf16."""
    bank.save(network.state_dict(), folder, TRANSFORMER)
    weights = {name: value for name, value in text.state_dict().items() if name != HEAD}
    bank.save(weights, folder, TEXT_ENCODER)


def load_base(folder: Path, device: torch.device) -> TrainedBase:
    """Everything that prompts and noise need to become latents.

    Raises:
        FileNotFoundError: the base was not trained yet.
    """
    tokenizer = load_tokenizer(folder)
    text, network = build_text_encoder(tokenizer), Network(SHAPE)
    fill_text_encoder(text, folder)
    network.load_state_dict(bank.load(folder, TRANSFORMER))
    for module in (text, network):
        module.to(device).eval().requires_grad_(False)
    return TrainedBase(tokenizer, text, network)
