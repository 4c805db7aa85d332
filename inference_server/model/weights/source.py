"""Sources of a model's weights: the interface that loading reads, and the stock checkpoint.

A stock checkpoint is converted while it is read: the Turbo LoRA is fused, q, k and v are stacked,
timestep-only layers are evaluated. `prepared.PreparedSource` reads the same parts from a prepared
folder. Every part is read on request and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.fused_base import fused_in
from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.schedule_choice import ChosenSchedule, choose
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.vae import VaeConfig
from inference_server.model.weights.checkpoint import Checkpoint, SmallFiles
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.foreign_layouts import refuse_quantizer
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.stock_shapes import check_text_encoder, check_transformer
from inference_server.model.weights.stored_form import Remark, StoredForm
from inference_server.model.weights.text_encoder import fill_layer, layer_views, reader
from inference_server.model.weights.transformer import (
    block_views,
    fill_block,
    matrix_names,
    read_edges,
)
from inference_server.model.weights.turbo_lora import FusedWeights, turbo_files
from inference_server.weight_kind import WeightKind
from wuliart_contract.limits import IMAGE_SIZE


class Tables(NamedTuple):
    """Everything that depends on the timestep alone, on the CPU in float32."""

    modulation: ModulationTable
    conditioning: Tensor
    """silu(temb), [rows, width]."""


class TextEdges(NamedTuple):
    """The text encoder's weights before and after its layers."""

    embedding: Tensor
    """[vocabulary, width]"""
    final_norm: Tensor
    """[width]"""


class Source(SmallFiles, Protocol):
    """The parts of one model.

    Every method raises ModelError if a part is missing, damaged, or of another model.
    """

    name: str
    """Name of its folder or file, without suffix."""
    turbo_lora: str
    """File name of the LoRA that is fused into the base; empty for none."""
    parameters: int
    """Number of the published transformer's parameters."""
    schedule: ChosenSchedule
    """The noise schedule, and why it was chosen."""
    kind: WeightKind | None
    """The only kind in which the blocks' matrices are available; None: any."""
    stored_kind: WeightKind
    """The kind that keeps most of the blocks' matrices as they are stored."""

    def remarks(self, kind: WeightKind) -> Sequence[Remark]:
        """Returns what the operator should know if the matrices are stored in a kind."""

    def config(self, component: str) -> dict[str, Any]:
        """Returns the component's parsed config file."""

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """Returns the tables for these noise levels."""

    def edges(self) -> EdgeWeights:
        """Returns the transformer's weights before and after its blocks, on the CPU as stored."""

    def fill_block(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """Reads a block of the transformer into its flat buffer; see `block_fields`."""

    def text_edges(self) -> TextEdges:
        """Returns the text encoder's weights outside its layers, on the CPU as stored."""

    def fill_text_layer(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """Reads a layer of the text encoder into its flat buffer; see `layer_fields`."""

    def vae(self) -> ComponentWeights:
        """Returns the VAE's tensors by their stock names; kernels may be cut to two dimensions."""


def image_tokens(source: Source) -> int:
    """Returns the number of tokens of an image, from the configs of transformer and VAE.

    Raises:
        ModelError: they do not fit each other.
    """
    config = TransformerConfig.from_json(source.config("transformer"))
    vae = VaeConfig.from_json(source.config("vae"))
    if config.in_channels != vae.z * config.patch**2 or config.patch != 2:
        raise ModelError(
            f"{source.where}: the transformer takes {config.in_channels} channels a token, "
            f"the VAE gives {vae.z} in {config.patch}x{config.patch} patches"
        )
    if IMAGE_SIZE % (vae.spatial_factor * config.patch):
        raise ModelError(
            f"{source.where}: {IMAGE_SIZE} pixels do not divide into patches of "
            f"{vae.spatial_factor * config.patch}"
        )
    return (IMAGE_SIZE // vae.spatial_factor // config.patch) ** 2


class StockSource:
    """A published checkpoint; its Turbo LoRA is fused while it is read.

    Args:
        checkpoint: its files.
        turbo_lora: a LoRA file, or None.
        schedule: as `--schedule` names it; None: what the Turbo LoRA was trained on.

    Raises:
        ModelError: a component is missing, its config and its files do not fit each other, the
            Turbo LoRA does not fit, or its noise levels are not known.
    """

    def __init__(
        self, checkpoint: Checkpoint, turbo_lora: Path | None, schedule: str | None = None
    ) -> None:
        self.where, self.name = checkpoint.where, checkpoint.name
        self.kind: WeightKind | None = None
        self.turbo_lora = turbo_lora.name if turbo_lora else ""
        self._checkpoint = checkpoint
        self._turbo_path = turbo_lora
        for component in ("transformer", "text_encoder"):
            refuse_quantizer(self.where, component, self.config(component))
        self._files = checkpoint.weights("transformer")
        # Only a file's name says so: folders are named by their owners.
        file = checkpoint.files.get("transformer")
        self._fused_base = fused_in(file.name) if file is not None else None
        if self._fused_base is not None and turbo_lora is not None:
            raise self._fused_base.refuse_another(turbo_lora)
        self._fused = FusedWeights(self._files, turbo_lora)
        self._text = checkpoint.weights("text_encoder")
        self._read_text = reader(self._text)
        config = TransformerConfig.from_json(self.config("transformer"))
        check_transformer(config, self._files)
        text_config = TextConfig.from_json(self.config("text_encoder"))
        check_text_encoder(text_config, self._text)
        if text_config.width != config.text_features:
            raise ModelError(
                f"{self._text.where} gives {text_config.width:,} features a token, and the "
                f"transformer takes {config.text_features:,}: they are of different models; "
                "Qwen-Image's text encoder is Qwen2.5-VL 7B"
            )
        self._vae = checkpoint.weights("vae")
        self.parameters = self._files.parameter_count()
        self._stored = StoredForm(self._files, matrix_names(config))
        self.stored_kind = self._stored.kind
        self.schedule = self._choose_schedule(schedule)

    def small_file(self, path: str) -> bytes | None:
        """See `SmallFiles`."""
        return self._checkpoint.small_file(path)

    def config(self, component: str) -> dict[str, Any]:
        """See `Source`."""
        return self._checkpoint.config(component)

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """See `Source`."""
        condition = conditioning(self._fused.read, levels)
        return Tables(ModulationTable.build(config, self._fused.read, condition), condition)

    def edges(self) -> EdgeWeights:
        """See `Source`."""
        return read_edges(self._fused.read)

    def fill_block(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        views = block_views(fields, buffer)
        fill_block(views, index, self._fused.read, self._fused.read_quantized)

    def text_edges(self) -> TextEdges:
        """See `Source`."""
        return TextEdges(self._read_text("embed_tokens.weight"), self._read_text("norm.weight"))

    def fill_text_layer(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        fill_layer(layer_views(fields, buffer), index, self._read_text)

    def vae(self) -> ComponentWeights:
        """See `Source`."""
        return self._vae

    def remarks(self, kind: WeightKind) -> Sequence[Remark]:
        """See `Source`."""
        # The transformer's file is the model's name; those found or given beside it are not.
        others = [
            f"{component.replace('_', ' ')} {path.name}"
            for component, path in sorted(self._checkpoint.files.items())
            if component != "transformer"
        ]
        chosen = [Remark(f"from single files: {', '.join(others)}")] if others else []
        return [*chosen, *self._stored.remarks(kind, self.turbo_lora)]

    def _choose_schedule(self, given: str | None) -> ChosenSchedule:
        """Chooses the schedule of the Turbo LoRA, given or fused into the transformer's file."""
        config, fused = self.config("scheduler"), self._fused_base
        if given is None and fused is not None and (chosen := fused.choose(config)) is not None:
            return chosen
        return choose(given, self._turbo_path, image_tokens(self), config)

    @property
    def paths(self) -> list[Path]:
        """The paths of all weight files, the Turbo LoRA's last."""
        files = (self._files, self._text, self._vae)
        paths = sorted({path for part in files for path in part.paths})
        return [*paths, *turbo_files(self._turbo_path)] if self._turbo_path else paths
