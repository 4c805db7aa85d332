"""Generates images step by step on one device: encode, begin, step, decode.

The engine checks latents and pixels for non-finite values, so a broken model or adapter becomes an
error that names the step instead of a black image. It is not thread-safe: the device thread calls
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from inference_server.engine import jpeg
from inference_server.engine.latent_image import LatentImage
from inference_server.engine.loaded_model import LoadedModel
from inference_server.engine.prompt_cache import PromptCache, PromptEmbedding
from inference_server.errors import RequestError
from inference_server.model.host_to_device import copy_to_device
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.latents import noise, pack, to_bytes, unpack
from inference_server.model.prompt import PREFIX_TOKENS
from inference_server.model.tiles import decode_in_tiles
from inference_server.model.transformer import ImageInputs
from wuliart_contract.status import Reason


class Engine:
    """Generates images with one loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._prompts = PromptCache()

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Generates an image at every prompt length, so that all libraries choose their kernels."""
        m = self.model
        some = self.encode("warm-up").states[:1]
        for tokens in m.transformer.prompt_lengths:
            rotation = m.transformer.text_rotation(tokens)
            prompt = PromptEmbedding(some.expand(tokens, -1).contiguous(), rotation, tokens, 0)
            image = self.begin(prompt, 0, 1)
            self.step([image])
            self.check_finite(image)
        jpeg.encode_image(self.decode(image))
        self.rest()

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEmbedding:
        """Returns the prompt's embedding, from the cache if it is there."""
        embedding = self._prompts.get(prompt)
        return embedding or _run(self._encode_layer_by_layer(prompt))

    def is_encoded(self, prompt: str) -> bool:
        """Returns True if the prompt's embedding is in the cache."""
        return prompt in self._prompts

    def _encode_layer_by_layer(self, prompt: str) -> Generator[None, None, PromptEmbedding]:
        """Encodes a prompt into the cache, pausing after each layer."""
        tokenized = self.model.tokenizer.tokenize(prompt)
        states = yield from self.model.text_encoder.layer_by_layer(tokenized.ids)
        embedding = PromptEmbedding(
            states[PREFIX_TOKENS:].clone(),  # a view would keep the template's hidden states too
            self.model.transformer.text_rotation(tokenized.used),
            tokenized.used,
            tokenized.ignored,
        )
        self._prompts.put(prompt, embedding)
        return embedding

    @torch.inference_mode()
    def begin(
        self,
        prompt: PromptEmbedding,
        seed: int,
        steps: int,
        *,
        adapters: Sequence[GatedAdapter] = (),
    ) -> LatentImage:
        """Returns an image at its initial noise.

        Args:
            prompt: from `encode`.
            seed: 0 to 2**64 - 1.
            steps: one of the schedule's step counts.
            adapters: their tensors must not change until the image's last step is done.
        """
        m = self.model
        m.transformer.blocks.allocate_cache()
        start = pack(noise(seed, m.vae.config.z, m.latent_size, m.latent_size))
        return LatentImage(
            prompt,
            sigmas=m.schedules.sigmas[steps],
            modulation=m.modulation.select(m.schedules.row_of[steps], adapters, m.dtype),
            adapters=adapters,
            latents=copy_to_device(start, m.device),
        )

    @torch.inference_mode()
    def step(self, images: Sequence[LatentImage], prompts: Sequence[str] = ()) -> None:
        """Runs the next step of every image, each at its own noise level.

        An Euler step of the flow: x' = x + (sigma' - sigma) * v; the clean latents are
        x - sigma * v.

        Args:
            images: at least one.
            prompts: prompts of later images, encoded between the blocks: where weights are
                streamed, the text encoder's copies and the blocks' take turns behind the compute.
        """
        work = chain.from_iterable(map(self._encode_layer_by_layer, prompts))
        layers = len(prompts) * self.model.text_encoder.config.layers
        layers_per_block = -(-layers // self.model.transformer.config.blocks)

        def encode_some() -> None:
            deque(islice(work, layers_per_block), maxlen=0)

        velocities = self.model.transformer.forward(
            [
                ImageInputs(
                    image.latents.to(self.model.dtype),
                    image.prompt.states,
                    image.prompt.rotation,
                    image.modulation[image.step],
                    image.adapters,
                )
                for image in images
            ],
            encode_some,
        )
        deque(work, maxlen=0)
        for image, velocity in zip(images, velocities, strict=True):
            sigma, following = image.sigmas[image.step : image.step + 2]
            v = velocity.float()
            image.clean = torch.add(image.latents, v, alpha=-sigma)
            image.latents = torch.add(image.latents, v, alpha=following - sigma)
            image.step += 1

    @torch.inference_mode()
    def check_finite(self, image: LatentImage) -> None:
        """Waits for the image's last step and checks its latents.

        Raises:
            RequestError: NON_FINITE, naming the step.
        """
        if not torch.isfinite(image.latents).all():
            raise _non_finite(f"step {image.step} of {image.total_steps}", image)

    def rest(self) -> None:
        """Frees device memory that only generating needs; call it when no image is in progress."""
        on_gpu = self.model.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.model.device)
        self.model.transformer.blocks.release_cache()
        self.model.text_encoder.layers.fetch_ahead()
        if on_gpu:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def preview(self, image: LatentImage) -> Tensor:
        """Returns the image as it looks so far.

        Returns:
            [latent size, latent size, 3] uint8 on the CPU.
        """
        size = self.model.latent_size
        return self.model.preview(unpack(image.clean, size, size)).cpu()

    @torch.inference_mode()
    def decode(self, image: LatentImage) -> Tensor:
        """Decodes the latents.

        Returns:
            [1024, 1024, 3] uint8, on the device where `encode_image` takes it.

        Raises:
            RequestError: NON_FINITE, naming the decode.
        """
        size = self.model.latent_size
        vae, latents = self.model.vae, unpack(image.latents, size, size)
        if self.model.plan.tiles:
            pixels = decode_in_tiles(vae.decode, latents, vae.config.spatial_factor)[0]
        else:
            pixels = vae.decode(latents)[0]
        if not torch.isfinite(pixels).all():
            raise _non_finite("the decode", image)
        rgb = to_bytes(pixels.permute(1, 2, 0))
        return rgb if jpeg.on_gpu() else rgb.cpu()


def _run(encode: Generator[None, None, PromptEmbedding]) -> PromptEmbedding:
    """Runs an encode to its end without pauses."""
    try:
        while True:
            next(encode)
    except StopIteration as end:
        embedding: PromptEmbedding = end.value
        return embedding


def _non_finite(where: str, image: LatentImage) -> RequestError:
    advice = (
        "one of its adapters may be broken: generate again without them"
        if image.adapters
        else "this is a fault of the model or the device: see the server's log"
    )
    return RequestError(
        Reason.NON_FINITE,
        f"the model produced a non-finite value in {where}, so there is no image; {advice}",
        metadata={"stage": where},
    )
