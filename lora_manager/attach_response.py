"""Checks the server's first message of a session before the manager builds anything from it."""

from __future__ import annotations

from typing import Final

import numpy as np

from lora_manager.loading import ModelShape
from lora_manager.segment_errors import VersionMismatchError
from wuliart.internal.v1 import segment_pb2
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

_UUID_BYTES: Final = 16


def model_shape(attached: segment_pb2.Attached, direct: bool) -> ModelShape:
    """Returns the shape that files are judged against, from the server's first message.

    Args:
        attached: the message.
        direct: True if the manager requested device memory.

    Raises:
        VersionMismatchError: the message does not agree with itself, with `direct`, or with this
            installation's layout.
    """
    fields = LayoutParameters.__dataclass_fields__
    try:
        parameters = LayoutParameters(**{name: getattr(attached.layout, name) for name in fields})
    except ValueError as error:
        raise VersionMismatchError(str(error)) from error
    layout = SegmentLayout(parameters)
    if layout.hash != attached.layout_hash:
        raise VersionMismatchError(
            "server and manager are of different versions: their slot layouts differ "
            f"({attached.layout_hash[:12]}… there, {layout.hash[:12]}… here); start both from "
            "the same installation"
        )
    slots, rest = divmod(attached.segment_bytes, layout.slot_bytes)
    if rest or slots <= attached.resident_limit:
        raise VersionMismatchError(
            f"a segment of {attached.segment_bytes} bytes does not hold {attached.resident_limit} "
            f"adapters and a spare slot of {layout.slot_bytes} bytes each"
        )
    if attached.gpu_uuid and (not direct or len(attached.gpu_uuid) != _UUID_BYTES):
        raise VersionMismatchError(
            f"the server offers GPU {attached.gpu_uuid.hex()}, which was not requested or is not a "
            "UUID"
        )
    shape = (parameters.modulation_rows, parameters.width)
    try:
        conditioning = np.frombuffer(attached.conditioning, "<f4").reshape(shape)
    except ValueError as error:
        raise VersionMismatchError(
            f"the conditioning is not float32 {list(shape)}: {error}"
        ) from error
    return ModelShape.of(layout, conditioning)
