"""Packs an adapter into the bytes of one slot, as the slot's layout says.

Packing stacks and transposes factors, pads them to one rank, rounds them to the slot's element
type, and turns what changes timestep-only layers into rows of their tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from wuliart_lora import LoraAdapter, LoraError
from wuliart_lora.slot_contents import SlotContents, contents_of
from wuliart_lora.slot_layout import (
    DeltaSite,
    KroneckerShapes,
    LowRankSite,
    SegmentLayout,
    VectorSite,
)
from wuliart_lora.threads import in_threads

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SlotImage:
    """The content of a slot, and what the server needs to read it.

    `data` is uint8 [written_bytes]: the slot from its first byte to the end of its last region.
    `packed_rank` is the rank of every low-rank region, 0 without any. `sites` are the layout's
    sites the adapter acts on, in the layout's order, `kronecker` the modules with a product of
    their own. `checksum` is the XXH3-128 of `data`, 16 bytes big endian.
    """

    data: npt.NDArray[np.uint8]
    packed_rank: int
    sites: tuple[str, ...]
    kronecker: KroneckerShapes
    checksum: bytes


def module_shapes(layout: SegmentLayout) -> dict[str, tuple[int, int]]:
    """Returns module path -> (in_features, out_features) of every linear layer in the layout."""
    width = layout.parameters.width
    return {
        module: (site.in_features if isinstance(site, LowRankSite) else width, site.out_features)
        for module, (site, _) in layout.modules.items()
    }


def norm_features(layout: SegmentLayout) -> dict[str, int]:
    """Returns module path -> features of every norm in the layout."""
    return {module: site.features for module, site in layout.norms.items()}


def build_image(
    adapter: LoraAdapter, layout: SegmentLayout, conditioning: Float32Array
) -> SlotImage:
    """Packs an adapter.

    Args:
        adapter: parsed against `module_shapes(layout)` and `norm_features(layout)`.
        layout: of the slot.
        conditioning: silu(temb), the input of timestep-only layers: float32
            [modulation_rows, width].

    Raises:
        LoraError: a value does not fit the slot's element type.
        ValueError: the arguments do not belong together.
    """
    parameters = layout.parameters
    if conditioning.shape != (parameters.modulation_rows, parameters.width):
        raise ValueError(
            f"conditioning has shape {conditioning.shape}, the layout's is "
            f"{(parameters.modulation_rows, parameters.width)}"
        )
    linears = {*adapter.factors, *adapter.kronecker, *adapter.biases}
    known = linears <= layout.modules.keys() and adapter.norms.keys() <= layout.norms.keys()
    if not known or adapter.rank > parameters.max_rank:
        raise ValueError("the adapter was parsed against another layout")
    contents = contents_of(
        layout,
        adapter.rank,
        factors=adapter.factors,
        kronecker={module: stored.first_shape for module, stored in adapter.kronecker.items()},
        vectors=[*adapter.biases, *adapter.norms],
    )
    packing = contents.packing
    if packing.nbytes > layout.slot_bytes:
        raise ValueError("the adapter does not fit a slot; see slot_contents.check_capacity")
    data = np.zeros(packing.nbytes, np.uint8)
    writer = _Writer(data, adapter, layout, contents, conditioning)
    in_threads(writer.site, contents.sites)
    in_threads(writer.product, contents.kronecker)
    checksum = xxhash.xxh3_128(data.data).digest()
    return SlotImage(data, contents.rank, contents.sites, contents.kronecker, checksum)


class _Writer:
    """Writes the regions of an adapter, each independently of the others.

    Args:
        data: of the slot, zeros.
        adapter: the adapter.
        layout: of the slot.
        contents: what lies where.
        conditioning: see `build_image`.
    """

    def __init__(
        self,
        data: npt.NDArray[np.uint8],
        adapter: LoraAdapter,
        layout: SegmentLayout,
        contents: SlotContents,
        conditioning: Float32Array,
    ) -> None:
        self._data = data
        self._adapter = adapter
        self._layout = layout
        self._contents = contents
        self._conditioning = conditioning

    def site(self, name: str) -> None:
        """Writes the regions of one site."""
        layout, rank = self._layout, self._contents.rank
        offsets = self._contents.packing.offsets[name]
        if (site := layout.low_rank_sites.get(name)) is not None:
            shapes = layout.down_shape(site, rank), layout.up_shape(site, rank)
            down, up = map(self._region, offsets, shapes)
            self._write_factors(down.reshape(-1, rank, site.in_features), up, site)
        elif (delta := layout.delta_sites.get(name)) is not None:
            region = self._region(offsets[0], layout.delta_shape(delta))
            region[...] = _encode(self._table(delta), layout, delta.module)
        else:
            vector = layout.vector_sites[name]
            self._write_vectors(self._region(offsets[0], layout.vector_shape(vector)), vector)

    def product(self, module: str) -> None:
        """Writes the factors of one module's Kronecker product."""
        factors = self._adapter.kronecker[module].widened()
        for offset, values in zip(self._contents.packing.kronecker[module], factors, strict=True):
            self._region(offset, values.shape)[...] = _encode(values, self._layout, module)

    def _region(self, offset: int, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        """Returns a writable view of a region in the slot's element type (bfloat16 as uint16)."""
        element = np.dtype("<f4" if self._layout.parameters.dtype == "float32" else "<u2")
        end = offset + int(np.prod(shape)) * element.itemsize
        return self._data[offset:end].view(element).reshape(shape)

    def _write_factors(
        self, down: npt.NDArray[np.generic], up: npt.NDArray[np.generic], site: LowRankSite
    ) -> None:
        """Writes a site's factors to `down` [parts, rank, in] and `up` [parts, rank, out]."""
        adapter, layout = self._adapter, self._layout
        for part, module in enumerate(site.modules):
            # Parts that the adapter does not act on, and rows beyond a module's own rank, stay
            # zero.
            if module not in adapter.factors:
                continue
            half = layout.parameters.dtype == "bfloat16"
            if half and (bits := adapter.factors.bfloat16(module)):
                down[part, : len(bits.down)], up[part, : len(bits.down)] = bits.down, bits.up.T
                continue
            factors = adapter.factors[module]
            down[part, : factors.rank] = _encode(factors.down, layout, module)
            up[part, : factors.rank] = _encode(factors.up, layout, module).T

    def _write_vectors(self, region: npt.NDArray[np.generic], site: VectorSite) -> None:
        """Writes a site's vectors to `region` [parts * features]; absent ones stay zero."""
        for module, part in zip(site.modules, region.reshape(len(site.modules), -1), strict=True):
            added = self._adapter.biases.get(module, self._adapter.norms.get(module))
            if added is not None:
                part[...] = _encode(added, self._layout, module)

    def _table(self, site: DeltaSite) -> Float32Array:
        """Returns the adapter's addition to a layer's output, by row of the conditioning.

        Float32 [rows, out].
        """
        module, x = site.module, self._conditioning
        table = np.zeros((len(x), site.out_features), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            if module in self._adapter.factors:
                factors = self._adapter.factors[module]
                table += (x @ factors.down.T) @ factors.up.T
            if module in self._adapter.kronecker:
                first, second = self._adapter.kronecker[module].widened()
                matrices = x.reshape(len(x), first.shape[1], second.shape[1])
                table += (first @ matrices @ second.T).reshape(table.shape)
            if module in self._adapter.biases:
                table += self._adapter.biases[module]
        if not np.isfinite(table).all():
            raise LoraError(
                f"what the LoRA adds to {module} exceeds the range of float32; the LoRA is damaged"
            )
        return table


def _encode(values: Float32Array, layout: SegmentLayout, module: str) -> npt.NDArray[np.generic]:
    """Converts finite float32 values to the slot's element type: to nearest, ties to even."""
    if layout.parameters.dtype == "float32":
        return values
    bits = values.view(np.uint32)
    # Half of the dropped part, less one where the kept part is even: a tie then goes to even.
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    half = rounded.astype(np.uint16)
    if ((half & np.uint16(0x7F80)) == 0x7F80).any():
        raise LoraError(
            f"the weights of {module} exceed the range of bfloat16; the LoRA is damaged"
        )
    return half
