"""LoRA files: from the bytes of a .safetensors file to low-rank factors of a model's modules.

Used by the manager for adapters and by the server for the Turbo LoRA fused at start. numpy only;
knows nothing of directories, slots or devices.
"""

from wuliart.lora.errors import LoraRefused
from wuliart.lora.factors import LoraAdapter, LoraFactors, parse_lora
from wuliart.lora.reader import SafetensorsFile, Tensor, read_safetensors

__all__ = [
    "LoraAdapter",
    "LoraFactors",
    "LoraRefused",
    "SafetensorsFile",
    "Tensor",
    "parse_lora",
    "read_safetensors",
]
