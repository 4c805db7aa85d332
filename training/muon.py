"""Muon for many small matrices: all matrices of one shape are orthogonalised at once.

`torch.optim.Muon` applies the same rule to one matrix at a time, which for a model of this size
means thousands of tiny kernels per step. Source: K. Jordan, "Muon" (2024); the rate is matched to
AdamW's as in "Muon is scalable" (2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic polynomial that pushes all singular values towards one."""
ITERATIONS = 5
EPS = 1e-7


def orthogonalised(x: Tensor) -> Tensor:
    """Returns matrices [N, R, C], bf16, with all singular values near one."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[1] > x.shape[2]
    x = x.bfloat16().mT if tall else x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Updates by the orthogonalised Nesterov momentum; supports one parameter group.

    Args:
        params: Matrices.
        lr: Learning rate as for AdamW; a matrix [R, C] moves by 0.2 * sqrt(max(R, C)) of it.
        momentum: Decay of the averaged gradients.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self._shapes: dict[torch.Size, list[Tensor]] = {}
        for parameter in self.param_groups[0]["params"]:
            self._shapes.setdefault(parameter.shape, []).append(parameter)
        self._momenta = {
            shape: torch.zeros(len(own), *shape, device=own[0].device)
            for shape, own in self._shapes.items()
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all parameters; each must have a gradient."""
        lr, momentum = self.param_groups[0]["lr"], self.param_groups[0]["momentum"]
        for shape, own in self._shapes.items():
            gradients = torch.stack([parameter.grad for parameter in own]).float()
            average = self._momenta[shape].lerp_(gradients, 1 - momentum)
            update = orthogonalised(gradients.lerp(average, momentum))
            scale = -lr * 0.2 * max(shape) ** 0.5
            torch._foreach_add_(own, list(update.float().unbind()), alpha=scale)
