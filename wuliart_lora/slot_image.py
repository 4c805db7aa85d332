"""Packs an adapter into the bytes of one slot, as the slot's layout says.

Packing stacks and transposes factors, pads them to one rank, rounds them to the slot's element
type, and turns factors of timestep-only layers into rows of their tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from wuliart_lora import LoraAdapter, LoraError, LoraFactors
from wuliart_lora.slot_layout import DeltaSite, LowRankSite, SegmentLayout
from wuliart_lora.threads import in_threads

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SlotImage:
    """The content of a slot, and what the server needs to read it.

    `data` is uint8 [written_bytes]: the slot from its first byte to the end of its last region.
    `packed_rank` is the rank of every low-rank region, `sites` are the layout's sites the adapter
    acts on, in the layout's order.
    `checksum` is the XXH3-128 of `data`, 16 bytes big endian.
    """

    data: npt.NDArray[np.uint8]
    packed_rank: int
    sites: tuple[str, ...]
    checksum: bytes


def module_shapes(layout: SegmentLayout) -> dict[str, tuple[int, int]]:
    """Returns module path -> (in_features, out_features) of every module in the layout."""
    width = layout.parameters.width
    return {
        module: (site.in_features if isinstance(site, LowRankSite) else width, site.out_features)
        for module, (site, _) in layout.modules.items()
    }


def build_image(
    adapter: LoraAdapter, layout: SegmentLayout, conditioning: Float32Array
) -> SlotImage:
    """Packs an adapter.

    Args:
        adapter: parsed against `module_shapes(layout)`.
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
    if not adapter.factors.keys() <= layout.modules.keys() or adapter.rank > parameters.max_rank:
        raise ValueError("the adapter was parsed against another layout")
    rank = adapter.rank
    low_rank = [
        site
        for site in layout.low_rank_sites.values()
        if any(module in adapter.factors for module in site.modules)
    ]
    deltas = [site for site in layout.delta_sites.values() if site.module in adapter.factors]
    sites = (*(site.name for site in low_rank), *(delta.name for delta in deltas))
    packing = layout.packing(rank, sites)
    data = np.zeros(packing.nbytes, np.uint8)

    def write(site: LowRankSite | DeltaSite) -> None:
        offsets = packing.offsets[site.name]
        if isinstance(site, LowRankSite):
            shapes = layout.down_shape(site, rank), layout.up_shape(site, rank)
            down, up = (
                _region(data, layout, offset, shape)
                for offset, shape in zip(offsets, shapes, strict=True)
            )
            _write_products(down.reshape(-1, rank, site.in_features), up, layout, site, adapter)
            return
        table = _table(adapter.factors[site.module], conditioning, site.module)
        region = _region(data, layout, offsets[0], layout.delta_shape(site))
        region[...] = _encode(table, layout, site.module)

    used: list[LowRankSite | DeltaSite] = [*low_rank, *deltas]
    in_threads(write, used)
    return SlotImage(data, rank, sites, xxhash.xxh3_128(data.data).digest())


def _write_products(
    down: npt.NDArray[np.generic],
    up: npt.NDArray[np.generic],
    layout: SegmentLayout,
    site: LowRankSite,
    adapter: LoraAdapter,
) -> None:
    """Writes a site's factors to `down` [parts, rank, in] and `up` [parts, rank, out]."""
    for part, module in enumerate(site.modules):
        # Parts that the adapter does not act on, and rows beyond a module's own rank, stay zero.
        if module not in adapter.factors:
            continue
        if layout.parameters.dtype == "bfloat16" and (bits := adapter.factors.bfloat16(module)):
            down[part, : len(bits.down)], up[part, : len(bits.down)] = bits.down, bits.up.T
            continue
        factors = adapter.factors[module]
        down[part, : factors.rank] = _encode(factors.down, layout, module)
        up[part, : factors.rank] = _encode(factors.up, layout, module).T


def _table(factors: LoraFactors, conditioning: Float32Array, module: str) -> Float32Array:
    """Returns the adapter's addition to the layer's output, by row of `conditioning`.

    Float32 [rows, out].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        table = ((conditioning @ factors.down.T) @ factors.up.T).astype(np.float32, copy=False)
    if not np.isfinite(table).all():
        raise LoraError(
            f"what the LoRA adds to {module} exceeds the range of float32; the LoRA is damaged"
        )
    return table


def _region(
    data: npt.NDArray[np.uint8], layout: SegmentLayout, offset: int, shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Returns a writable view of one region in the slot's element type (bfloat16 as uint16)."""
    count = int(np.prod(shape))
    element = np.dtype("<f4" if layout.parameters.dtype == "float32" else "<u2")
    return data[offset : offset + count * element.itemsize].view(element).reshape(shape)


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
