"""A model of Qwen-Image's shapes with random weights.

`RandomSource` reads no weights from disk, so the product itself can be measured at full size on a
machine without the checkpoint. `TINY` has the same architecture, for trying a benchmark on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from inference_server.config import EMBEDDED_MODEL
from inference_server.engine.memory_plan import Demand
from inference_server.loading.memory_sizes import SCRATCH_BYTES, WHOLE_DECODE_BYTES, runtime_bytes
from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.schedule import FAMILIES
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.weights import packing
from inference_server.model.weights.checkpoint import FolderCheckpoint
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.source import Tables, TextEdges
from inference_server.model.weights.stored_form import Remark
from inference_server.model.weights.text_encoder import fill_layer, layer_fields, layer_views
from inference_server.model.weights.transformer import (
    block_fields,
    block_views,
    fill_block,
    read_edges,
)
from inference_server.weight_kind import WeightKind

QWEN_VL: dict[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18_944,
    "vocab_size": 152_064,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
"""The language model of Qwen2.5-VL-7B; transformers' defaults are those of the 72B model."""
FULL: dict[str, dict[str, Any]] = {
    "transformer": {"out_channels": 16},
    "text_encoder": QWEN_VL,
    "vae": {},
    "scheduler": FolderCheckpoint(EMBEDDED_MODEL).config("scheduler"),
}
TINY: dict[str, dict[str, Any]] = FULL | {
    "transformer": {
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 128,
        "joint_attention_dim": 64,
        "out_channels": 16,
    },
    "text_encoder": QWEN_VL
    | {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "rope_parameters": QWEN_VL["rope_parameters"] | {"mrope_section": [2, 3, 3]},
    },
    "vae": {"base_dim": 16},
}
VOCABULARY = 4_096
"""Rows of the embedding; the embedded model's tokenizer gives no larger ids."""

UNMOVED_BYTES = 191_000_000
"""Edges, tables, VAE and prompt cache at full size, as `load_model` counts them."""


def full_demand(kind: WeightKind) -> Demand:
    """Returns the memory demand of Qwen-Image on a GPU with three adapter slots of rank 16."""
    shape, text = TransformerConfig(), TextConfig.from_json(QWEN_VL)
    return Demand(
        always=UNMOVED_BYTES + runtime_bytes(torch.device("cuda")),
        slots=3 * 245_000_000,
        scratch=SCRATCH_BYTES,
        scratch_whole=WHOLE_DECODE_BYTES,
        block=packing.nbytes(block_fields(shape, torch.bfloat16, kind)),
        blocks=shape.blocks,
        text_layer=packing.nbytes(layer_fields(text, torch.bfloat16)),
        text_layers=text.layers,
    )


class _RandomVae:
    """Random tensors of the VAE as `VaeTensors`."""

    def __init__(self, model: Any, scale: float) -> None:
        self.where = EMBEDDED_MODEL / "vae"
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._scale = scale

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith("gamma"):
            return torch.ones(shape)
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 1
        weight: Tensor = torch.randn(shape) * self._scale / fan_in**0.5
        return weight


class RandomSource:
    """Random weights as an `inference_server.model.weights.source.Source`.

    Args:
        configs: FULL or TINY.
        device: where numbers are generated; a GPU generates 13 billion in a second.
    """

    where = Path("random")
    name = "random"
    turbo_lora = ""
    parameters = 20_430_401_088
    schedule = ChosenSchedule(FAMILIES["lightning"], "Lightning's, the most widely used")
    kind: WeightKind | None = None
    stored_kind = WeightKind.BF16

    def __init__(self, configs: dict[str, dict[str, Any]], device: torch.device) -> None:
        self._configs = configs
        self._device = device
        self._shape = TransformerConfig.from_json(configs["transformer"])
        with torch.device("meta"):
            vae: Any = AutoencoderKLQwenImage(**configs["vae"])
        self._vae = _RandomVae(vae, 1.0)
        self._vae_config = json.loads(vae.to_json_string())

    def small_file(self, path: str) -> bytes | None:
        """See `SmallFiles`; only the tokenizer, as the preview's factors are fitted."""
        file = EMBEDDED_MODEL / path
        return file.read_bytes() if path.startswith("tokenizer/") and file.exists() else None

    def config(self, component: str) -> dict[str, Any]:
        """See `Source`."""
        return self._vae_config if component == "vae" else self._configs[component]

    def remarks(self, kind: WeightKind) -> Sequence[Remark]:
        """See `Source`."""
        return ()

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """See `Source`."""
        condition = conditioning(lambda name: self._read(name).cpu(), levels)
        table = ModulationTable.build(config, self._read, condition.to(self._device))
        return Tables(table, condition)

    def edges(self) -> EdgeWeights:
        """See `Source`."""
        return read_edges(self._read)

    def fill_block(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        fill_block(block_views(fields, buffer), index, self._read)

    def text_edges(self) -> TextEdges:
        """See `Source`."""
        width = self._configs["text_encoder"]["hidden_size"]
        return TextEdges(torch.randn(VOCABULARY, width), torch.ones(width))

    def fill_text_layer(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        fill_layer(layer_views(fields, buffer), index, self._read_text)

    def vae(self) -> ComponentWeights:
        """See `Source`."""
        return cast(ComponentWeights, self._vae)

    def _read(self, name: str) -> Tensor:
        """Returns a tensor of the transformer, scaled so that activations survive 60 blocks."""
        c, (module, kind) = self._shape, name.rsplit(".", 1)
        d = c.width
        if "norm" in module and not module.endswith("linear"):
            return torch.ones(c.text_features if module == "txt_norm" else c.head_dim)
        shapes = {
            "linear_1": (d, 256),
            "norm_out.linear": (2 * d, d),
            "img_in": (d, c.in_channels),
            "txt_in": (d, c.text_features),
            "proj_out": (c.output_features, d),
            "net.0.proj": (c.mlp_width, d),
            "net.2": (d, c.mlp_width),
            "mod.1": (6 * d, d),
        }
        rows, columns = next((s for end, s in shapes.items() if module.endswith(end)), (d, d))
        return self._random(kind, rows, columns)

    def _read_text(self, name: str) -> Tensor:
        c = self._configs["text_encoder"]
        d, m = c["hidden_size"], c["intermediate_size"]
        keys = d // c["num_attention_heads"] * c["num_key_value_heads"]
        module, kind = name.rsplit(".", 1)
        if "norm" in module:
            return torch.ones(d)
        shapes = {
            "k_proj": (keys, d),
            "v_proj": (keys, d),
            "gate_proj": (m, d),
            "up_proj": (m, d),
            "down_proj": (d, m),
        }
        rows, columns = next((s for end, s in shapes.items() if module.endswith(end)), (d, d))
        return self._random(kind, rows, columns)

    def _random(self, kind: str, rows: int, columns: int) -> Tensor:
        if kind == "bias":
            return torch.zeros(rows, device=self._device)
        return torch.randn(rows, columns, device=self._device).mul_(0.5 / columns**0.5)
