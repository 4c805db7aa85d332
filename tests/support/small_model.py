"""A checkpoint of the full architecture that generates an image in a tenth of a second.

Transformer and VAE are random and tiny; text encoder, tokenizer and schedule are those of the
embedded model. Its images are noise, but every byte depends on every adapter.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from inference_server.config import EMBEDDED_MODEL
from tests.support.tiny_model import TRANSFORMER, VAE, randomise

SHARED = ("scheduler", "text_encoder", "tokenizer")


def make_checkpoint(folder: Path, **transformer_config: Any) -> Path:
    """Saves the checkpoint to `folder` and returns it.

    Args:
        folder: a new folder.
        transformer_config: fields of the transformer's config that differ from `TRANSFORMER`.
    """
    folder.mkdir(parents=True)
    for name in SHARED:
        shutil.copytree(EMBEDDED_MODEL / name, folder / name)
    # The embedded text encoder is 192 wide. Five halvings leave 256 tokens of a 1024-pixel image.
    config = TRANSFORMER | {"joint_attention_dim": 192} | transformer_config
    transformer: Any = QwenImageTransformer2DModel(**config)
    vae: Any = AutoencoderKLQwenImage(
        **VAE | {"dim_mult": [1, 1, 1, 2, 2, 2], "temperal_downsample": [False] * 5}
    )
    randomise(transformer, seed=0)
    randomise(vae, seed=1)
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    # Fitting the preview would take half of the start-up time.
    grey = {"factors": [[0.0] * 3] * vae.config.z_dim, "bias": [0.0] * 3}
    (folder / "vae" / "preview.json").write_text(json.dumps(grey), encoding="utf-8")
    return folder
