"""Names of Wan's own VAE files, which ComfyUI's `qwen_image_vae` has, in diffusers' terms.

Only what decodes is named: the encoder is never read.
"""

from __future__ import annotations

import re
from typing import Final

SIGN: Final = "decoder.conv1.weight"
"""A tensor that only files with these names hold."""

_PLACES: Final = {
    "conv2": "post_quant_conv",
    "decoder.conv1": "decoder.conv_in",
    "decoder.middle.0": "decoder.mid_block.resnets.0",
    "decoder.middle.1": "decoder.mid_block.attentions.0",
    "decoder.middle.2": "decoder.mid_block.resnets.1",
    "decoder.head.0": "decoder.norm_out",
    "decoder.head.2": "decoder.conv_out",
}
_LAYERS: Final = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_UPSAMPLE: Final = re.compile(r"decoder\.upsamples\.(\d{1,3})\.(.+)")


def diffusers_name(name: str, res_blocks: int) -> str | None:
    """Returns the name of a tensor in the diffusers checkpoint; None for what is not read.

    Args:
        name: in Wan's file.
        res_blocks: the config's `num_res_blocks`. A level has one block more, then an upsampler,
            numbered through all levels.
    """
    if match := _UPSAMPLE.fullmatch(name):
        level, position = divmod(int(match[1]), res_blocks + 2)
        kind = "resnets" if position <= res_blocks else "upsamplers"
        number = position if position <= res_blocks else 0
        return _with_layer(f"decoder.up_blocks.{level}.{kind}.{number}", match[2])
    for place, known in _PLACES.items():
        if name.startswith(f"{place}."):
            return _with_layer(known, name.removeprefix(f"{place}."))
    return None


def _with_layer(path: str, rest: str) -> str:
    for layer, known in _LAYERS.items():
        if rest.startswith(f"{layer}."):
            return f"{path}.{known}.{rest.removeprefix(f'{layer}.')}"
    return f"{path}.{rest}"
