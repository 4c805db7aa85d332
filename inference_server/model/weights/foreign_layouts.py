"""Refuses weight files that the engine cannot use, by what they are.

A file is known by names of its tensors, and variants of Qwen-Image whose tensors are those of
Qwen-Image by the file's name. Each refusal says what would work.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from inference_server.errors import ModelError
from inference_server.model.weights.scale_marks import INSTEAD

_OTHER: Final = "this server generates with Qwen-Image and Qwen-Image-2512"


class _Foreign(NamedTuple):
    what: str
    sign: re.Pattern[str]
    """Matches a part of a tensor's name, or of the file's name in lower case."""
    instead: str


_LAYOUTS: Final = tuple(
    _Foreign(what, re.compile(sign), instead)
    for what, sign, instead in (
        (
            "a LoRA",
            r"[._]lora(_A|_B|_a|_b|_down|_up|\.down|\.up)\b|\.lora_linear_layer\."
            r"|\.(lokr_w|hada_w|oft_|boft_)|\.diff(_b)?$|^(lora_unet|lycoris)_",
            "a few-step LoRA is given with --turbo-lora, any other belongs into the LoRA "
            "manager's folder; --model is a whole model",
        ),
        ("nunchaku's int4 or fp4 layout", r"\.(qweight|wscales|smooth_factor)$", INSTEAD),
        ("bitsandbytes' layout", r"\.(absmax|quant_map|SCB)$|\.quant_state\.", INSTEAD),
        ("an NVFP4 layout", r"\.weight_scale_2$", INSTEAD),
        ("Qwen-Image-Layered", r"time_text_embed\.addition_t_embedding\.", _OTHER),
        ("Qwen-Image-Edit-2511", r"__index_timestep_zero__$", _OTHER),
        ("Qwen-Image-2.1", r"^([\w.]*\.)?txt_in\.in_layer\.weight$", _OTHER),
        ("a ControlNet", r"controlnet_(blocks|x_embedder)", _OTHER),
        ("Flux or HunyuanVideo", r"double_blocks\.\d|single_transformer_blocks\.\d", _OTHER),
        ("Stable Diffusion 3", r"joint_blocks\.\d", _OTHER),
        ("Stable Diffusion", r"input_blocks\.\d|down_blocks\.\d+\.attentions\.", _OTHER),
        ("Wan", r"(^|\.)blocks\.\d+\.cross_attn\.", _OTHER),
        ("Z-Image or Lumina", r"noise_refiner\.|cap_embedder\.", _OTHER),
    )
)
_NAMES: Final = tuple(
    _Foreign(what, re.compile(sign), instead)
    for what, sign, instead in (
        # Files of Qwen-Image-Edit-Rapid-AIO are named Qwen-Rapid-AIO-....
        (
            "Qwen-Image-Edit",
            r"qwen[-_. ]?(image[-_. ]?)?edit|qwen[-_. ]?(image[-_. ]?)?rapid[-_. ]?aio",
            _OTHER,
        ),
        ("Qwen-Image-Layered", r"qwen[-_ ]?image[-_ ]?layered", _OTHER),
        ("Qwen-Image-2.1", r"qwen[-_ ]?image[-_ ]?2[-_.]1(?!\d)", _OTHER),
        ("nunchaku's int4 or fp4 layout", r"svdq|nunchaku", INSTEAD),
        ("an NVFP4 layout", r"nvfp4", INSTEAD),
    )
)
_SIGNS: Final = {
    "transformer": re.compile(r"transformer_blocks\.\d+\.attn\."),
    "text_encoder": re.compile(r"layers\.\d+\.self_attn\.q_proj\."),
    "vae": re.compile(r"^decoder\.conv(_in|1)\.weight$"),
}
"""Component -> a part of a name that only its files hold."""

TITLES: Final = {"transformer": "transformer", "text_encoder": "text encoder", "vae": "VAE"}
"""Component -> its name in messages."""

OPTIONS: Final = {
    "transformer": "--model FILE",
    "text_encoder": "--text-encoder FILE",
    "vae": "--vae FILE",
}
"""Component -> the option that gives its file."""


def refuse_by_name(path: Path) -> None:
    """Refuses a transformer whose file name says that it is another model.

    Raises:
        ModelError: it does.
    """
    name = path.name.lower()
    for foreign in _NAMES:
        if foreign.sign.search(name):
            raise ModelError(
                f"{path} is {foreign.what}, by its name, which this server cannot use: "
                f"{foreign.instead}"
            )


def is_foreign_name(path: Path) -> bool:
    """Returns True if a file name says that it is another model; see `refuse_by_name`."""
    return any(foreign.sign.search(path.name.lower()) for foreign in _NAMES)


def refuse_by_tensors(path: Path, names: Collection[str], component: str) -> None:
    """Refuses a file that is not of a component of Qwen-Image, by its tensors' names.

    Raises:
        ModelError: it is known to be something else.
    """
    for foreign in _LAYOUTS:
        if any(foreign.sign.search(name) for name in names):
            raise ModelError(
                f"{path} is {foreign.what}, which this server cannot use: {foreign.instead}"
            )
    if any(_SIGNS[component].search(name) for name in names):
        return
    title = TITLES[component]
    for other, sign in _SIGNS.items():
        if any(sign.search(name) for name in names):
            raise ModelError(
                f"{path} is a {TITLES[other]}, not a {title}: give it with {OPTIONS[other]}"
            )
    raise ModelError(
        f"{path} holds no {title} of Qwen-Image: none of its {len(names):,} tensors has a name "
        "of one"
    )


def refuse_quantizer(where: Path, component: str, config: dict[str, object]) -> None:
    """Refuses a diffusers folder whose config says that another program quantised its weights.

    Raises:
        ModelError: it does.
    """
    if (how := config.get("quantization_config")) is None:
        return
    method = how.get("quant_method") if isinstance(how, dict) else how
    raise ModelError(
        f"the {TITLES[component]} of {where} was quantised by {str(method)[:40]!r}, "
        f"which this server cannot use: {INSTEAD}"
    )
