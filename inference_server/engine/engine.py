"""Generates one image step by step.

Owns the life of one image's tensors, the cache of prompt embeddings and the promise that no
image is ever black by accident: a non-finite value is an error that names the step. Knows nothing
of queues, slots or gRPC. Not thread-safe: one device thread calls it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from inference_server.engine import jpeg
from inference_server.engine.loaded_model import LoadedModel
from inference_server.engine.prompt_embedding import PROMPT_CACHE_BYTES, PromptEmbedding
from inference_server.errors import RequestError
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.latents import noise, pack, to_bytes, unpack
from inference_server.model.offload.pinned_memory import sent
from inference_server.model.prompt import PREFIX_TOKENS
from inference_server.model.tiles import decode_in_tiles
from inference_server.model.transformer import ImageInputs, StepModulation
from wuliart_contract.status import Reason


class Drawing:
    """One image between its noise and its pixels."""

    def __init__(
        self,
        prompt: PromptEmbedding,
        sigmas: Sequence[float],
        modulation: Sequence[StepModulation],
        adapters: Sequence[GatedAdapter],
        latents: Tensor,
    ) -> None:
        self.prompt = prompt
        self.sigmas = sigmas
        self.modulation = modulation
        self.adapters = adapters
        self.latents = latents
        """[tokens, channels], packed, float32: rounding to bf16 between steps would add up."""
        self.clean = latents
        """The clean latents predicted by the last step; what previews show."""
        self.step = 0

    @property
    def total_steps(self) -> int:
        """Steps this image takes."""
        return len(self.sigmas) - 1


class Engine:
    """Generates images on one device with one loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._prompts: OrderedDict[str, PromptEmbedding] = OrderedDict()
        self._prompt_bytes = 0

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Generates what makes every library choose its kernels: nobody should wait for that
        later.
        """
        m = self.model
        some = self.encode("warm-up").states[:1]
        for tokens in m.transformer.prompt_lengths:
            rotation = m.transformer.text_rotation(tokens)
            prompt = PromptEmbedding(some.expand(tokens, -1).contiguous(), rotation, tokens, 0)
            drawing = self.begin(prompt, 0, 1)
            self.step([drawing])
            self.check(drawing)
        jpeg.encode_image(self.decode(drawing))
        self.rest()

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEmbedding:
        """The prompt's embedding, from the cache if it was used lately."""
        if prompt in self._prompts:
            self._prompts.move_to_end(prompt)
        else:
            deque(self._encoding(prompt), maxlen=0)
        return self._prompts[prompt]

    def encoded(self, prompt: str) -> bool:
        """Whether `encode` would find it in the cache."""
        return prompt in self._prompts

    def _encoding(self, prompt: str) -> Iterator[None]:
        """Puts a prompt's embedding into the cache, pausing after each layer."""
        tokenized = self.model.tokenizer.tokenize(prompt)
        states = yield from self.model.text_encoder.layer_by_layer(tokenized.ids)
        embedding = PromptEmbedding(
            states[PREFIX_TOKENS:].clone(),  # the clone lets the template's hidden states go
            self.model.transformer.text_rotation(tokenized.used),
            tokenized.used,
            tokenized.ignored,
        )
        self._prompts[prompt] = embedding
        self._prompt_bytes += embedding.nbytes
        while self._prompt_bytes > PROMPT_CACHE_BYTES:
            _, oldest = self._prompts.popitem(last=False)
            self._prompt_bytes -= oldest.nbytes

    @torch.inference_mode()
    def begin(
        self, prompt: PromptEmbedding, seed: int, steps: int, adapters: Sequence[GatedAdapter] = ()
    ) -> Drawing:
        """An image at its noise.

        Args:
            prompt: from `encode`.
            seed: 0 to 2**64 - 1.
            steps: one of the schedule's step counts.
            adapters: whose tensors must stay untouched until the image's last step is done.
        """
        m = self.model
        m.transformer.blocks.take_headroom()
        rows = m.schedules.row_of[steps]
        start = pack(noise(seed, m.vae.config.z, m.latent_size, m.latent_size))
        return Drawing(
            prompt,
            m.schedules.sigmas[steps],
            m.modulation.select(rows, adapters, m.dtype),
            adapters,
            sent(start, m.device),
        )

    @torch.inference_mode()
    def step(self, drawings: Sequence[Drawing], prompts: Sequence[str] = ()) -> None:
        """Runs the next step of every image, each at its own noise level.

        x' = x + (sigma' - sigma) * v; the clean latent is x - sigma * v.

        Args:
            drawings: at least one.
            prompts: of images to come. They are encoded between the blocks: where weights are
                streamed, their copies and the blocks' take turns behind the compute.
        """
        work = chain.from_iterable(map(self._encoding, prompts))
        layers = len(prompts) * self.model.text_encoder.config.layers
        each = -(-layers // self.model.transformer.config.blocks)

        def encode_some() -> None:
            deque(islice(work, each), maxlen=0)

        velocities = self.model.transformer.forward(
            [
                ImageInputs(
                    drawing.latents.to(self.model.dtype),
                    drawing.prompt.states,
                    drawing.prompt.rotation,
                    drawing.modulation[drawing.step],
                    drawing.adapters,
                )
                for drawing in drawings
            ],
            encode_some,
        )
        deque(work, maxlen=0)
        for drawing, velocity in zip(drawings, velocities, strict=True):
            sigma, following = drawing.sigmas[drawing.step : drawing.step + 2]
            v = velocity.float()
            drawing.clean = torch.add(drawing.latents, v, alpha=-sigma)
            drawing.latents = torch.add(drawing.latents, v, alpha=following - sigma)
            drawing.step += 1

    @torch.inference_mode()
    def check(self, drawing: Drawing) -> None:
        """Waits for the image's last step and looks at what it made.

        Raises:
            RequestError: NON_FINITE, naming the step.
        """
        if not torch.isfinite(drawing.latents).all():
            raise _non_finite(f"step {drawing.step} of {drawing.total_steps}", drawing)

    def rest(self) -> None:
        """No image is being generated or waits: gives back to the device what only generating
        needs.
        """
        on_gpu = self.model.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.model.device)
        self.model.transformer.blocks.give_back_headroom()
        self.model.text_encoder.layers.fetch_ahead()
        if on_gpu:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def preview(self, drawing: Drawing) -> Tensor:
        """[latent size, latent size, 3] uint8 on the CPU: roughly what the image will be."""
        size = self.model.latent_size
        return self.model.preview(unpack(drawing.clean, size, size)).cpu()

    @torch.inference_mode()
    def decode(self, drawing: Drawing) -> Tensor:
        """[1024, 1024, 3] uint8, where `encode_image` takes it.

        Raises:
            RequestError: NON_FINITE, naming the decode.
        """
        size = self.model.latent_size
        vae, latents = self.model.vae, unpack(drawing.latents, size, size)
        if self.model.plan.tiles:
            pixels = decode_in_tiles(vae.decode, latents, vae.config.spatial_factor)[0]
        else:
            pixels = vae.decode(latents)[0]
        if not torch.isfinite(pixels).all():
            raise _non_finite("the decode", drawing)
        image = to_bytes(pixels.permute(1, 2, 0))
        return image if jpeg.on_gpu() else image.cpu()


def _non_finite(where: str, drawing: Drawing) -> RequestError:
    advice = (
        "one of its adapters may be broken: generate again without them"
        if drawing.adapters
        else "this is a fault of the model or the device: see the server's log"
    )
    return RequestError(
        Reason.NON_FINITE,
        f"the model produced a non-finite value in {where}, so there is no image; {advice}",
        metadata={"stage": where},
    )
