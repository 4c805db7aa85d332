"""LoRA adapters of the trainable transformer: made by peft, saved in the format of diffusers."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import nn

from training.network import Network

TARGETS = (
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj"
    r"|to_add_out)|(img|txt)_mlp\.net\.(0\.proj|2)|(img|txt)_mod\.1)|img_in|txt_in|proj_out"
)
"""All fourteen linear layers of a block, and the input and output projections."""

METADATA = {
    "format": "pt",
    "modelspec.architecture": "qwen-image/lora",
    "modelspec.license": "Apache-2.0",
}
"""Metadata of every file."""


def attach(network: Network, rank: int) -> Network:
    """Adds an adapter that has no effect yet; only its parameters stay trainable."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
    adapted: Network = inject_adapter_in_model(config, network)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return adapted


def fill(network: nn.Module, path: Path) -> None:
    """Loads a file that `save` wrote into an adapter of the same rank.

    Raises:
        ValueError: The file has keys that the adapter lacks.
    """
    weights = {
        name.removeprefix("transformer."): value.float() for name, value in load_file(path).items()
    }
    left = set_peft_model_state_dict(network, weights).unexpected_keys
    if left:
        raise ValueError(f"{path} has keys that this adapter lacks: {left[:3]}")


def reset(network: nn.Module) -> None:
    """Resets the adapter to one that has no effect; compiled code stays valid."""
    for name, parameter in network.named_parameters():
        if "lora_A" in name:
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
        elif "lora_B" in name:
            nn.init.zeros_(parameter)


@torch.no_grad()
def fuse(network: nn.Module, path: Path) -> None:
    """Adds a saved adapter to the weights of `network`, which may carry another adapter."""
    factors = load_file(path)
    for name, down in factors.items():
        if ".lora_A." not in name:
            continue
        up = factors[name.replace(".lora_A.", ".lora_B.")]
        layer = network.get_submodule(
            name.removeprefix("transformer.").removesuffix(".lora_A.weight")
        )
        layer = getattr(layer, "base_layer", layer)
        layer.weight.add_((up.float() @ down.float()).to(layer.weight))


def save(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the adapter in bf16 under diffusers' keys, `transformer.MODULE.lora_A.weight`."""
    weights = {
        f"transformer.{name}": value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in get_peft_model_state_dict(network).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, METADATA | metadata)
