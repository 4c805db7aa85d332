"""LoRA files: from the bytes of a .safetensors file to low-rank factors of a model's modules.

The manager reads adapters with it, the server the Turbo LoRA that it fuses at start. `slot_layout`
and `slot_image` define how an adapter lies in a slot of the server's memory.
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
