"""Few-step LoRAs in the layouts of their publishers, and the scheduler config of Qwen-Image.

The tensors are random; names, keys, ranks and alphas are as published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PUBLISHED_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""scheduler_config.json of Qwen-Image and Qwen-Image-2512."""

LIGHTNING = "Qwen-Image-2512-Lightning-4steps-V1.0-bf16.safetensors"
LIGHTNING_8 = "Qwen-Image-Lightning-8steps-V2.0.safetensors"
TURBO = "Wuli-Qwen-Image-2512-Turbo-LoRA-4steps-V3.0-bf16.safetensors"
TURBO_2 = "Wuli-Qwen-Image-2512-Turbo-LoRA-2steps-V1.0-bf16.safetensors"

_ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
_MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
_MODULATION = ("img_mod.1", "txt_mod.1")
RANK = 64


def write_few_step_lora(
    path: Path,
    linears: dict[str, tuple[int, int]],
    *,
    lightning: bool,
    strength: float = 0.02,
    **metadata: str,
) -> Path:
    """Writes a LoRA of rank 64 in the layout of lightx2v (`lightning`) or Wuli-art.

    Args:
        path: the new file.
        linears: (in, out) features of the transformer's linear layers by name.
        lightning: bare `lora_down/up` with alpha 8, without modulation; else `diffusion_model.`
            `lora_A/B` of all 14 linears of a block, without alpha.
        strength: approximate standard deviation of the change of a weight.
        metadata: the header's metadata.
    """
    ends = [f"attn.{name}" for name in _ATTENTION] + list(_MLP)
    ends += [] if lightning else list(_MODULATION)
    generator = torch.Generator().manual_seed(4)
    tensors: dict[str, torch.Tensor] = {}
    for name, (inputs, outputs) in linears.items():
        if not name.startswith("transformer_blocks.") or not name.endswith(tuple(ends)):
            continue
        down = torch.randn(RANK, inputs, generator=generator) / inputs**0.5
        up = torch.randn(outputs, RANK, generator=generator) * strength
        if lightning:
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = up * RANK / 8
            tensors[f"{name}.alpha"] = torch.tensor(8.0)
        else:
            tensors[f"diffusion_model.{name}.lora_A.weight"] = down
            tensors[f"diffusion_model.{name}.lora_B.weight"] = up
    save_file(tensors, path, metadata or None)
    return path
