"""The engine's parts at Qwen-Image's real size with random weights, on one GPU.

`python -m benchmarks.full_size`: a table, then one JSON line. Needs no checkpoint and about 45 GB
of VRAM.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import torch

from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.schedule import ScheduleTable
from inference_server.model.transformer import Transformer, TransformerConfig
from inference_server.model.transformer_loading import load_transformer

LIGHTNING = {"shift": 3.0}
TEXT_TOKENS = 80
GRID = (64, 64)


def random_reader(config: TransformerConfig, device: torch.device) -> Callable[[str], torch.Tensor]:
    """Stands in for a checkpoint: every tensor random, scaled to keep activations alive."""
    d, m, h = config.width, config.mlp_width, config.head_dim
    shapes = {
        "linear_1": (d, 256),
        "linear_2": (d, d),
        "norm_out.linear": (2 * d, d),
        "img_in": (d, config.in_channels),
        "txt_in": (d, config.text_features),
        "proj_out": (config.output_features, d),
        "net.0.proj": (m, d),
        "net.2": (d, m),
        "mod.1": (6 * d, d),
    }

    def read(name: str) -> torch.Tensor:
        module, kind = name.rsplit(".", 1)
        if "norm" in module and not module.endswith("linear"):
            size = config.text_features if module == "txt_norm" else h
            return torch.ones(size, device=device)
        rows, columns = next((s for end, s in shapes.items() if module.endswith(end)), (d, d))
        if kind == "bias":
            return torch.zeros(rows, device=device)
        weight = torch.randn(rows, columns, device=device)
        return weight.mul_(0.5 / columns**0.5)

    return read


def milliseconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Median over `repeats`, by device events."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


@torch.inference_mode()
def main() -> None:
    """Builds, runs and reports."""
    device = torch.device("cuda")
    config = TransformerConfig()
    read = random_reader(config, device)
    schedules = ScheduleTable.build(range(1, 5), GRID[0] * GRID[1], LIGHTNING)
    condition = conditioning(lambda n: read(n).cpu(), schedules.rows).to(device)
    table = ModulationTable.build(config, read, condition, device)
    transformer: Transformer
    transformer, nbytes = load_transformer(config, read, GRID, device, torch.bfloat16)
    (modulation,) = table.select([0], [], torch.bfloat16)
    latents = torch.randn(GRID[0] * GRID[1], config.in_channels, device=device).bfloat16()
    text = torch.randn(TEXT_TOKENS, config.text_features, device=device).bfloat16()
    rotation = transformer.text_rotation(TEXT_TOKENS)

    def step() -> torch.Tensor:
        return transformer.forward(latents, text, rotation, modulation, [])

    assert torch.isfinite(step()).all()
    torch.cuda.reset_peak_memory_stats()
    result: dict[str, str | float] = {
        "device": torch.cuda.get_device_name(),
        "weights_gib": nbytes / 2**30,
        "modulation_mb": table.nbytes / 1e6,
        "step_ms": milliseconds(step),
        "peak_over_weights_mb": (torch.cuda.max_memory_allocated() - nbytes) / 1e6,
    }
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else round(value, 2)}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
