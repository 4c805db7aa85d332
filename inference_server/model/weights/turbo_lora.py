"""Fuses a Turbo LoRA into the base while it is read: in float32, then cast.

The file is parsed by `wuliart_lora`. Fusing before anything is folded makes
the Turbo LoRA the base of every image: it costs nothing per step and reaches the modulation
table as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.kernels.operations import Quantized
from inference_server.model.weights.component_weights import ComponentWeights
from wuliart_lora import (
    HEAD_BYTES,
    LoraAdapter,
    LoraError,
    header_bytes,
    plan_lora,
    read_header,
)
from wuliart_lora.sidecar import SIDECAR_NAME, SidecarOwners, check_sidecar_size, parse_sidecar
from wuliart_process.regular_files import open_regular

MAX_BYTES = 8 << 30
"""Largest file that is read; the largest published one has 2.4 GB, rank 64 in float32."""


class FusedWeights:
    """Reads the transformer's tensors with the Turbo LoRA, if any, already added.

    Args:
        weights: the transformer's weight files.
        turbo_lora: a LoRA file in any of the key layouts that `wuliart_lora` reads, or None. An
            adapter_config.json beside it that belongs to it by the rule of `wuliart_lora.sidecar`
            is read too.

    Raises:
        ModelError: the file cannot be read or does not fit the transformer.
    """

    def __init__(self, weights: ComponentWeights, turbo_lora: Path | None) -> None:
        self._weights = weights
        self._adapter: LoraAdapter | None = None
        if turbo_lora is None:
            return
        # Every linear layer may be a target here, unlike for adapters that are switched later.
        shapes = {
            name.removesuffix(".weight"): weights.shape(name)
            for name in weights
            if name.endswith(".weight")
        }
        linears = {name: (s[1], s[0]) for name, s in shapes.items() if len(s) == 2}
        norms = {name: s[0] for name, s in shapes.items() if len(s) == 1}
        try:
            self._adapter = _read(turbo_lora, linears, norms)
        except OSError as error:
            raise ModelError(
                f"cannot read the Turbo LoRA {turbo_lora}: {error.strerror or error}"
            ) from None
        except LoraError as error:
            raise ModelError(f"the Turbo LoRA {turbo_lora} does not fit: {error.reason}") from None

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU: float32 where the Turbo LoRA acts, otherwise as stored."""
        tensor = self._weights.read(name)
        if (adapter := self._adapter) is None or not self._acts_on(name):
            return tensor
        module, _, kind = name.rpartition(".")
        if kind == "bias":
            return tensor.float() + torch.tensor(adapter.biases[module])
        if (factors := adapter.factors.get(module)) is not None:
            up, down = torch.tensor(factors.up), torch.tensor(factors.down)
            return tensor.float().addmm(up, down)
        if (stored := adapter.kronecker.get(module)) is not None:
            first, second = map(torch.tensor, stored.widened())
            return tensor.float() + torch.kron(first, second)
        return tensor.float() + torch.tensor(adapter.norms[module])

    def read_quantized(self, name: str) -> Quantized | None:
        """Reads one matrix with the bits it is stored in.

        Returns None if they are not the engine's float8, or the Turbo LoRA acts on it.
        """
        return None if self._acts_on(name) else self._weights.read_quantized(name)

    def _acts_on(self, name: str) -> bool:
        module, _, kind = name.rpartition(".")
        adapter = self._adapter
        if adapter is None or kind not in ("weight", "bias"):
            return False
        if kind == "bias":
            return module in adapter.biases
        return any(module in some for some in (adapter.factors, adapter.kronecker, adapter.norms))


def turbo_files(path: Path) -> list[Path]:
    """Returns the files that a few-step LoRA consists of: its own, and adapter_config.json if any.

    A link has the adapter_config.json beside its target, too; `FusedWeights` refuses a file that
    has two.
    """
    configs: dict[Path, Path] = {}
    for place in _places(path):
        owners = _sidecar_owners(place)
        if owners is not None and owners.owns(place.name):
            config = place.with_name(SIDECAR_NAME)
            configs.setdefault(config.resolve(), config)
    return [path, *configs.values()]


def _places(path: Path) -> list[Path]:
    """Returns the path, and behind it the target if the path is a link."""
    return [path, path.resolve()] if path.is_symlink() else [path]


def _sidecar_owners(path: Path) -> SidecarOwners | None:
    """Returns possible owners of an adapter_config.json beside `path`; None if there is none."""
    names = os.listdir(path.parent)  # noqa: PTH208 - only names are needed
    return SidecarOwners(names) if SIDECAR_NAME in names else None


def _rival(path: Path) -> str | None:
    """Returns another possible owner of an adapter_config.json beside the file or its target."""
    for place in _places(path):
        owners = _sidecar_owners(place)
        if owners is not None and (rival := owners.rival(place.name)) is not None:
            return rival
    return None


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """Returns the fields of the file's adapter_config.json; None if it has none."""
    _, *sidecars = turbo_files(path)
    if not sidecars:
        return None
    if len(sidecars) > 1:
        raise LoraError(
            f"{SIDECAR_NAME} lies beside this link and also beside the file that it leads to; keep "
            "only the one that belongs to the file"
        )
    with open_regular(sidecars[0]) as file:
        size = os.fstat(file.fileno()).st_size
        check_sidecar_size(size)
        return parse_sidecar(file.read(size))


def _read(
    path: Path, linears: Mapping[str, tuple[int, int]], norms: Mapping[str, int]
) -> LoraAdapter:
    """Reads the adapter in a regular file; its header must fit before its data is read."""
    config, rival = _read_sidecar(path), _rival(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise LoraError(f"it has {size:,} bytes, at most {MAX_BYTES:,} are read")
        start = file.read(min(HEAD_BYTES, size))
        start += file.read(header_bytes(start, size) - len(start))
        header = read_header(start, size)
        plan = plan_lora(header, linears, config=config, rival=rival, norms=norms)
        file.seek(0)
        data = file.read(size)
    if len(data) != size:
        raise LoraError(f"it became shorter while it was read, {size:,} bytes before")
    return plan.read(memoryview(data))
