"""Every program that writes adapters for Qwen-Image, form by form, and what its files mean.

`TABLE` has one row for each form: keys, alpha, element type, metadata, what lies beside the file,
and what is expected of it. `writer_files` makes the files and the table of docs/adapters.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from tests.support.lora_files import module_features
from tests.support.other_forms import written_path
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT: Final = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES: Final = module_features(LAYOUT)
Q, OUT = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0"
MODULATION, NORM = "transformer_blocks.1.img_mod.1", "transformer_blocks.0.attn.norm_q"
RANK, HADA_RANK, KRON_RANK = 16, 4, 2

AB = (".lora_A.weight", ".lora_B.weight")
AB_DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")
HADA = (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b")
KRON = (".lokr_w1", ".lokr_w2")
KRON_SECOND = (".lokr_w1", ".lokr_w2_a", ".lokr_w2_b")
KRON_BOTH = (".lokr_w1_a", ".lokr_w1_b", ".lokr_w2_a", ".lokr_w2_b")

TRANSFORMER, COMFY, BARE = "transformer.{m}", "diffusion_model.{m}", "{m}"
PEFT, KOHYA, LYCORIS = "base_model.model.{m}", "lora_unet_{f}", "lycoris_{f}"


@dataclass(frozen=True)
class Form:
    """What one program writes."""

    writer: str
    form: str
    """What tells it from the writer's other forms; begins with the method."""
    path: str
    """A module's path in its keys: `{m}` is the path, `{f}` the same underscored."""
    _: KW_ONLY
    parts: tuple[str, ...] = AB
    """What follows the path in the names of a module's tensors."""
    scale: float = 1.0
    """What the factors' product is multiplied by, as the writer's own code computes it."""
    alpha: float | None = None
    """Value of its `.alpha` tensors, None for none."""
    alpha_dtype: str = "F32"
    alpha_elsewhere: str = ""
    """Where alpha is if it is not in tensors, for the table."""
    dtype: str = "BF16"
    ranks: tuple[int, ...] = (RANK,)
    """Of low-rank factors, by module in turn."""
    modules: tuple[str, ...] = (Q, OUT)
    metadata: Mapping[str, Any] | None = field(default_factory=dict)
    """The header's; None writes null."""
    sidecar: Mapping[str, Any] | None = None
    """adapter_config.json beside the file."""
    folded: float = 1.0
    """Both factors are already multiplied by the root of this."""
    more: Mapping[str, tuple[float, tuple[int, ...]]] = field(default_factory=dict)
    """Further tensors by name: the value of all their elements, and their shapes."""
    biases: bool = False
    """True for a `.diff_b` of every module, and a `.diff` of a norm."""
    refused: str = ""
    """Pattern of the reason if it is not read."""
    note: str = ""
    """What the adapter's notes say, empty for nothing."""


def config(**fields: Any) -> dict[str, str]:
    """Returns the header that diffusers writes."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in fields.items()})}


TRAINED = {
    "ss_network_module": "networks.lora_qwen_image",
    "ss_network_dim": str(RANK),
    "ss_network_alpha": "1",
    "ss_base_model_version": "qwen_image",
    "sshs_model_hash": "00" * 32,
    "modelspec.architecture": "Qwen-Image/lora",
}
"""musubi-tuner's notes, which its converter keeps although they are true no more."""
OT = {"ot_config": '{"lora_rank": 16, "lora_alpha": 1.0}', "ot_branch": "master"}
TE = "text_encoders.qwen25_7b.transformer.layers.0.q_proj"


def parts_of(name: str, shape: tuple[int, ...] = (), value: float = 0.1, path: str = BARE) -> Any:
    """Returns a further tensor beside the first module's."""
    return {written_path(path, Q) + name: (value, shape)}


def other_layer(base: str, parts: tuple[str, str], value: float) -> Any:
    """Returns the factors of a layer outside of the adapters' modules, whose second is `value`."""
    return {base + parts[0]: (0.1, (RANK, 64)), base + parts[1]: (value, (64, RANK))}


TIMESTEP = "diffusion_model.time_text_embed.timestep_embedder.linear_1"
IGNORED = "ignored text encoder weights"
R16: dict[str, Any] = {"r": RANK, "peft_type": "LORA"}

TABLE: Final = (
    # -- published Turbo LoRAs
    Form("lightx2v Lightning", "LoRA", path=BARE, parts=DOWN_UP, alpha=8, scale=0.5,
         dtype="F32", metadata={"format": "pt"}),
    Form("Wuli-art Turbo", "LoRA", path=COMFY, modules=(Q, OUT, MODULATION)),
    # -- trainers
    Form("ai-toolkit", "LoRA", path=COMFY, dtype="F16",
         modules=(Q, OUT, MODULATION),
         metadata={"ss_tag_frequency": '{"1_ink": {"ink": 1}}', "ss_output_name": "ink",
                   "software": '{"name": "ai-toolkit"}'}),
    Form("ai-toolkit", "LoRA in bf16", path=COMFY),
    Form("ai-toolkit", "LoKr, whole", path=COMFY, parts=KRON, dtype="F16",
         alpha=math.inf, alpha_dtype="F16"),
    Form("ai-toolkit", "LoKr, whole, in bf16", path=COMFY, parts=KRON,
         alpha=9_999_999_999, alpha_dtype="BF16"),
    Form("ai-toolkit", "LoKr, whole, old keys", path=LYCORIS, parts=KRON,
         alpha=9_999_999_999),
    Form("ai-toolkit", "LoKr, w2 in two", path=COMFY, parts=KRON_SECOND, alpha=1,
         scale=0.5, dtype="F16"),
    Form("ai-toolkit", "LoKr, both in two", path=COMFY, parts=KRON_BOTH, alpha=4,
         scale=2),
    Form("ai-toolkit", "DoRA", path=COMFY,
         more=parts_of(".magnitude", (64,), path=COMFY), refused="DoRA magnitudes"),
    Form("ai-toolkit", "LoRA and differences of biases and norms", path=COMFY,
         biases=True),
    Form("ai-toolkit", "difference of a whole matrix", path=COMFY,
         more=parts_of(".diff", (64, 64), path=COMFY), refused="full weight differences"),
    Form("ai-toolkit", "lora_A alone", path=COMFY, parts=AB[:1],
         refused="no up weights"),
    Form("musubi-tuner", "LoRA", path=KOHYA, parts=DOWN_UP, alpha=1,
         scale=1 / RANK, dtype="F32", metadata=TRAINED),
    Form("musubi-tuner", "LoRA, --no_metadata", path=KOHYA, parts=DOWN_UP, alpha=1,
         alpha_dtype="BF16", scale=1 / RANK,
         metadata={"ss_network_module": "x", "ss_network_dim": "16", "ss_network_alpha": "1"}),
    Form("musubi-tuner", "LoHa", path=KOHYA, parts=HADA, alpha=1, scale=0.25,
         dtype="F32"),
    Form("musubi-tuner", "LoKr, w2 in two", path=KOHYA, parts=KRON_SECOND, alpha=1,
         scale=0.5, dtype="F32"),
    Form("musubi-tuner", "LoKr, whole", path=KOHYA, parts=KRON, alpha=1),
    *(
        Form("musubi-tuner convert_lora", f"LoRA, {name}", path=path, parts=parts,
             dtype="F32", metadata=TRAINED, folded=1 / RANK,
             alpha_elsewhere="in the factors; a stale `ss_network_alpha` is left out")
        for name, path, parts in (
            ("for ComfyUI", COMFY, AB), ("for diffusers", TRANSFORMER, AB_DEFAULT),
            ("without a prefix", BARE, AB),
        )
    ),
    Form("musubi-tuner convert_lora", "LoRA, and back", path=KOHYA, parts=DOWN_UP,
         alpha=RANK, alpha_dtype="I64", dtype="F32", metadata=TRAINED, folded=1 / RANK),
    Form("musubi-tuner", "LoRA, 5 MB of tags in the header", path=KOHYA,
         parts=DOWN_UP, alpha=1, scale=1 / RANK,
         metadata={"ss_tag_frequency": json.dumps({"set": {"t" * 5_000_000: 1}})}),
    Form("diffusion-pipe", "LoRA", path=COMFY,
         sidecar={**R16, "lora_alpha": RANK}, alpha_elsewhere="`adapter_config.json`: = rank"),
    *(
        Form("diffusion-pipe", f"LoKr, {form}", path=COMFY, parts=parts,
             sidecar={"peft_type": "LOKR", "r": KRON_RANK, "alpha": KRON_RANK},
             alpha_elsewhere="`adapter_config.json`: = rank")
        for form, parts in (("w2 in two", KRON_SECOND), ("whole", KRON))
    ),
    Form("DiffSynth-Studio", "LoRA", path=BARE, parts=AB_DEFAULT),
    Form("DiffSynth-Studio", "LoRA, with its pipeline", path="pipe.dit.{m}",
         parts=AB_DEFAULT),
    Form("flymyai", "LoRA", path=TRANSFORMER),
    Form("diffusers", "LoRA", path=TRANSFORMER, scale=2,
         metadata=config(r=RANK, lora_alpha=32),
         alpha_elsewhere="header `lora_adapter_metadata`"),
    Form("diffusers", "LoRA, rsLoRA", path=TRANSFORMER, dtype="F32",
         scale=32 / math.sqrt(RANK), metadata=config(r=RANK, lora_alpha=32, use_rslora=True),
         alpha_elsewhere="header `lora_adapter_metadata`"),
    Form("diffusers", "LoRA, patterns", path=TRANSFORMER, scale=4,
         metadata=config(r=8, lora_alpha=1, rank_pattern={"attn.to_q": RANK, "to_out.0": RANK},
                         alpha_pattern={"attn.to_q": 64, "to_out.0": 64}),
         alpha_elsewhere="header `lora_adapter_metadata`"),
    Form("diffusers", "LoRA, null metadata", path=TRANSFORMER, metadata=None),
    Form("diffusers before peft", "LoRA", path=BARE, dtype="F32",
         parts=(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")),
    Form("diffusers before peft", "LoRA, processors", dtype="F32", modules=(Q,),
         path="transformer_blocks.0.attn.processor.to_q",
         parts=("_lora.down.weight", "_lora.up.weight")),
    Form("peft save_pretrained", "LoRA", path=PEFT, scale=2, dtype="F32",
         sidecar={**R16, "lora_alpha": 32}, alpha_elsewhere="`adapter_config.json`"),
    Form("peft save_pretrained", "LoRA, rsLoRA", path=PEFT, scale=1, dtype="F32",
         sidecar={**R16, "lora_alpha": 4, "use_rslora": True},
         alpha_elsewhere="`adapter_config.json`"),
    Form("peft save_pretrained", "LoHa", path=PEFT, parts=HADA, scale=2,
         dtype="F32", sidecar={"peft_type": "LOHA", "r": HADA_RANK, "alpha": 8},
         alpha_elsewhere="`adapter_config.json`"),
    Form("peft save_pretrained", "LoKr, w2 in two", path=PEFT, parts=KRON_SECOND,
         scale=4, dtype="F32", sidecar={"peft_type": "LOKR", "r": KRON_RANK, "alpha": 8},
         alpha_elsewhere="`adapter_config.json`"),
    Form("peft save_pretrained", "DoRA", path=PEFT,
         sidecar={**R16, "lora_alpha": 32, "use_dora": True},
         more=parts_of(".lora_magnitude_vector", (64,), path=PEFT), refused="DoRA magnitudes"),
    Form("peft save_pretrained", "OFT", path=PEFT, parts=(),
         more=parts_of(".oft_R.weight", (4, 6), path=PEFT), refused="OFT rotations"),
    Form("peft save_pretrained", "BOFT", path=PEFT, parts=(),
         more=parts_of(".boft_R", (1, 8, 8, 8), path=PEFT), refused="BOFT rotations"),
    Form("peft state dict", "LoRA, an adapter named ink_v2", path=PEFT, dtype="F32",
         parts=(".lora_A.ink_v2.weight", ".lora_B.ink_v2.weight")),
    Form("SimpleTuner", "LoRA", path=TRANSFORMER, scale=2,
         metadata={**config(r=RANK, lora_alpha=32), "trained_words": "ink"},
         alpha_elsewhere="header `lora_adapter_metadata`"),
    Form("SimpleTuner", "LoRA of 2025", path=TRANSFORMER,
         parts=(".lora.down.weight", ".lora.up.weight")),
    Form("SimpleTuner", "LoRA, comfyui", path=COMFY, alpha=32, scale=2,
         metadata={"modelspec.title": "Ink"}),
    Form("SimpleTuner", "LyCORIS LoRA", path=LYCORIS, parts=DOWN_UP, alpha=1,
         alpha_dtype="BF16", scale=1 / RANK,
         metadata={"lycoris_config": '{"algo": "lora", "linear_dim": 16, "linear_alpha": 1}'}),
    Form("SimpleTuner", "LyCORIS LoHa", path=LYCORIS, parts=HADA, alpha=1,
         scale=0.25),
    Form("SimpleTuner", "LyCORIS LoKr, whole", path=LYCORIS, parts=KRON, alpha=1),
    Form("OneTrainer", "LoRA", path=TRANSFORMER, folded=1 / RANK, metadata=OT,
         alpha_elsewhere="in the factors"),
    Form("OneTrainer", "LoRA, COMFY", path=COMFY, alpha=1, scale=1 / RANK),
    Form("OneTrainer", "LoRA, ORIGINAL", path=BARE, parts=DOWN_UP, alpha=1,
         alpha_dtype="BF16", scale=1 / RANK),
    Form("OneTrainer", "LoRA, KOHYA", path=KOHYA, parts=DOWN_UP, alpha=1,
         scale=1 / RANK, dtype="F32"),
    Form("OneTrainer", "LoRA, LEGACY", path=TRANSFORMER, parts=DOWN_UP, alpha=1,
         scale=1 / RANK, metadata=OT),
    Form("OneTrainer", "LoHa", path=KOHYA, parts=HADA, alpha=1, scale=0.25),
    Form("OneTrainer", "LoKr, whole", path=COMFY, parts=KRON, alpha=KRON_RANK, alpha_dtype="BF16"),
    Form("OneTrainer", "LoKr, w2 in two", path=TRANSFORMER, parts=KRON_SECOND, alpha=1,
         scale=1 / KRON_RANK),
    Form("OneTrainer", "LoKr, both in two", path=KOHYA, parts=KRON_BOTH, alpha=1,
         scale=1 / KRON_RANK),
    Form("OneTrainer", "LoKr with DoRA", path=KOHYA, parts=KRON, alpha=KRON_RANK,
         more=parts_of(".dora_scale", (1, 64), path=KOHYA), refused="DoRA magnitudes"),
    Form("OneTrainer", "DoRA", path=TRANSFORMER,
         more=parts_of(".dora_scale", (64, 1), path=TRANSFORMER), refused="DoRA magnitudes"),
    Form("OneTrainer", "OFT", path=TRANSFORMER, parts=(),
         more=parts_of(".oft_R.weight", (4, 6), path=TRANSFORMER), refused="OFT rotations"),
    *(
        Form("OneTrainer", f"LoRA and a text encoder, {name}{kind}", path=path,
             parts=parts, more=other_layer(base, parts, value), refused=refused, note=note)
        for kind, value, refused, note in (
            (", not trained", 0.0, "", IGNORED), ("", 0.1, "text encoder weights", ""),
        )
        for name, path, parts, base in (
            ("diffusers", TRANSFORMER, AB, "text_encoder.layers.0.q_proj"),
            ("COMFY", COMFY, AB, TE),
            ("KOHYA", KOHYA, DOWN_UP, "lora_te_layers_0_self_attn_q_proj"),
        )
    ),
    Form("LightX2V trainer", "LoRA", path=TRANSFORMER),
    Form("LightX2V", "LoRA, published", path=TRANSFORMER, scale=0.5,
         metadata={"alpha": "8"}, alpha_elsewhere="header `alpha`"),
    Form("ComfyUI TrainLoRA", "LoRA and differences of biases and norms",
         path=COMFY, parts=DOWN_UP, alpha=1, scale=1 / RANK, dtype="F32", biases=True),
    Form("ComfyUI TrainLoRA", "LoRA of every layer", path=COMFY, parts=DOWN_UP, alpha=1,
         scale=1 / RANK, more=other_layer(TIMESTEP, DOWN_UP, 0.1),
         refused="changes of the timestep embedding"),
    Form("ComfyUI TrainLoRA", "LoRA of every layer, that one not trained", path=COMFY,
         parts=DOWN_UP, alpha=1, scale=1 / RANK, more=other_layer(TIMESTEP, DOWN_UP, 0.0),
         note="ignored changes of the timestep embedding"),
    Form("ComfyUI TrainLoRA", "LoKr, whole", path=COMFY, parts=KRON, alpha=1,
         biases=True),
    Form("ComfyUI TrainLoRA", "LoHa", path=COMFY, parts=HADA, alpha=1, scale=0.25,
         dtype="F32"),
    Form("ComfyUI extract", "LoRA, a rank for each layer", path=COMFY,
         parts=DOWN_UP, dtype="F16", ranks=(RANK, 5)),
    Form("any, converted", "LoRA in fp8 (e4m3)", path=KOHYA, parts=DOWN_UP,
         alpha=1, alpha_dtype="F8_E4M3", scale=1 / RANK, dtype="F8_E4M3", metadata=TRAINED),
    Form("any, converted", "LoRA in fp8 (e5m2)", path=COMFY, dtype="F8_E5M2"),
    Form("scripts", "LoRA, lora_rank and lora_alpha", path=TRANSFORMER, scale=2,
         metadata={"lora_rank": "16", "lora_alpha": "32"}, alpha_elsewhere="header"),
    Form("scripts", "LoRA, network_dim and network_alpha", path=TRANSFORMER,
         scale=2, metadata={"network_dim": "16", "network_alpha": "32"},
         alpha_elsewhere="header"),
    # -- wrappers
    Form("torch.compile", "LoRA", path="transformer._orig_mod.{m}"),
    Form("torch.compile", "LoRA, kohya's keys", path="lora_unet__orig_mod_{f}",
         parts=DOWN_UP, alpha=1, scale=1 / RANK),
    Form("data parallel", "LoRA", path="module.{m}"),
    Form("data parallel", "LoRA, kohya's keys", path="lora_unet_module_{f}",
         parts=DOWN_UP, alpha=1, scale=1 / RANK),
    Form("FSDP, checkpointing", "LoRA",
         path="_fsdp_wrapped_module._checkpoint_wrapped_module.{m}"),
)  # fmt: skip
