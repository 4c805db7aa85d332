"""The linear map from latent channels to RGB that step previews use.

A checkpoint may contain it as vae/preview.json. Otherwise it is fitted to the colours that the
decoder gives to flat latents.
"""

from __future__ import annotations

import torch

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.latents import PreviewProjection
from inference_server.model.vae import VaeDecoder
from inference_server.model.weights.checkpoint import SmallFiles
from inference_server.model.weights.model_files import parse_json

FILE = "vae/preview.json"

FLAT_SIZE = 4
"""Edge of a flat sample in latent pixels; its centre is not affected by padding at the border."""


def preview_projection(
    model: SmallFiles, decoder: VaeDecoder, device: torch.device
) -> PreviewProjection:
    """Reads the checkpoint's factors, or fits them.

    Raises:
        ModelError: vae/preview.json exists but cannot be read or does not fit the VAE.
    """
    path = str(model.where / FILE)
    if (text := model.small_file(FILE)) is None:
        return fit(decoder, device)
    content = ConfigValues(path, parse_json(text, path))
    z = decoder.config.z
    rows = [
        ConfigValues(path, {"factors": row}).numbers("factors", 3)
        for row in content.items("factors", most=z)
    ]
    if len(rows) != z:
        raise ModelError(f"{path}: factors has {len(rows)} rows, not {z}")
    factors = torch.tensor(rows, dtype=torch.float32)
    bias = torch.tensor(content.numbers("bias", 3), dtype=torch.float32)
    return PreviewProjection(factors.to(device), bias.to(device))


def fit(decoder: VaeDecoder, device: torch.device) -> PreviewProjection:
    """Fits the projection by least squares to flat latents and the colours they decode to."""
    z, factor = decoder.config.z, decoder.config.spatial_factor
    samples = 4 * z
    vectors = torch.randn((samples, z), generator=torch.Generator("cpu").manual_seed(0)).to(device)
    middle = slice(FLAT_SIZE // 4 * factor, -(FLAT_SIZE // 4) * factor)
    colours = []
    for vector in vectors:
        flat = vector.view(1, z, 1, 1).expand(1, z, FLAT_SIZE, FLAT_SIZE)
        colours.append(decoder.decode(flat)[0, :, middle, middle].float().mean((1, 2)))
    design = torch.cat([vectors, torch.ones(samples, 1, device=device)], dim=1)
    solution = torch.linalg.lstsq(design, torch.stack(colours)).solution
    return PreviewProjection(solution[:-1].contiguous(), solution[-1].contiguous())
