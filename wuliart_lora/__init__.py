"""LoRA files: from the bytes of a .safetensors file to low-rank factors of a model's modules.

Used by the manager for adapters and by the server for the Turbo LoRA fused at start. numpy only;
knows nothing of directories, slots or devices.
"""

from wuliart_lora.errors import LoraError
from wuliart_lora.factors import LoraAdapter, LoraFactors
from wuliart_lora.plan import LoraPlan, parse_lora, plan_lora
from wuliart_lora.reader import (
    HEAD_BYTES,
    Header,
    SafetensorsFile,
    Tensor,
    header_bytes,
    read_header,
    read_safetensors,
)

__all__ = [
    "HEAD_BYTES",
    "Header",
    "LoraAdapter",
    "LoraError",
    "LoraFactors",
    "LoraPlan",
    "SafetensorsFile",
    "Tensor",
    "header_bytes",
    "parse_lora",
    "plan_lora",
    "read_header",
    "read_safetensors",
]
